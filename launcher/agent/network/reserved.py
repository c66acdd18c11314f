"""Addresses of a pool that Docker keeps for itself: gateways, auxiliary ones. Leased, and defended by nobody."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING

from arpipam.leases.lease import LeaseState

if TYPE_CHECKING:
    from arpipam.leases.lease import Lease
    from launcher.agent.network.network import Network

GATEWAY = "gateway"
"""The owner of the containers' way out."""
RESERVED = "reserved"
"""The owner of an address that Docker named without a MAC: auxiliary, or a container's from before we knew it."""


class Reserved:
    """Those of one network."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def keep(self, address: IPv4Address | None, *, gateway: bool) -> IPv4Interface:
        """Keep the address from everybody else; None: a gateway is to be found."""
        network = self._network
        owner = RESERVED if address is not None and not gateway else GATEWAY
        if address is None:
            address = await self._gateway()
        prefix = network.pool.subnet.prefixlen
        local = network.is_open and int(address) in network.allocator.link.local_addresses
        if address not in network.held and not local:
            await asyncio.to_thread(network.record, address, mac="", owner=owner)
        return IPv4Interface(f"{address}/{prefix}")

    async def _gateway(self) -> IPv4Address:
        """The bridge itself; beside a bridge, the router that this host has there; else the first free address."""
        network = self._network
        link, subnet = network.allocator.link, network.pool.subnet
        await asyncio.to_thread(link.look)
        own: list[IPv4Address] = [prefix.ip for prefix in link.prefixes if prefix.ip in subnet]
        routers = [address for address in map(IPv4Address, link.gateways) if address in subnet]
        known: list[IPv4Address] = [*(own if link.is_bridge else ()), *routers]
        if known:
            return known[0]
        claim = await network.claim(GATEWAY, None, None)
        await asyncio.to_thread(claim.release, 0.0)
        return claim.address

    def of(self, address: IPv4Address) -> Lease | None:
        """The lease of such an address; waits for the disk."""
        return next((lease for lease in self._leases() if lease.address == address), None)

    async def give_back(self, address: IPv4Address) -> None:
        """Docker does not need it any more.

        A gateway stays until Docker gives back the pool: a second network on it, refused in the end, gives it back too.
        """
        lease = await asyncio.to_thread(self.of, address)
        if lease is not None and lease.owner == RESERVED:
            await asyncio.to_thread(self._network.tools.leases.release, lease.id, quarantine=0.0)

    async def forget(self) -> None:
        """Docker has no network on this pool any more."""
        for lease in await asyncio.to_thread(self._leases):
            await asyncio.to_thread(self._network.tools.leases.release, lease.id, quarantine=0.0)

    def _leases(self) -> list[Lease]:
        pool = self._network.pool
        known = self._network.tools.leases.leases(pool.interface, states=(LeaseState.BOUND,))
        return [lease for lease in known if not lease.mac and lease.address in pool.subnet]
