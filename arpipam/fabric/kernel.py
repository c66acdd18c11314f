"""The kernel's side of the fabric, over netlink (pyroute2): what there is, and each step that is the kernel's."""

from __future__ import annotations

import errno
import time
from contextlib import contextmanager, suppress
from ipaddress import IPv4Interface
from socket import AF_BRIDGE, AF_INET, inet_aton
from typing import TYPE_CHECKING, Any

from pyroute2 import Ethtool, IPRoute, NetlinkError

from arpipam.errors import LinkError
from arpipam.fabric.observed import Kernel, ObservedLink
from arpipam.fabric.steps import GROUP, AddLink, Address, DelLink, Replica, Route, SetLink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from arpipam.fabric.steps import Step

_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_NLM_F_DUMP_INTR = 0x10
_DUMP_TRIES = 10
_EVERYONE = "00:00:00:00:00:00"
_PROTOCOL_KERNEL = 2
"""RTPROT_KERNEL (linux/rtnetlink.h): routes that follow from addresses."""
_TABLE_MAIN, _UNICAST = 254, 1
_APPEARS_WITHIN = 10.0
"""Seconds that Open vSwitch gets to make an interface of its own."""
_GONE = {errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.EINVAL}
_TUNNEL_PARAMETERS = {
    "vxlan": ("vxlan_id", "vxlan_local", "vxlan_port", "vxlan_learning"),
    "gretap": ("gre_local", "gre_remote"),
}
_ROUTE_FIELDS = ("dst_len", "proto", "scope", "type")
_ROUTE_ATTRIBUTES = ("dst", "gateway", "priority", "prefsrc", "table")


def dump(method: Callable[..., Any], *words: Any, **filters: Any) -> list[Any]:
    """All that the kernel tells, again when it changed on the way: an entry can be missing then (linux/netlink.h)."""
    for _ in range(_DUMP_TRIES):
        messages = list(method(*words, **filters))
        if not any(message["header"]["flags"] & _NLM_F_DUMP_INTR for message in messages):
            break
    return messages


def observe() -> Kernel:
    """All that a plan and a check need to know of this network namespace."""
    with IPRoute(strict_check=True) as ipr:
        raw = dump(ipr.get_links)
        addresses: dict[int, dict[IPv4Interface, str]] = {}
        for message in dump(ipr.get_addr, family=AF_INET):
            address = IPv4Interface(f"{message.get('local')}/{message['prefixlen']}")
            addresses.setdefault(message["index"], {})[address] = message.get("broadcast") or ""
        names = {message["index"]: str(message.get("ifname")) for message in raw}
        links = {link.name: link for link in (_link(message, names, addresses) for message in raw)}
        routes: dict[str, list[dict[str, Any]]] = {}
        for message in dump(ipr.route, "dump", family=AF_INET, table=_TABLE_MAIN):
            oif = names.get(message.get("oif"), "")
            if oif and message["proto"] != _PROTOCOL_KERNEL and message["type"] == _UNICAST:
                routes.setdefault(oif, []).append(_route(message))
        replicas: dict[str, set[str]] = {name: set() for name, link in links.items() if link.kind == "vxlan"}
        stations: dict[tuple[str, str], str] = {}
        for message in dump(ipr.fdb, "dump", family=AF_BRIDGE):
            name, mac, remote = names.get(message["ifindex"], ""), message.get("lladdr"), message.get("dst")
            if mac == _EVERYONE and remote:
                replicas.setdefault(name, set()).add(str(remote))
            elif mac:
                stations[name, mac] = str(remote or stations.get((name, mac), ""))
    offload = {}
    with Ethtool() as ethtool:
        for link in links.values():
            if link.kind == "tun":
                with suppress(OSError, NetlinkError):  # gone meanwhile
                    offload[link.name] = bool(ethtool.get_offload_flags(link.name)["tx-checksumming"])
    return Kernel(
        links=links,
        routes={name: tuple(found) for name, found in routes.items()},
        replicas={name: frozenset(found) for name, found in replicas.items()},
        stations=stations,
        offload=offload,
    )


def apply(step: Step) -> None:
    """Do a step of the kernel's. Raises LinkError where the kernel refuses."""
    with _trouble(step), IPRoute() as ipr:
        _apply(ipr, step)


def undo(step: Step) -> None:
    """Do a step that takes another one back; what is gone already needs none."""
    try:
        with IPRoute() as ipr:
            _apply(ipr, step, wait=0.0)
    except (NetlinkError, OSError) as error:
        if _code(error) not in _GONE:
            raise LinkError(f"{step.text}: {_said(error)}; undo it by hand, then try again") from None
    except _GoneError:
        pass


class _GoneError(LinkError):
    """The link of a step is not there."""


