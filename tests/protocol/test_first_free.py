"""The search for the first free address, call by call: after a miss, under the rate limit, and at its end."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from arpipam.errors import PoolExhaustedError
from arpipam.protocol import arp
from arpipam.protocol.acd import AcdState
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.first_free import FirstFree
from arpipam.protocol.timing import LAN, RFC5227
from tests.support.search import FIRST, NET, WITNESS, ByHand, mac, parameters

MINE = mac(1)


def search(count: int, **changes: Any) -> FirstFree:
    return FirstFree(iter(range(FIRST, FIRST + count)), MINE, parameters(**changes), rng=random.Random(1), now=0.0)


def tried(world: ByHand, count: int) -> list[float]:
    """When each candidate was tried, in order."""
    return sorted(min(times) for n in range(count) if (times := world.probed(FIRST + n)))


def test_after_a_miss_all_that_seemed_silent_are_asked_once_more_before_the_next_is_tried() -> None:
    world = ByHand({WITNESS: mac(2), FIRST: mac(3)}, deaf={FIRST})
    subject = search(4)
    world.flush(subject)
    while FIRST not in subject.survey.answers:
        assert subject.deadline is not None
        world.now = subject.deadline
        subject.advance(world.now)
        if FIRST not in subject.survey.answers:
            world.flush(subject)
    asked = len(world.requested(FIRST + 3))
    world.stations[FIRST + 1] = mac(4)  # its answer was lost as well
    world.run(subject, 9.0)
    assert len(world.requested(FIRST + 3)) > asked
    assert world.requested(FIRST + 3)[asked] < world.probed(FIRST + 2)[0]
    assert subject.found is not None
    assert subject.found.acd.address == FIRST + 2
    assert subject.found.in_use == 2


@pytest.mark.parametrize("timing", [LAN, RFC5227])
def test_2_1_1_after_ten_conflicts_there_is_one_new_candidate_in_each_interval_and_it_is_tried(timing: Any) -> None:
    count = timing.max_conflicts
    world = ByHand({WITNESS: mac(2), **{FIRST + n: mac(3) for n in range(count + 1)}}, deaf=range(FIRST, FIRST + 99))
    subject = search(20, timing=timing)
    world.run(subject, 300.0)
    times = tried(world, 20)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) == count + 2
    assert all(pause < timing.rate_limit_interval / 2 for pause in pauses[: count - 1])
    limited = timing.rate_limit_interval + timing.probe_wait + 0.01
    assert all(timing.rate_limit_interval - timing.probe_wait <= pause <= limited for pause in pauses[count - 1 :])
    assert subject.found is not None
    assert subject.found.acd.address == FIRST + count + 1


class Slow(random.Random):
    """Draws the longest of all pauses."""

    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002 - the interface is the library's
        return b


def test_however_late_the_ten_conflicts_come_another_candidate_is_tried_after_the_interval() -> None:
    world = ByHand({WITNESS: mac(2)})
    known = parameters(timing=RFC5227, budget=0.1)
    subject = FirstFree(iter(range(FIRST, FIRST + 20)), MINE, known, rng=Slow(1), now=0.0)
    rivals = 0
    while not subject.done:
        probing = subject.probing
        [acd] = probing.acds.values() if probing is not None else [None]
        if acd is not None and acd.state is AcdState.SETTLING and rivals < RFC5227.max_conflicts:
            world.now = acd.deadline or world.now
            packet = arp.dissect(arp.probe(mac(77), acd.address))
            assert isinstance(packet, ArpPacket)
            subject.receive(packet, world.now)
            rivals += 1
        world.step(subject)
    assert rivals == subject.contentions == RFC5227.max_conflicts
    assert subject.found is not None
    times = tried(world, 20)
    assert times[-1] - times[-2] >= RFC5227.rate_limit_interval


def test_it_never_waits_only_to_fail() -> None:
    """Every candidate is in use: the last thing that it does is a try, not a pause."""
    world = ByHand({WITNESS: mac(2), **{FIRST + n: mac(3) for n in range(99)}}, deaf=range(FIRST, FIRST + 99))
    subject = search(99, timing=RFC5227)
    ended = world.end(subject)
    assert isinstance(subject.error, PoolExhaustedError)
    assert len(tried(world, 99)) > RFC5227.max_conflicts
    assert ended - max(tried(world, 99)) < RFC5227.longest


def test_a_pool_that_is_exhausted_is_said_to_be_so_without_the_wait() -> None:
    count = RFC5227.max_conflicts
    world = ByHand({WITNESS: mac(2), **{FIRST + n: mac(3) for n in range(count)}}, deaf=range(FIRST, FIRST + 99))
    subject = search(count, timing=RFC5227)
    world.run(subject, 20.0)
    assert isinstance(subject.error, PoolExhaustedError)
    assert "10 in use" in str(subject.error)


def test_the_witness_and_the_canary_are_asked_once_before_anything_is_tried_by_the_host_itself() -> None:
    world = ByHand({WITNESS: mac(2)})
    subject = search(2)
    world.flush(subject)
    asked = [packet for _, packet in world.sent if packet.target_ip in {NET, WITNESS}]
    assert [(packet.sender_mac, packet.is_probe) for packet in asked] == [(mac(1000), False)] * 2
