"""An address that is ours: adopted, guarded, taken over, moved to another MAC; and where two claims of it meet."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.protocol import arp
from arpipam.protocol.acd import AcdState, IllegalTransition
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.events import Conflict, Defended, Lost
from arpipam.protocol.policy import FIRST_RELEASE, Decision, Policy
from tests.support.acd import (
    ADDRESS,
    ANSWERING,
    BRIDGE,
    HOLDING,
    MINE,
    OTHER,
    SEEKING,
    THIRD,
    Bench,
    announcement,
    at,
    probe,
    reply,
    request,
)

if TYPE_CHECKING:
    from collections.abc import Callable

EARLIER, NOW, LATER = (FIRST_RELEASE + after for after in (1000, 2000, 3000))
DAY = 86_400_000_000
ENDED = [AcdState.IN_USE, AcdState.CONTENDED, AcdState.LOST, AcdState.RELEASED]
GONE = [AcdState.LOST, AcdState.RELEASED]


def ended(state: AcdState) -> Bench:
    bench = at(AcdState.DEFENDING if state in GONE else AcdState.PROBING)
    if state is AcdState.RELEASED:
        bench.acd.release()
    elif state is AcdState.LOST:
        bench.acd.policy = Policy.NEVER
        bench.hear(announcement(OTHER))
    else:
        bench.hear(probe(OTHER) if state is AcdState.CONTENDED else announcement(OTHER))
    assert bench.acd.state is state
    return bench


# Adopted.


def test_an_adopted_address_is_announced_and_answered_for_at_once_and_never_probed() -> None:
    bench = Bench(since=EARLIER)
    bench.acd.adopt()
    assert bench.hear(probe(OTHER))[-1] == reply(MINE, ADDRESS, OTHER)
    bench.until(AcdState.DEFENDING)
    own = [(when, packet) for when, packet in bench.sent if packet.operation == arp.REQUEST]
    assert own == [(0.0, announcement(MINE, EARLIER)), (2.0, announcement(MINE, EARLIER))]


@pytest.mark.parametrize("state", [state for state in SEEKING + HOLDING if state is not AcdState.WAITING])
def test_what_is_under_way_already_cannot_be_adopted(state: AcdState) -> None:
    bench = at(state)
    with pytest.raises(IllegalTransition):
        bench.acd.adopt()
    assert bench.acd.state is state


# Guarded.


@pytest.mark.parametrize("state", ANSWERING)
def test_from_the_handover_on_its_owner_answers_and_we_do_not(state: AcdState) -> None:
    bench = at(state)
    sent = len(bench.sent)
    bench.acd.hand_over()
    for packet in (probe(OTHER), request(OTHER, ADDRESS + 1, ADDRESS), probe(BRIDGE)):
        assert bench.hear(packet) == []
    bench.run(bench.now + 1000)
    assert bench.acd.state is AcdState.GUARDING
    assert len(bench.sent) == sent  # the second announcement is the owner's affair, too


def test_answers_that_had_not_left_at_the_handover_never_do() -> None:
    bench = at(AcdState.DEFENDING)
    bench.acd.receive(request(OTHER, ADDRESS + 1, ADDRESS), bench.now)
    bench.acd.hand_over()
    assert not bench.acd.outbox


@pytest.mark.parametrize("packet", [announcement(MINE), reply(MINE, ADDRESS, OTHER), request(MINE, ADDRESS, 1)])
def test_the_owners_own_frames_are_no_conflict(packet: ArpPacket) -> None:
    bench = at(AcdState.GUARDING, Policy.NEVER)
    assert bench.hear(packet) == []
    assert (bench.acd.state, bench.conflicts()) == (AcdState.GUARDING, [])


def test_when_the_owner_is_gone_we_answer_again_and_say_nothing_unasked() -> None:
    bench = at(AcdState.GUARDING)
    bench.acd.take_over()
    bench.flush()
    assert bench.hear(request(OTHER, ADDRESS + 1, ADDRESS)) == [reply(MINE, ADDRESS, OTHER, ADDRESS + 1)]
    assert bench.hear(probe(THIRD)) == [reply(MINE, ADDRESS, THIRD)]
    bench.run(bench.now + 1000)
    assert bench.acd.state is AcdState.DEFENDING
    assert not [packet for when, packet in bench.sent if packet.operation == arp.REQUEST and when > 10]


def test_what_is_guarded_is_announced_once_when_asked_and_stays_guarded() -> None:
    bench = at(AcdState.GUARDING, since=EARLIER)
    sent = len(bench.sent)
    bench.acd.announce()
    bench.run(bench.now + 1000)
    assert [packet for _, packet in bench.sent[sent:]] == [announcement(MINE, EARLIER)]
    assert bench.acd.state is AcdState.GUARDING


def test_a_conflict_while_guarding_is_met_as_the_policy_says() -> None:
    never = at(AcdState.GUARDING, Policy.NEVER)
    assert never.hear(announcement(OTHER)) == []
    assert never.acd.state is AcdState.LOST
    once = at(AcdState.GUARDING, Policy.ONCE)
    assert once.hear(announcement(OTHER)) == [announcement(MINE)]
    assert once.hear(announcement(OTHER)) == []
    assert once.acd.state is AcdState.LOST
    always = at(AcdState.GUARDING, Policy.ALWAYS)
    said = [packet for _ in range(9) for packet in always.hear(announcement(OTHER))]
    assert said == [announcement(MINE)]
    assert always.acd.state is AcdState.GUARDING


@pytest.mark.parametrize("state", HOLDING)
def test_a_conflict_that_is_only_reported_is_counted_and_changes_nothing(state: AcdState) -> None:
    bench = at(state, Policy.REPORT)
    for turn in range(1, 9):
        assert bench.hear(reply(OTHER, ADDRESS, THIRD)) == []
        assert bench.acd.state is state
        assert bench.conflicts() == [Conflict(OTHER, None, Decision.REPORT)] * turn
        bench.now += 3


@pytest.mark.parametrize(
    ("states", "step"),
    [
        ([*SEEKING, AcdState.GUARDING], lambda bench: bench.acd.hand_over()),
        ([*SEEKING, *ANSWERING], lambda bench: bench.acd.take_over()),
    ],
    ids=["hand over", "take over"],
)
def test_out_of_turn_they_raise_and_change_nothing(states: list[AcdState], step: Callable[[Bench], None]) -> None:
    for bench in [at(state) for state in states] + [ended(state) for state in ENDED]:
        state, deadline, waiting = bench.acd.state, bench.acd.deadline, bench.acd.outbox.peek(9)
        with pytest.raises(IllegalTransition):
            step(bench)
        assert (bench.acd.state, bench.acd.deadline, bench.acd.outbox.peek(9)) == (state, deadline, waiting)


# Under another MAC.


@pytest.mark.parametrize("state", ANSWERING)
def test_under_its_new_mac_it_is_announced_at_once_and_answered_for(state: AcdState) -> None:
    bench = at(state, since=EARLIER)
    sent, renamed = len(bench.sent), bench.now
    bench.acd.change_mac(THIRD)
    assert bench.hear(request(OTHER, ADDRESS + 1, ADDRESS))[-1] == reply(THIRD, ADDRESS, OTHER, ADDRESS + 1)
    bench.until(AcdState.DEFENDING)
    own = [(when, packet) for when, packet in bench.sent[sent:] if packet.operation == arp.REQUEST]
    told = announcement(THIRD, EARLIER)
    assert own == [(renamed, told), (pytest.approx(renamed + 2), told)]


def test_what_is_guarded_stays_guarded_under_its_new_mac() -> None:
    bench = at(AcdState.GUARDING, since=EARLIER)
    sent = len(bench.sent)
    bench.acd.change_mac(THIRD)
    bench.run(bench.now + 1000)
    assert [packet for _, packet in bench.sent[sent:]] == [announcement(THIRD, EARLIER)]
    assert bench.acd.state is AcdState.GUARDING


def test_nothing_leaves_under_the_former_mac_any_more() -> None:
    bench = at(AcdState.DEFENDING)
    sent = len(bench.sent)
    bench.acd.receive(request(OTHER, ADDRESS + 1, ADDRESS), bench.now)
    bench.acd.change_mac(THIRD)
    bench.flush()
    assert {packet.sender_mac for _, packet in bench.sent[sent:]} == {THIRD}


@pytest.mark.parametrize("state", HOLDING)
def test_frames_under_a_former_mac_are_ours_and_no_conflict(state: AcdState) -> None:
    bench = at(state, Policy.NEVER)
    for mac in (OTHER, THIRD):
        bench.acd.change_mac(mac)
    bench.flush()
    for former in (MINE, OTHER):
        for packet in (announcement(former), reply(former, ADDRESS, BRIDGE), probe(former)):
            assert bench.hear(packet) == []
    assert bench.conflicts() == []
    assert bench.acd.state in HOLDING


def test_a_mac_that_it_comes_back_to_answers_as_before() -> None:
    bench = at(AcdState.DEFENDING, Policy.NEVER)
    for mac in (OTHER, MINE):
        bench.acd.change_mac(mac)
        bench.until(AcdState.DEFENDING)
    assert bench.hear(request(THIRD, ADDRESS + 1, ADDRESS)) == [reply(MINE, ADDRESS, THIRD, ADDRESS + 1)]
    assert bench.hear(announcement(OTHER)) == []
    assert bench.acd.state is AcdState.DEFENDING


@pytest.mark.parametrize("state", SEEKING + ENDED)
def test_what_is_not_ours_cannot_change_its_mac_and_does_not_change(state: AcdState) -> None:
    bench = ended(state) if state in ENDED else at(state)
    deadline, waiting = bench.acd.deadline, bench.acd.outbox.peek(9)
    with pytest.raises(IllegalTransition):
        bench.acd.change_mac(THIRD)
    assert (bench.acd.state, bench.acd.mac) == (state, MINE)
    assert (bench.acd.deadline, bench.acd.outbox.peek(9)) == (deadline, waiting)


# Two claims meet.


def test_announcements_say_since_when_and_nothing_else_does() -> None:
    bench = at(AcdState.FREE, since=NOW)
    bench.acd.claim()
    bench.until(AcdState.DEFENDING)
    bench.hear(request(OTHER, ADDRESS + 1, ADDRESS))
    bench.hear(announcement(OTHER))  # defended
    told = [packet.since for _, packet in bench.sent if packet.sender_ip == packet.target_ip == ADDRESS]
    assert told == [NOW] * 3
    assert {p.since for _, p in bench.sent if p.is_probe or p.operation == arp.REPLY} == {0}


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
    bench.acd.take_over()
    assert bench.acd.state is AcdState.LOST
    assert bench.acd.events() == [Lost(OTHER)]


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


MACS = st.sampled_from([MINE, OTHER, THIRD, BRIDGE, arp.NO_MAC, arp.BROADCAST])
IPS = st.sampled_from([0, ADDRESS, ADDRESS + 1, 2**32 - 1])
SINCE = st.sampled_from([0, EARLIER, NOW, LATER])
PACKETS = st.builds(ArpPacket, st.sampled_from([1, 2]), MACS, IPS, MACS, IPS, MACS, MACS, SINCE)
STEPS = st.lists(st.one_of(PACKETS, st.floats(0, 12), st.sampled_from(["announce", MINE, OTHER, THIRD])))


@given(st.sampled_from(Policy), STEPS)
def test_whatever_arrives_what_is_guarded_is_never_answered_for(
    policy: Policy, steps: list[ArpPacket | float | str | bytes]
) -> None:
    bench = at(AcdState.GUARDING, policy, since=NOW)
    sent = len(bench.sent)
    for step in steps:
        if isinstance(step, ArpPacket):
            bench.hear(step)
        elif isinstance(step, float):
            bench.run(bench.now + step)
        elif bench.acd.state is AcdState.GUARDING:
            if isinstance(step, bytes):
                bench.acd.change_mac(step)
            else:
                bench.acd.announce()
        assert bench.acd.state in (AcdState.GUARDING, AcdState.LOST)
    bench.flush()
    said = [packet for _, packet in bench.sent[sent:]]
    assert said == [announcement(packet.sender_mac, NOW) for packet in said]


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
