"""The filter step by step, and who gets a packet by which of its fields."""

from __future__ import annotations

import pytest

from arpipam.link import bpf
from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.interest import Interest, Routes, union

ONE, TWO = bytes.fromhex("020000000001"), bytes.fromhex("02000000a102")
TAKE = 96


def test_the_filter_of_one_of_each_is_this() -> None:
    interest = Interest(frozenset({7}), frozenset({TWO}), span=(5, 8), senders=frozenset({9}))
    load_word, load_half, equal, at_least, above, give = 0x20, 0x28, 0x15, 0x35, 0x25, 0x06
    assert bpf.program(interest, TAKE) == (
        (load_word, 0, 0, 32),  # the target's MAC
        (equal, 0, 3, 0x02000000),
        (load_half, 0, 0, 36),
        (equal, 0, 1, 0xA102),
        (give, 0, 0, TAKE),
        (load_word, 0, 0, 28),  # the sender's address
        (equal, 0, 1, 7),
        (give, 0, 0, TAKE),
        (equal, 0, 1, 9),
        (give, 0, 0, TAKE),
        (load_word, 0, 0, 38),  # the target's address
        (equal, 0, 1, 7),
        (give, 0, 0, TAKE),
        (0x07, 0, 0, 0),  # tax: the target's address, to be compared with the sender's
        (load_word, 0, 0, 28),
        (equal, 1, 0, 0),
        (0x1D, 0, 4, 0),  # jeq x
        (load_word, 0, 0, 38),
        (at_least, 0, 2, 5),
        (above, 1, 0, 8),
        (give, 0, 0, TAKE),
        (give, 0, 0, 0),
    )


QUESTION = ArpPacket(arp.REQUEST, ONE, 1, arp.NO_MAC, 7, ONE, arp.BROADCAST)
ANSWER = ArpPacket(arp.REPLY, ONE, 1, TWO, 2, ONE, TWO)


@pytest.mark.parametrize(
    ("interest", "packet", "gets"),
    [
        (Interest(frozenset({7})), QUESTION, True),
        (Interest(frozenset({7})), QUESTION._replace(sender_ip=7, target_ip=1), True),
        (Interest(senders=frozenset({1})), QUESTION, True),
        (Interest(senders=frozenset({7})), QUESTION, False),
        (Interest(macs=frozenset({TWO})), ANSWER, True),
        (Interest(macs=frozenset({ONE})), ANSWER, False),
        (Interest(span=(5, 7)), QUESTION._replace(sender_ip=0), True),
        (Interest(span=(7, 9)), QUESTION._replace(sender_ip=7), True),
        (Interest(span=(5, 7)), QUESTION, False),
        (Interest(span=(5, 6)), QUESTION._replace(sender_ip=0), False),
    ],
)
def test_a_packet_reaches_a_receiver_by_any_of_its_fields(interest: Interest, packet: ArpPacket, gets: bool) -> None:  # noqa: FBT001 - what is expected
    routes = Routes([(None, "all"), (interest, "some")])
    assert list(routes.receivers(packet)) == (["all", "some"] if gets else ["all"])


def test_where_everybody_wants_everything_no_packet_is_looked_up() -> None:
    assert list(Routes([(None, "one"), (None, "two")]).receivers(QUESTION)) == ["one", "two"]


def test_of_several_each_part_of_each_is_wanted() -> None:
    one = Interest(frozenset({1}), frozenset({ONE}), span=(5, 8), senders=frozenset({11}))
    two = Interest(frozenset({2}), frozenset({TWO}), span=(20, 30), senders=frozenset({12}))
    both = Interest(frozenset({1, 2}), frozenset({ONE, TWO}), span=(5, 30), senders=frozenset({11, 12}))
    assert union([one, two]) == union([two, one]) == both
    assert union([one, None, two]) is None
