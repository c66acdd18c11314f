"""A survey alone, call by call: what it asks, what it counts, and what it takes for an answer."""

from __future__ import annotations

import pytest

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.survey import FRESH, Answer, RecentRequests, Survey

OWN, STATION, OTHER = (bytes([2, 0, 0, 0, 0, n]) for n in (1, 2, 3))
OWN_ADDRESS = 99


def survey(
    rounds: int = 2, *, sender: int = OWN_ADDRESS, recent: RecentRequests | None = None
) -> tuple[Survey, list[tuple[int, Answer]]]:
    """A survey, and what it tells its listener."""
    told: list[tuple[int, Answer]] = []

    def listen(address: int, answer: Answer) -> None:
        told.append((address, answer))

    return Survey(OWN, sender, rounds=rounds, on_answer=listen, recent=recent), told


def flush(subject: Survey, now: float) -> list[int]:
    """Let all leave; the addresses that were asked for."""
    frames = subject.peek(1000)
    subject.sent(len(frames), now)
    return [int.from_bytes(frame[-4:], "big") for frame in frames]


def answer(address: int, asker: bytes = OWN, mac: bytes = STATION) -> ArpPacket:
    return ArpPacket(arp.REPLY, mac, address, asker, OWN_ADDRESS, mac, asker)


def test_its_frames_are_requests_from_our_address_or_probes_where_we_have_none() -> None:
    for sender, expected in ((OWN_ADDRESS, arp.request(OWN, OWN_ADDRESS, 7)), (0, arp.probe(OWN, 7))):
        subject, _ = survey(sender=sender)
        subject.add([7], 0.0)
        assert subject.peek(9) == [expected]


def test_no_more_is_shown_than_was_asked_for_and_the_same_until_it_has_left() -> None:
    subject, _ = survey()
    subject.add(range(1, 6), 0.0)
    assert len(subject) == 5
    first = subject.peek(2)
    assert first == subject.peek(2) == [arp.request(OWN, OWN_ADDRESS, address) for address in (1, 2)]
    assert subject.peek(1) == first[:1]
    assert len(subject) == 5
    subject.sent(1, 0.5)
    assert len(subject) == 4
    assert subject.peek(3) == [arp.request(OWN, OWN_ADDRESS, address) for address in (2, 3, 4)]
    assert subject.silent == {1: 1, 2: 0, 3: 0, 4: 0, 5: 0}
    assert subject.last_sent == 0.5


def test_an_address_is_added_once_whether_it_has_answered_or_not() -> None:
    subject, _ = survey()
    subject.add([1, 2], 0.0)
    assert flush(subject, 0.0) == [1, 2]
    subject.receive(answer(1), 0.1)
    subject.add([1, 2, 3], 0.2)
    assert flush(subject, 0.2) == [3]
    assert subject.silent == {2: 1, 3: 0 + 1}


def test_the_silent_are_asked_again_until_their_rounds_are_over() -> None:
    subject, _ = survey(rounds=3)
    subject.add([1, 2], 0.0)
    subject.ask_again(0.0)  # the first round is still on its way out
    assert flush(subject, 0.0) == [1, 2]
    subject.receive(answer(1), 0.1)
    subject.ask_again(0.2)
    assert flush(subject, 0.2) == [2]
    subject.ask_again(0.3)
    assert flush(subject, 0.3) == [2]
    subject.ask_again(0.4)
    assert flush(subject, 0.4) == []
    assert subject.silent == {2: 3}


@pytest.mark.parametrize("shared", [False, True])
def test_a_repeated_survey_asks_all_that_are_silent_whatever_their_rounds(*, shared: bool) -> None:
    subject, _ = survey(rounds=1, recent=RecentRequests() if shared else None)
    subject.add([1, 2, 3], 0.0)
    subject.repeat(0.0)  # the first is still on its way out
    assert flush(subject, 0.0) == [1, 2, 3]
    subject.receive(answer(2), 0.1)
    subject.ask_again(0.1)
    assert len(subject) == 0
    subject.repeat(0.2)
    assert flush(subject, 0.2) == [1, 3]
    assert subject.silent == {1: 2, 3: 2}


def test_what_is_forgotten_is_asked_anew_as_if_it_had_never_been_asked() -> None:
    subject, told = survey(rounds=2)
    subject.add([1, 2], 0.0)
    flush(subject, 0.0)
    subject.ask_again(0.1)
    flush(subject, 0.1)
    subject.receive(answer(1), 0.1)
    subject.forget(iter([1]), 0.5)
    assert 1 not in subject.answers
    assert subject.silent == {2: 2, 1: 0}
    assert flush(subject, 0.5) == [1]
    subject.ask_again(0.6)
    assert flush(subject, 0.6) == [1]
    subject.receive(answer(1, mac=OTHER), 0.7)
    assert subject.answers[1].mac == OTHER
    assert [address for address, _ in told] == [1, 1]


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (answer(1), Answer(STATION, 0.25, to_us=True)),
        (answer(1, asker=OTHER), Answer(STATION, None, to_us=False)),
        (answer(1)._replace(operation=arp.REQUEST), Answer(STATION, None, to_us=False)),
        (answer(1)._replace(sender_mac=OWN), None),
        (answer(3), None),
        (answer(3)._replace(target_ip=1), None),
    ],
    ids=["to us", "to another", "a question", "our own", "not asked for", "for it"],
)
def test_any_sender_is_a_station_but_only_an_answer_to_us_has_a_round_trip(
    packet: ArpPacket, expected: Answer | None
) -> None:
    subject, told = survey()
    subject.add([1, 2], 1.0)
    flush(subject, 1.0)
    subject.receive(packet, 1.25)
    assert told == ([(1, expected)] if expected is not None else [])
    assert subject.answers == dict(told)
    assert (1 in subject.silent) == (expected is None)
    assert 2 in subject.silent


