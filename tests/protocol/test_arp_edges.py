"""Frames that end where a field ends, and MACs from a generator."""

from __future__ import annotations

import random

import pytest

from arpipam.protocol import arp
from arpipam.protocol.arp import Refusal

GOOD = arp.probe(bytes.fromhex("02005e100001"), 0xAC102A07)


@pytest.mark.parametrize(
    ("end", "field", "refusal"),
    [
        (14, b"\x08\x00", Refusal.NOT_ARP),
        (14, b"\x81\x00", Refusal.TAGGED),
        (16, b"\x00\x06", Refusal.HARDWARE),
        (18, b"\x86\xdd", Refusal.PROTOCOL),
        (20, b"\x08\x04", Refusal.LENGTH),
    ],
)
def test_a_wrong_field_is_named_though_the_frame_ends_with_it(end: int, field: bytes, refusal: Refusal) -> None:
    assert arp.dissect(GOOD[: end - 2] + field) is refusal
    assert arp.dissect(GOOD[: end - 2] + field[:1]) is Refusal.SHORT
    assert arp.dissect(GOOD[:end]) is Refusal.SHORT


def test_a_random_mac_has_six_bytes_and_follows_from_its_generator() -> None:
    assert arp.mac_text(arp.random_mac(random.Random(7))) == "52:26:f2:a7:4d:e4"
    assert {len(arp.random_mac(random.Random(seed))) for seed in range(200)} == {6}


def test_addresses_for_a_person_have_their_names_and_a_comma_between_them() -> None:
    assert arp.address_texts([0x0A000001, 0x0A000002], {0x0A000002: "host2"}) == "10.0.0.1, host2 (10.0.0.2)"
    assert arp.address_texts([]) == ""


def test_an_announcement_says_since_when_only_where_it_is_told() -> None:
    assert arp.announcement(bytes(6), 7) == arp.request(bytes(6), 7, 7)
