"""What the engine says, read; and the leases, brought up to date with it. Answers as engine 20.10 gives them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.errors import InputError
from arpipam.leases import Lease, SqliteLeaseStore, State
from launcher.engine import Container, Engine, Network, reconcile
from launcher.engine import _container as container_of
from launcher.engine import _usable as usable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUBNET = {"Subnet": "172.16.42.0/24", "Gateway": "172.16.42.1"}
BRIDGE = {
    "Name": "lan",
    "Id": "2a31fd18463fbfddfef8a38f0591b01b6b73d7d8a7c57986d609eda4afd28b5e",
    "Driver": "bridge",
    "IPAM": {"Driver": "default", "Options": None, "Config": [SUBNET]},
    "Options": {"com.docker.network.bridge.name": "br0"},
}
NAMELESS = BRIDGE | {"Options": None}  # docker names its bridge after the id
MACVLAN = BRIDGE | {"Driver": "macvlan", "Options": {"parent": "br0"}}


def with_config(*configs: dict[str, Any]) -> dict[str, Any]:
    return BRIDGE | {"IPAM": {"Config": list(configs)}}


@pytest.mark.parametrize(
    ("description", "interface"), [(BRIDGE, "br0"), (NAMELESS, "br-2a31fd18463f"), (MACVLAN, "br0")]
)
def test_a_network_on_the_interface(description: dict[str, Any], interface: str) -> None:
    network = usable(description, interface)
    gateway = IPv4Address("172.16.42.1")
    wanted = Network("lan", description["Driver"], IPv4Network("172.16.42.0/24"), gateway, frozenset([gateway]), None)
    assert network == wanted


def test_another_gateway_than_the_bridge_is_the_containers() -> None:
    network = usable(with_config(SUBNET | {"AuxiliaryAddresses": {"DefaultGatewayIPv4": "172.16.42.9"}}), "br0")
    assert network.gateway == IPv4Address("172.16.42.9")
    assert network.kept == {IPv4Address("172.16.42.1"), IPv4Address("172.16.42.9")}


def test_a_second_family_is_no_hindrance() -> None:
    assert usable(with_config({"Subnet": "fd00::/64"}, SUBNET), "br0").subnet == IPv4Network("172.16.42.0/24")


@pytest.mark.parametrize(
    ("description", "said"),
    [
        (BRIDGE | {"Options": {"com.docker.network.bridge.name": "br1"}}, "is not on br0"),
        (NAMELESS, "is not on br0"),
        (MACVLAN | {"Options": {"parent": "eth1"}}, "is not on br0"),
        (BRIDGE | {"Driver": "overlay"}, "driver overlay"),
        (BRIDGE | {"Driver": "ipvlan", "Options": {"parent": "br0"}}, "driver ipvlan"),
        (with_config({"Subnet": "fd00::/64"}), "no IPv4 subnet"),
        (BRIDGE | {"IPAM": {"Config": None}}, "no IPv4 subnet"),
        (
            BRIDGE
            | {
                "Options": {
                    "com.docker.network.bridge.name": "br0",
                    "com.docker.network.bridge.default_bridge": "true",
                }
            },
            "default network",
        ),
    ],
)
def test_a_network_that_does_not_serve(description: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        usable(description, "br0")


def summary(endpoint: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    networks = {"lan": endpoint} if endpoint is not None else None
    return {"Id": "c1", "Names": ["/web"], "State": "exited", "NetworkSettings": {"Networks": networks}} | more


@pytest.mark.parametrize(
    ("endpoint", "addresses"),
    [
        (
            {"IPAMConfig": {"IPv4Address": "172.16.42.7"}, "IPAddress": ""},
            ["172.16.42.7"],
        ),  # stopped: will have it again
        ({"IPAMConfig": None, "IPAddress": "172.16.42.7"}, ["172.16.42.7"]),
        ({"IPAMConfig": {}, "IPAddress": ""}, []),
        (None, []),
    ],
)
def test_the_addresses_of_a_container(endpoint: dict[str, Any] | None, addresses: list[str]) -> None:
    container = container_of(summary(endpoint))
    assert container.addresses == frozenset(map(IPv4Address, addresses))
    assert (container.name, container.running, container.lease) == ("web", False, None)


@pytest.mark.parametrize(
    ("labels", "lease"), [({"arpipam.lease": "7"}, 7), ({"arpipam.lease": "x"}, None), (None, None)]
)
def test_the_lease_of_a_container(labels: dict[str, str] | None, lease: int | None) -> None:
    assert container_of(summary(None, Labels=labels)).lease == lease


class Containers(Engine):
    """An engine that is nothing but its containers."""

    id = "E1"

    def __init__(self, *containers: Container) -> None:
        self.there = list(containers)

    def containers(self) -> list[Container]:
        return self.there


ADDRESS = IPv4Address("172.16.42.7")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteLeaseStore]:
    with SqliteLeaseStore(tmp_path / "leases.db") as store:
        yield store


@pytest.fixture
def dead(store: SqliteLeaseStore) -> Lease:
    """A lease whose launcher was killed."""
    with SqliteLeaseStore(store.path) as killed:
        lease = killed.reserve("br0", ADDRESS, 24, "02:00:00:00:00:01", "web")
    assert lease is not None
    return lease


def started(lease: Lease, address: IPv4Address = ADDRESS) -> Container:
    return Container("c1", "web", running=False, lease=lease.id, addresses=frozenset([address]))


def test_a_container_whose_launcher_died_keeps_its_lease(store: SqliteLeaseStore, dead: Lease) -> None:
    assert reconcile(store, Containers(started(dead))) == []
    assert (store.get(dead.id).state, store.get(dead.id).container) == (State.BOUND, "c1@E1")


def test_a_container_that_appeared_after_its_lease_was_given_up_gets_it_back(
    store: SqliteLeaseStore, dead: Lease
) -> None:
    [reaped] = reconcile(store, Containers())
    assert reaped.state is State.QUARANTINED
    reconcile(store, Containers(started(dead)))
    assert store.get(dead.id).state is State.BOUND


def test_a_label_that_an_image_inherited_binds_nothing(store: SqliteLeaseStore, dead: Lease) -> None:
    reconcile(store, Containers(started(dead, IPv4Address("172.16.42.8"))))
    assert store.get(dead.id).state is State.QUARANTINED


def test_a_container_that_is_gone_gives_its_lease_back(store: SqliteLeaseStore, dead: Lease) -> None:
    store.bind(dead.id, "c1@E1")
    assert [lease.id for lease in reconcile(store, Containers())] == [dead.id]
    assert store.get(dead.id).state is State.QUARANTINED


def test_a_stopped_container_keeps_its_lease(store: SqliteLeaseStore, dead: Lease) -> None:
    store.bind(dead.id, "c1@E1")
    assert reconcile(store, Containers(started(dead))) == []
    assert store.get(dead.id).state is State.BOUND


def test_another_engines_containers_are_not_missed_here(store: SqliteLeaseStore, dead: Lease) -> None:
    store.bind(dead.id, "c1@E2")
    assert reconcile(store, Containers()) == []
    assert store.get(dead.id).state is State.BOUND


def test_a_claim_that_a_living_process_holds_stays(store: SqliteLeaseStore) -> None:
    lease = store.reserve("br0", ADDRESS, 24, "02:00:00:00:00:01", "web")
    assert lease is not None
    assert reconcile(store, Containers()) == []
    assert store.get(lease.id).state is State.CLAIMED
