"""Who is seen on the link of one network, and how many addresses that leaves."""

from __future__ import annotations

import time
from heapq import nlargest
from typing import TYPE_CHECKING

from arpipam.protocol import arp

if TYPE_CHECKING:
    from arpipam.protocol.arp import ArpPacket
    from launcher.agent.memory import Stations
    from launcher.agent.network.network import Network

LATELY = 600.0  # s
MOST_KNOWN = 8  # stations that a search is told of
FORGET = 60.0  # s for which a station counts where none is to be remembered
_TABLE = 2.0  # s for which the number of addresses left is not counted anew


class Seen:
    """The stations of a network's link; what uses a MAC of ours is none."""

    def __init__(self, network: Network) -> None:
        self.stations: Stations = network.tools.memory.of(network.pool.interface)
        self._network = network
        self._own_macs: set[bytes] = set()
        subnet = network.pool.subnet
        self._first, self._last = int(subnet.network_address), int(subnet.broadcast_address)
        self._left: tuple[float, int] = (-_TABLE, 0)

    def packet(self, packet: ArpPacket, now: float) -> None:  # noqa: ARG002 - stations are remembered by the calendar
        """A packet on the link; on the driver's thread."""
        mac, network = packet.sender_mac, self._network
        if not self._first <= packet.sender_ip <= self._last:
            return
        if mac not in self._own_macs and network.is_open and mac not in network.allocator.link.local_macs:
            self.stations.see(packet.sender_ip, mac, time.time())

    def mine(self, mac: str) -> None:
        """A MAC of ours: it is no station."""
        self._own_macs.add(arp.mac_bytes(mac))

    def not_mine(self, mac: str) -> None:
        """It is ours no more."""
        self._own_macs.discard(arp.mac_bytes(mac))

    def nothing_of_ours(self) -> None:
        """No MAC is ours any more: the link is closed."""
        self._own_macs.clear()

    def remembered(self) -> frozenset[int]:
        """The addresses to avoid: somebody had them within the time to `remember`."""
        remember = self._network.tools.config.agent.remember
        return frozenset(self.stations.recent(time.time() - remember)) if remember else frozenset()

    def lately(self) -> list[int]:
        """Stations that were seen of late: one of them will answer."""
        since = time.time() - LATELY
        seen = (seen for seen in self.stations if seen.last > since)
        return [seen.address for seen in nlargest(MOST_KNOWN, seen, key=lambda seen: seen.last)]

    def left(self) -> int:
        """Addresses of the pool that nobody is known to use."""
        at, left = self._left
        network = self._network
        if time.monotonic() - at > _TABLE and network.is_open:
            pool = network.allocator.pool
            known = self.stations.recent(time.time() - (network.tools.config.agent.remember or FORGET))
            known |= {int(address) for address in network.held} | {int(claim.address) for claim in network.ready}
            left = len(pool) - sum(1 for address in known if address in pool)
            self._left = time.monotonic(), left
        return left
