"""Wait for a condition, with a deadline and a message."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LONG = 30.0
"""Seconds. A condition that does not hold by then never will, on a busy machine too."""


def until(
    condition: Callable[[], Any], what: str | Callable[[], str] = "it", deadline: float = LONG, *, pause: float = 0.01
) -> Any:
    """Return the first true value of the condition.

    `deadline` and `pause` (between two looks) are in seconds. `what` names the condition, or returns a text that says
    what is there instead. Raises TimeoutError with that text after the deadline.
    """
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(late(what, deadline))
        time.sleep(pause)
    return value


def late(what: str | Callable[[], str], deadline: float) -> str:
    """Return the message of a wait that failed."""
    return f"{what if isinstance(what, str) else what()} did not come within {deadline:g} s"
