"""Calls from other threads, and the byte that wakes the thread that runs them."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PIPE = 65536
"""Bytes that a pipe holds (pipe(7))."""


class Calls:
    """A queue of calls; `wake_fd` can be read while there are any, or while `wake` was called."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._shut = False
        self.wake_fd, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def put(self, function: Callable[[], None]) -> bool:
        """Queue a call; False once they are shut."""
        with self._lock:
            if self._shut:
                return False
            self._calls.append(function)
            self.wake()
            return True

    def wake(self) -> None:
        """End a wait for `wake_fd`."""
        with suppress(BlockingIOError):  # as awake as it gets
            os.write(self._wake_write, b"!")

    def run(self) -> None:
        """Run what has been queued."""
        while self._calls:
            with self._lock:  # calls and the bytes that announce them, together: a byte left behind wakes for ever
                calls = list(self._calls)
                self._calls.clear()
                with suppress(BlockingIOError):
                    os.read(self.wake_fd, _PIPE)
            for call in calls:
                call()

    def shut(self) -> None:
        """Take no more, and run those that came too late for the thread."""
        with self._lock:
            self._shut = True
        self.run()
        os.close(self.wake_fd)
        os.close(self._wake_write)
