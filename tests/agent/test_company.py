"""A network where nobody is named: whether anybody answers that was seen of late."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from arpipam.link.loop import Loop
from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.heartbeat import BEAT, PATIENCE
from launcher.agent.network.company import MOST, SURE, Company
from tests.support.virtual import MAC, OWN, VirtualLink

if TYPE_CHECKING:
    from arpipam.allocator import Allocator
    from launcher.agent.network.sightings import Sightings

FIRST = OWN + 1
AWHILE = (PATIENCE + 2) * BEAT


class Lan:
    """Stations on a virtual link, of which those that are `there` answer."""

    def __init__(self, count: int) -> None:
        self.link = VirtualLink()
        self.loop = Loop(self.link, 1_000, threaded=False)
        self.seen = [FIRST + n for n in range(count)]
        self.there = set(self.seen)
        self.needed = True
        self.asked: list[tuple[float, int]] = []
        sightings = SimpleNamespace(beyond=lambda _: list(self.seen))
        self.company = Company(cast("Sightings", sightings), lambda: self.needed)
        self.allocator = cast("Allocator", SimpleNamespace(link=self.link, loop=self.loop, own_address=OWN))

    def run(self, seconds: float) -> None:
        until = self.link.time + seconds
        choose = self.link.time
        while self.link.time < until:
            if self.link.time >= choose:
                self.company._choose(self.allocator)
                choose += 1.0
            sent = len(self.link.sent)
            self.loop.turn()
            for at, frame in self.link.sent[sent:]:
                self.answer(at, cast("ArpPacket", arp.dissect(frame)))

    def answer(self, at: float, packet: ArpPacket) -> None:
        self.asked.append((at, packet.target_ip))
        if packet.target_ip in self.there:
            mac = bytes((2, 0, 0, 0, 1, packet.target_ip & 0xFF))
            self.link.arrived.append(arp.encode(ArpPacket(arp.REPLY, mac, packet.target_ip, MAC, OWN, mac, MAC)))

    @property
    def whole_since(self) -> float | None:
        return self.loop.hearing.whole_since

    def asked_since(self, at: float) -> set[int]:
        return {address for when, address in self.asked if when >= at}


def test_a_few_are_asked_once_a_second() -> None:
    lan = Lan(8)
    lan.run(10)
    assert len(lan.asked_since(0)) == MOST
    assert len(lan.asked) <= MOST * 11
    assert lan.whole_since == 0.0
    lan.loop.close()


def test_while_nobody_answers_the_link_is_deaf() -> None:
    lan = Lan(8)
    lan.run(5)
    lan.there.clear()
    lan.run(AWHILE)
    assert lan.whole_since is None
    lan.run(4 * AWHILE)
    assert lan.whole_since is None
    assert len(lan.asked_since(5 + AWHILE)) > MOST  # others are tried
    lan.there.update(lan.seen)
    lan.run(2 * SURE)
    assert lan.whole_since is not None
    assert lan.whole_since > 5
    lan.loop.close()


def test_one_that_goes_home_is_no_gap() -> None:
    lan = Lan(2)
    lan.run(5)
    lan.there.discard(FIRST)
    lan.run(3 * AWHILE)
    assert lan.whole_since == 0.0
    lan.loop.close()


def test_the_only_one_may_come_back() -> None:
    lan = Lan(1)
    lan.run(5)
    lan.there.clear()
    lan.run(2 * AWHILE)
    assert lan.whole_since is None
    lan.there.add(FIRST)
    lan.run(2)
    assert lan.whole_since is not None
    lan.loop.close()


def test_nobody_is_asked_where_that_is_not_needed_any_more() -> None:
    lan = Lan(1)
    lan.run(5)
    lan.there.clear()
    lan.run(AWHILE)
    assert lan.whole_since is None
    lan.needed = False
    lan.run(SURE + 2)
    assert lan.whole_since is not None
    asked = len(lan.asked)
    lan.run(3)
    assert len(lan.asked) == asked
    lan.loop.close()


def test_asks_from_the_mac_of_now() -> None:
    lan = Lan(1)
    lan.loop.follow(lambda: lan.company.moved(lan.allocator))
    lan.run(3)
    other: Any = bytes.fromhex("020000000099")
    lan.link.mac, lan.link.moved = other, True
    sent = len(lan.link.sent)
    lan.run(3)
    assert {frame[6:12] for _, frame in lan.link.sent[sent:]} == {other}
    lan.loop.close()
