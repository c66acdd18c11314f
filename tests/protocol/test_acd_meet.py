"""Where two claims of one address meet, for example after a cut link is whole again."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.protocol.acd import AcdState
from arpipam.protocol.events import Conflict, Defended, Lost
from arpipam.protocol.policy import FIRST_RELEASE, Decision, Policy
from tests.support.acd import (
    ADDRESS,
    ANSWERING,
    HOLDING,
    MINE,
    OTHER,
    THIRD,
    Bench,
    announcement,
    at,
    request,
)

if TYPE_CHECKING:
    from collections.abc import Callable

EARLIER, NOW, LATER = (FIRST_RELEASE + after for after in (1000, 2000, 3000))
DAY = 86_400_000_000


def test_announcements_say_since_when_and_nothing_else_does() -> None:
    bench = at(AcdState.FREE, since=NOW)
    bench.acd.claim()
    bench.until(AcdState.DEFENDING)
    bench.hear(request(OTHER, ADDRESS + 1, ADDRESS))
    bench.hear(announcement(OTHER))  # defended
    told = [packet.since for _, packet in bench.sent if packet.sender_ip == packet.target_ip == ADDRESS]
    assert told == [NOW] * 4  # the first one as a request and as a reply
    assert {p.since for _, p in bench.sent if p.sender_ip != p.target_ip} == {0}


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("state", HOLDING)
def test_the_older_claim_is_defended_whatever_the_policy(state: AcdState, policy: Policy) -> None:
    bench = at(state, policy, since=NOW)
    sent = []
    for _ in range(100):
        sent += bench.hear(announcement(OTHER, LATER))
        assert bench.acd.state is state
        assert bench.told[-1 - (bench.told[-1] == Defended())] == Conflict(OTHER, older=True, decision=Decision.DEFEND)
        bench.now += 0.5
    assert sent == [announcement(MINE, NOW)] * 5  # and never more often than DEFEND_INTERVAL allows


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("state", ANSWERING)
def test_the_younger_claim_is_given_up_whatever_the_policy(state: AcdState, policy: Policy) -> None:
    bench = at(state, policy, since=NOW)
    assert bench.hear(announcement(OTHER, EARLIER)) == []
    assert bench.acd.state is AcdState.LOST
    assert bench.told[-2:] == [Conflict(OTHER, older=False, decision=Decision.GIVE_UP), Lost(OTHER)]
    assert bench.hear(request(THIRD, 1, ADDRESS)) == []


@pytest.mark.parametrize("policy", Policy)
def test_the_younger_claim_is_only_noted_while_its_owner_uses_the_address(policy: Policy) -> None:
    bench = at(AcdState.GUARDING, policy, since=NOW)
    for turn in range(1, 4):
        assert bench.hear(announcement(OTHER, EARLIER)) == []
        assert bench.acd.state is AcdState.GUARDING
        assert bench.conflicts() == [Conflict(OTHER, older=False, decision=Decision.REPORT)] * turn


def test_of_two_from_the_same_moment_the_lower_mac_is_the_older() -> None:
    lower, higher = sorted([MINE, OTHER])
    keeps, yields = (at(AcdState.DEFENDING, mac=mac, since=NOW) for mac in (lower, higher))
    assert keeps.hear(announcement(higher, NOW)) == [announcement(lower, NOW)]
    assert yields.hear(announcement(lower, NOW)) == []
    assert (keeps.acd.state, yields.acd.state) == (AcdState.DEFENDING, AcdState.LOST)


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (0, EARLIER), (LATER, 0)])
def test_where_one_does_not_say_since_when_the_policy_decides(ours: int, theirs: int) -> None:
    bench = at(AcdState.DEFENDING, Policy.ONCE, since=ours)
    assert bench.hear(announcement(OTHER, theirs)) == [announcement(MINE, ours)]
    assert bench.conflicts()[-1].older is None
    bench.hear(announcement(OTHER, theirs))
    assert bench.acd.state is AcdState.LOST


def test_which_is_the_older_is_remembered_of_the_other_claim_by_its_mac() -> None:
    bench = at(AcdState.GUARDING, Policy.REPORT, since=NOW)
    for since in (LATER, 0, EARLIER, 0, LATER):
        bench.hear(announcement(OTHER, since))
    bench.hear(announcement(THIRD, 0))
    assert [conflict.older for conflict in bench.conflicts()] == [True, True, False, False, True, None]


def test_an_owner_that_stops_leaves_the_address_to_the_older_claim() -> None:
    bench = at(AcdState.GUARDING, Policy.REPORT, since=NOW)
    bench.hear(announcement(OTHER, EARLIER))
    bench.acd.take_over(bench.now)
    assert bench.acd.state is AcdState.LOST
    assert bench.acd.events() == [Lost(OTHER)]


@pytest.mark.parametrize(("later", "state"), [(59.0, AcdState.LOST), (60.0, AcdState.DEFENDING)])
def test_an_older_claim_that_was_met_long_ago_may_be_gone(later: float, state: AcdState) -> None:
    bench = at(AcdState.GUARDING, Policy.REPORT, since=NOW)
    bench.hear(announcement(OTHER, EARLIER))
    bench.acd.take_over(bench.now + later)
    assert bench.acd.state is state


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize(
    "date", [1, FIRST_RELEASE - 1, NOW + 2 * DAY, 2**64 - 1], ids=["one", "floor", "future", "end"]
)
def test_a_date_that_cannot_be_true_does_not_go_before_the_policy(policy: Policy, date: int) -> None:
    told, silent = (at(AcdState.DEFENDING, policy, since=NOW) for _ in range(2))
    for bench in (told, silent):
        bench.acd.epoch = NOW / 1_000_000 - bench.now
    assert told.hear(announcement(OTHER, date)) == silent.hear(announcement(OTHER))
    assert told.acd.state is silent.acd.state
    assert told.told == silent.told
    assert told.conflicts()[-1].older is None


@given(st.sampled_from(HOLDING), st.sampled_from(Policy), st.lists(st.tuples(st.floats(0, 12), st.integers(0, 9))))
def test_no_rhythm_of_conflicts_makes_us_announce_more_often_than_allowed(
    state: AcdState, policy: Policy, conflicts: list[tuple[float, int]]
) -> None:
    bench = at(state, policy, since=FIRST_RELEASE + 5)
    bench.run(bench.now + 10)  # what is announced after the claim has left
    defended = []
    for pause, since in conflicts:
        bench.now += pause
        defended += [bench.now for _ in bench.hear(announcement(OTHER, FIRST_RELEASE + since))]
    assert all(later - earlier >= 10 for earlier, later in pairwise(defended))


class Two:
    """Two claims of one address, and the link between them: `copies()` arrive of each frame."""

    def __init__(self, *ends: Bench) -> None:
        self.ends = ends
        self.carried = [len(end.sent) for end in ends]

    def carry(self, copies: Callable[[], int]) -> None:
        """Until nothing is under way any more."""
        while True:
            for end in self.ends:
                end.flush()
            under_way = [end.sent[done:] for end, done in zip(self.ends, self.carried, strict=True)]
            if not any(under_way):
                return
            self.carried = [len(end.sent) for end in self.ends]
            for packets, there in zip(under_way, reversed(self.ends), strict=True):
                for _, packet in packets:
                    for _ in range(copies()):
                        there.hear(packet)

    def announce(self, which: int) -> None:
        if self.ends[which].acd.state in HOLDING:
            self.ends[which].acd.announce()

    def wait(self, seconds: float) -> None:
        until = max(end.now for end in self.ends) + seconds
        for end in self.ends:
            end.run(until)


SIDES = st.tuples(st.sampled_from(HOLDING), st.sampled_from(Policy), st.integers(FIRST_RELEASE + 1, FIRST_RELEASE + 3))
DISPUTES = st.lists(st.one_of(st.sampled_from([0, 1]), st.floats(0, 12), st.sampled_from(["ask", "owner"])))


def meet(sides: list[tuple[AcdState, Policy, int]], steps: list[int | float | str], rng: random.Random) -> Two:
    """Two claims after `steps` (one announces, time passes, somebody asks, an owner speaks) on a link full of faults,
    and one announcement of each after which none was lost."""
    macs = (MINE, OTHER)
    two = Two(*(at(state, policy, mac=m, since=n) for m, (state, policy, n) in zip(macs, sides, strict=True)))
    for step in steps:
        if isinstance(step, float):
            two.wait(step)
        elif isinstance(step, int):
            two.announce(step)
        else:
            for end, other in (two.ends, two.ends[::-1]):
                if step == "ask":
                    end.hear(request(THIRD, ADDRESS + 1, ADDRESS))
                elif other.acd.state is AcdState.GUARDING and rng.randrange(3):
                    end.hear(request(other.acd.mac, ADDRESS, ADDRESS + 1))
        two.carry(lambda: rng.choice([0, 1, 2]))
    two.wait(12)
    two.carry(lambda: 1)
    for which in (0, 1):
        two.announce(which)
    two.carry(lambda: 1)
    return two


@given(SIDES, SIDES, DISPUTES, st.integers(0, 2**32))
def test_when_two_claims_have_met_at_most_one_of_them_answers(
    one: tuple[AcdState, Policy, int], other: tuple[AcdState, Policy, int], steps: list[int | float | str], seed: int
) -> None:
    two = meet([one, other], steps, random.Random(seed))
    answering = [end for end in two.ends if end.hear(request(THIRD, ADDRESS + 1, ADDRESS))]
    assert len(answering) <= 1


@given(SIDES, SIDES, st.lists(st.one_of(st.sampled_from([0, 1]), st.floats(0, 12))), st.integers(0, 2**32))
def test_among_announcements_the_older_claim_lasts_and_the_younger_does_not(
    one: tuple[AcdState, Policy, int], other: tuple[AcdState, Policy, int], steps: list[int | float | str], seed: int
) -> None:
    two = meet([one, other], steps, random.Random(seed))
    older, younger = sorted(two.ends, key=lambda end: (end.acd.since, end.acd.mac))
    kept = one[0] if older is two.ends[0] else other[0]
    guarded = (other[0] if older is two.ends[0] else one[0]) is AcdState.GUARDING
    assert (older.acd.state is AcdState.GUARDING) == (kept is AcdState.GUARDING)
    assert older.acd.state in HOLDING
    assert younger.acd.state is (AcdState.GUARDING if guarded else AcdState.LOST)
