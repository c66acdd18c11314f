"""Who answers for everything: two canaries, of which the second is drawn at random."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.canary import Canary
from arpipam.protocol.scan import Scan
from tests.support.search import FIRST, NET, ByHand, World, mac, parameters

if TYPE_CHECKING:
    from collections.abc import Callable

PROXY, STATION, MINE = mac(1), mac(2), mac(3)
LAST = NET + 255


def canary(last: int | None = LAST, taken: Callable[[int], bool] = lambda _: False, seed: int = 1) -> Canary:
    return Canary(NET, last, rng=random.Random(seed), taken=taken)


def answer(address: int, by: bytes) -> ArpPacket:
    return ArpPacket(arp.REPLY, by, address, MINE, 0, by, MINE)


def second(subject: Canary) -> int:
    [first, drawn] = subject.addresses()
    assert first == NET
    return drawn


def test_one_that_is_answered_for_says_nothing_yet() -> None:
    subject = canary()
    assert subject.addresses() == (NET,)
    assert not subject.receive(answer(NET + 7, STATION))
    assert subject.receive(answer(NET, STATION))
    assert subject.mac is None
    assert subject.doubt() == ""
    assert NET < second(subject) < LAST


def test_who_answers_for_both_answers_for_everything() -> None:
    subject = canary()
    subject.receive(answer(NET, PROXY))
    drawn = second(subject)
    assert not subject.receive(answer(drawn, PROXY))
    assert subject.mac == PROXY
    assert arp.address_texts([NET, drawn]) in subject.doubt()


def test_a_station_that_has_the_second_is_no_proxy_and_another_is_drawn() -> None:
    subject = canary()
    subject.receive(answer(NET, PROXY))
    used = second(subject)
    assert subject.receive(answer(used, STATION))
    assert subject.mac is None
    assert second(subject) != used
    subject.receive(answer(second(subject), PROXY))
    assert subject.mac == PROXY


def test_what_is_taken_is_not_drawn_and_where_nothing_else_is_left_one_is_enough() -> None:
    for allowed in range(NET + 1, NET + 20):
        subject = canary(NET + 20, lambda address, allowed=allowed: address != allowed)  # type: ignore[misc]
        subject.receive(answer(NET, PROXY))
        assert subject.mac == PROXY or second(subject) == allowed
    subject = canary(taken=lambda _: True)
    assert not subject.receive(answer(NET, PROXY))
    assert subject.mac == PROXY
    assert subject.addresses() == (NET,)


@pytest.mark.parametrize(
    ("last", "taken", "drawn"),
    [(NET + 2, None, {NET + 1}), (NET + 4, None, {NET + 1, NET + 2, NET + 3}), (NET + 4, NET + 2, {NET + 1, NET + 3})],
)
def test_each_address_between_the_two_ends_may_be_drawn_and_no_other(
    last: int, taken: int | None, drawn: set[int]
) -> None:
    found = set()
    for seed in range(20):
        subject = canary(last, lambda address: address == taken, seed)
        subject.receive(answer(NET, PROXY))
        found.add(second(subject))
    assert found == drawn


@pytest.mark.parametrize("last", [None, NET + 1])
def test_without_a_range_one_is_enough(last: int | None) -> None:
    subject = canary(last)
    subject.receive(answer(NET, PROXY))
    assert subject.mac == PROXY


def test_without_a_canary_nothing_is_asked_and_nothing_is_an_answer() -> None:
    subject = Canary(None)
    assert subject.addresses() == ()
    assert not subject.receive(answer(NET, PROXY))
    assert subject.mac is None


# In a search, and in a scan.


def test_a_station_that_has_the_networks_address_hides_no_free_one() -> None:
    world = World(1, used=[NET, FIRST])
    world.claimer(range(FIRST, FIRST + 50), last=LAST)
    assert world.run() == [FIRST + 1]


@pytest.mark.parametrize("seed", range(20))
def test_a_proxy_is_found_out_by_the_second(seed: int) -> None:
    world = World(seed, used=range(NET, NET + 256))
    claimer = world.claimer(range(FIRST, FIRST + 50), last=LAST)
    assert world.run() == []
    assert "answers for every address" in str(claimer.error)


@pytest.mark.parametrize(("used", "proxy"), [(range(NET, NET + 256), True), ([NET, FIRST], False)])
def test_so_does_a_scan(used: range | list[int], proxy: bool) -> None:  # noqa: FBT001 - what is expected
    hand = ByHand(dict.fromkeys(used, PROXY))
    known = parameters(last=LAST, witnesses=())
    scan = Scan(range(FIRST, FIRST + 9), known, now=0.0, rng=random.Random(1))
    hand.end(scan)
    assert bool(scan.doubt()) is proxy
    assert not [packet for _, packet in hand.sent if packet.is_probe]


@pytest.mark.parametrize("seed", range(5))
def test_a_scan_asks_no_station_that_it_has_found_as_if_nobody_had_its_address(seed: int) -> None:
    scan = Scan([NET + 1, NET + 2], parameters(last=NET + 3), now=0.0, rng=random.Random(seed))
    scan.receive(answer(NET + 1, STATION), 0.0)
    scan.receive(answer(NET, PROXY), 0.0)
    canaries = [arp.dissect(frame) for frame in next(scan.outboxes()).peek(9)]
    assert [packet.target_ip for packet in canaries if isinstance(packet, ArpPacket)] == [NET, NET, NET + 2]
