"""An answer that goes on: one JSON object a line, as things happen."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_WAITING = 4096
"""Lines that a reader may be behind; the recent events are 1000 at once."""
_AT_ONCE = 64
NDJSON = "application/x-ndjson"


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
        response = web.StreamResponse(headers={"Content-Type": NDJSON})
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
