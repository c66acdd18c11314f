"""Thousands of hosts on one virtual link, in virtual time, over the same acd.py and search.py as on a real one."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arpipam import arp
from arpipam.seeker import Company
from arpipam.simulation import Claimer, Faults, Station, VirtualLink
from arpipam.terms import Terms
from arpipam.trial import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        self.link.attach(Station(self.link, _mac(1), [WITNESS]))
        self.size = max(8, round(plan.hosts * plan.claims * plan.room))
        self.claimers: list[tuple[float, Claimer]] = []
        self.open = 0
        self.waits: list[float] = []
        self.refused = 0
        if plan.cut:
            self.link.cut()
            self.link._schedule(plan.cut, self.link.heal)  # noqa: SLF001 - a moment of the link's own clock
        total = plan.hosts * plan.claims
        for number in range(plan.hosts):
            _Host(self, number)
        self.total = total

    def run(self) -> Values:
        """Until all have an address; what there is to say of it."""
        self.link.run(float("inf"), stop=lambda: not self.open)
        self.link.run(self.link.now + _AFTER)
        held = [claimer.address for _, claimer in self.claimers if claimer.address is not None]
        twice = sum(count - 1 for count in Counter(held).values())
        waits = sorted(self.waits)
        return {
            "duplicates": float(twice),
            "without": float(self.total - len(held)),
            "time to claim": waits[len(waits) // 2],
            "last claim": waits[-1],
            "frames per claim": self.link.frames / self.total,
            "contentions": sum(claimer.contentions for _, claimer in self.claimers) / self.total,
            "claims": float(self.total),
        }


class _Host:
    """Its claims share what the searches of one host share, and never choose the same address."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd = crowd
        self.number = number
        self.far = bool(crowd.plan.cut) and number % 2 == 1
        self.terms = Terms(
            own_mac=_mac(0x100 + number), own_address=_HOSTS_AT + number, witnesses=(WITNESS,), canary=NET
        )
        self.company = Company(self.terms)
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
            self.terms,
            self.candidates,
            seed=crowd.rng,
            company=self.company,
            reserve=self.reserve,
            unreserve=self.taken.discard,
        )
        claimer.told = lambda claimer=claimer: self.ended(claimer, n, since)  # type: ignore[misc]
        crowd.open += 1
        crowd.link.attach(claimer, at, far=self.far)

    def ended(self, claimer: Claimer, n: int, since: float) -> None:
        """A search is over."""
        crowd = self.crowd
        crowd.open -= 1
        if claimer.error is None:
            crowd.claimers.append((since, claimer))
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

    def told(self) -> None:
        """Replaced by whoever wants to hear."""

    def run(self, now: float) -> float | None:
        """As any claimer."""
        was = self.ended
        due = super().run(now)
        if self.ended and not was:
            self.told()
        return due


def _mac(number: int) -> bytes:
    return b"\x02\x5e" + number.to_bytes(4, "big")


def crowd(plan: Plan, seed: int) -> Values:
    """Run one."""
    return Crowd(plan, seed).run()


__all__ = ["Crowd", "Plan", "Verdict", "arp", "crowd"]
