"""Addresses for Docker's containers: a ready one, or one that is searched for; on disk before Docker hears of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arpipam.claim_state import ClaimState
from arpipam.errors import AddressInUseError, ArpipamError, LinkError, UnknownError
from launcher.agent.contract import EventKind
from launcher.agent.network.held import GRACE, PENDING, LostError, Role
from launcher.agent.network.link import REOPEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address

    from arpipam.leases.lease import Lease
    from arpipam.protocol.policy import Policy
    from launcher.agent.config.keys import NetworkSettings
    from launcher.agent.metrics import How
    from launcher.agent.network.claiming import Claiming
    from launcher.agent.network.held import Held
    from launcher.agent.network.holdings import Holdings
    from launcher.agent.network.link import NetworkLink
    from launcher.agent.network.ready import Ready
    from launcher.agent.network.shared import Tools
    from launcher.agent.network.sticky import Sticky
    from launcher.agent.network.witnesses import RequiredWitnesses

COMING_UP = 40.0  # s from a boot in which a request waits for link and stations; spanning tree may take 35
AGAIN = 0.5  # s between two searches in that time
ENGINE_SHOWS = 5.0  # s that an engine gets to show what runs, after a start of the agent alone
TRIES = 8  # claims that may be lost one after the other while they are handed out


@dataclass
class _Picked:
    """What a container is to get."""

    held: Held
    how: How
    idle_since: float | None = None
    """What to set again where it cannot be handed out."""
    fresh: bool = False
    """Nobody had it: it ends where it cannot be handed out."""
    known: bool = False
    """Whose it is was told already."""


class HandOut:
    """Hands out the addresses of one network."""

    def __init__(
        self,
        link: NetworkLink,
        holdings: Holdings,
        witnesses: RequiredWitnesses,
        claiming: Claiming,
        ready: Ready,
        *,
        tools: Tools,
        sticky: Sticky,
        settings: Callable[[], NetworkSettings],
        policy: Callable[[], Policy],
        tell: Callable[..., None],
    ) -> None:
        self._interface = link.interface
        self._metrics = tools.metrics
        self._containers = tools.containers
        self._now = tools.edges.monotonic
        self._link = link
        self._holdings = holdings
        self._witnesses = witnesses
        self._claiming = claiming
        self._ready = ready
        self._sticky = sticky
        self._settings = settings
        self._policy = policy
        self._tell = tell
        self._up_by = float("-inf")

    def boot(self) -> None:
        """Agent or engine has started: what a search needs may come up yet."""
        self._up_by = self._now() + COMING_UP

    async def give(self, mac: str, address: IPv4Address | None, *, patient: bool = True) -> Lease:
        """An address for a container that has this MAC: a ready one, or the given one if nobody has it.

        A lease of ours whose container does not run waits for nothing, not even for the link. `patient`: a refusal is
        the last word on it, see claiming.py.
        """
        started = self._now()
        left = TRIES
        while True:
            left -= 1
            await self._holdings.wait_until_released(address)  # `docker rm`, and `docker run --ip` at its heels
            how: How = "search" if address is None else "given"
            lease = await self._unheld(mac, address)
            if lease is None:
                picked = await self._pick(mac, address, patient=patient)
                how = picked.how
                try:
                    lease = await self._give(picked, mac)
                except LostError:  # another station got it meanwhile
                    if left <= 0:
                        raise
                    continue
                except LinkError:  # it is gone; a lease that was ours before is ours on disk
                    if picked.fresh or left <= 0:
                        raise
                    continue
            self._containers.given(self._interface, lease.address, self._now())
            elapsed = self._now() - started
            self._metrics.claimed(how, elapsed)
            self._tell(
                EventKind.HANDED_OUT, address=str(lease.address), mac=mac, text=f"{how}, {elapsed * 1000:.1f} ms"
            )
            self._tell_of_twin(mac, lease)
            return lease

    async def _pick(self, mac: str, address: IPv4Address | None, *, patient: bool) -> _Picked:
        how: How = "search" if address is None else "given"
        held = self._repeated(mac, address) or await self._own(mac, address)
        if held is not None and held.is_lost:  # the wire has to be asked again
            await self._holdings.end(held)
        elif held is not None:  # nobody else decides over it from this moment
            idle_since, held.idle_since, held.given = held.idle_since, None, self._now()
            return _Picked(held, how, idle_since, known=held.lease.mac == mac)
        lent = self._holdings.get(address)
        if lent is not None and lent.role is Role.LENT and lent.lease.mac == mac and lent.is_defended:
            return _Picked(lent, how, known=True)
        if address is None and self._settings().order == "sticky" and (again := await self._its_last(mac)) is not None:
            return again
        self._ready.demand()
        if address is None and (held := self._ready.take()) is not None:
            return _Picked(held, "ready", fresh=True)
        return _Picked(await self._searched(mac, address, patient=patient), how, fresh=True)

    async def _searched(self, mac: str, address: IPv4Address | None, *, patient: bool) -> Held:
        """At boot Docker starts containers while links and stations come up, and never again: let it wait for them.

        A station that is silent, a switch port that does not forward yet, no station at all: a search that lacks
        something that it needs is made again until the time is over.
        """
        while True:
            await self._come_up()
            try:
                if address is not None:
                    return await self._named(mac, address)
                return self._ready.take() or await self._claiming.any(PENDING, mac, patient=patient)
            except (UnknownError, LinkError):
                if self._now() >= self._up_by:
                    raise
            await asyncio.sleep(AGAIN)

    async def _named(self, mac: str, address: IPv4Address) -> Held:
        await self._claiming.make_way(address)
        return self._ready.take_named(address) or await self._claiming.named(
            PENDING, address, mac, patient=True, ranges=(), exclude=()
        )

    async def _its_last(self, mac: str) -> _Picked | None:
        """The address that the container had last, where it is known which one that is, and if it is free."""
        known = await self._sticky.last()
        if known is None or not self._is_whole():
            return None
        name, address = known
        held = self._holdings.get(address)
        if held is not None and held.role is Role.DOCKER:  # Docker gave it back a moment ago
            if held.idle_since is None or held.lease.owner != name or not held.is_defended:
                return None
            idle_since, held.idle_since, held.given = held.idle_since, None, self._now()
            return _Picked(held, "given", idle_since)
        if (held := self._ready.take_named(address)) is not None:
            return _Picked(held, "ready", fresh=True)
        try:
            return _Picked(await self._claiming.any(name, mac), "search", fresh=True)
        except ArpipamError:
            return None  # whatever is the matter, the usual way says it

    async def _give(self, picked: _Picked, mac: str) -> Lease:
        held = picked.held
        owner, container = PENDING, PENDING
        if picked.known:
            owner, container = held.lease.owner, held.lease.container or PENDING
        try:
            await self._claiming.look_again(held)
            lease = await self._holdings.hand_out(
                held, mac, owner, container, self._policy(), catch_up=self._link.catch_up
            )
        except BaseException:
            if picked.fresh:
                await self._holdings.end(held)
            elif held.idle_since is None:
                held.idle_since = picked.idle_since
            raise
        held.given, held.kept, held.idle_since = self._now(), False, None
        if self._link.audible:
            held.claim.ask_owner()
        return lease

    async def _come_up(self) -> None:
        while self._now() < self._up_by:
            if self._is_whole():
                return
            await asyncio.sleep(REOPEN / 5)

    def _is_whole(self) -> bool:
        return self._link.opened.is_set() and not self._witnesses.silent()

    def _repeated(self, mac: str, address: IPv4Address | None) -> Held | None:
        """What the same request was given by an agent that ended before Docker had its answer: Docker repeats it.

        What this one gives, and Docker does not get, is taken back. So another request with the same MAC is that of
        another container.
        """
        held = self._holdings.by_mac(mac)
        if held is None or held.role is not Role.DOCKER or held.idle_since is not None or held.given is not None:
            return None
        fresh = held.lease.container == PENDING and self._now() - held.changed < GRACE
        return held if fresh and address in {None, held.address} else None

    def _tell_of_twin(self, mac: str, lease: Lease) -> None:
        """Two containers with one MAC get two addresses, but the link cannot tell the two apart."""
        for held in self._holdings.of_mac(mac):
            if held.address != lease.address and held.role is Role.DOCKER and held.idle_since is None:
                whose = "a container that is being started" if held.lease.container == PENDING else held.lease.owner
                text = f"{mac} is the MAC of {whose} ({held.address}) too: give each container its own --mac-address"
                self._tell(EventKind.SAME_MAC, address=str(lease.address), mac=mac, text=text)

    async def _own(self, mac: str, address: IPv4Address | None) -> Held | None:
        """A lease of ours for the address, if its container does not run; AddressInUseError if it does.

        Where no address is named: that of a container which the MAC tells, if it does not run.
        """
        held = self._holdings.by_mac(mac) if address is None else self._holdings.get(address)
        if held is None or held.role is not Role.DOCKER:
            return None
        if address is None:
            return held if held.idle_since is not None or self._is_stopped(held.lease, held) else None
        # Arpipam-run's, which has told us of it already; or what an agent before this one has given, see `_repeated`.
        starting = held.lease.mac == mac and held.given is None and not self._containers.attached(held.lease)
        if held.idle_since is None and not starting:
            await self._check_stopped(held.lease, held)
        return held

    async def _unheld(self, mac: str, address: IPv4Address | None) -> Lease | None:
        """The same while the link is closed, so that nobody answers for it: it is handed out on disk alone.

        It is claimed and looked at once the link is open.
        """
        while not self._link.is_open:
            leases = await self._holdings.recorded(with_mac=True)
            known = (lease for lease in leases if (lease.mac == mac if address is None else lease.address == address))
            if (lease := next(known, None)) is None:
                break
            if address is None and not self._is_stopped(lease):
                break
            if lease.mac != mac or self._containers.was_given(lease) or self._containers.attached(lease):
                await self._check_stopped(lease)
            if (handed := await self._holdings.hand_out_unheld(lease, mac)) is not None:
                return handed
            await asyncio.sleep(REOPEN / 20)  # the link is about to be open
        return None

    async def _check_stopped(self, lease: Lease, held: Held | None = None) -> None:
        """Raise AddressInUseError where the container that has the lease may run."""
        until = self._now() + ENGINE_SHOWS
        while self._now() < until:
            if self._containers.is_known or self._containers.was_given(lease):
                break
            await asyncio.sleep(REOPEN / 20)
        if self._is_stopped(lease, held):
            return
        where = f"{self._interface}: {lease.address}"
        if not self._containers.is_known and not self._containers.was_given(lease):
            raise AddressInUseError(
                f"{where} is leased to {lease.owner}, and the engine does not say whether that runs; try again"
            )
        whose = "a container that is being started" if lease.container == PENDING else lease.owner
        raise AddressInUseError(f"{where} belongs to {whose} on this host; take another")

    def _is_stopped(self, lease: Lease, held: Held | None = None) -> bool:
        """Whether the container that has the lease is known not to run."""
        answers = held is not None and held.claim.state is ClaimState.GUARDED
        return self._containers.stopped(lease) and not (answers and self._containers.is_starting)
