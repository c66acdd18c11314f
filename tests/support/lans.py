"""A host and a printer on a wire, allocators on it, and what tests ask of them."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from arpipam import Allocator
from arpipam.lab import Host, Lab, Wire
from arpipam.lab.capture import who_have
from arpipam.leases.lease import LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore
from arpipam.protocol import arp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import ExitStack
    from pathlib import Path

    from arpipam.lab.capture import Capture
    from arpipam.lab.stations import LabStation
    from arpipam.protocol.arp import ArpPacket

OWN, PRINTER, FREE, FREE_TOO = (f"172.16.42.{n}" for n in (1, 3, 2, 4))
GIVEN = "172.16.42.50"
LONG = 30.0
"""Seconds after which a condition that was waited for will not come any more."""
_numbers = itertools.count()


def fresh() -> int:
    """A number that no other test of this process has."""
    return next(_numbers)


@dataclass(frozen=True)
class Lan:
    """A host and a printer on a wire."""

    lab: Lab
    wire: Wire
    host: Host
    printer: LabStation


def make_lan(lab: Lab) -> Lan:
    wire, name = lab.wire(), fresh()
    host = lab.host(f"host{name}", wire, f"{OWN}/24")
    lab.start()
    return Lan(lab, wire, host, lab.station(f"printer{name}", wire, f"{PRINTER}/24"))


@dataclass(frozen=True)
class Opener:
    """Opens allocators on a host, which share a lease store and are closed when the test ends."""

    state: Path
    stack: ExitStack

    def __call__(self, on: Lan | Host, **options: Any) -> Allocator:
        host = on if isinstance(on, Host) else on.host
        options = {"state_dir": self.state} | options
        with host.namespace.inside():
            return self.stack.enter_context(Allocator(host.bridge, **options))

    def leases(self, *states: LeaseState) -> dict[str, LeaseState]:
        """The state of each lease in these states (default: all)."""
        with SqliteLeaseStore(self.state / "leases.db") as store:
            return {str(lease.address): lease.state for lease in store.leases(states=states or tuple(LeaseState))}


def run_inside(host: Host, main: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine on a thread that is in the host's namespace."""

    async def everything() -> None:
        await main()

    with host.namespace.inside():
        asyncio.run(everything())


def number(address: IPv4Address | str) -> int:
    return int(IPv4Address(address))


def owners(lan: Lan, address: IPv4Address | str) -> set[str]:
    """The MACs that answer for an address at this moment."""
    return who_have(lan.printer.namespace, "eth0", [str(address)], timeout=0.1, tries=1)[str(address)]


def announcement(station: LabStation, address: IPv4Address | str) -> bytes:
    return arp.announcement(arp.mac_bytes(station.mac), number(address))


def announcements(packets: list[tuple[float, ArpPacket]], address: IPv4Address | str) -> list[str]:
    """The MAC of each announcement of the address."""
    told = (packet for _, packet in packets if packet.operation == arp.REQUEST)
    return [arp.mac_text(p.sender_mac) for p in told if p.sender_ip == p.target_ip == number(address)]


def probed(capture: Capture, address: str) -> Callable[[], bool]:
    """Whether somebody has probed for the address."""

    def seen() -> bool:
        capture.read()
        return any(packet.is_probe and packet.target_ip == number(address) for _, packet in capture.packets)

    return seen
