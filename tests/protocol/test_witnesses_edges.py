"""The witnesses at their bounds: which probes count, whose answers, and how many are enough."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from arpipam.protocol.timing import ADAPTIVE, LAN, PROBE_NUM, RFC5227, Timing
from arpipam.protocol.witnesses import (
    LEAST_ROUNDS,
    MOST_WITNESSES,
    UNPROBED_ROUNDS,
    LinkWitnesses,
    SearchWitnesses,
    miss_probability,
)


def witnesses(*required: int, link: LinkWitnesses | None = None, bound: float = 1e-6) -> SearchWitnesses:
    return SearchWitnesses(ADAPTIVE, bound=bound, required=required, link=link)


def test_the_formula() -> None:
    assert miss_probability(1, 0, 0) == pytest.approx(1 / 2)
    assert miss_probability(1, 3, 1) == pytest.approx(2 / 6)
    assert miss_probability(2, 3, 1) == pytest.approx((2 * 3) / (6 * 7))
    assert miss_probability(0, 5, 2) == pytest.approx(1)


# The link.


def test_a_round_trip_is_lengthened_slowly_and_shortened_fast() -> None:
    link = LinkWitnesses()
    link.measure(0.1)
    assert link.round_trip == 0.1
    link.measure(0.18)
    assert link.round_trip == pytest.approx(0.11)
    link.measure(0.01)
    assert link.round_trip == pytest.approx(0.06)
    link.measure(0.06)
    assert link.round_trip == pytest.approx(0.06)


def test_a_search_learns_the_round_trip_anew_after_three_seconds_without_questions() -> None:
    for rest, kept in ((3.0, 0.1), (3.001, None)):
        link = LinkWitnesses()
        link.measure(0.1)
        link.sent(7, 5.0)
        link.join(5.0 + rest)
        assert link.round_trip == kept
    link = LinkWitnesses()
    link.measure(0.1)
    link.join(0.0)  # the very first search
    assert link.round_trip is None


def test_requests_are_remembered_for_just_so_long() -> None:
    link = LinkWitnesses(memory=10.0)
    for at in (1.0, 2.0, 3.0):
        link.sent(7, at)
    link.sent(8, 3.5)
    link.sent(9, 12.5)  # the first sweep was at 1.0
    assert [question.at for question in link.since(7, 0.0)] == [3.0]
    assert [question.at for question in link.since(8, 0.0)] == [3.5]
    link.sent(9, 23.0)
    assert set(link._questions) == {9}


def test_what_counts_for_a_search_are_requests_since_it_began() -> None:
    link = LinkWitnesses()
    for at in (0.5, 1.0, 2.0, 3.0):
        link.sent(7, at)
    assert [question.at for question in link.since(7, 1.0)] == [3.0, 2.0, 1.0]
    assert list(link.since(9, 0.0)) == []
    assert set(link._questions) == {7}


def test_an_answer_is_one_to_the_youngest_request_if_that_still_waits() -> None:
    link = LinkWitnesses()
    assert link.heard(7, 1.0, 5.0) is None
    link.sent(7, 1.0)
    link.sent(7, 2.0)
    assert link.heard(7, 3.0, 0.9) is None  # too old
    assert link.heard(7, 3.0, 1.0) == 1.0
    assert link.heard(7, 3.1, 9.0) is None  # the older one may have been answered by the same frame
    assert [question.answered for question in link.since(7, 0.0)] == [True, False]


# One search.


def test_so_many_stations_are_asked_along_and_each_once() -> None:
    subject = witnesses(1)
    for address in (1, 5, 5, 6, 7, 8, 9):
        subject.add(address)
    assert subject.found == [5, 6, 7, 8]
    assert len(subject.found) == MOST_WITNESSES
    assert list(subject.all()) == [1, 5, 6, 7, 8]
    assert SearchWitnesses(ADAPTIVE, bound=1e-6, required=[3, 1, 3]).required == (3, 1)


def test_the_pace_is_two_round_trips_within_the_bounds_of_the_timing() -> None:
    subject = witnesses(1)
    assert subject.gap() == ADAPTIVE.announce_wait
    assert SearchWitnesses(replace(LAN, announce_wait=0.01), bound=1e-6, required=[1]).gap() == LAN.probe_min
    for round_trip, gap in ((0.001, 0.02), (0.1, 0.2), (0.4, 0.5)):
        subject = witnesses(1)
        subject.measure(round_trip)
        assert subject.gap() == pytest.approx(gap)
    assert SearchWitnesses(ADAPTIVE, bound=1e-6, alone=True).gap() == ADAPTIVE.probe_min


def test_it_listens_for_the_slowest_that_must_answer_or_else_for_the_fastest() -> None:
    subject = witnesses(1, 2)
    subject.add(3)
    subject.add(4)
    for witness, round_trip in ((1, 0.2), (2, 0.4), (3, 0.8), (4, 0.6)):
        subject.sent(witness, 1.0)
        subject.heard(witness, 1.0 + round_trip)
    assert subject.settle() == pytest.approx(0.5)
    subject = witnesses()
    subject.add(3)
    assert subject.settle() == ADAPTIVE.announce_wait
    subject.add(4)
    for witness, round_trip in ((3, 0.8), (4, 0.6)):
        subject.sent(witness, 1.0)
        subject.heard(witness, 1.0 + round_trip)
    assert subject.settle() == pytest.approx(0.75)


def test_the_first_round_trip_is_counted_from_the_first_probe_and_stays() -> None:
    subject = witnesses(1)
    subject.sent(1, 1.0)
    subject.sent(1, 1.3)
    subject.heard(1, 1.4)
    assert subject.settle() == pytest.approx(0.5)
    subject.sent(1, 1.85)
    subject.heard(1, 1.86)
    assert subject.settle() == pytest.approx(0.5)
    subject.sent(1, 2.5)  # no other one can be answered
    subject.heard(1, 2.7)
    assert subject.settle() == pytest.approx(0.25)


def test_a_silence_that_a_cut_has_made_is_no_round_trip() -> None:
    """A search that begins when the link is whole again listens as long as it would have before."""
    link = LinkWitnesses()
    before = witnesses(1, link=link)
    for n in range(100):
        before.sent(1, n * 0.02)
    after = witnesses(1, link=link)
    link.join(2.0)
    after.sent(1, 2.0)
    after.heard(1, 2.001)
    assert after.settle() == ADAPTIVE.announce_wait
    running = witnesses(1)
    for n in range(100):
        running.sent(1, n * 0.02)
    running.heard(1, 2.0)
    assert running.settle() == pytest.approx(0.75)  # and ends within its budget


def test_the_first_answer_may_take_three_seconds_and_later_ones_as_long_as_the_candidate() -> None:
    subject = witnesses(1)
    subject.sent(1, 1.0)
    subject.heard(1, 4.0)
    assert subject.answers(1) == 1
    subject = witnesses(1)
    subject.sent(1, 1.0)
    subject.heard(1, 4.1)
    assert subject.answers(1) == 0
    subject = witnesses(1)
    subject.sent(1, 1.0)
    subject.heard(1, 1.001)
    subject.sent(1, 2.0)
    subject.heard(1, 2.101)
    assert subject.answers(1) == 1


def test_a_probe_is_overdue_after_three_quarters_of_the_pace() -> None:
    subject = witnesses(1)
    subject.sent(1, 1.0)
    subject.heard(1, 1.04)  # a pace of 80 ms
    subject.sent(1, 2.0)
    assert subject.miss(4, 2.059) == pytest.approx(miss_probability(4, 1, 0))
    assert subject.miss(4, 2.061) == pytest.approx(miss_probability(4, 1, 1))


def test_the_chance_of_all_together_or_that_of_the_worst_which_must_answer() -> None:
    subject = witnesses(1, 2)
    subject.add(3)
    subject.reset(0.0)
    for witness, answers in ((1, 9), (2, 5), (3, 9)):
        for n in range(10):
            subject.sent(witness, float(n))
            if n < answers:
                subject.heard(witness, n + 0.001)
    assert subject.miss(4, 100.0) == pytest.approx(miss_probability(4, 5, 5))
    assert subject.loss() == pytest.approx(7 / 30)
    good = witnesses(1, 2)
    for witness in (1, 2):
        for n in range(10):
            good.sent(witness, float(n))
            good.heard(witness, n + 0.001)
    assert good.miss(4, 100.0) == pytest.approx(miss_probability(4, 20, 0))
    assert good.loss() == 0.0
    assert good.answers(1) == 10


def test_no_figure_without_an_answer() -> None:
    subject = witnesses(1)
    assert subject.miss(4, 1.0) is None
    assert subject.loss() == 0.0
    subject.sent(1, 1.0)
    assert subject.miss(4, 9.0) is None
    assert subject.loss() == 1.0
    assert not subject.answered()


def test_how_many_probes_are_enough() -> None:
    fixed = SearchWitnesses(LAN, bound=1e-6, required=[1])
    assert [fixed.enough(probes, 1.0) for probes in (2, 3)] == [False, True]
    alone = SearchWitnesses(ADAPTIVE, bound=1e-6, alone=True)
    assert [alone.enough(probes, 1.0) for probes in (LEAST_ROUNDS - 1, LEAST_ROUNDS)] == [False, True]
    subject = witnesses(1, bound=0.5)
    assert not subject.enough(9, 9.0)
    for n in range(3):
        subject.sent(1, float(n))
        subject.heard(1, n + 0.001)
    assert [subject.enough(probes, 9.0) for probes in (LEAST_ROUNDS - 1, LEAST_ROUNDS)] == [False, True]
    exact = witnesses(1, bound=miss_probability(4, 3, 0))
    for n in range(3):
        exact.sent(1, float(n))
        exact.heard(1, n + 0.001)
    assert exact.enough(4, 9.0)
    exact.reset(2.5)
    assert not exact.enough(4, 9.0)


def test_a_station_that_is_no_witness_is_not_heard() -> None:
    link = LinkWitnesses()
    link.sent(9, 1.0)
    subject = witnesses(1, link=link)
    subject.heard(9, 1.1)
    assert subject.round_trip is None
    assert [question.answered for question in link.since(9, 0.0)] == [False]


# Which rounds carry a probe.


def rounds(subject: SearchWitnesses, *, answers: int = 1000) -> list[bool]:
    """Round by round to the end, each a request to the witnesses and one to the candidate: whether it carries a probe.

    They answer the first so many at once.
    """
    subject.reset(0.0)
    carried: list[bool] = []
    while not (sum(carried) >= PROBE_NUM and subject.enough(len(carried), len(carried) * 0.02)):
        assert len(carried) < 300
        now = len(carried) * 0.02
        carried.append(subject.probe_is_due(len(carried), sum(carried), now))
        for witness in subject.all():
            subject.sent(witness, now)
            if len(carried) <= answers:
                subject.heard(witness, now + 0.001)
    return carried


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_the_third_round_and_the_last_two_carry_a_probe(count: int) -> None:
    carried = rounds(witnesses(*range(1, count + 1)))
    needed = next(n for n in range(LEAST_ROUNDS, 99) if miss_probability(n, n * count, 0) <= 1e-6)
    assert needed >= 5
    assert carried == [False, False, True, *[False] * (needed - 5), True, True]


def test_where_there_are_few_rounds_the_last_three_do() -> None:
    assert rounds(witnesses(*range(1, 60))) == [False, True, True, True]


def test_alone_it_is_the_same() -> None:
    assert rounds(SearchWitnesses(ADAPTIVE, bound=1e-6, alone=True)) == [False, True, True, True]


@pytest.mark.parametrize("timing", [LAN, RFC5227], ids=lambda timing: timing.name)
def test_of_a_fixed_timing_each_round_carries_one(timing: Timing) -> None:
    assert rounds(SearchWitnesses(timing, bound=1e-6, required=[1])) == [True, True, True]


def test_while_a_witness_is_silent_there_is_no_second_probe() -> None:
    subject = witnesses(1)
    subject.reset(0.0)
    for n in range(200):
        assert subject.probe_is_due(n, int(n > UNPROBED_ROUNDS), n * 0.02) == (n == UNPROBED_ROUNDS)
        subject.sent(1, n * 0.02)


def test_on_a_lossy_link_there_are_three_probes_too_and_the_second_comes_late() -> None:
    for seed in range(20):
        subject, rng = witnesses(1), random.Random(seed)
        subject.reset(0.0)
        carried: list[bool] = []
        while not (sum(carried) >= PROBE_NUM and subject.enough(len(carried), len(carried) * 0.02)):
            now = len(carried) * 0.02
            carried.append(subject.probe_is_due(len(carried), sum(carried), now))
            subject.sent(1, now)
            if rng.random() < 0.5:
                subject.heard(1, now + 0.001)
        assert sum(carried) == PROBE_NUM
        assert carried.index(True) == UNPROBED_ROUNDS
        assert carried.index(True, UNPROBED_ROUNDS + 1) >= 10


def test_one_lost_answer_of_one_that_must_answer_is_enough_to_be_judged_alone() -> None:
    subject = witnesses(1, 2)
    for witness, answers in ((1, 9), (2, 10)):
        for n in range(10):
            subject.sent(witness, float(n))
            if n < answers:
                subject.heard(witness, n + 0.001)
    assert subject.miss(4, 100.0) == pytest.approx(miss_probability(4, 9, 1))


def test_the_share_that_was_lost_and_the_share_that_is_likely_to_be() -> None:
    subject = witnesses(1, 2)
    assert (subject.loss(), subject.likely_loss()) == (0.0, 0.5)
    for witness, answers in ((1, 4), (2, 3)):
        for n in range(5):
            subject.sent(witness, float(n))
            if n < answers:
                subject.heard(witness, n + 0.001)
    assert subject.loss() == pytest.approx(3 / 10)
    assert subject.likely_loss() == pytest.approx(3.5 / 11)


def test_at_the_end_of_the_patience_a_probe_is_overdue() -> None:
    subject = witnesses(1)
    subject.sent(1, 2.0)
    assert subject.counts(1, 2.25, 0.5) == (0, 0)
    assert subject.counts(1, 2.5, 0.5) == (0, 1)
