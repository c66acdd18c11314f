"""The comparison of the leases with what the engine has, where Docker asks in the midst of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from arpipam.claim import ClaimState
from launcher.agent.comparison import Ledger
from launcher.agent.network.network import PENDING, Held
from launcher.agent.pools import DockerPool
from launcher.engine.model import AttachedNetwork, Endpoint, EngineView
from tests.support.leases import MAC, address, reserved

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.leases.lease import Lease
    from arpipam.leases.sqlite import SqliteLeaseStore

SUBNET = IPv4Network("10.0.0.0/24")
OTHER = "02:5e:00:00:00:02"


@dataclass
class Claim:
    """As much of a claim as is looked at."""

    lease: Lease
    state: ClaimState = ClaimState.GUARDED

    @property
    def mac(self) -> str:
        return self.lease.mac

    def take_over(self) -> None:
        self.state = ClaimState.DEFENDING


@dataclass
class Network:
    """A network that is open, and which addresses it released."""

    held: dict[IPv4Address, Held]
    pool: DockerPool = field(default_factory=lambda: DockerPool("br0", SUBNET, count=1))
    opened: Any = field(default_factory=lambda: SimpleNamespace(is_set=lambda: True))
    lending: tuple[IPv4Address, ...] = ()
    released: list[IPv4Address] = field(default_factory=list)

    async def release(self, address: IPv4Address, kind: str) -> None:
        assert kind in {"released", "leaked"}
        self.released.append(address)
        del self.held[address]


def compare(store: SqliteLeaseStore, network: Network, view: EngineView) -> None:
    """One comparison."""

    async def forget(pool_id: str) -> None:
        raise AssertionError(pool_id)

    async def once() -> None:
        tools = cast("Any", SimpleNamespace(leases=store, driver="arpipam"))
        await Ledger(tools, cast("Any", lambda: [network]), forget, lambda: None).compare(view)

    asyncio.run(once())


def seen(*endpoints: Endpoint, at: float | None = None) -> EngineView:
    at = time.monotonic() if at is None else at
    return EngineView(at, "20.10", (AttachedNetwork("lan", "arpipam", SUBNET, None, "br0", endpoints),))


def stopped(name: str, container: str) -> Endpoint:
    """A container that keeps the address that it was given."""
    return Endpoint("lan", address(7), "", container, name, running=False, lease=None)


def holding(lease: Lease, **known: Any) -> Network:
    return Network({lease.address: Held(cast("Any", Claim(lease)), **known)})


def before(function: Callable[..., Any], first: Callable[[], Any]) -> Callable[..., Any]:
    """The function, just before which something else happens on another side."""

    def both(*words: Any) -> Any:
        first()
        return function(*words)

    return both


def test_the_mac_that_docker_asks_for_meanwhile_stays(store: SqliteLeaseStore) -> None:
    """A stopped container is renamed, and another one gets its address in the same moment, as compose does it."""
    lease = store.hand_out(reserved(store).id, MAC, "web", "old")
    network = holding(lease)
    store.set_owner = before(store.set_owner, lambda: store.hand_out(lease.id, OTHER, PENDING, PENDING))  # type: ignore[method-assign]
    compare(store, network, seen(stopped("old_web", "old")))
    assert store.get(lease.id).mac == OTHER


def test_what_was_handed_out_after_the_look_is_not_released(store: SqliteLeaseStore) -> None:
    lease = store.hand_out(reserved(store).id, MAC, "web", "gone")
    at = time.monotonic()
    network = holding(lease, idle_since=at - 1, given=at + 1)
    compare(store, network, seen(at=at))
    assert network.released == []
    compare(store, network, seen(at=at + 2))
    assert network.released == [lease.address]


def test_what_was_given_back_before_the_look_is_released(store: SqliteLeaseStore) -> None:
    lease = store.hand_out(reserved(store).id, MAC, "web", "gone")
    network = holding(lease, idle_since=time.monotonic())
    compare(store, network, seen(at=time.monotonic() - 1))
    assert network.released == []
    compare(store, network, seen())
    assert network.released == [lease.address]


def test_a_stopped_container_that_keeps_its_address_is_answered_for(store: SqliteLeaseStore) -> None:
    lease = store.hand_out(reserved(store).id, MAC, PENDING, PENDING)
    network = holding(lease, idle_since=time.monotonic())
    compare(store, network, seen(stopped("web", "c0ffee")))
    held = network.held[lease.address]
    assert held.kept
    assert held.idle_since is None
    assert held.claim.state is ClaimState.DEFENDING
    assert (held.claim.lease.owner, held.claim.lease.container) == ("web", "c0ffee")
    assert store.leases() == [held.claim.lease]
