"""A router that answers late for what it routes, as Linux's proxy ARP does: up to 0.8 s, at random."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from arpipam.lab.simulation import SimulatedStation
from arpipam.protocol import arp
from arpipam.protocol.acd import Acd, AcdState
from arpipam.protocol.timing import ADAPTIVE, LAN, RFC5227, Timing
from arpipam.protocol.witnesses import PROXY_MEMORY, PROXY_WAIT, LinkWitnesses, SearchWitnesses
from tests.support.first_free import BRIDGE, FIRST, HOST, OWN_ADDRESS, RIVAL, STATION, Desk
from tests.support.search import FIRST as FIRST_OF_WORLD
from tests.support.search import World, mac

if TYPE_CHECKING:
    from arpipam.protocol.arp import ArpPacket

LATE = 0.11
"""Seconds; a quick search listens for 0.1."""


class Router(SimulatedStation):
    """It answers requests for what it routes, and no probes."""

    def __init__(self, world: World, routed: range) -> None:
        super().__init__(world.link, mac(88), routed)
        self._world = world
        self._due: list[tuple[float, bytes]] = []
        world.link.attach(self)

    def receive(self, packet: ArpPacket, now: float) -> bool:
        if packet.operation == arp.REQUEST and packet.target_ip in self.addresses and not packet.is_probe:
            self._due.append((now + self._world.link.rng.uniform(0, 0.8), arp.reply(mac(88), packet)))
        return True

    def run(self, now: float) -> float | None:  # type: ignore[override] # a kernel has nothing due
        for at, frame in self._due:
            if at <= now:
                self._world.link.transmit(self, frame)
        self._due = [(at, frame) for at, frame in self._due if at > now]
        return min((at for at, _ in self._due), default=None)


@pytest.mark.parametrize("timing", [ADAPTIVE, LAN], ids=lambda timing: timing.name)
def test_what_a_router_routes_is_not_found_free(timing: Timing) -> None:
    for seed in range(50):
        world = World(seed)
        Router(world, range(FIRST_OF_WORLD, FIRST_OF_WORLD + 31))
        claimer = world.claimer(range(FIRST_OF_WORLD, FIRST_OF_WORLD + 32), timing=timing)
        assert world.run() == [FIRST_OF_WORLD + 31], f"seed {seed}: {claimer.error}"


def listens(*answers: tuple[bytes, float]) -> float:
    """How long a search listens after these answers to its survey: the MAC, and how late."""
    desk = Desk(range(FIRST, FIRST + 9))
    desk.flush()
    asked = desk.now
    for number, (who, late) in enumerate(answers):
        desk.now = asked + late
        desk.hear(arp.REPLY, who, FIRST + number, OWN_ADDRESS, BRIDGE)
    return desk.search.witnesses.settle()


def test_a_station_that_answers_late_for_several_addresses_is_listened_to_for_longer() -> None:
    assert listens((STATION, 0.0), (STATION, LATE)) == PROXY_WAIT
    assert listens((STATION, LATE), (HOST, 0.0), (STATION, LATE)) == PROXY_WAIT
    assert listens((STATION, LATE), (STATION, 0.05)) < 2 * LATE  # the second one came in time
    assert listens((STATION, LATE)) < 2 * LATE  # slow, and no proxy
    assert listens((STATION, LATE), (RIVAL, LATE)) < 2 * LATE


def test_later_than_it_would_be_listened_to_is_late() -> None:
    witnesses = SearchWitnesses(ADAPTIVE, bound=1e-6)
    witnesses.proxied(witnesses.settle())
    assert witnesses.settle() == ADAPTIVE.announce_wait
    witnesses.proxied(LATE)
    assert witnesses.settle() == PROXY_WAIT


def test_rfc_5227_listens_for_longer_anyway() -> None:
    witnesses = SearchWitnesses(RFC5227, bound=1e-6, link=(link := LinkWitnesses()))
    witnesses.proxied(1.9)
    assert link.slow_proxy == 0
    link.slow_proxy = 1
    assert witnesses.settle() == RFC5227.announce_wait


def test_that_holds_for_some_searches_more_and_not_for_ever() -> None:
    link = LinkWitnesses()
    SearchWitnesses(ADAPTIVE, bound=1e-6, link=link).proxied(LATE)
    for _ in range(PROXY_MEMORY - 1):
        link.join(0.0)
    assert SearchWitnesses(ADAPTIVE, bound=1e-6, link=link).settle() == PROXY_WAIT
    for _ in range(2):
        link.join(0.0)
        assert SearchWitnesses(ADAPTIVE, bound=1e-6, link=link).settle() == ADAPTIVE.announce_wait


def test_what_shows_while_it_settles_lengthens_the_listening() -> None:
    witnesses = SearchWitnesses(LAN, bound=1e-6, alone=True)
    acd = Acd(FIRST, STATION, witnesses, rng=random.Random(1), now=0.0)
    now = 0.0
    while acd.state is not AcdState.SETTLING:
        while acd.outbox:
            acd.outbox.sent(1, now)
        assert acd.deadline is not None
        now = acd.deadline
        acd.advance(now)
        last = now
    assert acd.deadline == last + LAN.announce_wait
    witnesses.proxied(LATE)
    acd.advance(acd.deadline)
    assert (acd.state, acd.deadline) == (AcdState.SETTLING, last + PROXY_WAIT)
    acd.advance(acd.deadline - 1e-9)
    assert acd.state is AcdState.SETTLING
    acd.advance(acd.deadline)
    assert str(acd.state) == "free"
    assert acd.deadline is None
