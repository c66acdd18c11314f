"""How tests wait: for a condition, with a deadline and a message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from arpipam.lab.until import LONG, late, until

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LONG", "until", "until_async"]


async def until_async(
    condition: Callable[[], Any], what: str | Callable[[], str] = "it", deadline: float = LONG
) -> None:
    """Return when the condition holds; the event loop runs meanwhile."""
    try:
        async with asyncio.timeout(deadline):
            while not condition():  # noqa: ASYNC110 - a test waits for anything
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise TimeoutError(late(what, deadline)) from None
