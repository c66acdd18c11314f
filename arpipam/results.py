"""What the allocator gives back: addresses, verdicts and stations, as a person or a program reads them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from arpipam.protocol import arp

if TYPE_CHECKING:
    from arpipam.protocol.outcome import Outcome, Verdict
    from arpipam.protocol.survey import Answer


@dataclass(frozen=True)
class Found:
    """A free address, and what that rests on. It is nobody's until it is claimed."""

    address: IPv4Address
    prefix: int
    mac: str
    """The MAC that it was probed under."""
    elapsed: float
    """Seconds from the first frame to the verdict."""
    probed: int
    """Addresses that were asked for."""
    in_use: int
    miss_probability: float | None
    """The bound on the chance that it is used all the same; None where the caller said that there is nobody else."""


@dataclass(frozen=True)
class Probed:
    """The verdict on one address."""

    address: IPv4Address
    verdict: Verdict
    mac: str | None
    rtt: float | None
    """Seconds from our last question to the answer."""
    probes: int
    """Rounds of questions after the survey; 0 where it answered that."""
    miss_probability: float | None
    reason: str

    @classmethod
    def of(cls, address: int, outcome: Outcome) -> Probed:
        """From the core's outcome."""
        mac = None if outcome.mac is None else arp.mac_text(outcome.mac)
        return cls(
            IPv4Address(address),
            outcome.verdict,
            mac,
            outcome.round_trip,
            outcome.probes,
            outcome.miss_probability,
            outcome.reason,
        )


@dataclass(frozen=True)
class Station:
    """Somebody on the link."""

    address: IPv4Address
    mac: str
    rtt: float | None
    """Seconds; None where it was overheard, not asked."""

    @classmethod
    def of(cls, address: int, answer: Answer) -> Station:
        """From the core's answer."""
        return cls(IPv4Address(address), arp.mac_text(answer.mac), answer.round_trip)
