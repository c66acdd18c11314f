"""Addresses that nobody on the network uses: ARP conflict detection (RFC 5227) and allocation over any link.

import arpipam

with arpipam.Allocator("docker0") as allocator:
    claim = allocator.claim("web-1")    # probed, announced, defended, and on disk
    print(claim.address, claim.mac)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from arpipam.aio import AsyncAllocator, AsyncClaim
    from arpipam.allocator import Allocator
    from arpipam.claim import Claim, Conflict
    from arpipam.claim_state import ClaimState
    from arpipam.errors import (
        AddressInUseError,
        ArpipamError,
        InputError,
        LeaseError,
        LinkError,
        PoolExhaustedError,
        UnknownError,
    )
    from arpipam.leases.lease import Lease, LeaseState, LeaseStore
    from arpipam.leases.sqlite import SqliteLeaseStore
    from arpipam.options import SearchOptions
    from arpipam.protocol.outcome import Verdict
    from arpipam.protocol.pool import Pool
    from arpipam.protocol.timing import ADAPTIVE, LAN, RFC5227, Timing
    from arpipam.results import Found, Probed, Station

__all__ = [
    "ADAPTIVE",
    "LAN",
    "RFC5227",
    "AddressInUseError",
    "Allocator",
    "ArpipamError",
    "AsyncAllocator",
    "AsyncClaim",
    "Claim",
    "ClaimState",
    "Conflict",
    "Found",
    "InputError",
    "Lease",
    "LeaseError",
    "LeaseState",
    "LeaseStore",
    "LinkError",
    "Pool",
    "PoolExhaustedError",
    "Probed",
    "SearchOptions",
    "SqliteLeaseStore",
    "Station",
    "Timing",
    "UnknownError",
    "Verdict",
    "__version__",
]

_HOMES = {
    "aio": ("AsyncAllocator", "AsyncClaim"),
    "allocator": ("Allocator",),
    "claim": ("Claim", "Conflict"),
    "claim_state": ("ClaimState",),
    "errors": (
        *("AddressInUseError", "ArpipamError", "InputError", "LeaseError", "LinkError", "PoolExhaustedError"),
        "UnknownError",
    ),
    "leases.lease": ("Lease", "LeaseState", "LeaseStore"),
    "leases.sqlite": ("SqliteLeaseStore",),
    "options": ("SearchOptions",),
    "protocol.pool": ("Pool",),
    "protocol.outcome": ("Verdict",),
    "protocol.timing": ("ADAPTIVE", "LAN", "RFC5227", "Timing"),
    "results": ("Found", "Probed", "Station"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a name's module when it is first used: --help and bad usage need none of them."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - takes 20 ms, which --help need not wait for

        return version("arpipam")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
