"""Times in which the link of a network could not be heard: they are told, and what was ready is looked at again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.agent.contract import EventKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.allocator import Allocator
    from launcher.agent.edges import Edges

WERE_SILENT = "stations that must answer were silent"
"""Told by themselves, see witnesses.py."""
TOLD_EVERY = 10.0  # s: gaps may follow each other, as while frames are dropped


class Gaps:
    """Those of one network. `over()` is called at the end of each, `soon(function, ...)` calls on the event loop."""

    def __init__(
        self, *, tell: Callable[..., None], over: Callable[[], None], soon: Callable[..., None], edges: Edges
    ) -> None:
        self.closed = ""
        """Why nobody beyond this host can be heard at all; empty where somebody may be, or where there is no link."""
        self._tell = tell
        self._over = over
        self._soon = soon
        self._now = edges.monotonic
        self._told = -TOLD_EVERY

    def watch(self, allocator: Allocator) -> None:
        """The link is open."""
        link, hearing = allocator.link, allocator.loop.hearing
        self.closed = ""
        hearing.on_change.append(
            lambda: self._soon(self._changed, link.closed, hearing.why, hearing.whole_since is not None)
        )
        self._changed(link.closed, "", heard=True)

    def stop(self) -> None:
        """It is closed."""
        self.closed = ""

    def _changed(self, closed: str, why: str, heard: bool) -> None:  # noqa: FBT001 - called by `soon`
        before, self.closed = self.closed, closed
        if closed and not before:
            self._tell(EventKind.LINK_DOWN, text=closed)
        elif before and not closed:
            text = "stations beyond this host can be heard again; ready addresses are probed again"
            self._tell(EventKind.LINK_UP, text=text)
        elif heard and why and why != WERE_SILENT and self._now() - self._told >= TOLD_EVERY:
            self._told = self._now()
            self._tell(EventKind.GAP, text=f"{why}; ready addresses are probed again")
        if heard:
            self._over()
