"""One machine of acd.py on a bench: its clock, all that it sent, and the packets of others."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from arpipam.protocol import arp
from arpipam.protocol.acd import Acd, AcdState
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.events import Conflict
from arpipam.protocol.policy import Policy
from arpipam.protocol.timing import RFC5227
from arpipam.protocol.witnesses import SearchWitnesses

if TYPE_CHECKING:
    from arpipam.protocol.events import Event

ADDRESS = 0xAC102A07
MINE = bytes.fromhex("02005e100001")
OTHER = bytes.fromhex("02005e100002")
THIRD = bytes.fromhex("02005e100003")
BRIDGE = bytes.fromhex("02005e1000b0")


class Bench:
    """One machine, its clock, and all that it sent."""

    def __init__(self, policy: Policy = Policy.ONCE, seed: int = 1, *, mac: bytes = MINE, since: int = 0) -> None:
        self.now = 0.0
        self.sent: list[tuple[float, ArpPacket]] = []
        self.told: list[Event] = []
        """All events so far."""
        witnesses = SearchWitnesses(RFC5227, bound=1e-6, alone=True)
        self.acd = Acd(ADDRESS, mac, witnesses, rng=random.Random(seed), now=0.0, local_macs={BRIDGE}, policy=policy)
        self.acd.since = since

    def flush(self) -> None:
        while frames := self.acd.outbox.peek(1):
            packet = arp.dissect(frames[0])
            assert isinstance(packet, ArpPacket)
            self.sent.append((self.now, packet))
            self.acd.outbox.sent(1, self.now)
        self.told += self.acd.events()

    def run(self, until: float) -> None:
        self.flush()
        while self.acd.deadline is not None and self.acd.deadline <= until:
            self.now = self.acd.deadline
            self.acd.advance(self.now)
            self.flush()
        self.now = until

    def conflicts(self) -> list[Conflict]:
        """The conflicts so far."""
        return [event for event in self.told if isinstance(event, Conflict)]

    def until(self, state: AcdState) -> None:
        self.flush()
        while self.acd.state is not state:
            assert self.acd.deadline is not None, f"stuck in {self.acd.state}"
            self.run(self.acd.deadline)

    def hear(self, packet: ArpPacket) -> list[ArpPacket]:
        """Take in a packet and return what is sent in answer."""
        before = len(self.sent)
        self.acd.receive(packet, self.now)
        self.flush()
        return [sent for _, sent in self.sent[before:]]


def request(mac: bytes, sender: int, target: int, since: int = 0) -> ArpPacket:
    return ArpPacket(arp.REQUEST, mac, sender, arp.NO_MAC, target, mac, arp.BROADCAST, since)


def reply(mac: bytes, sender: int, target_mac: bytes = MINE, target: int = 0) -> ArpPacket:
    return ArpPacket(arp.REPLY, mac, sender, target_mac, target, mac, target_mac)


def probe(mac: bytes) -> ArpPacket:
    return request(mac, 0, ADDRESS)


SEEKING = [AcdState.WAITING, AcdState.PROBING, AcdState.SETTLING, AcdState.FREE]
ANSWERING = [AcdState.ANNOUNCING, AcdState.DEFENDING]
HOLDING = [*ANSWERING, AcdState.GUARDING]


def announcement(mac: bytes, since: int = 0) -> ArpPacket:
    return request(mac, ADDRESS, ADDRESS, since)


def at(state: AcdState, policy: Policy = Policy.ONCE, *, mac: bytes = MINE, since: int = 0) -> Bench:
    """A machine that has come to that state as machines do."""
    bench = Bench(policy, mac=mac, since=since)
    if state in HOLDING:
        bench.until(AcdState.FREE)
        bench.acd.claim()
        if state is AcdState.ANNOUNCING:
            bench.flush()
        else:
            bench.until(AcdState.DEFENDING)
        if state is AcdState.GUARDING:
            bench.acd.guard()
    else:
        bench.until(state)
    return bench
