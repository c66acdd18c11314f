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
from arpipam.fabric import DeclaredHost, Fabric, parse
from arpipam.fabric.journal import Journal
from arpipam.fabric.observed import Kernel, Observed, ObservedLink, ObservedSwitch, OvsBridgeState, Port
from arpipam.fabric.planner import UNDERLAY_BRIDGE, Plan, plan
from arpipam.fabric.steps import (
    AddLink,
    Address,
    Change,
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

DEFAULT = {"dst_len": 0, "proto": 3, "scope": 0, "type": 1, "gateway": "192.168.122.254", "table": 254}
UNDERLAY = IPv4Interface("192.168.122.1/24")
SECOND = IPv4Interface("192.168.122.101/24")


class Model:
    """A host whose kernel and Open vSwitch do what a step says, and complain where the real ones would."""

    def __init__(self, *, switch: bool, datapaths: tuple[str, ...] = ("netdev",)) -> None:
        nic = ObservedLink("eth0", 2, "", "52:54:00:00:00:01", 1500, True, addresses=(UNDERLAY, SECOND))  # noqa: FBT003 - up
        self.links = {"eth0": replace(nic, broadcasts={UNDERLAY: "192.168.122.255"})}
        self.routes: dict[str, list[dict[str, Any]]] = {"eth0": [dict(DEFAULT)]}
        self.replicas: dict[str, set[str]] = {}
        self.offload: dict[str, bool] = {}
        self.ovs = ObservedSwitch(frozenset(datapaths), {}, {}) if switch else None

    def observed(self) -> Observed:
        routes = {name: tuple(found) for name, found in self.routes.items() if found}
        replicas = {name: frozenset(found) for name, found in self.replicas.items()}
        return Observed(Kernel(dict(self.links), routes, replicas, {}, dict(self.offload)), self.ovs)

    def state(self) -> Any:
        """All of it, but for the order in which things came."""
        observed = self.observed()
        return observed.kernel, self.ovs, {name: set(link.addresses) for name, link in self.links.items()}

    def apply(self, step: Step) -> None:
        if isinstance(step, AddLink):
            assert step.name not in self.links
            values = {key: value for key, value in step.parameters.items() if key != "address"}
            self.links[step.name] = ObservedLink(
                step.name,
                9,
                step.kind,
                str(step.parameters.get("address", "")),
                1500,
                up=False,
                mine=True,
                parameters=values,
            )
        elif isinstance(step, DelLink):
            self.links.pop(step.name, None)
            self.replicas.pop(step.name, None)
            self.routes.pop(step.name, None)
            for name, link in self.links.items():
                if link.master == step.name:
                    self.links[name] = replace(link, master="", isolated=None)
        elif isinstance(step, SetLink):
            self._set(step)
        elif isinstance(step, Address):
            self._address(step)
        elif isinstance(step, Route):
            for found in self.routes.values():
                found[:] = [route for route in found if route != step.attributes]
            assert any(address.network == UNDERLAY.network for address in self.links[step.name].addresses)
            self.routes.setdefault(step.name, []).append(step.attributes)
        elif isinstance(step, Replica):
            there = self.replicas.setdefault(step.name, set())
            there.add(step.remote) if step.present else there.discard(step.remote)
        else:
            self._switch(step)

    def _set(self, step: SetLink) -> None:
        if step.value is None or step.name not in self.links:
            return
        link = self.links[step.name]
        if step.what == "master":
            assert not step.value or step.value in self.links
            self.links[step.name] = replace(link, master=step.value, isolated=False if step.value else None)
        elif step.what == "offload":
            self.offload[step.name] = step.value
        elif step.what == "isolated":
            self.links[step.name] = replace(link, isolated=step.value if link.master else None)
        else:
            self.links[step.name] = replace(link, **{step.what: step.value})

    def _address(self, step: Address) -> None:
        if step.name not in self.links:
            return
        link, address = self.links[step.name], IPv4Interface(step.address)
        others = tuple(one for one in link.addresses if one != address)
        broadcasts = {one: text for one, text in link.broadcasts.items() if one != address}
        if step.present:
            broadcasts |= {address: step.broadcast} if step.broadcast else {}
            others = (*others, address)
        self.links[step.name] = replace(link, addresses=others, broadcasts=broadcasts)
        if not others:
            self.routes.pop(step.name, None)

    def _switch(self, step: Step) -> None:
        assert self.ovs is not None
        bridges, ports = dict(self.ovs.bridges), dict(self.ovs.ports)
        if isinstance(step, OvsBridge) and step.present:
            bridges[step.name] = OvsBridgeState(step.name, step.datapath, step.hwaddr, mine=True)
            ports[step.name] = Port(step.name, step.name, "internal", {}, protected=False, bfd={}, mine=True)
            self.links[step.name] = ObservedLink(step.name, 9, "tun", step.hwaddr, 1500, up=False)
            self.offload[step.name] = True
        elif isinstance(step, OvsBridge):
            bridges.pop(step.name, None)
            ports = {name: port for name, port in ports.items() if port.bridge != step.name}
            self.links.pop(step.name, None)
            self.offload.pop(step.name, None)
        elif isinstance(step, OvsPort) and step.present:
            assert step.bridge in bridges
            ports[step.name] = Port(
                step.name, step.bridge, step.kind, step.options or {}, step.protected, step.bfd or {}, mine=True
            )
        elif isinstance(step, OvsPort):
            ports.pop(step.name, None)
        elif isinstance(step, OvsSet) and step.name in ports:
            column = {"type": "kind"}.get(step.column, step.column)
            ports[step.name] = replace(ports[step.name], **{column: step.value})
        elif isinstance(step, OvsSet) and step.name in bridges:
            bridges[step.name] = replace(bridges[step.name], datapath=step.value)
        self.ovs = ObservedSwitch(self.ovs.datapaths, bridges, ports)

    def carries_unprotected(self) -> list[str]:
        """Tunnel ports that forward to other tunnel ports."""
        bad = [
            link.name
            for link in self.links.values()
            if link.kind in ("vxlan", "gretap") and link.master and link.up and not link.isolated
        ]
        ports = self.ovs.ports.values() if self.ovs is not None else ()
        return bad + [port.name for port in ports if port.kind in ("gre", "vxlan") and not port.protected]


KINDS = [("gre", True), ("vxlan", True), ("gre", False), ("vxlan", False)]


def declared(tunnel: str, *, switch: bool, hosts: int = 3, **keys: Any) -> Fabric:
    table = {"subnet": "172.16.42.0/24", "tunnel": tunnel, "underlay_nic": "eth0", **keys}
    if switch:
        table.setdefault("ovs_bridge", "br0")
    lines = [
        {"name": f"host{n}", "address": f"172.16.42.{n}/24", "underlay": f"192.168.122.{n}"}
        for n in range(1, hosts + 1)
    ]
    return parse({"fabric": table, "host": lines}, "fabric.toml")


def planned(fabric: Fabric, model: Model) -> Plan:
    return plan(fabric, fabric.hosts[0], model.observed())


def done(fabric: Fabric, model: Model) -> list[Change]:
    """Converge; after each step no tunnel port carries what it must not."""
    changes = list(planned(fabric, model).changes)
    for change in changes:
        model.apply(change.do)
        assert model.carries_unprotected() == [], change.do.text
    return changes


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
        ({}, {"docker0": "veth"}, "docker0 is no bridge but veth"),
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
