"""What the tests of the fabric share: frames on a wire, traffic between stations, and a host's state as text."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import sys
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from arpipam.lab.capture import ETH_P_ALL, PACKET_ADD_MEMBERSHIP, SOL_PACKET, promiscuous
from arpipam.lab.namespace import DAEMONS
from arpipam.protocol import arp

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from arpipam.lab import Host, Lab, Namespace, Wire
    from arpipam.lab.stations import LabStation

ARPIPAM = str(Path(sys.executable).parent / "arpipam")
LONG = 30.0
"""Seconds after which a condition that was waited for will not come any more."""
_SO_RCVBUFFORCE = 33
_PROTOCOL, _GRE, _UDP = 23, 47, 17
_RANDOM = random.Random()


# Hosts.


def declare(
    lab: Lab, count: int, *, tunnel: str = "vxlan", openvswitch: bool = False, up: bool = True, **options: Any
) -> tuple[Wire, list[Host]]:
    """A wire with so many hosts on it, host1 at 172.16.42.1 and so on."""
    wire = lab.wire()
    hosts = [
        lab.host(
            f"host{n}",
            address=f"172.16.42.{n}/24",
            underlay=wire,
            underlay_address=f"192.168.122.{n}/24",
            tunnel=tunnel,
            openvswitch=openvswitch,
            **options,
        )
        for n in range(1, count + 1)
    ]
    lab.start(up=up)
    return wire, hosts


def stations_on(lab: Lab, hosts: Sequence[Host], first: int = 20) -> list[LabStation]:
    """A station on each host's bridge, at 172.16.42.20 and so on."""
    return [lab.station(f"s{n}", host, f"172.16.42.{first + n}/24") for n, host in enumerate(hosts)]


def words(host: Host, *command: str) -> list[str]:
    """The command line of `arpipam fabric` on a host."""
    found = [ARPIPAM, "fabric", *command, "--fabric", str(host.fabric_file), "--host", host.name]
    return [*found, "--ovsdb", host.openvswitch.database] if host.openvswitch is not None else found


def fabric(host: Host, *command: str) -> subprocess.CompletedProcess[str]:
    """Run `arpipam fabric` on a host."""
    return host.command(*words(host, *command))


def up(host: Host) -> list[str]:
    """Bring the host's fabric up; what was changed."""
    with host.namespace.inside():
        done = host.site().up()
    host.mtu = done.mtu
    return done.lines


def down(host: Host) -> None:
    """Take it down again."""
    with host.namespace.inside():
        host.site().down()


def pending(host: Host) -> list[str]:
    """What `up` would change."""
    with host.namespace.inside():
        return host.site().plan().lines


def edit(host: Host, old: str, new: str) -> None:
    """Change the host's fabric file, where this text has to be."""
    text = host.fabric_file.read_text()
    assert old in text
    host.fabric_file.write_text(text.replace(old, new))


def without_host(host: Host, name: str) -> None:
    """Take a host out of the fabric file."""
    blocks = host.fabric_file.read_text().split("\n[[host]]\n")
    kept = [block for block in blocks if f'name = "{name}"' not in block]
    assert len(kept) == len(blocks) - 1
    host.fabric_file.write_text("\n[[host]]\n".join(kept))


# Frames.


class Frames:
    """All frames on an interface of a namespace, as bytes."""

    def __init__(self, namespace: Namespace, interface: str = "wire") -> None:
        with namespace.inside():
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL)
            )
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 * 1024 * 1024)
            self._socket.bind((interface, ETH_P_ALL))
            self._socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, promiscuous(interface))
        self._frames: list[bytes] = []

    def all(self) -> list[bytes]:
        """Those since the beginning."""
        while True:
            try:
                frame, source = self._socket.recvfrom(65536)
            except BlockingIOError:
                return self._frames
            if source[2] != socket.PACKET_OUTGOING:
                self._frames.append(frame)

    def count(self, marker: bytes) -> int:
        """Those that have the marker in them."""
        return sum(marker in frame for frame in self.all())

    def copies(self, marker: bytes) -> int:
        """Those that carry a frame with the marker through a tunnel; an ICMP error that quotes one does not."""
        return sum(marker in frame and frame[_PROTOCOL] in (_GRE, _UDP) for frame in self.all())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


@contextmanager
def listening(stations: Iterable[LabStation]) -> Iterator[list[Frames]]:
    """What each of the stations receives."""
    with ExitStack() as stack:
        yield [stack.enter_context(Frames(station.namespace, "eth0")) for station in stations]


