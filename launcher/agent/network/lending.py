"""Claims that arpipam-run asks the agent for: they last as long as it stays connected, or once bound, the container."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from arpipam.protocol.pool import Pool
from launcher.agent.contract import EventKind
from launcher.agent.network.held import LostError, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Network

    from arpipam.claim import Claim
    from arpipam.protocol.policy import Policy
    from launcher.agent.contract import ClaimRequest
    from launcher.agent.network.claiming import Claiming
    from launcher.agent.network.held import Held
    from launcher.agent.network.holdings import Holdings
    from launcher.agent.network.link import NetworkLink
    from launcher.agent.network.ready import Ready


class Lending:
    """The claims of one network for arpipam-run whose containers are not known yet."""

    def __init__(
        self,
        subnet: IPv4Network,
        link: NetworkLink,
        holdings: Holdings,
        claiming: Claiming,
        ready: Ready,
        *,
        options: Callable[[], Mapping[str, Any]],
        policy: Callable[[], Policy],
        tell: Callable[..., None],
    ) -> None:
        self._subnet = subnet
        self._link = link
        self._holdings = holdings
        self._claiming = claiming
        self._ready = ready
        self._options = options
        self._policy = policy
        self._tell = tell

    async def lend(self, wanted: ClaimRequest) -> Claim:
        """Claim an address: a ready one where nothing special is wanted."""
        address = None if wanted.address is None else IPv4Address(wanted.address)
        options = wanted.options(self._options())
        held = None
        if address is None and wanted.mac is None and not options.keys() - {"exclude"}:
            held = await self._take(wanted)
        if held is None and address is not None:
            held = await self._claiming.named(wanted.owner, address, wanted.mac, **options)
        elif held is None:
            held = await self._claiming.any(wanted.owner, wanted.mac, **options)
        self._tell(EventKind.CLAIMED, address=str(held.address), mac=held.lease.mac, owner=wanted.owner)
        return held.claim

    async def _take(self, wanted: ClaimRequest) -> Held | None:
        self._ready.demand()
        while (held := self._ready.take(Pool(self._subnet, exclude=wanted.exclude))) is not None:
            try:
                named = await self._holdings.set_owner(held, wanted.owner)
                await self._link.catch_up()
            except BaseException:
                await self._holdings.end(held)
                raise
            if named and held.is_defended and not held.claim.needs_check:
                return held
            await self._holdings.end(held)
        return None

    async def bind(self, claim: Claim, container: str) -> None:
        """It is the container's now, and watched as any lease of ours."""
        held = self._holdings.of_claim(claim)
        if held is None:
            raise LostError(f"{claim.address} is not held any more; ask for another address")
        new = held.role is not Role.DOCKER  # else Docker has asked us for it already
        await self._holdings.bind(held, container, self._policy())
        if new and self._link.audible and held.is_defended:
            claim.ask_owner()

    def announce(self, claim: Claim) -> None:
        """The container runs: its neighbours shall know."""
        claim.announce_soon()
        claim.ask_owner()

    def hand_over(self, claim: Claim) -> None:
        """The container is known to answer for itself, though that cannot be heard."""
        claim.guard()

    async def release(self, claim: Claim, quarantine: float) -> None:
        """It is not wanted any more."""
        held = self._holdings.of_claim(claim)
        if held is not None:
            await self._holdings.end(held, quarantine)
            self._tell(EventKind.RELEASED, address=str(held.address), mac=held.lease.mac, owner=held.lease.owner)
