"""One SQLite file of ours: made when it is missing, safe against SIGKILL, patient with other processes."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from arpipam.errors import LeaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_BUSY = 30.0
"""Seconds for which another process may keep us waiting."""
_RETRY = 0.01


_making = threading.Lock()


class Database:
    """The file at `path`, called `what` in errors, with tables of `schema` in format `version`; usable from any thread.

    `loss` says what becomes of its content where it is moved away, `clash` what a broken UNIQUE means. A power loss may
    take what was written last where it is not `durable` (SQLite's WAL without a sync at each commit), never the file.

    Raises LeaseError, in one line, where the file or its folder cannot be used.
    """

    def __init__(
        self, path: Path, what: str, *, schema: str, version: int, loss: str, clash: str = "", durable: bool = True
    ) -> None:
        self.path = path
        self.lock = threading.RLock()
        self._name = f"{what} {path}"
        self._loss = loss
        self._clash = clash
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(path)
        except OSError as error:
            raise LeaseError(
                f"{self._name}: {error.strerror}; run as root, or choose another folder with --state-dir"
            ) from None
        with self.trouble():
            self._connection = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(schema, version, "FULL" if durable else "NORMAL")
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, schema: str, version: int, synchronous: str) -> None:
        self._connection.row_factory = sqlite3.Row
        self.execute("PRAGMA journal_mode = WAL")
        self.execute(f"PRAGMA synchronous = {synchronous}")
        with self.transaction():
            [found] = self.execute("PRAGMA user_version").fetchone()
            if found == 0:
                for statement in schema.split(";"):
                    self.execute(statement)
                self.execute(f"PRAGMA user_version = {version}")
            elif found != version:
                raise LeaseError(
                    f"{self._name} was written by another version of arpipam (format {found}, this one knows "
                    f"{version}); update arpipam, or choose another folder with --state-dir"
                )

    def execute(self, statement: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """Run a statement; within a transaction, or `rows`.

        Where others make, recover or close the file at this moment, SQLite refuses at once, whatever its timeout.
        """
        end = time.monotonic() + _BUSY
        while True:
            try:
                return self._connection.execute(statement, parameters)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() >= end:
                    raise
                time.sleep(_RETRY)

    def execute_all(self, statement: str, parameters: Iterable[tuple[object, ...]]) -> None:
        """Run a statement for each of these, within a transaction."""
        self._connection.executemany(statement, parameters)

    def rows(self, statement: str, parameters: tuple[object, ...] = ()) -> list[Any]:
        """What a query finds, or one statement changes (RETURNING): a transaction of its own, on disk at the end."""
        with self.trouble(), self.lock:
            return self.execute(statement, parameters).fetchall()

    @contextmanager
    def transaction(self, undo: Callable[[], None] = lambda: None) -> Iterator[None]:
        """All of it, or nothing, on disk when it ends; `undo` is called before nothing of it can be seen any more."""
        with self.trouble(), self.lock:
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                undo()
                with suppress(sqlite3.Error):
                    self.execute("ROLLBACK")
                raise

    @contextmanager
    def trouble(self) -> Iterator[None]:
        """SQLite's errors in our words."""
        try:
            yield
        except sqlite3.Error as error:
            remedy = f"is the disk full or read-only? a damaged file may be moved away: {self._loss}"
            if "locked" in str(error):
                remedy = "is another process stuck on it?"
            elif isinstance(error, sqlite3.IntegrityError) and self._clash:
                remedy = self._clash
            raise LeaseError(f"{self._name}: {error}; {remedy}") from None

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._connection.close()


def _make(path: Path) -> None:
    """Make the file where it is missing, and never open one that is there.

    To close any descriptor of a file gives up all POSIX locks that the process has on it, SQLite's among them
    (fcntl(2); "How To Corrupt An SQLite Database File", 2.2). So no thread may open what another has just made, either,
    before its descriptor is closed.
    """
    with _making, suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
