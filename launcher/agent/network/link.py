"""The link of one network: opened, and opened again whenever it comes back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from arpipam.errors import ArpipamError, LinkError
from launcher.agent.contract import EventKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from arpipam.allocator import Allocator
    from launcher.agent.edges import Edges

REOPEN = 1.0  # s between two tries to open a link


class Opened(Protocol):
    """What a network does with its link."""

    async def opened(self, allocator: Allocator) -> str:
        """The link is open; no address is handed out before this returns what there is to tell."""

    async def closing(self) -> None:
        """The link is gone, or about to be closed."""


class NetworkLink:
    """The allocator of `interface`, or the reason why there is none. `make()` returns one that is not open yet."""

    def __init__(
        self, interface: str, make: Callable[[], Awaitable[Allocator]], tell: Callable[..., None], edges: Edges
    ) -> None:
        self.interface = interface
        self.opened = asyncio.Event()
        """Set while the link is open and all leases are defended."""
        self.reason = "not opened yet"
        self.failed = False
        """Whether the last try to open the link failed."""
        self.audible = True
        """Whether a container's own answers can be heard: a macvlan parent and its children never hear each other."""
        self._make = make
        self._tell = tell
        self._in_thread = edges.in_thread
        self._allocator: Allocator | None = None

    @property
    def is_open(self) -> bool:
        """Whether the link is open."""
        return self._allocator is not None

    @property
    def allocator(self) -> Allocator:
        """The open link; LinkError, which names the reason, while there is none."""
        if self._allocator is None:
            raise LinkError(f"{self.interface}: no address can be given out or checked now: {self.reason}")
        return self._allocator

    async def catch_up(self) -> None:
        """Wait until all that has arrived by now has been seen by the claims that it concerns."""
        await asyncio.wrap_future(self.allocator.loop.catch_up())

    async def run(self, network: Opened) -> None:
        """Keep the link open until cancelled. What is not an error of ours is raised, once the link is closed."""
        told = ""
        while True:
            try:
                allocator, text = await self._open(network)
            except ArpipamError as error:
                self.reason, self.failed = str(error), True
                if self.reason != told:
                    self._tell(EventKind.LINK_DOWN, text=self.reason)
                told = self.reason
                await asyncio.sleep(REOPEN)
                continue
            told = ""
            try:
                self._tell(EventKind.LINK_UP, text=text)
                self.reason = str(await asyncio.wrap_future(allocator.loop.ended))
                self._tell(EventKind.LINK_DOWN, text=self.reason)
            finally:
                await self._close(network, allocator)

    async def _open(self, network: Opened) -> tuple[Allocator, str]:
        allocator = await self._make()
        await self._in_thread(allocator.__enter__)
        try:
            self.audible = allocator.link.is_bridge
            text = await network.opened(allocator)
        except BaseException as error:
            self.reason = str(error)
            await self._close(network, allocator)
            raise
        self._allocator = allocator  # from now on addresses are handed out
        self.reason, self.failed = "", False
        self.opened.set()
        return allocator, text

    async def _close(self, network: Opened, allocator: Allocator) -> None:
        self.opened.clear()
        self._allocator = None
        try:
            await network.closing()
        finally:
            await self._in_thread(allocator.__exit__, None, None, None)
