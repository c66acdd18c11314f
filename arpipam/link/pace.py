"""Who may send how much: a rate for all, shared fairly among those that have frames, the urgent ones first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

BURST = 0.01
"""Frames of so many seconds may leave at once."""
_ALMOST = 1e-9
"""So little of a frame is missing by rounding only."""


class Pace(Generic[T]):
    """A token bucket of `rate` frames per second."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._tokens = 1.0
        self._filled = now
        self._turns = 0

    def fill(self, now: float) -> None:
        """Time has passed up to `now`."""
        most = max(1.0, self._rate * BURST)
        self._tokens = min(self._tokens + (now - self._filled) * self._rate, most)
        self._filled = now

    def next_frame(self, now: float) -> float:
        """When the next frame may leave."""
        return now + max(0.0, 1 - self._tokens) / self._rate

    def share(self, senders: Iterable[tuple[int, T]], send: Callable[[T, int], int | None]) -> bool:
        """Let those who have frames send, by their priority; False where there was no room for a frame.

        `send(sender, most)` returns how many frames left, fewer than `most` where no more wait; None: no room. Those of
        one priority take turns, so that a long queue of one holds up no other.
        """
        by_priority: dict[int, list[T]] = {}
        for priority, sender in senders:
            by_priority.setdefault(priority, []).append(sender)
        self._turns += 1
        for priority in sorted(by_priority):
            waiting = by_priority[priority]
            first = self._turns % len(waiting)  # where there is less than a frame for each, another begins each time
            waiting = waiting[first:] + waiting[:first]
            while waiting and self._whole():
                most = max(1, self._whole() // len(waiting))
                still: list[T] = []
                for sender in waiting:
                    if not self._whole():
                        return True
                    left = send(sender, min(most, self._whole()))
                    if left is None:
                        return False
                    self._tokens -= left
                    if left >= most:
                        still.append(sender)
                waiting = still
        return True

    def _whole(self) -> int:
        """The frames that may leave now."""
        return int(self._tokens + _ALMOST)
