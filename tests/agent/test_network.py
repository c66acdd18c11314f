"""A network of the agent: what is handed out when several things happen at the same moment, or fail."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.claim_state import ClaimState
from arpipam.errors import AddressInUseError, LeaseError, UnknownError
from arpipam.protocol.timing import RFC5227
from launcher.agent import supervise
from launcher.agent.config.keys import NetworkSettings
from launcher.agent.network import ready, sightings
from launcher.agent.network.held import PENDING, Role
from launcher.agent.report import network_view
from tests.support.leases import MAC, address, reserved
from tests.support.networks import FOREIGN, OTHER, Bench, endpoint, opened, seen, soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.leases.lease import Lease
    from arpipam.leases.sqlite import SqliteLeaseStore

READY = NetworkSettings(ready=2)


class Gate:
    """A function of the store that waits on its way, once it is closed."""

    def __init__(self, store: SqliteLeaseStore, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.closed = False
        self._function: Callable[..., Any] = getattr(store, name)
        monkeypatch.setattr(store, name, self._call)

    def _call(self, *words: Any, **more: Any) -> Any:
        if self.closed:
            self.begun.set()
            assert self.go_on.wait(20)
        if self.error is not None:
            raise self.error
        return self._function(*words, **more)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervise, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(ready, "LOOK", 0.01)
    monkeypatch.setattr(ready, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(sightings, "COUNT_EVERY", 0.0)


async def is_full(made: Bench) -> None:
    await soon(lambda: len(made.network.ready) == READY.ready, "ready addresses")


def test_why_there_is_no_ready_address_is_shown_until_there_is_one(store: SqliteLeaseStore) -> None:
    async def test() -> None:
        async with opened(store, READY) as made:
            await is_full(made)
            assert network_view(made.network).reason == ""
            made.wire.refusal = UnknownError("br0: stations answer this host's own MAC but not another one")
            made.network.settings = NetworkSettings(ready=3)
            await soon(lambda: network_view(made.network).reason, "the reason")
            assert network_view(made.network).reason == str(made.wire.refusal)
            made.wire.refusal = None
            await soon(lambda: not network_view(made.network).reason, "the end of it")
            assert len(made.network.ready) == 3

    asyncio.run(test())


def test_what_could_not_be_handed_out_is_as_idle_as_before(store: SqliteLeaseStore) -> None:
    lease = store.hand_out(reserved(store).id, MAC, "web", "gone")

    async def test() -> None:
        async with opened(store) as made:
            held = made.network.holdings.get(lease.address)
            assert held is not None
            held.idle_since = 5.0
            store.release(lease.id)  # behind the agent's back
            with pytest.raises(LeaseError, match="given back"):
                await made.network.hand_out.give(OTHER, lease.address)
            assert held.idle_since == 5.0

    asyncio.run(test())


def test_an_address_that_is_being_released_is_looked_at_once_it_is(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker releases it, and wants it for another container while the disk has not yet heard of it."""
    lease = store.hand_out(reserved(store).id, MAC, "web", "gone")
    gate = Gate(store, "release", monkeypatch)

    async def test() -> None:
        async with opened(store) as made:
            held = made.network.holdings.get(lease.address)
            assert held is not None
            gate.closed = True
            ending = asyncio.create_task(made.network.end(held))
            await asyncio.to_thread(gate.begun.wait, 20)
            handing = asyncio.create_task(made.network.hand_out.give(OTHER, lease.address))
            for _ in range(10):
                await asyncio.sleep(0)  # it gets as far as it can
            assert not made.wire.searches
            gate.go_on.set()
            await ending
            handed = await handing
            assert (handed.address, handed.mac) == (lease.address, OTHER)
            assert handed.id != lease.id

    asyncio.run(test())


