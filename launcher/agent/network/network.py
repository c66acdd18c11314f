"""One network of the agent: a pool of addresses on a link, and the claims that this host holds there.

Here its parts are put together, and what they tell is passed on. All methods are for the agent's event loop; what waits
for the kernel, the disk or the wire does so elsewhere.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from arpipam.claim_state import ClaimState
from arpipam.errors import LinkError
from arpipam.protocol.policy import Policy
from arpipam.protocol.timing import RFC5227
from launcher.agent.contract import EventKind
from launcher.agent.network.claiming import Claiming
from launcher.agent.network.company import Company
from launcher.agent.network.dhcp import DhcpWatch
from launcher.agent.network.gaps import Gaps
from launcher.agent.network.hand_out import HandOut
from launcher.agent.network.held import Role
from launcher.agent.network.holdings import Holdings
from launcher.agent.network.lending import Lending
from launcher.agent.network.link import NetworkLink
from launcher.agent.network.made import Made
from launcher.agent.network.promises import Promises
from launcher.agent.network.ready import PART, Ready
from launcher.agent.network.reserved import Reserved
from launcher.agent.network.search import AddressSearch
from launcher.agent.network.sightings import Sightings
from launcher.agent.network.sticky import Sticky
from launcher.agent.network.witnesses import RequiredWitnesses
from launcher.agent.supervise import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address

    from arpipam.allocator import Allocator
    from arpipam.claim import Conflict
    from launcher.agent.config.keys import NetworkSettings
    from launcher.agent.contract import Failure
    from launcher.agent.network.held import Held
    from launcher.agent.network.shared import Tools
    from launcher.agent.pools import DockerPool

POLICIES = {"defend": Policy.ALWAYS, "report": Policy.REPORT, "move": Policy.REPORT}
BURST = 100  # claims that are announced at one go after a cut
LINK = "link"
"""The link's name among the failures."""


