"""Whether a new MAC passes: who is asked, how often, and what silence means."""

from __future__ import annotations

import random
from typing import Any

import pytest

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.first_free import FirstFree
from arpipam.protocol.passage import LEAST_TRIES, PASSED_FOR, Passage
from arpipam.protocol.search import LinkMemory
from tests.support.search import FIRST, WITNESS, ByHand, mac, parameters

NEW, OWN, STATION = mac(1), mac(2), mac(3)
OWN_ADDRESS = WITNESS + 99
OTHER = WITNESS + 7


class Room:
    """A passage, its clock, and what it sent."""

    def __init__(self, *, loss: float = 0.04, round_trip: float = 0.001, own_address: int = OWN_ADDRESS) -> None:
        self.now = 10.0
        self.passage = Passage(
            NEW, FIRST, (WITNESS, OTHER), own=(OWN, own_address), loss=loss, round_trip=round_trip, now=self.now
        )
        self.cut = False
        """Nobody answers the host's own MAC either."""
        self.sent: list[tuple[float, ArpPacket]] = []

    def step(self) -> None:
        due = self.passage.deadline
        assert due is not None
        self.now = max(self.now, due)
        self.passage.advance(self.now)
        for outbox in self.passage.outboxes():
            while frames := outbox.peek(1):
                packet = arp.dissect(frames[0])
                assert isinstance(packet, ArpPacket)
                self.sent.append((self.now, packet))
                outbox.sent(1, self.now)
                if packet.sender_mac == OWN and not self.cut:
                    self.answer(to=OWN, by=packet.target_ip)

    def end(self) -> bool:
        while not self.passage.done:
            self.step()
        return self.passage.passed

    def answer(self, *, to: bytes = NEW, by: int = WITNESS, operation: int = arp.REPLY) -> None:
        self.passage.receive(ArpPacket(operation, STATION, by, to, FIRST, STATION, to), self.now)


def test_it_asks_from_the_claimed_address_by_an_ordinary_request() -> None:
    room = Room()
    assert (room.passage.done, room.passage.passed) == (False, False)
    room.step()
    [(_, packet)] = room.sent
    assert packet == arp.dissect(arp.request(NEW, FIRST, WITNESS))
    assert not packet.is_probe
    assert room.passage.interest.macs == {NEW, OWN}


def test_one_answer_is_enough() -> None:
    room = Room()
    room.step()
    room.answer()
    assert room.passage.done
    assert room.passage.passed
    room.step()
    assert len(room.sent) == 1


@pytest.mark.parametrize(
    "answer",
    [{"to": OWN}, {"by": WITNESS + 1}, {"operation": arp.REQUEST}],
    ids=["to the host's own MAC", "by nobody we asked", "a question"],
)
def test_what_is_no_answer(answer: dict[str, Any]) -> None:
    room = Room()
    room.step()
    room.answer(**answer)
    assert not room.end()


def test_after_a_few_tries_at_each_witness_in_turn_it_gives_up() -> None:
    room = Room()
    assert not room.end()
    new = [packet.target_ip for _, packet in room.sent if packet.sender_mac == NEW]
    own = [packet.target_ip for _, packet in room.sent if (packet.sender_mac, packet.sender_ip) == (OWN, OWN_ADDRESS)]
    assert new == [WITNESS, OTHER, WITNESS, OTHER, WITNESS]
    assert own == new[1:]
    assert len(new) + len(own) == len(room.sent)
    assert len(new) >= LEAST_TRIES
    assert room.now - room.sent[0][0] == pytest.approx(0.5)
    assert room.passage.doubt({}) == (
        f"stations answer this host's own MAC ({arp.mac_text(OWN)}) but not another one ({arp.mac_text(NEW)}): port "
        "security, Wi-Fi or a hypervisor lets only MACs pass that it knows; allow others on this host's port (VMware: "
        "forged transmits and promiscuous mode; Wi-Fi cannot), or use another link"
    )


