"""A wire: one broadcast domain between hosts, whose faults can be switched while it runs."""

from __future__ import annotations

import select
import socket
import threading
import time
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

from arpipam.lab.capture import (
    ETH_P_ALL,
    PACKET_ADD_MEMBERSHIP,
    SO_RCVBUFFORCE,
    SOL_PACKET,
    Capture,
    promiscuous,
    who_has,
    who_have,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from arpipam.lab.namespace import Namespace

_BRIDGE = "wire"
_ALL = 100.0
"""Percent."""
_RELAY_BUFFER = 64 * 1024 * 1024
"""Room for a burst, bytes."""


class Plugged(Protocol):
    """A host or a station."""

    namespace: Namespace


class Wire:
    """A bridge in a namespace of its own; each host is plugged into a port.

    `loss` is the percentage of frames that are lost on their way to each receiver, so that a question and its answer
    are lost independently.
    """

    def __init__(self, namespace: Namespace, *, mtu: int = 1500) -> None:
        self.namespace = namespace
        self.mtu = mtu
        self._loss = 0.0
        self._cut: set[str] = set()
        self._ports: dict[Namespace, str] = {}
        self._relays: dict[str, _Relay] = {}
        namespace.ip(
            [
                f"link add {_BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                f"link set {_BRIDGE} up mtu {mtu}",
            ]
        )

    def plug(self, other: Namespace, interface: str) -> None:
        """Join a namespace: its `interface` is the far end of a port."""
        port = f"p{len(self._ports)}"
        self._ports[other] = port
        self.namespace.ip(
            [
                f"link add {port} mtu {self.mtu} type veth peer name {interface} netns {other.name}",
                f"link set {port} master {_BRIDGE} up",
            ]
        )
        other.ip([f"link set {interface} mtu {self.mtu} up"])

    @property
    def loss(self) -> float:
        """Percent of frames lost on their way to each receiver."""
        return self._loss

    @loss.setter
    def loss(self, percent: float) -> None:
        self._loss = percent
        self._apply()

    def cut(self, *hosts: Plugged) -> None:
        """Nothing passes to or from these any more; their link stays up, as behind a dead tunnel."""
        self._cut |= {self._ports[host.namespace] for host in hosts}
        self._apply()

    def heal(self, *hosts: Plugged) -> None:
        """What was cut (default: all) carries frames again."""
        self._cut -= {self._ports[host.namespace] for host in hosts} if hosts else set(self._cut)
        self._apply()

    def unplug(self, host: Plugged) -> None:
        """Pull the cable of this one out: its interface has no carrier."""
        self.namespace.ip([f"link set {self._ports[host.namespace]} down"])

    def replug(self, host: Plugged) -> None:
        """Put it back."""
        self.namespace.ip([f"link set {self._ports[host.namespace]} up"])

    def delay(self, host: Plugged, seconds: float) -> None:
        """Each frame to and from this host takes so much longer."""
        port = self._ports[host.namespace]
        if port not in self._relays:
            near, far = f"{port}a", f"{port}b"
            self.namespace.ip(
                [
                    f"link set {port} nomaster",
                    f"link add {near} mtu {self.mtu} type veth peer name {far}",
                    f"link set {near} up",
                    f"link set {far} master {_BRIDGE} up",
                ]
            )
            with self.namespace.inside():
                self._relays[port] = _Relay(port, near)
        self._relays[port].seconds = seconds

    def who_has(self, address: str) -> set[str]:
        """The MACs that answer for an address, asked from the wire itself."""
        return who_has(self.namespace, _BRIDGE, address)

    def who_have(self, addresses: Iterable[str]) -> dict[str, set[str]]:
        """The same for many addresses."""
        return who_have(self.namespace, _BRIDGE, addresses)

    def capture(self) -> Capture:
        """Record the ARP packets on the wire from now on."""
        with self.namespace.inside():
            return Capture(_BRIDGE)

    def close(self) -> None:
        """Stop the relays."""
        for relay in self._relays.values():
            relay.close()

    def _apply(self) -> None:
        """All faults as one table, exchanged in one transaction."""
        rules = []
        if self._cut:
            ports = "{ " + ", ".join(sorted(self._cut | {f"{port}b" for port in self._cut})) + " }"
            rules += [f"iifname {ports} drop", f"oifname {ports} drop"]
        if self._loss:
            chosen = f"numgen random mod 1000 < {round(self._loss * 10)} " if self._loss < _ALL else ""
            rules.append(f"{chosen}drop")
        lines = ["table bridge faults", "delete table bridge faults"]
        if rules:
            lines += [
                "table bridge faults {",
                "chain faults {",
                "type filter hook forward priority 0",
                *rules,
                "}",
                "}",
            ]
        self.namespace.run("nft", "-f", "-", input="\n".join(lines) + "\n")


class _Relay:
    """Two packet sockets and a thread between them, which keeps each frame for a while."""

    def __init__(self, one: str, other: str) -> None:
        self.seconds = 0.0
        self._sockets = []
        for interface in (one, other):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _RELAY_BUFFER)
            sock.bind((interface, ETH_P_ALL))
            sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, promiscuous(interface))
            self._sockets.append(sock)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"relay {one}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()

    def _run(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []
        count = 0
        while not self._stop.is_set():
            timeout = min(0.1, max(0.0, waiting[0][0] - time.monotonic())) if waiting else 0.1
            for sock in select.select(self._sockets, [], [], timeout)[0]:
                frame, address = sock.recvfrom(65536)
                if address[2] != socket.PACKET_OUTGOING:
                    count += 1
                    to = 1 - self._sockets.index(sock)
                    heappush(waiting, (time.monotonic() + self.seconds, count, to, frame))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, to, frame = heappop(waiting)
                self._sockets[to].send(frame)
