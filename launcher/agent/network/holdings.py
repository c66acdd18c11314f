"""Every claim of one network, by address and by MAC: who has it, the one way it ends, the only writer of its lease.

All methods are for the event loop. The lease store and the claims are asked on other threads, one after the other for
each claim, and what was begun is finished even where its caller is cancelled: so this knows what is on disk.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from arpipam.errors import LinkError
from arpipam.leases.lease import LeaseState
from arpipam.protocol import arp
from launcher.agent.network.held import GRACE, PENDING, READY_OWNER, Held, LostError, Role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from ipaddress import IPv4Address, IPv4Network

    from arpipam.claim import Claim, Conflict
    from arpipam.claim_state import ClaimState
    from arpipam.leases.lease import Lease, LeaseStore
    from arpipam.protocol.policy import Policy
    from launcher.agent.edges import Edges

T = TypeVar("T")


async def _at_once() -> None:
    """Nothing to wait for."""


class Holdings:
    """The claims of one network on `interface` and in `subnet`.

    `soon(function, ...)` calls a function on the event loop, from another thread.
    """

    def __init__(
        self,
        interface: str,
        subnet: IPv4Network,
        store: LeaseStore,
        *,
        soon: Callable[..., None],
        edges: Edges,
        quarantine: Callable[[], float],
        is_container: Callable[[str], bool] = lambda _: False,
        on_change: Callable[[Held, ClaimState], None] = lambda *_: None,
        on_conflict: Callable[[Held, Conflict], None] = lambda *_: None,
    ) -> None:
        self._interface = interface
        self._subnet = subnet
        self._store = store
        self._soon = soon
        self._in_thread = edges.in_thread
        self._now = edges.monotonic
        self._calendar = edges.now
        self._quarantine = quarantine
        self._is_container = is_container
        self._on_change = on_change
        self._on_conflict = on_conflict
        self._by_address: dict[IPv4Address, Held] = {}
        self._by_mac: dict[bytes, list[Held]] = {}
        self._ending: dict[IPv4Address, asyncio.Task[None]] = {}
        self._owed: dict[int, float] = {}
        """Leases that have ended and could not be released on disk, with their quarantine."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._of_no_claim = asyncio.Lock()
        """Leases without a claim are ended, or all of them are taken up, but not both at once."""

    # Who has what.

    def get(self, address: IPv4Address | None) -> Held | None:
        """Who has the address."""
        return None if address is None else self._by_address.get(address)

    def by_mac(self, mac: str) -> Held | None:
        """Which one the MAC was given last."""
        known = self._by_mac.get(arp.mac_bytes(mac))
        return known[-1] if known else None

    def of_mac(self, mac: str) -> list[Held]:
        """All that have the MAC."""
        return list(self._by_mac.get(arp.mac_bytes(mac), ()))

    def is_ours(self, mac: bytes) -> bool:
        """Whether a claim of ours has the MAC; from any thread."""
        return mac in self._by_mac

    def has(self, held: Held) -> bool:
        """Whether the claim is still one of ours."""
        return self._by_address.get(held.address) is held

    def of(self, *roles: Role) -> list[Held]:
        """Those with one of the roles, oldest first."""
        return [held for held in self._by_address.values() if held.role in roles]

    def of_claim(self, claim: Claim) -> Held | None:
        """Who has the lease of the claim, also where the link was opened again since."""
        held = self._by_address.get(claim.address)
        return held if held is not None and held.lease.id == claim.lease.id else None

    def count(self, role: Role) -> int:
        """How many have that role."""
        return sum(1 for held in self._by_address.values() if held.role is role)

    def __len__(self) -> int:
        return len(self._by_address)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._by_address.values()))

    # How a claim begins.

    def add(self, claim: Claim, role: Role, policy: Policy | None = None, *, found: bool = False) -> Held:
        """A claim is ours from now on; `found`: its lease was on disk before."""
        now = self._now()
        if (before := self.get(claim.address)) is not None:  # of a link that was closed since
            self._remove(before)
        held = Held(claim, role, claim.lease, changed=now, born=now)
        if found:
            # Its age by the calendar, which may have been set meanwhile: never below zero, and never more than tells
            # apart what Docker was given a moment ago.
            age = min(max(0.0, self._calendar() - claim.lease.changed), 2 * GRACE)
            held.changed, held.born = now - age, float("-inf")
        self._by_address[held.address] = held
        self._index(held)
        claim.on_change(lambda state: self._soon(self._changed, held, state))
        claim.on_conflict(lambda conflict: self._soon(self._met, held, conflict))
        if policy is not None:
            claim.hand_out(held.lease, policy)
        return held

    async def adopt_all(self, adopt: Callable[[Lease], Claim], policy: Policy) -> None:
        """Defend every lease of this network again. `adopt` makes a claim of a lease, and waits."""

        def take_up() -> list[Claim]:
            return [adopt(lease) for lease in self._bound() if lease.mac]

        await self.finish()  # what was begun before the link was gone is on disk then, and is read
        async with self._of_no_claim:
            for claim in await self._in_thread(take_up):
                self.add(claim, Role.DOCKER, policy, found=True)

    async def adopt(
        self,
        adopt: Callable[[Lease], Claim],
        policy: Policy,
        *,
        address: IPv4Address,
        mac: str,
        owner: str,
        container: str,
    ) -> Held | None:
        """A container has an address of ours that no claim is known of; None where it is leased to another."""

        def record() -> Lease | None:
            known = self._of_docker(address)  # replayed by the engine before we knew it
            if known is not None:
                return self._store.hand_out(known.id, mac, owner, container)
            return self._record(address, mac, owner, container)

        async def take_up() -> Held | None:
            async with self._of_no_claim:
                if self.get(address) is not None:
                    return None
                lease = await self._in_thread(record)
                if lease is None:
                    return None
                return self.add(await self._in_thread(adopt, lease), Role.DOCKER, policy)

        return await self._to_its_end(take_up())

    # How it goes on.

    async def hand_out(
        self,
        held: Held,
        mac: str,
        owner: str,
        container: str,
        policy: Policy,
        *,
        catch_up: Callable[[], Awaitable[None]] = _at_once,
    ) -> Lease:
        """It is a container's, which has that MAC: on disk first, then announced.

        `catch_up()` waits until the claim has seen all that has arrived by then. Raises LostError, and ends the claim,
        where another station got the address meanwhile; LeaseError where the lease could not be written, and then
        nothing has changed.
        """

        async def hand_out() -> Lease:
            lease = await self._write(held, mac, owner, container)
            await catch_up()
            if not (held.is_defended and self.has(held)):
                raise LostError(f"{self._interface}: {held.address} was lost while it was handed out; try again")
            held.role = Role.DOCKER
            held.claim.hand_out(lease, policy)
            return lease

        try:
            return await self._to_its_end(hand_out())
        except LostError:
            if held.is_lost:
                await self.end(held)
            raise

    async def bind(self, held: Held, container: str, policy: Policy) -> None:
        """It belongs to this container, which runs or is about to: on disk first. Raises as `hand_out` does."""

        async def bind() -> None:
            lease = await self._write(held, held.lease.mac, held.lease.owner, container)
            if held.role is not Role.DOCKER and held.is_defended:
                held.claim.hand_out(lease, policy)
            held.role = Role.DOCKER

        await self._to_its_end(bind())

    async def set_owner(self, held: Held, owner: str, container: str | None = None) -> bool:
        """It has another owner, and another container if given; False where it was written by another meanwhile."""
        before = held.lease

        async def write() -> bool:
            async with held.lock:
                if held.lease is not before or held.ending is not None:
                    return False
                changed = held.changed
                self._written(held, await self._in_thread(self._store.set_owner, held.lease.id, owner, container))
                held.changed = changed  # it is the same container's: only its name was learnt
            return True

        return await self._to_its_end(write())

    # How it ends.

    async def end(self, held: Held, quarantine: float | None = None) -> None:
        """The one way in which a claim ends: nobody has it from now on, and it rests for `quarantine` seconds.

        A second caller waits for the same end. Raises LeaseError where the disk does not take it; then `settle`
        tries again.
        """
        if held.ending is None:
            rest = self._quarantine() if quarantine is None else quarantine
            held.ending = self._task(self._end(held, rest))
            held.ending.add_done_callback(_seen)
            self._remove(held)
            self._ending[held.address] = held.ending
        await asyncio.shield(held.ending)

    async def _end(self, held: Held, quarantine: float) -> None:
        try:
            async with held.lock:
                await self._in_thread(self._release, held, quarantine)
        except Exception:
            self._owed[held.lease.id] = quarantine
            raise
        finally:
            if self._ending.get(held.address) is held.ending:
                del self._ending[held.address]

    def _release(self, held: Held, quarantine: float) -> None:
        try:
            held.claim.release(quarantine)
        except LinkError:  # nobody defends it any more; its lease ends all the same
            self._store.release(held.lease.id, quarantine=quarantine)

    async def wait_until_released(self, address: IPv4Address | None) -> None:
        """Wait while the address is being released, however that ends."""
        if address is not None and (ending := self._ending.get(address)) is not None:
            await asyncio.wait([ending])

    async def settle(self) -> None:
        """Release what the disk did not take at the time. Raises LeaseError."""

        async def settle() -> None:
            async with self._of_no_claim:
                for lease_id, quarantine in list(self._owed.items()):
                    await self._in_thread(self._store.release, lease_id, quarantine=quarantine)
                    del self._owed[lease_id]

        await self._to_its_end(settle())

    def link_lost(self) -> None:
        """The link is closed: what is Docker's stays on disk, to be taken up when it opens again."""
        for held in self.of(Role.DOCKER):
            self._remove(held)

    async def finish(self) -> None:
        """Wait for everything that is under way, however it ends."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
            await asyncio.sleep(0)  # those that are done leave only then

    # Leases without a claim: addresses that Docker keeps for itself, and those of a link that is gone.

    async def record(self, address: IPv4Address, owner: str) -> Lease | None:
        """Lease an address that is in use rightly and that nobody defends; None where it is leased."""
        return await self._in_thread(self._record, address, "", owner, PENDING)

    async def recorded(self, *, with_mac: bool = False) -> list[Lease]:
        """Those leases; `with_mac`: of containers instead, all of them."""
        bound = await self._in_thread(self._bound)
        return [lease for lease in bound if bool(lease.mac) is with_mac]

    async def on_disk(self, *states: LeaseState) -> list[Lease]:
        """All leases of this network in these states, whoever has them; those that changed first come first."""
        known = await self._in_thread(partial(self._store.leases, self._interface, states=states))
        return sorted((lease for lease in known if lease.address in self._subnet), key=lambda lease: lease.changed)

    async def hand_out_unheld(self, lease: Lease, mac: str) -> Lease | None:
        """Give a lease, of a link that is closed, to the container that starts with it; None where it has a claim."""

        async def hand_out() -> Lease | None:
            async with self._of_no_claim:
                if self.get(lease.address) is not None:
                    return None
                return await self._in_thread(self._store.hand_out, lease.id, mac, lease.owner, lease.container)

        return await self._to_its_end(hand_out())

    async def end_lease(self, lease: Lease, quarantine: float = 0.0) -> bool:
        """End such a lease; False where it has a claim by now, or has ended."""

        def release() -> bool:
            if all(known.id != lease.id for known in self._bound()):
                return False
            self._store.release(lease.id, quarantine=quarantine)
            return True

        async def end() -> bool:
            async with self._of_no_claim:
                return self.get(lease.address) is None and await self._in_thread(release)

        return await self._to_its_end(end())

    # Parts of these.

    def _changed(self, held: Held, state: ClaimState) -> None:
        if self.has(held):
            self._on_change(held, state)

    def _met(self, held: Held, conflict: Conflict) -> None:
        if held.role is Role.DOCKER and self._is_container(conflict.other):
            return  # a container with two interfaces on one link answers by both, for both of its addresses
        if self.has(held):
            held.conflict, held.conflict_at = conflict, self._now()
            self._on_conflict(held, conflict)

    async def _write(self, held: Held, mac: str, owner: str, container: str) -> Lease:
        async with held.lock:
            if held.ending is not None:
                raise LostError(f"{self._interface}: {held.address} is being released; try again")
            lease = await self._in_thread(self._store.hand_out, held.lease.id, mac, owner, container)
            self._written(held, lease)
            return lease

    def _written(self, held: Held, lease: Lease) -> None:
        self._unindex(held)
        held.lease, held.changed = lease, self._now()
        if self.has(held):
            self._index(held)

    def _index(self, held: Held) -> None:
        self._by_mac.setdefault(arp.mac_bytes(held.lease.mac), []).append(held)

    def _unindex(self, held: Held) -> None:
        mac = arp.mac_bytes(held.lease.mac)
        left = [other for other in self._by_mac.get(mac, ()) if other is not held]
        if left:
            self._by_mac[mac] = left
        else:
            self._by_mac.pop(mac, None)

    def _remove(self, held: Held) -> None:
        if self.has(held):
            del self._by_address[held.address]
        self._unindex(held)

    def _bound(self) -> list[Lease]:
        known = self._store.leases(self._interface, states=(LeaseState.BOUND,))
        return [lease for lease in known if lease.address in self._subnet and lease.id not in self._owed]

    def _of_docker(self, address: IPv4Address) -> Lease | None:
        return next((lease for lease in self._bound() if not lease.mac and lease.address == address), None)

    def _record(self, address: IPv4Address, mac: str, owner: str, container: str) -> Lease | None:
        prefix, store = self._subnet.prefixlen, self._store
        lease = store.reserve(self._interface, address, prefix, mac, owner, rested=False)
        if lease is None:
            return None
        try:
            return store.hand_out(lease.id, mac, owner, container)
        except BaseException:  # what was reserved only is nobody's
            self._owed[lease.id] = 0.0
            raise

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for it; it goes on where the caller is cancelled."""
        task = self._task(work)
        task.add_done_callback(_seen)
        return await asyncio.shield(task)


def _seen(task: asyncio.Task[Any]) -> None:
    """The caller may be cancelled by then: asyncio shall not report an error that nobody reads."""
    if not task.cancelled():
        task.exception()


def release_leftovers(store: LeaseStore, quarantine: float) -> None:
    """At the start: end what an agent before us had claimed and nobody defended since. Waits for the disk."""
    for lease in store.leases(states=(LeaseState.CLAIMED,)):
        if lease.owner == READY_OWNER and not store.held(lease.id):
            store.release(lease.id, quarantine=0.0)  # nobody has used it; it has to be probed again
    store.reap(quarantine=quarantine)
