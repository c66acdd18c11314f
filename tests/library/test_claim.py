"""A claim's way to its owner and back, by a clock of its own: the machine is the real one, the driver is not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from arpipam.claim_state import ClaimState
from arpipam.protocol import arp
from arpipam.protocol.policy import Policy
from arpipam.protocol.timing import LAN
from tests.support.claims import (
    ADDRESS,
    ASKER,
    HANDED,
    LEASE,
    LINK,
    OTHER,
    OWN_ADDRESS,
    OWNER,
    READY,
    Store,
    Wire,
    announcement,
    answer,
    answered,
    claimed,
    question,
    state_of,
)

if TYPE_CHECKING:
    from arpipam.protocol.arp import ArpPacket


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def store() -> Store:
    return Store()


# Awaiting the owner.


def test_an_owner_is_asked_less_and_less_often_from_twenty_milliseconds_down_to_once_a_second(
    wire: Wire, store: Store
) -> None:
    claim = claimed(wire, store)
    claim.ask_owner()
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
    claim.ask_owner()
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
    claim.ask_owner()
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
    claim.ask_owner()
    assert not claim.answered.is_set()
    wire.run(1)
    assert claim.state is ClaimState.DEFENDING


def test_without_an_own_address_the_owner_is_asked_by_probes(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store, asker=0)
    claim.ask_owner()
    wire.run(0.1)
    assert {packet for _, packet in wire.sent if packet.sender_mac == LINK} == {question(0)}


def test_the_owner_is_asked_from_the_mac_and_address_of_now(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store)
    claim.ask_owner()
    wire.run(0.1)
    wire.link.mac = OTHER  # the bridge has another one since a container was plugged in
    sent = len(wire.sent)
    wire.run(1)
    assert {packet for _, packet in wire.sent[sent:]} == {question(mac=OTHER)}
    wire.hear(answer(to=LINK))  # to whom we are no more
    assert claim.state is ClaimState.DEFENDING
    wire.hear(answer(to=OTHER))
    assert state_of(claim) is ClaimState.GUARDED


@pytest.mark.parametrize("end", ["release", "handed over", "conflict"])
def test_an_owner_that_is_awaited_is_asked_no_more_when_the_claim_ends(wire: Wire, store: Store, end: str) -> None:
    claim = claimed(wire, store, policy=Policy.NEVER)
    claim.ask_owner()
    wire.run(0.05)
    if end == "release":
        claim.release()
    elif end == "handed over":
        claim.hand_over()
    else:
        wire.hear(announcement())
        assert claim.state is ClaimState.CONFLICT
        assert claim.conflict == arp.mac_text(OTHER)
    asked = len(wire.questions())
    claim.ask_owner()  # too late
    wire.run(10)
    assert len(wire.questions()) == asked


# The end.


def test_a_claim_that_a_listener_releases_leaves_the_disk_to_the_writer(wire: Wire, store: Store) -> None:
    """The listener runs on the thread that answers ARP: no commit may be waited for there."""
    claim = claimed(wire, store)
    claim.on_change(lambda state: claim.release(5.0) if state is ClaimState.GUARDED else None)
    claim.guard()
    assert state_of(claim) is ClaimState.RELEASED
    assert wire.faults == []
    assert store.done == []
    [release] = store.left
    release()
    assert store.done == [("release", LEASE.id, 5.0)]


def test_released_elsewhere_its_lease_has_ended_when_that_returns(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store)
    claim.release(5.0)
    assert (store.done, store.left) == ([("release", LEASE.id, 5.0)], [])


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
    claim.ask_owner()
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
    claim.set_policy(Policy.NEVER)
    wire.hear(announcement())
    assert state_of(claim) is ClaimState.CONFLICT


@pytest.mark.parametrize("mac", [READY, OWNER])
def test_what_was_guarded_for_one_owner_is_answered_for_until_the_next_one_does(
    wire: Wire, store: Store, mac: bytes
) -> None:
    claim = claimed(wire, store)
    claim.guard()
    claim.hand_out(replace(HANDED, mac=arp.mac_text(mac)), Policy.REPORT)
    claim.ask_owner()
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
    claim.ask_owner()
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
    claim.ask_owner()
    claim.take_over()  # before the owner ever came
    asked = len(wire.questions())
    wire.run(10)
    assert len(wire.questions()) == asked
    assert states == [ClaimState.GUARDED, ClaimState.DEFENDING]


@pytest.mark.parametrize("what", ["guard", "take_over", "ask_owner", "announce_soon", "announce"])
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
