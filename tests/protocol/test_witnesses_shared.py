"""The witness probes that searches on one link share: what counts for which search."""

from __future__ import annotations

import random
from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.protocol.timing import ADAPTIVE
from arpipam.protocol.witnesses import LinkWitnesses, SearchWitnesses, WitnessProbe

WITNESS, OTHER = 1, 2
ONE, TWO = (bytes([2, 0, 0, 0, 0, n]) for n in (1, 2))


def witnesses(link: LinkWitnesses, mac: bytes, *required: int) -> SearchWitnesses:
    return SearchWitnesses(ADAPTIVE, bound=1e-6, required=required, mac=mac, link=link)


def counts(subject: SearchWitnesses, now: float = 100.0) -> tuple[int, int]:
    return subject.counts(WITNESS, now, 0.015)


def test_a_round_of_one_search_counts_for_all_and_what_it_asks_for_itself_does_not() -> None:
    link = LinkWitnesses()
    one, two = witnesses(link, ONE, WITNESS), witnesses(link, TWO, WITNESS)
    one.sent(WITNESS, 0.0, shared=True)
    one.heard(WITNESS, 0.001)
    one.sent(WITNESS, 0.02, shared=True)
    one.sent(WITNESS, 0.04)
    one.heard(WITNESS, 0.041)
    assert counts(one) == (2, 1)
    assert counts(two) == (1, 1)


def test_what_was_sent_before_a_trial_began_does_not_count_even_if_it_is_answered_later() -> None:
    link = LinkWitnesses()
    one, two = witnesses(link, ONE, WITNESS), witnesses(link, TWO, WITNESS)
    one.sent(WITNESS, 0.0, shared=True)
    two.reset(0.001)
    one.heard(WITNESS, 0.002)
    assert counts(one) == (1, 0)
    assert counts(two) == (0, 0)
    one.sent(WITNESS, 0.02, shared=True)
    one.heard(WITNESS, 0.021)
    assert counts(two) == (1, 0)


def test_an_answer_to_one_mac_is_never_one_to_another() -> None:
    link = LinkWitnesses()
    one, two = witnesses(link, ONE, WITNESS), witnesses(link, TWO, WITNESS)
    one.sent(WITNESS, 0.0, shared=True)
    two.sent(WITNESS, 0.011, shared=True)
    one.heard(WITNESS, 0.012)
    probes = {probe.mac: probe.answered for probe in link.since(WITNESS, 0.0, ONE)}
    assert probes == {ONE: True, TWO: False}


def test_an_answer_that_comes_twice_does_not_make_up_for_a_lost_one() -> None:
    link = LinkWitnesses()
    one = witnesses(link, ONE, WITNESS)
    one.sent(WITNESS, 0.0, shared=True)
    one.sent(WITNESS, 0.02, shared=True)
    for _ in range(3):
        one.heard(WITNESS, 0.021)
    assert counts(one) == (1, 1)


def test_an_answer_counts_if_it_comes_within_the_time_that_the_candidate_has() -> None:
    for late, counted in ((0.09, (2, 0)), (0.11, (1, 1))):
        one = witnesses(LinkWitnesses(), ONE, WITNESS)
        one.sent(WITNESS, 0.0, shared=True)
        one.heard(WITNESS, 0.001)
        one.sent(WITNESS, 1.0, shared=True)
        one.heard(WITNESS, 1.0 + late)
        assert counts(one) == counted


def test_what_may_still_be_answered_counts_neither_way() -> None:
    link = LinkWitnesses()
    one, two = witnesses(link, ONE, WITNESS), witnesses(link, TWO, WITNESS)
    one.sent(WITNESS, 0.0, shared=True)
    assert counts(two, 0.014) == (0, 0)
    assert counts(two, 0.016) == (0, 1)


def test_however_much_others_are_answered_a_required_witness_has_to_answer_us() -> None:
    """Some switches let only so many MACs through a port, or only those that they know."""
    link = LinkWitnesses()
    one, two = witnesses(link, ONE, WITNESS), witnesses(link, TWO, WITNESS)
    for n in range(50):
        one.sent(WITNESS, n * 0.02, shared=True)
        one.heard(WITNESS, n * 0.02 + 0.001)
    assert one.enough(50, 2.0)
    assert two.silent() == two.strangers() == [WITNESS]
    assert not two.enough(50, 2.0)
    two.sent(WITNESS, 2.0)
    two.heard(WITNESS, 2.001)
    assert two.enough(50, 2.1)
    two.reset(2.2)
    assert two.silent() == [WITNESS]


