"""The agent's socket: Docker's IPAM protocol, and the agent's own API, by HTTP.

The agent's own API, JSON all of it:

    GET  /arpipam/status, /arpipam/leases, /arpipam/stations
    GET  /arpipam/events?recent=1    one event a line, as they happen; those of late first
    POST /arpipam/claims             a ClaimWish; the claim in the first line, its changes in those that follow
    POST /arpipam/claims/N/bind      {"container": …}
    POST /arpipam/claims/N/announce, /handed_over, /release {"quarantine": seconds}

A claim lives as long as the connection that asked for it, unless it was bound or handed over by then. An error is
{"error": one line, "exit_status": of the command line tools}.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from arpipam.claim import QUARANTINE
from arpipam.errors import AddressInUseError, ArpipamError, InputError, PoolExhaustedError
from launcher.agent import bodies, docker_ipam
from launcher.agent.docker_ipam import Ipam, one_line
from launcher.agent.listen import PathSocket, passed_fds, passed_socket
from launcher.agent.stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
    from ipaddress import IPv4Address
    from pathlib import Path

    from arpipam.claim import ClaimState
    from launcher.agent.views import Event, LeaseView, StationView, Status
    from launcher.agent.wish import ClaimWish

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LONGEST_BODY = 64 * 1024
MOST_AT_ONCE = 256
"""Of Docker's requests; more wait their turn. An engine takes a 503 for the last word, and the container would not
start; and it sends one a network at a time, so that waiting is no way to starve anybody."""
MOST_READERS = 64
MOST_CLAIMS = 1024
"""More are told to come again: they are people and programs of ours, who can."""
_STOP = 0.3
"""Seconds that requests get to end once they are told to, and again once they are cancelled."""
_IDLE = 30 * 86400.0
"""Seconds for which an idle connection is kept. The engine keeps its own for ever; one that we close at the moment at
which it asks would cost it the request: its second try has no body."""
_DOCKER = "application/vnd.docker.plugins.v1.1+json"
_BAD_REQUEST, _NOT_FOUND, _CONFLICT, _TOO_LARGE, _FAILED, _UNAVAILABLE = 400, 404, 409, 413, 500, 503
_OURS = "/arpipam/"
_log = logging.getLogger(__name__)


class HeldClaim(Protocol):
    """A claim that the agent holds for another program."""

    address: IPv4Address
    prefix: int
    mac: str
    lease_id: int
    state: ClaimState
    elapsed: float
    """Seconds that it took."""
    conflict: str | None
    """The MAC of the station that insists on the address."""
    failure: Exception | None
    """Why the link is lost."""

    def on_change(self, listener: Callable[[ClaimState], None]) -> None:
        """Call the listener at each change, on whatever thread."""

    async def bind(self, container: str) -> None:
        """The lease is the container's from now on."""

    async def announce(self) -> None:
        """Announce again: the owner is up."""

    async def handed_over(self) -> None:
        """The owner answers for itself."""

    async def release(self, quarantine: float) -> None:
        """Give the address back."""


class ServedAgent(Ipam, Protocol):
    """What is served."""

    def status(self) -> Status:
        """The agent as a whole."""

    def leases(self) -> list[LeaseView]:
        """The leases of this host."""

    def stations(self) -> list[StationView]:
        """Who was seen."""

    def events(self, *, recent: bool = False) -> AsyncIterator[Event]:
        """What happens from now on; if asked, first what happened of late."""

    async def claim(self, wish: ClaimWish) -> HeldClaim:
        """Claim an address; cancelled when nobody waits for it any more."""


