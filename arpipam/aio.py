"""The allocator for asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from arpipam.allocator import STATE_DIR, Allocator
from arpipam.protocol.timing import RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from ipaddress import IPv4Address, IPv4Network
    from pathlib import Path
    from types import TracebackType

    from arpipam.claim import Claim
    from arpipam.leases.lease import LeaseStore
    from arpipam.link.task import Task
    from arpipam.options import SearchKeywords, SearchOptions
    from arpipam.results import Found, Probed, Station

T = TypeVar("T")


class AsyncAllocator:
    """`Allocator` for asyncio, with the same arguments: entered with `async with`, its methods are awaited.

    A `Claim` is the same for both; of its methods only `wait_handed_over` waits for the network, and belongs in a
    thread (`asyncio.to_thread`).
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
        return await self._wait(self._allocator.start_find(owner, mac))

    async def probe(self, addresses: Iterable[IPv4Address | str], mac: str | None = None) -> list[Probed]:
        """See `Allocator.probe`."""
        return await self._wait(self._allocator.start_probe(addresses, mac))

    async def scan(self, on_station: Callable[[Station], None] | None = None) -> list[Station]:
        """See `Allocator.scan`."""
        return await self._wait(self._allocator.start_scan(on_station))

    async def claim(self, owner: str, address: IPv4Address | str | None = None, mac: str | None = None) -> Claim:
        """See `Allocator.claim`."""
        return await self._wait(self._allocator.start_claim(owner, address, mac))

    async def _wait(self, job: Task[T]) -> T:
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            self._allocator.cancel(job)
            raise
