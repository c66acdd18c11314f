"""Addresses of a pool that Docker keeps for itself: gateways, auxiliary ones. Leased, and defended by nobody."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING

from launcher.agent.network.held import Role

if TYPE_CHECKING:
    from ipaddress import IPv4Network

    from launcher.agent.edges import Edges
    from launcher.agent.network.holdings import Holdings
    from launcher.agent.network.link import NetworkLink
    from launcher.agent.network.search import AddressSearch

GATEWAY = "gateway"
"""The owner of the containers' way out."""
RESERVED = "reserved"
"""The owner of an address that Docker named without a MAC: auxiliary, or a container's from before we knew it."""


class Reserved:
    """Those of one network, in `subnet`."""

    def __init__(
        self, subnet: IPv4Network, link: NetworkLink, holdings: Holdings, search: AddressSearch, edges: Edges
    ) -> None:
        self._subnet = subnet
        self._link = link
        self._holdings = holdings
        self._search = search
        self._in_thread = edges.in_thread

    async def keep(self, address: IPv4Address | None, *, gateway: bool) -> IPv4Interface:
        """Keep the address from everybody else; None: a gateway is to be found."""
        owner = RESERVED if address is not None and not gateway else GATEWAY
        if address is None:
            address = await self._gateway()
        local = self._link.is_open and int(address) in self._link.allocator.link.local_addresses
        held = self._holdings.get(address)
        if (held is None or held.role is not Role.DOCKER) and not local:
            await self._holdings.record(address, owner)
        return IPv4Interface(f"{address}/{self._subnet.prefixlen}")

    async def _gateway(self) -> IPv4Address:
        """The bridge itself; beside a bridge, the router that this host has there; else the first free address."""
        link = self._link.allocator.link
        await self._in_thread(link.look)
        own: list[IPv4Address] = [prefix.ip for prefix in link.prefixes if prefix.ip in self._subnet]
        routers = [address for address in map(IPv4Address, link.gateways) if address in self._subnet]
        known: list[IPv4Address] = [*(own if link.is_bridge else ()), *routers]
        if known:
            return known[0]
        held = self._holdings.add(await self._search.claim(GATEWAY, None, None), Role.LENT)
        await self._holdings.end(held, 0.0)
        return held.address

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
