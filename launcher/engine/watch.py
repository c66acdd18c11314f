"""Follows the engine on threads of its own: never inside a request of the engine, which would wait for itself.

Whenever something happens to a container or a network, and from time to time, everything is looked at as a whole: what
was missed, by whatever accident, is then corrected in the same way as what was not.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from launcher.engine.engine import Engine
from launcher.engine.errors import ElsewhereError, EngineError
from launcher.engine.place import require_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.engine.model import EngineView, FailedStart

T = TypeVar("T")
SETTLE = 0.1  # s: what happens together is looked at once
RETRY = 1.0  # s between two tries to reach the engine
MOVERS = 2
"""Threads for moves and starts. Each makes the engine ask the agent, so they never share threads with its answers."""


def engine_here(url: str) -> Engine:
    """The engine. Raises EngineError where it is not on this host's links: its containers would be taken for ours."""
    require_here(url)
    return Engine(url)


class EngineWatch:
    """Follows one engine while `run` runs.

    It calls, from its own thread, `seen(view)` after each change and every `interval()` seconds, and `lost(why)` when
    the engine is away.
    """

    def __init__(
        self,
        url: str,
        *,
        interval: Callable[[], float],
        seen: Callable[[EngineView], None],
        lost: Callable[[str], None],
        engine: Callable[[str], Engine] = engine_here,
    ) -> None:
        self._url = url
        self._interval = interval
        self._seen = seen
        self._lost = lost
        self._engine = engine
        self._changed = threading.Event()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._movers = ThreadPoolExecutor(MOVERS, "arpipam move")

    async def run(self) -> None:
        """Follow the engine until cancelled or stopped. Raises what ended the thread; it may be run again."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def end(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result(None) if error is None else ended.set_exception(error)

        def follow() -> None:
            failure: BaseException | None = None
            try:
                self._run()
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is told and the thread starts anew
                failure = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(end, failure)

        self._thread = threading.Thread(target=follow, name="arpipam engine", daemon=True)
        self._thread.start()
        await ended

    def stop(self) -> None:
        """End, whatever is still awaited. It need not have been run."""
        self._ending.set()
        self._changed.set()
        self._movers.shutdown(wait=False, cancel_futures=True)
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Look again soon."""
        self._changed.set()

    async def move(self, container: str, network: str) -> None:
        """Give a running container another address. Raises EngineError. At most MOVERS moves run at one time."""
        await self._apart(lambda engine: engine.move(container, network))

    async def failed_starts(self) -> list[FailedStart]:
        """Containers that should run and could not be started. Raises EngineError."""
        return await self._apart(lambda engine: engine.failed_starts())

    async def start(self, container: str) -> None:
        """Start a container. Raises EngineError."""
        await self._apart(lambda engine: engine.start(container))

    async def _apart(self, work: Callable[[Engine], T]) -> T:
        """Have the engine do something that may make it ask the agent."""

        def do() -> T:
            engine = self._engine(self._url)
            try:
                return work(engine)
            finally:
                engine.close()

        return await asyncio.get_running_loop().run_in_executor(self._movers, do)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._follow()
            except EngineError as error:
                self._lost(str(error))
                if isinstance(error, ElsewhereError):  # that will not pass: somebody has to name another one
                    raise
            self._ending.wait(RETRY)

    def _follow(self) -> None:
        engine = self._engine(self._url)
        try:
            events = engine.changes()
            listening = threading.Thread(target=self._listen, args=(events,), name="arpipam events", daemon=True)
            listening.start()
            try:
                while not self._ending.is_set():
                    self._changed.clear()  # before looking: what happens meanwhile is looked at again
                    self._seen(engine.view())
                    if not listening.is_alive():
                        raise EngineError("the Docker engine has ended the stream of its events")
                    self._changed.wait(self._interval())
                    self._ending.wait(SETTLE)
            finally:
                events.close()
                listening.join()
        finally:
            engine.close()

    def _listen(self, events: Any) -> None:
        try:
            for _ in events:
                self._changed.set()
        except Exception:  # noqa: BLE001, S110 - it is broken or closed, whatever docker-py and urllib3 make of that
            pass
        finally:
            self._changed.set()
