"""A limit on how often the same thing is told, so that a flood of made-up packets fills no log."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable


class Flood:
    """Lets through `of_one` for each key and `in_all` in each span of `span` seconds, and counts the rest."""

    def __init__(self, span: float, of_one: int, in_all: int) -> None:
        self._span = span
        self._of_one = of_one
        self._in_all = in_all
        self._began = float("-inf")
        self._through: Counter[Hashable] = Counter()
        self._total = 0
        self._over: Counter[Hashable] = Counter()

    @property
    def is_counting(self) -> bool:
        """Whether something was held back since the last `take`."""
        return bool(self._over)

    def admits(self, key: Hashable, now: float) -> bool:
        """Whether this one is let through; `now` is seconds on the monotonic clock."""
        if now - self._began >= self._span:
            self._began, self._total = now, 0
            self._through.clear()
        if self._total >= self._in_all or self._through[key] >= self._of_one:
            if key in self._over or len(self._over) < self._in_all:
                self._over[key] += 1
            else:
                self._over[None] += 1  # so many keys that they are not told apart any more
            return False
        self._total += 1
        self._through[key] += 1
        return True

    def take(self) -> dict[Hashable, int]:
        """How many were held back since the last time, by key; the key None has those of further keys."""
        over, self._over = dict(self._over), Counter()
        return over
