"""Addresses of a pool that Docker keeps for itself: gateways, auxiliary ones. Leased, and defended by nobody.

A gateway is accepted only where the engine then leaves the link as it is; see gateway.py.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any

from arpipam.errors import AddressInUseError, ArpipamError
from launcher.agent.network.gateway import fitting, taken
from launcher.agent.network.held import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from ipaddress import IPv4Network

    from arpipam.link.netlink import Facts
    from launcher.agent.edges import Edges
    from launcher.agent.network.holdings import Holdings
    from launcher.agent.network.search import AddressSearch

GATEWAY = "gateway"
"""The owner of the containers' way out."""
RESERVED = "reserved"
"""The owner of an address that Docker named without a MAC: auxiliary, or a container's from before we knew it."""


class Reserved:
    """Those of one network on `interface`, in `subnet`. `options()` are what an allocator is told now."""

    def __init__(
        self,
        interface: str,
        subnet: IPv4Network,
        holdings: Holdings,
        search: AddressSearch,
        *,
        options: Callable[[], Mapping[str, Any]],
        edges: Edges,
    ) -> None:
        self.replayed = False
        """Whether Docker has asked for the pool because the engine has started: what it has by then is made already."""
        self._interface = interface
        self._subnet = subnet
        self._holdings = holdings
        self._search = search
        self._options = options
        self._edges = edges

    async def keep(self, address: IPv4Address | None, *, gateway: bool) -> IPv4Interface:
        """Keep the address from everybody else; None: a gateway is to be found.

        Raises InputError for a gateway that would cost this host or the LAN an address.
        """
        owner = RESERVED if address is not None and not gateway else GATEWAY
        local: Collection[int] = ()
        with suppress(ArpipamError):
            local = (await self._facts(self._interface)).local_addresses
        if address is None or (gateway and not self.replayed):
            address = await self._gateway(address)
        held = self._holdings.get(address)
        if (held is None or held.role is not Role.DOCKER) and int(address) not in local:
            await self._holdings.record(address, owner)
        return IPv4Interface(f"{address}/{self._subnet.prefixlen}")

    async def _gateway(self, wanted: IPv4Address | None) -> IPv4Address:
        """The wanted one where it fits; else the bridge itself; on a bridge without an address one that is free."""
        found = fitting(self._interface, self._subnet, wanted, await self._facts(self._interface))
        if found is not None:
            return found
        routers = await self._routers()
        if wanted in routers:
            raise taken(self._interface, wanted, "is this host's own router")
        exclude = (*self._options()["exclude"], *map(str, routers))  # also one that does not answer now
        options = {"exclude": exclude} if wanted is None else {"ranges": (), "exclude": ()}
        try:
            claim = await self._search.claim(GATEWAY, wanted, None, **options)
        except AddressInUseError as error:
            if wanted is None:
                raise
            raise taken(self._interface, wanted, f"is not free ({error})") from None
        held = self._holdings.add(claim, Role.LENT)
        await self._holdings.end(held, 0.0)
        return held.address

    async def _routers(self) -> set[IPv4Address]:
        """The routers in the subnet that this host has by any of its interfaces."""
        found: set[IPv4Address] = set()
        for name in await self._edges.in_thread(self._edges.on_subnet, self._subnet):
            with suppress(ArpipamError):  # one that is down leads nowhere
                found |= set(map(IPv4Address, (await self._facts(name)).gateways))
        return {address for address in found if address in self._subnet}

    async def _facts(self, interface: str) -> Facts:
        return await self._edges.in_thread(self._edges.facts, interface)

    async def release(self, address: IPv4Address) -> None:
        """Docker does not need it any more.

        A gateway stays until Docker releases the pool: a second network on it, refused in the end, releases it too.
        """
        for lease in await self._holdings.recorded():
            if lease.address == address and lease.owner == RESERVED:
                await self._holdings.end_lease(lease)

    async def forget(self) -> None:
        """Docker has no network on this pool any more."""
        for lease in await self._holdings.recorded():
            await self._holdings.end_lease(lease)
