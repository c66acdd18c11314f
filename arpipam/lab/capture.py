"""Looks at a wire as it is, independently of the library's own search."""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Self

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from arpipam.lab.namespace import Namespace

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
_PACKET_MR_PROMISC = 1
SO_RCVBUFFORCE = 33
_ASKER = bytes.fromhex("02a1b2c3d4e5")


def promiscuous(interface: str) -> bytes:
    """The packet_mreq that makes a socket see all frames (packet(7))."""
    return struct.pack("iHH8s", socket.if_nametoindex(interface), _PACKET_MR_PROMISC, 0, b"")


class Capture:
    """ARP packets with the time at which they were read (seconds, monotonic)."""

    def __init__(self, interface: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 * 1024 * 1024)
        self.socket.bind((interface, ETH_P_ALL))
        self.socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, promiscuous(interface))
        self.packets: list[tuple[float, ArpPacket]] = []

    def read(self) -> list[tuple[float, ArpPacket]]:
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


def who_has(namespace: Namespace, interface: str, address: str) -> set[str]:
    """The MACs that answer for an address, asked from that interface."""
    return who_have(namespace, interface, [address])[address]


def who_have(
    namespace: Namespace,
    interface: str,
    addresses: Iterable[str],
    *,
    timeout: float = 0.2,
    tries: int = 3,
    sender: str = "0.0.0.0",  # noqa: S104 - a sender, not a bind
) -> dict[str, set[str]]:
    """The MACs that answer for each address within `timeout` seconds, asked so often from that interface.

    Without a `sender` address these are probes, which some stations take for a conflict: name one that nobody has.
    """
    own = int.from_bytes(socket.inet_aton(sender), "big")
    targets = {int.from_bytes(socket.inet_aton(address), "big"): address for address in addresses}
    found: dict[str, set[str]] = {address: set() for address in targets.values()}
    with namespace.inside():
        capture = Capture(interface)
    with capture:
        for _ in range(tries):
            for target in targets:
                capture.socket.send(arp.request(_ASKER, own, target))
            until = time.monotonic() + timeout
            while (left := until - time.monotonic()) > 0:
                select.select([capture.socket], [], [], left)
                for _, packet in capture.read():
                    answer = packet.operation == arp.REPLY and packet.target_mac == _ASKER
                    if answer and packet.sender_ip in targets:
                        found[targets[packet.sender_ip]].add(arp.mac_text(packet.sender_mac))
    return found
