"""Whatever shape an engine's descriptions have, they are read or named, and hide no other."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.engine.model import attached_networks, container, containers, device_of
from tests.support.descriptions import LAN, WEB

TEXTS = st.sampled_from(["", "10.0.0.1/24", "10.0.0.0/33", "010.1.0.0/24", "fd00::/64", "::ffff:10.0.0.0/120", "x"])
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)


def mostly(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with some of these keys, each as it should be or as it should not."""
    return st.fixed_dictionaries({}, optional={key: value | ANY for key, value in keys.items()}) | ANY


NAMES = st.sampled_from(["lan", "plain", "a b", "a\nb", "\x1b[31m", "é", ""])
CONFIG = mostly(
    Subnet=TEXTS, IPRange=TEXTS, Gateway=TEXTS, AuxiliaryAddresses=st.dictionaries(NAMES, TEXTS, max_size=2)
)
NETWORK = mostly(
    Name=NAMES,
    Id=st.sampled_from([64 * "2", 64 * "3", ""]),
    Driver=st.sampled_from(["bridge", "macvlan", "ipvlan", "host", "null", "overlay", "weave:2"]),
    IPAM=mostly(Driver=st.sampled_from(["default", "null", "arpipam", ""]), Config=st.lists(CONFIG, max_size=3)),
    Options=st.dictionaries(
        st.sampled_from(["parent", "com.docker.network.bridge.name", "x"]), TEXTS | ANY, max_size=2
    ),
)
SETTINGS = mostly(IPAddress=TEXTS, MacAddress=TEXTS, NetworkID=TEXTS, IPAMConfig=mostly(IPv4Address=TEXTS))
CONTAINER = mostly(
    Id=st.sampled_from([64 * "a", ""]),
    Names=st.lists(NAMES, max_size=2),
    State=st.sampled_from(["running", "dead", "created", "removing"]),
    Labels=st.dictionaries(st.just("arpipam.lease"), st.sampled_from(["7", "²", "-1", ""]) | ANY),
    NetworkSettings=mostly(Networks=st.dictionaries(NAMES, SETTINGS, max_size=2)),
)


@given(st.lists(NETWORK, max_size=3), st.lists(CONTAINER, max_size=3))
def test_no_description_hides_another(networks: list[Any], summaries: list[Any]) -> None:
    found, unreadable = attached_networks([*networks, LAN], [*summaries, WEB], str)
    mine = [network for network in found if network.device == "br0" and network.subnet == IPv4Network("172.16.42.0/24")]
    assert "web" in [endpoint.name for endpoint in mine[-1].endpoints]
    assert all(line.isprintable() for line in unreadable)
    assert [one.name for one in containers([*summaries, WEB])][-1] == "web"


@pytest.mark.parametrize(
    ("change", "subnets"),
    [
        ({"IPAM": {"Driver": "null", "Options": {}, "Config": []}}, []),
        ({"IPAM": {"Driver": "null", "Config": None}}, []),
        ({"IPAM": None}, []),
        ({"IPAM": {"Driver": "default", "Config": [{"Subnet": "fd00:7::/64", "Gateway": "fd00:7::1"}]}}, []),
        ({"IPAM": {"Config": [{"Subnet": "fd00::/64"}, {"Subnet": "10.0.0.1/24"}]}}, ["10.0.0.0/24"]),
        ({"IPAM": {"Config": [{"Subnet": "10.0.0.1/24", "IPRange": "10.0.0.200/25"}]}}, ["10.0.0.0/24"]),
        ({"IPAM": {"Config": [{"Subnet": "010.008.0.0/24"}]}}, ["10.8.0.0/24"]),
        ({"Options": None}, ["172.16.42.0/24"]),
        ({"Labels": {"\x1b": "\n"}, "Name": "a\nb"}, ["172.16.42.0/24"]),
        ({"Driver": "null", "Name": "none", "IPAM": {"Driver": "default", "Options": None, "Config": []}}, []),
    ],
)
def test_what_engines_accept_is_read(change: dict[str, Any], subnets: list[str]) -> None:
    networks, unreadable = attached_networks([LAN | change], [], str)
    assert ([str(network.subnet) for network in networks], unreadable) == (subnets, ())


@pytest.mark.parametrize(
    ("change", "name", "addresses"),
    [
        ({"State": "dead", "Names": None}, 12 * "c", ["172.16.42.7"]),
        ({"NetworkSettings": {"Networks": {}}}, "web", []),
        ({"NetworkSettings": {"Networks": {"lan": None}}}, "web", []),
        ({"NetworkSettings": None, "Labels": None}, "web", []),
        ({"NetworkSettings": {"Networks": {"lan": {"IPAddress": "", "IPAMConfig": {"IPv4Address": ""}}}}}, "web", []),
        ({"NetworkSettings": {"Networks": {"six": {"IPAddress": "", "GlobalIPv6Address": "fd00::7"}}}}, "web", []),
    ],
)
def test_a_container_of_any_state_is_read(change: dict[str, Any], name: str, addresses: list[str]) -> None:
    read = container(WEB | change)
    assert (read.name, sorted(map(str, read.addresses))) == (name, addresses)
    _, unreadable = attached_networks([LAN], [WEB | change], str)
    assert unreadable == ()


def test_two_networks_of_one_name_are_told_apart_while_their_containers_run() -> None:
    other = LAN | {"Id": 64 * "3", "Options": {"com.docker.network.bridge.name": "br1"}}
    settings = {"IPAddress": "172.16.42.7", "MacAddress": "02:42:ac:10:2a:07", "NetworkID": other["Id"]}
    web = WEB | {"NetworkSettings": {"Networks": {"lan": settings}}}
    networks, _ = attached_networks([LAN, other], [web], str)
    assert [(network.device, len(network.endpoints)) for network in networks] == [("br0", 0), ("br1", 1)]


def test_a_stopped_container_joins_a_network_of_that_name_that_was_made_anew() -> None:
    settings = {"IPAddress": "", "NetworkID": 64 * "f", "IPAMConfig": {"IPv4Address": "172.16.42.9"}}
    web = WEB | {"State": "exited", "NetworkSettings": {"Networks": {"lan": settings}}}
    [lan], _ = attached_networks([LAN], [web], str)
    assert [endpoint.address for endpoint in lan.endpoints] == [IPv4Address("172.16.42.9")]


def test_a_container_that_names_its_network_by_the_id_is_on_it() -> None:
    settings = {"IPAddress": "", "IPAMConfig": {"IPv4Address": "172.16.42.9"}}
    web = WEB | {"State": "created", "NetworkSettings": {"Networks": {LAN["Id"]: settings}}}
    [lan], _ = attached_networks([LAN], [web], str)
    assert len(lan.endpoints) == 1


@pytest.mark.parametrize(
    ("driver", "options", "device"),
    [
        ("bridge", {"com.docker.network.bridge.name": "br0"}, "br0"),
        ("bridge", {"com.docker.network.bridge.name": ""}, "br-222222222222"),
        ("bridge", None, "br-222222222222"),
        ("macvlan", {"parent": "eth1"}, "eth1"),
        ("macvlan", {}, ""),
        ("ipvlan", {"parent": "eth1"}, "eth1"),
    ],
)
def test_the_device_is_the_drivers(driver: str, options: dict[str, str] | None, device: str) -> None:
    assert device_of(LAN | {"Driver": driver, "Options": options}) == device
