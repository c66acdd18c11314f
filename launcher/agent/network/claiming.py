"""How an address that is not ready is claimed for somebody: any one, or the one that is asked for by name.

Who names an address goes before whatever of ours has it for nobody yet, at any stage: a search for an address to keep
ready, one that is being confirmed, one that is being released. Where nothing else is free, what rests goes out again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from arpipam.errors import AddressInUseError, AddressLeasedError, PoolExhaustedError, UnknownError
from arpipam.leases.lease import ACTIVE, LeaseState
from arpipam.protocol.outcome import Verdict
from arpipam.protocol.pool import Pool
from launcher.agent.network.held import PENDING, READY_OWNER, LostError, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Address

    from arpipam.leases.lease import Lease
    from launcher.agent.edges import Edges
    from launcher.agent.network.held import Held
    from launcher.agent.network.holdings import Holdings
    from launcher.agent.network.promises import Promises
    from launcher.agent.network.ready import Ready
    from launcher.agent.network.search import AddressSearch
    from launcher.agent.network.witnesses import RequiredWitnesses

MAKES_WAY = 5.0  # s in which a claim that nobody was given has ended, also on a disk that is slow
GIVEN_UP = 3.0  # s after which all hosts have seen that few addresses are left, and given up what they kept ready
LOOK = 0.1  # s between two looks at that


class Claiming:
    """Claims addresses of one network; what it returns is lent, until the caller has it."""

    def __init__(
        self,
        holdings: Holdings,
        witnesses: RequiredWitnesses,
        search: AddressSearch,
        ready: Ready,
        promises: Promises,
        *,
        edges: Edges,
        options: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._holdings = holdings
        self._witnesses = witnesses
        self._search = search
        self._ready = ready
        self._promises = promises
        self._edges = edges
        self._options = options

    async def named(
        self, owner: str, address: IPv4Address, mac: str | None, *, patient: bool = False, **options: Any
    ) -> Held:
        """The given address; raises as Allocator.claim does. `patient`: see `any`."""
        until = self._edges.monotonic() + MAKES_WAY
        with self._promises.named(address):
            while True:
                await self.make_way(address)
                if (ready := self._ready.take_named(address)) is not None:
                    await self._holdings.end(ready, 0.0)  # it is looked at again, under the MAC that is wanted now
                try:
                    return await self._claim(owner, address, mac, options, patient=patient)
                except AddressLeasedError:
                    if self._edges.monotonic() > until or not await self._is_nobodys(address):
                        raise
                    await asyncio.sleep(LOOK)
                except AddressInUseError as error:
                    former = await self._former(address, error.mac)
                    raise AddressInUseError(f"{error}{former}", error.mac) from None

    async def look_again(self, held: Held) -> None:
        """Probe again what nobody was given yet, if the link could not be heard at some time since it was claimed.

        Raises LostError, and ends the claim, where another station has the address by now.
        """
        if held.role is not Role.DOCKER and await self._search.check(held) is not Verdict.FREE:
            await self._holdings.end(held)
            raise LostError(f"{held.lease.interface}: another station took {held.address} meanwhile; try again")

    async def make_way(self, address: IPv4Address) -> None:
        """Wait until nothing is under way with the address for nobody; if it is ready by then, it may be taken."""
        with self._promises.named(address):
            await self._search.make_way(address)
            await self._ready.confirmed(address)
            await self._holdings.wait_until_released(address)

    async def any(self, owner: str, mac: str | None, *, patient: bool = False, **options: Any) -> Held:
        """The first free one; where there is none, one that rests, if it is free by now: the longest rested first.

        `patient`: a refusal is the last word, as Docker's is. So where we could not look, we look again, and wait for
        what is kept ready for nobody, here and by others, and given up as the addresses run out.
        """
        try:
            return await self._claim(owner, None, mac, options, patient=patient)
        except PoolExhaustedError as error:
            why = error
        until = self._edges.monotonic() + (GIVEN_UP if patient else 0.0)
        looked: set[int] = set()
        while True:
            if patient and (ready := self._ready.take()) is not None:
                return ready
            if (rested := await self._rested(owner, mac, options, looked)) is not None:
                return rested
            if self._edges.monotonic() >= until:
                break
            await asyncio.sleep(LOOK)
        if patient:
            try:
                return await self._claim(owner, None, mac, options)
            except PoolExhaustedError as error:
                why = error
        raise PoolExhaustedError(f"{why}{await self._rests()}") from None

    async def _claim(
        self,
        owner: str,
        address: IPv4Address | None,
        mac: str | None,
        options: Mapping[str, Any],
        *,
        patient: bool = False,
    ) -> Held:
        if owner == PENDING:  # no name: what another one with none gave back rests for this one too
            owner = f"{PENDING}, for {mac}"
        try:
            claim = await self._search.claim(owner, address, mac, **options)
        except UnknownError:
            if not patient or self._witnesses.silent():
                raise
            claim = await self._search.claim(owner, address, mac, **options)
        return self._holdings.add(claim, Role.LENT)

    async def _rested(self, owner: str, mac: str | None, options: Mapping[str, Any], looked: set[int]) -> Held | None:
        """The one of those that rest which was released first and is free by now, of those not `looked` at before."""
        said = {**self._options(), **options}
        pool = Pool(said["subnet"], ranges=said["ranges"], exclude=said["exclude"])
        for lease in await self._holdings.on_disk(LeaseState.QUARANTINED):
            number = int(lease.address)
            if number in looked or number not in pool or number in self._promises:
                continue
            looked.add(number)
            try:
                return await self._claim(owner, lease.address, mac, {**options, "ranges": (), "exclude": ()})
            except AddressInUseError:
                continue
        return None

    async def _rests(self) -> str:
        """When the next address has rested, as a part of a line."""
        resting = await self._holdings.on_disk(LeaseState.QUARANTINED)
        if not resting:
            return ""
        left = min(lease.until for lease in resting) - self._edges.now()
        return f"; {len(resting)} rest after their release, the next one for {max(left, 0.0):.0f} s more"

    async def _is_nobodys(self, address: IPv4Address) -> bool:
        """Whether the lease of the address is one that is kept ready, or about to be: it is on its way out."""
        leases = [lease for lease in await self._holdings.on_disk(*ACTIVE) if lease.address == address]
        return all(lease.state is LeaseState.CLAIMED and lease.owner == READY_OWNER for lease in leases)

    async def _former(self, address: IPv4Address, mac: str | None) -> str:
        """Whose the MAC was, where it was ours, as a part of a line."""
        ended = await self._holdings.on_disk(LeaseState.QUARANTINED, LeaseState.RELEASED) if mac else []
        ours = [lease for lease in ended if lease.address == address and lease.mac == mac]
        return f"; {self._told(ours[-1])}" if ours else ""

    def _told(self, lease: Lease) -> str:
        whose = {PENDING: "a container of this host", READY_OWNER: "this agent"}.get(lease.owner, lease.owner)
        ago = since(self._edges.now() - lease.changed)
        return (
            f"that is the MAC by which {whose} had it until {ago} ago: a router or proxy that has not forgotten it "
            "answers; clear its ARP table, or wait"
        )


def since(seconds: float) -> str:
    """A span of time for a person."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(seconds, 0.0):.0f} s"
