"""No station loses its address because of our probes: stations that delete it at the second one within ten seconds."""

from __future__ import annotations

import pytest

from arpipam.lab.simulation import Faults, SimulatedStation, TouchyStation
from arpipam.protocol import arp
from arpipam.protocol.timing import LAN, RFC5227
from tests.support.profile import count
from tests.support.search import FIRST, NET, World, mac

TRIES = count("HARM", day=200, night=2000)
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
