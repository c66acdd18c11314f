"""What arpipam-run wants an address for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClaimWish:
    """A claim that the agent shall hold for another program; None: as the agent's own settings say."""

    interface: str
    owner: str
    subnet: str | None = None
    address: str | None = None
    """This one or none."""
    mac: str | None = None
    """The MAC that will own it; None: a random one."""
    exclude: tuple[str, ...] = ()
    """`A` or `A-B` each, as `ranges`."""
    ranges: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()
    order: str | None = None
    timing: str | None = None
    alone: bool = False
    miss_probability: float | None = None
