"""The state machine of one address against any order of what can happen: packets, time, lost frames, its caller.

A few hundred steps by default; `ARPIPAM_STEPS=100000` takes that many. docs/acd.md states the invariants.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from arpipam.protocol import arp
from arpipam.protocol.acd import MOST_EVENTS, MOST_REPLIES, Acd, AcdState, IllegalTransition
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.events import Announced, Conflict, Contended, Defended, Lost, Ready, Used
from arpipam.protocol.policy import FIRST_RELEASE, Decision, Policy
from arpipam.protocol.timing import RFC5227
from arpipam.protocol.witnesses import SearchWitnesses
from tests.support.acd import (
    ADDRESS,
    ANSWERING,
    BRIDGE,
    HOLDING,
    MINE,
    OTHER,
    SEEKING,
    THIRD,
    announcement,
    probe,
    reply,
    request,
)
from tests.support.profile import count

if TYPE_CHECKING:
    from arpipam.protocol.events import Event

STEPS = count("STEPS", 400, 20_000)
AT_ONCE = 50
"""Steps of one machine."""
SINCE = FIRST_RELEASE + 1000
OURS = [MINE, bytes.fromhex("02005e1000a1"), bytes.fromhex("02005e1000a2")]
STRANGERS = st.sampled_from([OTHER, THIRD])
ENDED = [state for state in AcdState if state not in SEEKING + HOLDING]
LEADS_TO = {Ready: AcdState.FREE, Used: AcdState.IN_USE, Contended: AcdState.CONTENDED, Lost: AcdState.LOST}


class Machine(RuleBasedStateMachine):
    """One address, a wire that may be jammed, and a record of all that was sent and told."""

    @initialize(policy=st.sampled_from(Policy), seed=st.integers(0, 99), dated=st.booleans())
    def begin(self, policy: Policy, seed: int, dated: bool) -> None:  # noqa: FBT001 - drawn
        witnesses = SearchWitnesses(RFC5227, bound=1e-6, alone=True)
        self.acd = Acd(ADDRESS, MINE, witnesses, rng=random.Random(seed), now=0.0, local_macs={BRIDGE}, policy=policy)
        self.acd.since = SINCE if dated else 0
        self.now = 0.0
        self.jammed = False
        self.taken = False
        """It was claimed or adopted."""
        self.adopted = False
        self.foreign = 0
        """Foreign frames from the address while it was held."""
        self.told: list[Event] = []
        self.defended: list[float] = []

    # The wire.

    def let_leave(self) -> None:
        """The kernel takes what waits, unless it has no room; each frame is looked at."""
        while not self.jammed and (frames := self.acd.outbox.peek(1)):
            packet = arp.dissect(frames[0])
            assert isinstance(packet, ArpPacket)
            assert self.acd.state not in ENDED
            assert packet.sender_mac == self.acd.mac
            assert packet.sender_ip in {0, ADDRESS}
            assert self.taken == (packet.sender_ip == ADDRESS)
            assert not (self.acd.state is AcdState.GUARDING and packet.operation == arp.REPLY)
            self.acd.outbox.sent(1, self.now)
            for event in self.acd.events():
                self.told.append(event)
                if isinstance(event, Defended):
                    self.defended.append(self.now)
        self.told += self.acd.events()

    def hear(self, packet: ArpPacket) -> None:
        if packet.sender_ip == ADDRESS and self.acd.state in HOLDING and packet.sender_mac not in OURS:
            self.foreign += 1
        self.acd.receive(packet, self.now)
        self.let_leave()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.5, 2.0, 9.99, 12.0]) | st.floats(0, 15))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        self.let_leave()
        while self.acd.deadline is not None and self.acd.deadline <= until:
            self.now = max(self.now, self.acd.deadline)
            self.acd.advance(self.now)
            self.let_leave()
        self.now = until

    @rule()
    def jam(self) -> None:
        self.jammed = not self.jammed
        self.let_leave()

    # Other stations; that a frame is lost on its way to us is a rule that is not drawn.

    @rule(mac=STRANGERS, to=st.sampled_from([ADDRESS + 1, ADDRESS]))
    def a_station_answers(self, mac: bytes, to: int) -> None:
        self.hear(reply(mac, ADDRESS, MINE, to))

    @rule(mac=STRANGERS, since=st.sampled_from([0, 1, SINCE - 1, SINCE, SINCE + 1, 2**64 - 1]))
    def another_claim_is_announced(self, mac: bytes, since: int) -> None:
        self.hear(announcement(mac, since))

    @rule(mac=st.sampled_from([OTHER, THIRD, BRIDGE]))
    def a_rival_probes(self, mac: bytes) -> None:
        self.asked(probe(mac))

    @rule(mac=st.sampled_from([OTHER, THIRD, BRIDGE]))
    def a_station_asks(self, mac: bytes) -> None:
        self.asked(request(mac, ADDRESS + 1, ADDRESS))

    def asked(self, packet: ArpPacket) -> None:
        before, waiting = self.acd.state, len(self.acd.outbox)
        self.acd.receive(packet, self.now)
        answered = before in ANSWERING and packet.sender_mac != BRIDGE and waiting < MOST_REPLIES
        if before not in SEEKING:
            assert self.acd.state is before
            assert len(self.acd.outbox) == waiting + answered
        self.let_leave()

    @rule(packet=st.sampled_from([probe, announcement, lambda mac: reply(mac, ADDRESS, OTHER)]))
    def an_echo_comes_back(self, packet: object) -> None:
        before = self.acd.state, self.acd.deadline, len(self.acd.outbox), self.acd.dropped_events
        self.acd.receive(packet(self.acd.mac), self.now)  # type: ignore[operator] # one of three functions
        assert (self.acd.state, self.acd.deadline, len(self.acd.outbox), self.acd.dropped_events) == before
        assert self.acd.events() == []

    # The caller.

    @precondition(lambda self: self.acd.state is AcdState.FREE)
    @rule()
    def claim(self) -> None:
        self.acd.claim()
        self.taken = True

    @precondition(lambda self: self.acd.state is AcdState.WAITING and self.acd.probes == 0)
    @rule()
    def adopt(self) -> None:
        self.acd.adopt()
        self.taken = self.adopted = True

    @precondition(lambda self: self.acd.state in ANSWERING)
    @rule()
    def guard(self) -> None:
        self.acd.guard()
        assert not self.acd.outbox

    @precondition(lambda self: self.acd.state is AcdState.GUARDING)
    @rule()
    def take_over(self) -> None:
        self.acd.take_over()
        self.let_leave()

    @precondition(lambda self: self.acd.state in HOLDING)
    @rule()
    def announce(self) -> None:
        self.acd.announce()

    @precondition(lambda self: self.acd.state in HOLDING)
    @rule(mac=st.sampled_from(OURS))
    def change_mac(self, mac: bytes) -> None:
        self.acd.change_mac(mac)

    @precondition(lambda self: self.acd.state in SEEKING + HOLDING)
    @rule(often=st.integers(0, 3))
    def release(self, often: int) -> None:
        if often == 0:  # else most machines would end early
            self.acd.release()
            assert not self.acd.outbox

    @rule(policy=st.sampled_from(Policy))
    def change_policy(self, policy: Policy) -> None:
        self.acd.policy = policy

    @rule(name=st.sampled_from(["claim", "adopt", "guard", "take_over", "announce", "release", "change_mac"]))
    def step_out_of_turn(self, name: str) -> None:
        """What is legal in this state is a rule of its own."""
        state = self.acd.state
        legal = {
            "claim": [AcdState.FREE],
            "adopt": [AcdState.WAITING],
            "guard": ANSWERING,
            "take_over": [AcdState.GUARDING],
            "announce": HOLDING,
            "change_mac": HOLDING,
            "release": SEEKING + HOLDING,
        }[name]
        if state in legal:
            return
        before = state, self.acd.deadline, self.acd.mac, self.acd.outbox.peek(9999)
        with pytest.raises(IllegalTransition):
            getattr(self.acd, name)(*([OURS[1]] if name == "change_mac" else []))
        assert (self.acd.state, self.acd.deadline, self.acd.mac, self.acd.outbox.peek(9999)) == before
        assert self.acd.events() == []

    # What holds after each step.

    @invariant()
    def nothing_is_left_to_do_at_the_end(self) -> None:
        if self.acd.state in ENDED:
            assert not self.acd.outbox
            assert self.acd.deadline is None

    @invariant()
    def it_is_ours_only_after_all_probes_have_left(self) -> None:
        assert self.taken == (self.acd.state in HOLDING) or self.acd.state in ENDED
        assert not self.taken or self.adopted or self.acd.probes == RFC5227.probe_num

    @invariant()
    def queues_are_bounded(self) -> None:
        assert len(self.acd.outbox) <= MOST_REPLIES + 2
        assert len(self.acd._events) <= MOST_EVENTS + 1

    @invariant()
    def defences_are_apart(self) -> None:
        assert all(later - earlier >= RFC5227.defend_interval for earlier, later in pairwise(self.defended))

    @invariant()
    def events_match_the_states(self) -> None:
        told = self.told
        for kind, state in LEADS_TO.items():
            times = sum(isinstance(event, kind) for event in told)
            assert times <= 1
            if self.acd.state is state:
                assert times == 1
            elif kind is not Ready:
                assert times == 0
        conflicts = [event for event in told if isinstance(event, Conflict)]
        assert len(conflicts) == self.foreign
        assert (Decision.GIVE_UP in [event.decision for event in conflicts]) <= (self.acd.state is AcdState.LOST)
        assert self.taken or not any(isinstance(event, Announced | Conflict | Defended | Lost) for event in told)


@pytest.mark.timeout(max(300, STEPS // 10))
def test_no_order_of_events_breaks_an_invariant() -> None:
    examples = max(1, STEPS // AT_ONCE)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=AT_ONCE,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
