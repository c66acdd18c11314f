"""What a search found free is confirmed by a longer timing; in the simulation, each case from a seed."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.errors import PoolExhaustedError, UnknownError
from arpipam.lab.simulation import Claimer, Faults, SimulatedStation
from arpipam.protocol import arp
from arpipam.protocol.timing import RFC5227
from tests.support.search import FIRST, RACE, World, mac

if TYPE_CHECKING:
    from arpipam.protocol.arp import ArpPacket


def probes(world: World, claimer: Claimer) -> dict[int, list[float]]:
    """When the claimer probes for each address, from now on."""
    heard: dict[int, list[float]] = {}
    transmit = world.link.transmit

    def watched(sender: Any, frame: bytes) -> None:
        packet = arp.dissect(frame)
        if sender is claimer and isinstance(packet, arp.ArpPacket) and packet.is_probe:
            heard.setdefault(packet.target_ip, []).append(world.link.now)
        transmit(sender, frame)

    world.link.transmit = watched  # type: ignore[method-assign]
    return heard


class Latecomer(SimulatedStation):
    """A station that comes up, or begins to ask for an address, at a certain moment."""

    def __init__(self, world: World, address: int, at: float, *, rival: bool = False) -> None:
        super().__init__(world.link, mac(77), [] if rival else [address])
        self._at, self._frame = at, arp.probe(mac(77), address) if rival else arp.announcement(mac(77), address)
        self._world = world
        world.link.attach(self, at)

    def receive(self, packet: ArpPacket, now: float) -> bool:
        return now >= self._at and super().receive(packet, now)

    def run(self, now: float) -> None:  # noqa: ARG002 - once
        self._world.link.transmit(self, self._frame)


def test_what_is_found_free_is_probed_again_by_the_timing_that_confirms_it() -> None:
    world = World(1, used=[FIRST])
    claimer = world.claimer(range(FIRST, FIRST + 50), confirm=RFC5227)
    plain = World(1, used=[FIRST])
    unconfirmed = plain.claimer(range(FIRST, FIRST + 50))
    times = probes(world, claimer)
    assert world.run() == plain.run() == [FIRST + 1]
    assert claimer.claimed_at is not None
    assert unconfirmed.claimed_at is not None
    assert 4 <= claimer.claimed_at - unconfirmed.claimed_at <= 7
    quick = [at for at in times[FIRST + 1] if at <= unconfirmed.claimed_at - 0.05]
    slow = times[FIRST + 1][len(quick) :]
    assert len(slow) == 3
    assert all(1 <= later - earlier <= 2 for earlier, later in pairwise(slow))
    assert claimer.claimed_at == pytest.approx(slow[-1] + 2)


def test_the_stated_miss_probability_is_that_of_the_quick_probes() -> None:
    said = []
    for confirm in (None, RFC5227):
        world = World(1)
        claimer = world.claimer(range(FIRST, FIRST + 50), confirm=confirm)
        assert world.run() == [FIRST]
        assert claimer._search is not None
        assert claimer._search.found is not None
        said.append(claimer._search.found.miss_probability)
    assert said[0] == said[1] != 0
    assert said[0] is not None
    assert said[0] <= 1e-6


def test_without_a_witness_the_confirmation_is_without_one_too() -> None:
    world = World(1, witness=False)
    world.claimer(range(FIRST, FIRST + 50), witnesses=(), alone=True, confirm=RFC5227)
    assert world.run() == [FIRST]


@pytest.mark.parametrize("at", [1.0, 3.0, 4.5])
@pytest.mark.parametrize("rival", [False, True], ids=["used", "contended"])
def test_what_turns_out_to_be_anothers_while_it_is_confirmed_is_passed_over(at: float, *, rival: bool) -> None:
    world = World(1)
    claimer = world.claimer(range(FIRST, FIRST + 2), confirm=RFC5227)
    Latecomer(world, FIRST, at, rival=rival)
    assert world.run() == [FIRST + 1]
    assert claimer.claimed_at is not None
    assert claimer.claimed_at > at + 4  # the next one is confirmed as well
    assert claimer._search is not None
    assert claimer._search.contentions == rival


def test_what_is_used_by_the_time_of_its_confirmation_leaves_nothing_reserved() -> None:
    world = World(1)
    claimer = world.claimer(range(FIRST, FIRST + 1), confirm=RFC5227)
    back: list[int] = []
    world.link.run(0.01)
    assert claimer._search is not None
    claimer._search._unreserve = back.append
    Latecomer(world, FIRST, 2.0)
    assert world.run() == []
    assert isinstance(claimer.error, PoolExhaustedError)
    assert "1 in use" in str(claimer.error)
    assert back == [FIRST]


def test_a_witness_that_is_silent_during_the_confirmation_makes_it_unknown() -> None:
    world = World(1)
    claimer = world.claimer(range(FIRST, FIRST + 9), confirm=RFC5227)
    world.link.run(0.5)
    world.link.faults = Faults(loss=1.0)
    assert world.run() == []
    assert isinstance(claimer.error, UnknownError)
    assert "no answer from witness 10.0.0.1" in str(claimer.error)


@pytest.mark.parametrize("seed", range(20))
def test_of_two_that_confirm_the_same_address_at_most_one_gets_it(seed: int) -> None:
    world = World(seed, RACE)
    for number in range(2):
        world.claimer(range(FIRST, FIRST + 2), confirm=RFC5227, at=number * seed / 4)
    held = world.run(600)
    assert sorted(held) in ([FIRST, FIRST + 1], [FIRST], [FIRST + 1])
    assert held
