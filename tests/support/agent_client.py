"""What the tests of the agent's client share: a small server that speaks the agent's API, and what it says."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from launcher.agent.contract import ClaimRequest, Event, LeaseView, NetworkView, StationView, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 10.0
NETWORK = NetworkView(
    pool="br0:172.16.42.0/24",
    interface="br0",
    subnet="172.16.42.0/24",
    state="partitioned",
    reason="host2 is silent",
    silent=("host2",),
    left=200,
    ready=3,
    wanted=4,
    leases=12,
    policy="defend",
    round_trip=0.0005,
)
STATUS = Status("0.1.0", 4711, 1_700_000_000.5, "27.1", (NETWORK,), fabric="/etc/fabric.toml as host1 on br0")
LEASE = LeaseView("br0", "172.16.42.7", 24, "02:00:00:00:00:07", "web", "bound", "c7", 1_700_000_000.0, "container", "")
STATION = StationView("br0", "172.16.42.9", "02:00:00:00:00:09", 1_700_000_000.0, 1_700_000_100.25)
EVENTS = (
    Event(1_700_000_000.0, "partition", "br0", text="host2 is silent"),
    Event(1_700_000_001.125, "conflict", "br0", "172.16.42.7", other="02:00:00:00:00:99", text="172.16.42.7 is used"),
)
FIRST = {
    "lease": 7,
    "address": "172.16.42.7",
    "prefix": 24,
    "mac": "02:00:00:00:00:07",
    "state": "announcing",
    "elapsed_ms": 12.5,
}


def wanted(address: str | None = None) -> ClaimRequest:
    return ClaimRequest("br0", "web", address=address)


@dataclass
class FakeAgent:
    """Answers as the agent would; what it says is for the test to choose."""

    path: Path
    first: dict[str, Any] = field(default_factory=lambda: dict(FIRST))
    refusal: tuple[int, Any] | None = None
    asked: list[tuple[str, Any]] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    """The connection of a claim is at its end."""
    views: dict[str, Any] = field(default_factory=dict)
    lines: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    headers: dict[str, str] = field(default_factory=dict)
    """Of the last question."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def say(self, line: Any) -> None:
        """One more line on the stream; None: its end; ABORT: an end in the middle."""
        self.loop.call_soon_threadsafe(self.lines.put_nowait, line)

    async def before_answer(self) -> None:
        """Hold the answer to what a claim is told back; a test may put something here."""

    async def view(self, request: web.Request) -> web.Response:
        self.headers = dict(request.headers)
        if self.refusal is not None:
            return self._refused()
        return web.json_response(self.views[request.path.rpartition("/")[2]])

    async def events(self, request: web.Request) -> web.StreamResponse:
        recent = EVENTS if request.query["recent"] == "1" else ()
        return await self._stream(request, [asdict(event) for event in recent])

    async def claim(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(("claim", await request.json()))
        if self.refusal is not None:
            return self._refused()
        try:
            return await self._stream(request, [self.first])
        finally:
            self.closed.set()

    async def act(self, request: web.Request) -> web.Response:
        self.asked.append((request.path.removeprefix("/arpipam/claims/"), await request.json()))
        await self.before_answer()
        return self._refused() if self.refusal is not None else web.json_response({})

    def _refused(self) -> web.Response:
        assert self.refusal is not None
        status, body = self.refusal
        return web.Response(status=status, text=body if isinstance(body, str) else json.dumps(body))

    async def _stream(self, request: web.Request, lines: list[Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(json.dumps(line).encode() + b"\n")
        while request.transport is not None and not request.transport.is_closing():
            try:
                line = await asyncio.wait_for(self.lines.get(), 0.02)
            except TimeoutError:
                continue
            if line is None:
                break
            if line is ABORT:
                request.transport.abort()
                break
            await response.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        return response

    def serve(self, ready: threading.Event, ending: asyncio.Event) -> None:
        """Until `ending`, on this thread."""

        async def run() -> None:
            app = web.Application()
            app.router.add_get("/arpipam/events", self.events)
            app.router.add_get("/arpipam/{view}", self.view)
            app.router.add_post("/arpipam/claims", self.claim)
            app.router.add_post("/arpipam/claims/{id}/{what}", self.act)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.UnixSite(runner, str(self.path)).start()
            ready.set()
            await ending.wait()
            await turns()  # whoever knocked last is let in: a server that ends then would forget to close that
            await runner.cleanup()
            await turns()

        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(run())
        self.loop.close()


ABORT = object()


async def turns() -> None:
    """Let the event loop do what is due."""
    for _ in range(5):
        await asyncio.sleep(0.01)


@contextmanager
def serving(path: Path) -> Iterator[FakeAgent]:
    agent = FakeAgent(path)
    agent.views = {"status": asdict(STATUS), "leases": [asdict(LEASE)], "stations": [asdict(STATION)]}
    ready, ending = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=agent.serve, args=(ready, ending))
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield agent
    finally:
        agent.loop.call_soon_threadsafe(ending.set)
        thread.join()


def eventually(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextmanager
def mute(path: Path, word: bytes | None) -> Iterator[None]:
    """Somebody who says only that, then ends the connection; None: who says nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        if word is None:
            yield
            return

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(word)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # what closes with words unread resets the connection
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join()
