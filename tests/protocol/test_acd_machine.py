"""The state machine of one address against any order of what can happen: packets, time, lost frames, its caller.

A few hundred steps by default; `ARPIPAM_STEPS=100000` takes that many, `ARPIPAM_SEED` the same ones again. docs/acd.md
states the invariants. Half of the addresses are ours from the beginning, and few foreign frames arrive while we probe:
else nearly all steps would be taken by machines that have ended.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
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
from tests.support.machines import STEPS, run_steps

if TYPE_CHECKING:
    from arpipam.protocol.events import Event

AFTER_THE_END = 2
"""Steps that a machine takes after its end: what changes nothing need not be tried for long."""
MANY_STEPS = 4000
"""So many have come to every state."""
SINCE = FIRST_RELEASE + 1000
OURS = [MINE, bytes.fromhex("02005e1000a1"), bytes.fromhex("02005e1000a2")]
STRANGERS = st.sampled_from([OTHER, THIRD])
ENDED = [state for state in AcdState if state not in SEEKING + HOLDING]
ARRIVES = {True: st.integers(0, 3).map(bool), False: st.integers(0, 9).map(lambda drawn: not drawn)}
"""Whether a frame of another station comes through, by whether the address is ours: three of four, and one of ten."""
LEADS_TO = {Ready: AcdState.FREE, Used: AcdState.IN_USE, Contended: AcdState.CONTENDED, Lost: AcdState.LOST}


goes_on = precondition(lambda self: self.ended < AFTER_THE_END)


class Machine(RuleBasedStateMachine):
    """One address, a wire that may be jammed, and a record of all that was sent and told."""

    steps: ClassVar[Counter[AcdState]] = Counter()
    """Of all machines: how many steps were taken in each state."""

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """A new machine, or one that has come to be ours: claimed, or adopted from a process that ended."""
        policy, dated = data.draw(st.sampled_from(Policy), "policy"), data.draw(st.booleans(), "dated")
        witnesses = SearchWitnesses(RFC5227, bound=1e-6, alone=True)
        rng = random.Random(data.draw(st.integers(0, 99), "delays"))
        self.acd = Acd(ADDRESS, MINE, witnesses, rng=rng, now=0.0, local_macs={BRIDGE}, policy=policy)
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
        self.ended = 0
        """Steps since its end."""
        how = data.draw(st.sampled_from(["new", "new", "claimed", "adopted"]), "begins")
        if how == "adopted":
            self.adopt()
        elif how == "claimed":
            while self.acd.state is not AcdState.FREE:
                self.time_passes(1.0)
            self.claim()

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def begin_anew(self, data: st.DataObject) -> None:
        self.begin(data)

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

    @goes_on
    @rule(seconds=st.sampled_from([0.0, 0.01, 0.5, 2.0, 9.99, 12.0]) | st.floats(0, 15))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        self.let_leave()
        while self.acd.deadline is not None and self.acd.deadline <= until:
            self.now = max(self.now, self.acd.deadline)
            self.acd.advance(self.now)
            self.let_leave()
        self.now = until

    @precondition(lambda self: self.acd.deadline is not None)
    @rule()
    def what_is_due_is_done(self) -> None:
        """No more than that: time that passes may leave a state behind that it has reached."""
        assert self.acd.deadline is not None
        self.now = max(self.now, self.acd.deadline)
        self.acd.advance(self.now)
        self.let_leave()

    @goes_on
    @rule()
    def jam(self) -> None:
        self.jammed = not self.jammed
        self.let_leave()

    # Other stations; some of their frames are lost on the way.

    def arrives(self, data: st.DataObject) -> bool:
        return data.draw(ARRIVES[self.acd.state not in SEEKING], "arrives")

    @goes_on
    @rule(mac=STRANGERS, to=st.sampled_from([ADDRESS + 1, ADDRESS]), data=st.data())
    def a_station_answers(self, mac: bytes, to: int, data: st.DataObject) -> None:
        if self.arrives(data):
            self.hear(reply(mac, ADDRESS, MINE, to))

    @goes_on
    @rule(mac=STRANGERS, since=st.sampled_from([0, 1, SINCE - 1, SINCE, SINCE + 1, 2**64 - 1]), data=st.data())
    def another_claim_is_announced(self, mac: bytes, since: int, data: st.DataObject) -> None:
        if self.arrives(data):
            self.hear(announcement(mac, since))

    @goes_on
    @rule(mac=st.sampled_from([OTHER, THIRD, BRIDGE]), data=st.data())
    def a_rival_probes(self, mac: bytes, data: st.DataObject) -> None:
        if mac == BRIDGE or self.arrives(data):
            self.asked(probe(mac))

    @goes_on
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

    @goes_on
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
        self.acd.take_over(self.now)
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
    @rule(often=st.integers(0, 9))
    def release(self, often: int) -> None:
        if often == 0:  # else most machines would end early
            self.acd.release()
            assert not self.acd.outbox

    @goes_on
    @rule(policy=st.sampled_from(Policy))
    def change_policy(self, policy: Policy) -> None:
        self.acd.policy = policy

    @goes_on
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
        arguments: dict[str, list[object]] = {"change_mac": [OURS[1]], "take_over": [self.now]}
        with pytest.raises(IllegalTransition):
            getattr(self.acd, name)(*arguments.get(name, []))
        assert (self.acd.state, self.acd.deadline, self.acd.mac, self.acd.outbox.peek(9999)) == before
        assert self.acd.events() == []

    # What holds after each step.

    @invariant()
    def its_steps_are_counted(self) -> None:
        self.steps[self.acd.state] += 1
        self.ended += self.acd.state in ENDED

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
    Machine.steps.clear()
    run_steps(Machine)
    print(*Machine.steps.most_common(), sep="\n")  # noqa: T201 - what was tried
    if STEPS >= MANY_STEPS:
        assert set(Machine.steps) == set(AcdState)
        assert sum(Machine.steps[state] for state in ENDED) < Machine.steps.total() / 4
        assert sum(Machine.steps[state] for state in HOLDING) > Machine.steps.total() / 4
