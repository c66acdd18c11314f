"""Verdicts on a desk: their clock, and the stations of the link, which answer at once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.parameters import Parameters
from arpipam.protocol.verdicts import Verdicts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from arpipam.protocol.outcome import Outcome, Verdict
    from arpipam.protocol.search import LinkMemory

NET = 0x0A00_0000
CANARY, WITNESS, FIRST, SECOND, THIRD = (NET + n for n in range(5))
OWN_ADDRESS = NET + 0xFFF0
BRIDGE, MINE, HOST, STATION, RIVAL, PORT = (bytes([2, 0, 0, 0, 0, n]) for n in range(1, 7))


class Desk:
    """Verdicts on some addresses, their clock, and the stations of the link, which answer at once.

    `polite` stations answer nothing but ordinary requests, `shy` ones nothing but probes.
    """

    def __init__(
        self,
        addresses: Iterable[int] = (FIRST,),
        *,
        possible: Iterable[int] = (),
        now: float = 100.0,
        tries: int = 1,
        memory: LinkMemory | None = None,
        **changes: Any,
    ) -> None:
        known: dict[str, Any] = {"own_address": OWN_ADDRESS, "witnesses": (WITNESS,), "canary": CANARY}
        macs = frozenset({BRIDGE, PORT})
        self.now = now
        self.stations: dict[int, bytes] = {WITNESS: HOST}
        self.polite: set[int] = set()
        self.shy: set[int] = set()
        self.left: list[tuple[float, ArpPacket]] = []
        self.search = Verdicts(
            addresses,
            MINE,
            Parameters(BRIDGE, local_macs=macs, **(known | changes)),
            rng=random.Random(1),
            now=now,
            possible_witnesses=possible,
            tries=tries,
            memory=memory,
        )

    def hear(self, packet: ArpPacket, after: float = 0.0) -> None:
        self.search.receive(packet, self.now + after)

    def flush(self) -> list[ArpPacket]:
        """Let all frames leave, and those that are there answer."""
        left: list[ArpPacket] = []
        busy = True
        while busy:
            busy = False
            for outbox in list(self.search.outboxes()):
                while frames := outbox.peek(1):
                    busy = True
                    packet = arp.dissect(frames[0])
                    assert isinstance(packet, ArpPacket)
                    outbox.sent(1, self.now)
                    left.append(packet)
                    self._answer(packet)
        self.left += [(self.now, packet) for packet in left]
        return left

    def _answer(self, packet: ArpPacket) -> None:
        target = packet.target_ip
        if (
            target in self.stations
            and not (target in self.polite and packet.is_probe)
            and not (target in self.shy and not packet.is_probe)
        ):
            mac, asker = self.stations[target], packet.sender_mac
            self.hear(ArpPacket(arp.REPLY, mac, target, asker, packet.sender_ip, mac, asker))

    def due(self) -> float:
        due = self.search.deadline
        assert due is not None
        return due

    def step(self) -> list[ArpPacket]:
        left = self.flush()
        if (due := self.search.deadline) is not None:
            self.now = max(self.now, due)
            self.search.advance(self.now)
        return left

    def run(self) -> dict[int, Outcome]:
        for _ in range(10_000):
            if self.search.done:
                return self.search.outcomes
            self.step()
        raise AssertionError("it never ends")

    def verdicts(self) -> list[Verdict]:
        return [outcome.verdict for outcome in self.run().values()]
