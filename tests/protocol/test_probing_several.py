"""The probing of several addresses, call by call: what is judged when, and what undoes a verdict."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.canary import Canary
from arpipam.protocol.outcome import Verdict
from arpipam.protocol.probing import Probing
from arpipam.protocol.timing import ADAPTIVE, RFC5227
from arpipam.protocol.witnesses import SearchWitnesses
from tests.support.search import FIRST, WITNESS, mac, parameters

if TYPE_CHECKING:
    from arpipam.protocol.timing import Timing

MINE, OTHER, ROUTER, BRIDGE = mac(1), mac(77), mac(2), mac(1000)
ONE, TWO = FIRST, FIRST + 1


class Bench:
    """One probing, its clock, and what it sent; the witnesses answer at once."""

    def __init__(
        self, *addresses: int, timing: Timing = ADAPTIVE, witnesses: tuple[int, ...] = (WITNESS,), **known: Any
    ) -> None:
        self.now = 5.0
        self.sent: list[tuple[float, ArpPacket]] = []
        self.answering = set(witnesses)
        told = parameters(witnesses=witnesses, timing=timing, **known)
        self.witnesses = SearchWitnesses(timing, bound=told.miss_probability, required=witnesses, alone=told.alone)
        self.probing = Probing(
            addresses, MINE, self.witnesses, Canary(told.canary), told, rng=random.Random(1), now=self.now
        )

    def flush(self) -> None:
        for outbox in self.probing.outboxes():
            while frames := outbox.peek(1):
                outbox.sent(1, self.now)
                packet = arp.dissect(frames[0])
                assert isinstance(packet, ArpPacket)
                self.sent.append((self.now, packet))
                if packet.target_ip in self.answering:
                    self.hear(ArpPacket(arp.REPLY, ROUTER, packet.target_ip, BRIDGE, 0, ROUTER, BRIDGE))

    def hear(self, packet: ArpPacket) -> None:
        self.probing.receive(packet, self.now)

    def step(self) -> None:
        self.flush()
        self.now = max(self.now, self.probing.deadline)
        self.probing.advance(self.now)
        self.flush()

    def until_first(self) -> int:
        """Until one address has its outcome; which one."""
        while not self.probing.outcomes:
            self.step()
        [address] = self.probing.outcomes
        return address

    def end(self) -> dict[int, Verdict]:
        while not self.probing.done:
            self.step()
        return {address: outcome.verdict for address, outcome in self.probing.outcomes.items()}


def rival(address: int) -> ArpPacket:
    return ArpPacket(arp.REQUEST, OTHER, 0, arp.NO_MAC, address, OTHER, arp.BROADCAST)


def user(address: int) -> ArpPacket:
    return ArpPacket(arp.REQUEST, OTHER, address, arp.NO_MAC, address, OTHER, arp.BROADCAST)


@pytest.mark.parametrize(
    ("packet", "verdict"), [(rival, Verdict.CONTENDED), (user, Verdict.IN_USE)], ids=["rival", "user"]
)
def test_an_address_that_was_judged_free_is_watched_until_the_others_are_judged(packet: Any, verdict: Verdict) -> None:
    bench = Bench(ONE, TWO, timing=RFC5227)
    first = bench.until_first()
    assert bench.probing.outcomes[first].verdict is Verdict.FREE
    bench.hear(packet(first))
    assert (bench.probing.outcomes[first].verdict, bench.probing.outcomes[first].mac) == (verdict, OTHER)
    other = ONE + TWO - first
    assert bench.end() == {first: verdict, other: Verdict.FREE}


def test_frames_that_were_dropped_undo_what_was_judged_free_and_nothing_else() -> None:
    bench = Bench(ONE, TWO, FIRST + 2, timing=RFC5227)
    bench.hear(user(FIRST + 2))
    while len(bench.probing.outcomes) < 2:
        bench.step()
    bench.probing.overflow(3, bench.now)
    assert set(bench.probing.outcomes) == {FIRST + 2}
    since = len(bench.sent)
    assert bench.end() == {ONE: Verdict.FREE, TWO: Verdict.FREE, FIRST + 2: Verdict.IN_USE}
    again = [packet.target_ip for _, packet in bench.sent[since:] if packet.is_probe]
    assert sorted(again) == [ONE] * 3 + [TWO] * 3
    assert all(bench.probing.acds[address].state == "free" for address in (ONE, TWO))  # they can be claimed


def test_a_named_witness_that_falls_silent_makes_it_unknown_however_well_another_answers() -> None:
    bench = Bench(ONE, witnesses=(WITNESS, WITNESS + 7), budget=1.0, names={WITNESS + 7: "printer"})
    bench.answering = {WITNESS}
    assert bench.end() == {ONE: Verdict.UNKNOWN}
    assert "printer (10.0.0.8)" in bench.probing.outcomes[ONE].reason


def test_a_candidate_is_known_by_its_own_packets_whoever_else_they_name() -> None:
    """A user of one candidate that asks for another one uses the first, and is no rival for the second."""
    bench = Bench(ONE, TWO)
    bench.hear(replace_target(user(ONE), TWO))
    assert bench.probing.outcomes[ONE].verdict is Verdict.IN_USE
    assert bench.end()[TWO] is Verdict.FREE


def replace_target(packet: ArpPacket, target: int) -> ArpPacket:
    return packet._replace(target_ip=target)
