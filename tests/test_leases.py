"""The lease store: states by the clock, and what stays true when processes race, die at any moment, or cannot write."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import select
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arpipam import leases as leases_module
from arpipam.errors import LeaseError
from arpipam.leases import Lease, SqliteLeaseStore, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerProcess
    from multiprocessing.synchronize import Barrier

MAC = "02:5e:00:00:00:01"
NOBODY = 65534
DAY = 86400.0

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["arpipam.leases"])


def address(number: int) -> IPv4Address:
    return IPv4Address("10.0.0.0") + number


def reserve(store: SqliteLeaseStore, number: int = 7, owner: str = "web", interface: str = "br0") -> Lease | None:
    return store.reserve(interface, address(number), 24, MAC, owner)


def reserved(store: SqliteLeaseStore, number: int = 7, owner: str = "web", interface: str = "br0") -> Lease:
    lease = reserve(store, number, owner, interface)
    assert lease is not None
    return lease


def refusal(call: Callable[[], object]) -> str:
    """What it says, in one line, when it refuses."""
    with pytest.raises(LeaseError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    return said


class Clock:
    """Stands where time.time is."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "leases.db"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[SqliteLeaseStore]:
    with SqliteLeaseStore(path, clock=clock) as store:
        yield store


@pytest.fixture
def other(path: Path, clock: Clock, store: SqliteLeaseStore) -> Iterator[SqliteLeaseStore]:
    """What another process would have open: it shares only the files."""
    assert store.path == path
    with SqliteLeaseStore(path, clock=clock) as other:
        yield other


# States.


def test_a_reserved_address_is_claimed_by_this_process(store: SqliteLeaseStore, clock: Clock) -> None:
    lease = reserved(store)
    expected = Lease(1, "br0", address(7), 24, MAC, "web", State.CLAIMED, "", clock.now, clock.now, 0.0)
    assert lease == expected
    assert store.get(lease.id) == expected
    assert store.leases() == [expected]
    assert store.held(lease.id)


def test_a_leased_address_goes_to_nobody_else(store: SqliteLeaseStore, other: SqliteLeaseStore) -> None:
    lease = reserved(store)
    assert reserve(other, owner="db") is None
    assert reserve(store, owner="web") is None  # nor a second time to its owner
    store.bind(lease.id, "c0ffee")
    assert reserve(other, owner="db") is None
    assert store.leases() == other.leases() == [store.get(lease.id)]


def test_the_same_address_may_be_leased_on_another_interface(store: SqliteLeaseStore) -> None:
    ours, theirs = reserved(store, interface="br0"), reserved(store, interface="br1")
    assert store.leases() == [ours, theirs]
    assert store.leases("br1") == [theirs]
    assert store.leases("br2") == []


def test_a_bound_lease_belongs_to_its_container_and_outlives_its_process(path: Path, clock: Clock) -> None:
    with SqliteLeaseStore(path, clock=clock) as store:
        lease = reserved(store)
        clock.now += 5
        bound = store.bind(lease.id, "c0ffee")
        assert bound == replace(lease, state=State.BOUND, container="c0ffee", changed=clock.now)
    clock.now += 365 * DAY
    with SqliteLeaseStore(path, clock=clock) as store:
        assert not store.held(lease.id)
        assert store.reap() == []
        assert store.leases() == [bound]
        assert reserve(store, owner="db") is None


def test_a_released_address_is_kept_from_others_for_the_time_of_its_quarantine(
    store: SqliteLeaseStore, clock: Clock
) -> None:
    lease = reserved(store)
    store.release(lease.id, quarantine=60)
    assert store.get(lease.id).state is State.QUARANTINED
    assert store.get(lease.id).until == clock.now + 60
    assert not store.held(lease.id)
    clock.now += 59.9
    assert reserve(store, owner="db") is None
    assert [lease.state for lease in store.leases()] == [State.QUARANTINED]
    clock.now += 0.1
    assert store.leases() == []
    assert reserved(store, owner="db").owner == "db"
    assert store.get(lease.id).state is State.RELEASED


