"""How frames leave: from an outbox to the link, as many as it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arpipam.link.socket import MOST_AT_ONCE

if TYPE_CHECKING:
    from arpipam.link.task import Frames, LoopLink, Machine

_TURN = 1024
"""Frames of one task that leave before we read again: answers that lie would look late."""


def flush(link: LoopLink, outbox: Frames, most: int) -> int:
    """Send frames of an outbox, `most` at most; how many left: fewer if it is empty or the kernel has no room."""
    count = 0
    while count < most and (frames := outbox.peek(min(most - count, MOST_AT_ONCE))):
        taken = link.send(frames)
        outbox.sent(taken, link.now())
        count += taken
        if taken < len(frames):
            break
    return count


def send(link: LoopLink, machine: Machine, most: int) -> int | None:
    """Send frames of a task's machine, `most` at most; how many left; None: the kernel has no room."""
    count = 0
    for outbox in machine.outboxes():
        count += flush(link, outbox, min(most, _TURN) - count)
        if count >= min(most, _TURN):
            break
        if len(outbox):
            return None
    return count
