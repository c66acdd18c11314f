"""Which address was last seen behind which host: what stays reserved while a host is gone on purpose."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from arpipam.errors import LeaseError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

MEMORY = 30 * 86400.0
"""Seconds for which a sighting counts."""


class LastSeen:
    """A file in the state folder; what it cannot read it takes for nothing, and says so when it cannot write."""

    def __init__(self, state_dir: Path, bridge: str) -> None:
        self._path = state_dir / f"fabric-{bridge}.seen"
        self._seen: dict[str, tuple[str, float]] = {}
        with suppress(OSError, ValueError, TypeError):
            for address, (host, at) in json.loads(self._path.read_text()).items():
                self._seen[str(IPv4Address(address))] = str(host), float(at)

    def record(self, seen: Mapping[IPv4Address, str]) -> None:
        """These addresses were just seen behind these hosts."""
        now = time.time()
        self._seen = {address: (host, at) for address, (host, at) in self._seen.items() if now - at < MEMORY}
        self._seen |= {str(address): (host, now) for address, host in seen.items()}
        fresh = self._path.with_suffix(".seen-new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_text(json.dumps(self._seen))
            fresh.replace(self._path)
        except OSError as error:
            raise LeaseError(f"{self._path}: {error.strerror}; run as root, or choose another --state-dir") from None

    def behind(self, hosts: Collection[str]) -> list[IPv4Address]:
        """The addresses last seen behind any of these hosts."""
        return [IPv4Address(address) for address, (host, _) in self._seen.items() if host in hosts]
