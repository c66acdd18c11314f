"""Runs the parts of the agent: one that fails is restarted, and its failure is shown until it works again.

A part is a network's link, its ready addresses, the listener of the metrics, and so on. Its failure stays its own:
the task that runs it never ends by an exception.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from arpipam.errors import ArpipamError
from launcher.agent.contract import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # s before a restart; doubled with each failure in a row
SETTLED = 60.0  # s that a part runs without a failure before it counts as working, unless it tells so earlier


class Supervisor:
    """Keeps the failures of some parts, by their names. `clock()` is seconds since 1970.

    `on_failure(failure, error)` is called at each failure, `on_recovery(part)` once a part works again. Not for use
    from other threads than the event loop's.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        on_failure: Callable[[Failure, BaseException], None] = lambda *_: None,
        on_recovery: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._on_failure = on_failure
        self._on_recovery = on_recovery
        self._clock = clock
        self._failures: dict[str, Failure] = {}

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The parts that do not work now."""
        return tuple(self._failures.values())

    def failed(self, part: str, error: BaseException) -> None:
        """Record a failure; the part counts as failed since its first one in a row."""
        failure = Failure(part, self._clock(), reason(error))
        before = self._failures.get(part)
        if before is not None:
            failure = replace(failure, since=before.since)
        self._failures[part] = failure
        self._on_failure(failure, error)

    def works(self, part: str) -> None:
        """Clear the failure of a part."""
        if self._failures.pop(part, None) is not None:
            self._on_recovery(part)

    async def attempt(self, part: str, work: Callable[[], Awaitable[None]]) -> bool:
        """Do something once, whose success or failure is the part's; return whether it succeeded."""
        try:
            await work()
        except asyncio.CancelledError as error:
            if _cancelled():
                raise
            self.failed(part, error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the rule here: whatever fails, nothing else fails with it
            self.failed(part, error)
        else:
            self.works(part)
            return True
        return False

    async def run(self, part: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run the part until it returns or this is cancelled; where it raises, run it again after a pause."""
        pause = FIRST_PAUSE
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            settled = loop.call_later(SETTLED, self.works, part)
            try:
                if await self.attempt(part, work):
                    return
            finally:
                settled.cancel()
            if loop.time() - began > SETTLED:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def reason(error: BaseException) -> str:
    """What failed, in one line; for an error that is not ours, its kind too."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ArpipamError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _cancelled() -> bool:
    """Whether it is the running task itself that is cancelled, as opposed to something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
