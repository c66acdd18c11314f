"""What is of interest, as the kernel decides it."""

from __future__ import annotations

import os
import random
import time
from itertools import count
from typing import TYPE_CHECKING

import pytest

from arpipam.lab.namespace import Namespace
from arpipam.link.socket import Link
from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.interest import MOST_ADDRESSES, Interest
from tests.support.link_spaces import NEEDS_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 20.0
"""Seconds after which a condition that was waited for will not come any more."""
_numbers = count()

FEW_ADDRESSES = (0, 1, 0x0A070001, 0x0A070002, 0x0A0700FF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
FEW_MACS = tuple(
    bytes.fromhex(mac) for mac in ("000000000000", "020000000001", "020000000002", "020100000001", "ffffffffffff")
)


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    """Two links, at the two ends of a cable."""
    here, there = (Namespace(f"interest{os.getpid()}n{next(_numbers)}") for _ in range(2))
    try:
        here.ip([f"link add near type veth peer name far netns {there.name}", "link set near up"])
        there.ip(["link set far up"])
        with here.inside():
            near = Link("near")
        with there.inside():
            far = Link("far")
        with near, far:
            yield near, far
    finally:
        here.delete()
        there.delete()


def received_before(link: Link, last: bytes) -> list[bytes]:
    """What arrives before a frame that is known to come."""
    frames: list[bytes] = []
    end = time.monotonic() + LONG
    while last not in frames:
        assert time.monotonic() < end, "it never came"
        link.wait(0.1)
        frames += link.receive()
    return frames[: frames.index(last)]


@NEEDS_ROOT
def test_a_focused_link_receives_what_is_of_interest_and_nothing_else(ends: tuple[Link, Link]) -> None:
    near, far = ends
    rng = random.Random(5)
    mac, address = bytes.fromhex("02cccccccccc"), 0xC0A80001
    end = ArpPacket(2, FEW_MACS[1], address, mac, address, FEW_MACS[1], mac)  # each interest below wants this one
    largest = Interest(
        frozenset({address, *(rng.getrandbits(32) for _ in range(MOST_ADDRESSES - 1))}),
        frozenset({mac, *(rng.randbytes(6) for _ in range(MOST_ADDRESSES - 1))}),
        (1, 0x0A070002),
    )
    addresses, macs = (*FEW_ADDRESSES, *sorted(largest.addresses)[:9]), (*FEW_MACS, *sorted(largest.macs)[:9])
    packets = [
        ArpPacket(
            rng.choice([1, 2]),
            rng.choice(macs),
            rng.choice(addresses),
            rng.choice(macs),
            rng.choice(addresses),
            rng.choice(macs),
            rng.choice(macs),
        )
        for _ in range(1000)
    ]
    packets = [packet for packet in packets if packet != end]
    for interest in (
        Interest(frozenset({address})),
        Interest(macs=frozenset({mac, FEW_MACS[2]})),
        Interest(frozenset({address, 0x0A070001, 0})),
        Interest(frozenset({address}), frozenset({FEW_MACS[1]}), (0x0A070001, 0x80000000)),
        largest,
        None,
    ):
        near.focus(interest)
        assert all(far.send([arp.encode(packet)]) for packet in [*packets, end])
        wanted = [arp.encode(packet) for packet in packets if interest is None or interest.wants(packet)]
        assert received_before(near, arp.encode(end)) == wanted
    assert near.drops() == 0
