"""The requests to witnesses that searches on one link share: what counts for which search."""

from __future__ import annotations

import random
from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.protocol.timing import ADAPTIVE, RFC5227
from arpipam.protocol.witnesses import SELDOM, LinkWitnesses, SearchWitnesses

WITNESS, OTHER = 1, 2


def witnesses(link: LinkWitnesses, *required: int) -> SearchWitnesses:
    return SearchWitnesses(ADAPTIVE, bound=1e-6, required=required, link=link)


def counts(subject: SearchWitnesses, now: float = 100.0) -> tuple[int, int]:
    return subject.counts(WITNESS, now, 0.015)


def test_what_one_search_asks_counts_for_all() -> None:
    link = LinkWitnesses()
    one, two = witnesses(link, WITNESS), witnesses(link, WITNESS)
    one.sent(WITNESS, 0.0)
    one.heard(WITNESS, 0.001)
    two.sent(WITNESS, 0.02)
    one.sent(WITNESS, 0.04)
    one.heard(WITNESS, 0.041)
    assert counts(one) == counts(two) == (2, 1)


def test_what_was_sent_before_a_trial_began_does_not_count_even_if_it_is_answered_later() -> None:
    link = LinkWitnesses()
    one, two = witnesses(link, WITNESS), witnesses(link, WITNESS)
    one.sent(WITNESS, 0.0)
    two.reset(0.001)
    one.heard(WITNESS, 0.002)
    assert counts(one) == (1, 0)
    assert counts(two) == (0, 0)
    one.sent(WITNESS, 0.02)
    one.heard(WITNESS, 0.021)
    assert counts(two) == (1, 0)


def test_an_answer_that_all_searches_are_shown_counts_once() -> None:
    link = LinkWitnesses()
    searches = [witnesses(link, WITNESS) for _ in range(3)]
    searches[0].sent(WITNESS, 0.0)
    searches[0].sent(WITNESS, 0.02)
    for subject in searches:
        subject.heard(WITNESS, 0.021)
    assert [counts(subject) for subject in searches] == [(1, 1)] * 3


def test_an_answer_counts_if_it_comes_within_the_time_that_the_candidate_has() -> None:
    for late, counted in ((0.09, (2, 0)), (0.11, (1, 1))):
        one = witnesses(LinkWitnesses(), WITNESS)
        one.sent(WITNESS, 0.0)
        one.heard(WITNESS, 0.001)
        one.sent(WITNESS, 1.0)
        one.heard(WITNESS, 1.0 + late)
        assert counts(one) == counted


def test_what_may_still_be_answered_counts_neither_way() -> None:
    link = LinkWitnesses()
    one, two = witnesses(link, WITNESS), witnesses(link, WITNESS)
    one.sent(WITNESS, 0.0)
    assert counts(two, 0.014) == (0, 0)
    assert counts(two, 0.016) == (0, 1)


def test_a_witness_has_to_answer_since_the_trial_began() -> None:
    link = LinkWitnesses()
    one, two = witnesses(link, WITNESS), witnesses(link, WITNESS)
    for n in range(50):
        one.sent(WITNESS, n * 0.02)
        one.heard(WITNESS, n * 0.02 + 0.001)
    assert one.enough(50, 2.0)
    assert two.enough(50, 2.0)
    two.reset(2.0)
    assert two.silent() == [WITNESS]
    assert not two.enough(50, 2.0)


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3, 0.5])
def test_the_stated_chance_is_at_least_the_observed_one_for_searches_that_share(loss: float) -> None:
    """Four at a time, one a little after the other, of which each asks for an address that is used."""
    rng = random.Random(7)
    bound, missed, trials = 0.01, 0, 0

    def lost() -> bool:
        return rng.random() < loss

    for _ in range(500):
        link = LinkWitnesses()
        running = {n: SearchWitnesses(ADAPTIVE, bound=bound, required=[WITNESS], link=link) for n in range(4)}
        trials += len(running)
        rounds = Counter[int]()
        for step in range(400):
            now, number = step * 0.006, step % 4  # each has its turn every 24 ms
            subject = running.get(number)
            if subject is None:
                continue
            if subject.enough(rounds[number], now):
                missed += 1
                del running[number]
                continue
            rounds[number] += 1
            if subject.is_due(WITNESS, now):
                subject.sent(WITNESS, now)
                if not lost():
                    for hearer in running.values():
                        hearer.heard(WITNESS, now + 0.001)
            if not lost():  # the owner of the address has answered
                del running[number]
    assert missed / trials <= 2 * bound


def test_a_witness_is_due_half_a_gap_after_any_search_asked_it() -> None:
    link = LinkWitnesses()
    one, two = witnesses(link, WITNESS), witnesses(link, WITNESS, OTHER)
    assert one.gap() == 0.1
    assert one.is_due(WITNESS, 1.0)
    assert not two.is_due(WITNESS, 1.0)
    assert two.is_due(OTHER, 1.0)  # which only this one asks for
    assert not two.is_due(WITNESS, 1.04)
    assert two.is_due(WITNESS, 1.06)


