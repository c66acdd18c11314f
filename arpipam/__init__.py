"""Addresses that nobody on the network uses: ARP conflict detection (RFC 5227) and allocation over any link.

import arpipam

with arpipam.Allocator("docker0") as allocator:
    claim = allocator.claim("web-1")    # probed, announced, defended, and on disk
    print(claim.address, claim.mac)
"""

from arpipam.allocator import Allocator, AsyncAllocator
from arpipam.claim import Claim, ClaimState
from arpipam.errors import (
    AddressInUseError,
    ArpipamError,
    InputError,
    LeaseError,
    LinkError,
    PoolExhaustedError,
    UnknownError,
)
from arpipam.leases import Lease, LeaseStore, SqliteLeaseStore
from arpipam.pool import Pool
from arpipam.results import Found, Probed, Station
from arpipam.timing import ADAPTIVE, LAN, RFC5227, Timing
from arpipam.trial import Verdict

__all__ = [
    "ADAPTIVE",
    "LAN",
    "RFC5227",
    "AddressInUseError",
    "Allocator",
    "ArpipamError",
    "AsyncAllocator",
    "Claim",
    "ClaimState",
    "Found",
    "InputError",
    "Lease",
    "LeaseError",
    "LeaseStore",
    "LinkError",
    "Pool",
    "PoolExhaustedError",
    "Probed",
    "SqliteLeaseStore",
    "Station",
    "Timing",
    "UnknownError",
    "Verdict",
]
