"""Which container asks, as far as that can be known, and which address it had last: for the order `sticky`.

Docker does not say for whom it asks. A container that is created shows in the engine's list before it is started, with
its name and its networks; one that is started again shows there as well, but so do all others that have stopped. So the
answer is a guess, made only where one container stands out. A wrong one costs a container its former address, no more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from launcher.agent.network.held import Role

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from ipaddress import IPv4Address, IPv4Network

    from arpipam.leases.lease import LeaseStore
    from launcher.agent.edges import Edges
    from launcher.agent.network.containers import Containers
    from launcher.agent.network.holdings import Holdings
    from launcher.engine.model import WaitingContainer

SHOWN = 1.0  # s in which the engine shows what it has, else nobody is guessed
LOOK = 0.02  # s between two looks at that
LATELY = 10.0  # s: a container that was made, or that gave its address back, so long ago is probably about to start


def who_asks(waiting: Sequence[WaitingContainer], gave_back: Collection[str], now: float) -> str | None:
    """The container that is started, by its name; None where it may be one as well as another.

    `waiting`: those that may be; `gave_back`: whose addresses were given back of late. `now`: seconds since 1970.
    """
    new = [one.name for one in waiting if one.new and now - one.created < LATELY]
    again = [one.name for one in waiting if one.name in gave_back]
    for likely in (new, again, [one.name for one in waiting]):
        if names := set(likely):
            return names.pop() if len(names) == 1 else None
    return None


class Sticky:
    """The containers of one network, in `subnet`."""

    def __init__(
        self,
        interface: str,
        subnet: IPv4Network,
        containers: Containers,
        holdings: Holdings,
        *,
        store: LeaseStore,
        edges: Edges,
    ) -> None:
        self._interface = interface
        self._subnet = subnet
        self._containers = containers
        self._holdings = holdings
        self._store = store
        self._edges = edges

    async def last(self) -> tuple[str, IPv4Address] | None:
        """The name of the container that asks, and the address that it had last."""
        if self._containers.is_starting or not await self._seen():
            return None
        now = self._edges.monotonic()
        idle = [held for held in self._holdings.of(Role.DOCKER) if held.idle_since is not None]
        gave_back = {held.lease.owner for held in idle if now - (held.idle_since or 0.0) < LATELY}
        name = who_asks(self._containers.waiting(self._interface, self._subnet), gave_back, self._edges.now())
        if name is None:
            return None
        address = await self._edges.in_thread(self._store.last_address, self._interface, name)
        return None if address is None or address not in self._subnet else (name, address)

    async def _seen(self) -> bool:
        """Wait until the engine has shown what it has now."""
        asked = self._edges.monotonic()
        self._containers.look()
        while self._edges.monotonic() - asked < SHOWN:
            view = self._containers.view
            if view is not None and view.at > asked:
                return True
            await asyncio.sleep(LOOK)
        return False
