"""ARP packets and the frames that carry them (RFC 826 over Ethernet, the kinds of RFC 5227).

Bytes are patched and compared, since a sweep sends and hears tens of thousands of frames a second. The tests hold both
directions against scapy, frame by frame; scapy_frames.py turns packets into scapy's, and back.

Addresses are host-order integers and MACs are six bytes here and everywhere below the public surface.
"""

from __future__ import annotations

import re
import struct
from enum import StrEnum
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from arpipam.errors import InputError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping

REQUEST = 1
REPLY = 2

BROADCAST = b"\xff" * 6
NO_MAC = b"\x00" * 6
UNSPECIFIED = 0
"""The sender address of a probe: 0.0.0.0 (RFC 5227, 1.1)."""

_HEADER = struct.pack("!HHHBB", 0x0806, 1, 0x0800, 6, 4)
"""Ethertype ARP, hardware Ethernet, protocol IPv4, six and four bytes an address: the only kind that we speak."""
_FRAME = struct.Struct("!6s6s8sH6sI6sI")
FRAME_LENGTH = _FRAME.size
_STAMP = struct.Struct("!4sQ")
_STAMP_MARK = b"arpi"
_STAMPED_LENGTH = FRAME_LENGTH + _STAMP.size
"""An Ethernet frame has at least 60 bytes, an ARP packet 42: in the padding, which everybody ignores, an announcement
says since when its sender has the address."""

_TAGS = (b"\x81\x00", b"\x88\xa8", b"\x91\x00")


class Refusal(StrEnum):
    """Why a frame is no ARP packet for us; the receive path counts these."""

    SHORT = "cut short"
    TAGGED = "VLAN-tagged"
    NOT_ARP = "not ARP"
    HARDWARE = "hardware type not Ethernet"
    PROTOCOL = "protocol type not IPv4"
    LENGTH = "address length wrong"
    OPERATION = "neither request nor reply"


class ArpPacket(NamedTuple):
    """One ARP packet and the Ethernet addresses of its frame."""

    operation: int
    sender_mac: bytes
    sender_ip: int
    target_mac: bytes
    target_ip: int
    source: bytes
    destination: bytes
    since: int = 0
    """When the sender claimed its address, microseconds since 1970; 0: it does not say, as nobody but arpipam does."""

    @property
    def is_probe(self) -> bool:
        """A request from 0.0.0.0 (RFC 5227, 1.1)."""
        return self.operation == REQUEST and self.sender_ip == UNSPECIFIED

    @property
    def is_rival(self) -> bool:
        """A probe to everybody: a station is about to claim the address, or others may believe so (RFC 5227, 2.1.1).

        A probe to one station is a question to that one, as a switch asks that keeps a list of what is connected to it.
        """
        return self.is_probe and self.destination == BROADCAST


def encode(packet: ArpPacket) -> bytes:
    """The frame of a packet, 42 bytes; the driver of a real NIC pads it."""
    addresses = packet.sender_mac, packet.sender_ip, packet.target_mac, packet.target_ip
    frame = _FRAME.pack(packet.destination, packet.source, _HEADER, packet.operation, *addresses)
    return frame + _STAMP.pack(_STAMP_MARK, packet.since) if packet.since else frame


def dissect(frame: bytes) -> ArpPacket | Refusal:
    """The packet in a frame, or why there is none. Never raises, whatever the bytes."""
    if len(frame) < FRAME_LENGTH:
        return _refuse(frame)
    destination, source, kind, operation, sender_mac, sender_ip, target_mac, target_ip = _FRAME.unpack_from(frame)
    if kind != _HEADER:
        return _refuse(frame)
    if operation not in (REQUEST, REPLY):
        return Refusal.OPERATION
    since = 0
    if len(frame) >= _STAMPED_LENGTH:
        mark, claimed = _STAMP.unpack_from(frame, FRAME_LENGTH)
        since = claimed if mark == _STAMP_MARK else 0
    return ArpPacket(operation, sender_mac, sender_ip, target_mac, target_ip, source, destination, since)


def _refuse(frame: bytes) -> Refusal:
    """What is wrong with a frame of another kind, from its first field to its last."""
    fields = (
        (14, Refusal.TAGGED if frame[12:14] in _TAGS else Refusal.NOT_ARP),
        (16, Refusal.HARDWARE),
        (18, Refusal.PROTOCOL),
        (20, Refusal.LENGTH),
    )
    for end, refusal in fields:
        if len(frame) < end:
            return Refusal.SHORT
        if frame[end - 2 : end] != _HEADER[end - 14 : end - 12]:
            return refusal
    return Refusal.SHORT


def probe(mac: bytes, address: int) -> bytes:
    """A probe for the address, from the MAC that will own it (RFC 5227, 2.1.1)."""
    return encode(ArpPacket(REQUEST, mac, UNSPECIFIED, NO_MAC, address, mac, BROADCAST))


def announcement(mac: bytes, address: int, since: int = 0) -> bytes:
    """An announcement: a request with sender and target address alike (RFC 5227, 2.3); `since`: see ArpPacket."""
    return encode(ArpPacket(REQUEST, mac, address, NO_MAC, address, mac, BROADCAST, since))


def request(mac: bytes, sender: int, address: int) -> bytes:
    """An ordinary request for the address, from a station that has one (RFC 826); nobody's conflict.

    Without a sender (0), as where an interface has no address, it is a probe.
    """
    return encode(ArpPacket(REQUEST, mac, sender, NO_MAC, address, mac, BROADCAST))


def reply(mac: bytes, asked: ArpPacket) -> bytes:
    """The answer to a request or probe: the address it asks for is at `mac` (RFC 826)."""
    return encode(ArpPacket(REPLY, mac, asked.target_ip, asked.sender_mac, asked.sender_ip, mac, asked.sender_mac))


def reply_to_all(mac: bytes, address: int, since: int = 0) -> bytes:
    """The answer to everybody who may have asked for the address; `since`: see ArpPacket.

    Its target MAC is that of the frame, as switches that inspect ARP want it.
    """
    return encode(ArpPacket(REPLY, mac, address, BROADCAST, address, mac, BROADCAST, since))


def mac_text(mac: bytes) -> str:
    """Six bytes as aa:bb:cc:dd:ee:ff."""
    return mac.hex(":")


def address_texts(addresses: Iterable[int], names: Mapping[int, str] = MappingProxyType({})) -> str:
    """Addresses for a person, with names for those that have one."""
    texts = ((str(IPv4Address(address)), names.get(address)) for address in addresses)
    return ", ".join(f"{name} ({text})" if name else text for text, name in texts)


def mac_bytes(text: str) -> bytes:
    """aa:bb:cc:dd:ee:ff (or with dashes) as six bytes.

    Raises InputError where the text is no MAC address that a station can have.
    """
    if not re.fullmatch(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", text):
        raise InputError(f"MAC address {text!r}: write six pairs of hex digits, such as 02:00:5e:10:00:01")
    mac = bytes.fromhex(text.replace("-", ":").replace(":", ""))
    if mac[0] & 1 or mac == NO_MAC:
        raise InputError(f"MAC address {text!r} belongs to no single station; give one whose first byte is even")
    return mac


def random_mac(rng: random.Random) -> bytes:
    """A random unicast MAC, locally administered (IEEE 802, 8.2); 46 random bits keep hosts apart."""
    first = rng.getrandbits(8) & 0b1111_1100 | 0b10
    return bytes([first]) + rng.getrandbits(40).to_bytes(5, "big")
