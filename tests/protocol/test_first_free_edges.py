"""The search for a free address, moment by moment: what it asks again, and when it waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from arpipam.errors import PoolExhaustedError
from arpipam.protocol import arp
from arpipam.protocol.timing import ADAPTIVE
from tests.support.first_free import BRIDGE, CANARY, FIRST, MINE, NET, RIVAL, STATION, WITNESS, Desk


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


def test_what_this_host_uses_itself_is_in_use_though_no_survey_shows_it() -> None:
    desk = Desk()
    while desk.search.probing is None:
        desk.step()
    desk.hear(arp.REQUEST, BRIDGE, FIRST, FIRST, arp.NO_MAC)
    while desk.search.probing is not None:
        desk.step()
    assert desk.search.survey.answers[FIRST].mac == BRIDGE
    desk.run()
    assert desk.search.found is not None
    assert desk.search.found.acd.address == FIRST + 1
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
    for after, expected in ((0.0, FIRST + 1), (0.4, FIRST)):
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
    desk.step()  # the pause is over
    assert desk.search.probing is None
    sent = len(desk.left)
    desk.flush()
    assert {packet.target_ip for _, packet in desk.left[sent:]} == {
        FIRST,
        WITNESS,
        CANARY,
    }  # asked anew, and listened to
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
