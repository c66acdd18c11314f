"""Plans on a model of a host: they lead to what is declared and back again, in an order in which nothing loops."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.errors import LeaseError, LinkError
from arpipam.fabric import DeclaredHost, parse
from arpipam.fabric.journal import Journal
from arpipam.fabric.observed import ObservedLink, Port
from arpipam.fabric.planner import UNDERLAY_BRIDGE
from arpipam.fabric.steps import (
    AddLink,
    Address,
    DelLink,
    OvsBridge,
    OvsPort,
    OvsSet,
    Replica,
    Route,
    SetLink,
    Step,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from pathlib import Path
from tests.support.fabric_model import DEFAULT, KINDS, SECOND, UNDERLAY, Model, declared, done, planned


@pytest.mark.parametrize(("tunnel", "switch"), KINDS)
@pytest.mark.parametrize("there", [False, True], ids=["no docker0", "docker0 is there"])
def test_a_plan_leads_to_what_is_declared_and_its_undoing_back(tunnel: str, *, switch: bool, there: bool) -> None:
    fabric, model = declared(tunnel, switch=switch), Model(switch=switch)
    if there:
        model.links["docker0"] = ObservedLink(
            "docker0", 3, "bridge", "02:42:00:00:00:01", 1480, up=False, addresses=(SECOND,)
        )
    before = model.state()
    changes = done(fabric, model)
    assert planned(fabric, model).changes == ()
    assert IPv4Interface("172.16.42.1/24") in model.links["docker0"].addresses
    underlay = UNDERLAY_BRIDGE if switch else "eth0"
    assert set(model.links[underlay].addresses) == {UNDERLAY, SECOND}
    assert model.routes[underlay] == [DEFAULT]
    for change in reversed(changes):
        model.apply(change.undo)
    assert model.state() == before


@pytest.mark.parametrize(("tunnel", "switch"), KINDS)
@given(data=st.data())
def test_from_any_step_that_it_was_left_at_the_next_plan_completes_it(
    tunnel: str, data: st.DataObject, *, switch: bool
) -> None:
    fabric, model = declared(tunnel, switch=switch), Model(switch=switch)
    before = model.state()
    undo: dict[str, Step] = {}
    for _ in range(data.draw(st.integers(1, 3))):
        changes = planned(fabric, model).changes
        for change in changes[: data.draw(st.integers(0, len(changes)))]:
            undo.setdefault(change.undo.key, change.undo)
            model.apply(change.do)
    for change in done(fabric, model):
        undo.setdefault(change.undo.key, change.undo)
    assert planned(fabric, model).changes == ()
    for step in reversed(undo.values()):
        model.apply(step)
    assert model.state() == before


@pytest.mark.parametrize(("tunnel", "switch"), KINDS)
@given(counts=st.lists(st.integers(1, 8), min_size=2, max_size=4))
def test_hosts_that_come_and_go_get_and_lose_their_tunnels_and_nothing_else_changes(
    tunnel: str, counts: list[int], *, switch: bool
) -> None:
    model = Model(switch=switch)
    for count in counts:
        fabric = declared(tunnel, switch=switch, hosts=count)
        done(fabric, model)
        assert planned(fabric, model).changes == ()
        assert remotes(model) == {f"192.168.122.{n}" for n in range(2, count + 1)}


def remotes(model: Model) -> set[str]:
    if model.ovs is not None:
        return {port.options["remote_ip"] for port in model.ovs.ports.values() if "remote_ip" in port.options}
    gre = {str(link.parameters["gre_remote"]) for link in model.links.values() if link.kind == "gretap"}
    return gre | {remote for found in model.replicas.values() for remote in found}


@pytest.mark.parametrize(("tunnel", "switch"), KINDS)
def test_a_host_that_is_absent_has_no_tunnel(tunnel: str, *, switch: bool) -> None:
    fabric, model = declared(tunnel, switch=switch), Model(switch=switch)
    done(fabric, model)
    hosts = tuple(DeclaredHost(**{**host.model_dump(), "absent": host.name == "host2"}) for host in fabric.hosts)
    done(fabric.model_copy(update={"hosts": hosts}), model)
    assert remotes(model) == {"192.168.122.3"}


@pytest.mark.parametrize("kind", ["vxlan", "gretap"])
def test_a_tunnel_that_was_taken_out_of_the_bridge_is_stopped_before_it_joins_again(kind: str) -> None:
    fabric = declared("gre" if kind == "gretap" else "vxlan", switch=False)
    model = Model(switch=False)
    done(fabric, model)
    [first, *_] = [name for name, link in model.links.items() if link.kind == kind]
    model.links[first] = replace(model.links[first], master="", isolated=None)
    assert [change.do.text for change in done(fabric, model)] == [
        f"~ link {first} up: on -> off",
        f"~ link {first} master: none -> docker0",
        f"~ link {first} isolated: off -> on",
        f"~ link {first} up: off -> on",
    ]
    assert planned(fabric, model).changes == ()


SIMILAR = ("container-lan-1", "container-lan-2")
"""Bridges whose names are as long as the kernel allows."""


def test_fabrics_with_similar_names_have_a_tunnel_each() -> None:
    model = Model(switch=False)
    fabrics = [declared("vxlan", switch=False, bridge=bridge, vni=vni) for vni, bridge in enumerate(SIMILAR, 42)]
    for fabric in fabrics:
        done(fabric, model)
    tunnels = {link.master: link.parameters["vxlan_id"] for link in model.links.values() if link.kind == "vxlan"}
    assert tunnels == dict(zip(SIMILAR, (42, 43), strict=True))
    assert all(len(name) <= 15 for name in model.links)
    for fabric in fabrics:
        assert planned(fabric, model).changes == ()


@pytest.mark.parametrize("joined", [True, False])
def test_a_tunnel_whose_long_name_was_cut_gives_way_to_one_with_a_name_of_its_own(*, joined: bool) -> None:
    fabric, model = declared("vxlan", switch=False, bridge=SIMILAR[0]), Model(switch=False)
    done(fabric, model)
    [new] = [link for link in model.links.values() if link.kind == "vxlan"]
    del model.links[new.name]
    old = replace(new, name="vx-container-la", master=SIMILAR[0] if joined else "")
    model.links[old.name] = old
    model.replicas = {old.name: model.replicas[new.name]}
    undo = [change.undo for change in done(fabric, model)]
    assert {link.name for link in model.links.values() if link.kind == "vxlan"} == {new.name}
    assert planned(fabric, model).changes == ()
    for step in reversed(undo):
        model.apply(step)
    assert {link.name for link in model.links.values() if link.kind == "vxlan"} == {old.name}


def test_what_somebody_else_has_on_the_switch_stays() -> None:
    fabric, model = declared("gre", switch=True), Model(switch=True)
    done(fabric, model)
    assert model.ovs is not None
    machine = Port("gre-far", "br0", "gre", {"remote_ip": "10.0.0.1"}, protected=True, bfd={}, mine=False)
    model.ovs = replace(model.ovs, ports={**model.ovs.ports, "gre-far": machine})
    assert planned(fabric, model).changes == ()


# What the underlay leaves, and which datapath.


@pytest.mark.parametrize(
    ("datapath", "datapaths", "expected"),
    [
        ("auto", ("netdev",), "netdev"),
        ("auto", ("netdev", "system"), "system"),
        ("netdev", ("netdev", "system"), "netdev"),
        ("system", ("netdev",), "system"),
    ],
)
def test_the_datapath_is_the_kernels_where_there_is_one(
    datapath: str, datapaths: tuple[str, ...], expected: str
) -> None:
    fabric = declared("gre", switch=True, datapath=datapath)
    assert planned(fabric, Model(switch=True, datapaths=datapaths)).datapath == expected


def test_the_datapath_of_a_bridge_that_was_made_stays() -> None:
    fabric, model = declared("gre", switch=True), Model(switch=True)
    done(fabric, model)
    assert model.ovs is not None
    model.ovs = replace(model.ovs, datapaths=frozenset({"netdev", "system"}))
    assert planned(fabric, model).datapath == "netdev"
    assert planned(fabric, model).changes == ()


def test_the_kernels_datapath_leaves_the_nic_alone() -> None:
    model = Model(switch=True, datapaths=("system", "netdev"))
    nic = model.links["eth0"]
    done(declared("gre", switch=True), model)
    assert model.links["eth0"] == nic
    assert UNDERLAY_BRIDGE not in model.links


@pytest.mark.parametrize(("tunnel", "overhead"), [("gre", 38), ("vxlan", 50)])
@pytest.mark.parametrize("switch", [False, True])
def test_the_mtu_is_what_the_underlay_leaves(tunnel: str, overhead: int, *, switch: bool) -> None:
    fabric, model = declared(tunnel, switch=switch), Model(switch=switch)
    model.links["eth0"] = replace(model.links["eth0"], mtu=9000)
    assert planned(fabric, model).mtu == 9000 - overhead
    done(fabric, model)
    assert planned(fabric, model).mtu == 9000 - overhead
    assert model.links["docker0"].mtu == 9000 - overhead
    assert planned(declared(tunnel, switch=switch, mtu=1400), model).mtu == 1400


@pytest.mark.parametrize(
    ("keys", "change", "said"),
    [
        ({}, {"eth0": None}, "underlay address 192.168.122.1 of host host1 is on no interface of this machine"),
        ({}, {"docker0": "veth"}, "docker0 is not a bridge but veth"),
        ({}, {"vx-docker0": "vxlan"}, "vx-docker0 is there already and is not ours"),
        ({"ovs_bridge": "br0", "underlay_nic": "eth9"}, {}, "no interface eth9 on this machine"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_in_one_line(keys: dict[str, Any], change: dict[str, str | None], said: str) -> None:
    fabric = declared("vxlan", switch=False, **keys)
    model = Model(switch="ovs_bridge" in keys)
    for name, kind in change.items():
        if kind is None:
            del model.links[name]
        else:
            model.links[name] = ObservedLink(name, 7, kind, "", 1500, up=True)
    with pytest.raises(LinkError) as error:
        planned(fabric, model)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_userspace_datapath_asks_for_the_nic() -> None:
    lines = [{"name": "host1", "address": "172.16.42.1/24", "underlay": "192.168.122.1"}]
    table = {"subnet": "172.16.42.0/24", "tunnel": "gre", "ovs_bridge": "br0"}
    fabric = parse({"fabric": table, "host": lines}, "fabric.toml")
    with pytest.raises(LinkError, match="give underlay_nic"):
        planned(fabric, Model(switch=True))


# The journal.


def every_step() -> list[Step]:
    found: list[Step] = []
    for tunnel, switch in KINDS:
        model = Model(switch=switch)
        for hosts in (3, 1):
            for change in done(declared(tunnel, switch=switch, hosts=hosts), model):
                found += [change.do, change.undo]
    return found


def test_each_step_survives_a_file() -> None:
    steps = every_step()
    assert {type(step) for step in steps} == {
        *(AddLink, DelLink, SetLink, Address, Route, Replica, OvsBridge, OvsPort, OvsSet)
    }
    for step in steps:
        assert from_json(json.loads(json.dumps(to_json(step)))) == step
        assert step.text[:2] in ("+ ", "- ", "~ ")
        assert step.lack
        assert "\n" not in step.text + step.lack


def test_the_journal_keeps_the_first_undoing_of_each_thing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "fabric.journal"
    path.parent.mkdir()
    first, second = SetLink("docker0", "mtu", 1500, 1450), SetLink("docker0", "mtu", 1450, 1400)
    assert Journal(path).add([DelLink("docker0"), first]) == [DelLink("docker0"), first]
    journal = Journal(path)
    assert journal.add([second, DelLink("vx")]) == [DelLink("vx")]
    assert Journal(path).steps == [DelLink("docker0"), first, DelLink("vx")]
    journal.drop([DelLink("docker0"), second])
    assert Journal(path).steps == [DelLink("vx")]
    journal.drop([DelLink("vx")])
    assert not path.exists()
    assert Journal(path).steps == []


@pytest.mark.parametrize(
    "content", ["no json", "[]", "1", '{"step": "Rocket"}', '{"name": "eth0"}', '{"step": "DelLink", "speed": 1}']
)
def test_a_damaged_journal_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "fabric.journal"
    path.write_text(json.dumps(to_json(DelLink("docker0"))) + "\n" + content + "\n")
    with pytest.raises(LeaseError) as error:
        Journal(path)
    assert str(error.value).startswith(f"fabric journal {path} is damaged; move it away")
    assert "\n" not in str(error.value)


def test_a_journal_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "fabric.journal"
    with pytest.raises(LeaseError, match=r"fabric journal .*: No such file or directory; run as root, or choose"):
        Journal(path).add([DelLink("docker0")])
