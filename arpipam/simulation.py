"""Hosts on one virtual link, in virtual time, over the same acd.py and search.py that run on a real one.

The link loses, delays, doubles, reorders and echoes frames as it is told, all from one seed: what goes wrong here goes
wrong again from the same seed. Thousands of claims take seconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

from arpipam import arp
from arpipam.acd import State
from arpipam.search import Search

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from arpipam.acd import Acd
    from arpipam.arp import ArpPacket
    from arpipam.errors import ArpipamError
    from arpipam.outbox import Outbox
    from arpipam.seeker import Company
    from arpipam.survey import Survey
    from arpipam.terms import Terms


@dataclass(frozen=True)
class Faults:
    """What the link does to frames, each share between 0 and 1, each on the way to one receiver; times in seconds."""

    loss: float = 0.0
    delay: float = 0.0002
    jitter: float = 0.0
    """Up to this much more delay, at random; frames overtake each other."""
    duplication: float = 0.0
    echo: float = 0.0
    """The share of frames that come back to their own sender."""


class Node(Protocol):
    """A station on the virtual link."""

    def receive(self, packet: ArpPacket, now: float) -> bool:
        """Take in a packet; whether there may be something to do now, so that `run` has to be called."""

    def run(self, now: float) -> float | None:
        """Do what is due, send through the link; when to call again."""


class VirtualLink:
    """One broadcast domain with a clock of its own, which starts at 0."""

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.rng = random.Random(seed)
        self.faults = faults or Faults()
        self.now = 0.0
        self.frames = 0
        self._nodes: list[Node] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._wake: dict[int, float] = {}

    def attach(self, node: Node, at: float | None = None) -> None:
        """Join a station, which runs for the first time at that moment."""
        index = len(self._nodes)
        self._nodes.append(node)
        self._schedule(self.now if at is None else at, lambda: self._run(index))

    def transmit(self, sender: Node, frame: bytes) -> None:
        """Send a frame to everybody else; promiscuous stations hear all there is."""
        packet = arp.dissect(frame)
        assert not isinstance(packet, arp.Refusal)  # noqa: S101 - our own frames are well-formed
        self.frames += 1
        faults, rng = self.faults, self.rng
        for index, node in enumerate(self._nodes):
            if node is sender and not (faults.echo and rng.random() < faults.echo):
                continue
            for _ in range(2 if faults.duplication and rng.random() < faults.duplication else 1):
                if not (faults.loss and rng.random() < faults.loss):
                    at = self.now + faults.delay + (rng.random() * faults.jitter if faults.jitter else 0.0)
                    self._schedule(at, lambda index=index: self._deliver(index, packet))  # type: ignore[misc]

    def run(self, until: float, *, stop: Callable[[], bool] = lambda: False) -> None:
        """Let time pass up to `until` seconds, or until `stop()`."""
        while self._queue and self._queue[0][0] <= until and not stop():
            self.now, _, action = heappop(self._queue)
            action()
        if not stop():
            self.now = until

    def _schedule(self, at: float, action: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._queue, (at, self._count, action))

    def _deliver(self, index: int, packet: ArpPacket) -> None:
        if self._nodes[index].receive(packet, self.now):
            self._run(index)

    def _run(self, index: int) -> None:
        due = self._nodes[index].run(self.now)
        if due is None or self._wake.get(index, float("inf")) <= due:
            return
        self._wake[index] = due
        self._schedule(max(due, self.now), lambda: self._awake(index, due))

    def _awake(self, index: int, due: float) -> None:
        if self._wake.get(index) == due:
            del self._wake[index]
            self._run(index)


class Station:
    """A machine that answers for its addresses as a kernel does."""

    def __init__(self, link: VirtualLink, mac: bytes, addresses: Iterable[int]) -> None:
        self.addresses = set(addresses)
        self._link = link
        self._mac = mac

    def receive(self, packet: ArpPacket, now: float) -> bool:  # noqa: ARG002 - a kernel answers at once
        """Answer a request."""
        if packet.operation == arp.REQUEST and packet.target_ip in self.addresses and packet.sender_mac != self._mac:
            self._link.transmit(self, arp.reply(self._mac, packet))
        return False

    def run(self, now: float) -> None:
        """Nothing is ever due."""


class Claimer:
    """A host that looks for one address, claims it, and defends it from then on.

    Those of one `company` are one host: its searches share what they may, and so have the same `terms`.
    """

    def __init__(
        self,
        link: VirtualLink,
        mac: bytes,
        terms: Terms,
        candidates: Callable[[], Iterable[int]],
        *,
        seed: int,
        company: Company | None = None,
    ) -> None:
        self.mac = mac
        self.acd: Acd | None = None
        self.error: ArpipamError | None = None
        self.claimed_at: float | None = None
        self._link = link
        self._terms = terms
        self._candidates = candidates
        self._company = company
        self._rng = random.Random(seed)
        self._search: Search | None = None

    @property
    def address(self) -> int | None:
        """The address it holds."""
        return (
            self.acd.address if self.acd is not None and self.acd.state in (State.ANNOUNCING, State.DEFENDING) else None
        )

    @property
    def ended(self) -> bool:
        """Whether the search is over."""
        return self.acd is not None or self.error is not None

    def receive(self, packet: ArpPacket, now: float) -> bool:
        """Take in a packet."""
        if self.acd is not None:
            self.acd.receive(packet, now)
            return bool(self.acd.outbox)
        search = self._search
        if search is None or search.done or not (search.interest and search.interest.wants(packet)):
            return False
        search.receive(packet, now)
        return search.trial is None or search.trial.done

    def run(self, now: float) -> float | None:
        """Do what is due."""
        if self._search is None:
            candidates, others = iter(self._candidates()), self._candidates()
            self._search = Search(
                candidates, self.mac, self._terms, rng=self._rng, now=now, others=others, company=self._company
            )
        search = self._search
        if self.acd is None and self.error is None:
            self._flush(search.outboxes(), now)
            search.advance(now)
            self._flush(search.outboxes(), now)
            self.error = search.error
            if search.found is not None:
                self.acd = search.found.acd
                self.acd.claim()
                self.claimed_at = now
        if self.acd is not None:
            self.acd.advance(now)
            self._flush([self.acd.outbox], now)
            return self.acd.deadline
        return search.deadline

    def _flush(self, outboxes: Iterable[Outbox | Survey], now: float) -> None:
        for outbox in outboxes:
            while (frame := outbox.peek()) is not None:
                self._link.transmit(self, frame)
                outbox.sent(now)
