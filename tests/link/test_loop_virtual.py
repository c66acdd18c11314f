"""The loop over a link whose clock is the test's: who may send when, and who is shown what."""

from __future__ import annotations

import os
import resource
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.errors import LinkError
from arpipam.link.calls import Calls
from arpipam.link.loop import Loop
from arpipam.link.pace import BURST, Pace
from arpipam.link.task import SCAN, SEARCH, Run, Task
from arpipam.protocol import arp
from arpipam.protocol.outbox import Outbox
from tests.support.until import LONG
from tests.support.virtual import MAC, VirtualLink

if TYPE_CHECKING:
    from arpipam.protocol.arp import ArpPacket

OTHER = bytes.fromhex("020000000002")


class Sender:
    """Has frames to send, and is done when they have left."""

    interest = None
    deadline: float | None = None

    def __init__(self, frames: int, mac: bytes = MAC) -> None:
        self.outbox = Outbox()
        self.heard: list[ArpPacket] = []
        for address in range(frames):
            self.outbox.put(arp.probe(mac, address + 1))

    @property
    def done(self) -> bool:
        return not self.outbox

    @done.setter
    def done(self, done: bool) -> None:
        raise AssertionError(done)

    def outboxes(self) -> list[Outbox]:
        return [self.outbox]

    def receive(self, packet: ArpPacket, now: float) -> None:  # noqa: ARG002 - the loop's word
        self.heard.append(packet)

    def overflow(self, dropped: int, now: float) -> None:
        """It does not matter."""

    def advance(self, now: float) -> None:
        """Nothing is ever due."""


class Scanning(Task[None]):
    priority = SCAN

    def finish(self) -> None:
        """It has no result."""


def run(loop: Loop, *tasks: Task[Any]) -> None:
    """Turn until all are done."""
    for _ in range(100_000):
        if all(task.future.done() for task in tasks):
            return
        loop.turn()
    raise AssertionError("it never ends")


def test_a_search_is_not_held_up_by_a_long_scan() -> None:
    link = VirtualLink()
    loop = Loop(link, 5_000, threaded=False)
    scan = loop.run(Scanning(Sender(16_384)))
    for _ in range(50):
        loop.turn()
    begun = link.time
    search = loop.run(Run(Sender(50, OTHER)))
    run(loop, search)
    assert link.time - begun <= 50 / 5_000 + 2 * BURST
    assert not scan.future.done()
    run(loop, scan)
    assert len(link.sent) == 16_384 + 50
    assert link.time == pytest.approx((16_384 + 50) / 5_000, rel=0.05)
    loop.close()


def test_searches_take_turns_however_long_the_queue_of_the_first() -> None:
    link = VirtualLink()
    loop = Loop(link, 1_000, threaded=False)
    long = loop.run(Run(Sender(5_000)))
    short = [loop.run(Run(Sender(20, OTHER))) for _ in range(4)]
    run(loop, *short)
    assert link.time < 5 * 20 / 1_000 + 0.1
    assert not long.future.done()
    loop.close()
    with pytest.raises(LinkError, match="closed"):
        long.future.result(0)


@pytest.mark.parametrize("rate", [50, 1_000])
def test_where_there_is_less_than_a_frame_for_each_all_come_to_their_turn(rate: int) -> None:
    pace: Pace[int] = Pace(rate, 0.0)
    left: Counter[int] = Counter()

    def send(sender: int, most: int) -> int:
        left[sender] += most
        return most

    for turn in range(1, 401):
        pace.fill(turn / rate)  # one frame in each turn
        assert pace.share(((SEARCH, sender) for sender in range(4)), send)
    assert max(left.values()) - min(left.values()) <= max(1.0, rate * BURST)
    assert left.total() <= 400 + max(1.0, rate * BURST)


def test_where_the_kernel_has_no_room_nobody_else_is_asked() -> None:
    pace: Pace[int] = Pace(1_000, 0.0)
    pace.fill(1.0)
    asked: list[int] = []

    def send(sender: int, most: int) -> None:  # noqa: ARG001 - as the pace calls it
        asked.append(sender)

    assert not pace.share([(SEARCH, 1), (SEARCH, 2), (SCAN, 3)], send)
    assert len(asked) == 1


def test_what_arrives_is_shown_though_a_watcher_raises() -> None:
    link = VirtualLink()
    loop = Loop(link, 1_000, threaded=False)
    machine = Sender(10_000)
    loop.run(Run(machine))

    def fail(packet: ArpPacket, now: float) -> None:
        raise ZeroDivisionError(f"{packet} at {now}")

    loop.watch(fail)
    loop.turn()
    link.arrived.append(arp.probe(OTHER, 7))
    loop.turn()
    assert [packet.target_ip for packet in machine.heard] == [7]
    loop.close()


def test_a_link_that_is_gone_ends_the_turn() -> None:
    link = VirtualLink()
    loop = Loop(link, 1_000, threaded=False)
    task = loop.run(Run(Sender(5)))
    link.gone = True
    with pytest.raises(LinkError, match="gone"):
        loop.turn()
    loop.close()
    assert task.future.exception() is not None


def test_a_loop_that_has_ended_runs_calls_though_its_descriptors_are_beyond_1024() -> None:
    """select(2) knows 1,024 descriptors, and fails at the next."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    held: list[int] = []
    try:
        while not held or held[-1] < 1024:
            held.append(os.dup(0))
        calls = Calls()
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert calls.wake_fd >= 1024
    link = VirtualLink()
    link.gone = True
    loop = Loop(link, 1_000, calls=calls)
    task = loop.run(Run(Sender(1)))
    assert isinstance(task.future.exception(LONG), LinkError)
    assert loop.call(threading.current_thread).result(LONG) is not threading.current_thread()
    loop.close()
