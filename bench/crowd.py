"""Thousands of hosts on one virtual link, in virtual time, over the same acd.py and search.py as on a real one."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arpipam.lab.simulation import Claimer, Concern, Faults, SimulatedStation, VirtualLink
from arpipam.protocol import arp
from arpipam.protocol.parameters import Parameters
from arpipam.protocol.search import LinkMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from arpipam.protocol.arp import ArpPacket
    from bench.harness import Values

NET = 0x0A00_0000
WITNESS = NET + 1
_HOSTS_AT = NET + 0x100_0000
"""The hosts' own addresses lie beyond the pool."""
_FIRST = NET + 0x100
_RETRY = 1.0
_AFTER = 2.0
"""Seconds: the last announcements are out."""


@dataclass(frozen=True)
class Plan:
    """What happens on one link."""

    hosts: int
    claims: int
    """Of each host."""
    per_second: float = 0.0
    """Claims of all hosts together, at random moments; 0: all of them at once."""
    loss: float = 0.0
    delay: float = 0.0002
    room: float = 4.0
    """Addresses of the pool, for each claim."""
    cut: float = 0.0
    """Seconds for which half of the hosts are cut off, from the first moment."""
    order: str = "random"


class Crowd:
    """One link with one witness."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan = plan
        self.rng = random.Random(seed)
        self.link = VirtualLink(seed, Faults(loss=plan.loss, delay=plan.delay, jitter=plan.delay))
        self.link.attach(SimulatedStation(self.link, _mac(1), [WITNESS]))
        self.size = max(8, round(plan.hosts * plan.claims * plan.room))
        self.claimers: list[Claimer] = []
        self.open = 0
        self.waits: list[float] = []
        self.refused = 0
        if plan.cut:
            self.link.cut()
            self.link._schedule(plan.cut, self.link.heal)  # noqa: SLF001 - a moment of the link's own clock
        self.total = plan.hosts * plan.claims
        for number in range(plan.hosts):
            _Host(self, number)

    def run(self) -> Values:
        """Until all have an address; what there is to say of it."""
        self.link.run(float("inf"), stop=lambda: not self.open)
        self.link.run(self.link.now + _AFTER)
        held = [claimer.address for claimer in self.claimers if claimer.address is not None]
        twice = sum(count - 1 for count in Counter(held).values())
        contentions = sum(claimer.contentions for claimer in self.claimers) / self.total
        frames = self.link.frames / self.total
        return _values(
            self.waits,
            self.total,
            twice=twice,
            without=self.total - len(held),
            frames=frames,
            contentions=contentions,
        )


class _Host:
    """Its claims share what the searches of one host share, and never choose the same address."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd = crowd
        self.number = number
        self.far = bool(crowd.plan.cut) and number % 2 == 1
        self.parameters = Parameters(
            own_mac=_mac(0x100 + number), own_address=_HOSTS_AT + number, witnesses=(WITNESS,), canary=NET
        )
        self.memory = LinkMemory(self.parameters)
        self.taken: set[int] = set()
        plan = crowd.plan
        for n in range(plan.claims):
            at = crowd.rng.uniform(0, plan.hosts * plan.claims / plan.per_second) if plan.per_second else 0.0
            self.start(n, at, at)

    def start(self, n: int, at: float, since: float) -> None:
        """One claim, again where it was refused: a host waits, and tries anew."""
        crowd = self.crowd
        claimer = _Ended(
            crowd.link,
            _mac(0x1000000 + self.number * crowd.plan.claims + n),
            self.parameters,
            self.candidates,
            seed=crowd.rng,
            memory=self.memory,
            reserve=self.reserve,
            unreserve=self.taken.discard,
        )
        claimer.told = lambda: self.ended(claimer, n, since)
        crowd.open += 1
        crowd.link.attach(claimer, at, far=self.far)

    def ended(self, claimer: Claimer, n: int, since: float) -> None:
        """A search is over."""
        crowd = self.crowd
        crowd.open -= 1
        if claimer.error is None:
            crowd.claimers.append(claimer)
            crowd.waits.append(crowd.link.now - since)
        else:
            crowd.refused += 1
            self.start(n, crowd.link.now + _RETRY, since)

    def reserve(self, address: int) -> bool:
        """Whether no other claim of this host has it."""
        if address in self.taken:
            return False
        self.taken.add(address)
        return True

    def candidates(self) -> Iterator[int]:
        """The pool in the plan's order."""
        if self.crowd.plan.order == "first":
            yield from range(_FIRST, _FIRST + self.crowd.size)
            return
        size = self.crowd.size
        start, step = self.crowd.rng.randrange(size), self.crowd.rng.randrange(1, size) | 1
        seen = set()
        for turn in range(size):
            address = _FIRST + (start + turn * step) % size
            if address not in seen:
                seen.add(address)
                yield address


