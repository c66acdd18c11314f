"""One claim of ours, whom it is for, and its lease as it is on disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from arpipam.claim_state import ClaimState
from arpipam.errors import ArpipamError

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from arpipam.claim import Claim, Conflict
    from arpipam.leases.lease import Lease

PENDING = "docker"
"""The container of a lease that Docker has been given, as long as it is not known which container that is for."""
READY_OWNER = "ready"
"""The owner of the leases of ready addresses."""
GRACE = 60.0
"""Seconds that Docker gets from an address to a container that shows it; a repeated request is known by it too."""
_DEFENDED = (ClaimState.ANNOUNCING, ClaimState.DEFENDING, ClaimState.GUARDED)


class LostError(ArpipamError):
    """The claim was lost while its lease was written."""


class Role(StrEnum):
    """Whom an address is claimed for."""

    READY = "ready"
    """Nobody yet: it waits to be handed out."""
    LENT = "lent"
    """arpipam-run, as long as it is connected."""
    DOCKER = "docker"
    """A container, or Docker for one that is to come."""


@dataclass(eq=False)
class Held:
    """A claim of ours, its lease as it is on disk, and what is known of its owner. Times are monotonic seconds."""

    claim: Claim
    role: Role
    lease: Lease
    changed: float
    """When its lease was written last; for one that was found at the start, as far as the calendar can tell."""
    born: float = float("-inf")
    """When it was claimed; long ago for one that was found at the start."""
    idle_since: float | None = None
    """Docker released it then: it is defended until it is known whether a container still keeps it."""
    given: float | None = None
    """Docker was given it then, by this agent."""
    kept: bool = False
    """Docker has released it since, and a stopped container keeps it."""
    conflict: Conflict | None = None
    conflict_at: float = float("-inf")
    leaving: bool = False
    """Its container leaves it for another one at this moment, since another station uses it."""
    ending: asyncio.Task[None] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Who writes the lease."""

    @property
    def address(self) -> IPv4Address:
        """The address."""
        return self.lease.address

    @property
    def is_defended(self) -> bool:
        """Whether the address is ours on the wire."""
        return self.claim.state in _DEFENDED

    @property
    def is_lost(self) -> bool:
        """Whether another station has it now: only a new look at the wire can make it ours again."""
        return not self.is_defended and self.claim.state is not ClaimState.LINK_LOST
