"""A probing on a desk: its clock, and a witness that answers while it shall."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.canary import Canary
from arpipam.protocol.parameters import Parameters
from arpipam.protocol.probing import Probing
from arpipam.protocol.timing import ADAPTIVE, Timing
from arpipam.protocol.witnesses import LinkWitnesses, SearchWitnesses

if TYPE_CHECKING:
    from arpipam.protocol.outcome import Outcome

NET = 0x0A00_0000
WITNESS, FIRST, SECOND, OWN = NET + 1, NET + 2, NET + 3, NET + 0xFFF0
MINE, STATION, OTHER, BRIDGE = (bytes([2, 0, 0, 0, 0, n]) for n in (1, 2, 3, 4))
ROUND_TRIP = 0.001


class Desk:
    """A probing under MINE, its clock, and a witness that answers while `answers` says so."""

    def __init__(
        self,
        *addresses: int,
        timing: Timing = ADAPTIVE,
        now: float = 10.0,
        link: LinkWitnesses | None = None,
        canary: int | None = NET,
        mac: bytes = MINE,
        **changes: Any,
    ) -> None:
        known: dict[str, Any] = {"own_address": OWN, "witnesses": (WITNESS,), "names": {WITNESS: "host2"}}
        parameters = Parameters(BRIDGE, timing=timing, local_macs=frozenset({BRIDGE}), **(known | changes))
        self.now = now
        self.mac = mac
        self.answers = True
        self.canary = Canary(canary)
        self.witnesses = SearchWitnesses(
            timing,
            bound=parameters.miss_probability,
            required=parameters.witnesses,
            alone=parameters.alone,
            link=link,
        )
        self.probing = Probing(
            addresses or (FIRST,), mac, self.witnesses, self.canary, parameters, rng=random.Random(1), now=now
        )

    def flush(self) -> list[ArpPacket]:
        """Let all frames leave, and the witness answer."""
        left = []
        for outbox in self.probing.outboxes():
            while frames := outbox.peek(1):
                packet = arp.dissect(frames[0])
                assert isinstance(packet, ArpPacket)
                left.append(packet)
                outbox.sent(1, self.now)
        if self.answers and any(packet.target_ip == WITNESS for packet in left):
            self.hear(WITNESS, STATION, after=ROUND_TRIP)
        return left

    def hear(self, address: int, mac: bytes, *, after: float = 0.0, to: bytes | None = None) -> None:
        to = to or BRIDGE
        self.probing.receive(ArpPacket(arp.REPLY, mac, address, to, 0, mac, to), self.now + after)

    def rival(self, address: int, mac: bytes = OTHER) -> None:
        self.probing.receive(ArpPacket(arp.REQUEST, mac, 0, arp.NO_MAC, address, mac, arp.BROADCAST), self.now)

    def step(self) -> list[ArpPacket]:
        """To the next deadline; what leaves then."""
        self.now = max(self.now, self.probing.deadline)
        self.probing.advance(self.now)
        return self.flush()

    def run(self, steps: int = 1000) -> Outcome:
        """To the end; the first outcome."""
        for _ in range(steps):
            if self.probing.done:
                return next(iter(self.probing.outcomes.values()))
            self.step()
        raise AssertionError("it never ends")

    def until_round(self, number: int) -> None:
        while self.probing.rounds < number:
            self.step()


def asked(packets: list[ArpPacket]) -> list[int]:
    """What was asked for by ordinary requests, from the interface's own address."""
    requests = [packet for packet in packets if not packet.is_probe]
    assert all((packet.sender_mac, packet.sender_ip) == (BRIDGE, OWN) for packet in requests)
    return [packet.target_ip for packet in requests]


def probed(packets: list[ArpPacket], mac: bytes = MINE) -> list[int]:
    """What was probed for, under the MAC that will own it."""
    probes = [packet for packet in packets if packet.is_probe]
    assert all(packet.sender_mac == mac for packet in probes)
    return [packet.target_ip for packet in probes]
