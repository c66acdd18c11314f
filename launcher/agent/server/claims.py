"""Claims that other programs ask the agent for, by its API: a claim lasts as long as the connection that asked for it.

One that was bound by then lasts as long as its container.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import web

from arpipam.errors import ArpipamError, InputError
from arpipam.leases.lease import QUARANTINE
from launcher.agent.server import bodies, refusals
from launcher.agent.server.docker_ipam import one_line
from launcher.agent.server.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.claim import Claim
    from arpipam.claim_state import ClaimState
    from launcher.agent.contract import ClaimServer
    from launcher.agent.server.stream import Goings

MOST_CLAIMS = 1024
"""More are told to come again: they are programs of ours, which go on without the agent."""
_log = logging.getLogger(__name__)


class _Held:
    """A claim whose caller is there."""

    def __init__(self, claim: Claim, elapsed: float, stream: Stream) -> None:
        self.claim = claim
        self.elapsed = elapsed
        """Seconds that the claim took."""
        self.stream = stream
        self.lock = asyncio.Lock()
        """One thing after the other: a caller may hang up while its bind is under way."""
        self.bound = False
        self.over = False


class ClaimApi:
    """The requests about claims."""

    def __init__(self, server: ClaimServer, goings: Goings) -> None:
        self._server = server
        self._goings = goings
        self._held: dict[int, _Held] = {}
        self._callers = 0

    async def claim(self, request: web.Request) -> web.StreamResponse:
        """Claim, and tell of the claim until the caller hangs up or the agent stops."""
        wanted = bodies.claim_request(await request.read())
        if self._goings.ending:
            return refusals.busy(refusals.STOPPING)
        if self._callers >= MOST_CLAIMS:
            return refusals.busy(f"{MOST_CLAIMS} programs have the agent hold a claim already; come again")
        self._callers += 1
        try:
            started = time.monotonic()
            claim = await self._server.claim(wanted)
            held = _Held(claim, time.monotonic() - started, Stream(request))
            number = claim.lease.id
            self._held[number] = held
            try:
                _tell_of(held)
                return await self._goings.run(held.stream)
            finally:
                del self._held[number]
                self._goings.do(self._let_go(held))
        finally:
            self._callers -= 1

    async def act(self, request: web.Request) -> web.StreamResponse:
        """Do something with a claim; once begun it is done, whether or not the caller waits for it."""
        number, what, body = int(request.match_info["number"]), request.match_info["what"], await request.read()
        do: Callable[[Claim], object]
        if what == "bind":
            container = bodies.container(body)
            do = lambda claim: self._server.bind(claim, container)  # noqa: E731 - it is what the others are, too
        elif what == "release":
            quarantine = bodies.quarantine(body)
            do = lambda claim: self._server.release(claim, quarantine)  # noqa: E731
        else:
            bodies.nothing(body)
            do = self._server.announce if what == "announce" else self._server.hand_over
        held = self._held.get(number)
        if held is None or not await asyncio.shield(self._goings.do(_done(held, what, do))):
            text = f"claim {number} is held for no caller: it was released, or its connection is closed"
            return refusals.error(refusals.NOT_FOUND, text, InputError.exit_status)
        return web.json_response({})

    async def _let_go(self, held: _Held) -> None:
        """The caller is gone."""
        async with held.lock:
            if held.over:
                return
            held.over = True
            if held.bound:
                return
            try:
                await self._server.release(held.claim, QUARANTINE)
            except ArpipamError as error:
                _log.warning(
                    "address %s, whose caller is gone, is not released: %s", held.claim.address, one_line(error)
                )
            except (Exception, SystemExit):  # noqa: BLE001 - nobody is left whom it would tell anything
                _log.exception("address %s, whose caller is gone, is not released", held.claim.address)


def _tell_of(held: _Held) -> None:
    """From now on the stream tells of the claim; a change at this moment is told twice rather than not at all."""
    claim = held.claim

    def changed(state: ClaimState) -> None:
        said: dict[str, Any] = {"state": state}
        if claim.conflict is not None:
            said["conflict"] = claim.conflict
        if claim.failure is not None:
            said["failure"] = one_line(claim.failure)
        held.stream.put(said)

    def changed_elsewhere(state: ClaimState) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(changed, state)

    loop = asyncio.get_running_loop()
    claim.on_change(changed_elsewhere)
    held.stream.put(
        {
            "lease": claim.lease.id,
            "address": str(claim.address),
            "prefix": claim.prefix,
            "mac": claim.mac,
            "state": claim.state,
            "elapsed_ms": round(held.elapsed * 1000, 3),
        }
    )


async def _done(held: _Held, what: str, do: Callable[[Claim], object]) -> bool:
    """Whether it was done; not where the claim is over."""
    async with held.lock:
        if held.over:
            return False
        doing = do(held.claim)
        if inspect.isawaitable(doing):
            await doing
        held.bound |= what == "bind"
        held.over = what == "release"
    return True
