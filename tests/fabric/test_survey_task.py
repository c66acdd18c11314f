"""The questions of `arpipam fabric check`, without a link."""

from __future__ import annotations

import random

from arpipam.fabric.survey_task import ROUNDS, Look
from arpipam.protocol import arp

OWN, PEER, CANARY = 0x0A000001, 0x0A000002, 0x0A000000
MAC = bytes.fromhex("02420a000001")


def test_nobody_is_sent_a_second_probe() -> None:
    look = Look(MAC, OWN, [PEER], [PEER], CANARY, rng=random.Random(1))
    probed: list[int] = []
    now = 0.0
    for _ in range(ROUNDS + 1):
        look.advance(now)
        for outbox in look.outboxes():
            frames = outbox.peek(100)
            outbox.sent(len(frames), now)
            packets = [packet for frame in frames if isinstance(packet := arp.dissect(frame), arp.ArpPacket)]
            probed += [packet.target_ip for packet in packets if packet.is_probe]
        now = look.deadline or now
    assert look.done
    assert probed.count(OWN) == 1
    assert PEER not in probed
