"""What the engine says, read; and the leases, brought up to date with it. Answers as engine 20.10 gives them."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from docker.errors import APIError, DockerException

from arpipam.errors import InputError
from arpipam.leases.lease import Lease, LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore
from launcher.engine import engine
from launcher.engine.engine import Engine
from launcher.engine.errors import EngineError
from launcher.engine.model import AttachedNetwork, Container, DockerNetwork, Endpoint, usable
from launcher.engine.model import container as container_of
from launcher.engine.reconcile import reconcile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
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
    wanted = DockerNetwork(
        "lan", description["Driver"], IPv4Network("172.16.42.0/24"), gateway, frozenset([gateway]), None
    )
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
    assert (store.get(dead.id).state, store.get(dead.id).container) == (LeaseState.BOUND, "c1@E1")


def test_a_container_that_appeared_after_its_lease_was_given_up_gets_it_back(
    store: SqliteLeaseStore, dead: Lease
) -> None:
    [reaped] = reconcile(store, Containers())
    assert reaped.state is LeaseState.QUARANTINED
    reconcile(store, Containers(started(dead)))
    assert store.get(dead.id).state is LeaseState.BOUND


def test_a_label_that_an_image_inherited_binds_nothing(store: SqliteLeaseStore, dead: Lease) -> None:
    reconcile(store, Containers(started(dead, IPv4Address("172.16.42.8"))))
    assert store.get(dead.id).state is LeaseState.QUARANTINED


def test_a_container_that_is_gone_gives_its_lease_back(store: SqliteLeaseStore, dead: Lease) -> None:
    store.bind(dead.id, "c1@E1")
    assert [lease.id for lease in reconcile(store, Containers())] == [dead.id]
    assert store.get(dead.id).state is LeaseState.QUARANTINED


def test_a_stopped_container_keeps_its_lease(store: SqliteLeaseStore, dead: Lease) -> None:
    store.bind(dead.id, "c1@E1")
    assert reconcile(store, Containers(started(dead))) == []
    assert store.get(dead.id).state is LeaseState.BOUND


def test_another_engines_containers_are_not_missed_here(store: SqliteLeaseStore, dead: Lease) -> None:
    store.bind(dead.id, "c1@E2")
    assert reconcile(store, Containers()) == []
    assert store.get(dead.id).state is LeaseState.BOUND


def test_a_claim_that_a_living_process_holds_stays(store: SqliteLeaseStore) -> None:
    lease = store.reserve("br0", ADDRESS, 24, "02:00:00:00:00:01", "web")
    assert lease is not None
    assert reconcile(store, Containers()) == []
    assert store.get(lease.id).state is LeaseState.CLAIMED


# A view of everything, and a container that moves.


class Answers:
    """Stands where docker-py's API is: it gives what it was told to and notes what is asked of it."""

    def __init__(self, networks: Sequence[dict[str, Any]] = (), containers: Sequence[dict[str, Any]] = ()) -> None:
        self._networks, self._containers = list(networks), list(containers)
        self.settings: dict[str, Any] = {}
        self.done: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def info(self) -> dict[str, Any]:
        return {"ID": "AB:CD:EF:GH:IJ:KL:MN"}

    def version(self) -> dict[str, Any]:
        return {"Version": "20.10.24"}

    def networks(self) -> list[dict[str, Any]]:
        return self._networks

    def containers(self, *, all: bool) -> list[dict[str, Any]]:  # noqa: A002 - docker-py's word
        assert all
        return self._containers

    def inspect_container(self, container: str) -> dict[str, Any]:
        assert container == CONTAINER
        return {"NetworkSettings": {"Networks": self.settings}}

    def disconnect_container_from_network(self, *words: Any, **options: Any) -> None:
        self.done.append(("disconnect", words, options))

    def connect_container_to_network(self, *words: Any, **options: Any) -> None:
        self.done.append(("connect", words, options))


class Asked(Engine):
    """An engine that nobody has to start."""

    def __init__(self, api: Answers) -> None:
        self._api = api


CONTAINER = "c1" + 62 * "0"
RUNNING = {"IPAMConfig": None, "IPAddress": "172.16.42.7", "MacAddress": "02:42:ac:10:2a:07"}


def attached(description: dict[str, Any], *containers: dict[str, Any]) -> list[AttachedNetwork]:
    return list(Asked(Answers([description], containers)).view().networks)


def test_a_view_has_each_network_and_who_is_on_it() -> None:
    web = summary(RUNNING, State="running", Labels={"arpipam.lease": "7"})
    view = Asked(Answers([BRIDGE], [web])).view()
    [lan] = view.networks
    endpoint = Endpoint(
        network="lan",
        address=IPv4Address("172.16.42.7"),
        mac="02:42:ac:10:2a:07",
        container="c1@ABCDEFGHIJKL",
        name="web",
        running=True,
        lease=7,
    )
    assert lan == AttachedNetwork(
        "lan", "default", IPv4Network("172.16.42.0/24"), None, "br0", (endpoint,), driver="bridge", device="br0"
    )
    assert view.version == "20.10.24"


