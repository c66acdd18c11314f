"""For whom Docker asks, guessed from what the engine shows: only where one container stands out."""

from __future__ import annotations

import pytest

from launcher.agent.network.sticky import LATELY, who_asks
from launcher.engine.model import WaitingContainer

NOW = 1000.0


def waiting(name: str, *, new: bool = False, age: float = 100.0) -> WaitingContainer:
    return WaitingContainer("lan", name, NOW - age, new)


OLD, OTHER = waiting("old"), waiting("other")
NEW, NEW2 = waiting("new", new=True, age=1.0), waiting("new2", new=True, age=2.0)
LONG_NEW = waiting("long", new=True, age=LATELY)


@pytest.mark.parametrize(
    ("there", "gave_back", "name"),
    [
        ([], (), None),
        ([OLD], (), "old"),
        ([OLD, OTHER], (), None),
        ([OLD, OTHER, NEW], (), "new"),
        ([OLD, OTHER, NEW], ("old",), "new"),
        ([OLD, NEW, NEW2], (), None),
        ([OLD, NEW, NEW2], ("old",), None),
        ([OLD, OTHER, LONG_NEW], ("other",), "other"),
        ([OLD, OTHER, LONG_NEW], ("other", "old"), None),
        ([OLD, OTHER], ("gone",), None),
        ([waiting("web"), waiting("web", new=True, age=1.0)], (), "web"),  # compose, which has renamed the old one
        ([LONG_NEW], (), "long"),
    ],
)
def test_who_asks(there: list[WaitingContainer], gave_back: tuple[str, ...], name: str | None) -> None:
    assert who_asks(there, gave_back, NOW) == name