def test_an_owner_gets_its_address_back_in_quarantine(store: SqliteLeaseStore) -> None:
    first = reserved(store)
    store.release(first.id)
    second = reserved(store)
    assert second.id != first.id
    assert store.leases() == [second]
    assert store.get(first.id).state is State.RELEASED


def test_a_release_without_quarantine_frees_the_address_at_once(store: SqliteLeaseStore) -> None:
    store.release(reserved(store).id, quarantine=0)
    assert reserved(store, owner="db").owner == "db"


def test_a_second_release_does_not_touch_the_lease_that_came_after(store: SqliteLeaseStore) -> None:
    first = reserved(store)
    store.release(first.id)
    second = reserved(store)
    store.release(first.id)
    assert store.leases() == [second]
    assert store.held(second.id)
    store.forget(second.id)
    store.release(first.id)
    assert reserved(store, owner="db").owner == "db"


def test_a_forgotten_address_is_free_at_once_and_leaves_no_trace(store: SqliteLeaseStore) -> None:
    lease = reserved(store)
    store.forget(lease.id)
    assert store.leases(states=list(State)) == []
    assert store.last_address("br0", "web") is None
    assert not store.held(lease.id)
    assert refusal(lambda: store.get(lease.id)).endswith(f"has no lease {lease.id}; was it released meanwhile?")
    assert reserved(store, owner="db").id > lease.id  # numbers are never used again


def test_a_lease_that_is_gone_cannot_be_bound(store: SqliteLeaseStore) -> None:
    lease = reserved(store)
    store.forget(lease.id)
    assert f"has no lease {lease.id}" in refusal(lambda: store.bind(lease.id, "c0ffee"))


def test_an_address_that_is_anothers_by_now_cannot_be_bound(store: SqliteLeaseStore) -> None:
    first = reserved(store)
    store.release(first.id, quarantine=0)
    second = reserved(store, owner="db")
    said = refusal(lambda: store.bind(first.id, "c0ffee"))
    assert said.endswith("was the address leased to another meanwhile? see `arpipam leases`")
    assert store.leases() == [second]


def test_leases_are_listed_by_interface_and_address_and_by_state(store: SqliteLeaseStore, clock: Clock) -> None:
    third, second, first = reserved(store, 1, interface="br1"), reserved(store, 9), reserved(store, 2)
    assert store.leases() == [first, second, third]
    store.bind(second.id, "c0ffee")
    store.release(third.id, quarantine=60)
    assert store.leases(states=[State.CLAIMED]) == [first]
    assert store.leases(states=[State.BOUND, State.QUARANTINED]) == [store.get(second.id), store.get(third.id)]
    clock.now += 60
    store.reap()
    assert store.leases(states=[State.RELEASED]) == [store.get(third.id)]


def test_the_last_address_of_an_owner_is_the_one_it_had_last(store: SqliteLeaseStore, clock: Clock) -> None:
    assert store.last_address("br0", "web") is None
    store.release(reserved(store, 7).id, quarantine=60)
    assert store.last_address("br0", "web") == address(7)
    clock.now += 1
    lease = reserved(store, 8)
    assert store.last_address("br0", "web") == address(8)
    store.release(lease.id, quarantine=0)
    assert store.last_address("br0", "web") == address(8)
    clock.now += 60
    store.reap()  # the quarantine of the first ends after all that
    assert store.last_address("br0", "web") == address(8)
    assert store.last_address("br1", "web") is None
    assert store.last_address("br0", "db") is None


def test_a_last_address_is_remembered_for_a_month(store: SqliteLeaseStore, clock: Clock) -> None:
    lease = reserved(store)
    store.release(lease.id, quarantine=60)
    clock.now += 29 * DAY
    store.reap()
    assert store.last_address("br0", "web") == address(7)
    clock.now += 2 * DAY
    store.reap()
    assert store.last_address("br0", "web") is None
    assert store.leases(states=list(State)) == []


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
    assert reaped == [replace(dead, state=State.QUARANTINED, changed=clock.now, until=clock.now + 30)]
    assert [lease.state for lease in store.leases()] == [
        State.CLAIMED,
        State.QUARANTINED,
        State.CLAIMED,
        State.BOUND,
    ]
    assert other.reap(keep=[kept.id]) == []


