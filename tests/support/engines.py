"""On which ages of engine a test runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from arpipam.lab.engine import is_unpacked
from tests.support.profile import NIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

NEWER = "26.1"
needs_newer = pytest.mark.skipif(
    not is_unpacked(NEWER), reason=f"engine {NEWER} is not unpacked here: .ci/engine-26 says why"
)
_AGES = (pytest.param("", id="engine"), pytest.param(NEWER, id=f"engine {NEWER}", marks=needs_newer))


def ages(test: pytest.Function, place: str) -> Sequence[object]:
    """This machine's own engine, and the newer one for tests that are marked so; at night for all of them.

    The own one is named for the others as well: what a file shares would be made anew between a test with a name and
    one without.
    """
    if not place.startswith(("agent/", "run/")) and test.get_closest_marker("engine") is None:
        return ()
    both = test.get_closest_marker("both_engines") or (NIGHT and not test.get_closest_marker("own_engine"))
    return _AGES if both else _AGES[:1]
