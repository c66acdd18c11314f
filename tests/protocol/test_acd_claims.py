"""An address that is ours: adopted, guarded, taken over, moved to another MAC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.protocol import arp
from arpipam.protocol.acd import Acd, AcdState, IllegalTransition
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.events import Conflict
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


# Said as a reply too.


def to_all(mac: bytes, since: int = 0) -> ArpPacket:
    """A reply to everybody."""
    return ArpPacket(arp.REPLY, mac, ADDRESS, arp.BROADCAST, ADDRESS, mac, arp.BROADCAST, since)


@pytest.mark.parametrize("begin", [Acd.claim, Acd.adopt])
def test_who_asked_before_we_answered_is_told_once_by_a_reply_right_behind_the_announcement(
    begin: Callable[[Acd], None],
) -> None:
    bench = at(AcdState.FREE if begin is Acd.claim else AcdState.WAITING, since=EARLIER)
    sent = len(bench.sent)
    begin(bench.acd)
    bench.until(AcdState.DEFENDING)
    told = announcement(MINE, EARLIER)
    assert [packet for _, packet in bench.sent[sent:]] == [told, to_all(MINE, EARLIER), told]
    assert bench.sent[sent][0] == bench.sent[sent + 1][0]


@pytest.mark.parametrize("again", [Acd.announce, lambda acd: acd.change_mac(THIRD)])
@pytest.mark.parametrize("state", HOLDING)
def test_what_we_answer_for_already_is_announced_by_requests_alone(
    state: AcdState, again: Callable[[Acd], None]
) -> None:
    bench = at(state)
    sent = len(bench.sent)
    again(bench.acd)
    bench.run(bench.now + 1000)
    assert {packet.operation for _, packet in bench.sent[sent:]} == {arp.REQUEST}


@given(st.floats(-1.99, 1.99))
def test_a_station_that_asks_once_and_hears_replies_alone_for_2_s_is_told(asked: float) -> None:
    """Whether it asks before the claim, unheard by a search that began later, or after it."""
    bench = at(AcdState.FREE)
    claimed, sent = bench.now, len(bench.sent)
    bench.acd.claim()
    bench.flush()
    if asked >= 0:
        bench.run(claimed + asked)
        bench.hear(probe(OTHER))
    replies = [
        when
        for when, packet in bench.sent[sent:]
        if packet.operation == arp.REPLY and packet.destination in {OTHER, arp.BROADCAST}
    ]
    assert any(claimed + asked <= when < claimed + asked + 2 for when in replies)


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
    bench.acd.guard()
    for packet in (probe(OTHER), request(OTHER, ADDRESS + 1, ADDRESS), probe(BRIDGE)):
        assert bench.hear(packet) == []
    bench.run(bench.now + 1000)
    assert bench.acd.state is AcdState.GUARDING
    assert len(bench.sent) == sent  # the second announcement is the owner's affair, too


def test_answers_that_had_not_left_at_the_handover_never_do() -> None:
    bench = at(AcdState.DEFENDING)
    bench.acd.receive(request(OTHER, ADDRESS + 1, ADDRESS), bench.now)
    bench.acd.guard()
    assert not bench.acd.outbox


@pytest.mark.parametrize("packet", [announcement(MINE), reply(MINE, ADDRESS, OTHER), request(MINE, ADDRESS, 1)])
def test_the_owners_own_frames_are_no_conflict(packet: ArpPacket) -> None:
    bench = at(AcdState.GUARDING, Policy.NEVER)
    assert bench.hear(packet) == []
    assert (bench.acd.state, bench.conflicts()) == (AcdState.GUARDING, [])


def test_when_the_owner_is_gone_we_answer_again_and_say_nothing_unasked() -> None:
    bench = at(AcdState.GUARDING)
    bench.acd.take_over(bench.now)
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
        ([*SEEKING, AcdState.GUARDING], lambda bench: bench.acd.guard()),
        ([*SEEKING, *ANSWERING], lambda bench: bench.acd.take_over(bench.now)),
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
