"""No station loses its address because of our probes: stations that delete it at the second one within ten seconds."""

from __future__ import annotations

import pytest

from arpipam.lab.simulation import Faults, SimulatedStation, TouchyStation
from arpipam.protocol import arp
from arpipam.protocol.outcome import Outcome, Verdict
from arpipam.protocol.parameters import Parameters
from arpipam.protocol.scan import Scan
from arpipam.protocol.timing import LAN, RFC5227
from tests.support.profile import count
from tests.support.search import FIRST, NET, ByHand, World, mac
from tests.support.verdicts import FIRST as WANTED
from tests.support.verdicts import HOST, SECOND, STATION, WITNESS, Desk

TRIES = count("HARM", day=100, night=2000)
LAST = NET + 255


class TouchyWorld(World):
    """Every station but one is a touchy one: the witness, and those of the pool's first addresses."""

    def __init__(self, seed: int, faults: Faults | None = None, *, used: int = 20) -> None:
        super().__init__(seed, faults, witness=False)
        self.touchy = [
            TouchyStation(self.link, mac(0x1000 + n), [address])
            for n, address in enumerate([NET + 1, *range(FIRST, FIRST + used)])
        ]
        for station in self.touchy:
            self.link.attach(station)

    def harmed(self) -> int:
        return sum(len(station.deleted) for station in self.touchy)


def test_the_model_of_a_touchy_station() -> None:
    world = World(1, witness=False)
    station = TouchyStation(world.link, mac(1), [FIRST])
    asker = SimulatedStation(world.link, mac(2), [])
    for node in (station, asker):
        world.link.attach(node)
    for at, probes, deleted in ((0.0, True, False), (11.0, True, False), (12.0, False, False), (21.0, True, True)):
        world.link.run(at)
        frame = arp.probe(mac(2), FIRST) if probes else arp.request(mac(2), NET + 9, FIRST)
        world.link.transmit(asker, frame)
        world.link.run(at + 0.1)
        assert (FIRST in station.deleted) is deleted


@pytest.mark.parametrize("timing", [None, LAN, RFC5227], ids=["adaptive", "lan", "rfc5227"])
def test_two_hosts_that_search_at_once_harm_no_station(timing: object) -> None:
    for seed in range(TRIES // 10):
        world = TouchyWorld(seed)
        for number in range(2):
            changes = {} if timing is None else {"timing": timing}
            world.claimer(range(FIRST, FIRST + 50), at=seed % 7 * 0.03 * number, last=LAST, **changes)
        assert len(set(world.run())) == 2
        assert world.harmed() == 0, f"seed {seed}"


def test_nor_do_many_searches_of_two_hosts_one_after_the_other() -> None:
    for seed in range(TRIES // 10):
        world = TouchyWorld(seed)
        for number in range(2):
            world.host(number, [range(FIRST + first, FIRST + 50) for first in range(4)])
        for number in range(4):
            world.claimer(range(FIRST + number, FIRST + number + 1), at=float(number))
        world.run()
        assert world.harmed() == 0, f"seed {seed}"


@pytest.mark.parametrize("loss", [0.1, 0.3])
def test_where_answers_are_lost_they_harm_hardly_any(loss: float) -> None:
    """A station is probed once if all its answers to three requests were lost, and again by the other host if again."""
    harmed = stations = 0
    for seed in range(TRIES // 4):
        world = TouchyWorld(seed, Faults(loss=loss))
        for number in range(2):
            world.claimer(range(FIRST, FIRST + 50), at=seed % 7 * 0.03 * number, last=LAST)
        world.run()
        harmed += world.harmed()
        stations += len(world.touchy)
    assert harmed <= stations / 1000


# What any process of the host has probed a moment ago.


def test_who_answered_a_probe_is_reported() -> None:
    desk = Desk([WANTED, SECOND])
    desk.stations[WANTED] = STATION
    desk.shy.add(WANTED)  # its answers to the requests were lost
    assert desk.verdicts() == [Verdict.IN_USE, Verdict.FREE]
    assert desk.search.answered == {WANTED: STATION}
    plain = Desk([WANTED])
    plain.stations[WANTED] = STATION
    plain.run()
    assert plain.search.answered == {}  # it was not probed
    bare = Desk([WANTED], own_address=0)
    while bare.search.probing is None:
        bare.step()
    bare.stations[WANTED] = STATION
    bare.run()
    assert bare.search.answered == {WITNESS: HOST, WANTED: STATION}


def test_who_has_answered_one_lately_is_in_use_without_another() -> None:
    desk = Desk([WANTED, SECOND], answered_lately={WANTED: STATION})
    assert desk.run()[WANTED] == Outcome(Verdict.IN_USE, STATION)
    assert {packet.target_ip for _, packet in desk.left if packet.is_probe} == {SECOND}
    world = World(1)
    world.claimer(range(FIRST, FIRST + 50), answered_lately={FIRST: STATION})
    assert world.run() == [FIRST + 1]


@pytest.mark.parametrize("known", [(), (NET + 1,)], ids=["found", "named"])
def test_without_an_address_who_has_answered_lately_is_a_witness(known: tuple[int, ...]) -> None:
    stations = {NET + 1: STATION}
    desk = Desk([SECOND, NET + 1], own_address=0, witnesses=known, answered_lately=stations)
    outcomes = desk.run()
    assert {address: one.verdict for address, one in outcomes.items()} == {
        NET + 1: Verdict.IN_USE,
        SECOND: Verdict.FREE,
    }
    assert NET + 1 not in {packet.target_ip for _, packet in desk.left}


@pytest.mark.parametrize("own_address", [0, NET + 9])
def test_a_scan_reports_who_answered_a_probe(own_address: int) -> None:
    hand = ByHand({FIRST: STATION})
    known = Parameters(mac(9), own_address, answered_lately={FIRST + 1: STATION})
    scan = Scan(range(FIRST, FIRST + 3), known, now=0.0)
    hand.end(scan)
    assert scan.answered == ({} if own_address else {FIRST: STATION})
    assert set(scan.survey.answers) == ({FIRST} if own_address else {FIRST, FIRST + 1})
    assert len(hand.sent) == (5 if own_address else 2)