def test_a_lease_is_held_before_another_process_can_see_and_reap_it(
    store: SqliteLeaseStore, other: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Lease]] = []
    hold = store._holders.hold

    def watched(lease_id: int) -> None:
        seen.append(other.leases())
        hold(lease_id)

    monkeypatch.setattr(store._holders, "hold", watched)
    lease = reserved(store)
    assert seen == [[]]
    assert other.leases() == [lease]
    assert other.reap() == []


def test_only_the_process_that_holds_a_lease_has_a_descriptor_of_it(
    store: SqliteLeaseStore, other: SqliteLeaseStore
) -> None:
    lease = reserved(store)
    assert os.fstat(store.holder(lease.id)).st_size == 0
    assert not os.get_inheritable(store.holder(lease.id))
    assert refusal(lambda: other.holder(lease.id)).endswith(f"this process does not hold lease {lease.id}")
    store.release(lease.id)
    assert refusal(lambda: store.holder(lease.id)).endswith(f"this process does not hold lease {lease.id}")


def test_a_child_that_inherits_the_descriptor_holds_on_after_its_parent(path: Path) -> None:
    with SqliteLeaseStore(path) as watcher:
        with SqliteLeaseStore(path) as store:
            lease, without = reserved(store, 7), reserved(store, 8)
            fd = store.holder(lease.id)
            child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[fd])
        with child:
            assert watcher.held(lease.id)
            assert [reaped.id for reaped in watcher.reap()] == [without.id]
        assert not watcher.held(lease.id)
        assert [reaped.id for reaped in watcher.reap()] == [lease.id]


@contextmanager
def process(target: Callable[..., None], *words: object) -> Iterator[tuple[ForkServerProcess, Connection[Any, Any]]]:
    """`target(connection, *words)` in a process of its own, and our end of the connection; killed at the end."""
    ours, theirs = PROCESSES.Pipe()
    started = PROCESSES.Process(target=target, args=(theirs, *words))
    started.start()
    theirs.close()
    try:
        yield started, ours
    finally:
        started.kill()
        started.join()
        started.close()
        ours.close()


def hold_with_a_child(connection: Connection[Any, Any], path: Path) -> None:
    store = SqliteLeaseStore(path)
    lease, without = reserved(store, 7), reserved(store, 8)
    child = subprocess.Popen(["sleep", "1000"], pass_fds=[store.holder(lease.id)])
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
                assert what != "bound" or found[lease_id].state is State.BOUND
            told = known.keys() | {max(known) + 1}  # one more may be on disk than was told
            assert found.keys() <= told
            assert not any(store.held(lease_id) for lease_id in found)
            store.reap()
            assert not store.leases(states=[State.CLAIMED])
            for lease_id, lease in found.items():
                known.setdefault(lease_id, ("claimed", int(lease.address) - int(address(0))))
            store.forget(reserved(store, 999_999).id)
    assert Counter(what for what, _ in known.values()).keys() == {"claimed", "bound", "forgetting"}


def test_a_lease_is_on_the_disk_itself_before_it_is_told(store: SqliteLeaseStore) -> None:
    """Against loss of power, which no test can bring about: the log is flushed at each commit."""
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 2


# What cannot be used.


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
    assert "a damaged file may be moved away" in said
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


def test_the_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    assert refusal(lambda: SqliteLeaseStore(path)) == (
        f"lease store {path} was written by another version of arpipam (format 2, this one knows 1); "
        "update arpipam, or choose another folder with --state-dir"
    )
    assert path.read_bytes() == before


def test_a_store_that_another_process_does_not_let_go_of_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_module, "_BUSY", 0.05)
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


# Any sequence of steps.


@dataclass
class Known:
    """What the model knows of an active lease."""

    id: int
    owner: str
    state: State
    until: float = 0.0
    holder: int | None = None


