"""What goes on: answers of one JSON object a line, as things happen, and work that nobody waits for any more."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

MOST_WAITING = 4096
"""Lines that a reader may be behind; the recent events are 1000 at once."""
_AT_ONCE = 64
_NDJSON = "application/x-ndjson"

T = TypeVar("T")


class Stream:
    """Lines to one reader. One that falls too far behind is cut off: its connection breaks, without a proper end."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._lines: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._ended = False

    def put(self, value: Mapping[str, Any]) -> None:
        """One more line; never waits."""
        if self._ended:
            return
        if len(self._lines) >= MOST_WAITING:
            self._ended = True
            self._lines.clear()
            if self._request.transport is not None:
                self._request.transport.abort()  # which cancels `run`
            return
        self._lines.append(json.dumps(value).encode() + b"\n")
        self._news.set()

    def end(self) -> None:
        """No more lines: a proper end, once those that wait are read."""
        self._ended = True
        self._news.set()

    async def run(self) -> web.StreamResponse:
        """Write the lines until the end. Cancelled when the reader hangs up."""
        response = web.StreamResponse(headers={"Content-Type": _NDJSON})
        await response.prepare(self._request)
        while True:
            while self._lines:
                some = [self._lines.popleft() for _ in range(min(_AT_ONCE, len(self._lines)))]
                await response.write(b"".join(some))
            if self._ended:
                break
            self._news.clear()
            await self._news.wait()
        await response.write_eof()
        return response


class Goings:
    """All that goes on, so that it can be brought to an end."""

    def __init__(self) -> None:
        self.ending = False
        self._streams: set[Stream] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, stream: Stream) -> web.StreamResponse:
        """Run it until its end, or the end of all."""
        self._streams.add(stream)
        if self.ending:
            stream.end()
        try:
            return await stream.run()
        finally:
            self._streams.discard(stream)

    def do(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do this, whether or not the task that wants it is cancelled. A task that raises SystemExit ends the loop."""

        async def doing() -> T:
            try:
                return await work
            except SystemExit as error:
                raise RuntimeError(f"it wanted the agent to exit with {error}") from error

        task = asyncio.ensure_future(doing())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def end(self) -> None:
        """End all streams."""
        self.ending = True
        for stream in self._streams:
            stream.end()

    async def wait(self, longest: float) -> None:
        """Wait for the work, for `longest` seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=longest)
