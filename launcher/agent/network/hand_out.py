"""Addresses for Docker's containers: ready ones, or searched for, and on disk before Docker hears of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arpipam.errors import AddressInUseError
from launcher.agent.contract import EventKind
from launcher.agent.network.held import GRACE, PENDING, LostError, Role
from launcher.agent.network.link import REOPEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address

    from arpipam.leases.lease import Lease
    from arpipam.protocol.policy import Policy
    from launcher.agent.metrics import How
    from launcher.agent.network.claiming import Claiming
    from launcher.agent.network.held import Held
    from launcher.agent.network.holdings import Holdings
    from launcher.agent.network.link import NetworkLink
    from launcher.agent.network.ready import Ready
    from launcher.agent.network.shared import Tools
    from launcher.agent.network.witnesses import RequiredWitnesses

COMING_UP = 40.0  # s from the start in which a request waits for link and stations; spanning tree may take 35
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
        self._policy = policy
        self._tell = tell
        self._born = self._now()

    async def give(self, mac: str, address: IPv4Address | None, *, patient: bool = True) -> Lease:
        """An address for a container that has this MAC: a ready one, or the given one if nobody has it.

        `patient`: a refusal is the last word on it, see claiming.py.
        """
        if not len(self._ready):
            await self._come_up()
        started = self._now()
        if address is not None and not self._link.is_open and (lease := await self._unheld(mac, address)) is not None:
            self._tell(EventKind.HANDED_OUT, address=str(address), mac=mac, text="its own; the link is closed")
            return lease
        left = TRIES
        while True:
            left -= 1
            await self._holdings.wait_until_released(address)  # `docker rm`, and `docker run --ip` at its heels
            picked = await self._pick(mac, address, patient=patient)
            try:
                lease = await self._give(picked, mac)
            except LostError:  # another station got it meanwhile
                if left <= 0:
                    raise
                continue
            elapsed = self._now() - started
            self._metrics.claimed(picked.how, elapsed)
            self._tell(
                EventKind.HANDED_OUT, address=str(lease.address), mac=mac, text=f"{picked.how}, {elapsed * 1000:.1f} ms"
            )
            self._tell_of_twin(mac, lease)
            return lease

    async def _pick(self, mac: str, address: IPv4Address | None, *, patient: bool) -> _Picked:
        how: How = "search" if address is None else "given"
        held = self._repeated(mac, address) or self._own(mac, address)
        if held is not None and held.is_lost:  # the wire has to be asked again
            await self._holdings.end(held)
        elif held is not None:  # nobody else decides over it from this moment
            idle_since, held.idle_since, held.given = held.idle_since, None, self._now()
            return _Picked(held, how, idle_since, known=held.lease.mac == mac)
        lent = self._holdings.get(address)
        if lent is not None and lent.role is Role.LENT and lent.lease.mac == mac and lent.is_defended:
            return _Picked(lent, how, known=True)
        self._ready.demand()
        if address is not None:
            return _Picked(await self._named(mac, address), how, fresh=True)
        if (held := self._ready.take()) is not None:
            return _Picked(held, "ready", fresh=True)
        return _Picked(await self._claiming.any(PENDING, mac, patient=patient), how, fresh=True)

    async def _named(self, mac: str, address: IPv4Address) -> Held:
        await self._claiming.make_way(address)
        return self._ready.take_named(address) or await self._claiming.named(
            PENDING, address, mac, patient=True, ranges=(), exclude=()
        )

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
        """At boot Docker starts containers while bridges and tunnels come up, and never again: let it wait for them."""
        until = self._born + COMING_UP
        while self._now() < until:
            if self._link.opened.is_set() and not self._witnesses.silent():
                return
            await asyncio.sleep(REOPEN / 5)

    async def _unheld(self, mac: str, address: IPv4Address) -> Lease | None:
        """A stopped container's own lease where the link is closed: nothing has to be searched."""
        for lease in await self._holdings.recorded(with_mac=True):
            if lease.address == address and self._containers.keeps(lease):
                return await self._holdings.hand_out_unheld(lease, mac)
        return None

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

    def _own(self, mac: str, address: IPv4Address | None) -> Held | None:
        """A lease of ours for the address, if its container does not run; AddressInUseError if it does."""
        held = self._holdings.get(address)
        if held is None or held.role is not Role.DOCKER:
            return None
        lease, containers = held.lease, self._containers
        # Arpipam-run's, which has told us of it already; or what an agent before this one has given, see `_repeated`.
        starting = lease.mac == mac and held.given is None and not containers.attached(lease)
        if held.idle_since is None and not starting and not containers.stopped(held):
            whose = "a container that is being started" if lease.container == PENDING else lease.owner
            raise AddressInUseError(f"{self._interface}: {address} belongs to {whose} on this host; take another")
        return held
