"""A search for a free address on a desk: its clock, all that it sent, and the stations of its link."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.first_free import FirstFree
from arpipam.protocol.parameters import Parameters

if TYPE_CHECKING:
    from collections.abc import Iterable

NET = 0x0A00_0000
CANARY, WITNESS, FIRST = NET, NET + 1, NET + 2
OWN_ADDRESS = NET + 0xFFF0
BRIDGE, MINE, HOST, STATION, RIVAL = (bytes([2, 0, 0, 0, 0, n]) for n in range(1, 6))


class Desk:
    """A search, its clock, and the stations of its link.

    `stations` answer whatever asks for them; `shy` ones answer nothing but probes, as where the answer to the survey
    was lost; `rivals` probe for an address as soon as we do.
    """

    def __init__(
        self,
        candidates: Iterable[int] = range(FIRST, FIRST + 3),
        *,
        seed: int = 1,
        now: float = 100.0,
        reserve: Any = None,
        **changes: Any,
    ) -> None:
        known: dict[str, Any] = {"own_address": OWN_ADDRESS, "witnesses": (WITNESS,), "canary": CANARY}
        self.now = now
        self.stations: dict[int, bytes] = {WITNESS: HOST}
        self.shy: set[int] = set()
        self.rivals: set[int] = set()
        self.returned: list[int] = []
        self.left: list[tuple[float, ArpPacket]] = []
        self.search = FirstFree(
            iter(candidates),
            MINE,
            Parameters(BRIDGE, local_macs=frozenset({BRIDGE}), **(known | changes)),
            rng=random.Random(seed),
            now=now,
            reserve=reserve or (lambda _: True),
            unreserve=self.returned.append,
        )

    def hear(self, operation: int, mac: bytes, sender: int, target: int, to: bytes) -> None:
        destination = arp.BROADCAST if operation == arp.REQUEST else to
        self.search.receive(ArpPacket(operation, mac, sender, to, target, mac, destination), self.now)

    def flush(self) -> None:
        """Let all frames leave, and those that are there answer at once."""
        busy = True
        while busy:
            busy = False
            for outbox in list(self.search.outboxes()):
                while frames := outbox.peek(1):
                    busy = True
                    packet = arp.dissect(frames[0])
                    assert isinstance(packet, ArpPacket)
                    outbox.sent(1, self.now)
                    self.left.append((self.now, packet))
                    self._answer(packet)

    def _answer(self, packet: ArpPacket) -> None:
        target = packet.target_ip
        if packet.is_probe and target in self.rivals:
            self.hear(arp.REQUEST, RIVAL, 0, target, arp.NO_MAC)
        elif target in self.stations or (target in self.shy and packet.is_probe):
            mac = self.stations.get(target, STATION)
            self.hear(arp.REPLY, mac, target, packet.sender_ip, packet.sender_mac)

    def step(self) -> None:
        self.flush()
        due = self.search.deadline
        if due is not None:
            self.now = max(self.now, due)
            self.search.advance(self.now)

    def run(self, until: float = float("inf")) -> Desk:
        """To the end, or as far as a moment."""
        while not self.search.done:
            self.flush()
            due = self.search.deadline
            assert due is not None
            if due > until:
                break
            self.step()
        return self

    def asked(self, *, probes: bool) -> list[int]:
        """The candidates that were asked for by ordinary requests, or probed."""
        wanted = [packet for _, packet in self.left if packet.is_probe is probes]
        return [packet.target_ip for packet in wanted if packet.target_ip not in {WITNESS, CANARY}]

    def first_probes(self) -> dict[int, float]:
        """When each candidate was probed first."""
        first: dict[int, float] = {}
        for when, packet in self.left:
            if packet.is_probe and packet.target_ip not in {WITNESS, CANARY}:
                first.setdefault(packet.target_ip, when)
        return first

    def failure(self) -> str:
        assert self.search.error is not None
        assert self.search.found is None
        return str(self.search.error)
