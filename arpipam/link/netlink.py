"""What the kernel knows of this host and its links, asked over netlink (pyroute2)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from socket import AF_INET
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute, NetlinkError

from arpipam.errors import InputError, LinkError

if TYPE_CHECKING:
    from collections.abc import Callable

_ARPHRD_ETHER = 1
_IFF_UP, _IFF_LOOPBACK, _IFF_NOARP = 0x1, 0x8, 0x80
_IFF_PASSES = 0x40 | 0x10000
"""IFF_RUNNING and IFF_LOWER_UP: each lags behind the other for up to a second."""
_HELD, _FORWARDING = (1, 2), 3
"""BR_STATE_LISTENING and LEARNING, and BR_STATE_FORWARDING (linux/if_bridge.h)."""
_USABLE_NEIGHBOUR = 0x02 | 0x04 | 0x08 | 0x10 | 0x80
"""NUD_REACHABLE, STALE, DELAY, PROBE and PERMANENT (linux/neighbour.h)."""
_MASTERS = ("bridge", "bond", "team")
"""What takes a port's frames to itself, so that it has to be asked instead of the port."""
_NLM_F_DUMP_INTR = 0x10
_DUMP_TRIES = 10


class NoInterfaceError(InputError):
    """There is no interface of that name."""


@dataclass(frozen=True)
class Facts:
    """One interface and its host, as the kernel has them. Addresses are integers, MACs bytes."""

    index: int
    mac: bytes
    mtu: int
    is_bridge: bool
    prefixes: tuple[IPv4Interface, ...]
    local_addresses: frozenset[int]
    local_macs: frozenset[bytes]
    gateways: tuple[int, ...]
    neighbours: tuple[int, ...]


@dataclass(frozen=True)
class LinkCondition:
    """Whether an interface can carry a frame at this moment."""

    up: bool
    """By the administrator's will."""
    open: bool
    """Frames get through: there is a carrier. Of a bridge: it has no port, or one that forwards."""
    held: tuple[str, ...]
    """The ports that STP holds in listening or learning, where they pass nothing on."""


def facts(interface: str) -> Facts:
    """Ask for everything about an interface.

    Raises InputError where there is none of that name or where it is the port of another, LinkError where it cannot
    carry ARP.
    """
    with IPRoute(strict_check=True) as ipr:  # strict: the kernel picks the routes, of which there may be a million
        links = dump(ipr.get_links)
        link = next((link for link in links if link.get("ifname") == interface), None)
        if link is None:
            raise _missing(interface, links)
        _check(interface, link, links)
        index = link["index"]
        addresses = [
            (address["index"], IPv4Interface(f"{address.get('local')}/{address['prefixlen']}"))
            for address in dump(ipr.get_addr, family=AF_INET)
        ]
        routes = dump(ipr.route, "dump", family=AF_INET, oif=index, dump_filter=_every)
        neighbours = dump(ipr.get_neighbours, family=AF_INET)
    macs = (_mac(link) for link in links if link["ifi_type"] == _ARPHRD_ETHER)
    return Facts(
        index=index,
        mac=_mac(link),
        mtu=link.get("mtu"),
        is_bridge=_kind(link) == "bridge",
        prefixes=tuple(address for at, address in addresses if at == index),
        local_addresses=frozenset(int(address.ip) for _, address in addresses),
        local_macs=frozenset(mac for mac in macs if any(mac)),
        gateways=_numbers(gateway for route in routes for gateway in _gateways(route, index)),
        neighbours=_numbers(
            neighbour.get("dst")
            for neighbour in neighbours
            if neighbour["ifindex"] == index and neighbour["state"] & _USABLE_NEIGHBOUR and neighbour.get("lladdr")
        ),
    )


def on_subnet(subnet: IPv4Network) -> list[str]:
    """The interfaces, by name, that carry ARP and have an address in the subnet or in a network around it."""
    with IPRoute() as ipr:
        links = dump(ipr.get_links)
        addresses = dump(ipr.get_addr, family=AF_INET)
    found = set()
    for address in addresses:
        prefix = IPv4Interface(f"{address.get('local')}/{address['prefixlen']}")
        link = _by_index(links, address["index"])
        fits = prefix.ip in subnet or subnet.subnet_of(prefix.network)
        if fits and link is not None and not link["flags"] & (_IFF_LOOPBACK | _IFF_NOARP):
            found.add(str(link.get("ifname")))
    return sorted(found)


def condition(index: int) -> LinkCondition | None:
    """Whether the interface can carry a frame now; None when it is gone."""
    with IPRoute() as ipr:
        links = dump(ipr.get_links)
    link = _by_index(links, index)
    if link is None:
        return None
    passes = link["flags"] & _IFF_PASSES == _IFF_PASSES
    states = {}
    if _kind(link) == "bridge":
        states = {port.get("ifname"): _port_state(port) for port in links if port.get("master") == index}
        # without ports, a bridge has a carrier before it ever had one and none afterwards; a port that is dead from the
        # start leaves it the first
        passes = (passes and _FORWARDING in states.values()) if states else True
    held = tuple(name for name, state in states.items() if state in _HELD)
    return LinkCondition(up=bool(link["flags"] & _IFF_UP), open=passes, held=held)


def down(interface: str) -> LinkError:
    """The error of an interface that is switched off."""
    return LinkError(f"{interface} is down; bring it up: ip link set {interface} up")


def gone(interface: str) -> LinkError:
    """The error of an interface that was there."""
    return LinkError(
        f"{interface} is gone: it was removed, or moved to another namespace; make it again, then try again"
    )


