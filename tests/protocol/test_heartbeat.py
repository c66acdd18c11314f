"""Whether the stations that must answer do so, by a clock of its own."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.heartbeat import BEAT, PATIENCE, Heartbeat
from arpipam.protocol.witnesses import SELDOM

if TYPE_CHECKING:
    from collections.abc import Collection

NET = 0x0A00_0000
OWN, ONE, TWO = NET + 9, NET + 1, NET + 2
MINE, FIRST, SECOND, STRANGER = (bytes.fromhex(f"02005e1000{n:02x}") for n in range(1, 5))
MACS = {ONE: FIRST, TWO: SECOND}


class Room:
    """A pulse, its clock, what it asked and what it told; `there` are the stations that answer."""

    def __init__(self, *stations: int, own_address: int = OWN) -> None:
        self.now = 50.0
        self.there: set[int] = set(stations)
        self.round_trip = 0.0
        self.asked: list[tuple[float, ArpPacket]] = []
        self.told: list[tuple[int, ...]] = []
        self.pulse = Heartbeat(stations, MINE, own_address, now=self.now, on_change=self.told.append)

    def hear(self, packet: ArpPacket) -> None:
        self.pulse.receive(packet, self.now)

    def beat(self, *, send: bool = True) -> list[ArpPacket]:
        """Let the next beat come; what it asked."""
        assert self.pulse.deadline is not None
        self.now = max(self.now, self.pulse.deadline)
        self.pulse.advance(self.now)
        return self.flush() if send else []

    def flush(self) -> list[ArpPacket]:
        before = len(self.asked)
        [outbox] = self.pulse.outboxes()
        while frames := outbox.peek(1):
            packet = arp.dissect(frames[0])
            assert isinstance(packet, ArpPacket)
            self.asked.append((self.now, packet))
            outbox.sent(1, self.now)
        questions = [packet for _, packet in self.asked[before:]]
        self.now += self.round_trip
        for question in questions:
            if question.target_ip in self.there:
                self.hear(answer(question.target_ip))
        return questions

    def beats(self, count: int) -> None:
        for _ in range(count):
            self.beat()


def answer(address: int, mac: bytes | None = None, to: bytes = MINE) -> ArpPacket:
    mac = mac or MACS[address]
    return ArpPacket(arp.REPLY, mac, address, to, OWN, mac, to)


def question(address: int, at: bytes = arp.BROADCAST, sender: int = OWN) -> ArpPacket:
    return ArpPacket(arp.REQUEST, MINE, sender, arp.NO_MAC, address, MINE, at)


def addresses(questions: Collection[ArpPacket]) -> list[int]:
    return sorted(question.target_ip for question in questions)


def test_everybody_is_asked_at_once_and_then_once_in_a_beat() -> None:
    room = Room(ONE, TWO)
    room.beats(10)
    assert room.asked[0][0] == 50.0
    for station in (ONE, TWO):
        times = [when for when, packet in room.asked if packet.target_ip == station]
        assert len(times) == 10
        assert all(later - earlier == pytest.approx(BEAT) for earlier, later in pairwise(times))
    assert room.told == []


def test_a_station_that_was_heard_is_asked_at_its_mac_and_by_broadcast_while_it_is_silent() -> None:
    room = Room(ONE)
    assert room.beat() == [question(ONE)]
    assert room.beat() == [question(ONE, FIRST)]
    room.hear(answer(ONE, SECOND))  # under another MAC by now
    assert room.beat() == [question(ONE, SECOND)]
    room.there.clear()
    room.beats(PATIENCE + 1)
    assert room.told == [(ONE,)]
    assert room.beat() == [question(ONE)]


def test_without_an_own_address_it_asks_by_probes_and_who_answers_is_left_alone_for_half_a_minute() -> None:
    room = Room(ONE, own_address=0)
    room.beats(70)
    assert [packet for _, packet in room.asked] == [question(ONE, sender=0)] * 3
    times = [when for when, _ in room.asked]
    assert [later - earlier for earlier, later in pairwise(times)] == [pytest.approx(SELDOM)] * 2
    assert room.told == []
    room.there.clear()
    room.beats(int(SELDOM) + PATIENCE + 1)  # while it is silent it is asked in each beat
    assert room.told == [(ONE,)]
    room.there = {ONE}
    room.beat()
    assert room.told == [(ONE,), ()]


def test_who_has_not_answered_a_probe_is_asked_again_though_another_has() -> None:
    room = Room(ONE, TWO, own_address=0)
    room.there = {TWO}
    room.beat()
    assert addresses(room.beat()) == [ONE]
    room = Room(ONE, TWO, own_address=0)
    room.there = {ONE}
    room.beat()
    assert addresses(room.beat()) == [TWO]


def test_when_the_interface_changes_it_asks_from_what_that_has_now() -> None:
    room = Room(ONE, TWO)
    room.beat(send=False)
    room.pulse.follow(STRANGER, NET + 77)
    assert room.flush() == []  # nothing leaves under the former MAC
    assert [(packet.sender_mac, packet.sender_ip) for packet in room.beat()] == [(STRANGER, NET + 77)] * 2
    room.hear(answer(ONE, to=STRANGER))
    assert room.pulse.round_trip is not None


def test_a_station_is_silent_after_so_many_beats_without_a_sign_of_life_and_no_earlier() -> None:
    room = Room(ONE, TWO)
    room.beats(5)
    room.there = {ONE}
    silent_since = room.now
    while not room.told:
        room.beat()
        assert room.now - silent_since <= (PATIENCE + 1) * BEAT
    assert room.now - silent_since > PATIENCE * BEAT
    assert room.told == [(TWO,)]
    assert room.pulse.silent == (TWO,)
    room.beats(20)
    assert room.told == [(TWO,)]  # told once


def test_a_new_one_takes_its_stations_for_present_until_they_had_time_to_answer() -> None:
    room = Room(ONE)
    room.there.clear()
    room.beats(PATIENCE + 1)
    assert room.pulse.silent == ()
    room.beats(1)
    assert room.told == [(ONE,)]


def test_the_first_frame_of_a_silent_station_is_told_at_once() -> None:
    room = Room(ONE, TWO)
    room.there.clear()
    room.beats(10)
    assert room.told == [(ONE, TWO)]
    room.hear(answer(TWO))
    assert room.told == [(ONE, TWO), (ONE,)]
    room.hear(ArpPacket(arp.REQUEST, FIRST, ONE, arp.NO_MAC, TWO, FIRST, arp.BROADCAST))
    assert room.told == [(ONE, TWO), (ONE,), ()]


def test_any_frame_of_a_station_is_a_sign_of_life_though_no_answer_to_us() -> None:
    room = Room(ONE)
    room.there.clear()
    for _ in range(20):
        room.beat()
        room.hear(ArpPacket(arp.REQUEST, FIRST, ONE, arp.NO_MAC, TWO, FIRST, arp.BROADCAST))
        room.hear(answer(ONE, to=STRANGER))
    assert room.told == []
    assert room.pulse.round_trip is None
    assert room.pulse.loss() == 1.0


@pytest.mark.parametrize(
    "packet",
    [
        ArpPacket(arp.REQUEST, FIRST, 0, arp.NO_MAC, ONE, FIRST, arp.BROADCAST),
        ArpPacket(arp.REQUEST, STRANGER, TWO, arp.NO_MAC, ONE, STRANGER, arp.BROADCAST),
        answer(TWO),
    ],
    ids=["probe", "question for it", "answer of another"],
)
def test_what_others_send_is_no_sign_of_its_life(packet: ArpPacket) -> None:
    room = Room(ONE)
    room.there.clear()
    for _ in range(10):
        room.beat()
        room.hear(packet)
    assert room.told == [(ONE,)]


def test_loss_is_the_share_of_questions_without_an_answer() -> None:
    room = Room(ONE, TWO)
    assert room.pulse.loss() is None
    room.beats(10)
    assert room.pulse.loss() == 0.0
    room.there = {ONE}
    room.beats(11)  # the last question of each may still be answered
    assert room.pulse.loss() == pytest.approx(10 / 41)
    room.beats(60)
    assert room.pulse.loss() == pytest.approx(0.5)  # of the last minute
    room.there = {ONE, TWO}
    room.beats(61)
    assert room.pulse.loss() == 0.0


def test_one_question_has_one_answer_however_often_it_arrives() -> None:
    room = Room(ONE)
    room.beat()
    for _ in range(5):
        room.hear(answer(ONE))
    room.there.clear()
    room.beats(2)
    assert room.pulse.loss() == pytest.approx(0.5)


def test_an_answer_that_nobody_asked_for_says_nothing_of_loss_and_round_trip() -> None:
    room = Room(ONE)
    room.hear(answer(ONE))
    assert room.pulse.round_trip is None
    assert room.pulse.loss() is None


def test_a_question_that_did_not_leave_counts_for_nothing_and_is_not_asked_twice() -> None:
    room = Room(ONE)
    for _ in range(5):
        room.beat(send=False)
    assert room.pulse.loss() is None
    assert room.flush() == [question(ONE)]


def test_the_round_trip_is_measured_from_the_moment_a_question_left_and_smoothed() -> None:
    room = Room(ONE)
    room.beat(send=False)
    room.now += 0.5  # the kernel had no room
    room.round_trip = 0.016
    room.flush()
    assert room.pulse.round_trip == pytest.approx(0.016)
    room.round_trip = 0.024
    room.beat()
    assert room.pulse.round_trip == pytest.approx(0.017)
    room.beats(60)
    assert room.pulse.round_trip == pytest.approx(0.024, abs=1e-4)


def test_it_never_ends_and_says_when_it_wants_to_be_called() -> None:
    room = Room(ONE)
    room.beat()
    due = room.pulse.deadline
    room.pulse.overflow(1000, room.now)
    room.pulse.advance(room.now)
    assert room.pulse.deadline == due
    assert room.flush() == []
    assert room.pulse.done is False


def test_without_stations_there_is_nothing_to_tell() -> None:
    room = Room()
    room.beats(10)
    room.hear(answer(ONE))
    assert (room.asked, room.told, room.pulse.loss()) == ([], [], None)


def test_after_a_rest_of_the_whole_program_each_station_is_asked_once_only() -> None:
    room = Room(ONE, TWO)
    room.beats(3)
    room.now += 1000
    assert addresses(room.beat()) == [ONE, TWO]
    assert room.pulse.silent == ()


ANY_MAC = st.sampled_from([MINE, FIRST, SECOND, STRANGER, arp.NO_MAC, arp.BROADCAST])
ANY_IP = st.sampled_from([0, OWN, ONE, TWO, NET + 77, 2**32 - 1])
PACKETS = st.builds(ArpPacket, st.sampled_from([1, 2]), ANY_MAC, ANY_IP, ANY_MAC, ANY_IP, ANY_MAC, ANY_MAC)
STEPS = st.lists(st.one_of(PACKETS, st.floats(0, 5), st.sampled_from(["advance", "flush", "overflow"])))


@given(st.sampled_from([0, OWN]), STEPS)
def test_whatever_arrives_it_never_fails_and_asks_at_most_once_per_station_and_beat(
    own_address: int, steps: list[ArpPacket | float | str]
) -> None:
    room = Room(ONE, TWO, own_address=own_address)
    room.there.clear()
    begun: list[float] = []
    asked: Counter[tuple[int, int]] = Counter()
    for step in steps:
        if isinstance(step, ArpPacket):
            room.hear(step)
        elif isinstance(step, float):
            room.now += step
        elif step == "advance":
            before = room.pulse.deadline
            room.pulse.advance(room.now)
            if room.pulse.deadline != before:
                begun.append(room.now)
        elif step == "flush":
            asked.update((len(begun), question.target_ip) for question in room.flush())
        else:
            room.pulse.overflow(1, room.now)
        assert set(room.pulse.silent) <= {ONE, TWO}
        loss = room.pulse.loss()
        assert loss is None or 0 <= loss <= 1
    assert all(later - earlier >= BEAT for earlier, later in pairwise(begun))
    assert max(asked.values(), default=0) <= 1
    assert all(packet.sender_mac == MINE and packet.sender_ip == own_address for _, packet in room.asked)
    assert all(silent != told for silent, told in pairwise([(), *room.told]))


def test_all_have_been_heard_since_a_moment_only_if_each_was_heard_after_it() -> None:
    room = Room(ONE, TWO)
    room.now = 60.0
    room.hear(answer(ONE))
    assert not room.pulse.heard_since(50.0)
    room.now = 61.0
    room.hear(answer(TWO))
    assert room.pulse.heard_since(59.9)
    assert not room.pulse.heard_since(60.0)  # at that very moment it may have left before
    assert not room.pulse.heard_since(60.5)
