"""A scan, frame by frame: which rounds it makes, how long it waits, and when its list means nothing."""

from __future__ import annotations

from typing import Any

import pytest

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.parameters import Parameters
from arpipam.protocol.scan import LEAST_ROUNDS, MOST_ROUNDS, Scan
from arpipam.protocol.survey import Answer
from arpipam.protocol.timing import LAN

NET = 0x0A00_0000
OWN, STATION, OTHER = (bytes([2, 0, 0, 0, 0, n]) for n in (1, 2, 3))
OWN_ADDRESS = NET + 99


class Desk:
    """A scan, and the clock beside it."""

    def __init__(self, addresses: list[int], *, now: float = 0.0, **changes: Any) -> None:
        known: dict[str, Any] = {"own_address": OWN_ADDRESS, "timing": LAN}
        self.found: list[tuple[int, Answer]] = []
        self.now = now
        self.scan = Scan(
            addresses,
            Parameters(OWN, **(known | changes)),
            now=now,
            on_station=lambda address, answer: self.found.append((address, answer)),
        )

    def flush(self) -> list[ArpPacket]:
        """Let all frames leave."""
        left = []
        for outbox in self.scan.outboxes():
            frames = outbox.peek(1000)
            for packet in map(arp.dissect, frames):
                assert isinstance(packet, ArpPacket)
                left.append(packet)
            outbox.sent(len(frames), self.now)
        return left

    def asked(self) -> list[int]:
        return [packet.target_ip for packet in self.flush()]

    def wait(self) -> float:
        """Until the deadline, to the last moment before it and then on it; how long that was."""
        due = self.scan.deadline
        assert due is not None
        before, rounds = self.now, self.scan.rounds
        self.scan.advance(due - 1e-6)
        assert (self.scan.rounds, self.scan.done) == (rounds, False)
        self.now = due
        self.scan.advance(self.now)
        return round(due - before, 6)

    def hear(self, address: int, mac: bytes = STATION, after: float = 0.0) -> None:
        self.scan.receive(ArpPacket(arp.REPLY, mac, address, OWN, OWN_ADDRESS, mac, OWN), self.now + after)


def test_the_silent_are_asked_twice_and_then_it_listens_as_long_as_a_search() -> None:
    desk = Desk([NET + 1, NET + 2])
    assert desk.scan.deadline is None  # the frames have to leave first
    desk.scan.advance(100.0)
    assert desk.scan.rounds == 1
    packets = desk.flush()
    assert [(packet.target_ip, packet.sender_ip, packet.sender_mac) for packet in packets] == [
        (NET + 1, OWN_ADDRESS, OWN),
        (NET + 2, OWN_ADDRESS, OWN),
    ]
    assert desk.wait() == LAN.probe_min
    assert desk.asked() == [NET + 1, NET + 2]
    assert desk.wait() == LAN.announce_wait
    assert desk.scan.done
    assert desk.scan.rounds == LEAST_ROUNDS
    assert desk.scan.deadline is None


def test_our_own_addresses_are_not_asked_for() -> None:
    assert Desk([NET + 1, OWN_ADDRESS], local_addresses=frozenset({OWN_ADDRESS})).asked() == [NET + 1]


def test_a_station_is_told_when_it_is_heard_and_not_asked_again() -> None:
    desk = Desk([NET + 1, NET + 2], now=5.0)
    desk.flush()
    desk.hear(NET + 1, after=0.004)
    [(address, answer)] = desk.found
    assert address == NET + 1
    assert answer.mac == STATION
    assert answer.round_trip == pytest.approx(0.004)
    desk.wait()
    assert desk.asked() == [NET + 2]


def test_no_second_round_where_all_have_answered() -> None:
    desk = Desk([NET + 1])
    desk.flush()
    desk.hear(NET + 1, after=0.001)
    assert desk.wait() == LAN.announce_wait
    assert (desk.scan.done, desk.scan.rounds) == (True, 1)


def test_without_a_listener_the_answers_are_kept_all_the_same() -> None:
    scan = Scan([NET + 1], Parameters(OWN, OWN_ADDRESS, timing=LAN), now=0.0)
    scan.survey.sent(len(scan.survey.peek(10)), 0.0)
    scan.receive(ArpPacket(arp.REPLY, STATION, NET + 1, OWN, OWN_ADDRESS, STATION, OWN), 0.01)
    assert scan.survey.answers.keys() == {NET + 1}


@pytest.mark.parametrize(
    ("round_trip", "wait"),
    [(0.01, LAN.announce_wait), (0.3, LAN.probe_max)],
)
def test_it_waits_for_twice_the_slowest_answer_within_the_bounds_of_its_timing(round_trip: float, wait: float) -> None:
    desk = Desk([NET + 1, NET + 2])
    desk.flush()
    desk.hear(NET + 1, after=round_trip)
    desk.wait()
    desk.flush()
    assert desk.wait() == wait


