"""The addresses that Docker keeps for itself: which gateway a bridge without an address gets, and what a replay is."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.errors import InputError, LinkError
from tests.support.facts import link_facts
from tests.support.networks import opened

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from arpipam.leases.sqlite import SqliteLeaseStore
    from arpipam.link.netlink import Facts
    from tests.support.networks import Bench

ROUTER, FREE, USED = (IPv4Address(f"10.0.0.{last}") for last in (254, 9, 7))
LINKS = {"br0": link_facts(), "eth0": link_facts("10.0.0.5/24", bridge=False, gateways=(ROUTER,))}


def facts(interface: str) -> Facts:
    if interface not in LINKS:
        raise LinkError(f"{interface} is down")
    return LINKS[interface]


def on_bare_bridge(store: SqliteLeaseStore, test: Callable[[Bench], Awaitable[None]], **edges: Any) -> None:
    """The test, on a bridge without an address, beside a NIC by which this host has a router."""

    async def once() -> None:
        given = {"facts": facts, "on_subnet": lambda _: ["eth0", "eth9"]} | edges
        async with opened(store, **given) as made:
            await test(made)

    asyncio.run(once())


def test_a_free_gateway_is_found_and_is_none_of_our_routers(store: SqliteLeaseStore) -> None:
    async def test(made: Bench) -> None:
        given = await made.network.reserved.keep(None, gateway=True)
        assert given == IPv4Interface("10.0.0.1/24")
        assert str(ROUTER) in made.wire.searches[-1]["exclude"]  # though it may not answer at this moment
        assert [lease.owner for lease in await made.network.holdings.recorded()] == ["gateway"]

    on_bare_bridge(store, test)


@pytest.mark.parametrize(
    ("wanted", "said"), [(ROUTER, "10.0.0.254 is this host's own router"), (USED, r"10.0.0.7 is not free")]
)
def test_a_named_gateway_that_is_another_stations_is_refused(
    wanted: IPv4Address, said: str, store: SqliteLeaseStore
) -> None:
    async def test(made: Bench) -> None:
        made.wire.used = {USED}
        with pytest.raises(InputError, match=rf"--gateway {said}.*DefaultGatewayIPv4={wanted}"):
            await made.network.reserved.keep(wanted, gateway=True)
        assert not store.leases()

    on_bare_bridge(store, test)


def test_a_named_gateway_that_is_free_is_kept(store: SqliteLeaseStore) -> None:
    async def test(made: Bench) -> None:
        assert await made.network.reserved.keep(FREE, gateway=True) == IPv4Interface("10.0.0.9/24")
        [lease] = store.leases()
        assert (lease.owner, lease.state) == ("gateway", "bound")

    on_bare_bridge(store, test)


def test_what_the_engine_has_made_before_it_started_is_kept(store: SqliteLeaseStore) -> None:
    """A refusal would only give the pool back, and with it the leases of containers that run."""

    async def test(made: Bench) -> None:
        made.network.reserved.replayed = True
        assert await made.network.reserved.keep(ROUTER, gateway=True) == IPv4Interface("10.0.0.254/24")

    on_bare_bridge(store, test)


def test_the_routers_address_may_be_set_aside(store: SqliteLeaseStore) -> None:
    async def test(made: Bench) -> None:
        assert await made.network.reserved.keep(ROUTER, gateway=False) == IPv4Interface("10.0.0.254/24")
        await made.network.reserved.release(ROUTER)
        assert not await made.network.holdings.recorded()

    on_bare_bridge(store, test)
