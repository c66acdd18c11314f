"""The verdicts on given addresses, and what every search does before it probes; frame by frame."""

from __future__ import annotations

import pytest

from arpipam.protocol import arp
from arpipam.protocol.acd import AcdState
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.outcome import NO_WITNESS, Outcome, Verdict
from arpipam.protocol.search import HUNT_WINDOW, SMALL_WINDOW, WITNESS_HUNT
from arpipam.protocol.timing import ADAPTIVE, RFC5227
from tests.support.verdicts import (
    BRIDGE,
    CANARY,
    FIRST,
    HOST,
    MINE,
    NET,
    OWN_ADDRESS,
    PORT,
    RIVAL,
    SECOND,
    STATION,
    THIRD,
    WITNESS,
    Desk,
)


def test_each_address_has_its_verdict() -> None:
    desk = Desk([FIRST, SECOND, THIRD, FIRST])
    desk.stations[SECOND] = STATION
    assert {address: outcome.verdict for address, outcome in desk.run().items()} == {
        FIRST: Verdict.FREE,
        SECOND: Verdict.IN_USE,
        THIRD: Verdict.FREE,
    }
    assert desk.search.outcomes[SECOND].mac == STATION
    assert desk.search.error is None
    assert list(desk.search.acds) == [FIRST, THIRD]
    assert {acd.state for acd in desk.search.acds.values()} == {AcdState.FREE}
    assert desk.search.deadline is None
    assert {packet.sender_mac for _, packet in desk.left if packet.is_probe} == {MINE}


def test_a_station_that_answers_only_ordinary_requests_is_in_use_all_the_same() -> None:
    desk = Desk([FIRST])
    desk.stations[FIRST] = STATION
    desk.polite.add(FIRST)
    [outcome] = desk.run().values()
    assert outcome == Outcome(Verdict.IN_USE, STATION, 0.0)
    assert desk.search.acds == {}


def test_who_answers_the_survey_is_never_probed() -> None:
    """Some DHCP clients take a probe for a conflict, and delete their address at the second."""
    desk = Desk([FIRST, SECOND])
    desk.stations[FIRST] = STATION
    desk.verdicts()
    assert {packet.target_ip for _, packet in desk.left if packet.is_probe} == {SECOND}
    assert desk.search.outcomes[FIRST] == Outcome(Verdict.IN_USE, STATION, 0.0)


def test_where_all_answer_the_survey_nothing_is_probed_and_no_witness_is_needed() -> None:
    desk = Desk([FIRST], witnesses=(WITNESS, THIRD))
    desk.stations[FIRST] = STATION
    assert desk.verdicts() == [Verdict.IN_USE]
    assert not [packet for _, packet in desk.left if packet.is_probe]


def test_who_answers_for_everything_is_no_user_of_the_address() -> None:
    desk = Desk([FIRST, SECOND])
    desk.stations |= {FIRST: STATION, SECOND: RIVAL, CANARY: STATION}
    assert desk.verdicts() == [Verdict.UNKNOWN, Verdict.IN_USE]
    assert desk.search.outcomes[FIRST].reason == desk.search.canary.doubt()


def test_this_hosts_own_addresses_are_used_by_it_and_not_probed() -> None:
    desk = Desk([FIRST, SECOND], local_addresses=frozenset({FIRST}))
    assert desk.run()[FIRST] == Outcome(Verdict.IN_USE, BRIDGE, reason="this host's own address")
    assert desk.search.outcomes[SECOND].verdict is Verdict.FREE
    assert FIRST not in {packet.target_ip for _, packet in desk.left}


def test_where_all_are_our_own_there_is_nothing_to_probe() -> None:
    desk = Desk([FIRST], local_addresses=frozenset({FIRST}))
    assert desk.verdicts() == [Verdict.IN_USE]
    assert desk.now < 100.2


