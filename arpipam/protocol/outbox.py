"""Frames that wait to leave, and what is to be noted when one really did.

A probe counts from the moment the kernel took it, not from the moment we meant to send it: a protocol queues its frames
here, and whoever drives it says when each has left.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Outbox:
    """A queue of frames, each with a hook that takes the time of its sending (seconds)."""

    def __init__(self) -> None:
        self._queue: deque[tuple[bytes, Callable[[float], None] | None]] = deque()

    def put(self, frame: bytes, on_sent: Callable[[float], None] | None = None) -> None:
        """Queue a frame."""
        self._queue.append((frame, on_sent))

    def peek(self, most: int) -> list[bytes]:
        """The frames that are next, `most` at most; the same until `sent` is called."""
        return [frame for frame, _ in islice(self._queue, most)]

    def sent(self, count: int, now: float) -> None:
        """So many of the frames that `peek` showed have left."""
        left = [self._queue.popleft() for _ in range(count)]
        for _, on_sent in left:
            if on_sent is not None:
                on_sent(now)

    def clear(self) -> None:
        """Forget what has not left."""
        self._queue.clear()

    def __len__(self) -> int:
        return len(self._queue)
