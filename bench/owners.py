"""Containers that answer for their addresses, thousands of them on one station, each under a MAC of its own."""

from __future__ import annotations

import select
import socket
import threading
from typing import TYPE_CHECKING, Self

from arpipam.protocol import arp

if TYPE_CHECKING:
    from arpipam.lab.stations import LabStation

_ETH_P_ARP = 0x0806
_BUFFER = 64 * 1024 * 1024
_SO_RCVBUFFORCE = 33


def mac_of(number: int) -> bytes:
    """The MAC of one of them."""
    return b"\x02\x42\x0a\x00" + number.to_bytes(2, "big")


class Owners:
    """Of `count` addresses from `first` on."""

    def __init__(self, station: LabStation, first: int, count: int) -> None:
        self._first, self._count = first, count
        with station.namespace.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.bind(("eth0", _ETH_P_ARP))
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ending.is_set():
            if not select.select([self._socket], [], [], 0.1)[0]:
                continue
            packet = arp.dissect(self._socket.recv(128))
            if isinstance(packet, arp.ArpPacket) and packet.operation == arp.REQUEST:
                number = packet.target_ip - self._first
                if 0 <= number < self._count and packet.sender_ip != packet.target_ip:
                    self._socket.send(arp.reply(mac_of(number), packet))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._socket.close()
