"""A lease store in memory: the least that keeps the protocol. It shows that the protocol says all that is needed.

A `Record` stands for the durable part; each `MemoryLeaseStore` on it stands for one process that has it open.
"""

from __future__ import annotations

import os
import select
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from arpipam.errors import LeaseError
from arpipam.leases.lease import ACTIVE, QUARANTINE, Lease, LeaseState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from ipaddress import IPv4Address

    from arpipam.leases.clock import Clock


@dataclass
class Record:
    """What outlives a process."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    leases: dict[int, Lease] = field(default_factory=dict)
    """The last that changed is the last here."""
    ends: dict[int, float] = field(default_factory=dict)
    """When quarantines end, on the clock that is never set."""
    answers: dict[tuple[str, IPv4Address], tuple[str, str, float]] = field(default_factory=dict)
    """MAC, boot, and seconds since that."""
    pipes: dict[int, int] = field(default_factory=dict)
    """The reading end of a pipe for each lease: it hangs up once nobody has the writing end open."""
    count: int = 0


class MemoryLeaseStore:
    """One process's view of a record."""

    def __init__(self, record: Record, clock: Clock) -> None:
        self._record = record
        self._clock = clock
        self._holding: dict[int, int] = {}

    def reserve(
        self, interface: str, address: IPv4Address, prefix: int, mac: str, owner: str, *, rested: bool = True
    ) -> Lease | None:
        with self._record.lock:
            self._end_quarantines()
            for lease in self.leases(interface):
                if lease.address != address:
                    continue
                if lease.state is not LeaseState.QUARANTINED or (rested and lease.owner != owner):
                    return None
                self._change(lease, state=LeaseState.RELEASED)
            self._record.count += 1
            number, now = self._record.count, self._clock.calendar()
            self._record.pipes[number], self._holding[number] = os.pipe()
            lease = Lease(number, interface, address, prefix, mac, owner, LeaseState.CLAIMED, "", now, now, 0.0)
            self._record.leases[number] = lease
            return lease

    def note_answers(self, interface: str, answers: Mapping[IPv4Address, str]) -> None:
        with self._record.lock:
            for address, mac in answers.items():
                self._record.answers[interface, address] = mac, self._clock.boot, self._clock.elapsed()

    def answered(self, interface: str, within: float) -> dict[IPv4Address, str]:
        since = self._clock.elapsed() - within
        return {
            address: mac
            for (where, address), (mac, boot, at) in self._record.answers.items()
            if where == interface and boot == self._clock.boot and at > since
        }

    def bind(self, lease_id: int, container: str) -> Lease:
        with self._record.lock:
            lease = self.get(lease_id)
            active = {(it.interface, it.address) for it in self.leases() if it.id != lease_id}
            if lease.state is LeaseState.RELEASED and (lease.interface, lease.address) in active:
                raise LeaseError(f"lease {lease_id}: {lease.address} was leased to another meanwhile")
            return self._change(lease, state=LeaseState.BOUND, container=container)

    def hand_out(self, lease_id: int, mac: str, owner: str, container: str) -> Lease:
        with self._record.lock:
            lease = self._record.leases.get(lease_id)
            if lease is None or lease.state not in (LeaseState.CLAIMED, LeaseState.BOUND):
                raise LeaseError(f"lease {lease_id} was given back meanwhile; try again")
            self._let_go(lease_id)
            return self._change(lease, state=LeaseState.BOUND, mac=mac, owner=owner, container=container)

    def set_owner(self, lease_id: int, owner: str, container: str | None = None) -> Lease:
        with self._record.lock:
            lease = self.get(lease_id)
            return self._change(lease, owner=owner, container=lease.container if container is None else container)

    def record(
        self, interface: str, address: IPv4Address, prefix: int, *, mac: str, owner: str, container: str
    ) -> Lease | None:
        lease = self.reserve(interface, address, prefix, mac, owner, rested=False)
        return None if lease is None else self.hand_out(lease.id, mac, owner, container)

    def release(self, lease_id: int, *, quarantine: float = QUARANTINE) -> None:
        with self._record.lock:
            lease = self._record.leases.get(lease_id)
            if lease is not None and lease.state is not LeaseState.RELEASED:
                self._rest(lease, quarantine)
            self._let_go(lease_id)

    def forget(self, lease_id: int) -> None:
        with self._record.lock:
            self._record.leases.pop(lease_id, None)
            self._let_go(lease_id)

    def get(self, lease_id: int) -> Lease:
        try:
            return self._record.leases[lease_id]
        except KeyError:
            raise LeaseError(f"the memory has no lease {lease_id}") from None

    def leases(self, interface: str | None = None, *, states: Collection[LeaseState] = ACTIVE) -> list[Lease]:
        with self._record.lock:
            found = [
                lease
                for lease in self._record.leases.values()
                if lease.state in states and interface in {None, lease.interface} and not self._rested(lease)
            ]
        return sorted(found, key=lambda lease: (lease.interface, lease.address, lease.id))

    def last_address(self, interface: str, owner: str) -> IPv4Address | None:
        with self._record.lock:
            had = [it.address for it in self._record.leases.values() if (it.interface, it.owner) == (interface, owner)]
        return had[-1] if had else None

    def holder_fd(self, lease_id: int) -> int:
        try:
            return self._holding[lease_id]
        except KeyError:
            raise LeaseError(f"this process does not hold lease {lease_id}") from None

    def held(self, lease_id: int) -> bool:
        fd = self._record.pipes.get(lease_id)
        if fd is None:
            return False
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return not poll.poll(0)

    def reap(self, *, quarantine: float = QUARANTINE, keep: Collection[int] = ()) -> list[Lease]:
        with self._record.lock:
            self._end_quarantines()
            claimed = self.leases(states=(LeaseState.CLAIMED,))
            return [self._rest(it, quarantine) for it in claimed if it.id not in keep and not self.held(it.id)]

    def close(self) -> None:
        with self._record.lock:
            for lease_id in list(self._holding):
                self._let_go(lease_id)

    def _end_quarantines(self) -> None:
        for lease in list(self._record.leases.values()):
            if self._rested(lease):
                self._record.leases[lease.id] = replace(lease, state=LeaseState.RELEASED)

    def _rested(self, lease: Lease) -> bool:
        return lease.state is LeaseState.QUARANTINED and self._record.ends[lease.id] <= self._clock.elapsed()

    def _rest(self, lease: Lease, seconds: float) -> Lease:
        self._record.ends[lease.id] = self._clock.elapsed() + seconds
        return self._change(lease, state=LeaseState.QUARANTINED, until=self._clock.calendar() + seconds)

    def _change(self, lease: Lease, **changes: object) -> Lease:
        del self._record.leases[lease.id]
        changed = replace(lease, **changes, changed=self._clock.calendar())  # type: ignore[arg-type] # fields of Lease
        self._record.leases[lease.id] = changed
        return changed

    def _let_go(self, lease_id: int) -> None:
        if (fd := self._holding.pop(lease_id, None)) is not None:
            os.close(fd)
