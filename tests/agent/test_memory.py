"""The memory of stations: its bounds and order against a plain model, and what is on disk after each save."""

from __future__ import annotations

import sqlite3
import stat
import sys
import tempfile
import threading
import time
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from arpipam.errors import LeaseError
from launcher.agent.memory import AGE, NEWCOMERS, REGULAR, Seen, Stations, StationStore

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1_700_000_000.0
DAY = 86400.0
LINK = "br0"


def mac(number: int) -> bytes:
    return b"\x02\x5e" + number.to_bytes(4, "big")


def addresses(stations: Stations) -> set[int]:
    return {one.address for one in stations}


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state/stations.db"


def on_disk(path: Path) -> dict[int, Seen]:
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT address, mac, first, last FROM station WHERE interface = ?", (LINK,))
        return {row[0]: Seen(*row) for row in rows}


# In memory.


def test_a_station_is_remembered_with_its_times() -> None:
    stations = Stations()
    stations.see(7, mac(1), NOW)
    stations.see(7, mac(1), NOW + 5)
    assert stations.seen(7) == Seen(7, mac(1), NOW, NOW + 5)
    assert stations.seen(8) is None
    assert 7 in stations
    assert 8 not in stations


def test_the_sender_of_a_probe_is_nobody() -> None:
    stations = Stations()
    stations.see(0, mac(1), NOW)
    assert list(stations) == []


def test_another_mac_starts_anew() -> None:
    stations = Stations()
    stations.see(7, mac(1), NOW)
    stations.see(7, mac(2), NOW + 5)
    stations.see(7, mac(2), NOW + 6)
    assert stations.seen(7) == Seen(7, mac(2), NOW + 5, NOW + 6)


def test_recent_ones_are_those_seen_since() -> None:
    stations = Stations()
    for number in range(1, 11):
        stations.see(number, mac(number), NOW + number)
    stations.see(1, mac(1), NOW + 9.5)
    assert stations.recent(NOW + 9) == {1, 9, 10}
    assert stations.recent(NOW + 11) == set()


def test_a_clock_that_is_set_back_hides_nobody() -> None:
    stations = Stations()
    stations.see(1, mac(1), NOW + 1000)
    stations.see(2, mac(2), NOW)
    stations.see(1, mac(1), NOW + 1)
    assert stations.seen(1) == Seen(1, mac(1), NOW + 1, NOW + 1)
    assert stations.recent(NOW) == {1, 2}


def test_what_is_forgotten_was_never_seen() -> None:
    stations = Stations()
    for number in (1, 2, 3):
        stations.see(number, mac(number), NOW + number)
    stations.forget(2)
    stations.forget(99)
    stations.forget_before(NOW + 3)
    assert addresses(stations) == {3}


def test_of_newcomers_the_one_not_seen_for_longest_goes() -> None:
    stations = Stations(limit=8)
    for number in range(1, 9):
        stations.see(number, mac(number), NOW)
    stations.see(1, mac(1), NOW + 1)
    stations.see(9, mac(9), NOW + 1)
    assert addresses(stations) == {1, 3, 4, 5, 6, 7, 8, 9}


def test_a_flood_leaves_those_who_answer_regularly_and_takes_no_more_memory() -> None:
    stations = Stations(limit=4096)
    real = range(1, 1001)
    for turn in range(2):
        for number in real:
            stations.see(number, mac(number), NOW + turn * REGULAR)
    tracemalloc.start()
    try:
        sizes = []
        for turn in range(4):
            for number in range(10_000):
                stations.see(1_000_000 + turn * 10_000 + number, mac(number), NOW + 100 + turn)
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert len(stations) == 4096
    assert addresses(stations) > set(real)
    assert sizes[-1] < sizes[0] * 1.05


