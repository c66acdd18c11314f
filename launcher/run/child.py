"""A child that stands in for us: same streams, same terminal, same signals, same end.

The child shares our process group, so whatever the terminal sends reaches it without us. What reaches only us is passed
on, and when it stops, we stop.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from typing import TYPE_CHECKING

from launcher.signals import WATCHED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

SIGNAL_BASE = 128  # a shell's status for a program that signal n ended is 128 + n
SENT_BY_KERNEL = 0x80  # SI_KERNEL, <asm-generic/siginfo.h>: from the terminal, so it went to the whole group
REPEAT = 0.1  # s: a signal sent to the process and to its group (as timeout(1) does) is passed on once


def run_child(words: Sequence[str], environment: Mapping[str, str], *, keep_open: Collection[int] = ()) -> int:
    """Run a program in our place until it ends and return its exit status, 128 + n when signal n ended it.

    It inherits the standard streams and the file descriptors `keep_open`. To be called inside `signals_held`: then no
    signal is lost between its start and the first wait. OSError when it cannot be started.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, it would take the exit status away
    for descriptor in keep_open:
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - the library's own signature
    child = os.posix_spawnp(
        words[0],
        list(words),
        dict(environment),
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them, which a child would inherit
    )
    passed: dict[int, float] = {}
    while True:
        received = signal.sigwaitinfo(WATCHED)
        if received.si_signo != signal.SIGCHLD:
            _pass_on(child, received, passed)
            continue
        status = _look_at(child)
        if status is not None:
            return status


class StandardInput:
    """The input that we share with a child, which may have read from it before it failed."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        try:
            self._mode = os.fstat(descriptor).st_mode
            self._position = os.lseek(descriptor, 0, os.SEEK_CUR) if stat.S_ISREG(self._mode) else None
        except OSError:  # closed
            self._mode, self._position = 0, None

    def rewind(self, *, untouched: bool) -> bool:
        """Make it ready for a second child; whether that can be done: what was read from a pipe is gone."""
        if self._position is not None:
            os.lseek(self._descriptor, self._position, os.SEEK_SET)
        return untouched or not (stat.S_ISFIFO(self._mode) or stat.S_ISSOCK(self._mode))


def _pass_on(child: int, received: signal.struct_siginfo, passed: dict[int, float]) -> None:
    """Send the child a signal that reached only us."""
    number, now = received.si_signo, time.monotonic()
    if received.si_code == SENT_BY_KERNEL or now - passed.get(number, -REPEAT) < REPEAT:
        return
    passed[number] = now
    os.kill(child, number)  # not yet waited for, so the number is still its own


def _look_at(child: int) -> int | None:
    """Return the exit status of a child that ended; stop with one that stopped."""
    while True:
        found, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        if found == 0:
            return None
        if os.WIFSTOPPED(status):
            os.kill(os.getpid(), signal.SIGSTOP)  # the shell continues the whole group
        elif os.WIFSIGNALED(status):
            return SIGNAL_BASE + os.WTERMSIG(status)
        else:
            return os.WEXITSTATUS(status)
