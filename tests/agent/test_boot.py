"""A host boots: a lease of its own is handed out at once, and a search waits for what it needs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.claim_state import ClaimState
from arpipam.errors import AddressInUseError, LinkError, UnknownError
from launcher.agent.network import hand_out as module
from launcher.agent.network.held import PENDING, Role
from tests.support.leases import MAC, address, reserved
from tests.support.networks import OTHER, Bench, bench, endpoint, opened, seen, soon

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from arpipam.leases.lease import Lease
    from arpipam.leases.sqlite import SqliteLeaseStore


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.0)
    monkeypatch.setattr(module, "REOPEN", 0.01)
    monkeypatch.setattr(module, "ENGINE_SHOWS", 0.1)


def now(made: Bench) -> float:
    return float(made.tools.edges.monotonic())


def booted(made: Bench) -> Bench:
    made.containers.engine_started(now(made))
    made.network.hand_out.boot()
    return made


def bound(store: SqliteLeaseStore, container: str = "web@e1") -> Lease:
    return store.hand_out(reserved(store).id, MAC, "web", container)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(limited())


@pytest.mark.parametrize("container", ["web@e1", PENDING])
@pytest.mark.parametrize("by", ["address", "mac"])
def test_the_leases_own_container_gets_its_address_while_the_engine_starts(
    store: SqliteLeaseStore, by: str, container: str
) -> None:
    """The engine shows nothing then, and has given nothing back: the agent was away when it ended."""
    lease = bound(store, container)

    async def test() -> None:
        async with opened(store) as made:
            booted(made)
            mac, wanted = (OTHER, lease.address) if by == "address" else (MAC, None)
            made.now += 1000.0  # not a request that is repeated
            made.network.hand_out.boot()
            given = await made.network.hand_out.give(mac, wanted)
            assert (given.id, given.address, given.mac) == (lease.id, lease.address, mac)
            assert not made.wire.searches
            with pytest.raises(AddressInUseError, match=r"belongs to (a container that is being started|web) "):
                await made.network.hand_out.give("02:00:00:00:00:99", lease.address)

    run(test)


@pytest.mark.parametrize("by", ["address", "mac"])
def test_a_lease_of_ones_own_does_not_wait_for_the_link(store: SqliteLeaseStore, by: str) -> None:
    lease = bound(store)

    async def test() -> None:
        made = booted(bench(store))
        mac, wanted = (OTHER, lease.address) if by == "address" else (MAC, None)
        for _ in range(2):  # the second time as Docker does that lost the answer
            made.containers.released("br0", lease.address)
            given = await made.network.hand_out.give(mac, wanted)
            assert (given.id, given.mac, given.container) == (lease.id, mac, lease.container)
        assert store.get(lease.id) == given
        with pytest.raises(AddressInUseError, match="belongs to web "):
            await made.network.hand_out.give("02:00:00:00:00:99", lease.address)
        task = asyncio.create_task(made.network.run())
        await made.network.link.opened.wait()
        [held] = made.network.holdings
        assert (held.lease, held.claim.mac) == (given, mac)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(test)


def test_a_container_that_outlived_the_engine_keeps_its_address(store: SqliteLeaseStore) -> None:
    lease = bound(store)

    async def test() -> None:
        async with opened(store) as made:
            booted(made).containers.given("br0", lease.address, now(made))  # it is told of
            with pytest.raises(AddressInUseError, match="belongs to web on this host"):
                await made.network.hand_out.give(OTHER, lease.address)
            made.containers.released("br0", lease.address)
            assert (await made.network.hand_out.give(OTHER, lease.address)).id == lease.id

    run(test)


def test_an_address_that_somebody_answers_for_is_not_given_again(store: SqliteLeaseStore) -> None:
    lease = bound(store)

    async def test() -> None:
        async with opened(store) as made:
            booted(made)
            made.wire.claims[0].become(ClaimState.GUARDED)
            with pytest.raises(AddressInUseError, match="belongs to web"):
                await made.network.hand_out.give(OTHER, lease.address)

    run(test)


def test_after_a_start_of_the_agent_alone_the_engines_view_is_waited_for(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = bound(store)

    async def test() -> None:
        async with opened(store) as made:
            with pytest.raises(AddressInUseError, match="does not say whether that runs"):
                await made.network.hand_out.give(OTHER, lease.address)
            monkeypatch.setattr(module, "ENGINE_SHOWS", 10.0)
            giving = asyncio.create_task(made.network.hand_out.give(OTHER, lease.address))
            await asyncio.sleep(0.02)
            assert not giving.done()
            made.containers.view = seen(endpoint(lease.address, "web"), at=now(made))
            assert (await giving).id == lease.id

    run(test)


@pytest.mark.parametrize("error", [UnknownError("no station answered"), LinkError("br0 is down")])
def test_a_search_that_lacks_something_at_boot_is_made_again(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def test() -> None:
        async with opened(store) as made:
            claim, failures = made.network.search.claim, [error] * 5

            async def search(*words: Any, **more: Any) -> Any:
                if failures:
                    raise failures.pop()
                return await claim(*words, **more)

            monkeypatch.setattr(made.network.search, "claim", search)
            with pytest.raises(type(error)):  # long after a boot Docker is told soon
                await made.network.hand_out.give(MAC, None)
            assert len(failures) >= 3
            failures.extend([error] * 5)
            made.network.hand_out.boot()
            await made.network.hand_out.give(MAC, None)
            assert not failures
            failures.append(error)
            failures.append(error)
            given = asyncio.create_task(made.network.hand_out.give(OTHER, address(9)))
            assert (await given).address == address(9)
            made.now += module.COMING_UP
            failures.extend([error] * 2)
            with pytest.raises(type(error)):
                await made.network.hand_out.give("02:00:00:00:00:99", None)

    run(test)


def test_at_boot_a_search_waits_for_link_and_silent_hosts(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        made = booted(bench(store))
        silent = {address(2): "host2"}
        monkeypatch.setattr(made.network.witnesses, "silent", lambda: silent)
        giving = asyncio.create_task(made.network.hand_out.give(MAC, None))
        await asyncio.sleep(0.05)
        task = asyncio.create_task(made.network.run())
        await made.network.link.opened.wait()
        await asyncio.sleep(0.05)
        assert not giving.done()
        assert not made.wire.searches
        silent.clear()
        await giving
        await soon(lambda: made.network.holdings.count(Role.DOCKER) == 1, "the claim")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(test)
