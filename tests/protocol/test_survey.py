"""Surveys that share what they asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.survey import FRESH, Answer, RecentRequests, Survey

if TYPE_CHECKING:
    from collections.abc import Iterable

OWN, STATION = (bytes([2, 0, 0, 0, 0, n]) for n in (1, 2))
OWN_ADDRESS = 99


def survey(recent: RecentRequests | None = None, rounds: int = 2) -> Survey:
    return Survey(OWN, OWN_ADDRESS, rounds=rounds, recent=recent)


def flush(subject: Survey, now: float) -> list[int]:
    """Let all leave; the addresses that were asked for."""
    asked = []
    while frames := subject.peek(2):
        for packet in map(arp.dissect, frames):
            assert isinstance(packet, ArpPacket)
            asked.append(packet.target_ip)
        subject.sent(len(frames), now)
    return asked


def answer(address: int, asker: bytes = OWN) -> ArpPacket:
    return ArpPacket(arp.REPLY, STATION, address, asker, OWN_ADDRESS, STATION, asker)


def test_what_another_asked_is_not_asked_again_and_counts_from_then() -> None:
    recent = RecentRequests()
    one, two = survey(recent), survey(recent)
    for subject in (one, two):
        subject.add([1, 2, 3], 0.0)
    assert flush(one, 0.001) == [1, 2, 3]
    two.add([4], 0.002)
    assert flush(two, 0.003) == [4]
    assert two.silent == {1: 1, 2: 1, 3: 1, 4: 1}
    assert flush(one, 0.004) == []
    assert one.last_sent == 0.001
    assert two.last_sent == 0.003


def test_an_answer_that_came_before_the_second_one_began_is_known_to_it() -> None:
    recent = RecentRequests()
    one, two = survey(recent), survey(recent)
    one.add([1, 2], 0.0)
    flush(one, 0.0)
    one.receive(answer(1), 0.005)
    two.add([1, 2], 0.01)
    assert flush(two, 0.01) == []
    assert two.silent == {2: 1}
    assert two.answers == {1: Answer(STATION, 0.005, to_us=True)}


def test_what_was_heard_before_the_last_request_may_be_gone() -> None:
    recent = RecentRequests()
    one, two = survey(recent), survey(recent)
    one.add([1], 0.0)
    flush(one, 0.0)
    one.receive(answer(1), 0.005)
    one.forget([1], 0.1)
    flush(one, 0.1)
    two.add([1], 0.11)
    assert flush(two, 0.11) == []
    assert two.silent == {1: 1}


def test_each_round_is_a_request_of_its_own() -> None:
    recent = RecentRequests()
    one, two = survey(recent), survey(recent)
    for subject in (one, two):
        subject.add([1], 0.0)
    assert [flush(one, 0.0), flush(two, 0.0)] == [[1], []]
    two.ask_again(0.02)
    assert flush(two, 0.02) == [1]
    one.ask_again(0.02)
    assert flush(one, 0.02) == []
    assert one.silent == two.silent == {1: 2}


def test_what_was_asked_long_ago_is_asked_again() -> None:
    recent = RecentRequests()
    one, two, three = survey(recent), survey(recent), survey(recent)
    one.add([1], 0.0)
    flush(one, 0.0)
    two.add([1], FRESH / 2)
    assert flush(two, FRESH / 2) == []
    three.add([1], FRESH * 1.1)
    assert flush(three, FRESH * 1.1) == [1]


def test_the_round_trip_is_that_of_the_last_request_whoever_sent_it() -> None:
    recent = RecentRequests()
    one, two = survey(recent), survey(recent)
    one.add([1], 0.0)
    flush(one, 0.0)  # lost
    two.add([1], 0.001)
    flush(two, 0.001)
    two.ask_again(0.1)
    flush(two, 0.1)
    one.receive(answer(1), 0.102)
    assert one.answers[1].round_trip is not None
    assert round(one.answers[1].round_trip, 6) == 0.002


def test_what_it_remembers_is_bounded_by_what_was_asked_lately() -> None:
    recent = RecentRequests()
    for n in range(100):
        subject = survey(recent)
        subject.add(range(n * 10, n * 10 + 10), float(n))
        flush(subject, float(n))
        subject.receive(answer(n * 10), n + 0.01)
    assert len(recent._asked) == 10
    assert len(recent._answers) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.frozensets(st.integers(1, 9)), st.integers(0, 200)), max_size=30))
def test_together_they_ask_no_more_than_each_alone_and_each_address_is_asked(
    windows: list[tuple[int, Iterable[int], int]],
) -> None:
    recent = RecentRequests()
    shared = [survey(recent, rounds=1) for _ in range(4)]
    alone = [survey(rounds=1) for _ in range(4)]
    sent = [0, 0]
    now = 0.0
    for who, window, pause in windows:
        now += pause / 1000
        for kind, subject in enumerate((shared[who], alone[who])):
            subject.add(window, now)
            sent[kind] += len(flush(subject, now))
    assert sent[0] <= sent[1]
    assert [subject.silent for subject in shared] == [subject.silent for subject in alone]
