"""Claims that are asked for after a gap: when, from whom, and how often."""

from __future__ import annotations

from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.second_look import LOOKS, SecondLook

MAC, OTHER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
OWN, FIRST, SECOND = 0x0A000001, 0x0A000007, 0x0A000008


class Desk:
    """The object in virtual time."""

    def __init__(self) -> None:
        self.addresses = [FIRST, SECOND]
        self.sender = MAC, OWN
        self.look = SecondLook(lambda: self.addresses, lambda: self.sender)

    def run(self, until: float) -> list[tuple[float, ArpPacket]]:
        """What it asks, and when."""
        asked = []
        while (due := self.look.deadline) is not None and due <= until:
            self.look.advance(due)
            asked += self.sent(due)
        return asked

    def sent(self, now: float) -> list[tuple[float, ArpPacket]]:
        [outbox] = self.look.outboxes()
        frames = outbox.peek(100)
        outbox.sent(len(frames), now)
        packets = [arp.dissect(frame) for frame in frames]
        return [(now, packet) for packet in packets if isinstance(packet, ArpPacket)]


def test_asks_nobody_before_a_gap() -> None:
    assert Desk().look.deadline is None


def test_asks_for_every_claim_at_once_and_again() -> None:
    desk = Desk()
    desk.look.begin(10.0)
    asked = desk.run(100.0)
    assert [at for at, packet in asked if packet.target_ip == FIRST] == [10.0 + after for after in LOOKS]
    assert [packet.target_ip for at, packet in asked if at == 10.0] == [FIRST, SECOND]
    for _, packet in asked:
        assert (packet.operation, packet.sender_mac, packet.sender_ip) == (arp.REQUEST, MAC, OWN)
    assert desk.look.deadline is None


def test_asks_once_by_probes_where_the_interface_has_no_address() -> None:
    desk = Desk()
    desk.sender = MAC, 0
    desk.look.begin(10.0)
    asked = desk.run(100.0)
    assert all(packet.is_probe for _, packet in asked)
    assert [packet.target_ip for _, packet in asked] == [FIRST, SECOND]  # a second one may be taken for a conflict


def test_gap_upon_gap_means_one_look_a_second() -> None:
    desk = Desk()
    asked = []
    for tenth in range(50):
        desk.look.begin(10.0 + tenth / 10)
        asked += desk.run(10.0 + tenth / 10)
    assert [at for at, packet in asked if packet.target_ip == FIRST] == [10.0, 11.0, 12.0, 13.0, 14.0]


def test_what_has_not_left_is_not_sent_from_a_former_mac() -> None:
    desk = Desk()
    desk.look.begin(10.0)
    desk.look.advance(10.0)
    desk.sender = OTHER, OWN
    desk.look.follow()
    assert desk.sent(10.0) == []
    assert {packet.sender_mac for _, packet in desk.run(20.0)} == {OTHER}
