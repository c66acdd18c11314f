"""Frames that wait to leave, and what is to be noted when one really did.

A probe counts from the moment the kernel took it, not from the moment we meant to send it: a protocol queues its frames
here, and whoever drives it says when each has left.
"""

from __future__ import annotations

from collections import deque
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

    def peek(self) -> bytes | None:
        """The frame that is next; the same until `sent` is called."""
        return self._queue[0][0] if self._queue else None

    def sent(self, now: float) -> None:
        """The frame that `peek` showed has left."""
        _, on_sent = self._queue.popleft()
        if on_sent is not None:
            on_sent(now)

    def clear(self) -> None:
        """Forget what has not left."""
        self._queue.clear()

    def __len__(self) -> int:
        return len(self._queue)