def _missing(interface: str, links: list[Any]) -> InputError:
    usable = sorted(
        link.get("ifname")
        for link in links
        if link["ifi_type"] == _ARPHRD_ETHER and not link["flags"] & _IFF_NOARP and link.get("master") is None
    )
    there = f"choose one of: {', '.join(usable)}" if usable else "and none that could be used; make one first"
    return NoInterfaceError(f"no interface {interface!r} here; {there}")


def _check(interface: str, link: Any, links: list[Any]) -> None:
    if link["flags"] & (_IFF_LOOPBACK | _IFF_NOARP):
        raise LinkError(f"{interface} carries no ARP (loopback or NOARP), so nothing can be probed there; use another")
    if link["ifi_type"] != _ARPHRD_ETHER:
        raise LinkError(f"{interface} is no Ethernet interface (hardware type {link['ifi_type']}); use one that is")
    master = _by_index(links, link.get("master"))
    if master is not None and (kind := _kind(master)) in _MASTERS:
        raise InputError(f"{interface} is a port of {master.get('ifname')}; use the {kind}: {master.get('ifname')}")
    if not link["flags"] & _IFF_UP:
        raise down(interface)


def _gateways(route: Any, index: int) -> list[Any]:
    """The next hops of a route that are reached over the interface."""
    hops = route.get("multipath")
    if hops:
        return [hop.get("gateway") for hop in hops if hop["oif"] == index]
    return [route.get("gateway")]


def _numbers(addresses: Any) -> tuple[int, ...]:
    """Each of the addresses that are there, once."""
    return tuple(dict.fromkeys(int(IPv4Address(address)) for address in addresses if address))


def _mac(link: Any) -> bytes:
    return bytes.fromhex((link.get("address") or "").replace(":", ""))


def _kind(link: Any) -> str | None:
    info = link.get("linkinfo")
    return None if info is None else info.get("kind")


def _port_state(port: Any) -> int | None:
    info = port.get("linkinfo")
    data = None if info is None else info.get("slave_data")
    return None if data is None else data.get("state")


def _by_index(links: list[Any], index: int | None) -> Any:
    return next((link for link in links if link["index"] == index), None)


def _every(_: Any) -> bool:
    """The kernel has picked already."""
    return True


def dump(method: Callable[..., Any], *words: Any, **filters: Any) -> list[Any]:
    """All that the kernel tells, again when it changed on the way: an entry can be missing then (linux/netlink.h)."""
    for _ in range(_DUMP_TRIES):
        messages = list(method(*words, **filters))
        if not any(message["header"]["flags"] & _NLM_F_DUMP_INTR for message in messages):
            break
    return messages


# Whether a bridge leads anywhere else.


def ends_here(bridge: int) -> bool | None:
    """Whether the bridge plainly leads nowhere: each port is a veth to another namespace of this host and ends there.

    None where that cannot be told at this moment, since the other end of a port seems to be on its way: an engine makes
    it here, moves it, and configures it last.
    """
    with IPRoute(strict_check=True) as ipr:  # strict: else the kernel answers for this namespace when asked for another
        links = dump(ipr.get_links)
        device = _by_index(links, bridge)
        ports = [link for link in links if link.get("master") == bridge]
        if device is None or device.get("master") is not None or _carries_others(links, bridge):
            return False
        if any(_kind(port) != "veth" or not _may_end(port, links) for port in ports):
            return False
        verdicts = [_is_end(ipr, port) for port in ports]
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _may_end(port: Any, links: list[Any]) -> bool:
    """False for a veth whose other end is at work in this very namespace, and so no end station."""
    if port.get("link_netnsid") is not None:
        return True
    peer = _by_index(links, port.get("link"))
    return peer is None or not (peer["flags"] & _IFF_UP or peer.get("master"))


def _carries_others(links: list[Any], index: int) -> bool:
    """Whether a macvlan, a VLAN or the like stands on top of the interface."""
    return any(link.get("link") == index and link.get("link_netnsid") is None for link in links)


def _is_end(ipr: IPRoute, port: Any) -> bool | None:
    """Whether the other end of the port is a plain end station there: in no bridge, nothing upon it, with an address.

    None where that may still come, or where we may not know. The namespace is asked by the number that ours has for it
    (rtnetlink(7), IFLA_TARGET_NETNSID), for which CAP_NET_ADMIN is enough; to enter it would take CAP_SYS_ADMIN.
    """
    space = port.get("link_netnsid")
    if space is None:
        return None
    # pyroute2 calls the one by its name before Linux 4.20, and takes the other for a string, which it ends with a zero.
    number = int(space).to_bytes(4, sys.byteorder).removesuffix(b"\0")
    try:
        links = dump(ipr.link, "dump", if_netnsid=space, dump_filter=_every)
        addresses = dump(ipr.addr, "dump", family=AF_INET, target_netnsid=number, dump_filter=_every)
    except NetlinkError:
        return None
    peer = _by_index(links, port.get("link"))
    if peer is None or peer.get("link") != port["index"]:
        return None
    if peer.get("master") is not None or peer.get("promiscuity") or _carries_others(links, peer["index"]):
        return False  # promiscuous: a program may pass its frames on, as Open vSwitch's userspace datapath does
    others = {link["index"] for link in links if link["flags"] & _IFF_UP and not link["flags"] & _IFF_LOOPBACK}
    addressed = {address["index"] for address in addresses}
    return True if peer["index"] in addressed or not others - {peer["index"]} else None
