"""From what is declared and what there is: the changes that are missing, in the order in which they are safe.

Pure. No frame finds a loop at any point in between: a tunnel port is protected (isolated) before it carries anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Any

from arpipam.errors import LinkError
from arpipam.fabric.config import LONGEST_INTERFACE, OVERHEAD
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
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from arpipam.fabric.config import DeclaredHost, Fabric
    from arpipam.fabric.observed import Observed, ObservedLink, ObservedSwitch, Port

UNDERLAY_BRIDGE = "br-phy"
"""Holds the underlay NIC of a userspace datapath (Open vSwitch, Documentation/howto/userspace-tunneling)."""
VXLAN_PORT = 4789
"""RFC 7348, section 5."""
WARM = {"enable": "true"}
"""BFD over a tunnel (RFC 5880): its packets keep the userspace datapath's neighbour entries alive, so that no first
frame is lost, and say whether the far end is there."""
_PLAIN_MTU = 1500
"""Of a bridge that leads nowhere."""


@dataclass(frozen=True)
class Plan:
    """The changes, and what they rest on."""

    changes: tuple[Change, ...]
    mtu: int
    datapath: str
    """Of Open vSwitch: system or netdev; "" where there is none."""

    @property
    def lines(self) -> list[str]:
        """A line for each."""
        return [change.do.text for change in self.changes]


def plan(fabric: Fabric, local: DeclaredHost, observed: Observed) -> Plan:
    """What has to change. Raises LinkError where the underlay is not as the file says."""
    return _Planner(fabric, local, observed).plan()


class _Planner:
    def __init__(self, fabric: Fabric, local: DeclaredHost, observed: Observed) -> None:
        self._fabric = fabric
        self._local = local
        self._links = observed.kernel.links
        self._kernel = observed.kernel
        self._taken = observed.taken
        self._ovs = observed.ovs
        self._changes: list[Change] = []
        self._fresh: set[str] = set()
        """Links that come with these changes."""

    def plan(self) -> Plan:
        fabric = self._fabric
        datapath = ""
        if self._ovs is not None:
            datapath = self._datapath(self._ovs)
        mtu = self._mtu(datapath)
        self._bridge(mtu)
        if self._ovs is not None:
            self._open_vswitch(self._ovs, datapath, mtu)
        elif fabric.tunnel == "vxlan":
            self._vxlan(mtu)
        elif fabric.tunnel == "gre":
            self._gretap(mtu)
        elif fabric.nic is not None:
            self._into(fabric.nic, fabric.bridge, isolated=False)
            self._take_over(fabric.nic, fabric.bridge)
        self._address(fabric.bridge, self._local.address)
        return Plan(tuple(self._changes), mtu, datapath)

    # What the link below says.

    def _datapath(self, ovs: ObservedSwitch) -> str:
        fabric = self._fabric
        wanted: str = fabric.datapath
        if wanted != "auto":
            pass
        elif fabric.ovs_bridge in ovs.bridges and ovs.bridges[fabric.ovs_bridge].mine:
            wanted = ovs.bridges[fabric.ovs_bridge].datapath or "system"
        else:
            wanted = "system" if "system" in ovs.datapaths else "netdev"
        if wanted == "netdev" and self._nic is None:
            raise LinkError(
                "Open vSwitch runs its userspace datapath here, which needs the NIC below the tunnels: give "
                "underlay_nic"
            )
        return wanted

    @property
    def _nic(self) -> str | None:
        return self._local.underlay_nic or self._fabric.underlay_nic

    def _mtu(self, datapath: str) -> int:
        """The largest packet that containers may send."""
        fabric, local = self._fabric, self._local
        if fabric.tunnel is None:
            if fabric.nic is None:
                return fabric.mtu or _PLAIN_MTU
            below = fabric.nic
        else:
            holders = [link.name for link in self._links.values() if local.underlay in {a.ip for a in link.addresses}]
            taken = {IPv4Interface(step.address).ip for step in self._taken if isinstance(step, Address)}
            if not holders and local.underlay not in taken:
                raise LinkError(
                    f"underlay address {local.underlay} of host {local.name} is on no interface of this machine; set "
                    "it first, or correct the file"
                )
            below = (self._nic or "") if datapath == "netdev" else holders[0]
        if below not in self._links:
            raise LinkError(f"no interface {below} on this machine; correct the file")
        if fabric.mtu is not None:
            return fabric.mtu
        overhead = OVERHEAD[fabric.tunnel] if fabric.tunnel is not None else 0
        return self._links[below].mtu - overhead

    # The Linux bridge.

    def _bridge(self, mtu: int) -> None:
        name = self._fabric.bridge
        link = self._links.get(name)
        if link is None:
            parameters = {"address": self._own_mac(), "br_stp_state": 0, "br_forward_delay": 0}
            self._add_link(name, "bridge", parameters)
        elif link.kind != "bridge":
            raise LinkError(f"{name} is not a bridge but {link.kind or 'a NIC'}; name another bridge in the file")
        elif link.mine and link.stp:
            self._set(name, "stp", value=False, old=True)
        self._set_mtu(name, mtu)
        self._set_up(name)

    def _own_mac(self) -> str:
        """The bridge's MAC for good: without it, the bridge would take one of its ports', and another as they come."""
        return self._mac(0x02, self._fabric.bridge)

    def _port_mac(self, name: str) -> str:
        """The MAC of a port of ours: a high one, as a bridge that was there before takes the lowest of its ports'."""
        return self._mac(0xFE, name)

    def _mac(self, first: int, name: str) -> str:
        seed = f"{name} {self._local.name} {self._local.underlay} {self._local.address}"
        return bytes([first, *hashlib.sha256(seed.encode()).digest()[:5]]).hex(":")

    def _address(self, name: str, address: IPv4Interface) -> None:
        link = self._current(name)
        moved = Address(name, str(address), present=True).key in {change.do.key for change in self._changes}
        if not moved and (link is None or address not in link.addresses):
            self._change_address(name, address, str(address.network.broadcast_address), present=True)

    # Open vSwitch.

    def _open_vswitch(self, ovs: ObservedSwitch, datapath: str, mtu: int) -> None:
        fabric, name = self._fabric, self._fabric.ovs_bridge or ""
        if datapath == "netdev":
            nic = self._nic or ""
            self._ovs_bridge(ovs, UNDERLAY_BRIDGE, datapath, self._links[nic].mac)
            self._ovs_port(ovs, OvsPort(UNDERLAY_BRIDGE, nic, present=True))
        self._ovs_bridge(ovs, name, datapath, self._port_mac(name))
        for peer in fabric.peers(self._local):
            options = {"remote_ip": str(peer.underlay)}
            if datapath == "system":
                options["local_ip"] = str(self._local.underlay)
            if fabric.tunnel == "vxlan":
                options["key"] = str(fabric.vni)
            warm = WARM if datapath == "netdev" else {}
            kind = str(fabric.tunnel)
            self._ovs_port(
                ovs,
                OvsPort(name, fabric.port_of(peer), True, kind, options, protected=True, bfd=warm),  # noqa: FBT003 - present
            )
        wanted = {fabric.port_of(peer) for peer in fabric.peers(self._local)}
        for port in ovs.ports.values():
            if port.bridge == name and port.mine and port.kind in OVERHEAD and port.name not in wanted:
                self._change(OvsPort(name, port.name, present=False), _again(port))
        inner = ovs.ports.get(name)
        if inner is None or inner.mtu_request != mtu:
            old = None if inner is None else inner.mtu_request
            self._change(
                OvsSet("Interface", name, "mtu_request", mtu, old), OvsSet("Interface", name, "mtu_request", old, mtu)
            )
        if datapath == "netdev":
            self._offload_off(UNDERLAY_BRIDGE)
            self._set_up(UNDERLAY_BRIDGE)
            self._take_over(self._nic or "", UNDERLAY_BRIDGE)
            self._offload_off(name)
        self._into(name, fabric.bridge, isolated=False)

    def _ovs_bridge(self, ovs: ObservedSwitch, name: str, datapath: str, hwaddr: str) -> None:
        bridge = ovs.bridges.get(name)
        if bridge is None:
            self._fresh.add(name)
            self._change(
                OvsBridge(name, datapath, present=True, hwaddr=hwaddr), OvsBridge(name, datapath, present=False)
            )
        elif (bridge.datapath or "system") != datapath:
            old = bridge.datapath
            self._fresh.add(name)  # the kernel's side of it is made anew
            self._change(
                OvsSet("Bridge", name, "datapath_type", datapath, old),
                OvsSet("Bridge", name, "datapath_type", old, datapath),
            )

    def _ovs_port(self, ovs: ObservedSwitch, wanted: OvsPort) -> None:
        port = ovs.ports.get(wanted.name)
        if port is not None and port.bridge != wanted.bridge:
            if not port.mine:
                raise LinkError(
                    f"port {wanted.name} is on Open vSwitch bridge {port.bridge} already, not on {wanted.bridge}; "
                    "remove it there first"
                )
            self._change(OvsPort(port.bridge, port.name, present=False), _again(port))
            port = None
        if port is None:
            self._change(wanted, OvsPort(wanted.bridge, wanted.name, present=False))
            return
        columns: list[tuple[str, str, Any, Any]] = [
            ("Interface", "type", port.kind, wanted.kind),
            ("Interface", "options", port.options, wanted.options or {}),
            ("Interface", "bfd", port.bfd, wanted.bfd or {}),
            ("Port", "protected", port.protected, wanted.protected),
        ]
        for table, column, old, new in columns:
            if old != new:
                self._change(OvsSet(table, port.name, column, new, old), OvsSet(table, port.name, column, old, new))

    # Tunnels of the kernel.

    def _vxlan(self, mtu: int) -> None:
        fabric, local = self._fabric, self._local
        name = fabric.vxlan_link
        wanted = {
            "vxlan_id": fabric.vni,
            "vxlan_local": str(local.underlay),
            "vxlan_port": VXLAN_PORT,
            "vxlan_learning": 1,
        }
        self._drop_old_vxlan(name)
        self._tunnel(name, "vxlan", wanted)
        self._set_mtu(name, mtu)
        there = frozenset[str]() if name in self._fresh else self._kernel.replicas.get(name, frozenset())
        remotes = {str(peer.underlay) for peer in fabric.peers(local)}
        for remote in sorted(there - remotes):
            self._change(Replica(name, remote, present=False), Replica(name, remote, present=True))
        for remote in sorted(remotes - there):
            self._change(Replica(name, remote, present=True), Replica(name, remote, present=False))
        self._into(name, fabric.bridge, isolated=True)

    def _drop_old_vxlan(self, name: str) -> None:
        """Remove a device under the name that was once cut, and that bridges with similar names shared."""
        cut = f"vx-{self._fabric.bridge}"[:LONGEST_INTERFACE]
        for link in self._links.values():
            ours = link.master == self._fabric.bridge or (link.name == cut and not link.master)
            if link.kind == "vxlan" and link.mine and link.name != name and ours:
                self._change(DelLink(link.name), _link_again(link))

    def _gretap(self, mtu: int) -> None:
        fabric, local = self._fabric, self._local
        wanted = {fabric.port_of(peer): str(peer.underlay) for peer in fabric.peers(local)}
        for link in self._links.values():
            if link.kind == "gretap" and link.mine and link.master == fabric.bridge and link.name not in wanted:
                self._change(DelLink(link.name), _link_again(link))
        for name, remote in wanted.items():
            self._tunnel(name, "gretap", {"gre_local": str(local.underlay), "gre_remote": remote})
            self._set_mtu(name, mtu)
            self._into(name, fabric.bridge, isolated=True)

    def _tunnel(self, name: str, kind: str, wanted: dict[str, Any]) -> None:
        link = self._links.get(name)
        if link is not None and link.kind == kind and all(link.parameters.get(k) == v for k, v in wanted.items()):
            return
        if link is not None:
            if not link.mine:
                raise LinkError(f"{name} is there already and is not ours; remove it: ip link delete {name}")
            self._change(DelLink(name), _link_again(link))
        self._add_link(name, kind, {"address": self._port_mac(name), **wanted})

    # The small steps.

    def _into(self, name: str, bridge: str, *, isolated: bool) -> None:
        """A port of the bridge: in it, then isolated, then up, so that it carries nothing before it may."""
        link = self._current(name)
        master = "" if link is None else link.master
        joins = master != bridge or bridge in self._fresh
        stopped = joins and isolated and link is not None and link.up
        if stopped:
            self._set(name, "up", value=False, old=True)
        if joins:
            self._set(name, "master", bridge, master)
        if isolated and (joins or link is None or not link.isolated):
            self._set(name, "isolated", value=True, old=False)
        if stopped:
            self._set(name, "up", value=True, old=False)
        else:
            self._set_up(name)

    def _take_over(self, nic: str, bridge: str) -> None:
        """The bridge gets the addresses and routes of the NIC: first there too, then only there."""
        link, target = self._links[nic], self._current(bridge)
        have = () if target is None else target.addresses
        self._give_again(nic, bridge, have)
        for address in link.addresses:
            if address not in have:
                self._change_address(bridge, address, link.broadcasts.get(address), present=True)
        for route in sorted(self._kernel.routes.get(nic, ()), key=lambda route: "gateway" in route):
            self._change(Route(bridge, route), Route(nic, route))  # first those by which gateways are reached
        for address in reversed(link.addresses):  # the secondary ones, which would go with their first one
            self._change_address(nic, address, link.broadcasts.get(address), present=False)

    def _give_again(self, nic: str, bridge: str, have: Collection[IPv4Interface]) -> None:
        """What the bridge took over from the NIC before, and lost as somebody made it anew."""
        link = self._links[nic]
        steps = [s for s in reversed(self._taken) if isinstance(s, Address) and s.name == nic]
        taken = {IPv4Interface(step.address): step for step in steps}  # in the order that they had on the NIC
        if taken.keys() >= set(have):  # nobody has given it others since
            for address, step in taken.items():
                if address not in have and address not in link.addresses:
                    self._change_address(bridge, address, step.broadcast, present=True)
        there = {Route(name, route).key for name, routes in self._kernel.routes.items() for route in routes}
        routes = [s for s in self._taken if isinstance(s, Route) and s.name == nic and s.key not in there]
        for route in routes:
            self._change(Route(bridge, route.attributes), route)

    def _change_address(self, name: str, address: IPv4Interface, broadcast: str | None, *, present: bool) -> None:
        self._change(
            Address(name, str(address), present, broadcast), Address(name, str(address), not present, broadcast)
        )

    def _offload_off(self, name: str) -> None:
        """Frames that userspace reads must have their checksums, or no TCP connection comes about."""
        if name in self._fresh or self._kernel.offload.get(name, True):
            self._set(name, "offload", value=False, old=True)

    def _set_mtu(self, name: str, mtu: int) -> None:
        link = self._current(name)
        if link is None or link.mtu != mtu:
            self._set(name, "mtu", mtu, None if link is None else link.mtu)

    def _set_up(self, name: str) -> None:
        link = self._current(name)
        if link is None or not link.up:
            self._set(name, "up", value=True, old=False)

    def _set(self, name: str, what: str, value: Any, old: Any) -> None:
        self._change(SetLink(name, what, value, old), SetLink(name, what, old, value))

    def _add_link(self, name: str, kind: str, parameters: dict[str, Any]) -> None:
        self._fresh.add(name)
        self._change(AddLink(name, kind, parameters), DelLink(name))

    def _current(self, name: str) -> ObservedLink | None:
        """The link as it is; None where it comes with these changes."""
        return None if name in self._fresh else self._links.get(name)

    def _change(self, do: Any, undo: Any) -> None:
        self._changes.append(Change(do, undo))


def _link_again(link: ObservedLink) -> AddLink:
    """What makes a tunnel again that is removed."""
    return AddLink(link.name, link.kind, {"address": link.mac, **link.parameters})


def _again(port: Port) -> OvsPort:
    """What makes a port again that is removed."""
    return OvsPort(
        port.bridge,
        port.name,
        present=True,
        kind=port.kind,
        options=port.options,
        protected=port.protected,
        bfd=port.bfd,
    )
