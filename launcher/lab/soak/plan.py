"""What happens in a soak, and when: from its seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTS = ("host1", "host2", "host3")
SUBNET = "172.16.42.0/26"
NAMED = tuple(f"172.16.42.{n}" for n in range(40, 46))
"""Addresses that containers ask for by --ip, on any host."""
JOINING = tuple(f"172.16.42.{n}" for n in range(4, 40))
"""Addresses that stations look for when they join; containers get them too."""
MOVERS = ("mover1", "mover2")
MOVING = "172.16.42.50"
"""An address that moves between these two stations."""
KEPT = 5
"""Containers of one host at one time, about."""
QUIET = 4.0
"""Seconds at the beginning without a fault, for the first containers."""
EVERY = 1.0
"""Seconds between two acts, in the mean."""

CONTAINERS = {
    "run": 30,
    "run named": 10,
    "run always": 8,
    "create": 8,
    "start": 10,
    "stop": 10,
    "restart": 4,
    "remove": 22,
    "compose up": 3,
    "compose down": 3,
}
"""How often, one compared with another."""
FAULTS = {
    "cut": (5, 3.0, 12.0),
    "cable": (5, 1.0, 10.0),
    "port": (4, 0.5, 6.0),
    "agent killed": (5, 0.0, 5.0),
    "agent ended": (3, 0.0, 5.0),
    "agent stopped": (5, 0.5, 9.0),
    "engine killed": (3, 0.0, 4.0),
    "engine ended": (2, 0.0, 4.0),
    "engine stopped": (2, 1.0, 6.0),
    "disk full": (3, 2.0, 8.0),
}
"""Faults of a host, and between which seconds each lasts."""
NEIGHBOURS = {"move": 5, "join": 6, "leave": 4, "flood": 3, "forge": 6}
_GROUPS = {"containers": 60, "faults": 20, "neighbours": 20}
_APART = 4.0
"""Seconds between two faults of one host, so that each can be told from the other."""
_CUTS = {"cut", "cable"}


@dataclass(frozen=True)
class Step:
    """One act: what happens where, after so many seconds. A fault is undone after it has lasted so long."""

    at: float
    what: str
    where: str
    name: str = ""
    """The container, or the address of a station that moves or joins."""
    address: str = ""
    lasts: float = 0.0

    def __str__(self) -> str:
        words = [f"{self.at:7.2f}", self.where, self.what, self.name, self.address]
        return " ".join(word for word in words if word) + (f" for {self.lasts:.2f} s" if self.lasts else "")


def plan(seed: int, seconds: float) -> list[Step]:
    """All steps of a soak that lasts so long: the same for the same seed and length."""
    return list(_Planner(seed).steps(seconds))


class _Planner:
    """Knows of the containers only what it has planned itself: whether they came to be is seen when it happens."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._made = 0
        self._there: dict[str, list[str]] = {host: [] for host in HOSTS}
        self._faulty: dict[str, float] = dict.fromkeys(HOSTS, QUIET)
        """Until when each host has a fault."""
        self._cut_until = 0.0
        self._joined: list[str] = []

    def steps(self, seconds: float) -> Iterator[Step]:
        now = 0.0
        while (now := now + self._rng.expovariate(1 / EVERY)) < seconds:
            group = self._choose(_GROUPS)
            step = {"containers": self._container, "faults": self._fault, "neighbours": self._neighbour}[group](now)
            if step is not None and step.at + step.lasts < seconds:
                yield step

    def _choose(self, weights: dict[str, int]) -> str:
        return self._rng.choices(list(weights), list(weights.values()))[0]

    def _container(self, now: float) -> Step | None:
        host, what = self._rng.choice(HOSTS), self._choose(CONTAINERS)
        there = self._there[host]
        if what.startswith("compose"):
            return Step(now, what, host)
        makes = what.startswith("run") or what == "create"
        if makes and len(there) >= KEPT:
            what, makes = "remove", False
        if not makes:
            if not there:
                return None
            name = self._rng.choice(there)
            if what == "remove":
                there.remove(name)
            return Step(now, what, host, name)
        self._made += 1
        name = f"c{self._made}"
        there.append(name)
        named = what == "run named" or (what == "create" and self._rng.random() < 0.5)  # noqa: PLR2004 - half of them
        return Step(now, what, host, name, self._rng.choice(NAMED) if named else "")

    def _fault(self, now: float) -> Step | None:
        """One at a time on a host, and one cut in all: with two there is no host that could do anything right."""
        host, what = self._rng.choice(HOSTS), self._choose({what: weight for what, (weight, *_) in FAULTS.items()})
        _, shortest, longest = FAULTS[what]
        lasts = round(self._rng.uniform(shortest, longest), 2)
        if now < self._faulty[host] or (what in _CUTS and now < self._cut_until):
            return None
        self._faulty[host] = now + lasts + _APART
        if what in _CUTS:
            self._cut_until = now + lasts + _APART
        return Step(now, what, host, lasts=lasts)

    def _neighbour(self, now: float) -> Step | None:
        what = self._choose(NEIGHBOURS)
        if what == "move":
            return Step(now, what, "movers", MOVING)
        if what == "leave":
            if not self._joined:
                return None
            name = self._joined.pop(self._rng.randrange(len(self._joined)))
            return Step(now, what, "wire", name)
        if what == "join":
            self._made += 1
            self._joined.append(f"s{self._made}")
            return Step(now, what, self._rng.choice(["wire", *HOSTS]), f"s{self._made}", self._rng.choice(JOINING))
        lasts = round(self._rng.uniform(1.0, 4.0), 2)
        return Step(now, what, "wire", lasts=lasts) if what == "flood" else Step(now, what, "wire", self._forged())

    def _forged(self) -> str:
        return self._rng.choice(["announcements", "probes", "replies", "dates"])