def marked_broadcast(mac: bytes | None = None) -> tuple[bytes, bytes]:
    """A broadcast frame of a local experimental kind (IEEE 802, 88b5), and what to know it by."""
    marker = _RANDOM.randbytes(24)
    return arp.BROADCAST + (mac or arp.random_mac(_RANDOM)) + b"\x88\xb5" + marker + bytes(30), marker


def send(namespace: Namespace, interface: str, frame: bytes) -> None:
    """Send a frame by an interface of a namespace."""
    with namespace.inside():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with sock:
        sock.bind((interface, 0))
        sock.send(frame)


# Traffic.


def unreachable(stations: Iterable[LabStation]) -> list[tuple[str, str]]:
    """The pairs of stations of which one's pings do not reach the other."""
    there = list(stations)
    addresses = [address_of(station) for station in there]
    return [
        (own, other)
        for station, own in zip(there, addresses, strict=True)
        for other in addresses
        if other != own and not station.ping(other)
    ]


def address_of(station: LabStation) -> str:
    """A station's first address."""
    [link] = json.loads(station.namespace.run("ip", "-j", "-4", "addr", "show", "eth0"))
    return str(link["addr_info"][0]["local"])


def transfer(sender: LabStation, receiver: LabStation, size: int) -> tuple[str, str]:
    """Send so many random bytes over TCP; the digests at both ends."""
    data = _RANDOM.randbytes(size)
    with receiver.namespace.inside():
        listener = socket.create_server((address_of(receiver), 0))
    with sender.namespace.inside():
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    digest = hashlib.sha256()

    def receive() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(LONG)
            while chunk := connection.recv(1 << 20):
                digest.update(chunk)

    thread = threading.Thread(target=receive)
    with listener, client:
        listener.settimeout(LONG)
        client.settimeout(LONG)
        thread.start()
        client.connect(listener.getsockname())
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        thread.join()
    return hashlib.sha256(data).hexdigest(), digest.hexdigest()


# State.


def state(host: Host) -> dict[str, Any]:
    """Links, addresses, routes and firewall of a host, without what changes by itself (indices, counters)."""
    links = json.loads(host.namespace.run("ip", "-j", "-d", "addr", "show"))
    return {
        "links": {link["ifname"]: _without(link, _VOLATILE) for link in links},
        "routes": [_without(route, ()) for route in json.loads(host.namespace.run("ip", "-j", "route", "show"))],
        "fdb": sorted(
            json.dumps(entry)
            for entry in json.loads(host.namespace.run("bridge", "-j", "fdb", "show"))
            if entry.get("state") == "permanent"
        ),
        "firewall": host.namespace.run("nft", "list", "ruleset"),
        "open vswitch": "" if host.openvswitch is None else _switch(host),
    }


_VOLATILE = (
    *("ifindex", "link_index", "link_netnsid", "hello_timer", "tcn_timer", "topology_change_timer", "gc_timer"),
    *("message_age_timer", "forward_delay_timer", "hold_timer", "root_id", "bridge_id", "designated_root"),
    *("designated_bridge", "stats", "stats64", "valid_life_time", "preferred_life_time"),
)


def _without(value: Any, keys: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, keys) for key, item in value.items() if key not in keys}
    return [_without(item, keys) for item in value] if isinstance(value, list) else value


def _switch(host: Host) -> str:
    assert host.openvswitch is not None
    return host.openvswitch.vsctl("--format=csv", "--columns=name,type,options,external_ids", "list", "Interface")


class Changes:
    """What the kernel tells of changed links, addresses and routes (rtnetlink(7)) of a namespace."""

    _GROUPS = 0x1 | 0x10 | 0x40  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE

    def __init__(self, namespace: Namespace) -> None:
        with namespace.inside():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            self._socket.bind((0, self._GROUPS))

    def seen(self) -> Counter[int]:
        """The messages since the last call, by type."""
        found: Counter[int] = Counter()
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return found
            while len(data) >= 16:
                length, kind = struct.unpack_from("=IH", data)
                found[kind] += 1
                data = data[(length + 3) & ~3 :]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def kill_switch(host: Host) -> None:
    """Kill ovs-vswitchd, by its pid; its database goes on."""
    switch = host.openvswitch
    assert switch is not None
    pid = int((switch.directory / "ovs-vswitchd.pid").read_text())
    [process] = [process for process in DAEMONS if process.pid == pid]
    process.kill()
    process.wait()


def start_switch(host: Host) -> None:
    """Start ovs-vswitchd again, and wait until it does what its database says."""
    switch = host.openvswitch
    assert switch is not None
    switch._spawn("ovs-vswitchd", switch.database, "--disable-system")
    switch.vsctl("set", "Open_vSwitch", ".", "external_ids:again=1")  # which waits for it
