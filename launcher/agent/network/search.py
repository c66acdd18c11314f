"""The search for one address on the link of a network, and its claim."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from arpipam.errors import AddressInUseError, ArpipamError, PoolExhaustedError, UnknownError
from arpipam.protocol.outcome import Verdict
from launcher.agent.network.held import READY_OWNER

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
    from launcher.agent.network.promises import Promises
    from launcher.agent.network.sightings import Sightings
    from launcher.agent.network.witnesses import RequiredWitnesses

T = TypeVar("T")

LOOK = 0.02  # s between two looks at what is tried
_VERDICTS = {AddressInUseError: Verdict.IN_USE, PoolExhaustedError: Verdict.IN_USE}


class MadeWayError(ArpipamError):
    """The search ended since somebody asked by name for the address that it tried."""


@dataclass(eq=False)
class _UnderWay:
    """A search that runs."""

    owner: str
    job: Task[Claim]
    makes_way: bool = False

    def tries(self, address: IPv4Address) -> bool:
        """Whether it has the address in its hands."""
        return getattr(self.job, "trying", None) == int(address)


class AddressSearch:
    """Searches on a link; `options()` are what an allocator is told now, `judged` counts the verdicts.

    What is promised is passed over by every search that is free to choose.
    """

    def __init__(
        self,
        link: NetworkLink,
        witnesses: RequiredWitnesses,
        sightings: Sightings,
        options: Callable[[], Mapping[str, Any]],
        judged: Callable[[Verdict], None],
        *,
        promises: Promises,
        edges: Edges,
    ) -> None:
        self._link = link
        self._witnesses = witnesses
        self._sightings = sightings
        self._options = options
        self._judged = judged
        self._promises = promises
        self._in_thread = edges.in_thread
        self._under_way: set[_UnderWay] = set()

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
            variant = allocator.variant(**(dict(self._options()) | options))
            return variant.start_claim(owner, address, mac, promised=self._promises)

        here: list[_UnderWay] = []

        def begun(job: Task[Claim]) -> None:
            here.append(_UnderWay(owner, job))
            self._under_way.add(here[0])

        try:
            claim = await self._end_of(allocator, start, begun)
        except ArpipamError as error:
            if here and here[0].makes_way:
                raise MadeWayError(str(error)) from None
            if isinstance(error, UnknownError) and not await self._witnesses.whole():
                raise UnknownError(self._witnesses.complaint()) from None  # a cut in the midst of it
            self._judged(_VERDICTS.get(type(error), Verdict.UNKNOWN))
            raise
        finally:
            self._under_way.difference_update(here)
        if here[0].makes_way:  # it was cancelled at the very end, and the claim is released
            raise MadeWayError(f"{claim.address} is asked for by name")
        self._judged(Verdict.FREE)
        return claim

    async def _end_of(
        self, allocator: Allocator, start: Callable[[], Task[T]], begun: Callable[[Task[T]], None] = lambda _: None
    ) -> T:
        """The result of what `start` starts, on another thread; `begun` is told of it."""
        # A caller may hang up before its job has begun: the thread begins it all the same.
        beginning = asyncio.ensure_future(self._in_thread(start))
        try:
            job = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(partial(_cancel, allocator))
            raise
        begun(job)
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            allocator.cancel(job)
            raise

    async def make_way(self, address: IPv4Address) -> None:
        """Wait until no search has the address in its hands. One for an address to keep ready ends at once."""
        while busy := [one for one in self._under_way if one.tries(address)]:
            for one in busy:
                if one.owner == READY_OWNER and not one.makes_way and not one.job.future.done():
                    one.makes_way = True
                    self._link.allocator.cancel(one.job)
            await asyncio.sleep(LOOK)


def _cancel(allocator: Allocator, begun: asyncio.Future[Task[Any]]) -> None:
    """Nobody waits for this job any more."""
    if not begun.cancelled() and begun.exception() is None:
        allocator.cancel(begun.result())
