"""The verdict on one address, and what it rests on."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

NO_WITNESS = (
    "no station answered, so silence proves nothing; name one that must answer with --witness ADDRESS, or say --alone "
    "if there is no other"
)


class Verdict(StrEnum):
    """What is known of an address."""

    FREE = "free"
    IN_USE = "in_use"
    CONTENDED = "contended"
    UNKNOWN = "unknown"


class Outcome(NamedTuple):
    """The verdict on one address and what it rests on."""

    verdict: Verdict
    mac: bytes | None = None
    """Of the station that uses or probes for the address."""
    round_trip: float | None = None
    """Seconds."""
    probes: int = 0
    """How often it was asked for in vain, by requests and probes."""
    miss_probability: float | None = None
    """The bound on the chance that it is used all the same; None where no witness says."""
    reason: str = ""
