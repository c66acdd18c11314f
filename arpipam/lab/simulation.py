"""Hosts on one virtual link, in virtual time, over the same acd.py and search.py that run on a real one.

The link loses, delays, doubles, reorders and echoes frames as it is told, all from one seed: what goes wrong here goes
wrong again from the same seed. Thousands of claims take seconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from arpipam.protocol import arp
from arpipam.protocol.acd import AcdState
from arpipam.protocol.first_free import FirstFree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from arpipam.errors import ArpipamError
    from arpipam.protocol.acd import Acd
    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.outbox import Outbox
    from arpipam.protocol.parameters import Parameters
    from arpipam.protocol.search import LinkMemory
    from arpipam.protocol.survey import Survey


@dataclass(frozen=True)
class Faults:
    """What the link does to frames, each share between 0 and 1, each on the way to one receiver; times in seconds."""

    loss: float = 0.0
    delay: float = 0.0002
    jitter: float = 0.0
    """Up to this much more delay, at random; frames overtake each other."""
    duplication: float = 0.0
    echo: float = 0.0
    """The share of frames that come back to their own sender."""


class Concern(NamedTuple):
    """What a station has a use for: whatever else is on the link need not be shown to it."""

    addresses: frozenset[int] = frozenset()
    """Packets from or for these."""
    macs: frozenset[bytes] = frozenset()
    """Packets whose target MAC is one of these."""
    senders: frozenset[int] = frozenset()
    """Packets from these."""
    wanted: frozenset[int] = frozenset()
    """Probes for and announcements of these."""


class Node(Protocol):
    """A station on the virtual link."""

    @property
    def concern(self) -> Concern | None:
        """What it has a use for, looked at when it joins and after each `run`; None: everything."""

    def receive(self, packet: ArpPacket, now: float) -> bool:
        """Take in a packet; whether there may be something to do now, so that `run` has to be called."""

    def run(self, now: float) -> float | None:
        """Do what is due, send through the link; when to call again."""


class VirtualLink:
    """One broadcast domain with a clock of its own, which starts at 0.

    A frame is shown only to those whom it may concern, so its cost does not grow with the number of stations.
    """

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.rng = random.Random(seed)
        self.faults = faults or Faults()
        self.now = 0.0
        self.frames = 0
        self._nodes: list[Node] = []
        self._index: dict[Node, int] = {}
        self._queue: list[tuple[float, int, int | Callable[[], None], ArpPacket | None]] = []
        self._count = 0
        self._wake: dict[int, float] = {}
        self._far: set[int] = set()
        self._cut = False
        # By what concerns them, the stations in a fixed order: dictionaries of their numbers.
        self._concerns: list[Concern | None] = []
        self._everything: dict[int, None] = {}
        self._addresses: dict[int, dict[int, None]] = {}
        self._macs: dict[bytes, dict[int, None]] = {}
        self._senders: dict[int, dict[int, None]] = {}
        self._wanted: dict[int, dict[int, None]] = {}

    def attach(self, node: Node, at: float | None = None, *, far: bool = False) -> None:
        """Join a station, which runs for the first time at that moment; `far`: beyond where the link may be cut."""
        index = len(self._nodes)
        self._nodes.append(node)
        self._index[node] = index
        if far:
            self._far.add(index)
        self._concerns.append(None)
        self._everything[index] = None
        self._concerned(index)
        self._schedule(self.now if at is None else at, lambda: self._run(index))

    def cut(self) -> None:
        """Nothing passes between those that are `far` and the others, what is under way included."""
        self._cut = True

    def heal(self) -> None:
        """It does again."""
        self._cut = False

    def transmit(self, sender: Node, frame: bytes) -> None:
        """Send a frame to everybody else whom it concerns; promiscuous stations hear all there is."""
        packet = arp.dissect(frame)
        assert not isinstance(packet, arp.Refusal)  # noqa: S101 - our own frames are well-formed
        self.frames += 1
        hearers = self._hearers(packet)
        if not hearers:
            return
        faults, rng = self.faults, self.rng
        own = self._index[sender]
        for index in hearers:
            if index == own and not (faults.echo and rng.random() < faults.echo):
                continue
            if self._cut and (index in self._far) != (own in self._far):
                continue
            for _ in range(2 if faults.duplication and rng.random() < faults.duplication else 1):
                if not (faults.loss and rng.random() < faults.loss):
                    at = self.now + faults.delay + (rng.random() * faults.jitter if faults.jitter else 0.0)
                    self._count += 1
                    heappush(self._queue, (at, self._count, index, packet))

    def run(self, until: float, *, stop: Callable[[], bool] = lambda: False) -> None:
        """Let time pass up to `until` seconds, or until `stop()`."""
        queue = self._queue
        while queue and queue[0][0] <= until and not stop():
            self.now, _, what, packet = heappop(queue)
            if packet is None:
                what()  # type: ignore[operator] # without a packet it is an action
            else:
                self._deliver(what, packet)  # type: ignore[arg-type] # with one, a station
        if not stop():
            self.now = until

    def _hearers(self, packet: ArpPacket) -> Iterable[int]:
        """Those whom it concerns, each once."""
        sender, target = packet.sender_ip, packet.target_ip
        found = [
            self._addresses.get(target),
            self._macs.get(packet.target_mac),
            self._senders.get(sender),
            self._everything,
        ]
        if sender != target:
            found.append(self._addresses.get(sender))
        if sender in {arp.UNSPECIFIED, target}:
            found.append(self._wanted.get(target))
        some = [hearers for hearers in found if hearers]
        if len(some) <= 1:
            return list(some[0]) if some else ()
        return dict.fromkeys(index for hearers in some for index in hearers)

    def _concerned(self, index: int) -> None:
        """Note what concerns a station by now."""
        old, new = self._concerns[index], self._nodes[index].concern
        if new is old:
            return
        self._concerns[index] = new
        if (old is None) != (new is None):
            if new is None:
                self._everything[index] = None
            else:
                del self._everything[index]
        before, after = old or Concern(), new or Concern()
        _note(self._addresses, index, before.addresses, after.addresses)
        _note(self._macs, index, before.macs, after.macs)
        _note(self._senders, index, before.senders, after.senders)
        _note(self._wanted, index, before.wanted, after.wanted)

    def _schedule(self, at: float, action: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._queue, (at, self._count, action, None))

    def _deliver(self, index: int, packet: ArpPacket) -> None:
        if self._nodes[index].receive(packet, self.now):
            self._run(index)

    def _run(self, index: int) -> None:
        node = self._nodes[index]
        due = node.run(self.now)
        self._concerned(index)
        if due is None or self._wake.get(index, float("inf")) <= due:
            return
        self._wake[index] = due
        self._schedule(max(due, self.now), lambda: self._awake(index, due))

    def _awake(self, index: int, due: float) -> None:
        if self._wake.get(index) == due:
            del self._wake[index]
            self._run(index)


Key = TypeVar("Key")


def _note(by: dict[Key, dict[int, None]], index: int, before: frozenset[Key], after: frozenset[Key]) -> None:
    """Move one station in an index from what concerned it to what does."""
    for key in before - after:
        del by[key][index]
        if not by[key]:
            del by[key]
    for key in after - before:
        by.setdefault(key, {})[index] = None


class SimulatedStation:
    """A machine that answers for its addresses as a kernel does."""

    def __init__(self, link: VirtualLink, mac: bytes, addresses: Iterable[int]) -> None:
        self.addresses = frozenset(addresses)
        self.concern = Concern(self.addresses)
        self._link = link
        self._mac = mac

    def receive(self, packet: ArpPacket, now: float) -> bool:  # noqa: ARG002 - a kernel answers at once
        """Answer a request."""
        if packet.operation == arp.REQUEST and packet.target_ip in self.addresses and packet.sender_mac != self._mac:
            self._link.transmit(self, arp.reply(self._mac, packet))
        return False

    def run(self, now: float) -> None:
        """Nothing is ever due."""


class TouchyStation(SimulatedStation):
    """One that deletes an address when it gets two probes for it within ten seconds, as dhcpcd 9.4 does."""

    WITHIN = 10.0

    def __init__(self, link: VirtualLink, mac: bytes, addresses: Iterable[int]) -> None:
        super().__init__(link, mac, addresses)
        self.deleted: set[int] = set()
        self._probed: dict[int, float] = {}

    def receive(self, packet: ArpPacket, now: float) -> bool:
        """Answer a request, and take a second probe for a conflict."""
        super().receive(packet, now)
        address = packet.target_ip
        if not packet.is_probe or address not in self.addresses or packet.sender_mac == self._mac:
            return False
        if now - self._probed.get(address, float("-inf")) <= self.WITHIN:
            self.deleted.add(address)
            self.addresses -= {address}
            self.concern = Concern(self.addresses)
        self._probed[address] = now
        return address in self.deleted


class Claimer:
    """A host that looks for one address, claims it, and defends it from then on.

    Those of one `memory` are one host: its searches share what they may, and so have the same `parameters`; `reserve`
    keeps their choices apart, see FirstFree.
    """

    def __init__(
        self,
        link: VirtualLink,
        mac: bytes,
        parameters: Parameters,
        candidates: Callable[[], Iterable[int]],
        *,
        seed: int | random.Random,
        memory: LinkMemory | None = None,
        reserve: Callable[[int], bool] = lambda _: True,
        unreserve: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.mac = mac
        self.concern = Concern()
        self.contentions = 0
        self.acd: Acd | None = None
        self.error: ArpipamError | None = None
        self.claimed_at: float | None = None
        self._link = link
        self._parameters = parameters
        self._candidates = candidates
        self._memory = memory
        self._rng = seed if isinstance(seed, random.Random) else random.Random(seed)
        self._reserve, self._unreserve = reserve, unreserve
        self._search: FirstFree | None = None
        self._asked: tuple[object, ...] = ()

    @property
    def address(self) -> int | None:
        """The address it holds."""
        return (
            self.acd.address
            if self.acd is not None and self.acd.state in (AcdState.ANNOUNCING, AcdState.DEFENDING)
            else None
        )

    @property
    def ended(self) -> bool:
        """Whether the search is over."""
        return self.acd is not None or self.error is not None

    def receive(self, packet: ArpPacket, now: float) -> bool:
        """Take in a packet."""
        if self.acd is not None:
            self.acd.receive(packet, now)
            return bool(self.acd.outbox)
        search = self._search
        if search is None or search.done or not (search.interest and search.interest.wants(packet)):
            return False
        search.receive(packet, now)
        return search.probing is None or search.probing.done

    def run(self, now: float) -> float | None:
        """Do what is due."""
        search = self._search
        if search is None and not self.ended:
            search = self._search = self._begin(now)
        if search is not None and not self.ended:
            self._seek(search, now)
        if self.acd is not None:
            self.acd.advance(now)
            self._flush([self.acd.outbox], now)
            return self.acd.deadline
        return None if search is None else search.deadline

    def _begin(self, now: float) -> FirstFree:
        return FirstFree(
            iter(self._candidates()),
            self.mac,
            self._parameters,
            rng=self._rng,
            now=now,
            possible_witnesses=self._candidates(),
            reserve=self._reserve,
            unreserve=self._unreserve,
            memory=self._memory,
        )

    def _seek(self, search: FirstFree, now: float) -> None:
        self._flush(search.outboxes(), now)
        search.advance(now)
        self._flush(search.outboxes(), now)
        self.error = search.error
        if search.found is not None:
            self.acd = search.found.acd
            self.acd.claim()
            self.claimed_at = now
            self.contentions = search.contentions
        self._look(search)

    def forget(self) -> None:
        """Let go of a search that has ended: of many thousands, they would fill the memory."""
        assert self.ended  # noqa: S101 - the caller's fault
        self._search = None

    def _look(self, search: FirstFree) -> None:
        """What it has a use for: of an address it holds all, while it searches what `FirstFree.interest` says."""
        if self.acd is not None:
            self.concern = Concern(frozenset((self.acd.address,)))
            return
        if self.error is not None:
            self.concern = Concern()
            return
        probing, survey = search.probing, search.survey
        surveyed = len(survey.silent) + len(survey.answers)
        asked = surveyed, probing, search.canary.addresses()
        if asked != self._asked:
            self._asked = asked
            tried = frozenset(() if probing is None else probing.acds)
            macs = frozenset((self.mac, self._parameters.own_mac))
            canary = frozenset(search.canary.addresses())
            self.concern = Concern(tried, macs, canary, frozenset((*survey.silent, *survey.answers)))

    def _flush(self, outboxes: Iterable[Outbox | Survey], now: float) -> None:
        for outbox in outboxes:
            while frames := outbox.peek(1):
                self._link.transmit(self, frames[0])
                outbox.sent(1, now)
