"""The memory of stations on disk: what is written and loaded, and what may go wrong."""

from __future__ import annotations

import sqlite3
import stat
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from arpipam.errors import LeaseError
from launcher.agent.memory import AGE, Seen, Stations, StationStore
from tests.support.station_memory import DAY, LINK, NOW, Clock, addresses, mac, on_disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state/stations.db"


# On disk.


def test_only_what_changed_is_written(path: Path) -> None:
    with StationStore(path, Clock()) as store:
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
    with StationStore(path, Clock()) as store:
        stations = store.load(LINK, limit=10)
        for number in range(1, 1001):
            stations.see(number, mac(number), NOW)
        assert stations.changes().gone == []
        store.save(LINK, stations)
        assert len(on_disk(path)) == 10


def test_of_more_than_there_is_room_for_those_seen_last_are_loaded(path: Path) -> None:
    with StationStore(path, Clock()) as store:
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
    with StationStore(path, clock) as store:
        for link, number in (("br0", 1), ("br1", 2)):
            stations = store.load(link)
            stations.see(7, mac(number), NOW)
            store.save(link, stations)
        assert [one.mac for one in store.load("br0")] == [mac(1)]
        assert [one.mac for one in store.load("br1")] == [mac(2)]
        clock.now += AGE + 1
        store.save("br0", Stations())
        assert list(store.load("br1")) == []  # too old, also where another link is saved


def test_sightings_of_a_future_that_did_not_come_are_of_today(path: Path) -> None:
    clock = Clock(NOW + 365 * DAY)
    with StationStore(path, clock) as store:
        stations = store.load(LINK)
        stations.see(7, mac(7), clock.now)
        store.save(LINK, stations)
        clock.now = NOW
        assert store.load(LINK).seen(7) == Seen(7, mac(7), NOW, NOW)


def test_it_is_of_no_one_elses_business(path: Path) -> None:
    with StationStore(path, Clock()):
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_sightings_on_one_thread_and_saves_on_another(path: Path) -> None:
    with StationStore(path, Clock()) as store:
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
    assert refusal(lambda: StationStore(path, Clock())) == (
        f"memory of stations {path}: file is not a database; is the disk full or read-only? a damaged file may be "
        "moved away: what it holds is seen again"
    )


def test_a_file_that_is_damaged_further_in_is_named(path: Path) -> None:
    with StationStore(path, Clock()) as store:
        stations = store.load(LINK)
        for number in range(1, 5001):
            stations.see(number, mac(number), NOW)
        store.save(LINK, stations)
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)
    with StationStore(path, Clock()) as store:
        assert "malformed" in refusal(lambda: store.load(LINK))


def test_a_locked_file_is_named_and_nothing_is_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arpipam.leases.database._BUSY", 0.05)
    with StationStore(path, Clock()) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        stations = store.load(LINK)
        stations.see(7, mac(7), NOW)
        other.execute("BEGIN IMMEDIATE")
        assert "database is locked; is another process stuck on it?" in refusal(lambda: store.save(LINK, stations))
        other.execute("ROLLBACK")
        store.save(LINK, stations)
        assert on_disk(path).keys() == {7}


def test_a_save_that_fails_half_way_changes_nothing(path: Path) -> None:
    with StationStore(path, Clock()) as store:
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
    StationStore(path, Clock()).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 7")
    assert "format 7, this one knows 1" in refusal(lambda: StationStore(path, Clock()))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    assert "--state-dir" in refusal(lambda: StationStore(tmp_path / "state/stations.db", Clock()))
