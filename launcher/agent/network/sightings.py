"""Who is seen on the link of one network, and how many addresses that leaves."""

from __future__ import annotations

from heapq import nlargest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Network

    from arpipam.link.socket import Link
    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.pool import Pool
    from launcher.agent.edges import Edges
    from launcher.agent.memory import Stations
    from launcher.agent.network.holdings import Holdings
    from launcher.agent.network.link import NetworkLink

LATELY = 600.0  # s
MOST_KNOWN = 8  # stations that a search is told of
FORGET = 60.0  # s for which a station counts where none is to be remembered
COUNT_EVERY = 2.0  # s for which the number of addresses left is not counted anew
AT_ONCE = 2000  # stations that are counted at one go, in about a millisecond


class Sightings:
    """The stations of a network's link; what uses a MAC of ours is not one.

    `remember()` is how long a station's address is avoided, in seconds; 0: not at all.
    """

    def __init__(
        self,
        stations: Stations,
        link: NetworkLink,
        holdings: Holdings,
        subnet: IPv4Network,
        remember: Callable[[], float],
        *,
        edges: Edges,
    ) -> None:
        self.stations = stations
        self._link = link
        self._holdings = holdings
        self._remember = remember
        self._edges = edges
        self._first, self._last = int(subnet.network_address), int(subnet.broadcast_address)
        self._counted = -COUNT_EVERY
        self._left = 0

    def packet(self, packet: ArpPacket, now: float) -> None:  # noqa: ARG002 - stations are remembered by the calendar
        """A packet on the link; on the driver's thread."""
        mac = packet.sender_mac
        if not self._first <= packet.sender_ip <= self._last:
            return
        if not self._holdings.is_ours(mac) and self._link.is_open and mac not in self._link.allocator.link.local_macs:
            self.stations.see(packet.sender_ip, mac, self._edges.now())

    def remembered(self) -> frozenset[int]:
        """The addresses to avoid: somebody had them within the time to remember."""
        remember = self._remember()
        return frozenset(self.stations.recent(self._edges.now() - remember)) if remember else frozenset()

    def lately(self) -> list[int]:
        """Stations that were seen of late: one of them will answer."""
        since = self._edges.now() - LATELY
        seen = (seen for seen in self.stations if seen.last > since)
        return [seen.address for seen in nlargest(MOST_KNOWN, seen, key=lambda seen: seen.last)]

    def beyond(self, link: Link) -> list[int]:
        """The same, of stations beyond this host."""
        since = self._edges.now() - LATELY
        seen = [seen for seen in self.stations if seen.last > since]
        latest = nlargest(2 * MOST_KNOWN, seen, key=lambda seen: seen.last)
        return [one.address for one in latest if link.outward(one.mac) and one.mac not in link.local_macs]

    @property
    def left(self) -> int:
        """Addresses of the pool that nobody is known to use, as they were counted last."""
        return self._left

    async def count(self) -> None:
        """Count what is left, unless that was done a moment ago.

        On another thread, and a few at a time: with tens of thousands of stations the event loop would wait for a tenth
        of a second, there for itself and else for the interpreter's lock.
        """
        now = self._edges.monotonic()
        if now - self._counted > COUNT_EVERY and self._link.is_open:
            self._counted = now
            in_thread, pool = self._edges.in_thread, self._link.allocator.pool
            known = await in_thread(self._known, {int(held.address) for held in self._holdings})
            left = len(pool)
            for first in range(0, len(known), AT_ONCE):
                left -= await in_thread(_count, known[first : first + AT_ONCE], pool)
            self._left = left

    def _known(self, ours: set[int]) -> list[int]:
        return [*(self.stations.recent(self._edges.now() - (self._remember() or FORGET)) | ours)]


def _count(addresses: list[int], pool: Pool) -> int:
    return sum(1 for address in addresses if address in pool)
