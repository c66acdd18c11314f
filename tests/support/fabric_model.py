"""A host that a plan is carried out on in memory, and a fabric for it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface
from typing import Any

from arpipam.fabric import Fabric, parse
from arpipam.fabric.observed import Kernel, Observed, ObservedLink, ObservedSwitch, OvsBridgeState, Port
from arpipam.fabric.planner import Plan, plan
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
)

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