PLACES = st.tuples(st.sampled_from(["br0", "br1"]), st.integers(1, 3))
WHICH = st.sampled_from([0, 1])


class Steps(RuleBasedStateMachine):
    """Two processes on one store, against a model of it; never are two active leases on one address."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.stores = [self.open(), self.open()]
        self.active: dict[tuple[str, int], Known] = {}
        self.past: dict[int, tuple[str, int]] = {}

    def open(self) -> SqliteLeaseStore:
        store = SqliteLeaseStore(Path(self.folder.name) / "leases.db", clock=self.clock)
        store._db.execute("PRAGMA synchronous = OFF")
        return store

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.folder.cleanup()

    def end_quarantines(self) -> None:
        over = [
            place
            for place, known in self.active.items()
            if known.state is State.QUARANTINED and known.until <= self.clock.now
        ]
        for place in over:
            del self.active[place]

    @rule(which=WHICH, place=PLACES, owner=st.sampled_from(["web", "db"]))
    def reserve(self, which: int, place: tuple[str, int], owner: str) -> None:
        known = self.active.get(place)
        lease = reserve(self.stores[which], place[1], owner, place[0])
        if known is not None and not (known.state is State.QUARANTINED and known.owner == owner):
            assert lease is None
            return
        assert lease is not None
        assert lease.id not in self.past
        self.past[lease.id] = place
        self.active[place] = Known(lease.id, owner, State.CLAIMED, holder=which)

    @precondition(lambda self: self.active)
    @rule(which=WHICH, data=st.data())
    def bind(self, which: int, data: st.DataObject) -> None:
        known = self.active[data.draw(st.sampled_from(sorted(self.active)))]
        assert self.stores[which].bind(known.id, "c0ffee").state is State.BOUND
        known.state = State.BOUND

    @precondition(lambda self: self.active)
    @rule(which=WHICH, quarantine=st.sampled_from([0.0, 10.0, 60.0]), data=st.data())
    def release(self, which: int, quarantine: float, data: st.DataObject) -> None:
        known = self.active[data.draw(st.sampled_from(sorted(self.active)))]
        self.stores[which].release(known.id, quarantine=quarantine)
        known.state, known.until = State.QUARANTINED, self.clock.now + quarantine

    @precondition(lambda self: self.active)
    @rule(which=WHICH, data=st.data())
    def release_one_that_was_succeeded(self, which: int, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.active)))
        for lease_id, at in self.past.items():
            if at == place and lease_id != self.active[place].id:
                self.stores[which].release(lease_id)

    @precondition(lambda self: self.active)
    @rule(which=WHICH, data=st.data())
    def forget(self, which: int, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.active)))
        self.stores[which].forget(self.active.pop(place).id)

    @rule(which=WHICH)
    def die(self, which: int) -> None:
        self.stores[which].close()
        self.stores[which] = self.open()
        for known in self.active.values():
            if known.holder == which:
                known.holder = None

    @rule(which=WHICH)
    def reap(self, which: int) -> None:
        dead = [k for k in self.active.values() if k.state is State.CLAIMED and k.holder is None]
        assert {lease.id for lease in self.stores[which].reap(quarantine=60)} == {known.id for known in dead}
        for known in dead:
            known.state, known.until = State.QUARANTINED, self.clock.now + 60

    @rule(seconds=st.sampled_from([1.0, 10.0, 59.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.end_quarantines()

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        self.end_quarantines()
        for store in self.stores:
            leases = store.leases()
            assert max(Counter((lease.interface, lease.address) for lease in leases).values(), default=1) == 1
            found = {
                (lease.interface, int(lease.address) - int(address(0))): (lease.id, lease.owner, lease.state)
                for lease in leases
            }
            assert found == {place: (known.id, known.owner, known.state) for place, known in self.active.items()}
            for known in self.active.values():
                assert known.state is not State.CLAIMED or store.held(known.id) == (known.holder is not None)


TestSteps = Steps.TestCase
TestSteps.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
