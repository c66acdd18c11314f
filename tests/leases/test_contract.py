"""What every lease store does: who has an address, for how long, and who gets it next."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from arpipam.leases.lease import Lease, LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore
from tests.support.leases import DAY, MAC, Clock, address, refusal, reserve, reserved
from tests.support.memory_store import MemoryLeaseStore, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from arpipam.leases.lease import LeaseStore

OTHER_MAC = "02:00:5e:10:00:99"


@pytest.fixture(params=["sqlite", "memory"])
def opened(request: pytest.FixtureRequest, path: Path, clock: Clock) -> Callable[[], LeaseStore]:
    """Opens one and the same store, each time as another process would."""
    record = Record()

    def memory() -> LeaseStore:
        return MemoryLeaseStore(record, clock)

    def sqlite() -> LeaseStore:
        return SqliteLeaseStore(path, clock=clock)

    return memory if request.param == "memory" else sqlite


@pytest.fixture
def store(opened: Callable[[], LeaseStore]) -> Iterator[LeaseStore]:
    store = opened()
    yield store
    store.close()


@pytest.fixture
def other(opened: Callable[[], LeaseStore]) -> Iterator[LeaseStore]:
    other = opened()
    yield other
    other.close()


def test_a_reserved_address_is_claimed_by_this_process(store: LeaseStore, clock: Clock) -> None:
    lease = reserved(store)
    expected = Lease(1, "br0", address(7), 24, MAC, "web", LeaseState.CLAIMED, "", clock.now, clock.now, 0.0)
    assert lease == expected
    assert store.get(lease.id) == expected
    assert store.leases() == [expected]
    assert store.held(lease.id)


def test_a_leased_address_goes_to_nobody_else(store: LeaseStore, other: LeaseStore) -> None:
    lease = reserved(store)
    assert reserve(other, owner="db") is None
    assert reserve(store, owner="web") is None  # nor a second time to its owner
    store.bind(lease.id, "c0ffee")
    assert reserve(other, owner="db") is None
    assert store.leases() == other.leases() == [store.get(lease.id)]


def test_the_same_address_may_be_leased_on_another_interface(store: LeaseStore) -> None:
    ours, theirs = reserved(store, interface="br0"), reserved(store, interface="br1")
    assert store.leases() == [ours, theirs]
    assert store.leases("br1") == [theirs]
    assert store.leases("br2") == []


def test_a_bound_lease_belongs_to_its_container_and_outlives_its_process(
    store: LeaseStore, other: LeaseStore, clock: Clock
) -> None:
    lease = reserved(store)
    clock.now += 5
    bound = store.bind(lease.id, "c0ffee")
    assert bound == replace(lease, state=LeaseState.BOUND, container="c0ffee", changed=clock.now)
    assert other.held(lease.id)
    store.close()
    clock.now += 365 * DAY
    assert not other.held(lease.id)
    assert other.reap() == []
    assert other.leases() == [bound]
    assert reserve(other, owner="db") is None


def test_a_released_address_is_kept_from_others_for_the_time_of_its_quarantine(store: LeaseStore, clock: Clock) -> None:
    lease = reserved(store)
    store.release(lease.id, quarantine=60)
    assert store.get(lease.id).state is LeaseState.QUARANTINED
    assert store.get(lease.id).until == clock.now + 60
    assert not store.held(lease.id)
    clock.now += 59.9
    assert reserve(store, owner="db") is None
    assert [lease.state for lease in store.leases()] == [LeaseState.QUARANTINED]
    clock.now += 0.1
    assert store.leases() == []
    assert reserved(store, owner="db").owner == "db"
    assert store.get(lease.id).state is LeaseState.RELEASED


def test_an_owner_gets_its_address_back_in_quarantine(store: LeaseStore) -> None:
    first = reserved(store)
    store.release(first.id)
    second = reserved(store)
    assert second.id != first.id
    assert store.leases() == [second]
    assert store.get(first.id).state is LeaseState.RELEASED


def test_a_release_without_quarantine_frees_the_address_at_once(store: LeaseStore) -> None:
    store.release(reserved(store).id, quarantine=0)
    assert reserved(store, owner="db").owner == "db"


def test_a_second_release_does_not_touch_the_lease_that_came_after(store: LeaseStore) -> None:
    first = reserved(store)
    store.release(first.id)
    second = reserved(store)
    store.release(first.id)
    assert store.leases() == [second]
    assert store.held(second.id)
    store.forget(second.id)
    store.release(first.id)
    assert reserved(store, owner="db").owner == "db"


def test_a_forgotten_address_is_free_at_once_and_leaves_no_trace(store: LeaseStore) -> None:
    lease = reserved(store)
    store.forget(lease.id)
    assert store.leases(states=list(LeaseState)) == []
    assert store.last_address("br0", "web") is None
    assert not store.held(lease.id)
    assert refusal(lambda: store.get(lease.id)).count(f"has no lease {lease.id}") == 1
    assert reserved(store, owner="db").id > lease.id  # numbers are never used again


def test_a_lease_that_is_gone_cannot_be_bound(store: LeaseStore) -> None:
    lease = reserved(store)
    store.forget(lease.id)
    assert f"has no lease {lease.id}" in refusal(lambda: store.bind(lease.id, "c0ffee"))


def test_an_address_that_is_anothers_by_now_cannot_be_bound(store: LeaseStore) -> None:
    first = reserved(store)
    store.release(first.id, quarantine=0)
    second = reserved(store, owner="db")
    said = refusal(lambda: store.bind(first.id, "c0ffee"))
    assert "leased to another meanwhile" in said
    assert store.leases() == [second]


def test_leases_are_listed_by_interface_and_address_and_by_state(store: LeaseStore, clock: Clock) -> None:
    third, second, first = reserved(store, 1, interface="br1"), reserved(store, 9), reserved(store, 2)
    assert store.leases() == [first, second, third]
    store.bind(second.id, "c0ffee")
    store.release(third.id, quarantine=60)
    assert store.leases(states=[LeaseState.CLAIMED]) == [first]
    assert store.leases(states=[LeaseState.BOUND, LeaseState.QUARANTINED]) == [
        store.get(second.id),
        store.get(third.id),
    ]
    clock.now += 60
    store.reap()
    assert store.leases(states=[LeaseState.RELEASED]) == [store.get(third.id)]


def test_the_last_address_of_an_owner_is_the_one_it_had_last(store: LeaseStore, clock: Clock) -> None:
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


def test_the_leases_in_no_state_are_none(store: LeaseStore) -> None:
    reserved(store)
    assert store.leases(states=()) == []


def test_a_quarantine_that_is_over_does_not_count_though_nobody_has_ended_it(
    store: LeaseStore, other: LeaseStore, clock: Clock
) -> None:
    store.release(reserved(store).id, quarantine=60)
    clock.now += 60
    for one in (store, other):
        assert one.leases() == one.leases(states=list(LeaseState)) == []
        assert one.leases("br0", states=[LeaseState.QUARANTINED]) == []


# Given by name, handed out, recorded.


def test_a_resting_address_goes_to_who_asks_for_it_by_name(store: LeaseStore, other: LeaseStore) -> None:
    first = reserved(store)
    store.release(first.id, quarantine=60)
    assert reserve(other, owner="db") is None
    lease = other.reserve("br0", address(7), 24, MAC, "db", rested=False)
    assert lease is not None
    assert store.leases() == [lease]
    assert store.get(first.id).state is LeaseState.RELEASED


@pytest.mark.parametrize("state", [LeaseState.CLAIMED, LeaseState.BOUND])
def test_not_even_by_name_goes_an_address_that_somebody_has(store: LeaseStore, state: LeaseState) -> None:
    lease = reserved(store)
    if state is LeaseState.BOUND:
        lease = store.bind(lease.id, "c0ffee")
    for owner in ("web", "db"):
        assert store.reserve("br0", address(7), 24, MAC, owner, rested=False) is None
    assert store.leases() == [lease]


@pytest.mark.parametrize("state", [LeaseState.CLAIMED, LeaseState.BOUND])
def test_what_is_handed_out_is_its_owners_under_its_mac_and_outlives_this_process(
    store: LeaseStore, other: LeaseStore, clock: Clock, state: LeaseState
) -> None:
    ready = reserved(store, owner="ready")
    if state is LeaseState.BOUND:
        store.bind(ready.id, "before")
    clock.now += 5
    lease = store.hand_out(ready.id, "02:5e:00:00:00:02", "web", "c0ffee")
    assert lease == replace(
        ready, mac="02:5e:00:00:00:02", owner="web", state=LeaseState.BOUND, container="c0ffee", changed=clock.now
    )
    assert other.leases() == [lease]
    assert not other.held(lease.id)
    assert other.reap() == []
    assert other.last_address("br0", "web") == address(7)
    assert other.last_address("br0", "ready") is None


def test_a_lease_may_come_to_another_owner_and_stay_as_it_is(store: LeaseStore, other: LeaseStore) -> None:
    lease = store.bind(reserved(store, owner="docker").id, "c0ffee")
    assert store.set_owner(lease.id, "web") == replace(lease, owner="web")
    assert other.leases() == [replace(lease, owner="web")]
    assert other.last_address("br0", "web") == address(7)
    assert "has no lease 99" in refusal(lambda: store.set_owner(99, "web"))


def test_who_is_told_to_own_it_does_not_say_under_which_mac(store: LeaseStore, other: LeaseStore) -> None:
    """The two come from different sides: the MAC with Docker's request, the container from what the engine shows."""
    lease = store.bind(reserved(store, owner="docker").id, "before")
    handed = other.hand_out(lease.id, "02:5e:00:00:00:02", "docker", "docker")
    assert store.set_owner(lease.id, "web", "c0ffee") == replace(handed, owner="web", container="c0ffee")