def test_among_many_regulars_newcomers_have_their_share() -> None:
    limit = 80
    stations = Stations(limit)
    for turn in range(2):
        for number in range(1, limit + 1):
            stations.see(number, mac(number), NOW + turn * REGULAR)
    for number in range(1001, 1001 + limit):
        stations.see(number, mac(number), NOW + 100)
    newcomers = {number for number in addresses(stations) if number > 1000}
    assert newcomers == set(range(1001 + limit - limit // NEWCOMERS, 1001 + limit))  # the last of them
    assert addresses(stations) - newcomers == set(range(1 + limit // NEWCOMERS, 1 + limit))


def test_a_borrowed_address_does_not_make_a_regular_go() -> None:
    stations = Stations(limit=16)
    for now in (NOW, NOW + REGULAR):
        stations.see(1, mac(1), now)
    stations.see(1, mac(99), NOW + REGULAR + 1)
    for number in range(100, 200):
        stations.see(number, mac(number), NOW + REGULAR + 2)
    assert 1 in stations


def test_a_sighting_costs_little() -> None:
    stations = Stations()
    for number in range(70_000):
        stations.see(number, mac(number), NOW)
    known = mac(1)

    def measure() -> float:
        start = time.perf_counter()
        for turn in range(20_000):
            stations.see(69_000 + turn % 900, known, NOW)
            stations.see(100_000 + turn, known, NOW)  # which pushes another one out
        return (time.perf_counter() - start) / 40_000

    assert min(measure() for _ in range(3)) < 10e-6  # a tenth of what 10,000 a second leave; measured: under 1e-6


class Remembering(RuleBasedStateMachine):
    """Against a model that keeps two plain lists, and the disk against what is in memory."""

    limit = 16
    share = 2

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "stations.db"
        self.store = StationStore(self.path, clock=self.clock)
        self.stations = self.store.load(LINK, limit=self.limit)
        self.newcomers: list[Seen] = []
        self.regulars: list[Seen] = []

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(address=st.integers(1, 24), number=st.integers(1, 2), later=st.sampled_from([0.0, 1.0, 30.0, REGULAR]))
    def see(self, address: int, number: int, later: float) -> None:
        self.clock.now += later
        now = self.clock.now
        self.stations.see(address, mac(number), now)
        part = self.newcomers
        first = now
        regular = False
        for old in (self.newcomers, self.regulars):
            for one in [one for one in old if one.address == address]:
                old.remove(one)
                regular = old is self.regulars or now - one.first >= REGULAR
                first = one.first if one.mac == mac(number) else now
        part = self.regulars if regular else self.newcomers
        part.append(Seen(address, mac(number), first, now))
        if len(self.newcomers) + len(self.regulars) > self.limit:
            (self.newcomers if len(self.newcomers) > self.share else self.regulars).pop(0)

    @rule(address=st.integers(1, 24))
    def forget(self, address: int) -> None:
        self.stations.forget(address)
        self.newcomers = [one for one in self.newcomers if one.address != address]
        self.regulars = [one for one in self.regulars if one.address != address]

    @rule(age=st.sampled_from([10.0, 100.0, 1000.0]))
    def save(self, age: float) -> None:
        self.store.save(LINK, self.stations, age=age)
        oldest = self.clock.now - age
        self.newcomers = [one for one in self.newcomers if one.last >= oldest]
        self.regulars = [one for one in self.regulars if one.last >= oldest]
        assert on_disk(self.path) == {one.address: one for one in [*self.newcomers, *self.regulars]}

    @rule()
    def start_anew(self) -> None:
        self.save(age=1000.0)
        self.store.close()
        self.store = StationStore(self.path, clock=self.clock)
        self.stations = self.store.load(LINK, limit=self.limit)
        known = sorted([*self.newcomers, *self.regulars], key=lambda one: (one.last, one.address))
        self.regulars = [one for one in known if one.last - one.first >= REGULAR]
        self.newcomers = [one for one in known if one.last - one.first < REGULAR]

    @invariant()
    def same(self) -> None:
        assert list(self.stations) == [*self.newcomers, *self.regulars]
        assert len(self.stations) <= self.limit
        for one in self.stations:
            assert one.first <= one.last
            assert self.stations.seen(one.address) == one
        middle = self.clock.now - 30
        assert self.stations.recent(middle) == {
            one.address for one in [*self.newcomers, *self.regulars] if one.last >= middle
        }


TestRemembering = Remembering.TestCase
TestRemembering.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


# On disk.


def test_only_what_changed_is_written(path: Path) -> None:
    with StationStore(path, clock=Clock()) as store:
        stations = store.load(LINK)
        for number in range(1, 101):
            stations.see(number, mac(number), NOW)
        assert len(stations.changes().seen) == 100
        store.save(LINK, stations)
        assert stations.changes() == ([], [])
        stations.see(7, mac(7), NOW + 1)
        stations.forget(8)
        assert stations.changes() == ([Seen(7, mac(7), NOW, NOW + 1)], [8])
        store.save(LINK, stations)
        assert stations.changes() == ([], [])
        stations.forget(9)
        stations.see(9, mac(9), NOW + 2)
        assert stations.changes() == ([Seen(9, mac(9), NOW + 2, NOW + 2)], [])
    assert on_disk(path).keys() == set(range(1, 101)) - {8}
    assert on_disk(path)[7].last == NOW + 1


def test_what_was_pushed_out_before_it_was_saved_never_reaches_the_disk(path: Path) -> None:
    with StationStore(path, clock=Clock()) as store:
        stations = store.load(LINK, limit=10)
        for number in range(1, 1001):
            stations.see(number, mac(number), NOW)
        assert stations.changes().gone == []
        store.save(LINK, stations)
        assert len(on_disk(path)) == 10


def test_of_more_than_there_is_room_for_those_seen_last_are_loaded(path: Path) -> None:
    with StationStore(path, clock=Clock()) as store:
        stations = store.load(LINK)
        for number in range(1, 101):
            stations.see(number, mac(number), NOW + number)
        store.save(LINK, stations)
        stations = store.load(LINK, limit=10)
        assert addresses(stations) == set(range(91, 101))
        store.save(LINK, stations)
        assert on_disk(path).keys() == set(range(91, 101))


def test_changes_while_it_is_written_are_not_lost() -> None:
    stations = Stations(limit=2)
    for number in (1, 2):
        stations.see(number, mac(number), NOW)
    changes = stations.changes()
    stations.see(2, mac(2), NOW + 1)  # seen again
    stations.see(3, mac(3), NOW + 1)  # pushes 1 out, whose row is being written
    stations.stored(changes)
    assert stations.changes() == ([Seen(2, mac(2), NOW, NOW + 1), Seen(3, mac(3), NOW + 1, NOW + 1)], [1])


def test_links_are_kept_apart(path: Path) -> None:
    clock = Clock()
    with StationStore(path, clock=clock) as store:
        for link, number in (("br0", 1), ("br1", 2)):
            stations = store.load(link)
            stations.see(7, mac(number), NOW)
            store.save(link, stations)
        assert [one.mac for one in store.load("br0")] == [mac(1)]
        assert [one.mac for one in store.load("br1")] == [mac(2)]
        clock.now += AGE + 1
        store.save("br0", Stations())
        assert list(store.load("br1")) == []  # too old, whoever saves


def test_sightings_of_a_future_that_did_not_come_are_of_today(path: Path) -> None:
    clock = Clock(NOW + 365 * DAY)
    with StationStore(path, clock=clock) as store:
        stations = store.load(LINK)
        stations.see(7, mac(7), clock.now)
        store.save(LINK, stations)
        clock.now = NOW
        assert store.load(LINK).seen(7) == Seen(7, mac(7), NOW, NOW)


def test_it_is_of_no_one_elses_business(path: Path) -> None:
    with StationStore(path):
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_sightings_on_one_thread_and_saves_on_another(path: Path) -> None:
    with StationStore(path, clock=Clock()) as store:
        stations = store.load(LINK, limit=500)
        ending = threading.Event()
        errors = []
        before = sys.getswitchinterval()

        def look() -> None:
            try:
                while not ending.is_set():
                    store.save(LINK, stations)
                    stations.recent(NOW)
                    list(stations)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test shall tell
                errors.append(error)

        looking = threading.Thread(target=look)
        sys.setswitchinterval(1e-5)
        looking.start()
        try:
            for turn in range(100_000):
                stations.see(turn * 7919 % 1000 + 1, mac(turn % 3), NOW + turn / 1000)
        finally:
            ending.set()
            looking.join()
            sys.setswitchinterval(before)
        assert errors == []
        store.save(LINK, stations)
        assert on_disk(path) == {one.address: one for one in stations}


# What may go wrong.


def refusal(call: Callable[[], object]) -> str:
    """What it says, in one line, when it refuses."""
    with pytest.raises(LeaseError) as caught:
        call()
    [line] = str(caught.value).splitlines()
    return line


def test_a_damaged_file_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all, " * 1000)
    assert refusal(lambda: StationStore(path)) == (
        f"memory of stations {path}: file is not a database; is the disk full or read-only? a damaged file may be "
        "moved away: what it holds is seen again"
    )


def test_a_file_that_is_damaged_further_in_is_named(path: Path) -> None:
    with StationStore(path, clock=Clock()) as store:
        stations = store.load(LINK)
        for number in range(1, 5001):
            stations.see(number, mac(number), NOW)
        store.save(LINK, stations)
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)
    with StationStore(path) as store:
        assert "malformed" in refusal(lambda: store.load(LINK))


def test_a_locked_file_is_named_and_nothing_is_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arpipam.leases.database._BUSY", 0.05)
    with StationStore(path, clock=Clock()) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        stations = store.load(LINK)
        stations.see(7, mac(7), NOW)
        other.execute("BEGIN IMMEDIATE")
        assert "database is locked; is another process stuck on it?" in refusal(lambda: store.save(LINK, stations))
        other.execute("ROLLBACK")
        store.save(LINK, stations)
        assert on_disk(path).keys() == {7}


def test_a_save_that_fails_half_way_changes_nothing(path: Path) -> None:
    with StationStore(path, clock=Clock()) as store:
        stations = store.load(LINK)
        stations.see(7, mac(7), NOW)
        stations.see(8, b"no MAC", NOW)
        stations.see(9, b"long ago no MAC", NOW)
        assert "CHECK constraint failed" in refusal(lambda: store.save(LINK, stations))
        assert on_disk(path) == {}
        stations.forget(9)
        store.save(LINK, stations)
        assert on_disk(path).keys() == {7, 8}


def test_a_file_of_another_version_is_named(path: Path) -> None:
    StationStore(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 7")
    assert "format 7, this one knows 1" in refusal(lambda: StationStore(path))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    assert "--state-dir" in refusal(lambda: StationStore(tmp_path / "state/stations.db"))
