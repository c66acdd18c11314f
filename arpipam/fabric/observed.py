"""What there is on a host, as the kernel and Open vSwitch have it; values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipaddress import IPv4Interface

    from arpipam.fabric.steps import Address, Route


@dataclass(frozen=True)
class ObservedLink:
    """One interface of this network namespace."""

    name: str
    index: int
    kind: str
    """The kernel's word for it: bridge, vxlan, gretap, tun, veth; "" for a NIC."""
    mac: str
    mtu: int
    up: bool
    master: str = ""
    mine: bool = False
    """Made by us: it carries our mark."""
    addresses: tuple[IPv4Interface, ...] = ()
    broadcasts: dict[IPv4Interface, str] = field(default_factory=dict)
    """Of those addresses that have one."""
    isolated: bool | None = None
    """Of a bridge port."""
    state: int | None = None
    """Of a bridge port: BR_STATE_DISABLED 0, LISTENING 1, LEARNING 2, FORWARDING 3, BLOCKING 4."""
    neigh_suppress: bool = False
    stp: bool = False
    """Of a bridge."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Of a tunnel, by pyroute2's names: vxlan_id, vxlan_local, vxlan_port, gre_local, gre_remote."""
    carrier: bool = True


@dataclass(frozen=True)
class Kernel:
    """The kernel's side of a host."""

    links: dict[str, ObservedLink]
    routes: dict[str, tuple[dict[str, Any], ...]]
    """By link: the routes that somebody set over it (not those that follow from its addresses)."""
    replicas: dict[str, frozenset[str]]
    """By VXLAN link: the peers that get a copy of each broadcast frame."""
    stations: dict[tuple[str, str], str]
    """By link and MAC: the peer behind which a VXLAN link has learned it; "" for a plain bridge port."""
    offload: dict[str, bool]
    """By link of kind tun: whether the kernel leaves transmit checksums to it."""


@dataclass(frozen=True)
class Port:
    """A port of an Open vSwitch bridge with its (first) interface."""

    name: str
    bridge: str
    kind: str
    options: dict[str, str]
    protected: bool
    bfd: dict[str, str]
    mine: bool
    mtu_request: int | None = None
    ofport: int | None = None
    error: str = ""
    bfd_status: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OvsBridgeState:
    """An Open vSwitch bridge."""

    name: str
    datapath: str
    hwaddr: str
    mine: bool


@dataclass(frozen=True)
class ObservedSwitch:
    """Open vSwitch's side of a host, as its database has it."""

    datapaths: frozenset[str]
    """Those that this Open vSwitch can run."""
    bridges: dict[str, OvsBridgeState]
    ports: dict[str, Port]


@dataclass(frozen=True)
class Observed:
    """Both; no `ovs` where the fabric does without."""

    kernel: Kernel
    ovs: ObservedSwitch | None = None
    taken: tuple[Address | Route, ...] = ()
    """What gives a NIC its addresses and routes back that a bridge took over: where both have lost them, the bridge
    was made anew by somebody else."""
