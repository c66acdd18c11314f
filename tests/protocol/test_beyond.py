"""What lies beyond this host: its containers are no witnesses, and while no way leads there nothing is known."""

from __future__ import annotations

import random

import pytest

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.outcome import NO_WITNESS, Verdict
from arpipam.protocol.parameters import Parameters
from arpipam.protocol.verdicts import Verdicts
from tests.support.first_free import BRIDGE, FIRST, HOST, MINE, OWN_ADDRESS, RIVAL, STATION, WITNESS, Desk

CLOSED = "br0: no port that leads beyond this host (uplink) has a carrier and forwards"


def local(mac: bytes) -> bool:
    """Whether it is beyond this host: all but one station are."""
    return mac != HOST


def test_a_container_of_this_host_is_no_witness() -> None:
    desk = Desk(witnesses=(), neighbours=(WITNESS,), outward=local)
    assert desk.run().failure() == NO_WITNESS
    assert desk.asked(probes=True) == []


def test_a_station_beyond_it_is_one_beside_it() -> None:
    desk = Desk(witnesses=(), neighbours=(WITNESS, FIRST), outward=local)
    desk.stations[FIRST] = STATION
    found = desk.run().search.found
    assert found is not None
    assert found.acd.address == FIRST + 1
    assert desk.search.witnesses.found == [FIRST]


def test_a_named_container_of_this_host_has_to_answer_and_proves_nothing() -> None:
    desk = Desk(outward=local)
    assert "witness 10.0.0.1 is on this host itself and proves nothing of what lies beyond" in desk.run().failure()
    silent = Desk(outward=local)
    silent.stations.clear()
    assert "no answer from witness 10.0.0.1" in silent.run().failure()
    beside = Desk(outward=local, witnesses=(WITNESS, FIRST))
    beside.stations[FIRST] = STATION
    alone = Desk(witnesses=(FIRST,))
    alone.stations[FIRST] = STATION
    found, as_good = beside.run().search.found, alone.run().search.found
    assert found is not None
    assert as_good is not None
    assert found.miss_probability == as_good.miss_probability


@pytest.mark.parametrize("alone", [False, True])
def test_nothing_is_searched_while_no_way_is_open(*, alone: bool) -> None:
    desk = Desk(witnesses=(), neighbours=(WITNESS,), closed=CLOSED, alone=alone)
    began = desk.now
    assert desk.run().failure() == CLOSED
    assert desk.now - began < 0.2
    assert desk.asked(probes=True) == []


def test_verdicts_while_no_way_is_open() -> None:
    """A container of this host answers all the same."""
    parameters = Parameters(BRIDGE, own_address=OWN_ADDRESS, witnesses=(WITNESS,), closed=CLOSED)
    verdicts = Verdicts([FIRST, FIRST + 1], MINE, parameters, rng=random.Random(1), now=0.0, tries=1)
    for outbox in verdicts.outboxes():
        outbox.sent(len(outbox.peek(100)), 0.0)
    verdicts.receive(ArpPacket(arp.REPLY, RIVAL, FIRST, BRIDGE, OWN_ADDRESS, RIVAL, BRIDGE), 0.001)
    deadline = verdicts.deadline
    assert deadline is not None
    verdicts.advance(deadline)
    assert verdicts.done
    assert verdicts.outcomes[FIRST].verdict is Verdict.IN_USE
    assert verdicts.outcomes[FIRST].mac == RIVAL
    assert (verdicts.outcomes[FIRST + 1].verdict, verdicts.outcomes[FIRST + 1].reason) == (Verdict.UNKNOWN, CLOSED)
