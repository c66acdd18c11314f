"""The agent's socket: Docker's IPAM protocol, and the agent's own API, by HTTP.

The agent's own API, JSON all of it:

    GET  /arpipam/status, /arpipam/leases, /arpipam/stations
    GET  /arpipam/events?recent=1    one event a line, as they happen; those of late first
    POST /arpipam/claims             a ClaimRequest; the claim in the first line, its states in those that follow
    POST /arpipam/claims/N/bind      {"container": …}
    POST /arpipam/claims/N/announce, /hand_over, /release {"quarantine": seconds}

A claim lives as long as the connection that asked for it, or, once it is bound, as long as its container. An error is
{"error": one line, "exit_status": of the command line tools}.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from arpipam.errors import InputError
from launcher.agent.contract import ClaimServer
from launcher.agent.server import docker_ipam, refusals
from launcher.agent.server.claims import ClaimApi
from launcher.agent.server.docker_ipam import Ipam
from launcher.agent.server.listening import PathSocket
from launcher.agent.server.stream import Goings, Stream

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from pathlib import Path

    from launcher.agent.contract import Event, LeaseView, StationView, Status

MOST_AT_ONCE = 256
"""Of Docker's requests; more wait their turn. An engine takes a 503 for the last word, and the container would not
start; and it asks for one address a network at a time, so that nobody waits long."""
MOST_READERS = 64
"""Of events; more are told to come again: they are people, who can."""
_STOP = 0.3
"""Seconds that requests get to end once they are told to, again once they are cancelled, and again what they left."""
_IDLE = 30 * 86400.0
"""Seconds for which an idle connection is kept. The engine keeps its own for ever; one that we close at the moment at
which it asks would cost it the request: its second try has no body."""
_log = logging.getLogger(__name__)


class ServedAgent(Ipam, ClaimServer, Protocol):
    """What is served."""

    def status(self) -> Status:
        """The agent as a whole."""

    def leases(self) -> list[LeaseView]:
        """The leases of this host."""

    def stations(self) -> list[StationView]:
        """Who was seen."""

    def events(self, *, recent: bool = False) -> AsyncIterator[Event]:
        """What happens from now on; if asked, first what happened of late."""


class Server:
    """Serves the agent on a socket of its own at `path`, or on the one that systemd `passed`.

    `start` raises InputError.
    """

    def __init__(self, agent: ServedAgent, path: Path, *, passed: socket.socket | None = None) -> None:
        self._agent = agent
        self._path = path
        self._passed = passed
        self._own: PathSocket | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen."""
        listening = self._passed
        if listening is None:
            self._own = PathSocket(self._path)
            listening = self._own.socket
        self._runner = web.AppRunner(
            make_app(self._agent),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=_IDLE,
            shutdown_timeout=_STOP,
        )
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()

    async def stop(self) -> None:
        """End: who waits is answered, streams end, claims that nobody bound are released. Takes a second at most."""
        if self._own is not None:
            self._own.remove()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


def make_app(agent: ServedAgent) -> web.Application:
    """The application. Its runner must have `handler_cancellation`."""
    goings = Goings()
    api, claims = _Api(agent, goings), ClaimApi(agent, goings)
    app = web.Application(middlewares=[refusals.one_line_errors], client_max_size=refusals.LONGEST_BODY)
    app.add_routes(
        [
            web.get("/arpipam/status", api.status),
            web.get("/arpipam/leases", api.leases),
            web.get("/arpipam/stations", api.stations),
            web.get("/arpipam/events", api.events),
            web.post("/arpipam/claims", claims.claim),
            web.post(r"/arpipam/claims/{number:\d{1,18}}/{what:bind|announce|hand_over|release}", claims.act),
            web.post(r"/{method:\w+\.\w+}", api.docker),
        ]
    )

    async def stop(_: web.Application) -> None:
        goings.end()
        api.stop()

    async def wait(_: web.Application) -> None:
        await goings.wait(_STOP)  # what takes longer is found at the next start

    app.on_shutdown.append(stop)
    app.on_cleanup.append(wait)
    return app


async def _listed(views: Callable[[], Iterable[object]]) -> web.StreamResponse:
    """Views as JSON, made beside: there may be 65,536 of them, and Docker shall not wait for that."""
    text = await asyncio.to_thread(lambda: json.dumps([vars(view) for view in views()]))
    return web.json_response(text=text)


class _Api:
    """All requests but those about claims."""

    def __init__(self, agent: ServedAgent, goings: Goings) -> None:
        self._agent = agent
        self._goings = goings
        self._turn = asyncio.Semaphore(MOST_AT_ONCE)
        self._working: set[asyncio.Task[tuple[int, dict[str, Any]]]] = set()
        self._readers = 0

    async def docker(self, request: web.Request) -> web.StreamResponse:
        """One request of an engine. What was found for one that hangs up is taken back."""
        method, body = request.match_info["method"], await request.read()
        async with self._turn:
            status, said = await self._answer(method, body)
        response = refusals.docker(status, said)
        delivered = False
        try:
            await response.prepare(request)
            await response.write_eof()
            delivered = request.transport is not None and not request.transport.is_closing()
        finally:
            if not delivered:
                self._take_back(method, body, said)
        return response

    async def _answer(self, method: str, body: bytes) -> tuple[int, dict[str, Any]]:
        stopping = refusals.UNAVAILABLE, docker_ipam.refusal(refusals.STOPPING)
        if self._goings.ending:
            return stopping
        work = asyncio.ensure_future(docker_ipam.answer(self._agent, method, body))
        self._working.add(work)
        try:
            return await work
        except asyncio.CancelledError:
            if work.done() and not work.cancelled():  # it came to its end as the caller hung up
                self._take_back(method, body, work.result()[1])
            if _is_cancelled():
                raise
            return stopping  # an answer, since a broken connection is tried again without a body
        finally:
            self._working.discard(work)

    def _take_back(self, method: str, body: bytes, said: Mapping[str, Any]) -> None:
        self._goings.do(docker_ipam.take_back(self._agent, method, body, said))

    async def status(self, _: web.Request) -> web.StreamResponse:
        """The agent as a whole."""
        return web.json_response(asdict(self._agent.status()))

    async def leases(self, _: web.Request) -> web.StreamResponse:
        """The leases of this host."""
        return await _listed(self._agent.leases)

    async def stations(self, _: web.Request) -> web.StreamResponse:
        """Who was seen."""
        return await _listed(self._agent.stations)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """What happens, until the reader hangs up or the agent stops."""
        recent = request.query.get("recent", "0")
        if recent not in {"0", "1"}:
            raise InputError(f"recent={recent[:20]!r}: 0 or 1 is needed")
        if self._readers >= MOST_READERS:
            return refusals.busy(f"{MOST_READERS} readers follow the agent's events already; come again")
        stream = Stream(request)
        self._readers += 1
        following = asyncio.ensure_future(self._follow(stream, recent=recent == "1"))
        try:
            return await self._goings.run(stream)
        finally:
            self._readers -= 1
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    async def _follow(self, stream: Stream, *, recent: bool) -> None:
        try:
            async for event in self._agent.events(recent=recent):
                stream.put(asdict(event))
        except (Exception, SystemExit):  # noqa: BLE001 - the reader sees an end, the log says why
            _log.exception("the stream of events broke")
        stream.end()

    def stop(self) -> None:
        """Those who wait get an answer."""
        for work in self._working:
            work.cancel()


def _is_cancelled() -> bool:
    """Whether this task is cancelled, and not one that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
