"""A referee that is no part of arpipam: it has each station's addresses from its kernel, and asks the wire."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from arpipam.lab.capture import who_have

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from arpipam.lab import Wire
    from arpipam.lab.stations import LabStation

# See rtnetlink(7) and linux/if_addr.h.
_NEW_ADDRESS, _DELETED_ADDRESS = 20, 21
_IPV4_ADDRESSES = 0x10
_HEADER, _ADDRESS, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBI"), struct.Struct("=HH")
_LOCAL = 2
_SO_RCVBUFFORCE = 33


@dataclass(frozen=True)
class News:
    """A station got an address, or lost it."""

    at: float
    address: str
    got: bool


class Referee:
    """Follows the addresses of stations from now on."""

    def __init__(self, stations: Iterable[LabStation]) -> None:
        self._sockets: dict[LabStation, socket.socket] = {}
        self._news: dict[LabStation, list[News]] = {}
        for station in stations:
            with station.namespace.inside():
                sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 20)
            sock.bind((0, _IPV4_ADDRESSES))
            self._sockets[station], self._news[station] = sock, []

    def news(self, station: LabStation) -> list[News]:
        """What has become of a station's addresses."""
        with suppress(BlockingIOError):
            while True:
                self._news[station] += _read(self._sockets[station].recv(65536))
        return self._news[station]

    def lost(self, station: LabStation) -> list[str]:
        """The addresses that it has lost."""
        return [news.address for news in self.news(station) if not news.got]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in self._sockets.values():
            sock.close()


def owners(wire: Wire, addresses: Iterable[str], sender: str) -> dict[str, set[str]]:
    """The MACs that answer ordinary requests for each address; `sender` is an address that nobody has."""
    return who_have(wire.namespace, "wire", addresses, sender=sender)


def _read(data: bytes) -> Iterator[News]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if kind in {_NEW_ADDRESS, _DELETED_ADDRESS}:
            yield from _addresses(data[at + _HEADER.size + _ADDRESS.size : at + length], got=kind == _NEW_ADDRESS)
        at += max(length, _HEADER.size) + 3 & ~3


def _addresses(attributes: bytes, *, got: bool) -> Iterator[News]:
    at = 0
    while at + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if kind == _LOCAL:
            yield News(time.monotonic(), socket.inet_ntoa(attributes[at + 4 : at + 8]), got)
        at += max(length, _ATTRIBUTE.size) + 3 & ~3
