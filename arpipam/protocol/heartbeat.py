"""Whether the stations that must answer do so, asked for as long as a link is open.

A protocol object without IO, driven like a search (see search.py), but it never ends. A station is asked once in a
beat, at the MAC that it was heard under last (RFC 1122, 2.3.2.1, the unicast poll), by broadcast while it is silent;
any ARP packet from it counts as life. Where the interface has no address the questions are probes: who has answered one
is left alone for a while, since some take the next one for a conflict.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from arpipam.protocol import arp
from arpipam.protocol.outbox import Outbox
from arpipam.protocol.witnesses import SELDOM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from arpipam.protocol.arp import ArpPacket

BEAT = 1.0
"""Seconds from one question to the next."""
PATIENCE = 3
"""A station is silent after so many beats without an answer, ..."""
_REMEMBERED = 60
"""Beats of which the loss is told."""
_SMOOTHING = 1 / 8


class _Peer:
    def __init__(self, now: float) -> None:
        self.mac: bytes | None = None
        self.heard = now
        self.missed = 0  # in doubt it is there: a search asks for itself
        self.asked: float | None = None
        self.told = float("-inf")
        """When it answered a question of ours last."""
        self.answered: deque[bool] = deque(maxlen=_REMEMBERED)


class Heartbeat:
    """The stations `witnesses`, asked from `mac` and `own_address` (0: by probes, seldom).

    `on_change(silent)` is called on the driver's thread with all that are silent, whenever that has changed.
    """

    interest = None
    """Everything: any frame of a station shows that it is there."""

    def __init__(
        self,
        witnesses: Iterable[int],
        mac: bytes,
        own_address: int,
        *,
        now: float,
        on_change: Callable[[tuple[int, ...]], None],
    ) -> None:
        self.done = False
        self.round_trip: float | None = None
        """Smoothed, seconds."""
        self.silent: tuple[int, ...] = ()
        self.deadline: float | None = now
        self._peers = {address: _Peer(now) for address in witnesses}
        self._mac = mac
        self._own_address = own_address
        self._on_change = on_change
        self._outbox = Outbox()

    def follow(self, mac: bytes, own_address: int) -> None:
        """Ask from these from now on; on the driver's thread."""
        self._mac, self._own_address = mac, own_address
        self._outbox.clear()

    def heard_since(self, at: float) -> bool:
        """Whether all stations have been heard after that time, seconds on the link's clock; from any thread."""
        return all(peer.heard > at for peer in self._peers.values())

    def loss(self) -> float | None:
        """The share of the questions of the last minute that stayed unanswered; None before the first."""
        told = [answered for peer in self._peers.values() for answered in peer.answered]
        return told.count(False) / len(told) if told else None

    def outboxes(self) -> Iterator[Outbox]:
        """The frames that wait to leave."""
        yield self._outbox

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take in a packet from the link."""
        peer = self._peers.get(packet.sender_ip)
        if peer is None:
            return
        if packet.operation == arp.REPLY and packet.target_mac == self._mac and peer.asked is not None:
            sample, peer.asked, peer.told = now - peer.asked, None, now
            self.round_trip = (
                sample if self.round_trip is None else self.round_trip * (1 - _SMOOTHING) + sample * (_SMOOTHING)
            )
            peer.answered.append(True)
        peer.mac, peer.heard, peer.missed = packet.sender_mac, now, 0
        if packet.sender_ip in self.silent:
            self._look()

    def overflow(self, dropped: int, now: float) -> None:
        """Frames were dropped: the next beats will tell."""

    def advance(self, now: float) -> None:
        """Ask every peer, if a beat is over."""
        if self.deadline is None or now < self.deadline:
            return
        self.deadline = now + BEAT
        self._outbox.clear()
        for peer in self._peers.values():
            if peer.asked is not None:
                peer.answered.append(False)
                peer.missed += peer.heard < peer.asked  # time alone says nothing: we may have been asleep
            peer.asked = None
        self._look()
        for address, peer in self._peers.items():
            if not self._own_address and now - peer.told < SELDOM:
                continue
            self._outbox.put(self._question(address, peer), partial(self._asked, peer))

    def _question(self, address: int, peer: _Peer) -> bytes:
        if not self._own_address:
            return arp.probe(self._mac, address)
        at = peer.mac if peer.mac is not None and address not in self.silent else arp.BROADCAST
        return arp.encode(arp.ArpPacket(arp.REQUEST, self._mac, self._own_address, arp.NO_MAC, address, self._mac, at))

    @staticmethod
    def _asked(peer: _Peer, now: float) -> None:
        peer.asked = now

    def _look(self) -> None:
        silent = tuple(address for address, peer in self._peers.items() if peer.missed >= PATIENCE)
        if silent != self.silent:
            self.silent = silent
            self._on_change(silent)