def test_an_answer_before_the_question_has_left_has_no_round_trip() -> None:
    subject, told = survey()
    subject.add([1], 1.0)
    subject.receive(answer(1), 1.1)
    assert told == [(1, Answer(STATION, None, to_us=True))]
    assert flush(subject, 1.2) == []  # no need to ask any more


def test_only_the_first_answer_counts() -> None:
    subject, told = survey()
    subject.add([1], 1.0)
    flush(subject, 1.0)
    subject.receive(answer(1), 1.1)
    subject.receive(answer(1, mac=OTHER), 1.2)
    subject.note(1, Answer(OTHER, None))
    assert [said.mac for _, said in told] == [STATION]
    assert subject.answers[1].mac == STATION


def test_when_the_last_request_left_is_never_earlier_than_before() -> None:
    recent = RecentRequests()
    subject, _ = survey(recent=recent)
    other, _ = survey(recent=recent)
    other.add([2], 0.1)
    flush(other, 0.1)
    subject.add([1], 0.15)
    assert flush(subject, 0.2) == [1]
    subject.add([2], 0.2)
    assert flush(subject, 0.21) == []  # served by the other's, which was earlier
    assert subject.last_sent == 0.2
    assert subject.silent == {1: 1, 2: 1}
    subject.peek(5)
    subject.sent(0, 9.0)
    assert subject.last_sent == 0.2


def test_what_the_other_asked_is_known_for_just_so_long() -> None:
    recent = RecentRequests()
    recent.asked([1, 2], 1.0)
    recent.answered(1, Answer(STATION, 0.1))
    recent.answered(3, Answer(STATION, 0.1))  # nobody asked
    assert recent.last(1) == (1.0, Answer(STATION, 0.1))
    assert recent.last(2) == (1.0, None)
    assert recent.last(3) == (float("-inf"), None)
    recent.asked([9], 1.0 + FRESH)
    assert recent.last(1)[0] == 1.0
    recent.asked([9], 1.001 + FRESH)
    assert recent.last(1) == recent.last(2) == (float("-inf"), None)
    assert recent.last(9) == (1.001 + FRESH, None)


def test_a_later_request_makes_the_answer_to_an_earlier_one_void_and_the_oldest_goes_first() -> None:
    recent = RecentRequests()
    recent.asked([1, 2], 1.0)
    recent.answered(1, Answer(STATION, 0.1))
    recent.asked([1], 1.1)
    assert recent.last(1) == (1.1, None)
    recent.asked([3], 1.05 + FRESH)  # 2 is too old by now, 1 is not
    assert recent.last(2)[0] == float("-inf")
    assert recent.last(1)[0] == 1.1


def test_another_is_served_by_a_request_from_before_it_began_but_not_from_long_before() -> None:
    for age, asked in ((FRESH * 0.9, []), (FRESH, [1]), (FRESH * 1.1, [1])):
        recent = RecentRequests()
        recent.asked([1], 5.0 - age)
        subject, _ = survey(recent=recent)
        subject.add([1], 5.0)
        assert flush(subject, 5.1) == asked


def test_the_answer_that_another_got_is_told_to_our_listener_too() -> None:
    recent = RecentRequests()
    recent.asked([1], 5.0)
    recent.answered(1, Answer(STATION, 0.1, to_us=True))
    subject, told = survey(recent=recent)
    subject.add([1], 5.1)
    assert flush(subject, 5.1) == []
    assert told == [(1, Answer(STATION, 0.1, to_us=True))]
    assert subject.silent == {}


def test_what_answered_us_is_told_to_the_others() -> None:
    recent = RecentRequests()
    subject, _ = survey(recent=recent)
    subject.add([1], 5.0)
    flush(subject, 5.0)
    subject.receive(answer(1), 5.1)
    at, said = recent.last(1)
    assert at == 5.0
    assert said is not None
    assert said.mac == STATION


def test_where_the_kernel_takes_no_frame_nothing_has_been_asked() -> None:
    recent = RecentRequests()
    subject, _ = survey(recent=recent)
    subject.add([1], 5.0)
    subject.peek(5)
    subject.sent(0, 5.0)  # the first frame of all on this link
    assert recent.last(1) == (float("-inf"), None)
    assert (subject.silent, len(subject)) == ({1: 0}, 1)
    assert flush(subject, 5.1) == [1]
    subject.ask_again(9.0)
    subject.peek(5)
    subject.sent(0, 9.0)  # all that was asked is long ago
    assert recent.last(1) == (float("-inf"), None)
