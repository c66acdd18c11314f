"""A network of the agent over a link and claims that do what a test says, and a real lease store."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, cast

from arpipam.claim import Conflict
from arpipam.claim_state import ClaimState
from arpipam.errors import AddressInUseError, LinkError, PoolExhaustedError
from arpipam.link.hearing import Hearing
from arpipam.protocol.outcome import Verdict
from arpipam.protocol.pool import Pool
from launcher.agent.config.keys import NetworkSettings
from launcher.agent.edges import Edges
from launcher.agent.journal import Journal
from launcher.agent.memory import Stations
from launcher.agent.network.containers import Containers
from launcher.agent.network.network import Network
from launcher.agent.pools import DockerPool
from launcher.engine.model import AttachedNetwork, Endpoint, EngineView
from tests.support.leases import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Container

    from arpipam.leases.lease import Lease, LeaseStore
    from arpipam.protocol.policy import Policy
    from launcher.agent.contract import Event

SUBNET = IPv4Network("10.0.0.0/24")
MACS = [f"02:5e:00:00:00:{number:02x}" for number in range(1, 255)]
OTHER = MACS[1]
FOREIGN = "02:99:00:00:00:01"
ENGINE = "e1"


class FakeClaim:
    """A claim on a wire that is the test's: it changes when the test says so."""

    def __init__(self, lease: Lease, store: LeaseStore) -> None:
        self.lease = lease
        self.address = lease.address
        self.prefix = lease.prefix
        self.mac = lease.mac
        self.state = ClaimState.DEFENDING
        self.conflict: str | None = None
        self.needs_check = False
        self.policy: Policy | None = None
        self.released = 0
        self._store = store
        self._changes: list[Callable[[ClaimState], None]] = []
        self._conflicts: list[Callable[[Conflict], None]] = []
        self._absences: list[Callable[[str], None]] = []

    def become(self, state: ClaimState) -> None:
        if state is not self.state:
            self.state = state
            for listener in self._changes:
                listener(state)

    def lose(self) -> None:
        """Another station insists on the address."""
        self.conflict = FOREIGN
        for listener in self._conflicts:
            listener(Conflict(self.address, self.mac, FOREIGN, None))
        self.become(ClaimState.CONFLICT)

    def on_change(self, listener: Callable[[ClaimState], None]) -> None:
        self._changes.append(listener)

    def on_conflict(self, listener: Callable[[Conflict], None]) -> None:
        self._conflicts.append(listener)

    def on_absence(self, listener: Callable[[str], None]) -> None:
        self._absences.append(listener)

    def hand_out(self, lease: Lease, policy: Policy) -> None:
        self.lease, self.mac, self.policy = lease, lease.mac, policy
        if self.state is ClaimState.GUARDED:
            self.become(ClaimState.DEFENDING)

    def set_policy(self, policy: Policy) -> None:
        self.policy = policy

    def ask_owner(self) -> None:
        pass

    def announce_soon(self) -> None:
        pass

    def guard(self) -> None:
        if self.state is ClaimState.DEFENDING:
            self.become(ClaimState.GUARDED)

    def take_over(self) -> None:
        if self.state is ClaimState.GUARDED:
            self.become(ClaimState.DEFENDING)

    def release(self, quarantine: float = 60.0) -> None:
        if self.state is not ClaimState.RELEASED:
            if self.state is ClaimState.LINK_LOST:
                raise LinkError("br0: closed")
            self.released += 1
            self.become(ClaimState.RELEASED)
            self._store.release(self.lease.id, quarantine=quarantine)


@dataclass
class FakeLink:
    """The wire behind all allocators of a test; `used` addresses are other stations'."""

    store: LeaseStore
    used: set[IPv4Address] = field(default_factory=set)
    claims: list[FakeClaim] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    """The options of every search, with `address`."""
    checked: list[IPv4Address] = field(default_factory=list)
    """The claimed addresses that were probed again."""
    unknown: Verdict | None = None
    """The verdict on all of them, where it is always the same."""
    refusal: Exception | None = None
    """What every search ends with."""
    opened: int = 0
    closed: int = 0
    ended: Future[object] = field(default_factory=Future)

    def allocator(self, *_: Any, **options: Any) -> FakeAllocator:
        return FakeAllocator(self, options)

    def cut(self) -> None:
        """The link goes away."""
        for claim in self.claims:
            if claim.state is not ClaimState.RELEASED:
                claim.become(ClaimState.LINK_LOST)
        ended, self.ended = self.ended, Future()
        ended.set_result("br0 is down")


