"""The verdict on an address that another station probes for at the same moment."""

from __future__ import annotations

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.outcome import Verdict
from tests.support.verdicts import BRIDGE, FIRST, MINE, PORT, RIVAL, Desk


def contended(tries: int = 2) -> Desk:
    """An address that another station probes for while we do."""
    desk = Desk([FIRST], tries=tries)
    while desk.search.probing is None:
        desk.step()
    desk.hear(rival(FIRST))
    desk.step()
    return desk


def rival(address: int, to: bytes = arp.BROADCAST) -> ArpPacket:
    return ArpPacket(arp.REQUEST, RIVAL, 0, arp.NO_MAC, address, RIVAL, to)


def test_what_another_probes_for_is_tried_once_more_after_a_pause() -> None:
    desk = contended()
    began = desk.now
    assert desk.search.probing is None
    assert 0.1 < desk.due() - began <= 0.6
    assert desk.verdicts() == [Verdict.FREE]
    assert list(desk.search.acds) == [FIRST]


def test_once_is_all_where_the_caller_says_so() -> None:
    assert contended(tries=1).verdicts() == [Verdict.CONTENDED]


def test_the_second_time_is_the_last() -> None:
    desk = contended()
    while desk.search.probing is None:
        desk.step()
    desk.hear(rival(FIRST))
    assert desk.verdicts() == [Verdict.CONTENDED]
    assert desk.search.outcomes[FIRST].mac == RIVAL


def test_a_rival_that_goes_on_in_the_pause_gets_the_address() -> None:
    desk = contended()
    desk.hear(rival(FIRST))
    assert desk.verdicts() == [Verdict.CONTENDED]
    assert desk.search.probing is None
    desk = contended()
    desk.hear(ArpPacket(arp.REQUEST, RIVAL, FIRST, arp.NO_MAC, FIRST, RIVAL, arp.BROADCAST))
    assert desk.verdicts() == [Verdict.IN_USE]


def test_a_probe_of_this_host_in_the_pause_is_no_rivals() -> None:
    desk = contended()
    for mac in (MINE, PORT):
        desk.hear(ArpPacket(arp.REQUEST, mac, 0, arp.NO_MAC, FIRST, mac, arp.BROADCAST))
    assert desk.verdicts() == [Verdict.FREE]


def test_after_the_second_time_there_is_no_pause() -> None:
    desk = contended()
    while FIRST not in desk.search.outcomes:
        desk.step()
    assert desk.search.done


def test_a_probe_to_one_station_is_no_rivals() -> None:
    desk = Desk([FIRST])
    for _ in range(9):
        desk.step()
        desk.hear(rival(FIRST, BRIDGE))
    assert desk.verdicts() == [Verdict.FREE]
