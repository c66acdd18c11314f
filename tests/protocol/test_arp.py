"""Packets both ways, with scapy as the judge."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import ARP, Dot1Q, Ether

from arpipam.errors import InputError
from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket, Refusal
from arpipam.protocol.scapy_frames import from_scapy, to_scapy

macs = st.binary(min_size=6, max_size=6)
addresses = st.integers(0, 2**32 - 1)
packets = st.builds(
    ArpPacket,
    st.sampled_from([arp.REQUEST, arp.REPLY]),
    macs,
    addresses,
    macs,
    addresses,
    macs,
    macs,
    st.just(0) | st.integers(1, 2**64 - 1),
)


def scapy_frame(packet: ArpPacket) -> bytes:
    ether = Ether(dst=arp.mac_text(packet.destination), src=arp.mac_text(packet.source))
    return bytes(
        ether
        / ARP(
            op=packet.operation,
            hwsrc=arp.mac_text(packet.sender_mac),
            psrc=".".join(map(str, packet.sender_ip.to_bytes(4, "big"))),
            hwdst=arp.mac_text(packet.target_mac),
            pdst=".".join(map(str, packet.target_ip.to_bytes(4, "big"))),
        )
    )


@given(packets)
def test_our_frames_are_those_of_scapy(packet: ArpPacket) -> None:
    assert arp.encode(packet)[: arp.FRAME_LENGTH] == scapy_frame(packet)
    assert len(arp.encode(packet)) == (54 if packet.since else 42) <= 60  # more would be more than padding


@given(packets, st.binary(max_size=60))
def test_a_frame_comes_back_as_its_packet_whatever_padding_follows(packet: ArpPacket, padding: bytes) -> None:
    assert arp.dissect(scapy_frame(packet) + padding) == packet._replace(since=0)


@given(packets)
def test_packets_become_scapys_and_come_back(packet: ArpPacket) -> None:
    assert bytes(to_scapy(packet)) == arp.encode(packet)
    assert from_scapy(to_scapy(packet)) == packet


def test_what_scapy_builds_without_a_frame_of_its_own_is_read_too() -> None:
    asked = ARP(op="who-has", hwsrc="02:00:5e:10:00:01", psrc="0.0.0.0", pdst="172.16.42.7")  # noqa: S104
    packet = from_scapy(asked)
    assert isinstance(packet, ArpPacket)
    assert (packet.is_probe, packet.target_ip) == (True, 0xAC102A07)
    assert packet.source == packet.sender_mac == bytes.fromhex("02005e100001")
    assert from_scapy(Ether() / Dot1Q() / asked) is Refusal.TAGGED


@given(packets, st.binary(max_size=60))
def test_since_when_comes_back_whatever_padding_follows(packet: ArpPacket, padding: bytes) -> None:
    frame = arp.encode(packet)
    assert arp.dissect(frame + (padding if packet.since else b"")) == packet
    assert arp.dissect(frame[:53]) == packet._replace(since=0)  # cut short: it does not say


@given(st.binary(max_size=80))
def test_no_bytes_raise_and_what_is_accepted_is_what_scapy_sees(frame: bytes) -> None:
    packet = arp.dissect(frame)
    if isinstance(packet, ArpPacket):
        seen = Ether(frame)[ARP]
        assert (seen.hwtype, seen.ptype, seen.hwlen, seen.plen) == (1, 0x0800, 6, 4)
        assert (seen.op, seen.hwsrc) == (packet.operation, arp.mac_text(packet.sender_mac))


@given(packets, st.integers(0, 41), st.integers(0, 255))
def test_one_wrong_byte_is_refused_or_shows_in_the_packet(packet: ArpPacket, at: int, value: int) -> None:
    frame = bytearray(arp.encode(packet))
    changed = frame[at] != value
    frame[at] = value
    assert (arp.dissect(bytes(frame)) != packet) == changed


GOOD = arp.probe(bytes.fromhex("02005e100001"), 0xAC102A07)


@pytest.mark.parametrize(
    ("frame", "refusal"),
    [
        (b"", Refusal.SHORT),
        (GOOD[:13], Refusal.SHORT),
        (GOOD[:21], Refusal.SHORT),
        (GOOD[:41], Refusal.SHORT),
        (GOOD[:12] + b"\x08\x00" + GOOD[14:], Refusal.NOT_ARP),
        (bytes(Ether() / Dot1Q(vlan=7) / ARP()), Refusal.TAGGED),
        (GOOD[:14] + b"\x00\x06" + GOOD[16:], Refusal.HARDWARE),
        (GOOD[:16] + b"\x86\xdd" + GOOD[18:], Refusal.PROTOCOL),
        (GOOD[:18] + b"\x08\x04" + GOOD[20:], Refusal.LENGTH),
        (GOOD[:18] + b"\x06\x10" + GOOD[20:], Refusal.LENGTH),
        (GOOD[:20] + b"\x00\x03" + GOOD[22:], Refusal.OPERATION),
    ],
)
def test_each_kind_of_refusal(frame: bytes, refusal: Refusal) -> None:
    assert arp.dissect(frame) is refusal


def test_mac_addresses_as_text() -> None:
    assert arp.mac_bytes("02-00-5E-10-00-01") == arp.mac_bytes("02:00:5e:10:00:01") == bytes.fromhex("02005e100001")
    for bad in (
        "",
        "02:00:5e:10:00",
        "01:00:5e:10:00:01",
        "00:00:00:00:00:00",
        "02:00:5e:10:00:0g",
        "ff:ff:ff:ff:ff:ff",
    ):
        with pytest.raises(InputError, match="MAC address"):
            arp.mac_bytes(bad)


def test_random_macs_are_local_unicast_and_differ() -> None:
    rng = random.Random(1)
    macs = {arp.random_mac(rng) for _ in range(10_000)}
    assert len(macs) == 10_000
    assert all(mac[0] & 0b11 == 0b10 for mac in macs)
