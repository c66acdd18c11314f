"""What the kernel knows of this host and its links, asked before one is opened."""

from __future__ import annotations

import errno
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arpipam.errors import InputError, LinkError
from arpipam.link import rtnetlink
from arpipam.link.rtnetlink import Questions
from arpipam.link.ways import PASSES, leads_out

if TYPE_CHECKING:
    from ipaddress import IPv4Interface, IPv4Network

    from arpipam.link.rtnetlink import LinkNote

_ARPHRD_ETHER = 1
_IFF_LOOPBACK, _IFF_NOARP = 0x8, 0x80
_HELD, _FORWARDING = (1, 2), 3
"""BR_STATE_LISTENING and LEARNING, and BR_STATE_FORWARDING (linux/if_bridge.h)."""
_USABLE_NEIGHBOUR = 0x02 | 0x04 | 0x08 | 0x10 | 0x80
"""NUD_REACHABLE, STALE, DELAY, PROBE and PERMANENT (linux/neighbour.h)."""
_MASTERS = ("bridge", "bond", "team")
"""What takes a port's frames to itself, so that it has to be asked instead of the port."""


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
    with closing(Questions()) as questions:
        links = questions.links()
        link = next((link for link in links if link.name == interface), None)
        if link is None:
            raise _missing(interface, links)
        _check(interface, link, links)
        addresses = questions.addresses()
        try:
            gateways, neighbours = questions.gateways(link.number), questions.neighbours(link.number)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            raise gone(interface) from None
    macs = (link.mac for link in links if link.hardware == _ARPHRD_ETHER)
    return Facts(
        index=link.number,
        mac=link.mac,
        mtu=link.mtu,
        is_bridge=link.kind == "bridge",
        prefixes=tuple(address.prefix for address in addresses if address.number == link.number),
        local_addresses=frozenset(int(address.prefix.ip) for address in addresses),
        local_macs=frozenset(mac for mac in macs if any(mac)),
        gateways=tuple(gateways),
        neighbours=tuple(
            neighbour.address for neighbour in neighbours if neighbour.state & _USABLE_NEIGHBOUR and neighbour.mac
        ),
    )


def on_subnet(subnet: IPv4Network) -> list[str]:
    """The interfaces, by name, that carry ARP and have an address in the subnet or in a network around it."""
    with closing(Questions()) as questions:
        links, addresses = questions.links(), questions.addresses()
    found = set()
    for address in addresses:
        link = _by_number(links, address.number)
        fits = address.prefix.ip in subnet or subnet.subnet_of(address.prefix.network)
        if fits and link is not None and not link.flags & (_IFF_LOOPBACK | _IFF_NOARP):
            found.add(link.name)
    return sorted(found)


def condition(index: int, questions: Questions) -> LinkCondition | None:
    """Whether the interface can carry a frame now; None when it is gone."""
    links = questions.links()
    link = _by_number(links, index)
    if link is None:
        return None
    passes = link.flags & PASSES == PASSES
    states = {}
    if link.kind == "bridge":
        states = {port.name: port.port_state for port in links if port.master == index}
        # without ports, a bridge has a carrier before it ever had one and none afterwards; a port that is dead from the
        # start leaves it the first
        passes = (passes and _FORWARDING in states.values()) if states else True
    held = tuple(name for name, state in states.items() if state in _HELD)
    return LinkCondition(up=bool(link.flags & rtnetlink.UP), open=passes, held=held)


def ends_here(bridge: int, questions: Questions) -> bool | None:
    """Whether the bridge plainly leads nowhere: each port is a veth to another namespace of this host and ends there.

    None where that cannot be told at this moment, since the other end of a port seems to be on its way.
    """
    links = {link.number: link for link in questions.links()}
    device = links.get(bridge)
    upon_it = any(link.link == bridge and link.space is None for link in links.values())
    if device is None or device.master or upon_it:
        return False
    led = [leads_out(port, links, questions) for port in links.values() if port.master == bridge]
    if True in led:
        return False
    return None if None in led else True


def down(interface: str) -> LinkError:
    """The error of an interface that is switched off."""
    return LinkError(f"{interface} is down; bring it up: ip link set {interface} up")


def gone(interface: str) -> LinkError:
    """The error of an interface that was there."""
    return LinkError(
        f"{interface} is gone: it was removed, or moved to another namespace; make it again, then try again"
    )


def _missing(interface: str, links: list[LinkNote]) -> InputError:
    usable = sorted(
        link.name
        for link in links
        if link.hardware == _ARPHRD_ETHER and not link.flags & _IFF_NOARP and not link.master
    )
    there = f"choose one of: {', '.join(usable)}" if usable else "and none that could be used; make one first"
    return NoInterfaceError(f"no interface {interface!r} here; {there}")


def _check(interface: str, link: LinkNote, links: list[LinkNote]) -> None:
    if link.flags & (_IFF_LOOPBACK | _IFF_NOARP):
        raise LinkError(f"{interface} carries no ARP (loopback or NOARP), so nothing can be probed there; use another")
    if link.hardware != _ARPHRD_ETHER:
        raise LinkError(f"{interface} is no Ethernet interface (hardware type {link.hardware}); use one that is")
    master = _by_number(links, link.master)
    if master is not None and master.kind in _MASTERS:
        raise InputError(f"{interface} is a port of {master.name}; use the {master.kind}: {master.name}")
    if not link.flags & rtnetlink.UP:
        raise down(interface)


def _by_number(links: list[LinkNote], number: int) -> LinkNote | None:
    return next((link for link in links if link.number == number), None)
