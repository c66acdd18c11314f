"""Where a claim stands. Apart from the claim, so that a client of the agent loads neither packets nor sockets."""

from __future__ import annotations

from enum import StrEnum


class ClaimState(StrEnum):
    """Where a claim stands."""

    ANNOUNCING = "announcing"
    DEFENDING = "defending"
    GUARDED = "guarded"
    """Its owner answers for itself; others who use it are looked out for."""
    CONFLICT = "conflict"
    """Another station insists on the address; it is given up (RFC 5227, 2.4)."""
    HANDED_OVER = "handed over"
    RELEASED = "released"
    LINK_LOST = "link lost"
    """Nobody can defend it any more."""