def test_what_was_given_back_meanwhile_is_not_handed_out(store: LeaseStore) -> None:
    resting, gone = reserved(store, 1), reserved(store, 2)
    store.release(resting.id, quarantine=60)
    store.forget(gone.id)
    for lease in (resting, gone):
        said = refusal(lambda lease=lease: store.hand_out(lease.id, MAC, "db", "c0ffee"))  # type: ignore[misc]
        assert said.endswith(f"lease {lease.id} was given back meanwhile; try again")
    assert [(lease.id, lease.state, lease.owner) for lease in store.leases()] == [
        (resting.id, LeaseState.QUARANTINED, "web")
    ]


def test_an_address_that_is_somebodys_already_is_recorded_without_a_claim(store: LeaseStore, other: LeaseStore) -> None:
    lease = store.record("br0", address(7), 24, mac=MAC, owner="web", container="c0ffee")
    assert lease is not None
    assert (lease.state, lease.owner, lease.container) == (LeaseState.BOUND, "web", "c0ffee")
    assert not store.held(lease.id)
    assert other.reap() == []
    assert other.leases() == [lease]
    assert other.record("br0", address(7), 24, mac=MAC, owner="web", container="c0ffee") is None
    assert other.leases() == [lease]


def test_an_address_that_rests_may_be_recorded_for_another(store: LeaseStore) -> None:
    first = reserved(store)
    store.release(first.id, quarantine=60)
    lease = store.record("br0", address(7), 24, mac=MAC, owner="db", container="c0ffee")
    assert lease is not None
    assert store.leases() == [lease]


