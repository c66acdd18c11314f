"""After a gap in what was heard of the link, every address that is claimed there is asked for.

A station that took one of them meanwhile answers, and so its claim hears of the conflict at once. Nothing is proven by
silence here: an address that is to be handed out is probed anew (allocator.py, `start_check`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arpipam.protocol import arp
from arpipam.protocol.interest import Interest
from arpipam.protocol.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from arpipam.protocol.arp import ArpPacket

LOOKS = (0.0, 0.4, 2.0, 35.0)
"""Seconds from the end of a gap. The first frames through a tunnel or a switch get lost, and one whose spanning tree
has the port forwards only after 30."""
_PAUSE = 1.0
"""Seconds between two first looks: gaps may follow each other closely, as while frames are dropped."""


class SecondLook:
    """A protocol object without IO, driven like a search, that never ends: `begin` starts it anew.

    `addresses()` are those that are claimed, `sender()` the interface's own MAC and address (0: none) at this moment.
    """

    interest = Interest()
    """Nothing more than the claims have: they hear the answers."""

    def __init__(self, addresses: Callable[[], Iterable[int]], sender: Callable[[], tuple[bytes, int]]) -> None:
        self.done = False
        self._addresses = addresses
        self._sender = sender
        self._due: list[float] = []
        self._looked = float("-inf")
        self._outbox = Outbox()

    def begin(self, now: float) -> None:
        """A gap is over."""
        first = max(now, self._looked + _PAUSE)
        self._due = [first + after for after in LOOKS]

    @property
    def deadline(self) -> float | None:
        """When `advance` wants to be called."""
        return self._due[0] if self._due and not self._outbox else None

    def outboxes(self) -> Iterator[Outbox]:
        """The frames that wait to leave."""
        yield self._outbox

    def receive(self, packet: ArpPacket, now: float) -> None:
        """The claims hear for themselves."""

    def overflow(self, dropped: int, now: float) -> None:
        """That is another gap."""

    def advance(self, now: float) -> None:
        """Ask for all, if it is time."""
        if not self._due or now < self._due[0]:
            return
        self._looked = now
        # Without an address these are probes, and who has taken one of ours meanwhile may stand one of them.
        self._due = [at for at in self._due if at > now and self._sender()[1]]
        self.follow()
        mac, own = self._sender()
        for address in self._addresses():
            self._outbox.put(arp.request(mac, own, address) if own else arp.probe(mac, address))

    def follow(self) -> None:
        """The interface has another MAC or address: what has not left is asked next time."""
        self._outbox.clear()
