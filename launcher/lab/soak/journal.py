"""What the referee saw: for each address who answered for it, where, and since when."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Answers: TypeAlias = tuple[AbstractSet[str], ...]
"""The MACs that answered, for each post of the referee."""
LATE = 0.6
"""Seconds between two rounds from which on the referee itself was not there."""
RESTLESS = 1.0
"""Two spells of two owners that are no further apart are one duplicate."""


@dataclass
class Spell:
    """A time in which the same stations answered for an address at every round."""

    since: float
    until: float
    """The last round at which it was so."""
    answers: Answers

    @property
    def is_double(self) -> bool:
        """Whether it shows two owners: both answered one question, or each in more than one round.

        An owner that changes between the questions of two posts is none: a claim gets its container's MAC so.
        """
        return any(len(macs) > 1 for macs in self.answers) or (len(self.owners) > 1 and self.until > self.since)

    @property
    def owners(self) -> frozenset[str]:
        """Every MAC that answered, anywhere."""
        return frozenset().union(*self.answers)


@dataclass(frozen=True)
class Duplicate:
    """Two or more owners of an address at one time."""

    address: str
    since: float
    until: float
    macs: frozenset[str]

    @property
    def lasted(self) -> float:
        """Seconds."""
        return self.until - self.since


@dataclass
class Journal:
    """The spells of each address, and when the referee was away."""

    posts: tuple[str, ...]
    spells: dict[str, list[Spell]] = field(default_factory=dict)
    away: list[tuple[float, float]] = field(default_factory=list)
    last: float = 0.0

    def note(self, at: float, heard: Mapping[str, Answers]) -> None:
        """One round: every address that was asked for, with the answers of each post."""
        if self.last and at - self.last > LATE:
            self.away.append((self.last, at))
        self.last = at
        for address, answers in heard.items():
            spells = self.spells.setdefault(address, [])
            if spells and spells[-1].answers == answers:
                spells[-1].until = at
            else:
                spells.append(Spell(at, at, answers))

    def duplicates(self) -> Iterator[Duplicate]:
        """All of them, by address."""
        for address, spells in self.spells.items():
            current: Duplicate | None = None
            for spell, end in zip(spells, _ends(spells), strict=True):
                if not spell.is_double or _is_change(spells, spell):
                    continue
                if current is not None and spell.since - current.until <= RESTLESS:
                    current = Duplicate(address, current.since, end, current.macs | spell.owners)
                    continue
                if current is not None:
                    yield current
                current = Duplicate(address, spell.since, end, spell.owners)
            if current is not None:
                yield current

    def silences(self, address: str, mac: str, post: str, since: float, until: float) -> Iterator[tuple[float, float]]:
        """When that post had no answer from that MAC for the address, between two times; not while it was away."""
        where = self.posts.index(post)
        spells = self.spells.get(address, [])
        silent: tuple[float, float] | None = None
        for spell, end in zip(spells, _ends(spells), strict=True):
            start, stop = max(spell.since, since), min(end, until)
            if stop <= start or mac in spell.answers[where]:
                if silent and stop > start:
                    yield from self._without_absence(*silent)
                    silent = None
                continue
            silent = (silent[0] if silent else start, stop)
        if silent:
            yield from self._without_absence(*silent)

    def owners(self, address: str, since: float, until: float) -> frozenset[str]:
        """Whoever answered for it between two times."""
        spells = self.spells.get(address, [])
        there = (spell.owners for spell in spells if spell.until >= since and spell.since <= until)
        return frozenset().union(*there)

    def lines(self) -> Iterator[str]:
        """For people: address, who answers at which post, since when, until when."""
        for address in sorted(self.spells, key=_number):
            for spell in self.spells[address]:
                if spell.owners:
                    told = (
                        f"{post}: {' '.join(sorted(a)) or '-'}"
                        for post, a in zip(self.posts, spell.answers, strict=True)
                    )
                    yield f"{spell.since:8.2f} {spell.until:8.2f}  {address:15}  {'; '.join(told)}"

    def _without_absence(self, since: float, until: float) -> Iterator[tuple[float, float]]:
        if not any(start < until and end > since for start, end in self.away):
            yield since, until


def _is_change(spells: Sequence[Spell], spell: Spell) -> bool:
    """Whether one owner follows another in that one round: the former one's last answer came late."""
    if spell.until > spell.since:
        return False
    before = next((one.owners for one in reversed(spells) if one.until < spell.since and one.owners), frozenset[str]())
    after = next((one.owners for one in spells if one.since > spell.until and one.owners), frozenset[str]())
    return len(before) == len(after) == 1 and before != after and before | after == spell.owners


def _ends(spells: Sequence[Spell]) -> list[float]:
    """A spell lasts until the next one begins; the last one until its last round."""
    return [later.since for _, later in pairwise(spells)] + [spells[-1].until] if spells else []


def _number(address: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", address))
