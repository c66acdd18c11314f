"""What a claim tells of conflicts and does to its lease, by a clock of its own."""

from __future__ import annotations

import pytest

from arpipam.claim import Conflict
from arpipam.claim_state import ClaimState
from arpipam.protocol import arp
from arpipam.protocol.policy import Policy
from tests.support.claims import (
    ADDRESS,
    ASKER,
    HANDED,
    LEASE,
    OTHER,
    OWNER,
    READY,
    SINCE,
    Store,
    Wire,
    announcement,
    answer,
    answered,
    claimed,
    question,
)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def store() -> Store:
    return Store()


# Conflicts.


def test_each_conflict_is_told_with_both_macs_and_whether_ours_is_the_older(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store, policy=Policy.REPORT)
    told: list[Conflict] = []
    claim.on_conflict(told.append)
    claim.guard()
    for since in (0, SINCE + 1, SINCE - 1):
        wire.hear(announcement(OTHER, since))
    assert told == [Conflict(ADDRESS, LEASE.mac, arp.mac_text(OTHER), older) for older in (None, True, False)]
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
    assert [packet.since for packet in sent if packet.sender_ip == packet.target_ip] == [SINCE]


def test_nothing_is_told_of_old_probes_while_the_owner_answers_for_itself(wire: Wire, store: Store) -> None:
    claim = claimed(wire, store)
    told: list[str] = []
    claim.on_absence(told.append)
    claim.guard()
    wire.late = True
    assert wire.hear(question(asker=0, mac=OTHER)) == []
    assert told == []