def test_where_nobody_answers_the_hosts_own_mac_either_the_link_is_cut() -> None:
    room = Room()
    room.step()
    room.answer(to=OWN)  # to a request of the search before
    room.cut = True
    assert not room.end()
    assert room.passage.doubt({WITNESS: "host2"}) == (
        "no answer from host2 (10.0.0.1), 10.0.0.8 any more, just after the address was found free: was the link cut? "
        "try again"
    )


def test_one_answer_to_the_hosts_own_mac_shows_that_the_link_was_not_cut() -> None:
    room = Room()
    for _ in range(2):
        room.step()
    room.cut = True
    assert not room.end()
    assert room.passage.doubt({}).startswith("stations answer this host's own MAC")


def test_where_the_interface_has_no_address_nothing_is_asked_from_its_mac() -> None:
    """That would be a probe; the stations have answered one just now."""
    room = Room(own_address=0)
    assert not room.end()
    assert {packet.sender_mac for _, packet in room.sent} == {NEW}
    assert room.passage.doubt({}).startswith("stations answer this host's own MAC")


def test_the_more_the_link_loses_the_more_tries_there_are() -> None:
    """So that a lossy link is no false alarm: here half of all answers are lost."""
    alarms, rng = 0, random.Random(1)
    for _ in range(2000):
        room = Room(loss=0.5)
        while not room.passage.done:
            room.step()
            if rng.random() < 0.5 and not room.passage.done:
                room.answer()
        alarms += not room.passage.passed
    assert alarms == 0


def test_on_a_slow_link_the_tries_are_two_round_trips_apart() -> None:
    room = Room(round_trip=0.3)
    room.step()
    assert room.passage.deadline == pytest.approx(room.now + 0.6)


def test_dropped_frames_are_made_up_for() -> None:
    few, more = Room(), Room()
    more.passage.overflow(3, 10.0)
    few.end()
    more.end()
    assert len(more.sent) == len(few.sent) + 2


def test_it_waits_until_its_frame_has_left() -> None:
    room = Room()
    for _ in range(2):
        room.passage.advance(room.now)
        assert room.passage.deadline is None
    [outbox] = room.passage.outboxes()
    assert len(outbox) == 1


def test_nothing_is_sent_before_it_is_due() -> None:
    room = Room()
    room.step()
    room.passage.advance(room.now + 0.09)
    [outbox] = room.passage.outboxes()
    assert len(outbox) == 0


# What a search makes of it.


def found(**changes: Any) -> tuple[FirstFree, LinkMemory, float]:
    known = parameters(**changes)
    memory = LinkMemory(known)
    search = FirstFree(iter([FIRST]), NEW, known, rng=random.Random(1), now=0.0, memory=memory)
    ended = ByHand({WITNESS: STATION}).end(search)
    assert search.found is not None
    return search, memory, ended


def test_who_has_answered_is_asked_unless_it_is_known_that_another_mac_passed() -> None:
    search, memory, now = found()
    passage = search.passage(FIRST, now)
    assert passage is not None
    assert passage._witnesses == [WITNESS]
    memory.passed_at = now
    assert search.passage(FIRST, now + PASSED_FOR - 1) is None
    assert search.passage(FIRST, now + PASSED_FOR) is not None


@pytest.mark.parametrize(("round_trip", "gap"), [(0.3, 0.6), (None, 0.1)])
def test_it_knows_the_round_trip_that_the_search_has_seen_if_any(round_trip: float | None, gap: float) -> None:
    search, memory, now = found()
    memory.witnesses.round_trip = round_trip
    passage = search.passage(FIRST, now)
    assert passage is not None
    passage.advance(now)
    for outbox in passage.outboxes():
        outbox.sent(len(outbox.peek(9)), now)
    assert passage.deadline == pytest.approx(now + gap)


def test_where_nobody_has_answered_or_the_mac_is_the_hosts_own_nobody_is_asked() -> None:
    alone, _, now = found(witnesses=(), alone=True)
    assert alone.passage(FIRST, now) is None
    search, _, now = found()
    search.mac = search.parameters.own_mac
    assert search.passage(FIRST, now) is None
