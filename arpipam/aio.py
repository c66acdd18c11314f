"""The allocator for asyncio."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from arpipam.allocator import STATE_DIR, Allocator
from arpipam.leases.lease import QUARANTINE
from arpipam.protocol.timing import RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from ipaddress import IPv4Address, IPv4Network
    from pathlib import Path
    from types import TracebackType

    from arpipam.claim import Claim, Conflict
    from arpipam.claim_state import ClaimState
    from arpipam.leases.lease import Lease, LeaseStore
    from arpipam.link.task import Task
    from arpipam.options import SearchKeywords, SearchOptions
    from arpipam.results import Found, Probed, Station

T = TypeVar("T")


class AsyncClaim:
    """`Claim` for asyncio: what waits for the link or the disk is awaited. Listeners are called on the event loop.

    As a context manager it is released at the end, unless it was bound or handed over.
    """

    def __init__(self, claim: Claim) -> None:
        self._claim = claim

    @property
    def claim(self) -> Claim:
        """The claim for other threads."""
        return self._claim

    @property
    def address(self) -> IPv4Address:
        """The address."""
        return self._claim.address

    @property
    def prefix(self) -> int:
        """The length of the subnet's prefix."""
        return self._claim.prefix

    @property
    def mac(self) -> str:
        """The MAC that owns it."""
        return self._claim.mac

    @property
    def found(self) -> Found:
        """What the verdict rests on."""
        return self._claim.found

    @property
    def lease(self) -> Lease:
        """Its durable record."""
        return self._claim.lease

    @property
    def state(self) -> ClaimState:
        """Where it stands at this moment."""
        return self._claim.state

    @property
    def needs_check(self) -> bool:
        """See `Claim.needs_check`."""
        return self._claim.needs_check

    @property
    def conflict(self) -> str | None:
        """The MAC of the station that insists on the address."""
        return self._claim.conflict

    @property
    def failure(self) -> Exception | None:
        """Why the link is lost."""
        return self._claim.failure

    def on_change(self, listener: Callable[[ClaimState], object]) -> None:
        """Call `listener(state)` at each change. Call it on the event loop."""
        self._claim.on_change(_on_event_loop(listener))

    def on_conflict(self, listener: Callable[[Conflict], object]) -> None:
        """Call `listener(conflict)` whenever another station uses the address. Call it on the event loop."""
        self._claim.on_conflict(_on_event_loop(listener))

    async def announce(self) -> None:
        """See `Claim.announce`."""
        await asyncio.to_thread(self._claim.announce)

    async def bind(self, container: str) -> None:
        """See `Claim.bind`."""
        await asyncio.to_thread(self._claim.bind, container)

    async def wait_handed_over(self, timeout: float) -> bool:  # noqa: ASYNC109 - as Claim has it
        """See `Claim.wait_handed_over`."""
        return await asyncio.to_thread(self._claim.wait_handed_over, timeout)

    async def hand_over(self) -> None:
        """See `Claim.hand_over`."""
        await asyncio.to_thread(self._claim.hand_over)

    async def release(self, quarantine: float = QUARANTINE) -> None:
        """See `Claim.release`."""
        await asyncio.to_thread(self._claim.release, quarantine)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._claim.__exit__, kind, error, trace)


def _on_event_loop(listener: Callable[[T], object]) -> Callable[[T], object]:
    loop = asyncio.get_running_loop()

    def tell(what: T) -> None:
        with suppress(RuntimeError):  # the event loop is closed: nobody is left to be told
            loop.call_soon_threadsafe(listener, what)

    return tell


class AsyncAllocator:
    """`Allocator` for asyncio, with the same arguments: entered with `async with`, its methods are awaited.

    Nothing that it does waits for the disk or the link on the thread of the event loop.
    """

    def __init__(
        self,
        interface: str,
        subnet: IPv4Network | str | None = None,
        *,
        options: SearchOptions | None = None,
        rate: float = RATE,
        state_dir: Path | str = STATE_DIR,
        store: LeaseStore | None = None,
        seed: int | None = None,
        progress: Callable[[str], None] | None = None,
        **search: Unpack[SearchKeywords],
    ) -> None:
        self._allocator = Allocator(
            interface,
            subnet,
            options=options,
            rate=rate,
            state_dir=state_dir,
            store=store,
            seed=seed,
            progress=progress,
            **search,
        )

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._allocator.__enter__)  # may wait for a bridge port, see Link
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._allocator.__exit__, kind, error, trace)

    @property
    def leases(self) -> LeaseStore:
        """The leases of this host."""
        return self._allocator.leases

    async def find(self, owner: str = "", mac: str | None = None) -> Found:
        """See `Allocator.find`."""
        return await self._wait(partial(self._allocator.start_find, owner, mac))

    async def probe(self, addresses: Iterable[IPv4Address | str], mac: str | None = None) -> list[Probed]:
        """See `Allocator.probe`."""
        return await self._wait(partial(self._allocator.start_probe, list(addresses), mac))

    async def scan(self, on_station: Callable[[Station], object] | None = None) -> list[Station]:
        """See `Allocator.scan`; `on_station` is called on the event loop."""
        tell = None if on_station is None else _on_event_loop(on_station)
        return await self._wait(partial(self._allocator.start_scan, tell))

    async def claim(self, owner: str, address: IPv4Address | str | None = None, mac: str | None = None) -> AsyncClaim:
        """See `Allocator.claim`."""
        return AsyncClaim(await self._wait(partial(self._allocator.start_claim, owner, address, mac)))

    async def check(self, claim: AsyncClaim) -> Probed:
        """See `Allocator.check`."""
        return await self._wait(partial(self._allocator.start_check, claim.claim))

    async def _wait(self, start: Callable[[], Task[T]]) -> T:
        # A caller may be cancelled before its task has begun: the thread begins it, and then it is stopped.
        beginning = asyncio.ensure_future(asyncio.to_thread(start))
        try:
            task = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(self._cancel)
            raise
        try:
            return await asyncio.wrap_future(task.future)
        except asyncio.CancelledError:
            self._allocator.cancel(task)
            raise

    def _cancel(self, beginning: asyncio.Future[Task[T]]) -> None:
        if not beginning.cancelled() and beginning.exception() is None:
            self._allocator.cancel(beginning.result())
