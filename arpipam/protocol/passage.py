"""Whether frames of a new MAC pass: a station that answers this host's own MAC is asked from the new one.

Port security, Wi-Fi and hypervisors may let only the MACs through that they know; a container on such a link reaches
nobody, and nobody reaches it. The question is an ordinary request that names the claimed address as its sender, so it
is asked only once the address is ours, and is no conflict for anybody.
"""

from __future__ import annotations

from math import ceil, log
from typing import TYPE_CHECKING

from arpipam.protocol import arp
from arpipam.protocol.interest import Interest
from arpipam.protocol.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from arpipam.protocol.arp import ArpPacket

PASSED_FOR = 600.0
"""Seconds for which it is not asked again on a link where one new MAC has passed."""
LEAST_TRIES = 4
"""However little the link loses."""
_FALSE_ALARM = 1e-6
"""The chance that all tries are lost on a link that loses as much as it has shown."""
_GAP = 0.1


class Passage:
    """Asks `witnesses`, one after the other, from `mac` and `address`, until one answers; then `passed` is true.

    `loss` is the share of requests from the host's own MAC that stayed unanswered: the more, the more tries. Driven
    like a search (see search.py).
    """

    def __init__(
        self, mac: bytes, address: int, witnesses: Sequence[int], *, loss: float, round_trip: float, now: float
    ) -> None:
        self.mac = mac
        self.done = False
        self.passed = False
        self.interest = Interest(macs=frozenset((mac,)))
        self.deadline: float | None = now
        self._address = address
        self._witnesses = witnesses
        self._gap = max(_GAP, 2 * round_trip)
        self._left = max(LEAST_TRIES, ceil(log(_FALSE_ALARM) / log(loss))) if loss > 0 else LEAST_TRIES
        self._tried = 0
        self._outbox = Outbox()

    def outboxes(self) -> Iterator[Outbox]:
        """The frames that wait to leave."""
        yield self._outbox

    def receive(self, packet: ArpPacket, now: float) -> None:  # noqa: ARG002 - any answer will do, however late
        """Take in a packet from the link."""
        if (
            packet.operation == arp.REPLY
            and packet.target_mac == self.mac
            and packet.sender_mac != self.mac
            and packet.sender_ip in self._witnesses
        ):
            self.passed = self.done = True

    def overflow(self, dropped: int, now: float) -> None:  # noqa: ARG002 - the interface is the loop's
        """Frames were dropped, maybe the answer: one more try."""
        self._left += 1

    def advance(self, now: float) -> None:
        """Ask, or give up."""
        if self.done or self.deadline is None or now < self.deadline:
            return
        if self._tried >= self._left:
            self.done = True
            return
        witness = self._witnesses[self._tried % len(self._witnesses)]
        self._tried += 1
        self.deadline = None
        self._outbox.put(arp.request(self.mac, self._address, witness), self._asked)

    def _asked(self, now: float) -> None:
        self.deadline = now + self._gap

    def doubt(self, own: bytes) -> str:
        """What it means that none answered; `own` is the interface's MAC."""
        return (
            f"stations answer this host's own MAC ({arp.mac_text(own)}) but not another one "
            f"({arp.mac_text(self.mac)}): port security, Wi-Fi or a hypervisor lets only MACs pass that it knows; "
            "allow others on this host's port (VMware: forged transmits and promiscuous mode; Wi-Fi cannot), or use "
            "another link"
        )
