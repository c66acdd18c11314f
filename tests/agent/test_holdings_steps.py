"""Any sequence of steps over the holdings of one network: the disk takes its time, or fails, and the agent is killed.

What holds after each step stands in the invariants; what holds once nothing is under way, in `rest`. docs/agent.md says
the same in words. `ARPIPAM_STEPS=100000` takes that many steps, `ARPIPAM_SEED` the same ones again.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from arpipam.claim_state import ClaimState
from arpipam.errors import ArpipamError, LeaseError, LinkError
from arpipam.leases.lease import LeaseState
from arpipam.protocol import arp
from arpipam.protocol.policy import Policy
from launcher.agent.edges import Edges
from launcher.agent.network.held import PENDING, READY_OWNER, Held, Role
from launcher.agent.network.holdings import Holdings, release_leftovers
from tests.support.leases import Clock, address
from tests.support.machines import STEPS, run_steps
from tests.support.memory_store import MemoryLeaseStore, Record
from tests.support.networks import MACS, SUBNET, FakeClaim

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from arpipam.leases.lease import Lease

MANY_STEPS = 10_000
"""After so many there was a claim with each role."""
ADDRESSES = st.integers(1, 4)
MAC = st.sampled_from(MACS[:3])
ANY = st.integers(0, 99)
SELDOM = st.sampled_from([False, False, False, True])
"""What takes everything away: as often as anything else, there would hardly ever be a claim to try something on."""
ACTIVE = (LeaseState.CLAIMED, LeaseState.BOUND)
DEFENDED = (ClaimState.ANNOUNCING, ClaimState.DEFENDING, ClaimState.GUARDED)


class Disk:
    """Where the store's methods run: each when the test says so, well or not."""

    def __init__(self) -> None:
        self.pending: list[tuple[asyncio.Future[Any], Callable[[], Any]]] = []

    def in_thread(self, function: Callable[..., Any], /, *words: Any, **more: Any) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        self.pending.append((future, lambda: function(*words, **more)))
        return future

    def run(self, which: int) -> None:
        future, function = self.pending.pop(which % len(self.pending))
        try:
            value = function()  # a thread goes on where nobody waits for it any more
        except ArpipamError as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(value)


class Store(MemoryLeaseStore):
    """A store whose disk is full when the test says so, and that counts what it released."""

    full = False

    def __init__(self, record: Record, clock: Clock, released: Counter[int]) -> None:
        super().__init__(record, clock)
        self._released = released

    def _check(self) -> None:
        if self.full:
            raise LeaseError("the disk is full")

    def hand_out(self, lease_id: int, mac: str, owner: str, container: str) -> Lease:
        self._check()
        return super().hand_out(lease_id, mac, owner, container)

    def set_owner(self, lease_id: int, owner: str, container: str | None = None) -> Lease:
        self._check()
        return super().set_owner(lease_id, owner, container)

    def release(self, lease_id: int, *, quarantine: float = 60.0) -> None:
        self._check()
        self._released[lease_id] += 1
        super().release(lease_id, quarantine=quarantine)


