"""What DHCP messages (RFC 2131) tell of the addresses that a server gives out. Pure, and safe with hostile frames.

An offer or an acknowledgement names the address; on a switched link they often go to the client alone. The client's
request, which all hear, names the address and the server that offered it. Nothing else is of use.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import NamedTuple

CLIENT_PORT, SERVER_PORT = 68, 67
LONGEST_FRAME = 1514
"""Bytes that are looked at; no message of use is longer."""

_IPV4, _UDP = b"\x08\x00", 17
_ETHERNET, _SHORTEST_IP, _UDP_HEADER = 14, 20, 8
_BOOTP = struct.Struct("!BBBB4s2s2s4sI4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
_REQUEST, _REPLY = 1, 2
_PAD, _END = 0, 255
_WANTED, _KIND, _SERVER = 50, 53, 54
_LENGTHS = {_WANTED: 4, _KIND: 1, _SERVER: 4}
_OFFER, _ASKED, _ACK = 2, 3, 5
_LATER_FRAGMENT = 0x3FFF
"""More fragments follow, or this is not the first one."""


class DhcpRefusal(StrEnum):
    """Why a frame tells nothing of an address that is given out."""

    SHORT = "cut short"
    NOT_DHCP = "not DHCP"
    FRAGMENT = "a fragment"
    OPTIONS = "malformed options"
    OTHER = "another message"
    """A well-formed one, that gives nothing out."""


MALFORMED = frozenset((DhcpRefusal.SHORT, DhcpRefusal.FRAGMENT, DhcpRefusal.OPTIONS))
"""What no honest machine sends."""


class Given(NamedTuple):
    """A server gives out an address."""

    address: int
    server: int
    """Its own address, as it names itself."""


def dissect(frame: bytes) -> Given | DhcpRefusal:
    """What an Ethernet frame tells, or why it tells nothing. Never raises, whatever the bytes."""
    if len(frame) < _ETHERNET + _SHORTEST_IP:
        return DhcpRefusal.SHORT
    if frame[12:14] != _IPV4 or frame[14] >> 4 != 4 or frame[23] != _UDP:  # noqa: PLR2004 - version 4
        return DhcpRefusal.NOT_DHCP
    if int.from_bytes(frame[20:22], "big") & _LATER_FRAGMENT:
        return DhcpRefusal.FRAGMENT
    return _datagram(frame)


def _datagram(frame: bytes) -> Given | DhcpRefusal:
    """The same of a frame that is known to carry UDP."""
    header = 4 * (frame[14] & 0x0F)
    # A frame may be padded: what counts is the length that IP says.
    end = _ETHERNET + int.from_bytes(frame[16:18], "big")
    udp = _ETHERNET + header
    if header < _SHORTEST_IP or end > len(frame) or end < udp + _UDP_HEADER:
        return DhcpRefusal.SHORT
    source, target, length, _ = struct.unpack_from("!HHHH", frame, udp)
    if not {source, target} <= {CLIENT_PORT, SERVER_PORT}:
        return DhcpRefusal.NOT_DHCP
    if udp + length > end:  # one that is too small leaves an empty message
        return DhcpRefusal.SHORT
    return _message(frame[udp + _UDP_HEADER : udp + length])


def _message(message: bytes) -> Given | DhcpRefusal:
    """The same of what UDP carries."""
    if len(message) < _BOOTP.size:
        return DhcpRefusal.SHORT
    fields = _BOOTP.unpack_from(message)
    operation, yours, cookie = fields[0], fields[8], fields[-1]
    if cookie != _COOKIE or operation not in {_REQUEST, _REPLY}:
        return DhcpRefusal.NOT_DHCP
    options = _options(message, _BOOTP.size)
    if options is None or _KIND not in options:
        return DhcpRefusal.OPTIONS
    kind, server = options[_KIND], options.get(_SERVER, 0)
    if operation == _REPLY and kind in {_OFFER, _ACK}:
        address = yours
    elif operation == _REQUEST and kind == _ASKED:
        address = options.get(_WANTED, 0)
    else:
        return DhcpRefusal.OTHER
    # A request that names no server asks for an address that its sender had some time; an acknowledgement without an
    # address tells settings only.
    return Given(address, server) if address and server else DhcpRefusal.OTHER


def _options(message: bytes, at: int) -> dict[int, int] | None:
    """The options of use, as numbers; None: they are malformed. Of an option that is there twice, the first counts."""
    found: dict[int, int] = {}
    while at < len(message):
        code = message[at]
        if code == _END:
            return found
        if code == _PAD:
            at += 1
            continue
        if at + 1 >= len(message) or at + 2 + message[at + 1] > len(message):
            return None
        length = message[at + 1]
        if code in _LENGTHS:
            if length != _LENGTHS[code]:
                return None
            found.setdefault(code, int.from_bytes(message[at + 2 : at + 2 + length], "big"))
        at += 2 + length
    return found  # some end without saying so