# A clock that somebody sets.


@pytest.mark.parametrize("by", [-3600.0, 3600.0])
def test_a_quarantine_lasts_as_long_as_it_should_whatever_the_calendar_says(
    store: LeaseStore, clock: Clock, by: float
) -> None:
    store.release(reserved(store).id, quarantine=60)
    clock.set(by)
    clock.now += 59
    assert [lease.state for lease in store.leases()] == [LeaseState.QUARANTINED]
    assert reserve(store, owner="db") is None
    clock.now += 1
    assert store.leases() == []
    assert reserved(store, owner="db").owner == "db"


@pytest.mark.parametrize("by", [-40 * DAY, 40 * DAY])
def test_a_calendar_that_is_set_ends_no_lease_and_forgets_no_address(
    store: LeaseStore, other: LeaseStore, clock: Clock, by: float
) -> None:
    claimed, bound, past = reserved(store, 1), reserved(store, 2), reserved(store, 3, "past")
    store.release(past.id, quarantine=0)
    bound = store.bind(bound.id, "c0ffee")
    clock.set(by)
    assert other.reap() == []
    assert other.leases() == [claimed, bound]
    assert other.last_address("br0", "past") == address(3)


def test_the_last_address_is_the_last_by_the_order_of_events(store: LeaseStore, clock: Clock) -> None:
    store.release(reserved(store, 7).id, quarantine=0)
    clock.set(-3600)
    store.release(reserved(store, 8).id, quarantine=0)
    assert store.last_address("br0", "web") == address(8)


def test_a_process_that_holds_a_lease_has_a_descriptor_of_it(store: LeaseStore, other: LeaseStore) -> None:
    lease = reserved(store)
    fd = os.dup(store.holder_fd(lease.id))  # as a child that inherits it
    assert f"does not hold lease {lease.id}" in refusal(lambda: other.holder_fd(lease.id))
    store.close()
    assert other.held(lease.id)
    assert other.reap() == []
    os.close(fd)
    assert not other.held(lease.id)
    assert [reaped.id for reaped in other.reap(keep=[])] == [lease.id]


def test_who_has_answered_a_probe_is_told_to_every_process_for_a_while(
    store: LeaseStore, other: LeaseStore, clock: Clock
) -> None:
    assert other.answered("br0", 30.0) == {}
    store.note_answers("br0", {address(7): MAC})
    clock.now += 20
    clock.set(DAY)  # no calendar decides
    store.note_answers("br0", {address(8): MAC})
    assert other.answered("br0", 30.0) == {address(7): MAC, address(8): MAC}
    assert other.answered("br1", 30.0) == {}
    clock.now += 11
    assert other.answered("br0", 30.0) == {address(8): MAC}
    store.note_answers("br0", {address(8): OTHER_MAC})
    assert other.answered("br0", 30.0) == {address(8): OTHER_MAC}
    clock.reboot(1.0)
    assert other.answered("br0", 30.0) == {}
