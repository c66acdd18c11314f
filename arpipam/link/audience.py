"""Who has a use for which packets: the kernel is told, so that it drops the others, and each gets its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arpipam.protocol.interest import Interest, Routes, union

if TYPE_CHECKING:
    from collections.abc import Collection

    from arpipam.link.task import LoopLink, Task
    from arpipam.protocol.arp import ArpPacket


class Audience:
    """The tasks, claims and watchers of one link."""

    def __init__(self, link: LoopLink) -> None:
        self._link = link
        self._wanted: list[tuple[Interest | None, Task[Any]]] | None = None
        self._routes: Routes[Task[Any]] = Routes()
        self._interest: Interest | None = None
        self._changed = False

    def changed(self) -> None:
        """Claims or watchers are others now."""
        self._changed = True

    def focus(self, tasks: Collection[Task[Any]], claimed: Collection[int], *, everything: bool) -> None:
        """Note who is there, and tell the kernel; before any frame leaves whose answer is of interest."""
        wanted = [(task.machine.interest, task) for task in tasks]
        if wanted == self._wanted and not self._changed:  # as at most turns
            return
        self._wanted, self._changed = wanted, False
        self._routes = Routes(wanted)
        interest = None if everything else union(interest for interest, _ in wanted)
        if interest is not None and claimed:
            held = Interest(frozenset(claimed), frozenset((self._link.mac,)))
            interest = union((interest, held))
        if interest != self._interest:
            self._interest = interest
            self._link.focus(interest)

    def tasks_for(self, packet: ArpPacket) -> Collection[Task[Any]]:
        """The tasks that have a use for the packet."""
        return self._routes.receivers(packet)
