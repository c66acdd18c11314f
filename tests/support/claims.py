"""One claim on a bench: a loop and a lease store that note what they are told, and a clock of its own."""

from __future__ import annotations

import random
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, TypeVar, cast

from arpipam.claim import Claim
from arpipam.claim_state import ClaimState
from arpipam.leases.lease import Lease, LeaseState
from arpipam.protocol import arp
from arpipam.protocol.acd import Acd
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.policy import FIRST_RELEASE, Policy
from arpipam.protocol.timing import LAN
from arpipam.protocol.witnesses import SearchWitnesses
from arpipam.results import Found

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.leases.lease import LeaseStore
    from arpipam.leases.writer import LeaseWriter
    from arpipam.link.loop import Loop

T = TypeVar("T")

ADDRESS = IPv4Address("172.16.42.7")
OWN_ADDRESS = int(IPv4Address("172.16.42.1"))
SINCE = FIRST_RELEASE + 5_000_000
LINK, READY, OWNER, OTHER, ASKER = (bytes.fromhex(f"02005e1000{n:02x}") for n in range(1, 6))


class Link:
    """A link that is nothing but its MAC and its clock."""

    def __init__(self) -> None:
        self.mac = LINK
        self.time = 100.0

    def now(self) -> float:
        return self.time


class Wire:
    """Stands where the loop is: what is called runs at once, and frames leave at the moment they are due."""

    def __init__(self) -> None:
        self.link = Link()
        self.claim: Claim | None = None
        self.stirred = True
        self.sent: list[tuple[float, ArpPacket]] = []
        self.late = False
        self.posted: list[Callable[[], object]] = []
        self.faults: list[Exception] = []

    def call(self, function: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001 - as the loop hands it over
            future.set_exception(error)
        self.flush()
        return future

    def post(self, function: Callable[[], object]) -> None:
        self.posted.append(function)
        if len(self.posted) > 1:  # under way already
            return
        while self.posted:
            try:
                self.posted[0]()
            except Exception as error:  # noqa: BLE001 - the loop logs it
                self.faults.append(error)
            self.posted.pop(0)
        self.flush()

    def is_here(self) -> bool:
        """Whether a listener is being called, on the loop's own thread."""
        return bool(self.posted)

    def stir(self, address: int) -> None:
        assert address == int(ADDRESS)
        self.stirred = True

    def let_go(self, address: int) -> None:
        assert address == int(ADDRESS)
        self.claim = None

    def flush(self) -> None:
        """Send what waits, and see whether there may be something to do later; else it rests until it is stirred."""
        if not self.stirred:
            return
        while self.claim is not None and (frames := self.claim.outbox.peek(1)):
            packet = arp.dissect(frames[0])
            assert isinstance(packet, ArpPacket)
            self.sent.append((self.link.time, packet))
            self.claim.outbox.sent(1, self.link.time)
        if self.claim is not None:
            self.claim.advance(self.link.time)  # what has just left may be a step forward, as the loop has it
            self.stirred = self.claim.deadline is not None or bool(self.claim.outbox)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.link.time + seconds
        self.flush()
        while self.stirred and self.claim is not None and (due := self.claim.deadline) is not None and due <= until:
            self.link.time = max(due, self.link.time)
            self.claim.advance(self.link.time)
            self.flush()
        self.link.time = until

    def hear(self, packet: ArpPacket) -> list[ArpPacket]:
        """What is sent in answer to a packet."""
        before = len(self.sent)
        if self.claim is not None:
            self.stirred = True
            self.claim.receive(packet, self.link.time)
        self.flush()
        return [sent for _, sent in self.sent[before:]]

    def questions(self) -> list[float]:
        """When the owner was asked."""
        return [when for when, packet in self.sent if packet.sender_mac == LINK]

    def announced(self) -> list[bytes]:
        """The MACs of the announcements."""
        return [packet.sender_mac for _, packet in self.sent if packet.sender_ip == packet.target_ip]


class Store:
    """Notes what is done to the lease; also the writer, with what it is left to do."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.left: list[Callable[[], object]] = []

    def post(self, function: Callable[..., object], *words: Any, **more: Any) -> None:
        self.left.append(partial(function, *words, **more))

    def bind(self, lease_id: int, container: str) -> Lease:
        self.done.append(("bind", lease_id, container))
        return replace(LEASE, state=LeaseState.BOUND, container=container)

    def release(self, lease_id: int, *, quarantine: float = 60.0) -> None:
        self.done.append(("release", lease_id, quarantine))


LEASE = Lease(7, "br0", ADDRESS, 24, arp.mac_text(READY), "ready", LeaseState.CLAIMED, "", 5.0, 5.0, 0.0)
HANDED = replace(LEASE, mac=arp.mac_text(OWNER), owner="web", state=LeaseState.BOUND, container="c0ffee")
FOUND = Found(ADDRESS, 24, arp.mac_text(READY), 0.3, 1, 0, 1e-7)


def claimed(wire: Wire, store: Store, *, asker: int = OWN_ADDRESS, policy: Policy = Policy.ONCE) -> Claim:
    """A claim that is announced and defended by now."""
    now = wire.link.now()
    witnesses = SearchWitnesses(LAN, bound=1e-6, alone=True)
    acd = Acd(int(ADDRESS), READY, witnesses, rng=random.Random(1), now=now, local_macs={LINK}, policy=policy)
    acd.since = SINCE
    acd.adopt()
    claim = Claim(
        acd,
        LEASE,
        FOUND,
        loop=cast("Loop", wire),
        store=cast("LeaseStore", store),
        writer=cast("LeaseWriter", store),
        asker=lambda: asker,
    )

    wire.claim = claim
    assert claim.state is ClaimState.ANNOUNCING
    wire.run(1)
    assert state_of(claim) is ClaimState.DEFENDING
    return claim


def question(asker: int = OWN_ADDRESS, mac: bytes = LINK) -> ArpPacket:
    return ArpPacket(arp.REQUEST, mac, asker, arp.NO_MAC, int(ADDRESS), mac, arp.BROADCAST)


def answer(mac: bytes = READY, to: bytes = LINK) -> ArpPacket:
    return ArpPacket(arp.REPLY, mac, int(ADDRESS), to, OWN_ADDRESS, mac, to)


def announcement(mac: bytes = OTHER, since: int = 0) -> ArpPacket:
    return ArpPacket(arp.REQUEST, mac, int(ADDRESS), arp.NO_MAC, int(ADDRESS), mac, arp.BROADCAST, since)


def state_of(claim: Claim) -> ClaimState:
    return claim.state


def answered(wire: Wire) -> bool:
    """Whether we answer for the address."""
    return bool(wire.hear(question(OWN_ADDRESS + 8, ASKER)))