class Network:
    """A pool under `settings`, opened by `run`."""

    def __init__(self, pool_id: str, settings: NetworkSettings, tools: Tools, loop: asyncio.AbstractEventLoop) -> None:
        self.pool_id = pool_id
        self.settings = settings
        self.tools = tools
        pool = self.pool
        self.interface, self.subnet = pool.interface, pool.subnet
        self.on_conflict: Callable[[Network, Held, Conflict], None] = lambda *_: None
        self.on_link: Callable[[str, str, str], None] = lambda *_: None
        """Told of an event, the interface and a text, when the link goes down, and when it is up again."""
        self._told_down = False
        self._loop = loop
        edges = tools.edges
        self._kept: tuple[str, ...] = ()
        self._filling: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
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
            is_container=tools.is_container,
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
        self.promises = Promises()
        self.search = AddressSearch(
            self.link,
            self.witnesses,
            self.sightings,
            self.options,
            tools.metrics.judged,
            promises=self.promises,
            edges=edges,
        )
        self.ready = Ready(
            self.holdings,
            self.search,
            self.witnesses,
            self.sightings,
            self.supervisor,
            promises=self.promises,
            settings=lambda: self.settings,
            tell=self.tell,
            edges=edges,
        )
        self.claiming = Claiming(
            self.holdings, self.witnesses, self.search, self.ready, self.promises, edges=edges, options=self.options
        )
        self.hand_out = HandOut(
            self.link,
            self.holdings,
            self.witnesses,
            self.claiming,
            self.ready,
            tools=tools,
            sticky=Sticky(
                pool.interface, pool.subnet, tools.containers, self.holdings, store=tools.leases, edges=edges
            ),
            settings=lambda: self.settings,
            policy=self._policy,
            tell=self.tell,
        )
        self._company = Company(self.sightings, lambda: not self.witnesses.names and not self.settings.alone)
        self.gaps = Gaps(tell=self.tell, over=self.ready.look_again, soon=self.soon, edges=edges)
        self.dhcp = DhcpWatch(
            pool.subnet,
            usual=self._usual,
            keeps_out=lambda: self.settings.avoids_dhcp,
            let_go=self.ready.let_go,
            tell=self.tell,
            edges=edges,
        )
        self.lending = Lending(
            pool.subnet,
            self.link,
            self.holdings,
            self.claiming,
            self.ready,
            options=self.options,
            policy=self._policy,
            tell=self.tell,
        )
        self.made = Made(pool.interface, self.tell, edges)
        self.reserved = Reserved(
            pool.interface, pool.subnet, self.holdings, self.search, options=self.options, edges=edges
        )

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
        if fix := await self.tools.edges.in_thread(allocator.link.fix_mac):
            text = f"the MAC of {self.interface} is that of a port, and changes as containers come and go; {fix}"
            self.tell(EventKind.FLOATING_MAC, text=text)
        self.witnesses.ask(allocator)
        allocator.loop.follow(lambda: self.witnesses.moved(allocator))
        allocator.loop.follow(lambda: self._company.moved(allocator))
        self.gaps.watch(allocator)
        self._looking = asyncio.create_task(self._company.run(allocator))
        allocator.look_again()  # a station that took an address of ours meanwhile answers
        self.dhcp.open(self.interface)
        self.supervisor.works(LINK)
        self._filling = asyncio.create_task(self.supervisor.run(PART, self._fill))
        return f"{self.holdings.count(Role.DOCKER)} leases defended"

    async def closing(self) -> None:
        """The link is gone: what was handed out stays on disk, what is ready ends."""
        filling, self._filling = self._filling, None
        if filling is not None:
            filling.cancel()
            await asyncio.wait([filling])
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self.ready.close()
        self.gaps.stop()
        self.dhcp.close()
        self.witnesses.stop()
        self.holdings.link_lost()

    async def _fill(self) -> None:
        await self.link.opened.wait()
        await self.ready.run()

    async def _allocator(self) -> Allocator:
        declared = await self.tools.edges.in_thread(self.tools.declared.of, self.pool, self.settings)
        self.witnesses.names, self._kept = declared.required, declared.kept
        rate, store = self.settings.rate, self.tools.leases
        return self.tools.edges.allocator(self.interface, rate=rate, store=store, **self._usual())

    async def configure(self, settings: NetworkSettings) -> None:
        """Go on under other settings, without letting go of anything."""
        declared = await self.tools.edges.in_thread(self.tools.declared.of, self.pool, settings)
        self.witnesses.names, self._kept = declared.required, declared.kept
        self.settings = settings
        self.dhcp.keep_out()
        for held in self.holdings.of(Role.DOCKER):
            held.claim.set_policy(self._policy())
        if self.link.is_open:
            self.witnesses.ask(self.link.allocator)

    def options(self) -> dict[str, Any]:
        """What a search is told: the usual, and what DHCP servers give out by now, where that is excluded."""
        usual = self._usual()
        return usual | {"exclude": (*usual["exclude"], *self.dhcp.excluded())}

    def _usual(self) -> dict[str, Any]:
        """What an allocator is told: the settings, Docker's range, the witnesses."""
        settings, pool = self.settings, self.pool
        names = self.witnesses.names
        return {
            "subnet": pool.subnet,
            "ranges": (str(pool.ranges),) if pool.ranges else settings.ranges,
            "exclude": (*settings.excluded_spans, *self._kept),
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

    # The way back.

    async def take_back(self, address: IPv4Address) -> None:
        """Docker does not need it any more. We answer for it until it is known that no stopped container keeps it."""
        self.tools.containers.released(self.interface, address)
        held = self.holdings.get(address)
        if held is None or held.role is not Role.DOCKER:
            await self.reserved.release(address)
        elif held.leaving:  # to answer for it now would be to take it from the station that uses it
            await self.end(held)
        else:
            held.idle_since = self.tools.edges.monotonic()
            with suppress(LinkError):
                held.claim.take_over()
            self.tell(EventKind.TAKEN_OVER, address=str(address), mac=held.lease.mac, owner=held.lease.owner)

    async def end(self, held: Held, kind: str = EventKind.RELEASED, *, quarantine: float | None = None) -> None:
        """Nobody has it any more: it rests for a while, see `Holdings.end`."""
        if held.ending is None:
            await self.holdings.end(held, quarantine)
            self.tell(kind, address=str(held.address), mac=held.lease.mac, owner=held.lease.owner)

    async def end_all(self) -> None:
        """Docker has no network on this pool any more."""
        await self.reserved.forget()
        for held in self.holdings:
            await self.end(held, quarantine=0.0 if held.role is Role.READY else None)  # nobody has used what is ready

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
        if kind == EventKind.LINK_DOWN or (kind == EventKind.LINK_UP and self._told_down):
            self._told_down = kind == EventKind.LINK_DOWN
            self.on_link(kind, self.interface, said.get("text", ""))

    def soon(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call on the event loop, from the driver's thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)
