"""One network of the agent: a pool of addresses on a link, and the claims that this host holds there.

Here its parts are put together, and an address is handed out: a ready one, or one that is searched for. All methods
are for the agent's event loop; what waits for the kernel, the disk or the wire does so elsewhere.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arpipam.claim_state import ClaimState
from arpipam.errors import AddressInUseError, LinkError, PoolExhaustedError, UnknownError
from arpipam.protocol.policy import Policy
from arpipam.protocol.timing import RFC5227
from launcher.agent.contract import EventKind
from launcher.agent.network.held import GRACE, PENDING, LostError, Role
from launcher.agent.network.holdings import Holdings
from launcher.agent.network.lending import Lending
from launcher.agent.network.link import REOPEN, NetworkLink
from launcher.agent.network.ready import PART, Ready
from launcher.agent.network.reserved import Reserved
from launcher.agent.network.search import AddressSearch
from launcher.agent.network.sightings import Sightings
from launcher.agent.network.witnesses import RequiredWitnesses
from launcher.agent.supervise import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address

    from arpipam.allocator import Allocator
    from arpipam.claim import Claim, Conflict
    from arpipam.leases.lease import Lease
    from launcher.agent.config.keys import NetworkSettings
    from launcher.agent.contract import Failure
    from launcher.agent.metrics import How
    from launcher.agent.network.held import Held
    from launcher.agent.network.shared import Tools
    from launcher.agent.pools import DockerPool

POLICIES = {"defend": Policy.ALWAYS, "report": Policy.REPORT, "move": Policy.REPORT}
COMING_UP = 40.0  # s from the start in which a request waits for link and stations; spanning tree may take 35
GIVEN_UP = 3.0  # s after which all hosts have seen that few addresses are left, and given up what they kept ready
BURST = 100  # claims that are announced at one go after a cut
TRIES = 8  # claims that may be lost one after the other while they are handed out
LINK = "link"
"""The link's name among the failures."""


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


