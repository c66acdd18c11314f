"""A network of the agent, where two things are asked of it at the same moment."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from arpipam.claim import ClaimState
from arpipam.errors import LeaseError
from launcher.agent.config.keys import NetworkSettings
from launcher.agent.journal import Journal
from launcher.agent.network.network import Held, Network
from launcher.agent.pools import DockerPool
from tests.agent.test_comparison import OTHER, SUBNET, Claim
from tests.support.leases import MAC, address, reserved

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.leases.lease import Lease
    from arpipam.leases.sqlite import SqliteLeaseStore


def network_of(store: SqliteLeaseStore) -> Network:
    """A network whose link is open as far as requests can tell."""
    tools = SimpleNamespace(
        leases=store,
        ledger=SimpleNamespace(attached=lambda _: None, stopped=lambda _: False),
        config=SimpleNamespace(agent=SimpleNamespace(quarantine=60.0)),
        metrics=SimpleNamespace(claimed=lambda *_: None),
        memory=SimpleNamespace(of=lambda _: None),
        journal=Journal(),
    )
    network = Network(DockerPool("br0", SUBNET), NetworkSettings(), cast("Any", tools), asyncio.get_running_loop())
    network.opened.set()
    return network


def test_what_could_not_be_handed_out_is_as_idle_as_before(store: SqliteLeaseStore) -> None:
    lease = store.hand_out(reserved(store).id, MAC, "web", "gone")
    store.release(lease.id)  # behind the agent's back

    async def once() -> None:
        network = network_of(store)
        held = network.held[lease.address] = Held(cast("Any", Claim(lease)), idle_since=5.0)
        with pytest.raises(LeaseError, match="given back"):
            await network.hand_out(OTHER, lease.address)
        assert held.idle_since == 5.0

    asyncio.run(once())


def test_an_address_that_is_being_released_is_looked_at_once_it_is(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker gives it back, and wants it for another container while the disk has not yet heard of it."""
    lease = store.hand_out(reserved(store).id, MAC, "web", "gone")
    writing, go_on = threading.Event(), threading.Event()
    release: Callable[..., None] = store.release

    def slowly(lease_id: int, *, quarantine: float) -> None:
        writing.set()
        assert go_on.wait(10)
        release(lease_id, quarantine=quarantine)

    monkeypatch.setattr(store, "release", slowly)

    async def search(mac: str, wanted: object) -> Claim:
        assert wanted == lease.address
        again = store.reserve("br0", address(7), 24, mac, "docker", rested=False)
        assert again is not None, "it is leased on this host already"
        return Claim(again, ClaimState.DEFENDING)

    async def both() -> Lease:
        network = network_of(store)
        network.held[lease.address] = Held(cast("Any", Claim(lease)))
        monkeypatch.setattr(network, "_claim_for_docker", search)
        monkeypatch.setattr(network, "_keep", lambda claim, _, lease: network.held.update({lease.address: Held(claim)}))
        releasing = asyncio.create_task(network.release(lease.address))
        await asyncio.to_thread(writing.wait, 10)
        handing = asyncio.create_task(network.hand_out(OTHER, lease.address))
        await asyncio.sleep(0.05)  # it gets as far as it can
        go_on.set()
        await releasing
        return await handing

    handed = asyncio.run(both())
    assert (handed.address, handed.mac) == (lease.address, OTHER)
    assert handed.id != lease.id
