"""Who is there: ordinary requests for many addresses at once.

A survey asks with the interface's own address as sender, which is no conflict for any station, and so finds the
stations of a full network in one round trip. It also hears what was not meant for us: an address that any station sends
from is used.

Silence in a survey proves nothing; it only says which addresses are worth RFC 5227 probes. So searches that run at the
same moment on one link need not all ask the same: what one of them asks counts for all (`RecentRequests`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, NamedTuple

from arpipam.protocol import arp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from arpipam.protocol.arp import ArpPacket


FRESH = 0.25
"""Seconds for which a request serves the other searches of the link."""
_NEVER = float("-inf")


class Answer(NamedTuple):
    """A station that showed itself; the round trip in seconds, or None where it did not answer a question of ours."""

    mac: bytes
    round_trip: float | None
    to_us: bool = False
    """It answered a question of this host, if not of this survey."""


class RecentRequests:
    """What the surveys of one link have asked in the last moment, and who has answered."""

    def __init__(self) -> None:
        # Not a plain dict: to find its first costs more with every removal.
        self._asked: OrderedDict[int, float] = OrderedDict()
        """When each address was asked for last, the longest ago first."""
        self._answers: dict[int, Answer] = {}

    def asked(self, addresses: Iterable[int], now: float) -> None:
        """Requests for these have left."""
        for address in addresses:
            self._asked[address] = now
            self._asked.move_to_end(address)
            self._answers.pop(address, None)
        while self._asked and self._asked[oldest := next(iter(self._asked))] < now - FRESH:
            del self._asked[oldest]
            self._answers.pop(oldest, None)

    def answered(self, address: int, answer: Answer) -> None:
        """A station showed itself."""
        if address in self._asked:
            self._answers[address] = answer

    def last(self, address: int) -> tuple[float, Answer | None]:
        """When it was asked for, minus infinity where that is long ago; and the answer since then."""
        return self._asked.get(address, _NEVER), self._answers.get(address)


class Survey:
    """Asks for addresses, up to `rounds` times each while they stay silent. Is an outbox of its own requests.

    What another survey of the same link has asked meanwhile (`recent`, where there are others) is one of those times,
    and is not asked again.

    `sender` is the interface's own address; 0 where it has none: then the requests are probes.
    The state is bounded by the addresses that were added: what else is on the wire leaves no trace here.
    """

    def __init__(
        self,
        mac: bytes,
        sender: int,
        *,
        rounds: int,
        on_answer: Callable[[int, Answer], None] | None = None,
        recent: RecentRequests | None = None,
    ) -> None:
        self.silent: dict[int, int] = {}
        """Addresses without an answer, in the order in which they were added, and how often each was asked."""
        self.answers: dict[int, Answer] = {}
        self.last_sent = _NEVER
        self._mac = mac
        self._rounds = rounds
        self._on_answer = on_answer
        self._recent = recent
        self._frame = (arp.request(mac, sender, 0) if sender else arp.probe(mac, 0))[:-4]
        self._asked: dict[int, float] = {}
        self._queue: deque[int] = deque()
        self._due: list[int] = []
        """Taken from the queue to be sent now."""
        self._queued_at = _NEVER

    def add(self, addresses: Iterable[int], now: float) -> None:
        """Ask for these too."""
        new = [address for address in addresses if address not in self.silent and address not in self.answers]
        self.silent.update(dict.fromkeys(new, 0))
        self._enqueue(new, now)

    def ask_again(self, now: float) -> None:
        """Another round for those that are silent and have rounds left, unless the last one is still on its way out."""
        if not len(self):
            self._enqueue([address for address, asked in self.silent.items() if asked < self._rounds], now)

    def repeat(self, now: float) -> None:
        """Another round for all that are silent: one of them turned out to be there."""
        if not len(self):
            self._enqueue(self.silent, now)

    def forget(self, addresses: Iterable[int], now: float) -> None:
        """Ask for these anew, whatever is known of them."""
        addresses = list(addresses)
        for address in addresses:
            self.answers.pop(address, None)
            self.silent[address] = 0
        self._enqueue(addresses, now)

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take note of a sender address that we are interested in."""
        address = packet.sender_ip
        if address in self.silent and packet.sender_mac != self._mac:
            to_us = packet.operation == arp.REPLY and packet.target_mac == self._mac
            asked = self._asked.get(address, _NEVER)
            if self._recent is not None:
                asked = max(asked, self._recent.last(address)[0])
            round_trip = now - asked if to_us and asked > _NEVER else None
            self.note(address, Answer(packet.sender_mac, round_trip, to_us))

    def note(self, address: int, answer: Answer) -> None:
        """A station uses this address."""
        if self.silent.pop(address, None) is None:
            return
        self.answers[address] = answer
        if self._recent is not None:
            self._recent.answered(address, answer)
        if self._on_answer is not None:
            self._on_answer(address, answer)

    def peek(self, most: int) -> list[bytes]:
        """The requests that are next, `most` at most (see Outbox)."""
        due, queue, silent = self._due, self._queue, self.silent
        while queue and len(due) < most:
            address = queue.popleft()
            if address in silent and not (self._recent is not None and self._served(address, self._recent)):
                due.append(address)
        frame = self._frame
        return [frame + address.to_bytes(4, "big") for address in due[:most]]

    def sent(self, count: int, now: float) -> None:
        """So many of the requests that `peek` showed have left."""
        left = self._due[:count]
        del self._due[:count]
        if self._recent is not None:
            self._recent.asked(left, now)
        self._count(left, now)

    def __len__(self) -> int:
        return len(self._queue) + len(self._due)

    def _enqueue(self, addresses: Iterable[int], now: float) -> None:
        self._queue.extend(addresses)
        self._queued_at = now

    def _served(self, address: int, recent: RecentRequests) -> bool:
        """Whether another survey has asked for it lately, and later than this one did."""
        asked, answer = recent.last(address)
        if asked <= max(self._asked.get(address, _NEVER), self._queued_at - FRESH):
            return False
        self._count([address], asked)
        if answer is not None:
            self.note(address, answer)
        return True

    def _count(self, addresses: list[int], at: float) -> None:
        if addresses:
            self.last_sent = max(self.last_sent, at)
        self._asked.update(dict.fromkeys(addresses, at))
        silent = self.silent
        for address in addresses:
            if address in silent:
                silent[address] += 1
