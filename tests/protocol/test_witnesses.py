"""What witnesses are worth, against the figures that the formula gives and against a link that really loses."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.protocol.timing import ADAPTIVE, RFC5227
from arpipam.protocol.witnesses import SearchWitnesses, miss_probability

WITNESS = 1


def rounds_needed(witnesses: int, bound: float = 1e-6) -> int:
    return next(n for n in range(1, 100) if miss_probability(n, n * witnesses, 0) <= bound)


@pytest.mark.parametrize(("witnesses", "rounds"), [(1, 11), (3, 7), (50, 4)])
def test_rounds_without_loss(witnesses: int, rounds: int) -> None:
    assert rounds_needed(witnesses) == rounds


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 60))
def test_more_probes_lower_the_chance_and_more_loss_raises_it(probes: int, answered: int, unanswered: int) -> None:
    here = miss_probability(probes, answered, unanswered)
    assert 0 < here < 1
    assert miss_probability(probes + 1, answered, unanswered) < here
    assert miss_probability(probes, answered, unanswered + 1) > here
    assert miss_probability(probes, answered + 1, unanswered) < here


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3, 0.5])
def test_the_stated_chance_is_at_least_the_observed_one(loss: float) -> None:
    """With any fixed loss, the rule calls a used address free hardly more often than it says."""
    rng = random.Random(7)
    bound, missed, trials = 0.01, 0, 20_000
    for _ in range(trials):
        heard = answered = unanswered = probes = 0
        while not heard and (not probes or miss_probability(probes, answered, unanswered) > bound) and probes < 500:
            probes += 1
            ok = rng.random() >= loss
            answered, unanswered = answered + ok, unanswered + (not ok)
            heard = rng.random() >= loss
        missed += not heard and probes < 500
    assert missed / trials <= 2 * bound


def witnesses(**options: object) -> SearchWitnesses:
    return SearchWitnesses(ADAPTIVE, bound=1e-6, required=[WITNESS], **options)  # type: ignore[arg-type]


def play(
    subject: SearchWitnesses, rounds: int, *, round_trip: float, gap: float, lost: frozenset[int] = frozenset()
) -> float:
    """Probe the witness each `gap` seconds and let it answer; the time at the end."""
    events = [(n * gap, "sent", n) for n in range(rounds)]
    events += [(n * gap + round_trip, "heard", n) for n in range(rounds) if n not in lost]
    for now, what, _ in sorted(events):
        (subject.sent if what == "sent" else subject.heard)(WITNESS, now)
    return max(now for now, _, _ in events)


def test_without_an_answer_no_number_of_probes_is_enough() -> None:
    subject = witnesses()
    now = play(subject, 100, round_trip=0.001, gap=0.02, lost=frozenset(range(100)))
    assert subject.silent() == [WITNESS]
    assert not subject.enough(100, now + 1)
    assert subject.loss() == 1.0


def test_the_round_trip_sets_pace_and_listening() -> None:
    fast, slow = witnesses(), witnesses()
    play(fast, 5, round_trip=0.001, gap=0.1)
    assert fast.gap() == 0.02
    assert fast.settle() == 0.1
    play(slow, 5, round_trip=0.2, gap=0.5)
    assert slow.gap() == pytest.approx(0.4)
    assert slow.settle() == pytest.approx(0.25)


def test_a_slow_link_never_looks_so_fast_that_answers_come_after_the_listening() -> None:
    subject = witnesses()
    play(subject, 50, round_trip=0.35, gap=0.02)
    assert subject.settle() >= 0.35


def test_a_lost_first_answer_makes_us_listen_longer_not_shorter() -> None:
    subject = witnesses()
    play(subject, 20, round_trip=0.001, gap=0.02, lost=frozenset({0, 1, 2}))
    assert subject.settle() >= 0.1
    assert subject.gap() == 0.02


def test_doubled_answers_count_once() -> None:
    subject = witnesses()
    subject.sent(WITNESS, 0.0)
    for _ in range(5):
        subject.heard(WITNESS, 0.001)
    assert subject.answers(WITNESS) == 1


def test_an_answer_that_nobody_asked_for_counts_for_nothing() -> None:
    subject = witnesses()
    subject.heard(WITNESS, 0.0)
    subject.heard(99, 0.0)
    assert not subject.answered()


def test_a_lossy_witness_is_not_hidden_behind_good_ones() -> None:
    subject = SearchWitnesses(ADAPTIVE, bound=1e-6, required=[1, 2, 3, 4])
    for n in range(10):
        for witness in subject.required:
            subject.sent(witness, n * 0.02)
            if witness != 1 or n % 2:
                subject.heard(witness, n * 0.02 + 0.001)
    miss = subject.miss(10, 1.0)
    assert miss is not None
    assert miss >= miss_probability(10, 5, 5)


def test_alone_ends_when_somebody_answers() -> None:
    subject = SearchWitnesses(ADAPTIVE, bound=1e-6, alone=True)
    assert subject.enough(4, 1.0)
    assert subject.miss(4, 1.0) is None
    subject.add(5)
    assert not subject.alone
    assert not subject.enough(4, 1.0)


def test_under_another_timing_the_witnesses_are_the_same_and_their_count_begins_anew() -> None:
    subject = SearchWitnesses(ADAPTIVE, bound=1e-6, required=[WITNESS])
    subject.add(5)
    now = play(subject, 20, round_trip=0.2, gap=0.5)
    assert subject.enough(20, now + 1)
    other = subject.under(RFC5227)
    assert other.timing is RFC5227
    assert (other.bound, other.all()) == (subject.bound, [WITNESS, 5])
    assert other.round_trip == subject.round_trip
    assert other.gap() == pytest.approx(1.0)
    now += 10
    other.reset(now)
    assert not other.answered()
    assert other.silent() == [WITNESS]
    assert (other.enough(2, now), other.enough(3, now)) == (False, True)
    other.sent(WITNESS, now)
    other.heard(WITNESS, now + 0.1)
    assert other.silent() == []
    assert subject.answers(WITNESS) == 21  # they share what is asked


@pytest.mark.parametrize("alone", [True, False])
def test_under_another_timing_it_is_as_alone_as_before(alone: bool) -> None:  # noqa: FBT001 - a case
    subject = SearchWitnesses(ADAPTIVE, bound=1e-6, alone=alone)
    assert subject.under(RFC5227).alone is alone
    subject.add(5)
    assert not subject.under(RFC5227).alone
