"""What a lease store needs to know of time.

A quarantine has to end by a clock that nobody sets, but it has to last beyond a reboot too. So its end is noted twice:
by the time since the boot, which decides, and by the calendar, which is asked only once after a reboot.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """The calendar, and a clock that is never set."""

    boot: str
    """Differs from one boot of the host to the next."""

    def calendar(self) -> float:
        """Seconds since 1970, as the host believes at this moment."""

    def elapsed(self) -> float:
        """Seconds since the host's boot; they pass while it sleeps."""


class HostClock:
    """The clocks of this host (clock_gettime(2), CLOCK_REALTIME and CLOCK_BOOTTIME)."""

    def __init__(self) -> None:
        self.boot = _BOOT_ID.read_text().strip()

    def calendar(self) -> float:
        """Seconds since 1970, as the host believes at this moment."""
        return time.time()

    def elapsed(self) -> float:
        """Seconds since the host's boot; they pass while it sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
