"""Announcements that were asked for, frame by frame: how many wait, and what is told when they have left."""

from __future__ import annotations

import random

from arpipam.protocol.acd import MOST_EVENTS, MOST_REPLIES, Acd, AcdState
from arpipam.protocol.events import Announced, Defended
from arpipam.protocol.policy import CLOCK_TOLERANCE, FIRST_RELEASE, Policy
from arpipam.protocol.timing import RFC5227
from arpipam.protocol.witnesses import SearchWitnesses
from tests.support.acd import ADDRESS, MINE, OTHER, THIRD, Bench, announcement, at, probe, reply, request


def told(bench: Bench) -> list[object]:
    """What was told since the last call."""
    before = len(bench.told)
    bench.flush()
    return list(bench.told[before:])


def test_an_announcement_that_waits_to_leave_is_not_joined_by_another() -> None:
    bench = Bench()
    bench.until(AcdState.FREE)
    bench.acd.claim()
    assert len(bench.acd.outbox) == 2
    bench.acd.announce()
    assert len(bench.acd.outbox) == 2
    bench.flush()
    assert bench.acd.deadline == bench.now + RFC5227.announce_interval
    bench.acd.announce()  # the first has left: begin anew, at once
    assert len(bench.acd.outbox) == 1
    assert bench.acd.deadline is None


def test_asked_to_announce_it_does_so_twice_from_then_on() -> None:
    bench = Bench()
    bench.until(AcdState.FREE)
    bench.acd.claim()
    bench.flush()
    before = len(bench.sent)
    bench.acd.announce()
    bench.run(bench.now + 10)
    assert len(bench.sent) - before == RFC5227.announce_num
    assert bench.acd.state is AcdState.DEFENDING
    assert bench.told.count(Announced()) == 1


def test_while_it_is_guarded_it_is_announced_once_for_each_time_that_was_asked_for_up_to_a_bound() -> None:
    bench = at(AcdState.GUARDING)
    told(bench)
    for _ in range(MOST_REPLIES + 10):
        bench.acd.announce()
    assert len(bench.acd.outbox) == MOST_REPLIES
    assert told(bench) == [Announced()] * MOST_EVENTS
    assert {packet.sender_ip for _, packet in bench.sent[-MOST_REPLIES:]} == {ADDRESS}


def test_another_mac_is_announced_once_while_it_is_guarded_and_told() -> None:
    bench = at(AcdState.GUARDING)
    told(bench)
    before = len(bench.sent)
    bench.acd.change_mac(OTHER)
    assert told(bench) == [Announced()]
    assert [packet.sender_mac for _, packet in bench.sent[before:]] == [OTHER]
    assert bench.acd.deadline is None
    bench.acd.change_mac(MINE)
    assert told(bench) == [Announced()]


def test_a_claim_that_says_it_is_older_by_more_than_is_believed_is_not_compared() -> None:
    date = FIRST_RELEASE + 100_000_000
    for older_by, believed in ((10, True), (11, False)):
        bench = Bench()
        bench.acd = Acd(
            ADDRESS,
            MINE,
            SearchWitnesses(RFC5227, bound=1e-6, alone=True),
            rng=random.Random(1),
            now=0.0,
            max_older_claim=10.0,
        )
        bench.acd.since = date
        bench.acd.adopt()
        bench.hear(announcement(OTHER, date - older_by * 1_000_000))
        assert [conflict.older for conflict in bench.conflicts()] == [False if believed else None]


def test_a_defence_that_gave_way_to_another_mac_hinders_no_later_one() -> None:
    bench = at(AcdState.DEFENDING, Policy.ALWAYS)
    bench.acd.receive(announcement(OTHER), bench.now)  # the defence waits to leave
    bench.acd.change_mac(THIRD)
    bench.run(bench.now + 2 * RFC5227.defend_interval)
    assert Defended() not in bench.told
    bench.hear(announcement(OTHER))
    assert bench.told.count(Defended()) == 1


def test_a_second_conflict_is_one_too_many_though_the_first_defence_has_not_left() -> None:
    bench = at(AcdState.DEFENDING, Policy.ONCE)
    bench.acd.receive(announcement(OTHER), bench.now)
    bench.acd.receive(announcement(OTHER), bench.now)
    assert bench.acd.state is AcdState.LOST


def test_neither_an_answer_to_the_address_nor_a_question_for_another_is_answered() -> None:
    bench = at(AcdState.DEFENDING)
    assert bench.hear(reply(OTHER, ADDRESS + 1, MINE, ADDRESS)) == []
    assert bench.hear(request(OTHER, ADDRESS + 1, ADDRESS + 2)) == []
    assert len(bench.hear(request(OTHER, ADDRESS + 1, ADDRESS))) == 1


def test_questions_are_answered_up_to_a_bound() -> None:
    bench = at(AcdState.DEFENDING)
    for _ in range(MOST_REPLIES + 10):
        bench.acd.receive(probe(OTHER), bench.now)
    assert len(bench.acd.outbox) == MOST_REPLIES


def test_the_next_defence_may_leave_at_the_very_end_of_the_interval() -> None:
    bench = at(AcdState.DEFENDING, Policy.ALWAYS)
    for later, defended in ((0.0, 1), (RFC5227.defend_interval - 0.1, 1), (RFC5227.defend_interval, 2)):
        bench.run(100.0 + later)
        bench.hear(announcement(OTHER))
        assert bench.told.count(Defended()) == defended


def test_a_date_is_in_the_future_by_the_time_of_day_that_it_is_now() -> None:
    """The machine knows the time of day at which its clock was 0."""
    epoch = FIRST_RELEASE // 1_000_000 + 1000
    day = int(CLOCK_TOLERANCE)
    for late, older in ((day + 50, True), (day + 200, None)):
        bench = at(AcdState.DEFENDING, since=epoch * 1_000_000)
        bench.acd.epoch = float(epoch)
        bench.run(100.0)
        bench.hear(announcement(OTHER, (epoch + late) * 1_000_000))
        assert [conflict.older for conflict in bench.conflicts()] == [older]
