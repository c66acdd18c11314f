"""Since when a link has been heard without a gap.

Silence proves nothing of a time in which nobody could be heard, and an announcement after such a time finds nobody: a
plain kernel does not answer it. So what was found free before a gap has to be probed again before anybody gets it.

A gap is a time in which

- no way to stations beyond this host was open (link/ways.py): no carrier, or spanning tree held the ports,
- this process did not run, or the machine was suspended: frames waited, unanswered, or nobody received them,
- the kernel dropped frames that we had no time to read, or
- somebody who knows more says so: stations that must answer were silent.

A link that is closed and opened again begins anew.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

STOPPED = 1.0
"""Seconds by which this process has to be late to have been stopped. What is shorter happens on a busy machine, and
frames wait for so long without loss."""
SUSPENDED = 0.5
"""Seconds for which the machine slept. Its two clocks differ by microseconds otherwise."""


def suspended() -> float:
    """Seconds that this machine has slept since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class Hearing:
    """The clock of one link. To be told from the loop's thread only; to be asked from any.

    `on_change` are called, on the loop's thread, whenever the link becomes deaf or a gap is over; what they raise is
    logged.
    """

    def __init__(self, now: float, *, slept: Callable[[], float] = suspended) -> None:
        self.why = ""
        """What the last gap was, in a few words."""
        self.on_change: list[Callable[[], object]] = []
        self._since = now
        self._deaf: dict[str, str] = {}
        self._slept = slept
        self._slept_before = slept()

    @property
    def whole_since(self) -> float | None:
        """Since when, on the link's clock; None: nobody can be heard now."""
        return None if self._deaf else self._since

    @property
    def reason(self) -> str:
        """Why nobody can be heard now; empty where somebody can."""
        return next(iter(self._deaf.values()), "")

    def covers(self, at: float) -> bool:
        """Whether what was seen from that time on still holds."""
        whole_since = self.whole_since
        return whole_since is not None and at >= whole_since

    def gap(self, why: str, now: float) -> None:
        """There was a gap, up to now."""
        if now == self._since and not self._deaf:
            return
        self.why, self._since = why, now
        self._tell()

    def set_deaf(self, source: str, reason: str, now: float) -> None:
        """Nobody can be heard from now on, as this source says; an empty reason: it ends."""
        before = self._deaf.get(source, "")
        if reason == before:
            return
        if reason:
            self._deaf[source] = self.why = reason
        else:
            del self._deaf[source]
            self._since = now
        self._tell()

    def turn(self, now: float, late: float) -> None:
        """The loop has woken, so many seconds later than it wanted to."""
        slept = self._slept()
        asleep, self._slept_before = slept - self._slept_before, slept
        if asleep > SUSPENDED:
            self.gap(f"this machine was suspended for {asleep:.0f} s", now)
        elif late > STOPPED:
            self.gap(f"this process did not run for {late:.1f} s", now)

    def _tell(self) -> None:
        for listener in self.on_change:
            try:
                listener()
            except Exception:  # noqa: BLE001 - logged, and nothing else fails with it
                _log.exception("a listener of the link's hearing raised")
