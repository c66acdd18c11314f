"""Messages of rtnetlink(7), read straight from the socket: what runs beside the answers to ARP has microseconds only.

As much as is needed to follow links, addresses and forwarding tables; for all else see netlink.py.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

LINK_GROUP, NEIGHBOUR_GROUP, IPV4_ADDRESS_GROUP = 0x1, 0x4, 0x10
"""RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_IFADDR (linux/rtnetlink.h)."""
NEW_LINK, DEL_LINK, GET_LINK = 16, 17, 18
NEW_ADDRESS, DEL_ADDRESS, GET_ADDRESS = 20, 21, 22
GET_ROUTE = 26
NEW_NEIGHBOUR, DEL_NEIGHBOUR, GET_NEIGHBOUR = 28, 29, 30
BRIDGE = 7
"""AF_BRIDGE."""
UP = 0x1
"""IFF_UP (netdevice(7))."""

_SOL_NETLINK, _STRICT = 270, 12
_REQUEST, _DUMP, _INTERRUPTED = 0x1, 0x300, 0x10
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ROUTE = struct.Struct("=BBBBBBBBI")
_HOP = struct.Struct("=HBBi")
_KIND_OF_ATTRIBUTE = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
_LINK_MAC, _LINK_NAME, _LINK_MTU, _LINK_LINK, _LINK_MASTER, _LINK_PROTOCOL, _LINK_INFO = 1, 3, 4, 5, 10, 12, 18
_LINK_MASK, _LINK_PROMISCUITY, _LINK_CARRIERS, _LINK_SPACE, _LINK_TARGET_SPACE = 29, 30, 35, 37, 46
_INFO_KIND, _INFO_PORT, _PORT_STATE = 1, 5, 1
_NO_STATISTICS = 8
_ADDRESS_LOCAL, _ADDRESS_FLAGS, _ADDRESS_TARGET_SPACE, _SECONDARY = 2, 8, 10, 0x1
_NEIGHBOUR_ADDRESS, _NEIGHBOUR_MAC, _NEIGHBOUR_LINK, _NEIGHBOUR_MASTER = 1, 2, 8, 9
_ROUTE_LINK, _ROUTE_GATEWAY, _ROUTE_HOPS = 4, 5, 9
_BUFFER = 1 << 18
_TRIES = 10
_PATIENCE = 5.0
"""Seconds; the kernel answers at once."""


class Message(NamedTuple):
    """One message: its type, its flags, and what follows the header."""

    kind: int
    flags: int
    body: bytes


class LinkNote(NamedTuple):
    """What the kernel says of a link."""

    number: int
    hardware: int
    flags: int
    name: str
    mac: bytes
    mtu: int
    kind: str
    """Of virtual links: bridge, veth, vxlan; else empty."""
    master: int
    """The bridge or the like whose port it is; 0: none."""
    port_state: int | None
    """What spanning tree says of a bridge's port (BR_STATE_*)."""
    link: int
    """The other end of a veth, or what lies under a VLAN or a macvlan; 0: nothing."""
    space: int | None
    """The network namespace of that `link`, by the number that this one has for it; None: this one."""
    carriers: int
    """How often the carrier came or went."""
    promiscuity: int
    """How many want it to hear everything."""


class AddressNote(NamedTuple):
    """An IPv4 address of this host."""

    number: int
    prefix: IPv4Interface
    secondary: bool


class ForwardingNote(NamedTuple):
    """What a bridge knows of a MAC."""

    bridge: int
    port: int
    mac: bytes
    state: int


class NeighbourNote(NamedTuple):
    """What the kernel knows of a station."""

    number: int
    """The link that it is on."""
    address: int
    mac: bytes
    state: int
    """NUD_* (linux/neighbour.h)."""


