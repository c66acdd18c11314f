"""How long the long tests run, and from which seed: both can be given by the environment."""

from __future__ import annotations

import os
import random

NIGHT = os.environ.get("ARPIPAM_TESTS") == "night"

EXAMPLES = 1000 if NIGHT else 100
"""Of each property."""


def count(name: str, day: int, night: int) -> int:
    """Return ARPIPAM_<name>, or else how often by day, or by night where ARPIPAM_TESTS=night."""
    return int(os.environ.get(f"ARPIPAM_{name}", night if NIGHT else day))


def seeded() -> random.Random:
    """Return randomness from ARPIPAM_SEED, or from a drawn seed. It is printed, and pytest shows it on a failure."""
    seed = int(os.environ.get("ARPIPAM_SEED") or random.randrange(1 << 32))
    print(f"ARPIPAM_SEED={seed}")  # noqa: T201 - to run it again
    return random.Random(seed)
