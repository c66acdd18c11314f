"""Claims that other programs ask the agent for, by its API: a claim lasts as long as the connection that asked for it.

One that was bound by then lasts as long as its container.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from arpipam.errors import ArpipamError, InputError
from arpipam.leases.lease import QUARANTINE
from launcher.agent.server import bodies, refusals
from launcher.agent.server.docker_ipam import one_line
from launcher.agent.server.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from ipaddress import IPv4Address

    from arpipam.claim import ClaimState
    from launcher.agent.network.lending import ClaimWish
    from launcher.agent.server.stream import Goings

MOST_CLAIMS = 1024
"""More are told to come again: they are programs of ours, which go on without the agent."""
_log = logging.getLogger(__name__)


class HeldClaim(Protocol):
    """A claim that the agent holds for another program."""

    @property
    def address(self) -> IPv4Address:
        """Of the container."""

    @property
    def prefix(self) -> int:
        """Of its subnet."""

    @property
    def mac(self) -> str:
        """The MAC that the container must have."""

    @property
    def lease_id(self) -> int:
        """Of the record."""

    @property
    def state(self) -> ClaimState:
        """Where it stands."""

    @property
    def elapsed(self) -> float:
        """Seconds that it took."""

    @property
    def conflict(self) -> str | None:
        """The MAC of the station that insists on the address."""

    @property
    def failure(self) -> Exception | None:
        """Why the link is lost."""

    def on_change(self, listener: Callable[[ClaimState], None]) -> None:
        """Call the listener at each change, on the event loop."""

    async def bind(self, container: str) -> None:
        """The lease is the container's from now on."""

    async def announce(self) -> None:
        """Announce again: the owner is up."""

    async def handed_over(self) -> None:
        """The owner answers for itself."""

    async def release(self, quarantine: float) -> None:
        """Give the address back; nobody else gets it for so many seconds."""


class Claimer(Protocol):
    """Who claims."""

    async def claim(self, wish: ClaimWish) -> HeldClaim:
        """Claim an address; cancelled when nobody waits for it any more."""


class _Held:
    """A claim whose caller is there."""

    def __init__(self, claim: HeldClaim, stream: Stream) -> None:
        self.claim = claim
        self.stream = stream
        self.lock = asyncio.Lock()
        """One thing after the other: a caller may hang up while its bind is under way."""
        self.bound = False
        self.over = False


class ClaimApi:
    """The requests about claims."""

    def __init__(self, claimer: Claimer, goings: Goings) -> None:
        self._claimer = claimer
        self._goings = goings
        self._held: dict[int, _Held] = {}
        self._callers = 0

    async def claim(self, request: web.Request) -> web.StreamResponse:
        """Claim, and tell of the claim until the caller hangs up or the agent stops."""
        wish = bodies.wish(await request.read())
        if self._goings.ending:
            return refusals.busy(refusals.STOPPING)
        if self._callers >= MOST_CLAIMS:
            return refusals.busy(f"{MOST_CLAIMS} programs have the agent hold a claim already; come again")
        self._callers += 1
        try:
            held = _Held(await self._claimer.claim(wish), Stream(request))
            number = held.claim.lease_id
            self._held[number] = held
            try:
                _tell_of(held)
                return await self._goings.run(held.stream)
            finally:
                del self._held[number]
                self._goings.do(_let_go(held))
        finally:
            self._callers -= 1

    async def act(self, request: web.Request) -> web.StreamResponse:
        """Do something with a claim; once begun it is done, whether or not the caller waits for it."""
        number, what, body = int(request.match_info["number"]), request.match_info["what"], await request.read()
        do: Callable[[HeldClaim], Coroutine[Any, Any, None]]
        if what == "bind":
            container = bodies.container(body)
            do = lambda claim: claim.bind(container)  # noqa: E731 - it is what the others are, too
        elif what == "release":
            quarantine = bodies.quarantine(body)
            do = lambda claim: claim.release(quarantine)  # noqa: E731
        else:
            bodies.nothing(body)
            do = (lambda claim: claim.announce()) if what == "announce" else (lambda claim: claim.handed_over())
        held = self._held.get(number)
        if held is None or not await asyncio.shield(self._goings.do(_done(held, what, do))):
            text = f"claim {number} is held for no caller: it was released, or its connection is closed"
            return refusals.error(refusals.NOT_FOUND, text, InputError.exit_status)
        return web.json_response({})


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


async def _done(held: _Held, what: str, do: Callable[[HeldClaim], Coroutine[Any, Any, None]]) -> bool:
    """Whether it was done; not where the claim is over."""
    async with held.lock:
        if held.over:
            return False
        await do(held.claim)
        held.bound |= what == "bind"
        held.over = what == "release"
    return True


async def _let_go(held: _Held) -> None:
    """The caller is gone."""
    async with held.lock:
        if held.over:
            return
        held.over = True
        if held.bound:
            return
        try:
            await held.claim.release(QUARANTINE)
        except ArpipamError as error:
            _log.warning("address %s, whose caller is gone, is not released: %s", held.claim.address, one_line(error))
        except Exception:  # noqa: BLE001 - nobody is left whom it would tell anything
            _log.exception("address %s, whose caller is gone, is not released", held.claim.address)