def test_docker_gets_no_answer_before_the_lease_is_on_disk(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(store, "hand_out", monkeypatch)

    async def test() -> None:
        async with opened(store, READY) as made:
            await is_full(made)
            gate.closed = True
            handing = asyncio.create_task(made.network.hand_out.give(MAC, None))
            await asyncio.to_thread(gate.begun.wait, 20)
            for _ in range(100):
                await asyncio.sleep(0)
            assert not handing.done()
            gate.go_on.set()
            lease = await handing
            assert store.get(lease.id) == lease
            assert (lease.mac, lease.container) == (MAC, PENDING)

    asyncio.run(test())


def test_a_claim_that_is_lost_while_it_is_handed_out_is_passed_over(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(store, "hand_out", monkeypatch)

    async def test() -> None:
        async with opened(store, READY) as made:
            await is_full(made)
            first, second = made.network.holdings.of(Role.READY)
            gate.closed = True
            handing = asyncio.create_task(made.network.hand_out.give(MAC, None))
            await asyncio.to_thread(gate.begun.wait, 20)
            lost = next(claim for claim in made.wire.claims if claim.address == first.address)
            made.wire.used.add(lost.address)
            await asyncio.to_thread(lost.lose)
            gate.closed = False
            gate.go_on.set()
            lease = await handing
            assert lease.address == second.address
            assert made.network.holdings.get(lost.address) is None
            assert lost.released == 1

    asyncio.run(test())


def test_a_stopped_container_whose_claim_was_lost_gets_its_address_after_a_look_at_the_wire(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = store.hand_out(reserved(store).id, MAC, "web", "web@e1")
    written: list[int] = []
    write = store.hand_out

    def noted(lease_id: int, *words: str) -> Lease:
        written.append(lease_id)
        return write(lease_id, *words)

    monkeypatch.setattr(store, "hand_out", noted)

    async def test(*, used: bool) -> None:
        async with opened(store) as made:
            held = made.network.holdings.get(lease.address)
            assert held is not None
            made.containers.view = seen(endpoint(lease.address, "web"), at=0.0)
            [claim] = made.wire.claims
            claim.state = ClaimState.CONFLICT
            if used:
                made.wire.used.add(lease.address)
                with pytest.raises(Exception, match="no address is free"):  # the fake wire's words
                    await made.network.hand_out.give(OTHER, lease.address)
            else:
                again = await made.network.hand_out.give(OTHER, lease.address)
                assert again.id != lease.id
                made.network.holdings.link_lost()
            assert [search["address"] for search in made.wire.searches] == [lease.address]
            assert lease.id not in written  # what another station has is given to nobody, on disk neither

    asyncio.run(test(used=False))
    for known in store.leases():
        store.release(known.id, quarantine=0.0)
    lease = write(reserved(store).id, MAC, "web", "web@e1")
    asyncio.run(test(used=True))


def test_a_running_containers_address_is_refused(store: SqliteLeaseStore) -> None:
    lease = store.hand_out(reserved(store).id, MAC, "web", "web@e1")

    async def test() -> None:
        async with opened(store) as made:
            made.containers.view = seen(endpoint(lease.address, "web", mac=MAC, running=True), at=0.0)
            with pytest.raises(AddressInUseError, match="belongs to web on this host"):
                await made.network.hand_out.give(OTHER, lease.address)

    asyncio.run(test())


def test_a_disk_that_is_full_for_a_while_ends_neither_the_filling_nor_the_network(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(store, "release", monkeypatch)

    async def test() -> None:
        async with opened(store, READY) as made:
            network = made.network
            await is_full(made)
            gate.error = LeaseError("lease store: the disk is full")
            network.settings = NetworkSettings(ready=0)  # so that they are too many
            monkeypatch.setattr(ready, "PATIENCE", 0.0)
            await soon(lambda: network.failures, "the failure")
            [failure] = network.failures
            assert (failure.part, failure.reason) == ("ready addresses", "lease store: the disk is full")
            gate.error = None
            network.settings = READY
            await is_full(made)
            await soon(lambda: not network.failures, "the end of the failure")
            assert made.kinds().count("failed") >= 1
            await network.holdings.settle()
            assert {known.address for known in store.leases(states=("claimed",))} == {  # type: ignore[arg-type]
                held.address for held in network.holdings
            }
            made.wire.cut()
            await soon(lambda: made.wire.opened == 2, "the link, opened again")
            await is_full(made)
            assert made.wire.closed == 1

    asyncio.run(test())


def test_an_error_that_is_not_ours_restarts_the_link(store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with opened(store) as made:
            adopt_all, times = made.network.holdings.adopt_all, [0]

            async def broken(*words: Any) -> None:
                times[0] += 1
                if times[0] == 1:
                    raise RuntimeError("broken")
                await adopt_all(*words)

            monkeypatch.setattr(made.network.holdings, "adopt_all", broken)
            made.wire.cut()
            await soon(lambda: times[0] == 2 and made.network.link.is_open, "the link, opened again")
            assert made.wire.opened - made.wire.closed == 1
            assert not made.network.failures
            assert made.kinds()[-3:] == ["failed", "works again", "link up"]

    asyncio.run(test())


def test_ready_addresses_are_confirmed_by_the_timing_of_the_rfc(store: SqliteLeaseStore) -> None:
    async def test() -> None:
        async with opened(store, READY) as made:
            await is_full(made)
            assert [search["confirm"] for search in made.wire.searches] == [RFC5227] * 2

    asyncio.run(test())


def test_a_cut_while_an_address_is_confirmed_makes_it_no_ready_one(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        answers = [False]

        async def whole() -> bool:
            return answers.pop() if answers else True

        async with opened(store) as made:
            monkeypatch.setattr(made.network.witnesses, "whole", whole)
            made.network.settings = NetworkSettings(ready=1)
            await soon(lambda: len(made.network.ready) == 1, "a ready address")
            first, second = made.wire.claims
            assert first.released == 1
            assert [held.address for held in made.network.holdings] == [second.address]

    asyncio.run(test())


def test_a_ready_address_that_another_station_uses_is_released(store: SqliteLeaseStore) -> None:
    async def test() -> None:
        async with opened(store, READY) as made:
            await is_full(made)
            [lost, _] = made.wire.claims
            made.wire.used.add(lost.address)
            await asyncio.to_thread(lost.lose)
            await soon(lambda: lost.released, "its release")
            await is_full(made)
            [conflict] = [event for event in made.events if event.kind == "conflict"]
            assert (conflict.address, conflict.other) == (str(lost.address), FOREIGN)
            assert "quarantined" in {known.state for known in store.leases() if known.address == lost.address}

    asyncio.run(test())


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_what_an_agent_gave_at_its_end_is_the_answer_to_the_same_request(
    store: SqliteLeaseStore,
    named: bool,  # noqa: FBT001 - a case
    late: bool,  # noqa: FBT001 - a case
) -> None:
    """Docker may not have heard of it, and asks the next agent."""
    lease = store.hand_out(reserved(store).id, MAC, PENDING, PENDING)

    async def test() -> None:
        async with opened(store) as made:
            made.now += 61.0 if late else 0.0
            again = await made.network.hand_out.give(MAC, lease.address if named else None)
            assert (again.address == lease.address) == (named or not late)
            assert (again.id == lease.id) == (named or not late)

    asyncio.run(test())


def test_two_requests_with_one_mac_are_those_of_two_containers(store: SqliteLeaseStore) -> None:
    """What Docker did not hear of, because it hung up, is given back by then."""

    async def test() -> None:
        async with opened(store) as made:
            first = await made.network.hand_out.give(MAC, None)
            second = await made.network.hand_out.give(MAC, None)
            assert second.address != first.address
            [told] = [event for event in made.events if event.kind == "same MAC"]
            assert (told.address, told.mac) == (str(second.address), MAC)
            assert str(first.address) in told.text
            with pytest.raises(AddressInUseError, match="a container that is being started"):
                await made.network.hand_out.give(MAC, first.address)
            await made.network.take_back(second.address)
            await made.network.hand_out.give(MAC, second.address)

    asyncio.run(test())


def test_what_is_ready_or_lent_is_released_where_the_link_is_gone(store: SqliteLeaseStore) -> None:
    async def test() -> None:
        async with opened(store, READY) as made:
            await is_full(made)
            made.wire.cut()
            await soon(lambda: made.wire.opened == 2, "the link, opened again")
            await is_full(made)
            ours = {held.address for held in made.network.holdings}
            assert {known.address for known in store.leases() if known.state == "claimed"} == ours

    asyncio.run(test())


def test_many_stations_are_counted_a_few_at_a_time(store: SqliteLeaseStore) -> None:
    """The thread that counts has the interpreter's lock: the event loop and the driver want it meanwhile."""
    counted: list[int] = []

    async def in_thread(function: Callable[..., Any], *words: Any, **more: Any) -> Any:
        if function is sightings._count:
            counted.append(len(words[0]))
        return await asyncio.to_thread(function, *words, **more)

    async def test() -> None:
        async with opened(store, in_thread=in_thread) as made:
            known = made.network.sightings
            for number in range(20_000):
                known.stations.see(int(address(0)) + 300 + number, b"\2\0\0\0\0\7", time.time())
            known.stations.see(int(address(9)), b"\2\0\0\0\0\7", time.time())
            counted.clear()
            made.now += 60.0
            await known.count()
            assert known.left == 254 - 1

    asyncio.run(test())
    assert len(counted) > 20_000 // sightings.AT_ONCE
    assert max(counted) <= sightings.AT_ONCE


def test_stations_are_left_out_of_what_is_left(store: SqliteLeaseStore) -> None:
    async def test() -> None:
        async with opened(store) as made:
            made.network.sightings.stations.see(int(address(9)), b"\2\0\0\0\0\7", time.time())
            await made.network.hand_out.give(MAC, None)
            await made.network.sightings.count()
            assert made.network.sightings.left == 254 - 2

    asyncio.run(test())
