"""What has happened to a loop and its link since the last turn: they were late, asleep, deaf, or are another by now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arpipam.link.hearing import Hearing

if TYPE_CHECKING:
    from arpipam.link.task import LoopLink

WATCH = 0.05
"""Seconds to sleep at most while claims have to be answered for, so that it is noticed when ..."""
ABSENCE = 0.1
"""... this thread has had no processor for so long: as long as the shortest listening (timing.py, ADAPTIVE)."""
_CARRIER = "carrier"


class Waking:
    """Looked at when a turn begins; `hearing` is told."""

    def __init__(self, link: LoopLink) -> None:
        self.hearing = Hearing(link.now())
        self.late = False
        """What is being read may have waited for longer than anybody listens for our answer."""
        self._link = link
        self._openings = link.openings
        self._turned = 0.0
        self._due: float | None = None
        """When the loop wanted to wake."""

    def turn(self, now: float, *, claims: bool) -> bool:
        """A turn begins; whether the interface has another MAC or address than at the last one."""
        moved = self._link.news()
        self.late = claims and now - self._turned > ABSENCE
        self.hearing.turn(now, 0.0 if self._due is None else now - self._due)
        self.hearing.set_deaf(_CARRIER, self._link.closed, now)
        if self._openings != self._link.openings:
            self._openings = self._link.openings
            self.hearing.gap("a way to other stations has opened", now)
        return moved

    def since_last(self, now: float) -> float:
        """Seconds since the last turn ended."""
        return now - self._turned

    def sleep(self, now: float, seconds: float | None) -> None:
        """The turn that began then ends, to wake after so many seconds; None: whenever something happens."""
        self._turned = now
        self._due = None if seconds is None else now + seconds
