"""The search for a free address: its windows, its end, and reservations that are answered later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from arpipam.errors import PoolExhaustedError, UnknownError
from arpipam.protocol import arp
from arpipam.protocol.first_free import LARGEST_WINDOW, WINDOW
from arpipam.protocol.outcome import NO_WITNESS
from arpipam.protocol.search import SMALL_WINDOW
from tests.support.first_free import BRIDGE, CANARY, FIRST, MINE, OWN_ADDRESS, RIVAL, STATION, WITNESS, Desk

if TYPE_CHECKING:
    from arpipam.protocol.probing import Probing


# Windows.


def windows(desk: Desk) -> list[int]:
    """How many addresses each survey has asked for, as long as all of them answer."""
    known = len(desk.search._offered)
    sizes = [known]
    while not desk.search.done:
        desk.step()
        new = len(desk.search._offered) - known
        if new:
            sizes.append(new)
            known += new
    return sizes


def test_each_window_is_twice_as_large_up_to_the_largest() -> None:
    count = 32 + 64 + 128 + 256 + 512 + 1024 + 1024 + 7
    desk = Desk(range(FIRST, FIRST + count))
    desk.stations.update(dict.fromkeys(range(FIRST, FIRST + count), STATION))
    assert windows(desk) == [WINDOW, 64, 128, 256, 512, LARGEST_WINDOW, LARGEST_WINDOW, 7]
    assert desk.failure() == (
        f"no free address left: {count} in use; all of them answered from one MAC (is it a proxy?); widen the range, "
        "or release some"
    )


def test_without_an_address_of_our_own_the_windows_are_small() -> None:
    desk = Desk(range(FIRST, FIRST + 10), own_address=0)
    desk.shy.update(range(FIRST, FIRST + 10))
    assert windows(desk) == [SMALL_WINDOW, SMALL_WINDOW, 2]


# The end of the pool.


def test_a_full_pool_tells_what_is_in_the_way() -> None:
    desk = Desk(
        range(FIRST, FIRST + 6),
        reserve=lambda address: address not in {FIRST + 4, FIRST + 5},
        local_addresses=frozenset({FIRST}),
    )
    desk.stations.update({FIRST + n: bytes([2, 0, 0, 0, 1, n]) for n in (1, 2, 3)})
    desk.run()
    assert isinstance(desk.search.error, PoolExhaustedError)
    assert desk.failure() == (
        "no free address left: 4 in use, 2 leased or reserved on this host; widen the range, or release some"
    )
    assert FIRST not in desk.asked(probes=False)
    assert desk.search.deadline is None


@pytest.mark.parametrize(("count", "macs", "said"), [(33, 1, True), (32, 1, False), (40, 2, False)])
def test_a_proxy_is_suspected_where_many_answer_from_one_mac(count: int, macs: int, said: bool) -> None:  # noqa: FBT001 - what is expected
    desk = Desk(range(FIRST, FIRST + count))
    desk.stations.update({FIRST + n: bytes([2, 0, 0, 0, 1, n % macs]) for n in range(count)})
    desk.run()
    assert ("is it a proxy?" in desk.failure()) is said


def test_what_cannot_be_reserved_is_asked_for_once_and_left_alone() -> None:
    asked: list[int] = []

    def reserve(address: int) -> bool:
        asked.append(address)
        return address == FIRST + 2

    desk = Desk(reserve=reserve)
    desk.shy.add(FIRST + 2)
    desk.run()
    assert asked == [FIRST, FIRST + 1, FIRST + 2]
    assert desk.returned == [FIRST + 2]
    assert set(desk.asked(probes=True)) == {FIRST + 2}
    assert desk.failure().startswith("no free address left: 1 in use, 2 leased or reserved on this host;")


# What makes it end without an address.


def test_an_address_that_cannot_be_judged_ends_the_search_with_the_reason() -> None:
    desk = Desk(budget=1.0)
    while desk.search.probing is None:
        desk.step()
    del desk.stations[WITNESS]
    desk.search.probing.overflow(1, desk.now)
    desk.run()
    assert isinstance(desk.search.error, UnknownError)
    assert desk.failure().startswith("no answer from witness 10.0.0.1: ")
    assert desk.returned == [FIRST]


def test_a_station_that_answers_for_everything_ends_the_search_before_anything_is_probed() -> None:
    desk = Desk()
    desk.stations.update(dict.fromkeys([CANARY, *range(FIRST, FIRST + 3)], STATION))
    desk.run()
    assert isinstance(desk.search.error, UnknownError)
    assert desk.failure() == desk.search.canary.doubt()
    assert desk.asked(probes=True) == []


def probing_of(desk: Desk) -> Probing:
    while desk.search.probing is None:
        desk.step()
    return desk.search.probing


def test_what_is_of_interest_follows_what_may_still_be_chosen() -> None:
    desk = Desk(range(FIRST, FIRST + 5))
    interest = desk.search.interest
    assert interest is not None
    assert interest.span == (FIRST, FIRST + 4)
    assert interest.addresses == frozenset()
    assert interest.macs == {MINE, BRIDGE}
    assert interest.senders == {CANARY}
    desk.stations.update(dict.fromkeys([FIRST, FIRST + 4], STATION))
    probing_of(desk)
    interest = desk.search.interest
    assert interest is not None
    assert interest.span == (FIRST + 1, FIRST + 3)
    assert interest.addresses == {FIRST + 1}


# Reservations that are answered later, and pauses that are over.


def waiting() -> tuple[Desk, list[int]]:
    """A search that waits for the answer to its first reservation, and what it has asked for."""
    asked: list[int] = []
    desk = Desk(reserve=asked.append)  # None: not answered yet
    while not asked:
        desk.step()
    assert asked == [FIRST]
    assert desk.search.deadline is None
    assert desk.search.probing is None
    return desk, asked


def test_what_is_granted_later_is_probed_from_then_on() -> None:
    desk, _ = waiting()
    desk.now += 3.0
    desk.search.answer(granted=True, now=desk.now)
    probing = probing_of(desk)
    assert list(probing.acds) == [FIRST]
    assert probing.deadline >= desk.now
    assert desk.search._last_try == desk.now
    desk.run()
    assert desk.search.found is not None
    assert desk.returned == []


@pytest.mark.parametrize("heard", ["station", "rival"])
def test_what_is_granted_though_it_is_anothers_by_now_is_returned_and_the_next_asked_for(heard: str) -> None:
    desk, asked = waiting()
    if heard == "station":
        desk.hear(arp.REPLY, STATION, FIRST, OWN_ADDRESS, BRIDGE)
    else:
        desk.hear(arp.REQUEST, RIVAL, 0, FIRST, arp.NO_MAC)
    desk.search.answer(granted=True, now=desk.now)
    assert desk.returned == [FIRST]
    assert asked == [FIRST, FIRST + 1]
    assert desk.search.deadline is None
    assert desk.search.probing is None


def test_what_is_granted_on_a_link_where_one_answers_for_everything_is_returned() -> None:
    desk, _ = waiting()
    desk.hear(arp.REPLY, STATION, CANARY, OWN_ADDRESS, BRIDGE)
    desk.search.answer(granted=True, now=desk.now)
    assert desk.returned == [FIRST]
    assert isinstance(desk.search.error, UnknownError)


def test_what_is_refused_later_counts_as_reserved() -> None:
    desk, asked = waiting()
    for _ in range(3):
        desk.search.answer(granted=False, now=desk.now)
    assert asked == [FIRST, FIRST + 1, FIRST + 2]
    assert desk.returned == []
    while not desk.search.done:
        desk.step()
    assert "3 leased or reserved on this host" in desk.failure()


def test_without_any_witness_there_is_no_search() -> None:
    desk = Desk(witnesses=())
    desk.run()
    assert isinstance(desk.search.error, UnknownError)
    assert desk.failure() == NO_WITNESS


def test_when_the_pause_after_a_contention_is_over_it_chooses_at_once() -> None:
    desk = Desk()
    desk.rivals.add(FIRST)
    while not desk.search.contentions:
        desk.step()
    due = desk.search.deadline
    assert due is not None
    desk.search.advance(due)
    assert desk.search.probing is not None


def test_when_the_pause_at_the_end_of_the_pool_is_over_what_was_contended_is_asked_for_anew() -> None:
    desk = Desk([FIRST])
    desk.rivals.add(FIRST)
    while not desk.search._contended:
        desk.step()
    due = desk.search.deadline
    assert due is not None
    desk.now = due
    desk.search.advance(due)
    assert desk.search._contended == []
    assert desk.search._rivals == {}
    assert desk.search.survey.silent == {FIRST: 0}
    before = len(desk.left)
    desk.flush()
    asked = [(packet.sender_mac, packet.target_ip) for _, packet in desk.left[before:]]
    assert (BRIDGE, WITNESS) in asked
    assert (BRIDGE, FIRST) in asked
    after = desk.search.deadline
    assert after is not None
    assert after > due
