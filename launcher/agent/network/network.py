"""One network of the agent: a pool of addresses on a link, and the claims that this host holds there.

The link is opened, and opened again whenever it comes back; then every lease is defended before any address is handed
out. All methods are for the agent's event loop; what waits for the kernel, the disk or the wire does so elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from arpipam.claim import ClaimState
from arpipam.errors import AddressInUseError, ArpipamError, LinkError, PoolExhaustedError, UnknownError
from arpipam.leases.lease import LeaseState
from arpipam.protocol.outcome import Verdict
from arpipam.protocol.policy import Policy
from arpipam.protocol.timing import RFC5227
from launcher.agent.network.lending import Lending
from launcher.agent.network.ready import Ready
from launcher.agent.network.reserved import Reserved
from launcher.agent.network.sightings import Seen
from launcher.agent.network.witnesses import Required

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.allocator import Allocator
    from arpipam.claim import Claim, Conflict
    from arpipam.leases.lease import Lease
    from arpipam.link.jobs import Job
    from launcher.agent.config.keys import NetworkSettings
    from launcher.agent.metrics import How
    from launcher.agent.network.shared import Tools
    from launcher.agent.pools import DockerPool

PENDING = "docker"
"""The container of a lease that Docker has been given, as long as it is not known which container that is for."""
POLICIES = {"defend": Policy.ALWAYS, "report": Policy.REPORT, "move": Policy.REPORT}
COMING_UP = 40.0  # s from the start in which a request waits for link and stations; spanning tree may take 35
GIVEN_UP = 3.0  # s after which all hosts have seen that few addresses are left, and given up what they kept ready
REOPEN = 1.0  # s between two tries to open a link
GRACE = 60.0  # s that Docker gets from an address to a container that shows it; a repeated request is told by it too
BURST = 100  # claims that are announced at one go after a cut
_VERDICTS = {AddressInUseError: Verdict.IN_USE, PoolExhaustedError: Verdict.IN_USE}


@dataclass
class Held:
    """A claim of ours, and what the agent knows of its owner."""

    claim: Claim
    idle_since: float | None = None
    """Docker gave it back then (monotonic): it is defended until it is known whether a container still keeps it."""
    given: float | None = None
    """Docker was given it then (monotonic), by this agent."""
    kept: bool = False
    """Docker has given it back since, and a stopped container keeps it."""
    conflict: Conflict | None = None
    conflict_at: float = float("-inf")
    leaving: bool = False
    """Its container leaves it for another one at this moment, since another station uses it."""


class Network:
    """A pool under `settings`, opened by `run`."""

    def __init__(
        self, pool: DockerPool, settings: NetworkSettings, tools: Tools, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.pool = pool
        self.settings = settings
        self.held: dict[IPv4Address, Held] = {}
        self._by_mac: dict[str, Held] = {}
        self._releasing: dict[IPv4Address, asyncio.Event] = {}
        """Addresses that are being released, and what is set when they are."""
        self.lending = Lending(self)
        self.ready = Ready(self)
        self.reserved = Reserved(self)
        self.required = Required(self)
        self.tools = tools
        self.seen = Seen(self)
        self.opened = asyncio.Event()
        """Set while the link is open and all leases are defended."""
        self.reason = "not opened yet"
        self.failed = False
        """Whether the last try to open the link failed."""
        self.audible = True
        """Whether a container's own answers can be heard: a macvlan parent and its children never hear each other."""
        self.on_conflict: Callable[[Network, Held, Conflict], None] = lambda *_: None
        self._loop = loop
        self._born = time.monotonic()
        self._allocator: Allocator | None = None
        self._kept: tuple[str, ...] = ()

    # The link.

    async def run(self) -> None:
        """Keep the link open until cancelled."""
        said = ""
        while True:
            try:
                await self._open()
            except ArpipamError as error:
                self.reason, self.failed = str(error), True
                if self.reason != said:
                    self.tell("link down", text=self.reason)
                said = self.reason
                await asyncio.sleep(REOPEN)
                continue
            self.tell("link up", text=f"{len(self.held)} leases defended")
            said = ""
            filling = asyncio.create_task(self.ready.run())
            try:
                self.reason = str(await asyncio.wrap_future(self.allocator.driver.ended))
                self.tell("link down", text=self.reason)
            finally:
                filling.cancel()
                with suppress(asyncio.CancelledError):
                    await filling
                await self._close()

    async def _open(self) -> None:
        declared = await asyncio.to_thread(self.tools.declared.of, self.pool, self.settings)
        self.required.names, self._kept = declared.required, declared.kept
        allocator = self.tools.edges.allocator(
            self.pool.interface, rate=self.settings.rate, store=self.tools.leases, **self.options()
        )
        await asyncio.to_thread(allocator.__enter__)
        try:
            self.audible = allocator.link.is_bridge
            await asyncio.to_thread(self._adopt_all, allocator)
            await asyncio.to_thread(allocator.driver.watch, self.seen.packet)
            self.required.ask(allocator)
        except BaseException:
            await asyncio.to_thread(allocator.__exit__, None, None, None)
            raise
        self._allocator = allocator  # from now on addresses are handed out
        self.reason, self.failed = "", False
        self.opened.set()

    async def configure(self, settings: NetworkSettings) -> None:
        """Go on under other settings, without letting go of anything."""
        declared = await asyncio.to_thread(self.tools.declared.of, self.pool, settings)
        self.required.names, self._kept = declared.required, declared.kept
        self.settings = settings
        for held in self.held.values():
            held.claim.follow(POLICIES[settings.policy])
        if self._allocator is not None:
            self.required.ask(self._allocator)

    async def _close(self) -> None:
        self.opened.clear()
        allocator, self._allocator = self._allocator, None
        self.required.stop()
        self.held.clear()
        self._by_mac.clear()
        self.seen.nothing_of_ours()
        if allocator is not None:
            await asyncio.to_thread(allocator.__exit__, None, None, None)

    def options(self) -> dict[str, Any]:
        """What an allocator is told: the settings, Docker's range, the witnesses; what was seen of late comes last."""
        settings, pool = self.settings, self.pool
        alone = settings.alone and not self.required.names
        return {
            "subnet": pool.subnet,
            "ranges": (str(pool.ranges),) if pool.ranges else settings.ranges,
            "exclude": (*settings.exclude, *self._kept),
            "order": settings.order,
            "timing": settings.timing,
            "witnesses": tuple(self.required.names),
            "names": self.required.names,
            "alone": alone,
            "miss_probability": settings.miss_probability,
        }

    def _adopt_all(self, allocator: Allocator) -> None:
        """Defend every lease of this network again."""
        for lease in self.tools.leases.leases(self.pool.interface, states=(LeaseState.BOUND,)):
            if lease.mac and lease.address in self.pool.subnet:
                self._keep(allocator.adopt(lease), POLICIES[self.settings.policy])

    @property
    def allocator(self) -> Allocator:
        """The open link; LinkError, saying why, while there is none."""
        if self._allocator is None:
            raise LinkError(f"{self.pool.interface}: no address can be given out or checked now: {self.reason}")
        return self._allocator

    async def announce_all(self) -> None:
        """After a cut: whoever took an address of ours meanwhile shall hear of it now, and so shall we."""
        for _ in range(RFC5227.announce_num):
            claims = [held.claim for held in self.held.values()] + list(self.ready)
            for start in range(0, len(claims), BURST):
                for claim in claims[start : start + BURST]:
                    with suppress(LinkError):
                        claim.announce_soon()
                await asyncio.sleep(0.01)
            await asyncio.sleep(RFC5227.announce_interval)

    # Claims.

    async def claim(self, owner: str, address: IPv4Address | None, mac: str | None, **options: Any) -> Claim:
        """Search, or check the given address, and claim it. Raises as Allocator.claim does."""
        allocator = self.allocator
        if silent := self.required.silent():
            named = options.get("witnesses")
            if named is None or set(named) & silent.keys():
                raise UnknownError(self.required.complaint())
        options = {"avoid": map(IPv4Address, self.seen.remembered()), **options}

        def start() -> Job[Claim]:
            options["known"] = map(IPv4Address, self.seen.lately())
            return allocator.variant(**(self.options() | options)).start_claim(owner, address, mac)

        # A caller may hang up before its job has begun: the thread begins it all the same.
        beginning = asyncio.ensure_future(asyncio.to_thread(start))
        try:
            job = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(partial(_cancel, allocator))
            raise
        judged = self.tools.metrics.judged
        try:
            claim = await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            allocator.cancel(job)
            raise
        except ArpipamError as error:
            if isinstance(error, UnknownError) and not await self.required.whole():
                raise UnknownError(self.required.complaint()) from None  # a cut in the midst of it
            judged(_VERDICTS.get(type(error), Verdict.UNKNOWN))
            raise
        judged(Verdict.FREE)
        self.seen.mine(claim.mac)
        return claim

    async def hand_out(self, mac: str, address: IPv4Address | None) -> Lease:
        """An address for a container that has this MAC: a ready one, or the given one if nobody has it."""
        if not len(self.ready):
            await self._come_up()
        started = time.monotonic()
        how: How = "search" if address is None else "given"
        if address in self._releasing:  # `docker rm`, and `docker run --ip` at its heels
            await self._releasing[address].wait()
        held = self._repeated(mac, address) or self._own(mac, address)
        idle_since = None
        if held is not None:  # nobody else decides over it from this moment
            idle_since, held.idle_since, held.given = held.idle_since, None, time.monotonic()
            claim = held.claim
        elif address is None and (taken := await self.ready.take()) is not None:
            claim, how = taken, "ready"
        elif address is not None and (taken := self.lending.to(mac, address) or await self.ready.take({int(address)})):
            claim = taken
        else:
            claim = await self._claim_for_docker(mac, address)
        try:
            owner, container = PENDING, PENDING
            if address in self.lending or (held is not None and held.claim.mac == mac):  # arpipam-run has told us whose
                owner, container = claim.lease.owner, claim.lease.container or PENDING
            lease = await asyncio.to_thread(self.tools.leases.hand_out, claim.lease.id, mac, owner, container)
        except BaseException:
            if held is not None:
                held.idle_since = idle_since
            elif address not in self.lending:
                await asyncio.to_thread(claim.release, self.tools.config.agent.quarantine)
            raise
        self._keep(claim, POLICIES[self.settings.policy], lease)
        given = self.held[lease.address]
        given.given, given.kept = time.monotonic(), False
        elapsed = time.monotonic() - started
        self.tools.metrics.claimed(how, elapsed)
        self.tell("handed out", address=str(lease.address), mac=mac, text=f"{how}, {elapsed * 1000:.1f} ms")
        return lease

    async def _claim_for_docker(self, mac: str, address: IPv4Address | None) -> Claim:
        """Search, or check the address. A refusal is Docker's last word: where we could not look, we look again."""
        options: dict[str, Any] = {} if address is None else {"ranges": (), "exclude": ()}
        try:
            return await self.claim(PENDING, address, mac, **options)
        except UnknownError:
            if self.required.silent():
                raise
        except PoolExhaustedError:
            await asyncio.sleep(GIVEN_UP)
            if (ready := await self.ready.take()) is not None:
                return ready
        return await self.claim(PENDING, address, mac, **options)

    async def _come_up(self) -> None:
        """At boot Docker starts containers while bridges and tunnels come up, and never again: let it wait for them."""
        until = self._born + COMING_UP
        while time.monotonic() < until:
            if self.opened.is_set() and not self.required.silent():
                return
            await asyncio.sleep(REOPEN / 5)

    def _repeated(self, mac: str, address: IPv4Address | None) -> Held | None:
        """What the same request was answered a moment ago: Docker repeats one whose answer it did not get."""
        held = self._by_mac.get(mac)
        if held is None or held.idle_since is not None or self.held.get(held.claim.address) is not held:
            return None
        lease = held.claim.lease
        fresh = lease.container == PENDING and time.time() - lease.changed < GRACE
        return held if fresh and address in {None, lease.address} else None

    def _own(self, mac: str, address: IPv4Address | None) -> Held | None:
        """A lease of ours for the address, if its container does not run; AddressInUseError if it does."""
        held = None if address is None else self.held.get(address)
        if held is None:
            return None
        lease, ledger = held.claim.lease, self.tools.ledger
        starting = lease.mac == mac and not ledger.attached(lease)  # arpipam-run's, which has told us of it already
        if held.idle_since is None and not starting and not ledger.stopped(held):
            whose = "a container that is being started" if lease.container == PENDING else lease.owner
            raise AddressInUseError(f"{self.pool.interface}: {address} belongs to {whose} on this host; take another")
        return held

    def _keep(self, claim: Claim, policy: Policy, lease: Lease | None = None) -> None:
        """Defend it from now on for whoever has the lease, until that one answers for itself."""
        lease = lease or claim.lease
        held = self.held.get(claim.address)
        self._forget(claim.mac)
        if held is None or held.claim is not claim:
            held = Held(claim)
            claim.on_change(partial(self.soon, self._changed, held))
            claim.on_conflict(partial(self.soon, self._met, held))
        held.idle_since = None
        self.held[claim.address] = self._by_mac[lease.mac] = held
        self.seen.mine(lease.mac)
        claim.hand_out(lease, policy)
        if self.audible:
            claim.await_owner()

    def _forget(self, mac: str) -> None:
        self._by_mac.pop(mac, None)
        self.seen.not_mine(mac)

    def guard_for(self, claim: Claim, lease: Lease) -> None:
        """A claim that was made for somebody else is a container's now."""
        self._keep(claim, POLICIES[self.settings.policy], lease)

    def _changed(self, held: Held, state: ClaimState) -> None:
        claim = held.claim
        if self.held.get(claim.address) is not held:
            return
        if state is ClaimState.GUARDED:
            self.tell("handed over", address=str(claim.address), mac=claim.mac, owner=claim.lease.owner)

    def _met(self, held: Held, conflict: Conflict) -> None:
        held.conflict, held.conflict_at = conflict, time.monotonic()
        self.on_conflict(self, held, conflict)

    async def give_back(self, address: IPv4Address) -> None:
        """Docker does not need it any more. We answer for it until it is known that no stopped container keeps it."""
        held = self.held.get(address)
        if held is not None and held.leaving:  # to answer for it now would be to take it from whoever uses it
            await self.release(address)
        elif held is not None:
            held.idle_since = time.monotonic()
            held.claim.take_over()
            self.tell("taken over", address=str(address), mac=held.claim.mac, owner=held.claim.lease.owner)
        else:
            await self.reserved.give_back(address)

    async def release(self, address: IPv4Address, kind: str = "released") -> None:
        """Nobody has it any more: it rests for a while."""
        held = self.held.pop(address, None)
        if held is None:
            return
        claim = held.claim
        self._forget(claim.lease.mac)
        quarantine = self.tools.config.agent.quarantine
        released = self._releasing[address] = asyncio.Event()
        try:
            if self._allocator is None:
                await asyncio.to_thread(self.tools.leases.release, claim.lease.id, quarantine=quarantine)
            else:
                await asyncio.to_thread(claim.release, quarantine)
        finally:
            del self._releasing[address]
            released.set()
        self.tell(kind, address=str(address), mac=claim.mac, owner=claim.lease.owner)

    def record(self, address: IPv4Address, *, mac: str, owner: str, container: str = PENDING) -> Lease | None:
        """Lease an address without a claim; None where it is leased. Waits for the disk."""
        prefix = self.pool.subnet.prefixlen
        store = self.tools.leases
        return store.record(self.pool.interface, address, prefix, mac=mac, owner=owner, container=container)

    async def adopt(self, address: IPv4Address, mac: str, owner: str, container: str) -> None:
        """A container has an address of ours that we did not know of."""
        allocator = self.allocator

        def record() -> Lease | None:
            known = self.reserved.of(address)  # replayed by the engine before we knew it
            if known is not None:
                return self.tools.leases.hand_out(known.id, mac, owner, container)
            return self.record(address, mac=mac, owner=owner, container=container)

        lease = await asyncio.to_thread(record)
        if lease is not None:
            self._keep(await asyncio.to_thread(allocator.adopt, lease), POLICIES[self.settings.policy])
            self.tell("adopted", address=str(address), mac=mac, owner=owner)

    @property
    def is_open(self) -> bool:
        """Whether the link is open."""
        return self._allocator is not None

    def tell(self, kind: str, **said: str) -> None:
        """Something happened here."""
        self.tools.journal.add(kind, self.pool.interface, **said)

    def soon(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call on the event loop, from the driver's thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)


def _cancel(allocator: Allocator, begun: asyncio.Future[Job[Claim]]) -> None:
    """Nobody waits for this job any more."""
    if not begun.cancelled() and begun.exception() is None:
        allocator.cancel(begun.result())
