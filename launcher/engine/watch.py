"""Follows the engine on threads of its own: never inside of a request of the engine, which would wait for itself.

Whenever something happens to a container or a network, and from time to time, everything is looked at as a whole: what
was missed, by whatever accident, is then made good in the same way as what was not.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from launcher.engine.engine import Engine
from launcher.engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.engine.model import EngineView

SETTLE = 0.1  # s: what happens together is looked at once
RETRY = 1.0  # s between two tries to reach the engine


class EngineWatch:
    """Calls `seen(view)` after each change and every `interval()` seconds, and `lost(why)` when the engine is away."""

    def __init__(
        self,
        url: str,
        *,
        interval: Callable[[], float],
        seen: Callable[[EngineView], None],
        lost: Callable[[str], None],
    ) -> None:
        self._url = url
        self._interval = interval
        self._seen = seen
        self._lost = lost
        self._changed = threading.Event()
        self._ending = threading.Event()
        self._events: Any = None
        self._engine: Engine | None = None
        self._thread = threading.Thread(target=self._run, name="arpipam engine", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, whatever is still awaited."""
        self._ending.set()
        self._changed.set()
        self._thread.join()

    def look(self) -> None:
        """Look again soon."""
        self._changed.set()

    def move(self, container: str, network: str) -> None:
        """Give a running container another address; waits. Raises EngineError."""
        engine = Engine(self._url)
        try:
            engine.move(container, network)
        finally:
            engine.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._follow()
            except EngineError as error:
                self._lost(str(error))
            self._ending.wait(RETRY)

    def _follow(self) -> None:
        engine = Engine(self._url)
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
