"""The lease store where processes race, hold on for each other, and die at any moment."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arpipam.errors import LeaseError
from arpipam.leases.lease import Lease, LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore
from tests.support.leases import PROCESSES, Clock, address, process, refusal, reserve, reserved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Barrier

    import pytest


# Holding.


def test_reap_leaves_alone_what_is_held_kept_or_bound(
    path: Path, clock: Clock, store: SqliteLeaseStore, other: SqliteLeaseStore
) -> None:
    held = reserved(store, 1)
    with SqliteLeaseStore(path, clock=clock) as gone:
        dead, kept, bound = (reserved(gone, number) for number in (2, 3, 4))
        gone.bind(bound.id, "c0ffee")
        assert other.reap() == []
    clock.now += 1
    assert [store.held(lease.id) for lease in (held, dead, kept)] == [True, False, False]
    reaped = other.reap(quarantine=30, keep=[kept.id])
    assert reaped == [replace(dead, state=LeaseState.QUARANTINED, changed=clock.now, until=clock.now + 30)]
    assert [lease.state for lease in store.leases()] == [
        LeaseState.CLAIMED,
        LeaseState.QUARANTINED,
        LeaseState.CLAIMED,
        LeaseState.BOUND,
    ]
    assert other.reap(keep=[kept.id]) == []


def test_a_lease_is_held_before_another_process_can_see_and_reap_it(
    store: SqliteLeaseStore, other: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Lease]] = []
    hold = store._liveness.hold

    def watched(lease_id: int) -> None:
        seen.append(other.leases())
        hold(lease_id)

    monkeypatch.setattr(store._liveness, "hold", watched)
    lease = reserved(store)
    assert seen == [[]]
    assert other.leases() == [lease]
    assert other.reap() == []


def test_only_the_process_that_holds_a_lease_has_a_descriptor_of_it(
    store: SqliteLeaseStore, other: SqliteLeaseStore
) -> None:
    lease = reserved(store)
    assert os.fstat(store.holder_fd(lease.id)).st_size == 0
    assert not os.get_inheritable(store.holder_fd(lease.id))
    assert refusal(lambda: other.holder_fd(lease.id)).endswith(f"this process does not hold lease {lease.id}")
    store.release(lease.id)
    assert refusal(lambda: store.holder_fd(lease.id)).endswith(f"this process does not hold lease {lease.id}")


def test_a_child_that_inherits_the_descriptor_holds_on_after_its_parent(path: Path) -> None:
    with SqliteLeaseStore(path) as watcher:
        with SqliteLeaseStore(path) as store:
            lease, without = reserved(store, 7), reserved(store, 8)
            fd = store.holder_fd(lease.id)
            child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[fd])
        with child:
            assert watcher.held(lease.id)
            assert [reaped.id for reaped in watcher.reap()] == [without.id]
        assert not watcher.held(lease.id)
        assert [reaped.id for reaped in watcher.reap()] == [lease.id]


def hold_with_a_child(connection: Connection[Any, Any], path: Path) -> None:
    store = SqliteLeaseStore(path)
    lease, without = reserved(store, 7), reserved(store, 8)
    child = subprocess.Popen(["sleep", "1000"], pass_fds=[store.holder_fd(lease.id)])
    connection.send((lease.id, without.id, child.pid))
    signal.pause()


def test_a_killed_process_lets_go_but_its_child_holds_on(path: Path) -> None:
    with SqliteLeaseStore(path) as store, process(hold_with_a_child, path) as (holder, connection):
        lease, without, child = connection.recv()
        gone = os.pidfd_open(child)
        try:
            assert (store.held(lease), store.held(without)) == (True, True)
            assert store.reap() == []
            holder.kill()
            holder.join()
            assert (store.held(lease), store.held(without)) == (True, False)
            assert [reaped.id for reaped in store.reap()] == [without]
            signal.pidfd_send_signal(gone, signal.SIGKILL)
            select.select([gone], [], [])
            assert not store.held(lease)
            assert [reaped.id for reaped in store.reap()] == [lease]
        finally:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(gone, signal.SIGKILL)
            os.close(gone)


# Several processes.


def open_often(connection: Connection[Any, Any], barrier: Barrier, folder: Path, times: int) -> None:
    said = ""
    for n in range(times):
        barrier.wait()
        try:
            SqliteLeaseStore(folder / str(n) / "leases.db").close()
        except LeaseError as error:
            said = str(error)
    connection.send(said)


@contextmanager
def eight(target: Callable[..., None], *words: object) -> Iterator[list[Connection[Any, Any]]]:
    """Eight processes that start together."""
    barrier = PROCESSES.Barrier(8)
    pairs = [PROCESSES.Pipe() for _ in range(8)]
    started = [PROCESSES.Process(target=target, args=(theirs, barrier, *words)) for _, theirs in pairs]
    for one in started:
        one.start()
    for _, theirs in pairs:
        theirs.close()
    try:
        yield [ours for ours, _ in pairs]
    finally:
        for one in started:
            one.kill()
            one.join()
            one.close()
        for ours, _ in pairs:
            ours.close()


def test_eight_processes_may_make_the_store_at_once(tmp_path: Path) -> None:
    with eight(open_often, tmp_path, 30) as processes:
        assert [process.recv() for process in processes] == [""] * 8


def reserve_fifty(connection: Connection[Any, Any], barrier: Barrier, path: Path) -> None:
    barrier.wait()
    store = SqliteLeaseStore(path)
    owner = f"process {os.getpid()}"
    connection.send([lease for lease in (reserve(store, number, owner) for number in range(1, 51)) if lease])
    signal.pause()


def test_eight_processes_that_want_the_same_fifty_addresses_share_them_without_overlap(path: Path) -> None:
    with eight(reserve_fifty, path) as processes:
        granted = [process.recv() for process in processes]
        with SqliteLeaseStore(path) as store:
            everything = sorted((lease for leases in granted for lease in leases), key=lambda lease: lease.address)
            assert [lease.address for lease in everything] == [address(number) for number in range(1, 51)]
            assert store.leases() == everything
            assert store.reap() == []  # each is held
    owners = [{lease.owner for lease in leases} for leases in granted if leases]
    assert all(len(names) == 1 for names in owners)
    assert len(set().union(*owners)) == len(owners)


def write_for_ever(connection: Connection[Any, Any], path: Path, first: int) -> None:
    """Each step is told once the store says that it is done."""
    store = SqliteLeaseStore(path)
    number = first
    while True:
        lease = reserved(store, number)
        connection.send(("claimed", lease.id, number))
        if number % 3 == 0:
            store.bind(lease.id, "c0ffee")
            connection.send(("bound", lease.id, number))
        if number % 3 == 1:
            connection.send(("forgetting", lease.id, number))
            store.forget(lease.id)
        number += 1


def test_a_process_that_is_killed_while_it_writes_loses_nothing_it_was_told(path: Path) -> None:
    rng = random.Random(1)
    known: dict[int, tuple[str, int]] = {}
    for turn in range(20):
        with process(write_for_ever, path, 1000 * turn) as (writer, connection):
            for _ in range(rng.randrange(1, 40)):
                what, lease_id, number = connection.recv()
                known[lease_id] = what, number
            time.sleep(rng.uniform(0, 0.003))  # anywhere in its next steps
            writer.kill()
            writer.join()
            with suppress(EOFError):
                while True:
                    what, lease_id, number = connection.recv()
                    known[lease_id] = what, number
        with SqliteLeaseStore(path) as store:
            assert store._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            found = {lease.id: lease for lease in store.leases()}
            for lease_id, (what, number) in known.items():
                if what == "forgetting" and lease_id not in found:
                    continue
                assert found[lease_id].address == address(number)
                assert what != "bound" or found[lease_id].state is LeaseState.BOUND
            told = known.keys() | {max(known) + 1}  # one more may be on disk than was told
            assert found.keys() <= told
            assert not any(store.held(lease_id) for lease_id in found)
            store.reap()
            assert not store.leases(states=[LeaseState.CLAIMED])
            for lease_id, lease in found.items():
                known.setdefault(lease_id, ("claimed", int(lease.address) - int(address(0))))
            store.forget(reserved(store, 999_999).id)
    assert Counter(what for what, _ in known.values()).keys() == {"claimed", "bound", "forgetting"}


def test_a_lease_is_on_the_disk_itself_before_it_is_told(store: SqliteLeaseStore) -> None:
    """Against loss of power, which no test can bring about: the log is flushed at each commit."""
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 2


def locked_by_us(path: Path) -> bool:
    """Whether this process has a POSIX lock on the file (proc(5), locks)."""
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    ours = [lock[5] for lock in locks if lock[1] == "POSIX" and lock[4] == str(os.getpid())]
    return any(inode.rpartition(":")[2] == str(path.stat().st_ino) for inode in ours)


def test_threads_that_make_the_store_at_the_same_moment_keep_their_locks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To close any descriptor of a file gives up all POSIX locks that the process has on it (fcntl(2)).

    Then the next process that leaves would take itself for the last one, and remove the log that we go on to write to.
    """
    barrier = threading.Barrier(8)
    close = os.close

    def close_late(fd: int) -> None:
        time.sleep(0.05)
        close(fd)

    def open_it(_: int) -> SqliteLeaseStore:
        barrier.wait()
        return SqliteLeaseStore(path)

    monkeypatch.setattr(os, "close", close_late)
    with ThreadPoolExecutor(barrier.parties) as pool:
        stores = list(pool.map(open_it, range(barrier.parties)))
    assert locked_by_us(path)
    for store in stores:
        store.close()
    assert not locked_by_us(path)