def _apply(ipr: Any, step: Step, wait: float = _APPEARS_WITHIN) -> None:
    if isinstance(step, AddLink):
        ipr.link("add", ifname=step.name, kind=step.kind, group=GROUP, **step.parameters)
    elif isinstance(step, DelLink):
        for message in dump(ipr.get_links, ifname=step.name):
            if message.get("group") == GROUP:
                ipr.link("del", index=message["index"])
    elif isinstance(step, SetLink):
        _set(ipr, step, _index(ipr, step.name, wait))
    elif isinstance(step, Address):
        index, address = _index(ipr, step.name, wait), IPv4Interface(step.address)
        how = {"index": index, "address": str(address.ip), "prefixlen": address.network.prefixlen}
        if step.present:
            with _already():
                ipr.addr("add", **how, **({"broadcast": step.broadcast} if step.broadcast else {}))
        else:
            with _already(errno.EADDRNOTAVAIL):
                ipr.addr("del", **how)
    elif isinstance(step, Route):
        attributes = {key: value for key, value in step.attributes.items() if value is not None}
        ipr.route("replace", oif=_index(ipr, step.name, wait), **attributes)
    elif isinstance(step, Replica):
        action = "append" if step.present else "del"
        with _already():
            ipr.fdb(action, ifindex=_index(ipr, step.name, wait), lladdr=_EVERYONE, dst=step.remote)
    else:
        raise TypeError(f"{step.text} is no step of the kernel's")


def _set(ipr: Any, step: SetLink, index: int) -> None:
    if step.value is None:
        return  # it came with the link, and goes with it
    if step.what == "mtu":
        ipr.link("set", index=index, mtu=step.value)
    elif step.what == "up":
        ipr.link("set", index=index, state="up" if step.value else "down")
    elif step.what == "master":
        ipr.link("set", index=index, master=_index(ipr, step.value, 0.0) if step.value else 0)
    elif step.what == "isolated":
        ipr.brport("set", index=index, isolated=int(step.value))
    elif step.what == "stp":
        ipr.link("set", index=index, kind="bridge", br_stp_state=int(step.value))
    elif step.what == "offload":
        with Ethtool() as ethtool:
            ethtool.set_offload_flag(step.name, "tx-checksumming", bool(step.value))
    else:
        raise ValueError(step.what)


def _index(ipr: Any, name: str, wait: float) -> int:
    """The number of a link, which may take a moment to appear."""
    until = time.monotonic() + wait
    while True:
        found = ipr.link_lookup(ifname=name)
        if found:
            return int(found[0])
        if time.monotonic() >= until:
            raise _GoneError(f"no interface {name}")
        time.sleep(0.02)


def _link(message: Any, names: dict[int, str], addresses: dict[int, dict[IPv4Interface, str]]) -> ObservedLink:
    info = message.get("linkinfo")
    kind = "" if info is None else str(info.get("kind") or "")
    data = None if info is None else info.get("data")
    port = None if info is None or info.get("slave_kind") != "bridge" else info.get("slave_data")
    known = _TUNNEL_PARAMETERS.get(kind, ())
    return ObservedLink(
        name=str(message.get("ifname")),
        index=message["index"],
        kind=kind,
        mac=message.get("address") or "",
        mtu=message.get("mtu") or 0,
        up=bool(message["flags"] & _IFF_UP),
        master=names.get(message.get("master"), ""),
        mine=message.get("group") == GROUP,
        addresses=tuple(addresses.get(message["index"], {})),
        broadcasts={address: text for address, text in addresses.get(message["index"], {}).items() if text},
        isolated=None if port is None else bool(port.get("isolated")),
        state=None if port is None else port.get("state"),
        neigh_suppress=port is not None and bool(port.get("neigh_suppress")),
        stp=kind == "bridge" and data is not None and bool(data.get("br_stp_state")),
        parameters={} if data is None else {name: data.get(name) for name in known},
        carrier=bool(message["flags"] & _IFF_RUNNING),
    )


def _route(message: Any) -> dict[str, Any]:
    route = {name: message[name] for name in _ROUTE_FIELDS}
    route |= {name: message.get(name) for name in _ROUTE_ATTRIBUTES if message.get(name) is not None}
    if route.get("gateway"):
        inet_aton(route["gateway"])  # an IPv6 next hop would be no plain text here
    return route


@contextmanager
def _already(code: int = errno.EEXIST) -> Iterator[None]:
    """What is there already need not be added; with another code, what is gone already not removed."""
    try:
        yield
    except NetlinkError as error:
        if error.code != code:
            raise


@contextmanager
def _trouble(step: Step) -> Iterator[None]:
    try:
        yield
    except (NetlinkError, OSError) as error:
        code = _code(error)
        if code in (errno.EPERM, errno.EACCES):
            raise LinkError(f"{step.text}: not permitted; run as root or with CAP_NET_ADMIN") from None
        remedy = ""
        if code in (errno.EOPNOTSUPP, errno.ENOTSUP) and isinstance(step, AddLink):
            remedy = f'; this kernel knows no {step.kind}, use tunnel = "vxlan" or Open vSwitch'
        raise LinkError(f"{step.text}: {_said(error)}{remedy}") from None
    except _GoneError as error:
        raise LinkError(f"{step.text}: {error} after {_APPEARS_WITHIN:g} s") from None


def _code(error: Exception) -> int:
    return int(getattr(error, "code", None) or getattr(error, "errno", None) or 0)


def _said(error: Exception) -> str:
    return str(error.args[1]) if isinstance(error, NetlinkError) and len(error.args) > 1 else str(error)
