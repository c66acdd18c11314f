"""Signals that are meant for a child: passed on by one thread, held back from all others."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = frozenset(
    {  # not for the child: faults and what a process does to itself, and what stops or continues the whole group
        *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGSYS),
        *(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGXCPU, signal.SIGURG, signal.SIGWINCH),
        *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD),
    }
)
PASSED_ON = frozenset(signal.valid_signals()) - KEPT
WATCHED = PASSED_ON | {signal.SIGCHLD}


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back every signal that is meant for the child. Threads started inside never receive one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
