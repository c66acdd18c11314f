"""How long the long tests run, and from which seed: both can be given by the environment.

By day there are fewer turns of the same, and of a test's combinations some in which every value occurs; by night, with
ARPIPAM_TESTS=night, all of them.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
NIGHT = os.environ.get("ARPIPAM_TESTS") == "night"

EXAMPLES = 1000 if NIGHT else 60
"""Of each property."""


def count(name: str, day: int, night: int) -> int:
    """Return ARPIPAM_<name>, or else how often by day, or by night where ARPIPAM_TESTS=night."""
    return int(os.environ.get(f"ARPIPAM_{name}", night if NIGHT else day))


def by_day(all_of_them: Sequence[T], *day: T) -> Sequence[T]:
    """Return what a test is parametrized with: all by night, those of `day` by day."""
    assert set(day) <= set(all_of_them)
    return all_of_them if NIGHT else day


def seeded() -> random.Random:
    """Return randomness from ARPIPAM_SEED, or from a drawn seed. It is printed, and pytest shows it on a failure."""
    seed = int(os.environ.get("ARPIPAM_SEED") or random.randrange(1 << 32))
    print(f"ARPIPAM_SEED={seed}")  # noqa: T201 - to run it again
    return random.Random(seed)
