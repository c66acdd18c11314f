"""A claim's way to its owner and back, by a clock of its own: the machine is the real one, the driver is not."""

from __future__ import annotations

import random
from concurrent.futures import Future
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

from arpipam import arp
from arpipam.acd import Acd, Policy
from arpipam.arp import ArpPacket
from arpipam.claim import Claim, ClaimState, Conflict
from arpipam.evidence import Evidence
from arpipam.leases import Lease, State
from arpipam.results import Found
from arpipam.timing import LAN

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.driver import Driver
    from arpipam.leases import LeaseStore

T = TypeVar("T")

ADDRESS = IPv4Address("172.16.42.7")
OWN_ADDRESS = int(IPv4Address("172.16.42.1"))
LINK, READY, OWNER, OTHER, ASKER = (bytes.fromhex(f"02005e1000{n:02x}") for n in range(1, 6))


class Link:
    """A link that is nothing but its MAC and its clock."""

    mac = LINK

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time


class Wire:
    """Stands where the driver is: what is called runs at once, and frames leave at the moment they are due."""

    def __init__(self) -> None:
        self.link = Link()
        self.claim: Claim | None = None
        self.stirred = True
        self.sent: list[tuple[float, ArpPacket]] = []
        self.late = False

    def call(self, function: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001 - as the driver hands it over
            future.set_exception(error)
        self.flush()
        return future

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
            self.claim.advance(self.link.time)  # what has just left may be a step forward, as the driver has it
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
    """Notes what is done to the lease."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []

    def bind(self, lease_id: int, container: str) -> Lease:
        self.done.append(("bind", lease_id, container))
        return replace(LEASE, state=State.BOUND, container=container)

    def release(self, lease_id: int, *, quarantine: float = 60.0) -> None:
        self.done.append(("release", lease_id, quarantine))


LEASE = Lease(7, "br0", ADDRESS, 24, arp.mac_text(READY), "ready", State.CLAIMED, "", 5.0, 5.0, 0.0)
HANDED = replace(LEASE, mac=arp.mac_text(OWNER), owner="web", state=State.BOUND, container="c0ffee")
FOUND = Found(ADDRESS, 24, arp.mac_text(READY), 0.3, 1, 0, 1e-7)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def store() -> Store:
    return Store()


def claimed(wire: Wire, store: Store, *, asker: int = OWN_ADDRESS, policy: Policy = Policy.ONCE) -> Claim:
    """A claim that is announced and defended by now."""
    now = wire.link.now()
    evidence = Evidence(LAN, bound=1e-6, alone=True)
    acd = Acd(int(ADDRESS), READY, evidence, rng=random.Random(1), now=now, local_macs={LINK}, policy=policy)
    acd.since = 5_000_000
    acd.adopt()
    claim = Claim(acd, LEASE, FOUND, driver=cast("Driver", wire), store=cast("LeaseStore", store), asker=asker)
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


# Awaiting the owner.


def test_an_owner_is_asked_less_and_less_often_from_twenty_milliseconds_down_to_once_a_second(
    wire: Wire, store: Store
) -> None:
    claim = claimed(wire, store)
    claim.await_owner()
    wire.run(10)
    pauses = [later - earlier for earlier, later in pairwise(wire.questions())]
    assert pauses[0] == pytest.approx(0.02)
    assert all(earlier <= later + 1e-9 for earlier, later in pairwise(pauses))
    assert pauses[-1] == pytest.approx(1.0)
    assert sum(pauses) == pytest.approx(10, abs=1.0)  # for as long as it takes
    assert {packet for _, packet in wire.sent if packet.sender_mac == LINK} == {question()}
    assert claim.state is ClaimState.DEFENDING
    assert answered(wire)


def test_from_its_first_answer_on_the_owner_is_only_guarded_and_not_asked_again(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store)
    states: list[ClaimState] = []
    claim.on_change(states.append)
    claim.await_owner()
    wire.run(0.05)
    assert wire.hear(answer()) == []
    asked = len(wire.questions())
    wire.run(100)
    assert states == [ClaimState.GUARDED]
    assert claim.state is ClaimState.GUARDED
    assert claim.answered.is_set()
    assert claim.deadline is None
    assert len(wire.questions()) == asked
    assert not answered(wire)


@pytest.mark.parametrize(
    "packet",
    [
        answer(to=ASKER),
        announcement(READY),
        question(mac=READY),
        answer()._replace(sender_ip=int(ADDRESS) + 1),
        answer()._replace(operation=arp.REQUEST),
    ],
    ids=["answer to another", "announcement", "request", "answer for another", "no answer"],
)
def test_nothing_but_its_answer_to_us_shows_that_the_owner_is_there(
    wire: Wire, store: Store, packet: ArpPacket
) -> None:
    claim = claimed(wire, store)
    claim.await_owner()
    wire.hear(packet)
    assert claim.state is ClaimState.DEFENDING
    assert not claim.answered.is_set()


def test_an_answer_that_nobody_waits_for_hands_nothing_over(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store)
    wire.hear(answer())
    assert claim.answered.is_set()
    assert claim.state is ClaimState.DEFENDING


def test_an_answer_from_before_does_not_count_when_the_owner_is_awaited_anew(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store)
    wire.hear(answer())
    claim.await_owner()
    assert not claim.answered.is_set()
    wire.run(1)
    assert claim.state is ClaimState.DEFENDING


def test_without_an_own_address_the_owner_is_asked_by_probes(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store, asker=0)
    claim.await_owner()
    wire.run(0.1)
    assert {packet for _, packet in wire.sent if packet.sender_mac == LINK} == {question(0)}


@pytest.mark.parametrize("end", ["release", "handed over", "conflict"])
def test_an_owner_that_is_awaited_is_asked_no_more_when_the_claim_ends(wire: Wire, store: Store, end: str) -> None:
    claim = claimed(wire, store, policy=Policy.NEVER)
    claim.await_owner()
    wire.run(0.05)
    if end == "release":
        claim.release()
    elif end == "handed over":
        claim.handed_over()
    else:
        wire.hear(announcement())
        assert claim.state is ClaimState.CONFLICT
        assert claim.conflict == arp.mac_text(OTHER)
    asked = len(wire.questions())
    claim.await_owner()  # too late
    wire.run(10)
    assert len(wire.questions()) == asked


# Handing out.


def test_handed_out_it_goes_under_the_owners_mac_at_once_and_is_answered_for_until_the_owner_does(
    wire: Wire, store: Store
) -> None:
    claim = claimed(wire, store)
    wire.sent.clear()
    claim.hand_out(HANDED, Policy.REPORT)
    assert wire.announced() == [OWNER]
    assert (claim.lease, claim.mac) == (HANDED, arp.mac_text(OWNER))
    [said] = wire.hear(question(OWN_ADDRESS + 8, ASKER))
    assert (said.operation, said.sender_mac) == (arp.REPLY, OWNER)
    claim.await_owner()
    wire.run(1)
    assert claim.state is ClaimState.DEFENDING
    assert wire.announced() == [OWNER] * LAN.announce_num
    wire.hear(answer(READY))  # ours, from before
    assert claim.state is ClaimState.DEFENDING
    wire.hear(answer(OWNER))
    assert state_of(claim) is ClaimState.GUARDED


def test_handed_out_under_the_same_mac_nothing_is_announced(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store)
    wire.sent.clear()
    claim.hand_out(replace(HANDED, mac=LEASE.mac), Policy.REPORT)
    wire.run(10)
    assert wire.sent == []
    assert answered(wire)


def test_what_is_handed_out_meets_conflicts_by_the_new_policy(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store, policy=Policy.NEVER)
    claim.hand_out(HANDED, Policy.REPORT)
    wire.hear(announcement())
    assert claim.state is ClaimState.ANNOUNCING
    claim.follow(Policy.NEVER)
    wire.hear(announcement())
    assert state_of(claim) is ClaimState.CONFLICT


@pytest.mark.parametrize("mac", [READY, OWNER])
def test_what_was_guarded_for_one_owner_is_answered_for_until_the_next_one_does(
    wire: Wire, store: Store, mac: bytes
) -> None:
    claim = claimed(wire, store)
    claim.guard()
    claim.hand_out(replace(HANDED, mac=arp.mac_text(mac)), Policy.REPORT)
    claim.await_owner()
    assert answered(wire)
    wire.run(5)
    assert claim.state is ClaimState.DEFENDING
    wire.hear(answer(mac))
    assert state_of(claim) is ClaimState.GUARDED


def test_what_was_lost_meanwhile_is_not_announced_by_handing_it_out(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store, policy=Policy.NEVER)
    wire.hear(announcement())
    wire.sent.clear()
    claim.hand_out(HANDED, Policy.REPORT)
    wire.run(10)
    assert claim.state is ClaimState.CONFLICT
    assert not claim.outbox


# Guarding, and taking over.


def test_an_owner_that_cannot_be_heard_may_be_guarded_by_word(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store)
    claim.await_owner()
    claim.guard()
    asked = len(wire.questions())
    wire.run(10)
    assert claim.state is ClaimState.GUARDED
    assert len(wire.questions()) == asked
    assert not answered(wire)
    claim.guard()  # once more changes nothing
    assert claim.state is ClaimState.GUARDED


def test_when_its_owner_is_gone_it_is_answered_for_again(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store)
    states: list[ClaimState] = []
    claim.on_change(states.append)
    claim.guard()
    claim.take_over()
    assert answered(wire)
    claim.await_owner()
    claim.take_over()  # before the owner ever came
    asked = len(wire.questions())
    wire.run(10)
    assert len(wire.questions()) == asked
    assert states == [ClaimState.GUARDED, ClaimState.DEFENDING]


@pytest.mark.parametrize("what", ["guard", "take_over", "await_owner", "announce_soon", "announce"])
@pytest.mark.parametrize("end", ["release", "conflict"])
def test_what_comes_after_the_end_of_a_claim_changes_nothing(wire: Wire, store: Store, what: str, end: str) -> None:
    claim = claimed(wire, store, policy=Policy.NEVER)
    if end == "release":
        claim.release()
    else:
        wire.hear(announcement())
    state = claim.state
    getattr(claim, what)()
    assert claim.state is state
    assert claim.deadline is None
    assert not claim.outbox


def test_announced_again_it_says_so_whoever_answers_for_it(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store)
    wire.sent.clear()
    claim.announce_soon()
    wire.run(10)
    assert wire.announced() == [READY] * LAN.announce_num
    claim.guard()
    claim.announce_soon()
    wire.run(10)
    assert wire.announced() == [READY] * (LAN.announce_num + 1)
    assert claim.state is ClaimState.GUARDED


# Conflicts.


def test_each_conflict_is_told_with_both_macs_and_whether_ours_is_the_elder(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store, policy=Policy.REPORT)
    told: list[Conflict] = []
    claim.on_conflict(told.append)
    claim.guard()
    for since in (0, 9_000_000, 1_000_000):
        wire.hear(announcement(OTHER, since))
    assert told == [Conflict(ADDRESS, LEASE.mac, arp.mac_text(OTHER), elder) for elder in (None, True, False)]
    assert claim.state is ClaimState.GUARDED
    assert claim.conflict is None  # it is not given up


def test_a_conflict_that_ends_the_claim_is_told_too(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store, policy=Policy.NEVER)
    told: list[Conflict] = []
    claim.on_conflict(told.append)
    wire.hear(announcement())
    wire.hear(announcement())  # nobody listens any more
    assert told == [Conflict(ADDRESS, LEASE.mac, arp.mac_text(OTHER), None)]
    assert claim.conflict == arp.mac_text(OTHER)
    assert wire.claim is None


def test_what_is_no_conflict_is_not_told(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store)
    told: list[Conflict] = []
    claim.on_conflict(told.append)
    claim.hand_out(HANDED, Policy.REPORT)
    for packet in (announcement(READY), announcement(OWNER), answer(OWNER, ASKER), question(0, OTHER), question()):
        wire.hear(packet)
    assert told == []


# The lease.


def test_a_released_claim_rests_and_is_released_once(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store)
    claim.guard()
    with claim:
        pass
    claim.release()
    assert claim.state is ClaimState.RELEASED
    assert store.done == [("release", LEASE.id, 60.0)]
    assert not answered(wire)


def test_what_is_handed_out_stays_leased_when_its_context_ends(wire: Wire, store: Store) -> None:
    with claimed(wire, store) as claim:
        claim.hand_out(HANDED, Policy.REPORT)
    assert store.done == []
    assert answered(wire)


# When this process had no processor for a while.


def test_a_probe_that_waited_too_long_is_told_and_met_by_an_announcement(wire: Wire, store: Store) -> None:
    """Its sender may have claimed the address by now: the announcement says since when it is ours."""
    claim = claimed(wire, store)
    told: list[str] = []
    claim.on_absence(told.append)
    wire.hear(question(asker=0, mac=OTHER))
    assert told == []
    wire.late = True
    sent = wire.hear(question(asker=0, mac=OTHER))
    assert told == [arp.mac_text(OTHER)]
    assert [packet.since for packet in sent if packet.sender_ip == packet.target_ip] == [5_000_000]


def test_nothing_is_told_of_old_probes_while_the_owner_answers_for_itself(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store)
    told: list[str] = []
    claim.on_absence(told.append)
    claim.guard()
    wire.late = True
    assert wire.hear(question(asker=0, mac=OTHER)) == []
    assert told == []
