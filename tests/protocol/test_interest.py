"""What is of interest, as we decide it and as a filter made of it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.link import bpf
from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.interest import MOST_ADDRESSES, Interest, Routes, union

if TYPE_CHECKING:
    from arpipam.link.bpf import Step

TAKE = 128

# A few values, so that packets and interests meet; the extremes, where a filter goes wrong; and any.
FEW_ADDRESSES = (0, 1, 0x0A070001, 0x0A070002, 0x0A0700FF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
FEW_MACS = tuple(
    bytes.fromhex(mac) for mac in ("000000000000", "020000000001", "020000000002", "020100000001", "ffffffffffff")
)
ADDRESSES = st.sampled_from(FEW_ADDRESSES) | st.integers(0, 0xFFFFFFFF)
MACS = st.sampled_from(FEW_MACS) | st.binary(min_size=6, max_size=6)
SPANS = st.tuples(ADDRESSES, ADDRESSES).map(lambda ends: (min(ends), max(ends)))
INTERESTS = st.builds(
    Interest,
    st.frozensets(ADDRESSES, max_size=6),
    st.frozensets(MACS, max_size=4),
    st.none() | SPANS,
    st.frozensets(ADDRESSES, max_size=3),
)
PACKETS = st.builds(
    ArpPacket, st.sampled_from([1, 2]), MACS, ADDRESSES, MACS, ADDRESSES, MACS, MACS, st.just(0)
) | st.builds(lambda mac, at, to: ArpPacket(1, mac, at, arp.NO_MAC, at, mac, to), MACS, ADDRESSES, MACS)


def decide(program: tuple[Step, ...], frame: bytes) -> int:
    """Run classic BPF as the kernel does (Documentation/networking/filter.rst): how many bytes are kept."""
    accumulator = index = at = 0
    while True:
        code, if_true, if_false, k = program[at]
        assert 0 <= k <= 0xFFFFFFFF
        assert 0 <= if_true <= 255
        assert 0 <= if_false <= 255
        at += 1
        if code in {0x20, 0x28}:  # ld, ldh
            size = 4 if code == 0x20 else 2
            if k + size > len(frame):
                return 0
            accumulator = int.from_bytes(frame[k : k + size], "big")
        elif code == 0x07:  # tax
            index = accumulator
        elif code == 0x06:  # ret
            return k
        else:
            tests = {
                0x15: accumulator == k,  # jeq
                0x1D: accumulator == index,  # jeq x
                0x25: accumulator > k,  # jgt
                0x35: accumulator >= k,  # jge
            }
            at += if_true if tests[code] else if_false


@given(INTERESTS, PACKETS)
def test_the_filter_decides_as_the_interest_does(interest: Interest, packet: ArpPacket) -> None:
    kept = decide(bpf.program(interest, TAKE), arp.encode(packet))
    assert kept == (TAKE if interest.wants(packet) else 0)


@pytest.mark.parametrize(
    ("interest", "packet", "wanted"),
    [
        (Interest(), ArpPacket(1, FEW_MACS[1], 0, arp.NO_MAC, 1, FEW_MACS[1], arp.BROADCAST), False),
        (Interest(frozenset({7})), ArpPacket(2, FEW_MACS[1], 7, FEW_MACS[2], 9, FEW_MACS[1], FEW_MACS[2]), True),
        (Interest(frozenset({7})), ArpPacket(1, FEW_MACS[1], 9, arp.NO_MAC, 7, FEW_MACS[1], arp.BROADCAST), True),
        (Interest(frozenset({7})), ArpPacket(1, FEW_MACS[1], 8, arp.NO_MAC, 9, FEW_MACS[1], arp.BROADCAST), False),
        (
            Interest(macs=frozenset({FEW_MACS[2]})),
            ArpPacket(2, FEW_MACS[1], 8, FEW_MACS[2], 9, FEW_MACS[1], FEW_MACS[2]),
            True,
        ),
        (
            Interest(macs=frozenset({FEW_MACS[1]})),
            ArpPacket(2, FEW_MACS[1], 8, FEW_MACS[2], 9, FEW_MACS[1], FEW_MACS[2]),
            False,
        ),
        (
            Interest(senders=frozenset({7})),
            ArpPacket(2, FEW_MACS[1], 7, FEW_MACS[2], 9, FEW_MACS[1], FEW_MACS[2]),
            True,
        ),
        (
            Interest(senders=frozenset({7})),
            ArpPacket(1, FEW_MACS[1], 9, arp.NO_MAC, 7, FEW_MACS[1], arp.BROADCAST),
            False,
        ),
        (Interest(span=(5, 8)), ArpPacket(1, FEW_MACS[1], 0, arp.NO_MAC, 8, FEW_MACS[1], arp.BROADCAST), True),
        (Interest(span=(5, 8)), ArpPacket(1, FEW_MACS[1], 5, arp.NO_MAC, 5, FEW_MACS[1], arp.BROADCAST), True),
        (Interest(span=(5, 8)), ArpPacket(1, FEW_MACS[1], 0, arp.NO_MAC, 9, FEW_MACS[1], arp.BROADCAST), False),
        (Interest(span=(5, 8)), ArpPacket(1, FEW_MACS[1], 4, arp.NO_MAC, 4, FEW_MACS[1], arp.BROADCAST), False),
        (Interest(span=(5, 8)), ArpPacket(1, FEW_MACS[1], 3, arp.NO_MAC, 6, FEW_MACS[1], arp.BROADCAST), False),
    ],
)
def test_what_is_of_interest(interest: Interest, packet: ArpPacket, wanted: bool) -> None:  # noqa: FBT001 - what is expected
    assert interest.wants(packet) is wanted
    assert decide(bpf.program(interest, TAKE), arp.encode(packet)) == (TAKE if wanted else 0)


# Of several at once.


@given(st.lists(INTERESTS, max_size=5), PACKETS)
def test_together_they_want_all_that_each_of_them_wants(interests: list[Interest], packet: ArpPacket) -> None:
    together = union(interests)
    assert together is not None
    if any(interest.wants(packet) for interest in interests):
        assert together.wants(packet)


@given(INTERESTS, PACKETS)
def test_alone_or_beside_nothing_an_interest_stays_as_it_is(interest: Interest, packet: ArpPacket) -> None:
    assert union([interest]) == union([interest, interest]) == union([Interest(), interest]) == interest
    together = union([])
    assert together is not None
    assert not together.wants(packet)


def test_who_wants_everything_gets_it_beside_any_other() -> None:
    assert union([None]) is None
    assert union([Interest(frozenset({1})), None]) is None
    assert union([None, Interest(span=(1, 2))]) is None


def test_spans_are_joined_with_what_lies_between() -> None:
    assert union([Interest(span=(5, 8)), Interest(frozenset({3})), Interest(span=(20, 30))]) == Interest(
        frozenset({3}), span=(5, 30)
    )


def test_more_than_a_filter_can_name_is_everything() -> None:
    half = MOST_ADDRESSES // 2
    first, second = Interest(frozenset(range(half))), Interest(frozenset(range(half, 2 * half)))
    assert union([first, second]) == Interest(frozenset(range(2 * half)))
    assert union([first, second, Interest(frozenset({2 * half}))]) is None
    macs = [Interest(macs=frozenset({mac.to_bytes(6, "big")})) for mac in range(MOST_ADDRESSES + 1)]
    assert union(macs[:-1]) is not None
    assert union(macs) is None


@given(st.lists(st.none() | INTERESTS, max_size=6), PACKETS)
def test_each_receiver_gets_what_its_own_interest_wants(interests: list[Interest | None], packet: ArpPacket) -> None:
    routes = Routes((interest, number) for number, interest in enumerate(interests))
    wanted = [number for number, interest in enumerate(interests) if interest is None or interest.wants(packet)]
    assert sorted(routes.receivers(packet)) == wanted