def test_without_any_witness_no_verdict() -> None:
    desk = Desk([FIRST, SECOND], witnesses=(), local_addresses=frozenset({SECOND}))
    assert desk.run() == {
        SECOND: Outcome(Verdict.IN_USE, BRIDGE, reason="this host's own address"),
        FIRST: Outcome(Verdict.UNKNOWN, reason=NO_WITNESS),
    }
    assert not [packet for _, packet in desk.left if packet.is_probe and packet.target_ip == FIRST]


def test_without_any_witness_it_ends_with_the_last_hunt() -> None:
    desk = Desk([FIRST], witnesses=())
    while not desk.search.outcomes:
        desk.step()
    assert desk.search.done is True


def test_what_another_search_of_the_link_has_asked_is_not_asked_again() -> None:
    first = Desk([FIRST])
    first.flush()
    second = Desk([FIRST, SECOND], memory=first.search.memory)
    assert [packet.target_ip for packet in second.flush()] == [SECOND]


def test_alone_needs_no_witness_and_hunts_for_none() -> None:
    desk = Desk([FIRST], witnesses=(), alone=True, possible=[THIRD])
    assert desk.verdicts() == [Verdict.FREE]
    assert THIRD not in {packet.target_ip for _, packet in desk.left}


# What is sent before anything is probed.


def test_it_begins_with_the_witnesses_the_canary_and_the_addresses_themselves() -> None:
    desk = Desk([FIRST, SECOND], witnesses=(WITNESS, THIRD), neighbours=(NET + 9, THIRD))
    assert [(packet.sender_mac, packet.sender_ip, packet.target_ip) for packet in desk.flush()] == [
        (BRIDGE, OWN_ADDRESS, WITNESS),
        (BRIDGE, OWN_ADDRESS, THIRD),
        (BRIDGE, OWN_ADDRESS, CANARY),
        (BRIDGE, OWN_ADDRESS, NET + 9),
        (BRIDGE, OWN_ADDRESS, FIRST),
        (BRIDGE, OWN_ADDRESS, SECOND),
    ]


def test_without_an_own_address_it_asks_by_probes_once() -> None:
    desk = Desk([FIRST], own_address=0)
    first = desk.flush()
    assert [(packet.sender_mac, packet.sender_ip, packet.target_ip) for packet in first] == [
        (BRIDGE, 0, WITNESS),
        (BRIDGE, 0, CANARY),
        (BRIDGE, 0, FIRST),
    ]
    assert desk.run() == {FIRST: Outcome(Verdict.FREE, probes=3)}  # and no bound is stated
    assert [packet for _, packet in desk.left if packet.sender_mac == BRIDGE] == first
    assert [packet.target_ip for _, packet in desk.left if packet.sender_mac == MINE] == [FIRST] * 3
    assert desk.now >= 100.0 + 2 * RFC5227.probe_min + RFC5227.announce_wait


def test_with_an_own_address_the_silent_are_asked_a_second_time_beside_the_probes() -> None:
    desk = Desk([FIRST], neighbours=(NET + 9,))
    desk.run()
    times = [when for when, packet in desk.left if (packet.sender_mac, packet.target_ip) == (BRIDGE, NET + 9)]
    assert len(times) == 2
    assert times[0] < times[1]


def test_it_listens_before_it_chooses_longer_where_a_witness_is_silent() -> None:
    desk = Desk([FIRST])
    assert desk.search.deadline is None  # the frames have to leave first
    desk.search.advance(1000.0)
    assert desk.search.probing is None
    desk.now = 101.0
    desk.flush()
    assert desk.due() == pytest.approx(101.0 + ADAPTIVE.probe_min)  # two round trips, at least
    desk.search.advance(desk.due() - 1e-6)
    assert desk.search.probing is None
    desk.search.advance(desk.due())
    assert desk.search.probing is not None
    assert desk.search.probing.rounds == 1  # at once

    desk = Desk([FIRST], now=50.0)
    desk.stations.clear()
    desk.flush()
    assert desk.due() == pytest.approx(50.1)


