"""Looks at the link as it is: who answers for which address, how fast, and whether a frame of ours comes back."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from arpipam.protocol import arp
from arpipam.protocol.outbox import Outbox

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator

    from arpipam.protocol.arp import ArpPacket

ROUNDS = 10
"""Questions to each peer."""
GAP = 0.05
"""Seconds between two of them."""
LISTEN = 0.5
"""Seconds to listen after the last."""
_CENSUS = (0, 5)
"""The rounds in which everybody is asked."""


class Look:
    """Asks `peers` in each round and `everybody` in two, and sends a frame under a MAC that nobody has.

    Of a question to this host's own address the sender is 0.0.0.0, so that only somebody else can answer it. It is sent
    once: a second one within seconds would take the address from a station that gives way (dhcpcd does).
    """

    def __init__(
        self, mac: bytes, own: int, peers: Iterable[int], everybody: Iterable[int], canary: int, *, rng: random.Random
    ) -> None:
        self.done = False
        self.macs: dict[int, set[bytes]] = defaultdict(set)
        """By address: everybody who sent from it."""
        self.returned = 0
        """Frames of ours that came back: there is a loop."""
        self.dropped = 0
        self._mac = mac
        self.own = own
        self._peers = list(peers)
        self._everybody = set(everybody) | {own}
        self._canary = canary
        self._stranger = arp.random_mac(rng)
        self._times: dict[int, list[float]] = {peer: [] for peer in self._peers}
        self._sent: dict[int, float] = {}
        self._outbox = Outbox()
        self._round = 0
        self._due = float("-inf")

    @property
    def deadline(self) -> float | None:
        """When `advance` wants to be called; None: when the frames have left."""
        return None if self._outbox or self.done else self._due

    @property
    def interest(self) -> None:
        """Everything."""

    def outboxes(self) -> Iterator[Outbox]:
        """The frames that wait to leave."""
        yield self._outbox

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take in a packet from the link."""
        if packet.sender_mac == self._stranger:
            self.returned += 1
        elif packet.sender_ip in self._everybody and packet.sender_mac != self._mac:
            self.macs[packet.sender_ip].add(packet.sender_mac)
            to_us = packet.operation == arp.REPLY and packet.target_mac == self._mac
            if to_us and packet.sender_ip in self._sent and packet.sender_ip in self._times:
                self._times[packet.sender_ip].append(now - self._sent.pop(packet.sender_ip))

    def overflow(self, dropped: int, now: float) -> None:  # noqa: ARG002 - nothing is concluded from silence alone
        """The kernel dropped frames."""
        self.dropped += dropped

    def advance(self, now: float) -> None:
        """Send the next round, or end."""
        if now < self._due:
            return
        if self._round == ROUNDS:
            self.done = True
            return
        for peer in self._peers:
            self._outbox.put(arp.request(self._mac, self.own, peer), partial(self._asked, peer))
        if self._round in _CENSUS:
            self._outbox.put(arp.probe(self._stranger, self._canary))
            if self._round == 0:
                self._outbox.put(arp.probe(self._mac, self.own))
            for address in self._everybody - self._sent.keys() - {self.own}:
                self._outbox.put(arp.request(self._mac, self.own, address))
        self._round += 1
        self._due = now + (GAP if self._round < ROUNDS else LISTEN)

    def _asked(self, peer: int, now: float) -> None:
        self._sent[peer] = now

    def round_trip(self, peer: int) -> float | None:
        """The median of a peer's round trips, seconds; None where it never answered."""
        times = self._times[peer]
        return median(times) if times else None

    def lost(self, peer: int) -> float:
        """The share of questions that the peer left unanswered."""
        return 1 - len(self._times[peer]) / ROUNDS
