"""What the state machine of one address (acd.py) tells its caller, in the order in which it happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from arpipam.protocol.policy import Decision


@dataclass(frozen=True, slots=True)
class Ready:
    """No station answered for the address: it may be claimed."""


@dataclass(frozen=True, slots=True)
class Used:
    """A station uses the address, so it cannot be claimed."""

    mac: bytes
    round_trip: float | None
    """Seconds from our last probe to the frame that showed it; None where no probe of ours had left."""


@dataclass(frozen=True, slots=True)
class Contended:
    """Another station probes for the address, so neither of us may claim it."""

    mac: bytes


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another station sent a frame from the address that we hold. Each such frame is an event."""

    mac: bytes
    older: bool | None
    """Whether ours is the older of two claims; None where that is not known."""
    decision: Decision


@dataclass(frozen=True, slots=True)
class Defended:
    """An announcement that defends the address has left."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The address is given up because of a conflict."""

    mac: bytes
    """Of the station that uses it."""


@dataclass(frozen=True, slots=True)
class Announced:
    """The last of the announcements that follow a claim, or a request to announce, has left."""


Event: TypeAlias = Ready | Used | Contended | Conflict | Defended | Lost | Announced