class Questions:
    """A socket to ask the kernel by, from any thread; it stays in the network namespace in which it was made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _STRICT, 1)
        self._socket.settimeout(_PATIENCE)
        self._sequence = 0

    def links(self, space: int | None = None) -> list[LinkNote]:
        """All links of this namespace, or of another by its number."""
        body = _LINK.pack(0, 0, 0, 0, 0) + _attribute(_LINK_MASK, struct.pack("=I", _NO_STATISTICS))
        if space is not None:
            body += _attribute(_LINK_TARGET_SPACE, struct.pack("=i", space))
        return [link_note(message.body) for message in self._dump(GET_LINK, body)]

    def addresses(self, space: int | None = None) -> list[AddressNote]:
        """All IPv4 addresses of this namespace, or of another by its number."""
        body = _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)
        if space is not None:
            body += _attribute(_ADDRESS_TARGET_SPACE, struct.pack("=i", space))
        return [address_note(message.body) for message in self._dump(GET_ADDRESS, body)]

    def forwarding(self, bridge: int) -> list[ForwardingNote]:
        """All MACs that a bridge knows."""
        body = _NEIGHBOUR.pack(BRIDGE, 0, 0, 0, 0) + _attribute(_NEIGHBOUR_MASTER, struct.pack("=i", bridge))
        return [forwarding_note(message.body) for message in self._dump(GET_NEIGHBOUR, body)]

    def gateways(self, link: int) -> list[int]:
        """The IPv4 next hops, once each, of the routes over this link, which the kernel picks from all tables."""
        body = _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0) + _attribute(_ROUTE_LINK, struct.pack("=i", link))
        routes = (message.body for message in self._dump(GET_ROUTE, body))
        return list(dict.fromkeys(gateway for route in routes for gateway in _gateways(route, link)))

    def neighbours(self, link: int) -> list[NeighbourNote]:
        """The IPv4 stations on this link that the kernel knows of."""
        body = _NEIGHBOUR.pack(socket.AF_INET, 0, 0, 0, 0) + _attribute(_NEIGHBOUR_LINK, struct.pack("=i", link))
        return [neighbour_note(message.body) for message in self._dump(GET_NEIGHBOUR, body)]

    def close(self) -> None:
        """Ask nothing more."""
        with self._lock:
            self._socket.close()

    def _dump(self, kind: int, body: bytes) -> list[Message]:
        """All that the kernel tells, again when it changed on the way: an entry can be missing then."""
        with self._lock:
            for _ in range(_TRIES):
                found = self._ask(kind, body)
                if not any(message.flags & _INTERRUPTED for message in found):
                    break
        return found

    def _ask(self, kind: int, body: bytes) -> list[Message]:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _DUMP, self._sequence, 0) + body)
        found: list[Message] = []
        while True:
            for message in messages(self._socket.recv(_BUFFER), self._sequence):
                if message.kind in {_DONE, _ERROR}:
                    if number := -(_number(message.body[:4]) or 0):
                        raise OSError(number, os.strerror(number))
                    return found
                found.append(message)


def messages(data: bytes, sequence: int | None = None) -> Iterator[Message]:
    """The messages of a datagram, of one request where it is named."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, number, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        if sequence is None or number == sequence:
            yield Message(kind, flags, data[at + _HEADER.size : at + length])
        at += (length + 3) & ~3


def link_note(body: bytes) -> LinkNote:
    """Read the body of a message about a link."""
    family, hardware, index, flags, _ = _LINK.unpack_from(body)
    found = _attributes(body, _LINK.size)
    info = _attributes(found.get(_LINK_INFO, b""), 0)
    port = _attributes(found.get(_LINK_PROTOCOL, b"") if family == BRIDGE else info.get(_INFO_PORT, b""), 0)
    return LinkNote(
        number=index,
        hardware=hardware,
        flags=flags,
        name=_text(found.get(_LINK_NAME)),
        mac=found.get(_LINK_MAC, b""),
        mtu=_number(found.get(_LINK_MTU)) or 0,
        kind=_text(info.get(_INFO_KIND)),
        master=_number(found.get(_LINK_MASTER)) or 0,
        port_state=port[_PORT_STATE][0] if len(port.get(_PORT_STATE, b"")) == 1 else None,
        link=_number(found.get(_LINK_LINK)) or 0,
        space=_number(found.get(_LINK_SPACE)),
        carriers=_number(found.get(_LINK_CARRIERS)) or 0,
        promiscuity=_number(found.get(_LINK_PROMISCUITY)) or 0,
    )


def address_note(body: bytes) -> AddressNote:
    """Read the body of a message about an IPv4 address."""
    _, length, flags, _, index = _ADDRESS.unpack_from(body)
    found = _attributes(body, _ADDRESS.size)
    flags = _number(found.get(_ADDRESS_FLAGS)) or flags
    local = int.from_bytes(found.get(_ADDRESS_LOCAL, bytes(4)), "big")
    return AddressNote(index, IPv4Interface((local, length)), bool(flags & _SECONDARY))


def forwarding_note(body: bytes) -> ForwardingNote:
    """Read the body of a message about a MAC that a bridge knows."""
    _, port, state, _, _ = _NEIGHBOUR.unpack_from(body)
    found = _attributes(body, _NEIGHBOUR.size)
    return ForwardingNote(_number(found.get(_NEIGHBOUR_MASTER)) or 0, port, found.get(_NEIGHBOUR_MAC, b""), state)


def neighbour_note(body: bytes) -> NeighbourNote:
    """Read the body of a message about a station."""
    _, link, state, _, _ = _NEIGHBOUR.unpack_from(body)
    found = _attributes(body, _NEIGHBOUR.size)
    address = int.from_bytes(found.get(_NEIGHBOUR_ADDRESS, b""), "big")
    return NeighbourNote(link, address, found.get(_NEIGHBOUR_MAC, b""), state)


def _gateways(body: bytes, link: int) -> Iterator[int]:
    """The next hops on this link of a route; one of several may be on another."""
    found = _attributes(body, _ROUTE.size)
    hops = found.get(_ROUTE_HOPS, b"")
    gateways = [found.get(_ROUTE_GATEWAY)] if not hops else []
    at = 0
    while at + _HOP.size <= len(hops):
        length, _, _, number = _HOP.unpack_from(hops, at)
        if length < _HOP.size:
            break
        if number == link:
            gateways.append(_attributes(hops[at : at + length], _HOP.size).get(_ROUTE_GATEWAY))
        at += (length + 3) & ~3
    return (int.from_bytes(gateway, "big") for gateway in gateways if gateway)


def _attributes(data: bytes, at: int) -> dict[int, bytes]:
    found = {}
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _KIND_OF_ATTRIBUTE] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _number(value: bytes | None) -> int | None:
    return None if value is None else int.from_bytes(value, sys.byteorder, signed=True)


def _text(value: bytes | None) -> str:
    return "" if value is None else value.rstrip(b"\0").decode("utf-8", "replace")