class Network:
    """A pool under `settings`, opened by `run`."""

    def __init__(self, pool_id: str, settings: NetworkSettings, tools: Tools, loop: asyncio.AbstractEventLoop) -> None:
        self.pool_id = pool_id
        self.settings = settings
        self.tools = tools
        pool = self.pool
        self.interface, self.subnet = pool.interface, pool.subnet
        self.on_conflict: Callable[[Network, Held, Conflict], None] = lambda *_: None
        self._loop = loop
        edges = tools.edges
        self._now = edges.monotonic
        self._born = self._now()
        self._kept: tuple[str, ...] = ()
        self._filling: asyncio.Task[None] | None = None
        self.supervisor = Supervisor(
            edges.now,
            lambda failure, error: tools.journal.failed(failure, error, pool.interface),
            lambda part: tools.journal.works_again(part, pool.interface),
        )
        self.link = NetworkLink(pool.interface, self._allocator, self.tell, edges)
        self.holdings = Holdings(
            pool.interface,
            pool.subnet,
            tools.leases,
            soon=self.soon,
            edges=edges,
            quarantine=lambda: tools.config.agent.quarantine,
            on_change=self._changed,
            on_conflict=self._met,
        )
        self.witnesses = RequiredWitnesses(
            f"{pool.interface}, {pool.subnet}",
            self.link,
            self.holdings,
            tell=self.tell,
            healed=lambda: tools.spawn(self.announce_all()),
            soon=self.soon,
        )
        stations, remember = tools.memory.of(pool.interface), lambda: tools.config.agent.remember
        self.sightings = Sightings(stations, self.link, self.holdings, pool.subnet, remember, edges=edges)
        self.search = AddressSearch(
            self.link, self.witnesses, self.sightings, self.options, tools.metrics.judged, edges=edges
        )
        self.ready = Ready(
            self.holdings,
            self.search,
            self.witnesses,
            self.sightings,
            self.supervisor,
            settings=lambda: self.settings,
            tell=self.tell,
            edges=edges,
        )
        self.lending = Lending(
            pool.subnet,
            self.link,
            self.holdings,
            self.search,
            self.ready,
            options=self.options,
            policy=self._policy,
            tell=self.tell,
        )
        self.reserved = Reserved(pool.subnet, self.link, self.holdings, self.search, edges)

    @property
    def pool(self) -> DockerPool:
        """What Docker says of the pool now."""
        return self.tools.pools.get(self.pool_id)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The parts that do not work now."""
        return self.supervisor.failures

    # The link.

    async def run(self) -> None:
        """Keep the link open until cancelled, whatever fails."""
        await self.supervisor.run(LINK, lambda: self.link.run(self))

    async def opened(self, allocator: Allocator) -> str:
        """The link is open: every lease is defended before any address is handed out."""
        await self.holdings.adopt_all(allocator.adopt, self._policy())
        if self.link.audible:
            for held in self.holdings.of(Role.DOCKER):
                held.claim.ask_owner()
        await self.tools.edges.in_thread(allocator.loop.watch, self.sightings.packet)
        self.witnesses.ask(allocator)
        self.supervisor.works(LINK)
        self._filling = asyncio.create_task(self.supervisor.run(PART, self._fill))
        return f"{self.holdings.count(Role.DOCKER)} leases defended"

    async def closing(self) -> None:
        """The link is gone: what was handed out stays on disk, what is ready ends."""
        filling, self._filling = self._filling, None
        if filling is not None:
            filling.cancel()
            await asyncio.wait([filling])
        await self.ready.close()
        self.witnesses.stop()
        self.holdings.link_lost()

    async def _fill(self) -> None:
        await self.link.opened.wait()
        await self.ready.run()

    async def _allocator(self) -> Allocator:
        declared = await self.tools.edges.in_thread(self.tools.declared.of, self.pool, self.settings)
        self.witnesses.names, self._kept = declared.required, declared.kept
        rate, store = self.settings.rate, self.tools.leases
        return self.tools.edges.allocator(self.interface, rate=rate, store=store, **self.options())

    async def configure(self, settings: NetworkSettings) -> None:
        """Go on under other settings, without letting go of anything."""
        declared = await self.tools.edges.in_thread(self.tools.declared.of, self.pool, settings)
        self.witnesses.names, self._kept = declared.required, declared.kept
        self.settings = settings
        for held in self.holdings.of(Role.DOCKER):
            held.claim.set_policy(self._policy())
        if self.link.is_open:
            self.witnesses.ask(self.link.allocator)

    def options(self) -> dict[str, Any]:
        """What an allocator is told: the settings, Docker's range, the witnesses."""
        settings, pool = self.settings, self.pool
        names = self.witnesses.names
        return {
            "subnet": pool.subnet,
            "ranges": (str(pool.ranges),) if pool.ranges else settings.ranges,
            "exclude": (*settings.exclude, *self._kept),
            "order": settings.order,
            "timing": settings.timing,
            "witnesses": tuple(names),
            "names": names,
            "alone": settings.alone and not names,
            "miss_probability": settings.miss_probability,
        }

    async def announce_all(self) -> None:
        """After a cut: anyone who took an address of ours meanwhile shall hear of it now, and so shall we."""
        for _ in range(RFC5227.announce_num):
            claims = [held.claim for held in self.holdings]
            for start in range(0, len(claims), BURST):
                for claim in claims[start : start + BURST]:
                    with suppress(LinkError):
                        claim.announce_soon()
                await asyncio.sleep(0.01)
            await asyncio.sleep(RFC5227.announce_interval)

    # The hand-out.

    async def hand_out(self, mac: str, address: IPv4Address | None) -> Lease:
        """An address for a container that has this MAC: a ready one, or the given one if nobody has it."""
        if not len(self.ready):
            await self._come_up()
        started = self._now()
        left = TRIES
        while True:
            left -= 1
            await self.holdings.wait_until_released(address)  # `docker rm`, and `docker run --ip` at its heels
            picked = await self._pick(mac, address)
            try:
                lease = await self._give(picked, mac)
            except LostError:  # another station got it meanwhile
                if left <= 0:
                    raise
                continue
            elapsed = self._now() - started
            self.tools.metrics.claimed(picked.how, elapsed)
            self.tell(
                EventKind.HANDED_OUT, address=str(lease.address), mac=mac, text=f"{picked.how}, {elapsed * 1000:.1f} ms"
            )
            return lease

    async def _pick(self, mac: str, address: IPv4Address | None) -> _Picked:
        how: How = "search" if address is None else "given"
        held = self._repeated(mac, address) or self._own(mac, address)
        if held is not None and held.is_lost:  # the wire has to be asked again
            await self.holdings.end(held)
        elif held is not None:  # nobody else decides over it from this moment
            idle_since, held.idle_since, held.given = held.idle_since, None, self._now()
            return _Picked(held, how, idle_since, known=held.lease.mac == mac)
        lent = self.holdings.get(address)
        if lent is not None and lent.role is Role.LENT and lent.lease.mac == mac and lent.is_defended:
            return _Picked(lent, how, known=True)
        self.ready.demand()
        if (held := self.ready.take(None if address is None else {int(address)})) is not None:
            return _Picked(held, "ready" if address is None else how, fresh=True)
        return _Picked(await self._claim_for_docker(mac, address), how, fresh=True)

    async def _give(self, picked: _Picked, mac: str) -> Lease:
        held = picked.held
        owner, container = PENDING, PENDING
        if picked.known:
            owner, container = held.lease.owner, held.lease.container or PENDING
        try:
            lease = await self.holdings.hand_out(
                held, mac, owner, container, self._policy(), catch_up=self.link.catch_up
            )
        except BaseException:
            if picked.fresh:
                await self.holdings.end(held)
            elif held.idle_since is None:
                held.idle_since = picked.idle_since
            raise
        held.given, held.kept, held.idle_since = self._now(), False, None
        if self.link.audible:
            held.claim.ask_owner()
        return lease

    async def _claim_for_docker(self, mac: str, address: IPv4Address | None) -> Held:
        """Search, or check the address. A refusal is Docker's last word: where we could not look, we look again."""
        options: dict[str, Any] = {} if address is None else {"ranges": (), "exclude": ()}
        try:
            return self._lent(await self.search.claim(PENDING, address, mac, **options))
        except UnknownError:
            if self.witnesses.silent():
                raise
        except PoolExhaustedError:
            await asyncio.sleep(GIVEN_UP)
            if (ready := self.ready.take()) is not None:
                return ready
        return self._lent(await self.search.claim(PENDING, address, mac, **options))

    def _lent(self, claim: Claim) -> Held:
        return self.holdings.add(claim, Role.LENT)

    async def _come_up(self) -> None:
        """At boot Docker starts containers while bridges and tunnels come up, and never again: let it wait for them."""
        until = self._born + COMING_UP
        while self._now() < until:
            if self.link.opened.is_set() and not self.witnesses.silent():
                return
            await asyncio.sleep(REOPEN / 5)

    def _repeated(self, mac: str, address: IPv4Address | None) -> Held | None:
        """What the same request was answered a moment ago: Docker repeats one whose answer it did not get."""
        held = self.holdings.by_mac(mac)
        if held is None or held.role is not Role.DOCKER or held.idle_since is not None:
            return None
        fresh = held.lease.container == PENDING and self._now() - held.changed < GRACE
        return held if fresh and address in {None, held.address} else None

    def _own(self, mac: str, address: IPv4Address | None) -> Held | None:
        """A lease of ours for the address, if its container does not run; AddressInUseError if it does."""
        held = self.holdings.get(address)
        if held is None or held.role is not Role.DOCKER:
            return None
        lease, containers = held.lease, self.tools.containers
        starting = lease.mac == mac and not containers.attached(lease)  # arpipam-run's, which has told us of it already
        if held.idle_since is None and not starting and not containers.stopped(held):
            whose = "a container that is being started" if lease.container == PENDING else lease.owner
            raise AddressInUseError(f"{self.interface}: {address} belongs to {whose} on this host; take another")
        return held

    # The way back.

    async def take_back(self, address: IPv4Address) -> None:
        """Docker does not need it any more. We answer for it until it is known that no stopped container keeps it."""
        held = self.holdings.get(address)
        if held is None or held.role is not Role.DOCKER:
            await self.reserved.release(address)
        elif held.leaving:  # to answer for it now would be to take it from the station that uses it
            await self.end(held)
        else:
            held.idle_since = self._now()
            with suppress(LinkError):
                held.claim.take_over()
            self.tell(EventKind.TAKEN_OVER, address=str(address), mac=held.lease.mac, owner=held.lease.owner)

    async def end(self, held: Held, kind: str = EventKind.RELEASED) -> None:
        """Nobody has it any more: it rests for a while."""
        if held.ending is None:
            await self.holdings.end(held)
            self.tell(kind, address=str(held.address), mac=held.lease.mac, owner=held.lease.owner)

    async def end_all(self) -> None:
        """Docker has no network on this pool any more."""
        await self.reserved.forget()
        for held in self.holdings:
            await self.end(held)

    async def adopt(self, address: IPv4Address, mac: str, owner: str, container: str) -> None:
        """A container has an address of ours that we did not know of."""
        adopt = self.link.allocator.adopt
        held = await self.holdings.adopt(
            adopt, self._policy(), address=address, mac=mac, owner=owner, container=container
        )
        if held is not None:
            if self.link.audible:
                held.claim.ask_owner()
            self.tell(EventKind.ADOPTED, address=str(address), mac=mac, owner=owner)

    # What the parts tell.

    def _changed(self, held: Held, state: ClaimState) -> None:
        if held.role is Role.READY:
            self.ready.changed(held, state)
        elif held.role is Role.DOCKER and state is ClaimState.GUARDED:
            self.tell(EventKind.HANDED_OVER, address=str(held.address), mac=held.lease.mac, owner=held.lease.owner)

    def _met(self, held: Held, conflict: Conflict) -> None:
        if held.role is Role.READY:
            self.ready.met(held, conflict)
        elif held.role is Role.DOCKER:
            self.on_conflict(self, held, conflict)

    def _policy(self) -> Policy:
        return POLICIES[self.settings.policy]

    def tell(self, kind: str, **said: str) -> None:
        """Something happened here."""
        self.tools.journal.add(kind, self.interface, **said)

    def soon(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call on the event loop, from the driver's thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)