def test_a_round_trip_is_learnt_from_all_and_forgotten_when_the_link_rests() -> None:
    link = LinkWitnesses()
    one, two = witnesses(link, WITNESS), witnesses(link, WITNESS)
    link.join(0.0)
    one.sent(WITNESS, 0.0)
    one.heard(WITNESS, 0.2)
    link.join(0.5)
    assert two.gap() == pytest.approx(0.4)
    assert two.settle() == pytest.approx(0.25)
    link.join(4.0)
    assert two.gap() == witnesses(LinkWitnesses(), WITNESS).gap()
    assert two.settle() == ADAPTIVE.announce_wait


def test_it_remembers_as_much_as_a_trial_may_need_and_no_more() -> None:
    link = LinkWitnesses(memory=3.0)
    for n in range(1000):
        now = n * 0.02
        witness = WITNESS if n < 500 else OTHER
        assert link.is_due(witness, now, 0.01)
        link.sent(witness, now)
    assert list(link.since(WITNESS, 0.0)) == []
    kept = list(link.since(OTHER, 0.0))
    assert 3.0 <= kept[0].at - kept[-1].at <= 6.1  # swept once in that time
    assert set(link._questions) == set(link._asked) == {OTHER}


# Where the interface has no address, each question is a probe.


def probed(link: LinkWitnesses) -> SearchWitnesses:
    return SearchWitnesses(RFC5227, bound=1e-6, required=[WITNESS], seldom=True, link=link)


def test_who_has_answered_a_probe_is_left_alone_and_its_answer_stands() -> None:
    link = LinkWitnesses(memory=SELDOM)
    one = probed(link)
    one.reset(0.0)
    assert one.is_due(WITNESS, 0.0)
    one.sent(WITNESS, 0.0)
    assert one.is_due(WITNESS, 1.0)  # it has not answered
    one.sent(WITNESS, 1.0)
    one.heard(WITNESS, 1.1)
    for later in (1.5, 10.0, 30.9):
        two = probed(link)
        two.reset(later)
        assert not two.is_due(WITNESS, later)
        assert two.silent() == []
        assert two.answered()
    three = probed(link)
    three.reset(31.2)
    assert three.silent() == [WITNESS]
    assert three.is_due(WITNESS, 31.2)


def test_a_station_that_a_probe_has_found_is_not_probed_again_nor_is_the_canary() -> None:
    subject = SearchWitnesses(RFC5227, bound=1e-6, seldom=True)
    subject.add(OTHER)
    assert subject.answered()
    assert not subject.is_due(OTHER, 1.0)
    assert subject.is_due(9, 1.0)
    assert not subject.is_due(9, 30.9)


def test_under_another_timing_they_are_the_same_witnesses() -> None:
    one = SearchWitnesses(RFC5227, bound=1e-6, required=[WITNESS], seldom=True, lately=[WITNESS])
    one.add(OTHER)
    one.local.add(3)
    two = one.under(ADAPTIVE)
    assert (two.answers(WITNESS), two.answers(OTHER), two.answers(9)) == (1, 1, 0)
    assert two.local == {3}
    two.local.add(4)  # a count of their own
    assert one.local == {3}


def test_by_probes_no_bound_is_stated() -> None:
    subject = probed(LinkWitnesses())
    subject.sent(WITNESS, 1.0)
    subject.heard(WITNESS, 1.1)
    assert subject.miss(3, 9.0) is None
    assert subject.enough(3, 9.0)


# Requests of three searches in milliseconds: the pause before each, who sends it, and how long the answer takes, if
# there is one.
REQUESTS = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 2), st.none() | st.integers(1, 50)), max_size=60)


@given(REQUESTS, st.integers(0, 1000))
def test_no_search_counts_more_answers_than_there_were(requests: list[tuple[int, int, int | None]], start: int) -> None:
    """Whoever asked, and whenever the trial began; each answer comes before the next request, or never."""
    link = LinkWitnesses()
    searches = [witnesses(link, WITNESS) for _ in range(3)]
    times = list(accumulate(pause for pause, *_ in requests))
    events = [(start, 0, 0)]
    sent = answered = 0
    for n, (at, (_, who, delay)) in enumerate(zip(times, requests, strict=True)):
        arrives = delay is not None and at + delay < (times[n + 1] if n + 1 < len(times) else 9999)
        events.append((at, 1, who))
        if arrives:
            events.append((at + (delay or 0), 2, who))
        if at >= start:
            sent += 1
            answered += arrives
    for milliseconds, what, who in sorted(events):
        now = milliseconds / 1000
        if what == 0:
            for subject in searches:
                subject.reset(now)
        elif what == 1:
            searches[who].sent(WITNESS, now)
        else:
            for subject in searches:
                subject.heard(WITNESS, now)
    for subject in searches:
        s, f = counts(subject)
        assert s <= answered  # one that is overdue counts as lost
        assert s + f == sent