def test_it_never_listens_longer_than_that() -> None:
    desk = Desk([FIRST], witnesses=(), neighbours=(THIRD,))
    desk.flush()
    asked = desk.now
    desk.hear(ArpPacket(arp.REPLY, HOST, THIRD, BRIDGE, OWN_ADDRESS, HOST, BRIDGE), after=0.09)
    assert desk.search.witnesses.round_trip == pytest.approx(0.09)
    assert desk.due() == pytest.approx(asked + 0.1)


def test_no_canary_is_drawn_of_what_is_used_tried_or_our_own() -> None:
    """The witness, the candidate, this host and a neighbour: the others may be drawn."""
    own = NET + 5
    desk = Desk([FIRST], last=NET + 7, neighbours=(THIRD,), local_addresses=frozenset({own}))
    desk.stations[THIRD] = STATION
    while desk.search.probing is None:
        desk.step()
    assert [n for n in range(WITNESS, NET + 7) if desk.search._is_taken(n)] == [WITNESS, FIRST, THIRD, own]


# Witnesses that were not named.


def test_a_neighbour_that_answers_is_a_witness() -> None:
    desk = Desk([FIRST], witnesses=(), neighbours=(THIRD,))
    desk.stations[THIRD] = HOST
    assert desk.verdicts() == [Verdict.FREE]
    assert desk.search.witnesses.found == [THIRD]
    assert len([packet for _, packet in desk.left if packet.target_ip == THIRD]) > 10
    assert not [packet for _, packet in desk.left if packet.is_probe and packet.target_ip == THIRD]


@pytest.mark.parametrize(
    "packet",
    [
        ArpPacket(arp.REPLY, PORT, THIRD, BRIDGE, OWN_ADDRESS, PORT, BRIDGE),
        ArpPacket(arp.REPLY, HOST, THIRD, RIVAL, OWN_ADDRESS, HOST, RIVAL),
        ArpPacket(arp.REQUEST, HOST, THIRD, arp.NO_MAC, FIRST, HOST, arp.BROADCAST),
        ArpPacket(arp.REPLY, MINE, THIRD, BRIDGE, OWN_ADDRESS, MINE, BRIDGE),
    ],
    ids=["of this host", "to another", "a question", "our own"],
)
def test_what_makes_no_witness(packet: ArpPacket) -> None:
    desk = Desk([FIRST], witnesses=(), neighbours=(THIRD,))
    desk.flush()
    desk.hear(packet)
    assert desk.search.witnesses.found == []
    assert desk.search.witnesses.round_trip is None