class Steps(RuleBasedStateMachine):
    """One agent, killed and started again, on one record."""

    had: ClassVar[Counter[str]] = Counter()
    """After how many steps there was a claim with each role, and after how many none."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.record = Record()
        self.clock = Time()
        self.released: Counter[int] = Counter()
        self.start()
        self.reopen()
        self.rest()

    # The agent around the holdings.

    def start(self) -> None:
        self.store = Store(self.record, self.clock, self.released)
        release_leftovers(self.store, 60.0)
        self.disk = Disk()
        self.claims: list[FakeClaim] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.open = False
        self.cuts = 0
        self.opening: asyncio.Task[None] | None = None
        self.holdings = Holdings(
            "br0",
            SUBNET,
            self.store,
            soon=self.soon,
            edges=Edges(in_thread=self.disk.in_thread, monotonic=lambda: self.clock.now, now=lambda: self.clock.now),
            quarantine=lambda: 60.0,
            on_change=self.changed,
        )

    def changed(self, held: Held, state: ClaimState) -> None:
        if held.role is Role.READY and state in {ClaimState.CONFLICT, ClaimState.LINK_LOST}:
            self.do(self.holdings.end(held))

    def soon(self, function: Callable[..., None], *words: Any) -> None:
        self.loop.call_soon_threadsafe(function, *words)

    def do(self, work: Coroutine[Any, Any, Any]) -> None:
        async def attempt() -> None:
            with suppress(ArpipamError):
                await work

        self.tasks.append(self.loop.create_task(attempt()))

    def turn(self) -> None:
        """Let everything go as far as it can."""
        for _ in range(12):
            self.loop.run_until_complete(asyncio.sleep(0))
        self.tasks = [task for task in self.tasks if not task.done()]
        if self.opening is not None and self.opening.done():
            self.opening.result()
            self.opening, self.open = None, True

    def link(self) -> Callable[[Lease], Any]:
        """Makes claims on the link that is open, or opens, now; not once that is cut."""
        cuts = self.cuts

        def claim_of(lease: Lease) -> FakeClaim:
            if self.cuts != cuts:
                raise LinkError("br0: closed")
            claim = FakeClaim(lease, self.store)
            self.claims.append(claim)
            return claim

        return claim_of

    def pick(self, which: int, *roles: Role) -> Held | None:
        known = self.holdings.of(*roles)
        return known[which % len(known)] if known else None

    def teardown(self) -> None:
        try:
            self.kill()
        finally:
            self.store.close()
            self.loop.close()
            for pipe in self.record.pipes.values():
                os.close(pipe)

    def kill(self) -> None:
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            # Not until they are done: one that is cancelled may wait for a task of its own, which is cancelled next.
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=0))

    # What happens.

    @initialize(lent=st.sets(ADDRESSES), ready=st.sets(ADDRESSES), mac=MAC)
    def begin(self, lent: set[int], ready: set[int], mac: str) -> None:
        """With claims: hypothesis leaves some rules out of each run, and without this one there is little to do."""
        self.claim(lent, mac, ready=False)
        self.claim(ready, mac, ready=True)

    @precondition(lambda self: self.open)
    @rule(numbers=st.sets(ADDRESSES), mac=MAC, ready=st.booleans())
    def claim(self, numbers: set[int], mac: str, *, ready: bool) -> None:
        owner, role = (READY_OWNER, Role.READY) if ready else ("web", Role.LENT)
        for number in sorted(numbers):
            lease = self.store.reserve("br0", address(number), 24, mac, owner, rested=False)
            if lease is not None:
                self.holdings.add(self.link()(lease), role)

    @rule(which=ANY, mac=MAC)
    def hand_out(self, which: int, mac: str) -> None:
        held = self.pick(which, *Role)
        if held is None:
            return
        fresh = held.role is Role.READY
        if fresh:
            held.role = Role.LENT

        async def hand_out() -> None:
            try:
                lease = await self.holdings.hand_out(held, mac, "web", PENDING, Policy.ALWAYS)
                on_disk = self.store.get(lease.id)
                assert (on_disk.mac, on_disk.state) == (mac, LeaseState.BOUND)
            except BaseException:
                if fresh:
                    await self.holdings.end(held)
                raise

        self.do(hand_out())
        self.turn()

    @rule(which=ANY)
    def set_owner(self, which: int) -> None:
        held = self.pick(which, Role.DOCKER)
        if held is not None:
            self.do(self.holdings.set_owner(held, "named", "c1@e1"))
            self.turn()

    @rule(which=ANY)
    def bind(self, which: int) -> None:
        held = self.pick(which, Role.LENT, Role.DOCKER)
        if held is not None:
            self.do(self.holdings.bind(held, "c2@e1", Policy.ALWAYS))
            self.turn()

    @rule(which=ANY)
    def end(self, which: int) -> None:
        """Docker, arpipam-run or the comparison with the engine's view wants it no more."""
        held = self.pick(which, *Role)
        if held is not None:
            self.do(self.holdings.end(held))
            self.turn()

    @rule(which=ANY)
    def lose(self, which: int) -> None:
        held = self.pick(which, *Role)
        if held is not None and held.is_defended:
            held.claim.lose()  # type: ignore[attr-defined]
            self.turn()

    @rule(which=ANY)
    def answer(self, which: int) -> None:
        held = self.pick(which, Role.DOCKER)
        if held is not None and held.is_defended:
            held.claim.guard()

    @rule(number=ADDRESSES)
    def reserve(self, number: int) -> None:
        """Docker names a gateway."""
        self.do(self.holdings.record(address(number), "gateway"))
        self.turn()

    @rule(number=ADDRESSES)
    def end_reserved(self, number: int) -> None:
        async def end() -> None:
            for lease in await self.holdings.recorded():
                if lease.address == address(number):
                    await self.holdings.end_lease(lease)

        self.do(end())
        self.turn()

    @precondition(lambda self: self.open)
    @rule(number=ADDRESSES, mac=MAC)
    def adopt(self, number: int, mac: str) -> None:
        """The engine's view has a container that nobody knew of."""
        self.do(
            self.holdings.adopt(
                self.link(),
                Policy.ALWAYS,
                address=address(number),
                mac=mac,
                owner="found",
                container="c3@e1",
            )
        )
        self.turn()

    @precondition(lambda self: self.disk.pending)
    @rule(which=ANY, full=SELDOM)
    def write(self, which: int, *, full: bool) -> None:
        """The disk comes to one of the things that wait for it."""
        self.store.full = full
        self.disk.run(which)
        self.store.full = False
        self.turn()

    @precondition(lambda self: self.tasks)
    @rule(which=ANY)
    def cancel(self, which: int) -> None:
        """A caller that waits for something hangs up."""
        self.tasks[which % len(self.tasks)].cancel()
        self.turn()

    @rule()
    def settle(self) -> None:
        self.do(self.holdings.settle())
        self.turn()

    @rule(seconds=st.sampled_from([1.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.open)
    @rule(really=SELDOM)
    def cut(self, *, really: bool) -> None:
        if not really:
            return
        self.open = False
        self.cuts += 1
        for claim in self.claims:
            if claim.state in DEFENDED:
                claim.become(ClaimState.LINK_LOST)
        self.turn()
        self.holdings.link_lost()

    @precondition(lambda self: not self.open and self.opening is None)
    @rule()
    def reopen(self) -> None:
        self.opening = self.loop.create_task(self.holdings.adopt_all(self.link(), Policy.ALWAYS))
        self.turn()

    @rule(really=SELDOM)
    def crash(self, *, really: bool) -> None:
        if not really:
            return
        self.kill()
        self.store.close()
        self.start()

    @rule()
    def rest(self) -> None:
        """Everything that is under way comes to its end, and the disk takes what it refused."""
        self.turn()
        while self.disk.pending:
            self.write(0, full=False)
        self.do(self.holdings.settle())
        self.turn()
        while self.disk.pending:
            self.write(0, full=False)
        assert not self.tasks
        ours = {held.lease.id for held in self.holdings}
        for lease in self.record.leases.values():
            if lease.state is LeaseState.CLAIMED:
                assert lease.id in ours  # nothing is left behind
            if self.open and lease.state is LeaseState.BOUND and lease.mac:
                assert lease.id in ours  # what is a container's is defended
        for held in self.holdings:
            assert self.store.get(held.lease.id) == held.lease
            assert held.lease.state in ACTIVE
        for claim in self.claims:
            if claim.state in DEFENDED:
                held_now = self.holdings.of_claim(claim)  # type: ignore[arg-type]
                assert held_now is not None
                assert held_now.claim is claim  # type: ignore[comparison-overlap]

    # What always holds.

    @invariant()
    def its_steps_are_counted(self) -> None:
        self.had.update({held.role.name for held in self.holdings} or {"nothing"})

    @invariant()
    def an_address_has_one_holder(self) -> None:
        defended = Counter(claim.address for claim in self.claims if claim.state in DEFENDED)
        assert all(count == 1 for count in defended.values()), defended
        for held in self.holdings:
            assert self.holdings.get(held.address) is held
            assert held.role in Role
            assert held.ending is None

    @invariant()
    def what_is_handed_out_is_on_disk(self) -> None:
        for held in self.holdings.of(Role.DOCKER):
            if not held.lock.locked():
                on_disk = self.store.get(held.lease.id)
                assert on_disk.state is LeaseState.BOUND
                assert on_disk == held.lease

    @invariant()
    def what_has_ended_is_released_once(self) -> None:
        assert all(count == 1 for count in self.released.values()), self.released
        assert all(claim.released <= 1 for claim in self.claims)

    @invariant()
    def the_macs_are_those_of_the_claims(self) -> None:
        by_mac = self.holdings._by_mac
        assert {(mac, id(held)) for mac, known in by_mac.items() for held in known} == {
            (arp.mac_bytes(held.lease.mac), id(held)) for held in self.holdings
        }
        assert all(by_mac.values())


class Time(Clock):
    """The store's clock, and the holdings'."""

    def calendar(self) -> float:
        return self.now

    elapsed = calendar


@pytest.mark.timeout(max(300, STEPS // 10))
def test_no_order_of_steps_breaks_an_invariant() -> None:
    Steps.had.clear()
    run_steps(Steps)
    print(*Steps.had.most_common(), sep="\n")  # noqa: T201 - what was tried
    if STEPS >= MANY_STEPS:
        assert set(Steps.had) >= {role.name for role in Role}
