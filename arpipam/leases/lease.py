"""A lease, its states, and what a store of leases has to do.

A lease is `claimed` while a living process holds it, `bound` when it belongs to a container and outlives that process,
`quarantined` for a while after its release, and `released` from then on: kept only so that an owner gets the same
address again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from ipaddress import IPv4Address

QUARANTINE = 60.0
"""Default time, in seconds, for which a released address goes to its last owner only."""


class LeaseState(StrEnum):
    """Where a lease stands."""

    CLAIMED = "claimed"
    BOUND = "bound"
    QUARANTINED = "quarantined"
    RELEASED = "released"


ACTIVE = (LeaseState.CLAIMED, LeaseState.BOUND, LeaseState.QUARANTINED)


@dataclass(frozen=True)
class Lease:
    """One lease; times are seconds since 1970."""

    id: int
    interface: str
    address: IPv4Address
    prefix: int
    mac: str
    owner: str
    state: LeaseState
    container: str
    """The container's id, once it is bound."""
    created: float
    changed: float
    until: float
    """The end of the quarantine, by the calendar."""


class LeaseStore(Protocol):
    """The record of leases, as `Allocator`, `Claim` and the agent use it.

    Every method may be called from any thread. What a method changes is durable when it returns. Each method raises
    LeaseError, in one line, where the store cannot be read or written.
    """

    def reserve(
        self, interface: str, address: IPv4Address, prefix: int, mac: str, owner: str, *, rested: bool = True
    ) -> Lease | None:
        """Claim the address for this process; None when it is leased.

        An address in quarantine goes to its last owner only, unless it need not be `rested`.
        """

    def bind(self, lease_id: int, container: str) -> Lease:
        """Note that the lease belongs to a container from now on, and outlives this process.

        Raises LeaseError where the lease is gone, or its address is leased to another.
        """

    def hand_out(self, lease_id: int, mac: str, owner: str, container: str) -> Lease:
        """Give a lease that this process holds to an owner, under another MAC; it outlives this process.

        Raises LeaseError where the lease is neither claimed nor bound.
        """

    def set_owner(self, lease_id: int, owner: str, container: str | None = None) -> Lease:
        """Set another owner, and another container if one is given. MAC and state stay.

        Raises LeaseError where the lease is gone.
        """

    def record(
        self, interface: str, address: IPv4Address, prefix: int, *, mac: str, owner: str, container: str
    ) -> Lease | None:
        """Note that an address belongs to a container, without a claim; None when it is leased to another."""

    def release(self, lease_id: int, *, quarantine: float = QUARANTINE) -> None:
        """End the lease; for `quarantine` seconds the address goes to its owner only. A lease that is gone stays so."""

    def forget(self, lease_id: int) -> None:
        """Delete a lease whose address was never announced: it is free at once, and leaves no trace."""

    def get(self, lease_id: int) -> Lease:
        """Return one lease; raises LeaseError where no lease has that number."""

    def leases(self, interface: str | None = None, *, states: Collection[LeaseState] = ACTIVE) -> list[Lease]:
        """Return the leases in these states, by interface and address; quarantines that are over do not count."""

    def last_address(self, interface: str, owner: str) -> IPv4Address | None:
        """Return the address that this owner had last."""

    def holder_fd(self, lease_id: int) -> int:
        """Return a file descriptor that holds the lease as long as any process has it open (subprocess, pass_fds).

        Raises LeaseError where this process does not hold the lease.
        """

    def note_answers(self, interface: str, answers: Mapping[IPv4Address, str]) -> None:
        """Note stations, with their MACs, that have answered a probe just now: no process shall soon probe them."""

    def answered(self, interface: str, within: float) -> dict[IPv4Address, str]:
        """Return the stations that were noted in the last `within` seconds, with their MACs; of this boot only."""

    def held(self, lease_id: int) -> bool:
        """Whether a living process holds the lease."""

    def reap(self, *, quarantine: float = QUARANTINE, keep: Collection[int] = ()) -> list[Lease]:
        """Put claimed leases that no living process holds into quarantine, except those in `keep`; return them."""

    def close(self) -> None:
        """Close the store; what this process holds is held no longer."""
