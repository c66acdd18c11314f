"""What becomes of ready addresses after a time in which the link could not be heard."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from arpipam.errors import AddressInUseError
from arpipam.protocol.outcome import Verdict
from launcher.agent.config.keys import NetworkSettings
from launcher.agent.network import claiming, gaps, ready, sightings
from launcher.agent.network.held import Role
from launcher.agent.report import network_view
from tests.support.leases import MAC
from tests.support.networks import Bench, opened, soon

if TYPE_CHECKING:
    from arpipam.leases.sqlite import SqliteLeaseStore

READY = NetworkSettings(ready=2)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "LOOK", 0.01)
    monkeypatch.setattr(ready, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(claiming, "GIVEN_UP", 0.0)
    monkeypatch.setattr(sightings, "COUNT_EVERY", 0.0)


async def is_full(made: Bench) -> None:
    await soon(lambda: len(made.network.ready) >= READY.ready, "ready addresses")


def away(made: Bench) -> None:
    """The link could not be heard for a while."""
    for held in made.network.holdings.of(Role.READY):
        held.claim.needs_check = True  # type: ignore[misc] # a fake's


def test_each_is_probed_again_and_then_as_ready_as_before(store: SqliteLeaseStore) -> None:
    async def test() -> None:
        async with opened(store, READY) as made:
            await is_full(made)
            before = {held.address for held in made.network.holdings.of(Role.READY)}
            away(made)
            assert (len(made.network.ready), made.network.ready.take()) == (0, None)
            await is_full(made)
            assert {held.address for held in made.network.holdings.of(Role.READY)} == before
            assert set(made.wire.checked) == before
            assert len(made.wire.searches) == READY.ready  # no other ones were looked for

    asyncio.run(test())


def test_what_another_station_took_is_given_up(store: SqliteLeaseStore) -> None:
    async def test() -> None:
        async with opened(store, READY) as made:
            await is_full(made)
            taken, kept = [held.address for held in made.network.holdings.of(Role.READY)]
            made.wire.used.add(taken)
            away(made)
            lease = await made.network.hand_out.give(MAC, None)
            assert lease.address != taken
            await is_full(made)
            assert made.network.holdings.get(taken) is None
            assert made.network.holdings.get(kept) is not None

    asyncio.run(test())


def test_what_cannot_be_told_is_not_handed_out_and_asked_again(store: SqliteLeaseStore) -> None:
    async def test() -> None:
        async with opened(store, READY) as made:
            await is_full(made)
            made.wire.unknown = Verdict.UNKNOWN
            away(made)
            await soon(lambda: len(made.wire.checked) > 4, "another look")
            assert len(made.network.ready) == 0
            assert made.network.holdings.count(Role.READY) == READY.ready
            made.wire.unknown = None
            made.network.ready.look_again()
            await is_full(made)

    asyncio.run(test())


def test_what_is_lent_is_probed_again_before_docker_gets_it(store: SqliteLeaseStore) -> None:
    async def test() -> None:
        async with opened(store, READY) as made:
            await is_full(made)
            held = made.network.ready.take()
            assert held is not None
            held.claim.needs_check = True  # type: ignore[misc] # a fake's
            made.wire.used.add(held.address)
            with pytest.raises(AddressInUseError):
                await made.network.hand_out.give(held.lease.mac, held.address)
            assert made.wire.checked == [held.address]
            assert made.network.holdings.get(held.address) is None

    asyncio.run(test())


def test_a_link_without_a_way_out_is_down_and_told(store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaps, "TOLD_EVERY", 0.0)

    async def test() -> None:
        async with opened(store) as made:
            told: list[tuple[str, str]] = []
            made.network.on_link = lambda kind, _, text: told.append((kind, text))
            allocator = made.network.link.allocator
            hearing, link = allocator.loop.hearing, allocator.link
            link.closed = "br0 has no carrier"  # type: ignore[misc] # a fake's
            hearing.set_deaf("carrier", "br0 has no carrier", 1.0)
            await soon(lambda: made.network.gaps.closed, "no carrier")
            view = network_view(made.network)
            assert (view.state, view.reason) == ("down", "br0 has no carrier")
            link.closed = ""  # type: ignore[misc] # a fake's
            hearing.set_deaf("carrier", "", 2.0)
            await soon(lambda: not made.network.gaps.closed, "a carrier")
            assert network_view(made.network).state == "up"
            text = "stations beyond this host can be heard again; ready addresses are probed again"
            assert told == [("link down", "br0 has no carrier"), ("link up", text)]
            hearing.gap("the kernel dropped 3 frames", 3.0)
            hearing.gap(gaps.WERE_SILENT, 4.0)
            await soon(lambda: made.kinds()[-3:] == ["link down", "link up", "gap"], "these events")
            assert made.events[-1].text == "the kernel dropped 3 frames; ready addresses are probed again"

    asyncio.run(test())
