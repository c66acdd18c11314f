"""The search for one address on the link of a network, and its claim."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from arpipam.errors import AddressInUseError, ArpipamError, PoolExhaustedError, UnknownError
from arpipam.protocol.outcome import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Address

    from arpipam.allocator import Allocator
    from arpipam.claim import Claim
    from arpipam.link.task import Task
    from arpipam.results import Probed
    from launcher.agent.edges import Edges
    from launcher.agent.network.held import Held
    from launcher.agent.network.link import NetworkLink
    from launcher.agent.network.sightings import Sightings
    from launcher.agent.network.witnesses import RequiredWitnesses

T = TypeVar("T")

_VERDICTS = {AddressInUseError: Verdict.IN_USE, PoolExhaustedError: Verdict.IN_USE}


class AddressSearch:
    """Searches on a link; `options()` are what an allocator is told now, `judged` counts the verdicts."""

    def __init__(
        self,
        link: NetworkLink,
        witnesses: RequiredWitnesses,
        sightings: Sightings,
        options: Callable[[], Mapping[str, Any]],
        judged: Callable[[Verdict], None],
        *,
        edges: Edges,
    ) -> None:
        self._link = link
        self._witnesses = witnesses
        self._sightings = sightings
        self._options = options
        self._judged = judged
        self._in_thread = edges.in_thread

    async def check(self, held: Held) -> Verdict:
        """Probe the address of a claim again, if the link could not be heard at some time since it was claimed.

        FREE: nobody else has it. Raises UnknownError where that cannot be told.
        """
        if not held.claim.needs_check:
            return Verdict.FREE
        if self._witnesses.silent():
            raise UnknownError(self._witnesses.complaint())
        allocator = self._link.allocator

        def start() -> Task[Probed]:
            known = self._sightings.lately()
            return allocator.variant(**(dict(self._options()) | {"known": known})).start_check(held.claim)

        probed = await self._end_of(allocator, start)
        self._judged(probed.verdict)
        if probed.verdict is Verdict.UNKNOWN:
            raise UnknownError(f"{held.lease.interface}: {held.address}: {probed.reason}")
        return probed.verdict

    async def claim(self, owner: str, address: IPv4Address | None, mac: str | None, **options: Any) -> Claim:
        """Search, or check the given address, and claim it. Raises as Allocator.claim does.

        The caller adds it to the holdings at once, before it waits for anything else.
        """
        allocator = self._link.allocator
        if silent := self._witnesses.silent():
            named = options.get("witnesses")
            if named is None or set(named) & silent.keys():
                raise UnknownError(self._witnesses.complaint())
        options = {"avoid": self._sightings.remembered(), **options}

        def start() -> Task[Claim]:
            options["known"] = self._sightings.lately()
            return allocator.variant(**(dict(self._options()) | options)).start_claim(owner, address, mac)

        try:
            claim = await self._end_of(allocator, start)
        except ArpipamError as error:
            if isinstance(error, UnknownError) and not await self._witnesses.whole():
                raise UnknownError(self._witnesses.complaint()) from None  # a cut in the midst of it
            self._judged(_VERDICTS.get(type(error), Verdict.UNKNOWN))
            raise
        self._judged(Verdict.FREE)
        return claim

    async def _end_of(self, allocator: Allocator, start: Callable[[], Task[T]]) -> T:
        """The result of what `start` starts, on another thread."""
        # A caller may hang up before its job has begun: the thread begins it all the same.
        beginning = asyncio.ensure_future(self._in_thread(start))
        try:
            job = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(partial(_cancel, allocator))
            raise
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            allocator.cancel(job)
            raise


def _cancel(allocator: Allocator, begun: asyncio.Future[Task[Any]]) -> None:
    """Nobody waits for this job any more."""
    if not begun.cancelled() and begun.exception() is None:
        allocator.cancel(begun.result())
