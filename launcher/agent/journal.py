"""The agent's events: the recent ones, those who read them, and the log line of each."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from arpipam.errors import ArpipamError
from launcher.agent.contract import Event, EventKind
from launcher.agent.log import logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from launcher.agent.contract import Failure

MOST_EVENTS = 1000  # that are kept, and that a reader may be behind
LEVELS = dict.fromkeys(
    (
        EventKind.CLAIMED,
        EventKind.HANDED_OUT,
        EventKind.HANDED_OVER,
        EventKind.TAKEN_OVER,
        EventKind.RELEASED,
        EventKind.ADOPTED,
    ),
    "debug",
) | dict.fromkeys(
    (EventKind.LINK_UP, EventKind.ENGINE_FOUND, EventKind.HEALED, EventKind.MOVED, EventKind.WORKS_AGAIN), "info"
)
"""Log levels. Events of everyday life are of level debug; all that are not here are warnings."""


class Journal:
    """Keeps the recent events and hands each to all readers. For the event loop only. `clock()`: seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._readers: set[asyncio.Queue[Event]] = set()

    def add(self, kind: str, interface: str = "", **fields: str) -> None:
        """Record an event of this moment."""
        self.tell(Event(self._clock(), kind, interface, **fields))

    def tell(self, event: Event) -> None:
        """Record an event."""
        self._events.append(event)
        for queue in list(self._readers):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._readers.discard(queue)
        fields: dict[str, Any] = {key: value for key, value in vars(event).items() if value and key not in _NO_FIELDS}
        getattr(logger(), LEVELS.get(EventKind(event.kind), "warning"))(str(event.kind), **fields)

    def failed(self, failure: Failure, error: BaseException, interface: str = "") -> None:
        """A part failed. An error that is not ours is logged with its traceback, since it is a fault of the program."""
        if not isinstance(error, ArpipamError):
            logger().error("internal error, please report it", part=failure.part, exc_info=error)
        self.add(EventKind.FAILED, interface, text=f"{failure.part}: {failure.reason}")

    def works_again(self, part: str, interface: str = "") -> None:
        """A part that failed works again."""
        self.add(EventKind.WORKS_AGAIN, interface, text=part)

    async def events(self, *, recent: bool = False) -> AsyncIterator[Event]:
        """Events from now on, after the recent ones if asked; ends for a reader that is too far behind."""
        queue: asyncio.Queue[Event] = asyncio.Queue(2 * MOST_EVENTS)
        for event in self._events if recent else ():
            queue.put_nowait(event)
        self._readers.add(queue)
        try:
            while queue in self._readers or not queue.empty():
                yield await queue.get()
        finally:
            self._readers.discard(queue)


_NO_FIELDS = {"at", "kind"}
