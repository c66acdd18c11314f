"""What is particular to the SQLite store: how much it remembers, and quarantines across a reboot."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from arpipam.leases import sqlite
from arpipam.leases.clock import HostClock
from arpipam.leases.lease import LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore
from tests.support.leases import MAC, Clock, address, refusal, reserve, reserved


def test_a_lease_that_was_released_long_ago_is_forgotten_by_number_too(
    store: SqliteLeaseStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sqlite._MOST_RELEASED == 4096
    monkeypatch.setattr(sqlite, "_MOST_RELEASED", 3)
    held, resting = reserved(store, 100, "db"), reserved(store, 101, "db")
    store.release(resting.id, quarantine=60)
    for number in range(1, 10):
        clock.now += 1
        store.release(reserved(store, number, f"web-{number}").id, quarantine=0)
    clock.now += 1
    store.reap()
    assert [lease.owner for lease in store.leases(states=[LeaseState.RELEASED])] == ["web-7", "web-8", "web-9"]
    assert store.last_address("br0", "web-6") is None
    assert store.last_address("br0", "web-7") == address(7)
    assert store.leases() == [held, store.get(resting.id)]  # what is in use, or rests, does not count
    store.reap()
    assert len(store.leases(states=[LeaseState.RELEASED])) == 3


def test_as_many_as_are_kept_are_all_kept(store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_MOST_RELEASED", 3)
    for number in range(1, 4):
        store.release(reserved(store, number).id, quarantine=0)
    store.reap()
    assert len(store.leases(states=[LeaseState.RELEASED])) == 3


@pytest.mark.parametrize(
    ("calendar", "rests"),
    [(0.0, 40.0), (-3600.0, 60.0), (-30.0, 60.0), (-10.0, 50.0), (3600.0, 0.0)],
)
def test_after_a_reboot_a_quarantine_goes_on_by_the_calendar_but_never_beyond_its_length(
    path: Path, clock: Clock, calendar: float, rests: float
) -> None:
    with SqliteLeaseStore(path, clock=clock) as store:
        store.release(reserved(store).id, quarantine=60)
    clock.reboot(takes=20)
    clock.set(calendar)
    with SqliteLeaseStore(path, clock=clock) as store:
        if rests:
            clock.now += rests - 0.1
            assert [lease.state for lease in store.leases()] == [LeaseState.QUARANTINED]
            assert reserve(store, owner="db") is None
            clock.now += 0.1
        assert store.leases() == []
        assert reserved(store, owner="db").owner == "db"


def test_a_reboot_ends_no_lease_that_is_bound(path: Path, clock: Clock) -> None:
    with SqliteLeaseStore(path, clock=clock) as store:
        bound = store.bind(reserved(store).id, "c0ffee")
    clock.reboot(takes=3600)
    clock.set(-7200)
    with SqliteLeaseStore(path, clock=clock) as store:
        assert store.reap() == []
        assert store.leases() == [bound]


def test_the_clocks_of_this_host_run_and_tell_its_boot() -> None:
    one, two = HostClock(), HostClock()
    assert one.boot == two.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert one.elapsed() <= two.elapsed() <= one.elapsed()
    assert one.calendar() > 1e9


def test_answers_that_nobody_asks_for_any_more_are_forgotten(store: SqliteLeaseStore, path: Path, clock: Clock) -> None:
    def kept() -> list[tuple[int]]:
        with closing(sqlite3.connect(path)) as file:
            return file.execute("SELECT address FROM answer ORDER BY address").fetchall()

    for number in (1, 2):
        store.note_answers("br0", {address(number): MAC})
        clock.now += 30
    store.note_answers("br0", {address(3): MAC})
    assert kept() == [(int(address(number)),) for number in (1, 2, 3)]
    clock.now += 0.1
    store.note_answers("br1", {address(4): MAC})
    assert kept() == [(int(address(number)),) for number in (2, 3, 4)]
    clock.reboot(takes=1)
    store.note_answers("br0", {address(5): MAC})
    assert kept() == [(int(address(5)),)]


def test_where_an_address_is_anothers_by_now_it_says_where_to_look(store: SqliteLeaseStore) -> None:
    first = reserved(store)
    store.release(first.id, quarantine=0)
    reserved(store, owner="db")
    said = refusal(lambda: store.bind(first.id, "c0ffee"))
    assert said.endswith("; was the address leased to another meanwhile? see `arpipam leases`")


def test_a_store_that_is_closed_is_of_no_use_any_more(path: Path, clock: Clock) -> None:
    with SqliteLeaseStore(path, clock=clock) as store:
        lease = reserved(store)
        assert store.held(lease.id)
    assert not store.held(lease.id)
    assert "closed database" in refusal(store.leases)
