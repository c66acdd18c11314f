"""Whether anybody answers us, on a network where no station is named that must.

A few stations that were seen of late, beyond this host, are asked once a second. While none of them answers, we may be
cut off with a carrier, as behind a dead tunnel, and nothing that was ready before is handed out. Who of them answers
does not matter: a laptop may go home.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from arpipam.link.task import Run
from arpipam.protocol.heartbeat import BEAT, PATIENCE, Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.allocator import Allocator
    from launcher.agent.network.sightings import Sightings

NOBODY = "no station answers that was seen of late"
MOST = 3
LOOK = 1.0  # s between two looks at who was seen
SURE = (PATIENCE + 1.5) * BEAT  # s after which who has not answered is silent


class Company:
    """Asks; `needed()` says whether nobody is named and somebody has to be there."""

    def __init__(self, sightings: Sightings, needed: Callable[[], bool]) -> None:
        self._sightings = sightings
        self._needed = needed
        self._pulse: Heartbeat | None = None
        self._asked: tuple[int, ...] = ()
        self._since = 0.0

    async def run(self, allocator: Allocator) -> None:
        """Ask as long as the link is open, until cancelled."""
        try:
            while True:
                self._choose(allocator)
                await asyncio.sleep(LOOK)
        finally:
            self._stop()

    def moved(self, allocator: Allocator) -> None:
        """The link has another MAC or address by now; on the loop's thread."""
        if self._pulse is not None:
            self._pulse.follow(allocator.link.mac, allocator.own_address)

    def _choose(self, allocator: Allocator) -> None:
        """Ask those who answer as long as they do, then others."""
        needed, silent = self._needed(), () if self._pulse is None else self._pulse.silent
        answering = [one for one in self._asked if one not in silent]
        if not needed or (self._asked and not silent):
            self._whole(allocator)
        wanted: tuple[int, ...] = ()
        if needed and len(answering) == MOST:  # as nearly always, and many stations take long to look through
            return
        if needed:
            others = [one for one in self._sightings.beyond(allocator.link) if one not in self._asked]
            wanted = tuple([*answering, *others, *silent][:MOST])
        if set(wanted) != set(self._asked):
            self._stop()
            if wanted:
                self._ask(allocator, wanted)

    def _ask(self, allocator: Allocator, stations: tuple[int, ...]) -> None:
        link, own = allocator.link, allocator.own_address

        def changed(silent: tuple[int, ...]) -> None:
            hearing = allocator.loop.hearing
            hearing.set_deaf(NOBODY, NOBODY if len(silent) == len(stations) else "", link.now())

        self._asked, self._since = stations, link.now()
        self._pulse = Heartbeat(stations, link.mac, own, now=self._since, on_change=changed)
        allocator.loop.run(Run(self._pulse))

    def _whole(self, allocator: Allocator) -> None:
        """All answer that are asked now, though others than these fell silent."""
        link, hearing = allocator.link, allocator.loop.hearing
        if link.now() - self._since > SURE:
            allocator.loop.post(lambda: hearing.set_deaf(NOBODY, "", link.now()))

    def _stop(self) -> None:
        if self._pulse is not None:
            self._pulse.done = True
        self._pulse, self._asked = None, ()
