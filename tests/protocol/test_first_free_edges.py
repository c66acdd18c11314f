"""The search for a free address, moment by moment: what it asks again, when it waits, and when it gives up."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.errors import PoolExhaustedError, UnknownError
from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.first_free import LARGEST_WINDOW, WINDOW, FirstFree
from arpipam.protocol.parameters import Parameters
from arpipam.protocol.search import SMALL_WINDOW
from arpipam.protocol.timing import ADAPTIVE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from arpipam.protocol.probing import Probing

NET = 0x0A00_0000
CANARY, WITNESS, FIRST = NET, NET + 1, NET + 2
OWN_ADDRESS = NET + 0xFFF0
BRIDGE, MINE, HOST, STATION, RIVAL = (bytes([2, 0, 0, 0, 0, n]) for n in range(1, 6))


class Desk:
    """A search, its clock, and the stations of its link.

    `stations` answer whatever asks for them; `shy` ones answer nothing but probes, as where the answer to the survey
    was lost; `rivals` probe for an address as soon as we do.
    """

    def __init__(
        self,
        candidates: Iterable[int] = range(FIRST, FIRST + 3),
        *,
        seed: int = 1,
        now: float = 100.0,
        reserve: Any = None,
        **changes: Any,
    ) -> None:
        known: dict[str, Any] = {"own_address": OWN_ADDRESS, "witnesses": (WITNESS,), "canary": CANARY}
        self.now = now
        self.stations: dict[int, bytes] = {WITNESS: HOST}
        self.shy: set[int] = set()
        self.rivals: set[int] = set()
        self.returned: list[int] = []
        self.left: list[tuple[float, ArpPacket]] = []
        self.search = FirstFree(
            iter(candidates),
            MINE,
            Parameters(BRIDGE, local_macs=frozenset({BRIDGE}), **(known | changes)),
            rng=random.Random(seed),
            now=now,
            reserve=reserve or (lambda _: True),
            unreserve=self.returned.append,
        )

    def hear(self, operation: int, mac: bytes, sender: int, target: int, to: bytes) -> None:
        self.search.receive(ArpPacket(operation, mac, sender, to, target, mac, to), self.now)

    def flush(self) -> None:
        """Let all frames leave, and those that are there answer at once."""
        busy = True
        while busy:
            busy = False
            for outbox in list(self.search.outboxes()):
                while frames := outbox.peek(1):
                    busy = True
                    packet = arp.dissect(frames[0])
                    assert isinstance(packet, ArpPacket)
                    outbox.sent(1, self.now)
                    self.left.append((self.now, packet))
                    self._answer(packet)

    def _answer(self, packet: ArpPacket) -> None:
        target = packet.target_ip
        if packet.is_probe and target in self.rivals:
            self.hear(arp.REQUEST, RIVAL, 0, target, arp.NO_MAC)
        elif target in self.stations or (target in self.shy and packet.is_probe):
            mac = self.stations.get(target, STATION)
            self.hear(arp.REPLY, mac, target, packet.sender_ip, packet.sender_mac)

    def step(self) -> None:
        self.flush()
        due = self.search.deadline
        if due is not None:
            self.now = max(self.now, due)
            self.search.advance(self.now)

    def run(self, until: float = float("inf")) -> Desk:
        """To the end, or as far as a moment."""
        while not self.search.done:
            self.flush()
            due = self.search.deadline
            assert due is not None
            if due > until:
                break
            self.step()
        return self

    def asked(self, *, probes: bool) -> list[int]:
        """The candidates that were asked for by ordinary requests, or probed."""
        wanted = [packet for _, packet in self.left if packet.is_probe is probes]
        return [packet.target_ip for packet in wanted if packet.target_ip not in {WITNESS, CANARY}]

    def first_probes(self) -> dict[int, float]:
        """When each candidate was probed first."""
        first: dict[int, float] = {}
        for when, packet in self.left:
            if packet.is_probe and packet.target_ip not in {WITNESS, CANARY}:
                first.setdefault(packet.target_ip, when)
        return first

    def failure(self) -> str:
        assert self.search.error is not None
        assert self.search.found is None
        return str(self.search.error)


def test_what_is_found_and_what_it_rests_on() -> None:
    desk = Desk()
    desk.stations[FIRST] = STATION
    desk.run()
    found = desk.search.found
    assert found is not None
    assert found.acd.address == FIRST + 1
    assert (found.probed, found.in_use) == (3, 1)
    assert found.elapsed == pytest.approx(desk.now - 100.0)
    assert found.miss_probability is not None
    assert found.miss_probability <= 1e-6
    assert desk.search.error is None
    assert desk.search.deadline is None
    assert desk.returned == []
    assert desk.asked(probes=True).count(FIRST + 1) == found.acd.probes
    assert FIRST + 2 not in desk.asked(probes=True)
    assert set(desk.asked(probes=False)) == {FIRST, FIRST + 1, FIRST + 2}


def test_after_a_miss_the_survey_is_repeated_for_all_that_are_silent_and_listened_to() -> None:
    tried: list[int] = []
    desk = Desk(reserve=lambda address: tried.append(address) or True)  # type: ignore[func-returns-value]
    desk.shy.add(FIRST)
    while desk.search.survey.answers.get(FIRST) is None:
        desk.step()
    missed = desk.now
    before = desk.asked(probes=False).count(FIRST + 2)
    desk.stations[FIRST + 1] = STATION  # it was there all the time
    desk.flush()
    assert desk.asked(probes=False).count(FIRST + 2) == before + 1
    assert desk.search.deadline is not None
    assert desk.search.deadline > missed
    desk.run()
    assert desk.search.found is not None
    assert desk.search.found.acd.address == FIRST + 2
    assert tried == [FIRST, FIRST + 2]
    assert desk.search.found.in_use == 2
    assert desk.returned == [FIRST]


# RFC 5227, 2.1.1: the rate limit.


def limited(**changes: Any) -> Any:
    return replace(ADAPTIVE, max_conflicts=2, rate_limit_interval=5.0, **changes)


def test_after_so_many_conflicts_candidates_come_at_the_limited_rate() -> None:
    desk = Desk(range(FIRST, FIRST + 5), timing=limited())
    desk.shy.update(range(FIRST, FIRST + 4))
    desk.run()
    first = desk.first_probes()
    assert list(first) == [FIRST, FIRST + 1, FIRST + 2, FIRST + 3]
    times = list(first.values())
    assert times[1] - times[0] < 1
    assert times[2] - times[1] == pytest.approx(5.0)
    assert times[3] - times[2] == pytest.approx(5.0)
    assert desk.failure() == "others claim faster than we can: gave up after 0 contentions"  # 15 s would be too late
    assert desk.now < times[3] + 1


def test_one_conflict_fewer_is_not_limited() -> None:
    desk = Desk(timing=limited())
    desk.shy.add(FIRST)
    desk.run()
    assert desk.search.found is not None
    assert desk.now < 102


def test_it_never_waits_only_to_fail() -> None:
    desk = Desk(timing=limited(), budget=0.1)
    desk.shy.update(range(FIRST, FIRST + 3))
    desk.run()
    assert list(desk.first_probes()) == [FIRST, FIRST + 1, FIRST + 2]
    assert isinstance(desk.search.error, PoolExhaustedError)
    assert desk.now < 107


def test_where_the_interval_is_over_anyway_there_is_no_pause() -> None:
    desk = Desk(timing=limited())
    desk.shy.update({FIRST, FIRST + 1})
    while desk.search._conflicts < 2:
        desk.step()
    desk.now += 7.0
    while desk.search.probing is None and not desk.search.done:
        desk.step()
    assert desk.search._last_try == desk.now
    assert desk.now < 108.5


# Contention.


def test_after_a_contention_another_is_chosen_after_a_random_pause() -> None:
    chosen, pauses = set(), []
    for seed in range(40):
        desk = Desk(range(FIRST, FIRST + 6), seed=seed)
        desk.rivals.add(FIRST)
        while not desk.search.contentions:
            desk.step()
        contended = desk.now
        assert desk.returned == [FIRST]
        due = desk.search.deadline
        assert due is not None
        assert contended <= due <= contended + 2 * desk.search.witnesses.gap()
        pauses.append(due - contended)
        desk.run()
        assert desk.search.found is not None
        assert desk.search.contentions == 1
        chosen.add(desk.search.found.acd.address - FIRST)
    assert chosen == {1, 2, 3, 4, 5}
    assert max(pauses) > 4 * min(pauses)


def test_what_another_probes_for_is_left_to_it_for_a_moment() -> None:
    for after, expected in ((0.0, FIRST + 1), (0.3, FIRST)):
        desk = Desk()
        desk.flush()
        desk.hear(arp.REQUEST, RIVAL, 0, FIRST, arp.NO_MAC)
        if after:
            desk.now += after
            desk.search.advance(desk.now)
        desk.run()
        assert desk.search.found is not None
        assert desk.search.found.acd.address == expected


@pytest.mark.parametrize(
    ("mac", "sender", "target"),
    [(BRIDGE, 0, FIRST), (MINE, 0, FIRST), (RIVAL, 0, FIRST + 77), (RIVAL, NET + 99, FIRST)],
    ids=["of this host", "our own", "for another address", "an ordinary request"],
)
def test_what_is_no_rival_keeps_us_from_nothing(mac: bytes, sender: int, target: int) -> None:
    desk = Desk()
    desk.flush()
    desk.hear(arp.REQUEST, mac, sender, target, arp.NO_MAC)
    desk.run()
    assert desk.search.found is not None
    assert desk.search.found.acd.address == FIRST


def test_where_all_were_contended_it_looks_again_after_growing_pauses() -> None:
    desk = Desk([FIRST], timing=replace(ADAPTIVE, max_conflicts=1000))
    desk.rivals.add(FIRST)
    bounds = []
    for _ in range(7):
        contentions = desk.search.contentions
        while desk.search.contentions == contentions:
            desk.step()
        while not desk.search._contended:
            desk.step()
        due = desk.search.deadline
        assert due is not None
        bounds.append(desk.search._pause)
        assert desk.now <= due <= desk.now + bounds[-1] / 2 + 1e-9 or bounds[-1] == 2.0
        assert due <= desk.now + 2.0
    assert bounds == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    desk.rivals.clear()
    before = desk.asked(probes=False).count(FIRST)
    desk.run()
    assert desk.search.found is not None
    assert desk.search.found.acd.address == FIRST
    assert desk.asked(probes=False).count(FIRST) > before  # asked for anew before it is probed


def test_endless_contention_ends_in_time() -> None:
    desk = Desk([FIRST], timing=replace(ADAPTIVE, max_conflicts=1000))
    desk.rivals.add(FIRST)
    desk.search._give_up = 100.0 + 5.0
    desk.run()
    assert isinstance(desk.search.error, PoolExhaustedError)
    assert desk.failure() == (f"others claim faster than we can: gave up after {desk.search.contentions} contentions")
    assert 105.0 <= desk.now < 105.0 + 2.2


@pytest.mark.parametrize(("confirm", "more"), [(None, 0.0), (replace(ADAPTIVE, probe_num=3, probe_max=2.0), 6.1)])
def test_when_it_gives_up_follows_from_its_timing(confirm: Any, more: float) -> None:
    desk = Desk(timing=limited(probe_wait=0.5), budget=2.0, confirm=confirm)
    assert desk.search._give_up == pytest.approx(100.0 + 3 * (2.0 + 0.1) + 5.0 + more)


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
