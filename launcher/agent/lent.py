"""Claims that arpipam-run asks the agent for: they last as long as it stays connected, or once bound, the container."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arpipam.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Address

    from arpipam.claim import Claim, ClaimState
    from launcher.agent.network import Network


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


class AgentClaim:
    """One of them."""

    def __init__(self, network: Network, claim: Claim) -> None:
        self._network = network
        self._claim = claim
        self._bound = False

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
    def elapsed(self) -> float:
        """Seconds from the first frame to the verdict."""
        return self._claim.found.elapsed

    @property
    def conflict(self) -> str | None:
        """The MAC of the station that insists on the address."""
        return self._claim.conflict

    @property
    def failure(self) -> Exception | None:
        """Why the link is lost."""
        return self._claim.failure

    @property
    def bound(self) -> bool:
        """Whether it belongs to a container."""
        return self._bound

    def on_change(self, listener: Callable[[ClaimState], None]) -> None:
        """Call `listener(state)` at each change, on the agent's event loop."""
        loop = asyncio.get_running_loop()

        def changed(state: ClaimState) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(listener, state)

        self._claim.on_change(changed)

    async def bind(self, container: str) -> None:
        """It belongs to this container from now on, and is watched as any lease of the agent's."""
        lease = self._claim.lease
        lease = await asyncio.to_thread(
            self._network.tools.leases.hand_out, lease.id, lease.mac, lease.owner, container
        )
        self._bound = True
        self._network.take_in(self._claim, lease)

    async def announce(self) -> None:
        """The container runs: its neighbours shall know."""
        await asyncio.to_thread(self._claim.announce)

    async def handed_over(self) -> None:
        """The container is known to answer for itself, though that cannot be heard."""
        self._claim.guard()

    async def release(self, quarantine: float) -> None:
        """Give the address back."""
        if self._network.held.pop(self._claim.address, None) is not None:
            self._network.tell("released", address=str(self.address), mac=self.mac, owner=self._claim.lease.owner)
        with suppress(LinkError):
            await asyncio.to_thread(self._claim.release, quarantine)
