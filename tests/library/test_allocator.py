"""Claims over a real link with any lease store; and one fault there has one casualty."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING

import pytest

from arpipam import (
    Allocator,
    AsyncAllocator,
    ClaimState,
    LeaseError,
    LeaseState,
    PoolExhaustedError,
    UnknownError,
    Verdict,
)
from arpipam.leases.sqlite import SqliteLeaseStore
from arpipam.link.task import Run
from arpipam.protocol import arp
from tests.support.leases import Clock
from tests.support.link_spaces import NEEDS_ROOT, number
from tests.support.memory_store import MemoryLeaseStore, Record
from tests.support.until import LONG, until, until_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ipaddress import IPv4Address
    from pathlib import Path

    from arpipam.leases.lease import Lease, LeaseStore
    from arpipam.protocol.arp import ArpPacket
    from tests.support.link_spaces import Space

pytestmark = NEEDS_ROOT
SUBNET = "10.7.0.0/28"
OTHER = bytes.fromhex("020000000001")


@pytest.fixture(params=["sqlite", "memory"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LeaseStore]:
    store: LeaseStore
    if request.param == "sqlite":
        store = SqliteLeaseStore(tmp_path / "leases.db")
    else:
        store = MemoryLeaseStore(Record(), Clock())
    yield store
    store.close()


@pytest.fixture
def allocator(here: Space, wire: None, records: LeaseStore) -> Iterator[Allocator]:  # noqa: ARG001 - the wire is there
    with here.entered():
        allocator = Allocator("near", SUBNET, timing="lan", store=records, seed=1)
        allocator.__enter__()
    yield allocator
    allocator.__exit__(None, None, None)


def states(store: LeaseStore) -> dict[str, LeaseState]:
    return {str(lease.address): lease.state for lease in store.leases(states=tuple(LeaseState))}


def test_what_is_claimed_is_leased_in_any_store(allocator: Allocator, records: LeaseStore) -> None:
    with allocator.claim("web") as claim, allocator.claim("db") as given:
        assert {str(claim.address), str(given.address)} == {"10.7.0.3", "10.7.0.4"}
        assert states(records) == {"10.7.0.3": LeaseState.CLAIMED, "10.7.0.4": LeaseState.CLAIMED}
        assert records.held(claim.lease.id)
        given.bind("c0ffee")
    assert states(records) == {"10.7.0.3": LeaseState.QUARANTINED, "10.7.0.4": LeaseState.BOUND}


def test_an_address_that_another_process_has_leased_is_passed_over(allocator: Allocator, records: LeaseStore) -> None:
    first = records.reserve("near", allocator.claim("web").address + 1, 28, arp.mac_text(OTHER), "other")
    assert first is not None
    assert allocator.claim("web").address == first.address + 1


@contextlib.contextmanager
def only(mac: bytes, there: Space) -> Iterator[None]:
    """The far end lets no other MAC pass, as port security does."""
    there.run("nft", "add table netdev guard")
    there.run("nft", "add chain netdev guard in { type filter hook ingress device far priority 0; }")
    there.run("nft", f"add rule netdev guard in ether saddr != {arp.mac_text(mac)} drop")
    try:
        yield
    finally:
        there.run("nft", "delete table netdev guard")


def test_where_only_the_hosts_own_mac_passes_a_claim_says_so_and_leaves_nothing(
    allocator: Allocator, records: LeaseStore, there: Space
) -> None:
    with only(allocator.link.mac, there):
        for given in (None, "10.7.0.9"):
            with pytest.raises(UnknownError, match=r"answer this host's own MAC .* but not another one") as told:
                allocator.claim("web", given)
            assert "alone" not in str(told.value)
            assert states(records) == {}
            assert not allocator.loop._kept
    claim = allocator.claim("web")  # the same address as before: it rests from nothing
    assert str(claim.address) == "10.7.0.3"
    with only(allocator.link.mac, there):
        assert str(allocator.claim("db").address) == "10.7.0.4"  # for a while it is not asked again


def test_where_the_interface_has_no_address_two_processes_probe_a_station_once(
    here: Space, there: Space, wire: None, tmp_path: Path
) -> None:
    """A touchy station deletes its address at the second probe within ten seconds."""
    del wire
    here.ip("addr flush dev near")
    with there.open("far") as far:
        for _ in range(2):
            with here.entered(), Allocator("near", SUBNET, timing="lan", state_dir=tmp_path) as one:
                assert str(one.find().address) == "10.7.0.1"
                assert [probed.verdict for probed in one.probe(["10.7.0.2"])] == [Verdict.IN_USE]
                assert [str(station.address) for station in one.scan()] == ["10.7.0.2"]
        packets = [packet for frame in far.receive() if isinstance(packet := arp.dissect(frame), arp.ArpPacket)]
    assert len([packet for packet in packets if packet.is_probe and packet.target_ip == number("10.7.0.2")]) == 1


def test_what_turns_out_to_be_used_is_not_leased(allocator: Allocator, records: LeaseStore, there: Space) -> None:
    there.ip("addr add 10.7.0.5/24 dev far")
    with pytest.raises(Exception, match=r"10.7.0.5 is in use"):
        allocator.claim("web", "10.7.0.5")
    until(lambda: states(records) == {}, "the lease is forgotten")


def test_where_nothing_is_left_nothing_is_leased(allocator: Allocator, records: LeaseStore, here: Space) -> None:
    with here.entered():
        small = allocator.variant(ranges=["10.7.0.9"])
    with small.claim("web"):
        with pytest.raises(PoolExhaustedError, match="1 leased or reserved on this host"):
            small.claim("db")
        assert list(states(records)) == ["10.7.0.9"]


class Blocked:
    """A store whose writes wait until they may go on."""

    def __init__(self, store: LeaseStore) -> None:
        self.store = store
        self.may = threading.Event()
        self.asked = threading.Event()
        self.threads: set[str] = set()

    def reserve(self, interface: str, address: IPv4Address, prefix: int, mac: str, owner: str) -> Lease | None:
        self.threads.add(threading.current_thread().name)
        self.asked.set()
        assert self.may.wait(LONG)
        return self.store.reserve(interface, address, prefix, mac, owner)


def test_while_a_commit_waits_claims_are_answered_for(
    allocator: Allocator, records: LeaseStore, there: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = allocator.claim("web")
    blocked = Blocked(records)
    monkeypatch.setattr(allocator, "_store", MixedStore(records, blocked.reserve))
    task = allocator.start_claim("db", None, None)
    assert blocked.asked.wait(LONG)
    with there.open("far") as far:
        question = arp.request(OTHER, int(claim.address) + 8, int(claim.address))
        far.send([question])
        until(lambda: any(frame[6:12] == arp.mac_bytes(claim.mac) for frame in far.receive()), "the answer")
    assert not task.future.done()
    blocked.may.set()
    assert task.future.result(LONG).state in (ClaimState.ANNOUNCING, ClaimState.DEFENDING)
    assert "arpipam near" not in blocked.threads


class MixedStore:
    """A store with another `reserve`."""

    def __init__(self, store: LeaseStore, reserve: Callable[..., Lease | None]) -> None:
        self._store = store
        self.reserve = reserve

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def test_a_store_that_fails_ends_the_claim_and_nothing_else(
    allocator: Allocator, records: LeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = allocator.claim("web")

    def fail(*_: object) -> Lease | None:
        raise LeaseError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(allocator, "_store", MixedStore(records, fail))
        with pytest.raises(LeaseError, match="the disk is full"):
            allocator.claim("db")
    assert claim.state in (ClaimState.ANNOUNCING, ClaimState.DEFENDING)
    assert allocator.claim("db").address != claim.address


def test_a_cancelled_claim_leaves_no_lease(
    allocator: Allocator, records: LeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = Blocked(records)
    monkeypatch.setattr(allocator, "_store", MixedStore(records, blocked.reserve))
    task = allocator.start_claim("db", None, None)
    assert blocked.asked.wait(LONG)
    allocator.cancel(task)
    blocked.may.set()
    until(task.future.done, "the end")
    allocator._writer.call(lambda: None).result(LONG)
    until(lambda: states(records) == {}, "the lease is forgotten")


# Callbacks of a library user.


def steal(there: Space, address: IPv4Address) -> None:
    with there.open("far") as far:
        far.send([arp.announcement(OTHER, int(address))])


def test_a_callback_that_raises_is_logged_and_ends_nothing(
    allocator: Allocator, there: Space, caplog: pytest.LogCaptureFixture
) -> None:
    claim, other = allocator.claim("web"), allocator.claim("db")
    told: list[ClaimState] = []

    def fail(what: object) -> None:
        raise ZeroDivisionError(str(what))

    claim.on_change(fail)
    claim.on_conflict(fail)
    claim.on_change(told.append)
    with caplog.at_level(logging.ERROR):
        steal(there, claim.address)
        steal(there, claim.address)  # for the second time within DEFEND_INTERVAL it is given up
        until(lambda: ClaimState.CONFLICT in told, "the change")
    assert sum("ZeroDivisionError" in str(record.exc_text) for record in caplog.records) >= 2
    assert other.state in (ClaimState.ANNOUNCING, ClaimState.DEFENDING)
    with caplog.at_level(logging.ERROR):
        assert "10.7.0.2" in [str(station.address) for station in allocator.scan(fail)]
    assert not allocator.loop.ended.done()


def test_a_claim_may_be_released_in_a_listener(allocator: Allocator, there: Space, records: LeaseStore) -> None:
    claim = allocator.claim("web")
    told: list[ClaimState] = []

    def change(state: ClaimState) -> None:
        told.append(state)
        if state is ClaimState.CONFLICT:
            claim.release()

    claim.on_change(change)
    steal(there, claim.address)
    steal(there, claim.address)
    until(lambda: records.get(claim.lease.id).state is LeaseState.QUARANTINED, "the release")
    until(lambda: told[-1:] == [ClaimState.RELEASED], "the change")
    assert ClaimState.CONFLICT in told


def test_a_step_that_is_not_allowed_is_logged(allocator: Allocator, caplog: pytest.LogCaptureFixture) -> None:
    claim = allocator.claim("web")

    def adopt() -> None:
        claim._acd.adopt()

    with caplog.at_level(logging.ERROR):
        allocator.loop.post(adopt)
        allocator.loop.call(lambda: None).result(LONG)
    assert any("IllegalTransition" in str(record.exc_text) for record in caplog.records)


class Broken:
    """A machine that raises when it hears something."""

    done = False
    deadline = None
    interest = None

    def outboxes(self) -> tuple[()]:
        return ()

    def receive(self, packet: ArpPacket, now: float) -> None:  # noqa: ARG002 - the loop's word
        raise ZeroDivisionError

    def overflow(self, dropped: int, now: float) -> None:
        """It does not matter."""

    def advance(self, now: float) -> None:
        """Nothing is ever due."""


def test_a_search_that_raises_ends_alone(allocator: Allocator, there: Space) -> None:
    claim = allocator.claim("web")
    task = allocator.loop.run(Run(Broken()))
    with there.open("far") as far:
        until(lambda: far.send([arp.probe(OTHER, 7)]) and task.future.done(), "its end")
    assert isinstance(task.future.exception(), ZeroDivisionError)
    assert claim.state in (ClaimState.ANNOUNCING, ClaimState.DEFENDING)
    assert allocator.claim("db").address != claim.address


# asyncio.


def test_nothing_awaited_waits_on_the_thread_of_the_event_loop(
    here: Space,
    wire: None,  # noqa: ARG001 - it has to be there
    records: LeaseStore,
) -> None:
    threads: set[str] = set()

    class Noting:
        def __getattr__(self, name: str) -> object:
            threads.add(threading.current_thread().name)
            return getattr(records, name)

    async def use() -> list[ClaimState]:
        told: list[ClaimState] = []
        async with AsyncAllocator("near", SUBNET, timing="lan", store=Noting()) as allocator:  # type: ignore[arg-type]
            claim = await allocator.claim("web", "10.7.0.9")
            claim.on_change(told.append)
            await claim.announce()
            await claim.bind("c0ffee")
            await claim.release()
            await until_async(lambda: ClaimState.RELEASED in told)
            async with await allocator.claim("db"):
                pass
        return told

    def run() -> None:
        with here.entered():
            asyncio.run(use())

    # Threads of an event loop are made in the namespace of the thread that runs it.
    thread = threading.Thread(target=run, name="event loop")
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()
    assert threads
    assert "event loop" not in threads
    assert set(states(records).values()) == {LeaseState.QUARANTINED}
