"""RFC 5227, paragraph by paragraph, on the machine of one address; then whatever hypothesis can think of."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.protocol import arp
from arpipam.protocol.acd import MOST_EVENTS, TRANSITIONS, AcdState, IllegalTransition, Input
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.events import Announced, Conflict, Contended, Defended, Lost, Ready, Used
from arpipam.protocol.policy import Decision, Policy
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
    at,
    probe,
    reply,
    request,
)


def test_2_1_1_a_probe_is_a_broadcast_request_from_the_future_owner_with_sender_address_zero() -> None:
    bench = at(AcdState.FREE)
    for _, packet in bench.sent:
        assert packet == ArpPacket(arp.REQUEST, MINE, 0, arp.NO_MAC, ADDRESS, MINE, arp.BROADCAST)


@pytest.mark.parametrize("seed", range(50))
def test_2_1_1_waits_then_three_probes_one_to_two_seconds_apart_then_two_seconds_of_listening(seed: int) -> None:
    bench = Bench(seed=seed)
    bench.until(AcdState.FREE)
    times = [at for at, _ in bench.sent]
    assert len(times) == 3
    assert 0 <= times[0] <= 1
    assert all(1 <= later - earlier <= 2 for earlier, later in pairwise(times))
    assert bench.now == pytest.approx(times[-1] + 2)
    assert 4 <= bench.now <= 7


@pytest.mark.parametrize("state", SEEKING)
@pytest.mark.parametrize(
    "packet",
    [
        reply(OTHER, ADDRESS),
        request(OTHER, ADDRESS, ADDRESS),
        request(OTHER, ADDRESS, ADDRESS + 1),
        reply(OTHER, ADDRESS, THIRD, ADDRESS + 9),
    ],
    ids=["reply", "announcement", "request for another", "reply to another"],
)
def test_2_1_1_any_packet_from_the_address_is_a_conflict_from_the_start_to_the_end(
    state: AcdState, packet: ArpPacket
) -> None:
    bench = at(state)
    assert bench.hear(packet) == []
    assert bench.acd.state is AcdState.IN_USE
    asked = bench.sent[-1][0] if bench.sent else None
    assert bench.told[-1] == Used(OTHER, None if asked is None else bench.now - asked)


@pytest.mark.parametrize("state", SEEKING)
def test_2_1_1_a_probe_by_another_station_is_a_conflict(state: AcdState) -> None:
    bench = at(state)
    bench.hear(probe(OTHER))
    assert bench.acd.state is AcdState.CONTENDED
    assert bench.told[-1] == Contended(OTHER)


@pytest.mark.parametrize("state", SEEKING)
def test_2_1_1_a_probe_from_another_interface_of_this_host_is_none(state: AcdState) -> None:
    bench = at(state)
    bench.hear(probe(BRIDGE))
    assert bench.acd.state is state


@pytest.mark.parametrize("state", SEEKING + HOLDING)
def test_2_1_1_our_own_frames_echoed_back_are_no_conflict(state: AcdState) -> None:
    bench = at(state)
    for packet in (probe(MINE), request(MINE, ADDRESS, ADDRESS), reply(MINE, ADDRESS, OTHER)):
        assert bench.hear(packet) == []
    assert bench.acd.state is state


@pytest.mark.parametrize("state", SEEKING)
def test_an_ordinary_request_for_the_candidate_is_no_conflict_and_not_answered_yet(state: AcdState) -> None:
    bench = at(state)
    assert bench.hear(request(OTHER, ADDRESS + 1, ADDRESS)) == []
    assert bench.acd.state is state


def test_2_1_1_listens_to_the_very_end_after_the_last_probe() -> None:
    bench = at(AcdState.SETTLING)
    assert bench.acd.deadline is not None
    bench.now = bench.acd.deadline - 1e-9
    bench.acd.advance(bench.now)
    assert bench.acd.deadline is not None  # still listening
    bench.hear(reply(OTHER, ADDRESS))
    assert bench.acd.state is AcdState.IN_USE


def test_2_3_announces_twice_two_seconds_apart_with_sender_and_target_alike() -> None:
    bench = at(AcdState.DEFENDING)
    announcements = [(when, packet) for when, packet in bench.sent[3:] if packet.operation == arp.REQUEST]
    assert [packet for _, packet in announcements] == [
        ArpPacket(arp.REQUEST, MINE, ADDRESS, arp.NO_MAC, ADDRESS, MINE, arp.BROADCAST)
    ] * 2
    assert announcements[1][0] - announcements[0][0] == pytest.approx(2)


@pytest.mark.parametrize("state", ANSWERING)
def test_2_4_from_the_claim_on_requests_are_answered_and_probes_too(state: AcdState) -> None:
    bench = at(state)
    asked = request(OTHER, ADDRESS + 1, ADDRESS)
    assert bench.hear(asked) == [ArpPacket(arp.REPLY, MINE, ADDRESS, OTHER, ADDRESS + 1, MINE, OTHER)]
    assert bench.hear(probe(THIRD)) == [ArpPacket(arp.REPLY, MINE, ADDRESS, THIRD, 0, MINE, THIRD)]
    assert bench.acd.state is state


def test_the_first_request_after_the_claim_is_answered_even_before_the_announcement_left() -> None:
    bench = at(AcdState.FREE)
    bench.acd.claim()
    answers = bench.hear(request(OTHER, ADDRESS + 1, ADDRESS))
    assert reply(MINE, ADDRESS, OTHER, ADDRESS + 1) in answers


@pytest.mark.parametrize("state", HOLDING)
def test_2_4_a_never_gives_up_at_the_first_conflict(state: AcdState) -> None:
    bench = at(state, Policy.NEVER)
    assert bench.hear(reply(OTHER, ADDRESS)) == []
    assert bench.acd.state is AcdState.LOST
    assert bench.hear(request(OTHER, 1, ADDRESS)) == []


def test_2_4_b_once_defends_and_gives_up_at_the_second_conflict_within_ten_seconds() -> None:
    bench = at(AcdState.DEFENDING, Policy.ONCE)
    assert bench.hear(reply(OTHER, ADDRESS)) == [request(MINE, ADDRESS, ADDRESS)]
    bench.now += 9.99
    assert bench.hear(reply(OTHER, ADDRESS)) == []
    assert bench.acd.state is AcdState.LOST
    decisions = [Conflict(OTHER, None, decision) for decision in (Decision.DEFEND, Decision.GIVE_UP)]
    assert bench.told[-4:] == [decisions[0], Defended(), decisions[1], Lost(OTHER)]


def test_2_4_b_once_defends_again_when_ten_seconds_have_passed() -> None:
    bench = at(AcdState.DEFENDING, Policy.ONCE)
    bench.hear(reply(OTHER, ADDRESS))
    bench.now += 10
    assert bench.hear(reply(OTHER, ADDRESS)) == [request(MINE, ADDRESS, ADDRESS)]
    assert bench.acd.state is AcdState.DEFENDING


def test_2_4_c_always_defends_with_one_announcement_in_ten_seconds() -> None:
    bench = at(AcdState.DEFENDING, Policy.ALWAYS)
    sent = []
    for _ in range(100):
        sent += bench.hear(reply(OTHER, ADDRESS))
        bench.now += 0.5
    assert sent == [request(MINE, ADDRESS, ADDRESS)] * 5
    assert bench.acd.state is AcdState.DEFENDING
    assert bench.conflicts() == [Conflict(OTHER, None, Decision.DEFEND)] * 100
    assert bench.told.count(Defended()) == 5


@pytest.mark.parametrize("state", SEEKING)
def test_a_station_whose_mac_changes_uses_the_address_all_the_same(state: AcdState) -> None:
    bench = at(state)
    bench.hear(reply(OTHER, ADDRESS))
    bench.hear(reply(THIRD, ADDRESS))
    assert bench.acd.state is AcdState.IN_USE


def test_a_probe_that_has_not_left_does_not_count() -> None:
    bench = Bench()
    assert bench.acd.deadline is not None
    bench.acd.advance(bench.acd.deadline)
    for late in (10.0, 20.0, 30.0):
        bench.acd.advance(late)
    assert bench.acd.state is AcdState.PROBING
    assert bench.acd.probes == 0
    assert bench.acd.deadline is None


def test_no_periodic_probing_once_it_is_ours() -> None:
    bench = at(AcdState.DEFENDING)
    before = len(bench.sent)
    bench.run(bench.now + 10_000)
    assert len(bench.sent) == before


@pytest.mark.parametrize("state", SEEKING + HOLDING)
def test_nothing_is_sent_after_the_release(state: AcdState) -> None:
    bench = at(state)
    bench.acd.release()
    bench.run(bench.now + 100)
    assert bench.hear(request(OTHER, 1, ADDRESS)) == []
    assert bench.acd.state is AcdState.RELEASED


def test_announcing_again_at_any_moment() -> None:
    bench = at(AcdState.ANNOUNCING)
    bench.acd.announce()
    bench.until(AcdState.DEFENDING)
    bench.acd.announce()
    bench.acd.announce()
    bench.until(AcdState.DEFENDING)
    assert not bench.acd.outbox


def test_a_flood_of_questions_does_not_become_a_queue_without_end() -> None:
    bench = at(AcdState.DEFENDING)
    for number in range(100_000):
        bench.acd.receive(request(OTHER, number % 2**32, ADDRESS), bench.now)
    assert len(bench.acd.outbox) <= 1024


def test_conflicts_that_nobody_reads_are_counted_and_their_end_is_still_told() -> None:
    bench = at(AcdState.DEFENDING, Policy.ALWAYS)
    for _ in range(MOST_EVENTS + 10):
        bench.acd.receive(reply(OTHER, ADDRESS), bench.now)
    bench.acd.policy = Policy.NEVER
    bench.acd.receive(reply(THIRD, ADDRESS), bench.now)
    events = bench.acd.events()
    assert len(events) == MOST_EVENTS + 1
    assert events[-1] == Lost(THIRD)
    assert bench.acd.dropped_events == 11
    assert bench.acd.events() == []


def test_the_way_to_a_claim_is_told_in_order_and_once() -> None:
    bench = at(AcdState.DEFENDING)
    assert bench.told == [Ready(), Announced()]
    bench.acd.announce()
    bench.until(AcdState.DEFENDING)
    assert bench.told == [Ready(), Announced(), Announced()]


@pytest.mark.parametrize("state", list(AcdState))
@pytest.mark.parametrize("what", list(Input))
@pytest.mark.parametrize("decision", [None, *Decision])
def test_an_illegal_step_raises_and_changes_nothing(state: AcdState, what: Input, decision: Decision | None) -> None:
    bench = Bench()
    bench.acd.state = state
    after = TRANSITIONS[state].get(what)
    if isinstance(after, dict):
        after = after.get(decision)
    elif decision is not None:
        after = None
    if after is not None:
        bench.acd._step(what, decision)
        assert bench.acd.state is after
    else:
        with pytest.raises(IllegalTransition):
            bench.acd._step(what, decision)
        assert bench.acd.state is state


def test_each_state_stands_in_the_table_and_every_state_but_the_first_is_reached() -> None:
    assert list(TRANSITIONS) == [
        *SEEKING,
        *HOLDING,
        AcdState.IN_USE,
        AcdState.CONTENDED,
        AcdState.LOST,
        AcdState.RELEASED,
    ]
    exits = [after for row in TRANSITIONS.values() for after in row.values()]
    reached = {state for after in exits for state in (after.values() if isinstance(after, dict) else [after])}
    assert reached == set(AcdState)


@pytest.mark.parametrize("state", [state for state in AcdState if state not in HOLDING])
def test_what_is_not_held_cannot_be_announced_and_does_not_change(state: AcdState) -> None:
    bench = Bench()
    bench.acd.state = state
    deadline = bench.acd.deadline
    with pytest.raises(IllegalTransition):
        bench.acd.announce()
    assert (bench.acd.state, bench.acd.deadline, len(bench.acd.outbox)) == (state, deadline, 0)


@pytest.mark.parametrize("late", [0.0, 7.0])
def test_2_4_the_defend_interval_counts_from_the_frame_that_left(late: float) -> None:
    bench = at(AcdState.DEFENDING, Policy.ALWAYS)
    bench.acd.receive(reply(OTHER, ADDRESS), bench.now)
    bench.now += late
    bench.flush()
    bench.now += 9.99
    assert bench.hear(reply(OTHER, ADDRESS)) == []
    bench.now += 0.01
    assert bench.hear(reply(OTHER, ADDRESS)) == [request(MINE, ADDRESS, ADDRESS)]


MACS = st.sampled_from([MINE, OTHER, THIRD, BRIDGE, arp.NO_MAC, arp.BROADCAST])
IPS = st.sampled_from([0, ADDRESS, ADDRESS + 1, 2**32 - 1])
PACKETS = st.builds(ArpPacket, st.sampled_from([1, 2]), MACS, IPS, MACS, IPS, MACS, MACS)
STEPS = st.lists(st.one_of(PACKETS, st.floats(0, 3), st.sampled_from(["claim", "announce", "release", "hold back"])))


@given(st.sampled_from(Policy), STEPS)
def test_no_frame_and_no_order_of_events_breaks_the_machine(
    policy: Policy, steps: list[ArpPacket | float | str]
) -> None:
    bench = Bench(policy)
    for step in steps:
        held = bench.acd.state in ANSWERING
        if isinstance(step, ArpPacket):
            answers = bench.hear(step)
            if held and step.operation == arp.REQUEST and step.target_ip == ADDRESS and step.sender_mac == THIRD:
                defended = step.sender_ip != ADDRESS
                assert not defended or any(packet.operation == arp.REPLY for packet in answers)
        elif isinstance(step, float):
            bench.run(bench.now + step)
        elif step == "claim" and bench.acd.state is AcdState.FREE:
            bench.acd.claim()
        elif step == "announce" and held:
            bench.acd.announce()
        elif step == "release" and bench.acd.state in SEEKING + HOLDING:
            bench.acd.release()
        claimed = any(packet.sender_ip == ADDRESS for _, packet in bench.sent)
        assert not claimed or bench.acd.probes == 3


def test_2_4_of_two_defences_that_the_kernel_could_not_take_one_leaves() -> None:
    bench = at(AcdState.DEFENDING, Policy.ALWAYS)
    sent = len(bench.sent)
    for _ in range(3):
        bench.acd.receive(reply(OTHER, ADDRESS), bench.now)
        bench.now += 12
    bench.flush()
    assert [packet for _, packet in bench.sent[sent:]] == [request(MINE, ADDRESS, ADDRESS)]
    assert bench.told.count(Defended()) == 1