@pytest.mark.parametrize(
    ("settings", "state", "address", "mac"),
    [
        (RUNNING, "running", "172.16.42.7", "02:42:ac:10:2a:07"),
        (RUNNING, "paused", "172.16.42.7", "02:42:ac:10:2a:07"),
        (RUNNING | {"MacAddress": None}, "running", "172.16.42.7", ""),
        (RUNNING, "created", None, ""),  # could not be started: the address is given back
        (RUNNING | {"IPAMConfig": {"IPv4Address": "172.16.42.8"}}, "exited", "172.16.42.8", ""),
        (
            {"IPAMConfig": {"IPv4Address": "172.16.42.8"}, "IPAddress": "", "MacAddress": ""},
            "exited",
            "172.16.42.8",
            "",
        ),
        ({"IPAMConfig": {}, "IPAddress": "", "MacAddress": ""}, "exited", None, ""),
        ({}, "running", None, ""),
        (RUNNING | {"IPAddress": "10.0.0.7"}, "running", None, ""),  # of a second subnet of that network
    ],
)
def test_an_endpoint_has_the_address_that_it_has_or_will_have(
    settings: dict[str, Any], state: str, address: str | None, mac: str
) -> None:
    [lan] = attached(BRIDGE, summary(settings, State=state))
    found = [(str(endpoint.address), endpoint.mac) for endpoint in lan.endpoints]
    assert found == ([] if address is None else [(address, mac)])


def test_a_container_without_networks_is_on_none() -> None:
    assert attached(BRIDGE, summary(None)) == [
        AttachedNetwork("lan", "default", IPv4Network("172.16.42.0/24"), None, "br0", (), driver="bridge", device="br0")
    ]


ARPIPAM: dict[str, Any] = {"Driver": "arpipam", "Options": {"interface": "br7"}, "Config": [SUBNET]}


@pytest.mark.parametrize(
    ("description", "interface"),
    [
        (BRIDGE, "br0"),
        (NAMELESS, "br-2a31fd18463f"),
        (MACVLAN, "br0"),
        (MACVLAN | {"Options": None}, ""),
        (BRIDGE | {"IPAM": ARPIPAM}, "br7"),
        (MACVLAN | {"IPAM": ARPIPAM | {"Options": {"order": "random"}}}, "br0"),
    ],
)
def test_the_interface_of_a_network_is_its_bridge_or_parent_unless_its_options_name_one(
    description: dict[str, Any], interface: str
) -> None:
    [network] = attached(description)
    assert network.interface == interface


def test_a_network_of_two_subnets_is_two_each_with_its_own_endpoints() -> None:
    second = {"Subnet": "10.0.0.0/8", "IPRange": "10.1.0.0/16"}
    description = with_config(SUBNET, {"Subnet": "fd00::/64"}, second)
    one, two = attached(description, summary(RUNNING | {"IPAddress": "10.1.0.7"}, State="running"))
    assert (one.subnet, one.ranges, one.endpoints) == (IPv4Network("172.16.42.0/24"), None, ())
    assert (two.subnet, two.ranges) == (IPv4Network("10.0.0.0/8"), IPv4Network("10.1.0.0/16"))
    assert [endpoint.name for endpoint in two.endpoints] == ["web"]


@pytest.mark.parametrize(
    "ipam", [None, {}, {"Driver": "null", "Config": None}, {"Config": []}, {"Config": [{"Subnet": "fd00::/64"}, {}]}]
)
def test_a_network_without_an_ipv4_subnet_is_left_out(ipam: dict[str, Any] | None) -> None:
    assert attached(BRIDGE | {"IPAM": ipam}, summary(RUNNING, State="running")) == []


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (
            {"Aliases": ["web", "db.lan", CONTAINER[:12]], "Links": ["db:db"]},
            {"aliases": ["web", "db.lan"], "links": ["db:db"]},
        ),
        ({"Aliases": [CONTAINER[:12]], "Links": None}, {"aliases": None, "links": None}),
        ({"Aliases": None, "IPAMConfig": {"IPv4Address": "172.16.42.7"}}, {"aliases": None, "links": None}),
        (None, {"aliases": None, "links": None}),
    ],
)
def test_a_container_that_moves_leaves_and_joins_with_its_names_and_without_its_address(
    settings: dict[str, Any] | None, options: dict[str, Any]
) -> None:
    api = Answers()
    api.settings = {"lan": settings, "other": {"Aliases": ["elsewhere"]}}
    Asked(api).move(CONTAINER, "lan")
    assert api.done == [("disconnect", (CONTAINER, "lan"), {"force": True}), ("connect", (CONTAINER, "lan"), options)]


def test_what_the_engine_refuses_is_said_in_our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(engine, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))

    class Refusing(Answers):
        def connect_container_to_network(self, *words: Any, **options: Any) -> None:
            super().connect_container_to_network(*words, **options)
            raise APIError("409 Conflict", explanation="no address left")

        def version(self) -> dict[str, Any]:
            raise DockerException("nobody listens")

    api = Refusing()
    with pytest.raises(EngineError, match="the Docker engine refuses: no address left"):
        Asked(api).move(CONTAINER, "lan")
    assert [done[0] for done in api.done] == ["disconnect", *["connect"] * engine.REJOINS]
    assert pauses == [engine.REJOIN_PAUSE] * (engine.REJOINS - 1)
    with pytest.raises(EngineError, match="cannot reach the Docker engine: nobody listens"):
        Asked(Refusing()).view()
