"""Who is there: ordinary requests for many addresses at once.

A survey asks with the interface's own address as sender, which is nobody's conflict, and so finds the stations of a
full network in one round trip. It also hears what was not meant for us: an address that anybody sends from is used.

Silence in a survey proves nothing; it only says which addresses are worth RFC 5227 probes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from arpipam import arp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from arpipam.arp import ArpPacket


class Answer(NamedTuple):
    """A station that showed itself; the round trip in seconds, or None where it did not answer a question of ours."""

    mac: bytes
    round_trip: float | None
    to_us: bool = False
    """It answered a question of this host, if not of this survey."""


class Survey:
    """Asks for addresses, up to `rounds` times each while they stay silent. Is an outbox of its own requests.

    `sender` is the interface's own address; 0 where it has none: then the requests are probes.
    The state is bounded by the addresses that were added: what else is on the wire leaves no trace here.
    """

    def __init__(
        self, mac: bytes, sender: int, *, rounds: int, on_answer: Callable[[int, Answer], None] | None = None
    ) -> None:
        self.silent: dict[int, int] = {}
        """Addresses without an answer, in the order in which they were added, and how often each was asked."""
        self.answers: dict[int, Answer] = {}
        self.last_sent = float("-inf")
        self._mac = mac
        self._rounds = rounds
        self._on_answer = on_answer
        self._frame = (arp.request(mac, sender, 0) if sender else arp.probe(mac, 0))[:-4]
        self._asked: dict[int, float] = {}
        self._queue: deque[int] = deque()

    def add(self, addresses: Iterable[int]) -> None:
        """Ask for these too."""
        new = [address for address in addresses if address not in self.silent and address not in self.answers]
        self.silent.update(dict.fromkeys(new, 0))
        self._queue.extend(new)

    def ask_again(self) -> None:
        """Another round for whoever is silent and has rounds left, unless the last one is still on its way out."""
        if not self._queue:
            self._queue.extend(address for address, asked in self.silent.items() if asked < self._rounds)

    def repeat(self) -> None:
        """Another round for all that are silent: one of them turned out to be there."""
        if not self._queue:
            self._queue.extend(self.silent)

    def forget(self, addresses: Iterable[int]) -> None:
        """Ask for these anew, whatever is known of them."""
        addresses = list(addresses)
        for address in addresses:
            self.answers.pop(address, None)
            self.silent[address] = 0
        self._queue.extend(addresses)

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take note of a sender address that we are interested in."""
        if packet.sender_ip in self.silent and packet.sender_mac != self._mac:
            to_us = packet.operation == arp.REPLY and packet.target_mac == self._mac
            asked = self._asked.get(packet.sender_ip) if to_us else None
            self.note(packet.sender_ip, Answer(packet.sender_mac, None if asked is None else now - asked, to_us))

    def note(self, address: int, answer: Answer) -> None:
        """A station uses this address."""
        if self.silent.pop(address, None) is None:
            return
        self.answers[address] = answer
        if self._on_answer is not None:
            self._on_answer(address, answer)

    def peek(self) -> bytes | None:
        """The request that is next (see Outbox)."""
        while self._queue and self._queue[0] not in self.silent:  # it has answered meanwhile
            self._queue.popleft()
        return self._frame + self._queue[0].to_bytes(4, "big") if self._queue else None

    def sent(self, now: float) -> None:
        """The request that `peek` showed has left."""
        address = self._queue.popleft()
        self.last_sent = self._asked[address] = now
        if address in self.silent:
            self.silent[address] += 1

    def __len__(self) -> int:
        return len(self._queue)
