"""What the lease store says where it cannot be used, and that it works again afterwards."""

from __future__ import annotations

import os
import resource
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.errors import LeaseError
from arpipam.leases import sqlite
from arpipam.leases.sqlite import SqliteLeaseStore
from tests.support.leases import address, process, refusal, reserve, reserved

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

NOBODY = 65534


def say(connection: Connection[Any, Any], path: Path) -> None:
    """As somebody without rights: what the store says."""
    if os.geteuid() == 0:
        os.setuid(NOBODY)
    try:
        SqliteLeaseStore(path).close()
    except LeaseError as error:
        connection.send(str(error))


@pytest.mark.parametrize("name", ["leases.db", "state/leases.db"])
def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path, name: str) -> None:
    tmp_path.chmod(0o555)
    with process(say, tmp_path / name) as (_, connection):
        said = connection.recv()
    assert said == (
        f"lease store {tmp_path / name}: Permission denied; run as root, or choose another folder with --state-dir"
    )


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    said = refusal(lambda: SqliteLeaseStore(tmp_path / "state" / "leases.db"))
    assert said.endswith("File exists; run as root, or choose another folder with --state-dir")


def test_only_its_user_may_read_the_store(store: SqliteLeaseStore) -> None:
    modes = {file.name: file.stat().st_mode & 0o777 for file in (store.path.parent, *store.path.parent.iterdir())}
    assert modes == {
        "state": 0o700,
        "leases.db": 0o600,
        "holders": 0o600,
        "leases.db-wal": 0o600,
        "leases.db-shm": 0o600,
    }


def filled(path: Path) -> None:
    with SqliteLeaseStore(path) as store:
        store._db.execute("PRAGMA synchronous = OFF")
        for number in range(200):
            reserved(store, number)


def test_a_file_of_something_else_is_said_to_be_damaged_and_may_be_moved_away(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"something else entirely\n" * 100)
    said = refusal(lambda: SqliteLeaseStore(path))
    assert said.startswith(f"lease store {path}: file is not a database; ")
    assert said.endswith("? a damaged file may be moved away: the wire still shows what is in use")
    path.rename(path.with_suffix(".old"))
    with SqliteLeaseStore(path) as store:
        assert reserved(store).id == 1


@pytest.mark.parametrize("what", ["cut off", "overwritten"])
def test_a_damaged_file_is_said_to_be_damaged(path: Path, what: str) -> None:
    filled(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if what == "cut off" else content[:4096] + bytes(len(content) - 4096))

    def use() -> None:
        with SqliteLeaseStore(path) as store:
            store.leases()

    assert "a damaged file may be moved away" in refusal(use)


@pytest.mark.parametrize("part", ["holders", "quarantines"])
def test_a_store_that_cannot_be_opened_keeps_no_file_open(
    path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise PermissionError(13, "Permission denied") if part == "holders" else LeaseError("no")

    if part == "holders":
        monkeypatch.setattr(sqlite, "Liveness", fails)
    else:
        monkeypatch.setattr(SqliteLeaseStore, "_take_up_quarantines", fails)
    with pytest.raises(LeaseError) as caught:
        SqliteLeaseStore(path)
    opened = [Path(fd).readlink() for fd in Path("/proc/self/fd").iterdir() if fd.exists()]
    assert [file for file in opened if file.parent == path.parent] == []
    assert str(caught.value) in {f"lease store {path}: holders: Permission denied; run as root", "no"}


def test_the_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 3")
    before = path.read_bytes()
    assert refusal(lambda: SqliteLeaseStore(path)) == (
        f"lease store {path} was written by another version of arpipam (format 3, this one knows 2); "
        "update arpipam, or choose another folder with --state-dir"
    )
    assert path.read_bytes() == before


def test_a_store_that_another_process_does_not_let_go_of_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arpipam.leases.database._BUSY", 0.05)
    with SqliteLeaseStore(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as stuck:
        stuck.execute("BEGIN IMMEDIATE")
        said = refusal(lambda: reserve(store))
        assert said == f"lease store {path}: database is locked; is another process stuck on it?"
        stuck.execute("ROLLBACK")
        assert reserved(store).id == 1


@contextmanager
def limited(what: int, figure: int) -> Iterator[None]:
    before = resource.getrlimit(what)
    resource.setrlimit(what, (figure, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def test_when_the_disk_is_full_nothing_is_leased_and_all_works_again_when_it_is_not(
    store: SqliteLeaseStore, other: SqliteLeaseStore
) -> None:
    first = reserved(store, 1)
    log = store.path.with_name("leases.db-wal").stat().st_size
    with limited(resource.RLIMIT_FSIZE, log + 100):
        said = refusal(lambda: reserve(store, 2))
    assert "is the disk full or read-only?" in said
    assert store.leases() == other.leases() == [first]
    assert not store.held(first.id + 1)
    theirs = reserved(other, 2, owner="db")
    assert reserve(store, 2) is None
    assert store.leases() == [first, theirs]
    assert reserved(store, 3).id > theirs.id


def test_when_too_many_files_are_open_nothing_is_leased(store: SqliteLeaseStore) -> None:
    lease = reserved(store, 1)
    free = os.dup(0)
    os.close(free)
    with limited(resource.RLIMIT_NOFILE, free):
        said = [refusal(lambda: reserve(store, 2)), refusal(lambda: store.held(lease.id))]
    assert all("Too many open files; was the folder removed, or are too many files open" in line for line in said)
    assert store.leases() == [lease]
    assert reserved(store, 2).address == address(2)
