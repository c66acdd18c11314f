"""What the kernel knows of this host and its links, asked by netlink (pyroute2)."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from socket import AF_INET
from typing import Any

from pyroute2 import IPRoute, netns

from arpipam.errors import InputError, LinkError

ARPHRD_ETHER = 1
_IFF_UP, _IFF_LOOPBACK, _IFF_NOARP = 0x1, 0x8, 0x80
_LISTENING, _LEARNING = 1, 2
_USABLE_NEIGHBOUR = 0x02 | 0x04 | 0x08 | 0x10 | 0x80
"""NUD_REACHABLE, STALE, DELAY, PROBE and PERMANENT (linux/neighbour.h)."""


@dataclass(frozen=True)
class Facts:
    """One interface and its host, as the kernel has them. Addresses are integers, MACs bytes."""

    index: int
    mac: bytes
    is_bridge: bool
    prefixes: tuple[IPv4Interface, ...]
    local_addresses: frozenset[int]
    local_macs: frozenset[bytes]
    gateways: tuple[int, ...]
    neighbours: tuple[int, ...]


def facts(interface: str) -> Facts:
    """Ask for everything about an interface.

    Raises InputError where there is none of that name, or where its bridge is meant, and LinkError where it carries no ARP.
    """
    with IPRoute() as ipr:
        links = list(ipr.get_links())
        link = next((link for link in links if link.get("ifname") == interface), None)
        if link is None:
            names = ", ".join(sorted(link.get("ifname") for link in links))
            raise InputError(f"no interface {interface!r} here; there are {names}")
        _check(interface, link, links)
        index = link["index"]
        addresses = [
            (a["index"], IPv4Interface(f"{a.get('local')}/{a['prefixlen']}")) for a in ipr.get_addr(family=AF_INET)
        ]
        gateways = [r.get("gateway") for r in ipr.get_routes(family=AF_INET, oif=index) if r.get("gateway")]
        neighbours = [
            n.get("dst")
            for n in ipr.get_neighbours(family=AF_INET, ifindex=index)
            if n["state"] & _USABLE_NEIGHBOUR and n.get("lladdr")
        ]
    macs = (link.get("address") for link in links if link["ifi_type"] == ARPHRD_ETHER and link.get("address"))
    return Facts(
        index=index,
        mac=bytes.fromhex(link.get("address").replace(":", "")),
        is_bridge=_kind(link) == "bridge",
        prefixes=tuple(address for at, address in addresses if at == index),
        local_addresses=frozenset(int(address.ip) for _, address in addresses),
        local_macs=frozenset(bytes.fromhex(mac.replace(":", "")) for mac in macs),
        gateways=tuple(dict.fromkeys(int(IPv4Address(gateway)) for gateway in gateways)),
        neighbours=tuple(dict.fromkeys(int(IPv4Address(neighbour)) for neighbour in neighbours)),
    )


def _check(interface: str, link: Any, links: list[Any]) -> None:
    if link["flags"] & _IFF_LOOPBACK or link["flags"] & _IFF_NOARP:
        raise LinkError(
            f"{interface} carries no ARP (loopback or NOARP), so nothing can be probed there; choose another"
        )
    if link["ifi_type"] != ARPHRD_ETHER:
        raise LinkError(f"{interface} is no Ethernet interface (type {link['ifi_type']}); choose one that is")
    master = link.get("master")
    if master is not None:
        bridge = next((other for other in links if other["index"] == master), None)
        if bridge is not None and _kind(bridge) == "bridge":
            raise InputError(
                f"{interface} is a port of the bridge {bridge.get('ifname')}: use --interface {bridge.get('ifname')}"
            )
    if not link["flags"] & _IFF_UP:
        raise LinkError(f"{interface} is down; bring it up: ip link set {interface} up")
    if not link.get("carrier") and _kind(link) != "bridge":
        raise LinkError(f"{interface} has no carrier: nothing is plugged in, or the other end is down")


def _kind(link: Any) -> str | None:
    info = link.get("linkinfo")
    return None if info is None else info.get("kind")


def held_ports(bridge: int) -> list[str]:
    """The bridge's ports that STP holds in listening or learning, where they pass nothing on."""
    with IPRoute() as ipr:
        held = []
        for port in ipr.get_links(master=bridge):
            info = port.get("linkinfo")
            data = info.get("slave_data") if info is not None else None
            if data is not None and data.get("state") in (_LISTENING, _LEARNING):
                held.append(port.get("ifname"))
        return held


def ends_here(bridge: int) -> bool:
    """Whether the bridge plainly leads nowhere else: each port is a veth to a namespace of this host where it just ends."""
    with IPRoute() as ipr:
        ports = list(ipr.get_links(master=bridge))
        if not ports:
            return True
        if any(_kind(port) != "veth" or port.get("link_netnsid") is None for port in ports):
            return False
        wanted = {port.get("link_netnsid") for port in ports}
        spaces = _namespaces(ipr, wanted)
    return all(_is_end(spaces.get(port.get("link_netnsid")), port.get("link")) for port in ports)


def _namespaces(ipr: Any, wanted: set[int]) -> dict[int, str]:
    """A path to each of the wanted namespaces, by the number that this namespace knows it by."""
    found: dict[int, str] = {}
    seen: set[int] = set()
    paths = [*Path("/proc").glob("[0-9]*/ns/net"), *Path("/run/netns").glob("*"), *Path("/run/docker/netns").glob("*")]
    for path in paths:
        try:
            inode = path.stat().st_ino
            if inode in seen:
                continue
            seen.add(inode)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # gone meanwhile
        try:
            for answer in ipr.get_netnsid(fd=fd):
                if answer["nsid"] in wanted:
                    found[answer["nsid"]] = str(path)
        except Exception:  # noqa: BLE001, S112 - a namespace that cannot be asked is one that we do not know
            continue
        finally:
            os.close(fd)
        if wanted == found.keys():
            break
    return found


def _is_end(namespace: str | None, index: int) -> bool:
    """Whether the interface of that index is an end station there: in no bridge, nothing stacked on it, with an address."""
    if namespace is None:
        return False
    result = False

    def look() -> None:
        nonlocal result
        try:
            netns.setns(namespace)
            with IPRoute() as ipr:
                links = list(ipr.get_links())
                addresses = {address["index"] for address in ipr.get_addr(family=AF_INET)}
        except Exception:  # noqa: BLE001 - any doubt means that there may be another end
            return
        peer = next((link for link in links if link["index"] == index), None)
        stacked = any(link.get("link") == index and link.get("link_netnsid") is None for link in links)
        result = peer is not None and peer.get("master") is None and not stacked and index in addresses

    thread = threading.Thread(target=look)  # a thread of its own, so that ours stays in its namespace
    thread.start()
    thread.join()
    return result
