"""Claims that arpipam-run asks the agent for: they last as long as it stays connected, or once bound, the container."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from arpipam.errors import LinkError
from arpipam.protocol.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from arpipam.claim import Claim, ClaimState
    from launcher.agent.network.network import Network


@dataclass(frozen=True)
class ClaimWish:
    """What arpipam-run asks for; None and empty: as the agent's settings for that network say."""

    interface: str
    owner: str
    subnet: str | None = None
    address: str | None = None
    mac: str | None = None
    exclude: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()
    order: str | None = None
    timing: str | None = None
    alone: bool = False
    miss_probability: float | None = None

    def options(self, usual: Mapping[str, Any]) -> dict[str, Any]:
        """The allocator's options that differ from the `usual` ones of the network."""
        said: dict[str, Any] = {}
        if self.ranges or self.address is not None:
            said["ranges"] = self.ranges
        if self.exclude:
            said["exclude"] = (*usual["exclude"], *self.exclude)
        for name in ("order", "timing", "miss_probability"):
            if getattr(self, name) is not None:
                said[name] = getattr(self, name)
        if self.alone:
            said |= {"alone": True, "witnesses": self.witnesses}
        elif self.witnesses:
            said["witnesses"] = (*usual["witnesses"], *self.witnesses)
        return said


class Lending:
    """The claims of one network for arpipam-run whose containers are not known yet."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._claims: dict[IPv4Address, Claim] = {}

    def __contains__(self, address: IPv4Address | None) -> bool:
        return address in self._claims

    def to(self, mac: str, address: IPv4Address) -> Claim | None:
        """The claim whose container Docker starts now."""
        claim = self._claims.get(address)
        return claim if claim is not None and claim.mac == mac else None

    async def lend(self, wish: ClaimWish) -> Claim:
        """Claim an address: a ready one where nothing special is wanted."""
        network = self._network
        address = None if wish.address is None else IPv4Address(wish.address)
        options = wish.options(network.options())
        claim = None
        if address is None and wish.mac is None and not options.keys() - {"exclude"}:
            claim = await network.ready.take(Pool(network.pool.subnet, exclude=wish.exclude))
        if claim is None:
            claim = await network.claim(wish.owner, address, wish.mac, **options)
        else:
            try:
                claim.lease = await asyncio.to_thread(network.tools.leases.set_owner, claim.lease.id, wish.owner)
            except BaseException:
                await asyncio.to_thread(claim.release, network.tools.config.agent.quarantine)
                raise
        self._claims[claim.address] = claim
        network.tell("claimed", address=str(claim.address), mac=claim.mac, owner=wish.owner)
        return claim

    async def bind(self, claim: Claim, container: str) -> None:
        """It is the container's now, and watched as any lease of ours."""
        old, network = claim.lease, self._network
        lease = await asyncio.to_thread(network.tools.leases.hand_out, old.id, old.mac, old.owner, container)
        held = network.held.get(claim.address)
        if held is not None and held.claim is claim:  # Docker has asked us for it already
            claim.lease = lease
        else:
            network.guard_for(claim, lease)
        self._claims.pop(claim.address, None)

    async def release(self, claim: Claim, quarantine: float) -> None:
        """It is not wanted any more."""
        self._claims.pop(claim.address, None)
        self._network.held.pop(claim.address, None)
        self._network.seen.not_mine(claim.mac)
        await asyncio.to_thread(claim.release, quarantine)
        self._network.tell("released", address=str(claim.address), mac=claim.mac, owner=claim.lease.owner)


class AgentClaim:
    """One of them."""

    def __init__(self, network: Network, claim: Claim, elapsed: float) -> None:
        self.elapsed = elapsed
        """Seconds that it took to have it."""
        self.bound = False
        """Whether it belongs to a container."""
        self._network = network
        self._claim = claim

    @property
    def address(self) -> IPv4Address:
        """Of the container."""
        return self._claim.address

    @property
    def prefix(self) -> int:
        """Of its subnet."""
        return self._claim.prefix

    @property
    def mac(self) -> str:
        """The MAC that the container must have."""
        return self._claim.mac

    @property
    def lease_id(self) -> int:
        """Of the record."""
        return self._claim.lease.id

    @property
    def state(self) -> ClaimState:
        """Where it stands."""
        return self._claim.state

    @property
    def conflict(self) -> str | None:
        """The MAC of the station that insists on the address."""
        return self._claim.conflict

    @property
    def failure(self) -> Exception | None:
        """Why the link is lost."""
        return self._claim.failure

    def on_change(self, listener: Callable[[ClaimState], None]) -> None:
        """Call `listener(state)` at each change, on the agent's event loop."""
        loop = asyncio.get_running_loop()

        def changed(state: ClaimState) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(listener, state)

        self._claim.on_change(changed)

    async def bind(self, container: str) -> None:
        """It belongs to this container from now on, and is watched as any lease of the agent's."""
        await self._network.lending.bind(self._claim, container)
        self.bound = True

    async def announce(self) -> None:
        """The container runs: its neighbours shall know."""
        self._claim.announce_soon()
        self._claim.await_owner()

    async def handed_over(self) -> None:
        """The container is known to answer for itself, though that cannot be heard."""
        self._claim.guard()

    async def release(self, quarantine: float) -> None:
        """Give the address back."""
        with suppress(LinkError):
            await self._network.lending.release(self._claim, quarantine)
