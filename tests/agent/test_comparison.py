"""The comparison of the leases with what the engine has, where Docker asks in the midst of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.claim_state import ClaimState
from arpipam.errors import LeaseError
from launcher.agent.comparison import PART, Comparison
from launcher.agent.network.held import GRACE, PENDING
from tests.support.leases import MAC, address, reserved
from tests.support.networks import OTHER, bench, endpoint, opened, seen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from arpipam.leases.sqlite import SqliteLeaseStore
    from launcher.agent.network.held import Held
    from launcher.agent.network.network import Network
    from tests.support.leases import Clock
    from tests.support.networks import Bench


def comparison(made: Bench, *networks: Network) -> Comparison:
    async def forget(pool_id: str) -> None:
        raise AssertionError(pool_id)

    return Comparison(made.tools, lambda: [made.network, *networks], forget, lambda: None)


def held_of(made: Bench) -> Held:
    [held] = made.network.holdings
    return held


def on_one_lease(
    store: SqliteLeaseStore,
    test: Callable[[Bench, Held, Comparison], Awaitable[None]],
    *,
    container: str = "gone@e1",
    owner: str = "web",
    **edges: Any,
) -> None:
    """The test, on an open network with one lease."""
    store.hand_out(reserved(store).id, MAC, owner, container)

    async def once() -> None:
        async with opened(store, **edges) as made:
            await test(made, held_of(made), comparison(made))

    asyncio.run(once())


def monotonic(made: Bench) -> float:
    return float(made.tools.edges.monotonic())


def test_the_mac_that_docker_asks_for_meanwhile_stays(store: SqliteLeaseStore) -> None:
    """A stopped container is renamed, and another one gets its address in the same moment, as compose does it."""

    async def test(made: Bench, held: Held, compared: Comparison) -> None:
        handing = asyncio.create_task(
            made.network.holdings.hand_out(held, OTHER, PENDING, PENDING, made.network._policy())
        )
        await compared.compare(seen(endpoint(address(7), "old_web"), at=monotonic(made)))
        await handing
        assert (held.lease.mac, held.lease.container) in {(OTHER, PENDING), (OTHER, "old_web@e1")}
        assert store.get(held.lease.id) == held.lease

    on_one_lease(store, test)


def test_what_was_handed_out_after_the_look_is_not_released(store: SqliteLeaseStore) -> None:
    async def test(made: Bench, held: Held, compared: Comparison) -> None:
        at = monotonic(made)
        held.idle_since, held.given = at - 1, at + 1
        await compared.compare(seen(at=at))
        assert made.network.holdings.has(held)
        await compared.compare(seen(at=at + 2))
        assert not made.network.holdings.has(held)

    on_one_lease(store, test)


def test_what_was_released_before_the_look_is_ended(store: SqliteLeaseStore) -> None:
    async def test(made: Bench, held: Held, compared: Comparison) -> None:
        held.idle_since = monotonic(made)
        await compared.compare(seen(at=held.idle_since - 1))
        assert made.network.holdings.has(held)
        await compared.compare(seen(at=held.idle_since + 1))
        assert not made.network.holdings.has(held)
        assert [lease.state for lease in store.leases()] == ["quarantined"]

    on_one_lease(store, test)


def test_a_stopped_container_that_keeps_its_address_is_answered_for(store: SqliteLeaseStore) -> None:
    async def test(made: Bench, held: Held, compared: Comparison) -> None:
        made.wire.claims[0].become(ClaimState.GUARDED)
        held.idle_since = monotonic(made)
        await compared.compare(seen(endpoint(address(7), "web"), at=held.idle_since + 1))
        assert held.idle_since is None
        assert made.containers.stopped(held.lease)
        assert held.claim.state is ClaimState.DEFENDING
        assert (held.lease.owner, held.lease.container) == ("web", "web@e1")
        assert store.leases() == [held.lease]

    on_one_lease(store, test, container=PENDING, owner=PENDING)


def test_the_lease_of_another_engines_container_is_left_alone(store: SqliteLeaseStore) -> None:
    async def test(made: Bench, held: Held, compared: Comparison) -> None:
        for later in (10.0, 1000.0):
            made.now += later
            await compared.compare(seen(at=monotonic(made)))
        assert made.network.holdings.has(held)

    on_one_lease(store, test, container="c0ffee@e2")


def test_an_address_whose_container_never_came_is_ended_after_the_grace(store: SqliteLeaseStore) -> None:
    """By a clock that nobody sets: the calendar is no measure of an age."""

    async def test(made: Bench, held: Held, compared: Comparison) -> None:
        made.now += GRACE - 5
        await compared.compare(seen(at=monotonic(made)))
        assert made.network.holdings.has(held)
        made.now += 10
        await compared.compare(seen(at=monotonic(made)))
        assert not made.network.holdings.has(held)

    on_one_lease(store, test, container=PENDING)


def test_what_is_found_at_the_start_has_the_age_of_the_start(store: SqliteLeaseStore) -> None:
    async def test(made: Bench, held: Held, compared: Comparison) -> None:
        await compared.compare(seen(at=held.changed + 0.5))
        assert made.network.holdings.has(held)
        await compared.compare(seen(at=held.changed + 2))
        assert not made.network.holdings.has(held)

    on_one_lease(store, test)


@pytest.mark.parametrize(("passed", "kept"), [(GRACE - 5, True), (GRACE + 5, False), (-1000.0, True)])
def test_a_container_that_never_came_counts_from_before_the_start(
    store: SqliteLeaseStore, clock: Clock, passed: float, *, kept: bool
) -> None:
    """The agent was away meanwhile. A calendar that was set back makes nothing younger than the start."""

    async def test(made: Bench, held: Held, compared: Comparison) -> None:
        await compared.compare(seen(at=monotonic(made)))
        assert made.network.holdings.has(held) is kept

    on_one_lease(store, test, container=PENDING, now=lambda: clock.now + passed)


def test_a_network_that_cannot_be_compared_leaves_the_others(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(made: Bench, held: Held, compared: Comparison) -> None:
        broken = bench(store).network
        fails = [True]

        async def settle() -> None:
            if fails[0]:
                raise LeaseError("lease store: the disk is full")

        monkeypatch.setattr(broken.holdings, "settle", settle)
        compared = Comparison(made.tools, lambda: [broken, made.network], _nothing, lambda: None)
        made.now += 10
        await compared.compare(seen(at=monotonic(made)))
        assert not made.network.holdings.has(held)
        assert [(failure.part, failure.reason) for failure in broken.failures] == [
            (PART, "lease store: the disk is full")
        ]
        assert not made.network.failures
        fails[0] = False
        await compared.compare(seen(at=monotonic(made)))
        assert not broken.failures

    on_one_lease(store, test)


def test_a_lease_of_a_link_that_is_gone_ends_with_its_container(store: SqliteLeaseStore) -> None:
    store.hand_out(reserved(store, 7).id, MAC, "gone", "gone@e1")
    store.hand_out(reserved(store, 8).id, MAC, "stopped", "stopped@e1")
    store.hand_out(reserved(store, 9).id, MAC, "other", "other@e2")

    async def test() -> None:
        made = bench(store)
        compared = comparison(made)
        stopped = endpoint(address(8), "stopped")
        await compared.compare(seen(stopped, at=monotonic(made)))
        made.now += GRACE - 1
        await compared.compare(seen(stopped, at=monotonic(made)))
        assert [lease.state for lease in store.leases()] == ["bound"] * 3
        made.now += 2
        await compared.compare(seen(stopped, at=monotonic(made)))
        assert [lease.state for lease in store.leases()] == ["quarantined", "bound", "bound"]

    asyncio.run(test())


async def _nothing(*_: Any) -> None:
    pass