class FakeAllocator:
    """As much of an allocator as a network uses."""

    def __init__(self, wire: FakeLink, options: dict[str, Any]) -> None:
        self._wire = wire
        self._options = options
        self.pool = Pool(SUBNET)
        self.own_address = 0
        self.link = SimpleNamespace(
            is_bridge=True,
            local_macs=set(),
            local_addresses=set(),
            mac=b"\2\0\0\0\0\1",
            now=time.monotonic,
            closed="",
            fix_mac=str,
        )
        self.loop = SimpleNamespace(
            ended=wire.ended,
            watch=lambda _: None,
            follow=lambda _: None,
            post=lambda do: do(),
            hearing=Hearing(0.0),
            run=lambda *_: None,
            catch_up=_done,
            dropped=0,
        )

    def __enter__(self) -> Self:
        self._wire.opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.closed += 1

    def adopt(self, lease: Lease) -> FakeClaim:
        claim = FakeClaim(lease, self._wire.store)
        self._wire.claims.append(claim)
        return claim

    def variant(self, **options: Any) -> FakeAllocator:
        return FakeAllocator(self._wire, self._options | options)

    def cancel(self, _: Any) -> None:
        pass

    def look_again(self) -> None:
        pass

    def start_check(self, claim: FakeClaim) -> Any:
        self._wire.checked.append(claim.address)
        future: Future[Any] = Future()
        verdict = self._wire.unknown or (Verdict.IN_USE if claim.address in self._wire.used else Verdict.FREE)
        claim.needs_check &= verdict is not Verdict.FREE
        future.set_result(SimpleNamespace(verdict=verdict, reason="no station answered"))
        return SimpleNamespace(future=future)

    def start_claim(
        self, owner: str, address: IPv4Address | None, mac: str | None, *, promised: Container[int] = ()
    ) -> Any:
        self._wire.searches.append(self._options | {"address": address})
        future: Future[Any] = Future()
        if self._wire.refusal is not None:
            future.set_exception(self._wire.refusal)
            return SimpleNamespace(future=future)
        candidates = [address] if address is not None else list(SUBNET.hosts())
        try:
            for candidate in candidates:
                if candidate in self._wire.used or (address is None and int(candidate) in promised):
                    continue
                number = int(candidate) & 0xFF
                store = self._wire.store
                lease = store.reserve("br0", candidate, 24, mac or MACS[-number], owner, rested=address is None)
                if lease is not None:
                    claim = FakeClaim(lease, store)
                    self._wire.claims.append(claim)
                    future.set_result(claim)
                    break
            else:
                error = PoolExhaustedError if address is None else AddressInUseError
                future.set_exception(error("br0: no address is free"))
        except Exception as error:  # noqa: BLE001 - as the loop hands it over
            future.set_exception(error)
        return SimpleNamespace(future=future)


def _done() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future


@dataclass
class Bench:
    """A network and what lies around it."""

    network: Network
    wire: FakeLink
    containers: Containers
    tools: Any
    now: float = 1000.0
    """Added to the monotonic clock."""

    @property
    def events(self) -> list[Event]:
        return list(self.tools.journal._events)

    def kinds(self) -> list[str]:
        return [str(event.kind) for event in self.events]


def bench(store: LeaseStore, settings: NetworkSettings | None = None, **edges: Any) -> Bench:
    """A network that is not open yet. On the running event loop."""
    wire = FakeLink(store)
    loop = asyncio.get_running_loop()
    pool = DockerPool("br0", SUBNET, count=1)
    containers = Containers("arpipam", lambda: [pool])
    tools: Any = SimpleNamespace(
        leases=store,
        containers=containers,
        config=SimpleNamespace(agent=SimpleNamespace(quarantine=60.0, remember=0.0)),
        metrics=SimpleNamespace(claimed=lambda *_: None, judged=lambda _: None, conflict=lambda _: None),
        memory=SimpleNamespace(of=lambda _: Stations()),
        journal=Journal(time.time),
        declared=SimpleNamespace(of=lambda *_: SimpleNamespace(required={}, kept=())),
        is_container=lambda _: False,
        spawn=lambda work: None if loop.is_closed() else loop.create_task(work),
    )
    made = Bench(cast("Any", None), wire, containers, tools)
    today = Clock().now - made.now
    given = {
        "allocator": wire.allocator,
        "monotonic": lambda: time.monotonic() + made.now,
        "now": lambda: today + made.now,  # by the calendar of the store
    }
    tools.edges = Edges(**cast("Any", given | edges))
    settings = settings or NetworkSettings(ready=0)
    tools.pools = SimpleNamespace(get=lambda _: pool)
    made.network = Network(pool.id, settings, tools, loop)
    return made


@asynccontextmanager
async def opened(store: LeaseStore, settings: NetworkSettings | None = None, **edges: Any) -> AsyncIterator[Bench]:
    """A network that runs, its link open."""
    made = bench(store, settings, **edges)
    task = asyncio.create_task(made.network.run())
    try:
        async with asyncio.timeout(20):
            await made.network.link.opened.wait()
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.network.holdings.finish()


async def soon(condition: Callable[[], Any], what: str) -> None:
    """Wait until it holds."""
    try:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - whatever a test waits for
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"never came: {what}") from None


def seen(*endpoints: Endpoint, at: float, engine: str = ENGINE) -> EngineView:
    """What the engine had then."""
    lan = AttachedNetwork("lan", "arpipam", SUBNET, None, "br0", endpoints)
    return EngineView(at, "20.10", (lan,), engine=engine)


def endpoint(address: IPv4Address, name: str, *, mac: str = "", running: bool = False) -> Endpoint:
    """A container that has, or keeps, the address."""
    return Endpoint("lan", address, mac, f"{name}@{ENGINE}", name, running=running, lease=None)
