"""A wire: one broadcast domain between hosts, whose faults can be switched while it runs."""

from __future__ import annotations

import select
import socket
import threading
import time
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Self

from arpipam import arp
from arpipam.arp import ArpPacket

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from arpipam.lab.namespace import Namespace

_ETH_P_ALL = 3
_BRIDGE = "wire"


class Wire:
    """A bridge in a namespace of its own; each host is plugged into a port.

    `loss` is the percentage of frames that are lost on their way to each receiver, so that a question and its answer are
    lost independently.
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

    def cut(self, *hosts: Namespace) -> None:
        """Nothing passes to or from these any more; their link stays up, as behind a dead tunnel."""
        self._cut |= {self._ports[host] for host in hosts}
        self._apply()

    def heal(self, *hosts: Namespace) -> None:
        """What was cut (default: all) carries frames again."""
        self._cut -= {self._ports[host] for host in hosts or self._ports}
        self._apply()

    def delay(self, host: Namespace, seconds: float) -> None:
        """Each frame to and from this host takes so much longer."""
        port = self._ports[host]
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

    def who_has(self, address: str, timeout: float = 0.3, tries: int = 3) -> set[str]:
        """The MACs that answer for an address, asked by an ordinary request from a station of its own on the wire."""
        target = int.from_bytes(socket.inet_aton(address), "big")
        own = bytes.fromhex("02a1b2c3d4e5")
        question = arp.probe(own, target)
        found: set[str] = set()
        with self.capture() as capture:
            for _ in range(tries):
                capture.socket.send(question)
                until = time.monotonic() + timeout
                while (left := until - time.monotonic()) > 0:
                    select.select([capture.socket], [], [], left)
                    for _, packet in capture.read():
                        if packet.operation == arp.REPLY and packet.sender_ip == target and packet.target_mac == own:
                            found.add(arp.mac_text(packet.sender_mac))
        return found

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
            rules.append(f"numgen random mod 1000 < {round(self._loss * 10)} drop")
        chain = "chain faults { type filter hook forward priority 0; " + "; ".join(rules) + " }"
        table = f"table bridge faults {{ {chain} }}" if rules else ""
        self.namespace.run("nft", "-f", "-", input=f"table bridge faults\ndelete table bridge faults\n{table}\n")


class Capture:
    """ARP packets with the time at which they were read (seconds, monotonic)."""

    def __init__(self, interface: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 64 * 1024 * 1024)
        self.socket.bind((interface, _ETH_P_ALL))
        self.socket.setsockopt(263, 1, self.socket.getsockname()[0] and _promiscuous(interface))
        self.packets: list[tuple[float, ArpPacket]] = []

    def read(self) -> Iterable[tuple[float, ArpPacket]]:
        """What has come since the last call; it is also kept in `packets`."""
        new: list[tuple[float, ArpPacket]] = []
        while True:
            try:
                frame = self.socket.recv(2048)
            except BlockingIOError:
                break
            packet = arp.dissect(frame)
            if isinstance(packet, ArpPacket):
                new.append((time.monotonic(), packet))
        self.packets += new
        return new

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.read()
        self.socket.close()


def _promiscuous(interface: str) -> bytes:
    index = socket.if_nametoindex(interface)
    return index.to_bytes(4, "little") + (1).to_bytes(2, "little") + bytes(10)


class _Relay:
    """Two packet sockets and a thread between them, which keeps each frame for a while."""

    def __init__(self, one: str, other: str) -> None:
        self.seconds = 0.0
        self._sockets = []
        for interface in (one, other):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            sock.bind((interface, _ETH_P_ALL))
            sock.setsockopt(263, 1, _promiscuous(interface))
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
