"""The kinds of stations that other people's networks have, each with its real program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arpipam.lab import daemons
from arpipam.lab.daemons import Program

if TYPE_CHECKING:
    from arpipam.lab import Lab
    from arpipam.lab.stations import LabStation

Starts = Callable[["Lab", "LabStation", str], Program]
"""Starts the program of a station, which is to have this address."""


@dataclass(frozen=True)
class Kind:
    """How such a station is started, and what is to be expected of it."""

    name: str
    program: type[Program]
    start: Starts
    network: str = "172.16.42"
    """The first three bytes of its addresses."""
    prefix: int = 24
    own: bool = False
    """Its station needs an address of its own first."""
    dhcp: bool = False
    """It gets its address from a DHCP server."""
    hears: bool = True
    """Until it takes the address, it hears of others that claim it. Else it asks once and is deaf for 2 s."""

    def __str__(self) -> str:
        return self.name


def _router(delay: float) -> Starts:
    """A router that has the address, and answers for one more so many seconds late at most."""

    def start(lab: Lab, station: LabStation, address: str) -> Program:
        network, _, number = address.rpartition(".")
        routed = f"{network}.{200 + int(number) % 50}/32"
        return lab.run(daemons.ProxyRouter, station, f"{address}/24", [routed], delay=delay)

    return start


KINDS = [
    Kind(
        "dhcpcd",
        daemons.Dhcpcd,
        lambda lab, station, address: lab.run(daemons.Dhcpcd, station, f"{address}/24"),
    ),
    Kind(
        "dhcpcd-dhcp",
        daemons.Dhcpcd,
        lambda lab, station, address: lab.run(daemons.Dhcpcd, station, request=address),
        dhcp=True,
    ),
    Kind(
        "udhcpc",
        daemons.Udhcpc,
        lambda lab, station, address: lab.run(daemons.Udhcpc, station, request=address),
        dhcp=True,
        hears=False,
    ),
    Kind(
        "avahi-autoipd",
        daemons.AvahiAutoipd,
        lambda lab, station, address: lab.run(daemons.AvahiAutoipd, station, address),
        network="169.254.7",
        prefix=16,
    ),
    Kind(
        "networkd",
        daemons.Networkd,
        lambda lab, station, address: lab.run(daemons.Networkd, station, f"{address}/24"),
    ),
    Kind(
        "NetworkManager",
        daemons.NetworkManager,
        lambda lab, station, address: lab.run(daemons.NetworkManager, station, f"{address}/24"),
    ),
    Kind(
        "keepalived",
        daemons.Keepalived,
        lambda lab, station, address: lab.run(
            daemons.Keepalived, station, f"{address}/24", vmac=False, group=int(address.rpartition(".")[2])
        ),
        own=True,
    ),
    Kind(
        "keepalived-vmac",
        daemons.Keepalived,
        lambda lab, station, address: lab.run(
            daemons.Keepalived, station, f"{address}/24", vmac=True, group=int(address.rpartition(".")[2])
        ),
        own=True,
    ),
    Kind("proxy-arp", daemons.ProxyRouter, _router(0.8)),
    Kind("proxy-arp-at-once", daemons.ProxyRouter, _router(0.0)),
]