@pytest.mark.parametrize(("own_address", "window"), [(OWN_ADDRESS, HUNT_WINDOW), (0, SMALL_WINDOW)])
def test_witnesses_are_hunted_window_by_window_up_to_a_bound(own_address: int, window: int) -> None:
    possible = range(NET + 0x100, NET + 0x100 + 3 * WITNESS_HUNT)
    local = frozenset({NET + 0x101})
    desk = Desk([FIRST], witnesses=(), possible=iter(possible), own_address=own_address, local_addresses=local)
    sizes = []
    while not desk.search.done:
        left = [packet.target_ip for packet in desk.step() if packet.target_ip >= NET + 0x100]
        if left:
            sizes.append(len(set(left)))
    assert sizes == [window - 1, *[window] * (WITNESS_HUNT // window - 1)]
    assert desk.verdicts() == [Verdict.UNKNOWN]


def test_the_hunt_ends_with_the_first_that_answers() -> None:
    desk = Desk([FIRST], witnesses=(), possible=iter(range(NET + 0x100, NET + 0x400)))
    desk.stations[NET + 0x105] = HOST
    assert desk.verdicts() == [Verdict.FREE]
    assert max(packet.target_ip for _, packet in desk.left) == NET + 0x100 + HUNT_WINDOW - 1
    assert desk.search.witnesses.found == [NET + 0x105]


# What it hears.


def test_a_probe_of_another_shows_no_station_and_is_no_answer_of_the_canary() -> None:
    desk = Desk([FIRST], canary=0)
    desk.flush()
    desk.hear(ArpPacket(arp.REQUEST, RIVAL, 0, arp.NO_MAC, THIRD, RIVAL, arp.BROADCAST))
    assert desk.search.canary.mac is None


def test_what_comes_from_our_own_mac_is_not_heard() -> None:
    desk = Desk([FIRST])
    while desk.search.probing is None:
        desk.step()
    desk.flush()
    desk.hear(ArpPacket(arp.REQUEST, MINE, FIRST, arp.NO_MAC, FIRST, MINE, arp.BROADCAST))
    desk.hear(ArpPacket(arp.REPLY, MINE, CANARY, BRIDGE, OWN_ADDRESS, MINE, BRIDGE))
    assert desk.search.canary.mac is None
    assert desk.verdicts() == [Verdict.FREE]


def test_a_witness_has_to_answer_this_host() -> None:
    desk = Desk([FIRST])
    desk.stations.clear()
    desk.flush()
    for packet in (
        ArpPacket(arp.REPLY, HOST, WITNESS, MINE, OWN_ADDRESS, HOST, MINE),
        ArpPacket(arp.REQUEST, HOST, WITNESS, BRIDGE, 0, HOST, BRIDGE),
    ):
        desk.hear(packet)
        assert desk.search.witnesses.silent() == [WITNESS]
    desk.hear(ArpPacket(arp.REPLY, HOST, WITNESS, BRIDGE, 0, HOST, BRIDGE), after=0.004)
    assert desk.search.witnesses.silent() == []
    assert desk.search.witnesses.round_trip == pytest.approx(0.004)


def test_frames_that_were_dropped_before_the_probes_matter_not_and_later_ones_do() -> None:
    desk = Desk([FIRST])
    desk.search.overflow(5, desk.now)
    while desk.search.probing is None:
        desk.step()
    desk.step()
    desk.search.overflow(5, desk.now)
    assert desk.search.probing is not None
    assert desk.search.probing.acds[FIRST].probes == 0
    assert desk.verdicts() == [Verdict.FREE]


def test_what_is_of_interest_is_what_is_probed_our_macs_and_the_canary() -> None:
    desk = Desk([FIRST, SECOND])
    first = desk.search.interest
    assert first is not None
    assert (first.addresses, first.macs, first.span, first.senders) == (
        frozenset(),
        frozenset({MINE, BRIDGE}),
        None,
        frozenset({CANARY}),
    )
    while desk.search.probing is None:
        desk.step()
    probing = desk.search.interest
    assert probing is not None
    assert probing.addresses == {FIRST, SECOND}
    assert desk.search.interest is probing  # made once for each change
    other = Desk([FIRST], canary=None).search.interest
    assert other is not None
    assert other.senders == frozenset()


def test_the_chance_that_may_be_missed_is_the_callers() -> None:
    few, many = (Desk([FIRST], miss_probability=chance) for chance in (1e-2, 1e-9))
    for desk, chance in ((few, 1e-2), (many, 1e-9)):
        [outcome] = desk.run().values()
        assert outcome.miss_probability is not None
        assert outcome.miss_probability <= chance
    assert few.search.outcomes[FIRST].probes < many.search.outcomes[FIRST].probes


def test_it_is_done_with_the_last_outcome() -> None:
    desk = Desk([FIRST])
    while desk.search.probing is None:
        desk.step()
    while desk.search.probing is not None:
        assert desk.search.done is False
        desk.step()
    assert desk.search.done is True


def test_after_a_pause_it_chooses() -> None:
    desk = Desk([FIRST])
    desk.flush()
    desk.search._pause_until = 101.0
    assert desk.due() == 101.0
    desk.search.advance(100.9)
    assert desk.search.probing is None
    desk.now = 101.0
    desk.search.advance(101.0)
    assert desk.search.probing is not None
    assert desk.search.probing.deadline >= 101.0
