"""The agent's listening socket: made at a path, or passed by systemd (sd_listen_fds(3))."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from arpipam.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from pathlib import Path

_FIRST_PASSED = 3
"""SD_LISTEN_FDS_START."""
_FOLDER_MODE = 0o700
_SOCKET_MODE = 0o600
_BACKLOG = 256


def passed_fds(environment: MutableMapping[str, str] = os.environ) -> int:
    """How many sockets systemd passed to this very process; no child is to take them for its own."""
    found = {name: environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if found["LISTEN_PID"] != str(os.getpid()) or not found["LISTEN_FDS"].isdecimal():
        return 0
    return int(found["LISTEN_FDS"])


def passed_socket(environment: MutableMapping[str, str] = os.environ) -> socket.socket | None:
    """The one socket that systemd passed, None where it passed none. Raises InputError for another kind or number.

    Its name (getsockname) is the path under which the engine finds this driver, whatever the agent's file says.
    """
    count = passed_fds(environment)
    if not count:
        return None
    if count != 1:
        raise InputError(f"systemd passed {count} sockets; the agent's socket unit needs exactly one ListenStream=")
    try:
        os.set_inheritable(_FIRST_PASSED, False)  # noqa: FBT003 - the standard library's own
        passed = socket.socket(fileno=_FIRST_PASSED)
    except OSError as error:
        raise InputError(f"the socket that systemd passed cannot be used: {error.strerror}") from None
    listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if passed.family is not socket.AF_UNIX or passed.type is not socket.SOCK_STREAM or not listens:
        passed.detach()
        raise InputError("systemd passed a socket of another kind; ListenStream= of the socket unit must be a path")
    return passed


class PathSocket:
    """A socket of ours at a path, for root only. Raises InputError where it cannot be made, or somebody listens there.

    A file that a dead process left is replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            _make_folder(path.parent)
            with _alone(path.parent):
                _remove_dead(path)
                self.socket = socket.socket(socket.AF_UNIX)
                try:
                    self.socket.bind(str(path))
                    path.chmod(_SOCKET_MODE)  # nobody gets in before it listens
                    self.socket.listen(_BACKLOG)
                except BaseException:
                    self.socket.close()
                    raise
                self._identity = _identity(path)
        except OSError as error:
            raise InputError(
                f"socket {path} cannot be made: {error.strerror or error}; run as root, or choose another with --socket"
            ) from None

    def remove(self) -> None:
        """Take the file away, unless it is another's by now.

        To be called while the socket is open: so long no other file can have its inode.
        """
        with suppress(OSError), _alone(self.path.parent):
            if _identity(self.path) == self._identity:
                self.path.unlink()


def _make_folder(folder: Path) -> None:
    for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
        missing.mkdir(mode=_FOLDER_MODE, exist_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of two agents that start at once, each would find the other's socket dead, or not there."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_dead(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InputError(f"{path} is there and is no socket; remove it, or choose another with --socket")
    with socket.socket(socket.AF_UNIX) as knock:
        knock.settimeout(0)
        try:
            knock.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # so many wait to be let in
            pass
    raise InputError(
        f"somebody listens on {path} already: is another agent running? stop it, or choose another with --socket"
    )


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
