"""Who holds a lease: a living process, by a lock on one byte of a file (fcntl(2), open file description locks).

The kernel lets go of it when the last process that has that open file is gone, however it ended. A child that inherits
the file holds on.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING

from arpipam.errors import LeaseError

if TYPE_CHECKING:
    from pathlib import Path

_FLOCK = struct.Struct("hhqqi")
"""struct flock of fcntl(2): type, whence, start, length, pid."""


class Liveness:
    """The leases that this process holds, by number; raises LeaseError where the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[int, int] = {}
        path.touch(mode=0o600)

    def hold(self, number: int) -> None:
        """Hold it; LeaseError where another process does."""
        fd = self._open()
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0))
        except OSError as error:
            os.close(fd)
            raise LeaseError(f"lease store: cannot lock lease {number} in {self._path}: {error.strerror}") from None
        self._files[number] = fd

    def let_go(self, number: int) -> None:
        """Hold it no longer, if ever."""
        fd = self._files.pop(number, None)
        if fd is not None:
            os.close(fd)

    def held(self, number: int) -> bool:
        """Whether a living process holds it."""
        fd = self._open()
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
            kind, *_ = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
        finally:
            os.close(fd)
        return bool(kind != fcntl.F_UNLCK)

    def ours(self) -> set[int]:
        """Those that this process holds."""
        return set(self._files)

    def fd(self, number: int) -> int:
        """A file descriptor that holds it as long as any process has it open (see subprocess, pass_fds)."""
        try:
            return self._files[number]
        except KeyError:
            raise LeaseError(f"lease store: this process does not hold lease {number}") from None

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise LeaseError(
                f"lease store: cannot open {self._path}: {error.strerror}; was the folder removed, or are too many "
                "files open (ulimit -n)?"
            ) from None