class _Ended(Claimer):
    """Tells when its search is over, and lets go of the search."""

    told: Callable[[], None]
    """Called at the end."""

    def run(self, now: float) -> float | None:
        """As any claimer."""
        was = self.ended
        due = super().run(now)
        if self.ended and not was:
            self.forget()
            self.told()
        return due


class Article:
    """The article's way: one probe, a second of listening, then the next candidate or the address is taken.

    It hears answers and nothing else, as `arping -D` does, and announces nothing; the container answers afterwards.
    """

    LISTEN = 1.0

    def __init__(self, link: VirtualLink, mac: bytes, candidates: Iterator[int], told: Callable[[], None]) -> None:
        self.address: int | None = None
        self.concern = Concern()
        self._link, self._mac, self._candidates, self._told = link, mac, candidates, told
        self._candidate = 0
        self._due: float | None = None

    def receive(self, packet: ArpPacket, now: float) -> bool:  # noqa: ARG002 - it answers at once
        """Hear an answer, or be asked."""
        if self.address is None:
            if packet.operation == arp.REPLY and packet.sender_ip == self._candidate:
                self._due = None
                return True
        elif packet.operation == arp.REQUEST and packet.target_ip == self.address:
            self._link.transmit(self, arp.reply(self._mac, packet))
        return False

    def run(self, now: float) -> float | None:
        """Go on."""
        if self.address is not None:
            return None
        if self._due is not None and now >= self._due:
            self.address = self._candidate
            self._told()
        elif self._due is None:
            self._candidate = next(self._candidates)
            self._due = now + self.LISTEN
            self.concern = Concern(frozenset((self._candidate,)))
            self._link.transmit(self, arp.probe(self._mac, self._candidate))
        return self._due if self.address is None else None


def _mac(number: int) -> bytes:
    return b"\x02\x5e" + number.to_bytes(4, "big")


def claims(plan: Plan, seed: int) -> Values:
    """One link, all of arpipam's."""
    return Crowd(plan, seed).run()


def article(plan: Plan, seed: int) -> Values:
    """The same, the article's way; a host keeps a list of its own, and so never takes an address twice."""
    rng = random.Random(seed)
    link = VirtualLink(seed, Faults(loss=plan.loss, delay=plan.delay, jitter=plan.delay))
    total = plan.hosts * plan.claims
    size = max(8, round(total * plan.room))
    waits: list[float] = []
    askers: list[Article] = []
    for number in range(total):
        at = rng.uniform(0, total / plan.per_second) if plan.per_second else 0.0
        host = number % plan.hosts
        # Each host begins where the program's own list does: all at the same address, but for what it has given out.
        own = (_FIRST + n for n in range(number // plan.hosts, size))
        asker = Article(link, _mac(0x1000000 + number), own, lambda at=at: waits.append(link.now - at))  # type: ignore[misc]
        askers.append(asker)
        link.attach(asker, at, far=host % 2 == 1)
    if plan.cut:
        link.cut()
        link._schedule(plan.cut, link.heal)  # noqa: SLF001 - a moment of the link's own clock
    link.run(float("inf"), stop=lambda: len(waits) == total)
    held = Counter(asker.address for asker in askers)
    return _values(
        waits,
        total,
        twice=sum(count - 1 for count in held.values()),
        without=0,
        frames=link.frames / total,
        contentions=0.0,
    )


def _values(waits: list[float], total: int, *, twice: int, without: int, frames: float, contentions: float) -> Values:
    waits = sorted(waits)
    return {
        "duplicates": float(twice),
        "without": float(without),
        "time to claim": waits[len(waits) // 2],
        "last claim": waits[-1],
        "frames per claim": frames,
        "contentions": contentions,
        "claims": float(total),
    }