class Server:
    """Serves the agent on a socket of its own at `path`, or on the one that systemd passed.

    `listen_fds`: how many sockets systemd passed; None: as the environment says. `start` raises InputError.
    """

    def __init__(self, agent: ServedAgent, path: Path, *, listen_fds: int | None = None) -> None:
        self._agent = agent
        self._path = path
        self._listen_fds = listen_fds
        self._own: PathSocket | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen."""
        count = passed_fds() if self._listen_fds is None else self._listen_fds
        if count:
            listening = passed_socket(count)
        else:
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
    api = _Api(agent)
    app = web.Application(middlewares=[_one_line], client_max_size=LONGEST_BODY)
    app.add_routes(
        [
            web.get("/arpipam/status", api.status),
            web.get("/arpipam/leases", api.leases),
            web.get("/arpipam/stations", api.stations),
            web.get("/arpipam/events", api.events),
            web.post("/arpipam/claims", api.claim),
            web.post(r"/arpipam/claims/{number:\d{1,18}}/{what:bind|announce|handed_over|release}", api.act),
            web.post(r"/{method:\w+\.\w+}", api.docker),
        ]
    )
    app.on_shutdown.append(api.stop)
    app.on_cleanup.append(api.wait)
    return app


class _Held:
    """A claim whose caller is there."""

    def __init__(self, claim: HeldClaim, stream: Stream) -> None:
        self.claim = claim
        self.stream = stream
        self.lock = asyncio.Lock()
        """One thing after the other: a caller may hang up while its bind is under way."""
        self.kept = False
        """Bound or handed over: it outlives the connection."""
        self.over = False


class _Api:
    def __init__(self, agent: ServedAgent) -> None:
        self._agent = agent
        self._turn = asyncio.Semaphore(MOST_AT_ONCE)
        self._working: set[asyncio.Task[Any]] = set()
        """What Docker asked for."""
        self._behind: set[asyncio.Task[None]] = set()
        """What goes on without a caller."""
        self._streams: set[Stream] = set()
        self._claims: dict[int, _Held] = {}
        self._claiming = 0
        self._reading = 0
        self._stopping = False

    # Docker's part.

    async def docker(self, request: web.Request) -> web.StreamResponse:
        """One request of an engine. One that hangs up has its address taken back."""
        method, body = request.match_info["method"], await request.read()
        async with self._turn:
            if self._stopping:
                return _docker_answer(_UNAVAILABLE, docker_ipam.refusal(_STOPPING))
            work = asyncio.ensure_future(docker_ipam.answer(self._agent, method, body))
            self._working.add(work)
            try:
                status, said = await work
            except asyncio.CancelledError:
                if work.done() and not work.cancelled():  # both at the same moment
                    self._take_back(method, body, work.result()[1])
                if _is_cancelled():
                    raise
                status, said = _UNAVAILABLE, docker_ipam.refusal(_STOPPING)
            finally:
                self._working.discard(work)
        response = _docker_answer(status, said)
        delivered = False
        try:
            await response.prepare(request)
            await response.write_eof()
            delivered = request.transport is not None and not request.transport.is_closing()
        finally:
            if not delivered:
                self._take_back(method, body, said)
        return response

    def _take_back(self, method: str, body: bytes, said: Mapping[str, Any]) -> None:
        self._go_on(docker_ipam.take_back(self._agent, method, body, said))

    # What is looked at.

    async def status(self, _: web.Request) -> web.StreamResponse:
        """The agent as a whole."""
        return web.json_response(asdict(self._agent.status()))

    async def leases(self, _: web.Request) -> web.StreamResponse:
        """The leases of this host."""
        return web.json_response([asdict(lease) for lease in self._agent.leases()])

    async def stations(self, _: web.Request) -> web.StreamResponse:
        """Who was seen."""
        return web.json_response([asdict(station) for station in self._agent.stations()])

    async def events(self, request: web.Request) -> web.StreamResponse:
        """What happens, until the reader hangs up or the agent stops."""
        recent = request.query.get("recent", "0")
        if recent not in {"0", "1"}:
            raise InputError(f"recent={recent[:20]!r}: 0 or 1 is needed")
        if self._reading >= MOST_READERS:
            return _error(_UNAVAILABLE, f"{MOST_READERS} readers follow the agent's events already; come again", 3)
        stream = Stream(request)
        self._reading += 1
        following = asyncio.ensure_future(self._follow(stream, recent=recent == "1"))
        try:
            return await self._run(stream)
        finally:
            self._reading -= 1
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    async def _follow(self, stream: Stream, *, recent: bool) -> None:
        try:
            async for event in self._agent.events(recent=recent):
                stream.put(asdict(event))
        except Exception:  # noqa: BLE001 - the reader sees an end, the log says why
            _log.exception("the stream of events broke")
        stream.end()

    # Claims of other programs.

    async def claim(self, request: web.Request) -> web.StreamResponse:
        """Claim, and tell of the claim until the caller hangs up or the agent stops."""
        wish = bodies.wish(await request.read())
        if self._stopping:
            return _error(_UNAVAILABLE, _STOPPING, ArpipamError.exit_status)
        if self._claiming >= MOST_CLAIMS:
            return _error(_UNAVAILABLE, f"{MOST_CLAIMS} claims are under way already; come again", 3)
        self._claiming += 1
        try:
            claim = await self._agent.claim(wish)
            held = _Held(claim, Stream(request))
            self._claims[claim.lease_id] = held
            try:
                self._listen(held)
                return await self._run(held.stream)
            finally:
                del self._claims[claim.lease_id]
                self._go_on(self._let_go(held))
        finally:
            self._claiming -= 1

    @staticmethod
    def _listen(held: _Held) -> None:
        """From now on the stream tells of the claim; a change at this moment is told twice rather than not at all."""
        loop, claim = asyncio.get_running_loop(), held.claim

        def changed(state: ClaimState) -> None:
            said: dict[str, Any] = {"state": state}
            if claim.conflict is not None:
                said["conflict"] = claim.conflict
            if claim.failure is not None:
                said["failure"] = one_line(claim.failure)
            with suppress(RuntimeError):  # the loop is over, and with it whoever listened
                loop.call_soon_threadsafe(held.stream.put, said)

        claim.on_change(changed)
        held.stream.put(
            {
                "lease": claim.lease_id,
                "address": str(claim.address),
                "prefix": claim.prefix,
                "mac": claim.mac,
                "state": claim.state,
                "elapsed_ms": round(claim.elapsed * 1000, 3),
            }
        )

    async def act(self, request: web.Request) -> web.StreamResponse:
        """Do something with a claim; once begun it is done, whether the caller waits for it or not."""
        number, what, body = int(request.match_info["number"]), request.match_info["what"], await request.read()
        if what == "bind":
            do = partial(_bind, container=bodies.container(body))
        elif what == "release":
            do = partial(_release, quarantine=bodies.quarantine(body))
        else:
            bodies.nothing(body)
            do = {"announce": _announce, "handed_over": _hand_over}[what]
        held = self._claims.get(number)
        if held is None:
            return _no_claim(number)

        async def done() -> bool:
            async with held.lock:
                if not held.over:
                    await do(held)
                    return True
            return False

        return web.json_response({}) if await asyncio.shield(self._go_on(done())) else _no_claim(number)

    async def _let_go(self, held: _Held) -> None:
        """The caller hung up."""
        async with held.lock:
            if held.kept or held.over:
                return
            try:
                await _release(held, quarantine=QUARANTINE)
            except ArpipamError as error:
                _log.warning("claim of %s, whose caller is gone, is not released: %s", held.claim.address, error)
            except Exception:
                _log.exception("claim of %s, whose caller is gone, is not released", held.claim.address)

    # The end.

    async def _run(self, stream: Stream) -> web.StreamResponse:
        self._streams.add(stream)
        if self._stopping:
            stream.end()
        try:
            return await stream.run()
        finally:
            self._streams.discard(stream)

    def _go_on(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do it, even where the caller's task is cancelled."""
        task = asyncio.ensure_future(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
        return task

    async def stop(self, _: web.Application) -> None:
        """Answer who waits, end what goes on."""
        self._stopping = True
        for work in self._working:
            work.cancel()
        for stream in self._streams:
            stream.end()

    async def wait(self, _: web.Application) -> None:
        """Let what has no caller any more come to its end. What takes longer is found at the next start."""
        if self._behind:
            await asyncio.wait(self._behind, timeout=_STOP)


_STOPPING = "the agent is stopping; try again once it is back"


async def _bind(held: _Held, *, container: str) -> None:
    await held.claim.bind(container)
    held.kept = True


async def _announce(held: _Held) -> None:
    await held.claim.announce()


async def _hand_over(held: _Held) -> None:
    await held.claim.handed_over()
    held.kept = True


async def _release(held: _Held, *, quarantine: float) -> None:
    await held.claim.release(quarantine)
    held.over = True


@web.middleware
async def _one_line(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error is one line, and no traceback leaves the program."""
    try:
        return await handler(request)
    except ArpipamError as error:
        return _error(_status(error), error, error.exit_status)
    except web.HTTPException as error:
        said = {
            _NOT_FOUND: f"nothing is at {request.path[:100]}",
            _TOO_LARGE: f"the request's body is larger than {LONGEST_BODY} bytes",
        }.get(error.status, f"{request.method} {request.path[:100]}: {error.reason}")
        status = error.status
    except ConnectionError:  # the caller is gone
        raise
    except Exception as error:
        _log.exception("%s failed", request.path)
        said, status = (
            f"arpipam: {request.path[:100]} failed ({type(error).__name__}); the agent's log says more",
            _FAILED,
        )
    if request.path.startswith(_OURS):
        return _error(status, said, InputError.exit_status if status < _FAILED else ArpipamError.exit_status)
    return _docker_answer(status, docker_ipam.refusal(said))


def _status(error: ArpipamError) -> int:
    if isinstance(error, InputError):
        return _BAD_REQUEST
    return _CONFLICT if isinstance(error, (AddressInUseError, PoolExhaustedError)) else _FAILED


def _error(status: int, error: object, exit_status: int) -> web.Response:
    return web.json_response({"error": one_line(error), "exit_status": exit_status}, status=status)


def _no_claim(number: int) -> web.Response:
    text = f"claim {number} is none that is held for a caller: it was released, or its connection is closed"
    return _error(_NOT_FOUND, text, InputError.exit_status)


def _docker_answer(status: int, said: Mapping[str, Any]) -> web.Response:
    return web.json_response(said, status=status, content_type=_DOCKER)


def _is_cancelled() -> bool:
    """Whether it is this task that is cancelled, and not one that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
