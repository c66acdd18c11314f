"""Every constant of probing, with its source, in four profiles.

All times are seconds. `RFC5227` is the standard's own (section 1.1), `LAN` a fixed quick one, and `ADAPTIVE` lets the
witnesses say how often to probe and how long to listen (see witnesses.py). `GUARDED` is the same for switch ports that
are shut down when too many ARP packets come (dynamic ARP inspection allows 15 in a second).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from arpipam.errors import InputError

MISS_PROBABILITY = 1e-6
"""Default bound on the chance of calling a used address free."""
BUDGET = 3.0
"""Default limit on the probing of one address; when it is over, the verdict is UNKNOWN."""
PROBE_NUM = 3
"""Probes for an address, whatever the profile (RFC 5227, 1.1)."""
RATE = 5_000
"""Default pace of all our frames on a link, per second: 2.6 Mbit/s of minimum-size frames on the wire."""
FULL_RATE = 300
"""Frames per second up to which a search takes no longer for its pace; below it, its budget is longer accordingly."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The constants of RFC 5227, section 1.1, under their own names."""

    name: str
    probe_wait: float
    """Longest random delay before the first probe."""
    probe_num: int | None
    """Number of rounds, each with a probe; None: as many rounds as the miss probability asks for, of which PROBE_NUM
    carry a probe."""
    probe_min: float
    """Shortest and ..."""
    probe_max: float
    """... longest time between probes; adaptive: two round trips, where those are longer than `probe_min`."""
    announce_wait: float
    """Time to listen after the last probe; adaptive: the floor of it, for stations slower than the witnesses."""
    announce_num: int = 2
    announce_interval: float = 2.0
    max_conflicts: int = 10
    """After this many conflicts on the way to one address, new candidates come slowly:"""
    rate_limit_interval: float = 60.0
    """at most one in this time."""
    defend_interval: float = 10.0
    rate: float | None = None
    """Frames per second at most, of all searches on a link; None: what the caller allows."""

    @property
    def longest(self) -> float:
        """The time that a fixed number of probes takes at most; 0 where the witnesses decide."""
        if not self.probe_num:
            return 0.0
        return self.probe_wait + self.probe_num * self.probe_max + self.announce_wait


RFC5227 = Timing("rfc5227", probe_wait=1.0, probe_num=PROBE_NUM, probe_min=1.0, probe_max=2.0, announce_wait=2.0)

LAN = Timing(
    "lan",
    probe_wait=0.02,
    probe_num=PROBE_NUM,
    probe_min=0.08,
    probe_max=0.1,
    announce_wait=0.1,
    announce_interval=0.2,
    rate_limit_interval=1.0,
)

ADAPTIVE = Timing(
    "adaptive",
    probe_wait=0.0,
    probe_num=None,
    # Losses come in bursts, and a cold userspace tunnel swallows what arrives in its first milliseconds.
    probe_min=0.02,
    probe_max=0.5,
    announce_wait=0.1,
    announce_interval=0.2,
    rate_limit_interval=1.0,
)

GUARDED = replace(ADAPTIVE, name="guarded", rate=8.0)

PROFILES = {timing.name: timing for timing in (ADAPTIVE, LAN, RFC5227, GUARDED)}


def profile(name: str) -> Timing:
    """The profile of that name; raises InputError for another."""
    try:
        return PROFILES[name]
    except KeyError:
        raise InputError(f"timing {name!r}: choose one of {', '.join(PROFILES)}") from None