def test_where_none_is_required_one_of_the_others_has_to_answer_us() -> None:
    link = LinkWitnesses()
    one, two = witnesses(link, ONE), witnesses(link, TWO)
    for subject in (one, two):
        subject.add(WITNESS)
        subject.add(OTHER)
    for n in range(50):
        one.sent(WITNESS, n * 0.02, shared=True)
        one.heard(WITNESS, n * 0.02 + 0.001)
    assert one.strangers() == []
    assert two.strangers() == [WITNESS, OTHER]
    assert not two.enough(50, 2.0)
    two.sent(OTHER, 2.0)
    two.heard(OTHER, 2.001)
    assert two.strangers() == []
    assert two.enough(50, 2.1)


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3, 0.5])
def test_the_stated_chance_is_at_least_the_observed_one_for_searches_that_share(loss: float) -> None:
    """Four at a time, one a little after the other, of which each asks for an address that is used."""
    rng = random.Random(7)
    bound, missed, trials = 0.01, 0, 0

    def lost() -> bool:
        return rng.random() < loss

    for _ in range(500):
        link = LinkWitnesses()
        running = {
            n: SearchWitnesses(ADAPTIVE, bound=bound, required=[WITNESS], mac=bytes([2, 0, 0, 0, 0, n]), link=link)
            for n in range(4)
        }
        trials += len(running)
        probes = Counter[int]()
        for step in range(400):
            now, number = step * 0.006, step % 4  # each has its turn every 24 ms
            subject = running.get(number)
            if subject is None:
                continue
            if subject.enough(probes[number], now):
                missed += 1
                del running[number]
                continue
            probes[number] += 1
            shared = subject.begin_round(now)
            for witness in subject.all() if shared else subject.strangers():
                subject.sent(witness, now, shared=shared)
                if not lost():
                    subject.heard(witness, now + 0.001)
            if not lost():  # the owner of the address has answered
                del running[number]
    assert missed / trials <= 2 * bound


def test_a_round_is_due_half_a_gap_after_the_last() -> None:
    link = LinkWitnesses()
    assert link.begin_round(1.0, 0.5)
    assert not link.begin_round(1.0, 0.5)
    assert not link.begin_round(1.2, 0.5)
    assert link.begin_round(1.25, 0.5)


def test_a_round_trip_is_learnt_from_all_and_forgotten_when_the_link_rests() -> None:
    link = LinkWitnesses()
    one, two = witnesses(link, ONE, WITNESS), witnesses(link, TWO, WITNESS)
    link.join(0.0)
    one.sent(WITNESS, 0.0, shared=True)
    one.heard(WITNESS, 0.2)
    link.join(0.5)
    assert two.gap() == pytest.approx(0.4)
    link.join(2.0)
    assert two.gap() == witnesses(LinkWitnesses(), TWO, WITNESS).gap()


def test_it_remembers_as_much_as_a_trial_may_need_and_no_more() -> None:
    link = LinkWitnesses(memory=3.0)
    for n in range(1000):
        now = n * 0.02
        link.begin_round(now, 0.02)
        link.sent(WITNESS if n < 500 else OTHER, WitnessProbe(now, ONE, shared=True))
    assert list(link.since(WITNESS, 0.0, ONE)) == []
    kept = list(link.since(OTHER, 0.0, ONE))
    assert kept[-1].at == pytest.approx(kept[0].at - 3.0)
    assert set(link._probes) == {OTHER}


# Probes of three searches in milliseconds: the pause before each, who sends it, whether it is part of a round, and how
# long the answer takes, if there is one.
PROBES = st.lists(
    st.tuples(st.integers(1, 30), st.integers(0, 2), st.booleans(), st.none() | st.integers(1, 50)), max_size=60
)


@given(PROBES, st.integers(0, 1000))
def test_no_search_counts_more_answers_than_there_were(
    probes: list[tuple[int, int, bool, int | None]], start: int
) -> None:
    """Whoever asked, and whenever the trial began; each answer comes before its asker's next probe, or never."""
    link = LinkWitnesses()
    searches = [witnesses(link, bytes([2, 0, 0, 0, 0, n]), WITNESS) for n in range(3)]
    times = list(accumulate(pause for pause, *_ in probes))
    events = [(start, 0, 0, False)]
    sent, answered = Counter[int](), Counter[int]()
    for n, (at, (_, who, shared, delay)) in enumerate(zip(times, probes, strict=True)):
        following = min(
            (later for later, probe in zip(times[n + 1 :], probes[n + 1 :], strict=True) if probe[1] == who),
            default=9999,
        )
        arrives = delay is not None and at + delay < following
        events.append((at, 1, who, shared))
        if arrives:
            events.append((at + (delay or 0), 2, who, shared))
        if at >= start:
            counting = range(3) if shared else (who,)
            sent.update(counting)
            answered.update(counting if arrives else ())
    for milliseconds, what, who, shared in sorted(events):
        now = milliseconds / 1000
        if what == 0:
            for subject in searches:
                subject.reset(now)
        elif what == 1:
            searches[who].sent(WITNESS, now, shared=shared)
        else:
            searches[who].heard(WITNESS, now)
    for search, subject in enumerate(searches):
        s, f = counts(subject)
        assert s <= answered[search]  # one that is overdue counts as lost
        assert s + f == sent[search]
