"""The file that declares a network: what it may hold, and the error where it is wrong."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.errors import InputError
from arpipam.fabric import Fabric, load, parse

if TYPE_CHECKING:
    from pathlib import Path

HOSTS: list[dict[str, Any]] = [
    {"name": f"host{n}", "address": f"172.16.42.{n}/24", "underlay": f"192.168.122.{n}"} for n in (1, 2, 3)
]
TABLE: dict[str, Any] = {"subnet": "172.16.42.0/24", "tunnel": "gre"}


def fabric(hosts: list[dict[str, Any]] | None = None, **keys: Any) -> Fabric:
    """A fabric with these keys; None leaves one out."""
    table = {key: value for key, value in {**TABLE, **keys}.items() if value is not None}
    return parse({"fabric": table, "host": HOSTS if hosts is None else hosts}, "fabric.toml")


def complaint(hosts: list[dict[str, Any]] | None = None, **keys: Any) -> str:
    with pytest.raises(InputError) as error:
        fabric(hosts, **keys)
    return str(error.value)


def test_what_is_not_said_has_its_default() -> None:
    found = fabric()
    assert (found.bridge, found.ovs_bridge, found.nic, found.underlay_nic) == ("docker0", None, None, None)
    assert (found.datapath, found.vni, found.mtu, found.ovsdb, found.witnesses) == ("auto", 42, None, "", ())
    assert [(host.underlay_nic, host.absent) for host in found.hosts] == [(None, False)] * 3


def test_all_that_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "fabric.toml"
    path.write_text(
        """
        [fabric]
        bridge = "lan0"
        ovs_bridge = "br0"
        tunnel = "vxlan"
        subnet = "172.16.42.0/24"
        datapath = "netdev"
        underlay_nic = "eth0"
        vni = 77
        mtu = 1400
        ovsdb = "unix:/run/ovs.sock"
        witnesses = ["172.16.42.254"]

        [[host]]
        name = "host1"
        address = "172.16.42.1/24"
        underlay = "192.168.122.1"
        underlay_nic = "eth1"

        [[host]]
        name = "host2"
        address = "172.16.42.2/24"
        underlay = "192.168.122.2"
        absent = true
        """
    )
    found = load(path)
    assert (found.bridge, found.ovs_bridge, found.tunnel, found.datapath) == ("lan0", "br0", "vxlan", "netdev")
    assert (found.subnet, found.vni, found.mtu) == (IPv4Network("172.16.42.0/24"), 77, 1400)
    assert (found.underlay_nic, found.ovsdb) == ("eth0", "unix:/run/ovs.sock")
    assert found.witnesses == (IPv4Address("172.16.42.254"),)
    first, second = found.hosts
    assert (first.name, first.address) == ("host1", IPv4Interface("172.16.42.1/24"))
    assert (first.underlay, first.underlay_nic, first.absent) == (IPv4Address("192.168.122.1"), "eth1", False)
    assert second.absent
    assert found.peers(first) == []
    assert found.peers(second) == [first]


def test_a_bridge_with_a_nic_needs_neither_tunnel_nor_underlay() -> None:
    hosts = [{"name": "a", "address": "172.16.42.1/24"}, {"name": "b", "address": "172.16.42.2/24"}]
    found = fabric(hosts, tunnel=None, nic="eth0")
    assert (found.nic, found.tunnel) == ("eth0", None)
    assert fabric(hosts[:1], tunnel=None).nic is None  # and a host alone not even that


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"color": "red"}, "color: unknown key; allowed are bridge, ovs_bridge, tunnel, nic, subnet, datapath, "),
        ({"bridge": "a-name-that-is-too-long"}, "bridge 'a-name-that-is-too-long': "),
        ({"bridge": "two words"}, "bridge 'two words': "),
        ({"ovs_bridge": ""}, "ovs_bridge '': "),
        ({"tunnel": "ipip"}, "tunnel 'ipip': Input should be 'gre' or 'vxlan'"),
        ({"datapath": "fast"}, "datapath 'fast': Input should be 'auto', 'system' or 'netdev'"),
        ({"subnet": None}, "subnet: missing"),
        ({"subnet": "172.16.42.1/24"}, "subnet '172.16.42.1/24': "),
        ({"subnet": "10.0.0.0/8"}, "host host1: address 172.16.42.1/24 is not in subnet 10.0.0.0/8"),
        ({"vni": 0}, "vni 0: Input should be greater than or equal to 1"),
        ({"vni": 1 << 24}, "vni 16777216: Input should be less than 16777216"),
        ({"vni": "many"}, "vni 'many': "),
        ({"mtu": 100}, "mtu 100: Input should be greater than or equal to 576"),
        ({"mtu": 70000}, "mtu 70000: Input should be less than or equal to 65535"),
        ({"ovsdb": "/run/db.sock"}, "ovsdb: write unix:PATH, tcp:ADDRESS:PORT or ssl:ADDRESS:PORT"),
        ({"witnesses": ["printer"]}, "witnesses.0 'printer': "),
        ({"tunnel": None}, 'give tunnel = "gre" or "vxlan"; or nic'),
        ({"tunnel": None, "nic": "eth0", "ovs_bridge": "br0"}, 'ovs_bridge goes with tunnel = "gre" or "vxlan"'),
        ({"nic": "eth0"}, "nic goes without tunnel; the NIC below the tunnels is underlay_nic"),
        ({"bridge": "br0", "ovs_bridge": "br0"}, "ovs_bridge and bridge must be two bridges"),
        ({"datapath": "netdev"}, 'datapath = "netdev" goes with ovs_bridge'),
    ],
    ids=str,
)
def test_a_key_that_cannot_be_meant_is_named_in_one_line(keys: dict[str, Any], said: str) -> None:
    text = complaint(**keys)
    assert text.startswith("fabric.toml: ")
    assert said in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("number", "keys", "said"),
    [
        (2, {"colour": 1}, "host[2].colour: unknown key; allowed are name, address, underlay, underlay_nic, absent"),
        (2, {"name": "with space"}, "host[2].name 'with space': "),
        (2, {"name": "-a"}, "host[2].name '-a': "),
        (3, {"name": None}, "host[3].name: missing"),
        (3, {"address": None}, "host[3].address: missing"),
        (1, {"address": "172.16.42.300/24"}, "host[1].address '172.16.42.300/24': "),
        (1, {"address": "172.16.42.1"}, "host host1: address 172.16.42.1/32 is not in subnet 172.16.42.0/24"),
        (1, {"address": "172.16.42.0/24"}, "host host1: 172.16.42.0 is no address that a host can have"),
        (1, {"address": "172.16.42.255/24"}, "host host1: 172.16.42.255 is no address that a host can have"),
        (2, {"underlay": None}, "host host2: underlay is missing: the address where its tunnels end"),
        (2, {"underlay": "there"}, "host[2].underlay 'there': "),
        (2, {"absent": "perhaps"}, "host[2].absent 'perhaps': "),
        (2, {"name": "host1"}, "name host1 is there twice"),
        (2, {"address": "172.16.42.1/24"}, "address 172.16.42.1/24 is there twice"),
        (2, {"underlay": "192.168.122.1"}, "underlay 192.168.122.1 is there twice"),
        (2, {"underlay_nic": "eth0/1"}, "host[2].underlay_nic 'eth0/1': "),
    ],
    ids=str,
)
def test_a_host_that_cannot_be_meant_is_named_in_one_line(number: int, keys: dict[str, Any], said: str) -> None:
    hosts = [dict(host) for host in HOSTS]
    changed = {**hosts[number - 1], **keys}
    hosts[number - 1] = {key: value for key, value in changed.items() if value is not None}
    text = complaint(hosts)
    assert text.startswith("fabric.toml: ")
    assert said in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[fabric\n", "Expected ']'"),
        (b"\xff\xfe", "utf-8"),
        (b"[network]\n", "network: unknown; allowed are [fabric] and [[host]]"),
        (b"fabric = 1\n", "write one [fabric] and a [[host]] for each host"),
        (b'[fabric]\nsubnet = "172.16.42.0/24"\n[host]\nname = "a"\n', "write one [fabric] and a [[host]]"),
        (b'[fabric]\nsubnet = "172.16.42.0/24"\n', "host"),
        (b"", "subnet: missing"),
    ],
    ids=str,
)
def test_a_file_that_is_none_is_named_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "fabric.toml"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named_with_the_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml: No such file .*--fabric$"):
        load(tmp_path / "nowhere.toml")


# Ports.

NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", fullmatch=True)


@given(st.lists(NAMES, min_size=1, max_size=20, unique=True), st.sampled_from(["gre", "vxlan"]))
def test_each_peer_has_a_port_name_of_its_own_that_the_kernel_takes(names: list[str], tunnel: str) -> None:
    hosts = [
        {"name": name, "address": f"172.16.42.{n}/24", "underlay": f"192.168.122.{n}"}
        for n, name in enumerate(names, 1)
    ]
    found = fabric(hosts, tunnel=tunnel)
    ports = [found.port_of(host) for host in found.hosts]
    assert len(set(ports)) == len(ports)
    assert all(0 < len(port) <= 15 for port in ports)


def test_a_short_name_is_in_the_name_of_its_port() -> None:
    hosts = [{**HOSTS[0], "name": "host2"}, {**HOSTS[1], "name": "a-host-with-a-long-name"}]
    gre, vxlan = fabric(hosts), fabric(hosts, tunnel="vxlan")
    assert gre.port_of(gre.hosts[0]) == "gre-host2"
    assert vxlan.port_of(vxlan.hosts[0]) == "vx-host2"
    assert gre.port_of(gre.hosts[1]).startswith("gre-")
    assert vxlan.port_of(vxlan.hosts[1]).startswith("vx-")


# Which of them this is.


@pytest.mark.parametrize(
    ("name", "addresses", "hostname", "expected"),
    [
        (None, ["10.0.0.1", "192.168.122.2"], "elsewhere", "host2"),
        (None, ["172.16.42.3"], "elsewhere", "host3"),
        (None, [], "host1", "host1"),
        ("host3", ["192.168.122.1"], "host2", "host3"),
        (None, ["192.168.122.1", "172.16.42.2"], "host3", "host1"),  # the underlay says most
    ],
    ids=["underlay", "bridge", "hostname", "--host", "underlay first"],
)
def test_the_local_host(name: str | None, addresses: list[str], hostname: str, expected: str) -> None:
    ours = {IPv4Address(address) for address in addresses}
    assert fabric().local(name=name, addresses=ours, hostname=hostname).name == expected


def test_a_host_that_is_not_in_the_file_is_told_the_names() -> None:
    with pytest.raises(InputError, match=r"^--host other: the file names host1, host2, host3$"):
        fabric().local(name="other", addresses=[], hostname="host1")
    with pytest.raises(InputError, match=r"--host host1, host2, host3$"):
        fabric().local(name=None, addresses=[], hostname="other")