def test_of_several_the_slowest_counts() -> None:
    desk = Desk([NET + n for n in range(1, 6)], timing=LAN.__class__("slow", 0.0, None, 0.02, 0.5, 0.1))
    desk.flush()
    for number, round_trip in ((1, 0.07), (2, 0.12), (3, 0.09)):
        desk.hear(NET + number, after=round_trip)
    # Who was not asked by us says nothing of round trips.
    desk.scan.receive(ArpPacket(arp.REQUEST, OTHER, NET + 4, arp.NO_MAC, 7, OTHER, arp.BROADCAST), desk.now + 0.4)
    assert desk.found[-1] == (NET + 4, Answer(OTHER, None))
    desk.wait()
    desk.flush()
    assert desk.wait() == 0.24


def test_a_round_with_news_is_followed_by_another() -> None:
    desk = Desk([NET + 1, NET + 2, NET + 3])
    desk.flush()
    desk.wait()
    desk.flush()
    desk.hear(NET + 1)
    desk.wait()
    assert not desk.scan.done
    assert desk.asked() == [NET + 2, NET + 3]
    desk.wait()
    assert desk.scan.done
    assert desk.scan.rounds == 3


def test_news_of_the_first_round_alone_make_no_third() -> None:
    desk = Desk([NET + 1, NET + 2])
    desk.flush()
    desk.hear(NET + 1)
    desk.wait()
    desk.flush()
    desk.wait()
    assert (desk.scan.done, desk.scan.rounds) == (True, 2)


def test_it_ends_though_each_round_has_news() -> None:
    desk = Desk([NET + n for n in range(1, 20)])
    for number in range(1, MOST_ROUNDS + 1):
        assert not desk.scan.done
        desk.flush()
        desk.hear(NET + number)
        desk.wait()
    assert desk.scan.done
    assert desk.scan.rounds == MOST_ROUNDS
    assert len(desk.scan.survey.silent) == 19 - MOST_ROUNDS


def test_the_canary_is_asked_for_before_the_others_and_its_answer_makes_the_list_worthless() -> None:
    desk = Desk([NET + 1], canary=NET)
    packets = desk.flush()
    assert [(packet.target_ip, packet.sender_ip, packet.sender_mac) for packet in packets] == [
        (NET, OWN_ADDRESS, OWN),
        (NET + 1, OWN_ADDRESS, OWN),
    ]
    assert desk.scan.doubt() == ""
    desk.hear(NET + 1)
    assert desk.scan.doubt() == ""
    desk.hear(NET, OTHER)
    assert desk.scan.doubt().startswith(f"{arp.mac_text(OTHER)} answers for every address, even 10.0.0.0 ")


@pytest.mark.parametrize("changes", [{"canary": None}, {"canary": NET, "own_address": 0}])
def test_no_canary_without_an_address_of_our_own_or_of_its(changes: dict[str, Any]) -> None:
    assert Desk([NET + 1], **changes).asked() == [NET + 1]


def test_without_an_address_of_our_own_one_round_of_probes_is_all() -> None:
    desk = Desk([NET + 1, NET + 2], own_address=0)
    desk.flush()
    assert desk.wait() == LAN.announce_wait
    assert (desk.scan.done, desk.scan.rounds) == (True, 1)


def test_a_witness_that_stays_silent_is_named() -> None:
    desk = Desk([NET + 1, NET + 2, NET + 3], witnesses=(NET + 1, NET + 2), names={NET + 2: "host2"})
    desk.flush()
    desk.hear(NET + 1)
    assert desk.scan.doubt() == (
        "no answer from witness host2 (10.0.0.2): what is behind it is missing here; bring it back"
    )
    desk.hear(NET + 2)
    assert desk.scan.doubt() == ""


def test_frames_that_the_kernel_dropped_are_counted() -> None:
    desk = Desk([NET + 1])
    desk.scan.overflow(3, 0.0)
    desk.scan.overflow(4, 0.1)
    assert desk.scan.dropped == 7


def test_everything_is_of_interest() -> None:
    assert Desk([NET + 1]).scan.interest is None


def test_news_are_those_of_the_last_round_alone() -> None:
    desk = Desk([NET + n for n in range(1, 6)])
    for number in (1, 2):
        desk.flush()
        desk.hear(NET + number)
        desk.wait()
    desk.flush()
    desk.wait()
    assert (desk.scan.done, desk.scan.rounds) == (True, 3)
