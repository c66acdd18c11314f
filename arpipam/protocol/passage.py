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
    from collections.abc import Iterator, Mapping, Sequence

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

    From the second try on it asks from `own`, the interface's MAC and address, too: a link that was cut meanwhile is no
    matter of MACs. `loss`, between 0 and 1, is the likely share of requests that stay unanswered: the more, the more
    tries. Driven like a search (see search.py).
    """

    def __init__(
        self,
        mac: bytes,
        address: int,
        witnesses: Sequence[int],
        *,
        own: tuple[bytes, int],
        loss: float,
        round_trip: float,
        now: float,
    ) -> None:
        self.mac = mac
        self.done = False
        self.passed = False
        self.interest = Interest(macs=frozenset((mac, own[0])))
        self.deadline: float | None = now
        self._address = address
        self._own = own
        self._answers_own = not own[1]  # which has nothing to ask from but probes
        self._witnesses = witnesses
        self._gap = max(_GAP, 2 * round_trip)
        self._left = max(LEAST_TRIES, ceil(log(_FALSE_ALARM) / log(loss)))
        self._tried = 0
        self._outbox = Outbox()

    def outboxes(self) -> Iterator[Outbox]:
        """The frames that wait to leave."""
        yield self._outbox

    def receive(self, packet: ArpPacket, now: float) -> None:  # noqa: ARG002 - any answer will do, however late
        """Take in a packet from the link."""
        if packet.operation != arp.REPLY or packet.sender_ip not in self._witnesses or packet.sender_mac == self.mac:
            return
        if packet.target_mac == self.mac:
            self.passed = self.done = True
        elif packet.target_mac == self._own[0] and self._tried > 1:
            self._answers_own = True

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
        if self._tried > 1 and self._own[1]:
            self._outbox.put(arp.request(*self._own, witness))
        self._outbox.put(arp.request(self.mac, self._address, witness), self._asked)

    def _asked(self, now: float) -> None:
        self.deadline = now + self._gap

    def doubt(self, names: Mapping[int, str]) -> str:
        """What it means that none answered; the witnesses may have names."""
        if not self._answers_own:
            return (
                f"no answer from {arp.address_texts(self._witnesses, names)} any more, just after the address was "
                "found free: was the link cut? try again"
            )
        return (
            f"stations answer this host's own MAC ({arp.mac_text(self._own[0])}) but not another one "
            f"({arp.mac_text(self.mac)}): port security, Wi-Fi or a hypervisor lets only MACs pass that it knows; "
            "allow others on this host's port (VMware: forged transmits and promiscuous mode; Wi-Fi cannot), or use "
            "another link"
        )
