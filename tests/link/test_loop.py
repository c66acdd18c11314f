"""The loop's thread on a real link: it ends when it is told to, whatever happens at the same moment."""

from __future__ import annotations

import os
import select
import threading
import time
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import pytest

from arpipam.errors import LinkError
from arpipam.lab.namespace import Namespace
from arpipam.link import pace, waking
from arpipam.link.calls import Calls
from arpipam.link.loop import Loop
from arpipam.link.socket import Link
from arpipam.link.task import Run, Task
from arpipam.protocol import arp
from arpipam.protocol.outbox import Outbox
from tests.support.link_spaces import NEEDS_ROOT
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.interest import Interest

LONG = 20.0
"""Seconds after which a condition that was waited for will not come any more."""
CLOSER = "closer"
MAC = bytes.fromhex("02cccccccccc")
_numbers = count()

pytestmark = NEEDS_ROOT


class Cable:
    """A cable between two namespaces: `near` here and `far` there."""

    def __init__(self) -> None:
        self.here, self.there = (Namespace(f"loop{os.getpid()}n{next(_numbers)}") for _ in range(2))
        self.here.ip([f"link add near type veth peer name far netns {self.there.name}", "link set near up"])
        self.there.ip(["link set far up"])

    def open(self) -> Link:
        with self.here.inside():
            return Link("near")

    def open_far(self) -> Link:
        with self.there.inside():
            return Link("far")


@pytest.fixture
def cable() -> Iterator[Cable]:
    cable = Cable()
    yield cable
    cable.here.delete()
    cable.there.delete()


class Sender:
    """A task that sends frames and has its way until it is told that it is done."""

    def __init__(self, frames: int = 0) -> None:
        self.done = False
        self.outbox = Outbox()
        self.left: list[float] = []
        self.heard: list[ArpPacket] = []
        self.threads: set[str] = set()
        for address in range(1, frames + 1):
            self.outbox.put(arp.probe(MAC, address), self.left.append)

    @property
    def deadline(self) -> float | None:
        return None

    @property
    def interest(self) -> Interest | None:
        return None

    def outboxes(self) -> list[Outbox]:
        return [self.outbox]

    def receive(self, packet: ArpPacket, now: float) -> None:  # noqa: ARG002 - the loop's word
        self.threads.add(threading.current_thread().name)
        self.heard.append(packet)

    def overflow(self, dropped: int, now: float) -> None:
        raise AssertionError(f"{dropped} dropped at {now}")

    def advance(self, now: float) -> None:
        """Nothing is ever due."""


class Abandoned(Task[None]):
    """Tells when it was abandoned."""

    def __init__(self, machine: Sender, tell: Callable[[], None]) -> None:
        super().__init__(machine)
        self.tell = tell

    def abandon(self) -> None:
        self.tell()


def close(loop: Loop) -> None:
    """Close it; fails where that takes for ever."""
    closer = threading.Thread(target=loop.close, daemon=True, name=CLOSER)
    closer.start()
    closer.join(LONG)
    assert not closer.is_alive(), "the loop does not end"


def test_closed_right_after_a_call_it_ends(cable: Cable) -> None:
    with cable.open() as link:
        for turn in range(300):
            loop = Loop(link, rate=1000)
            future = loop.call(lambda turn=turn: turn)  # type: ignore[misc]
            close(loop)
            assert future.result(0) == turn
            assert not any(thread.name == "arpipam near" for thread in threading.enumerate())


class LateCalls(Calls):
    """The thread wakes for a call and comes to look at the calls only when it is told to end: the worst moment."""

    def __init__(self) -> None:
        super().__init__()
        self.here = threading.current_thread()
        self.awake, self.told = threading.Event(), threading.Event()

    def wake(self) -> None:
        super().wake()
        if threading.current_thread().name == CLOSER:
            self.told.set()

    def run(self) -> None:
        if threading.current_thread().name not in {self.here.name, CLOSER}:
            self.awake.set()
            assert self.told.wait(LONG)
        super().run()


def test_the_byte_that_closes_it_may_be_read_with_that_of_a_call(cable: Cable) -> None:
    with cable.open() as link:
        calls = LateCalls()
        loop = Loop(link, rate=1000, calls=calls)
        future = loop.call(lambda: "done")
        assert calls.awake.wait(LONG)
        close(loop)
        assert future.result(0) == "done"


class EarlyCalls(Calls):
    """The thread, awake for another reason, may run a call before the byte that announces it is written."""

    def __init__(self, wake_thread: Callable[[], object]) -> None:
        super().__init__()
        self.wake_thread, self.ran = wake_thread, threading.Event()

    def wake(self) -> None:
        if threading.current_thread().name != CLOSER:
            self.wake_thread()
            self.ran.wait(0.2)  # where calls and bytes are taken together, it does not run yet
        super().wake()


def test_a_byte_that_comes_after_its_call_does_not_keep_it_awake(cable: Cable) -> None:
    """A byte that nobody reads would end every wait at once, and the thread would run hot."""
    with cable.open() as link, cable.open_far() as far:
        task = Sender()
        calls = EarlyCalls(lambda: far.send([arp.probe(MAC, 7)]))
        loop = Loop(link, 1000, calls=calls)
        loop.run(Run(task))
        until(lambda: far.send([arp.probe(MAC, 8)]) and task.heard)
        loop.call(calls.ran.set).result(LONG)
        until(lambda: not select.select([calls.wake_fd], [], [], 0)[0])
        close(loop)


def test_closed_while_others_call_each_call_runs_or_is_refused(cable: Cable) -> None:
    with cable.open() as link:
        for _ in range(30):
            loop, start = Loop(link, rate=1000), threading.Barrier(4)
            ends: list[str] = []

            def caller(loop: Loop = loop, start: threading.Barrier = start, ends: list[str] = ends) -> None:
                start.wait(LONG)
                for _ in range(50):
                    try:
                        ends.append(loop.call(lambda: "ran").result(LONG))
                    except LinkError as error:
                        ends.append(str(error))

            callers = [threading.Thread(target=caller, daemon=True) for _ in range(3)]
            for thread in callers:
                thread.start()
            start.wait(LONG)
            close(loop)
            for thread in callers:
                thread.join(LONG)
                assert not thread.is_alive()
            assert len(ends) == 150
            assert set(ends) <= {"ran", "near: closed"}
            with pytest.raises(LinkError, match="near: closed"):
                loop.call(lambda: "ran")


def test_calls_and_packets_come_on_its_thread_and_errors_go_to_the_caller(cable: Cable) -> None:
    with cable.open() as link, cable.open_far() as far:
        loop = Loop(link, rate=1000)
        assert loop.call(threading.current_thread).result(LONG).name == "arpipam near"
        with pytest.raises(ZeroDivisionError):
            loop.call(lambda: 1 // 0).result(LONG)
        task = Sender()
        threads: list[threading.Thread] = []

        class Noted(Task[str]):
            def finish(self) -> str:
                threads.append(threading.current_thread())
                return "result"

        job = loop.run(Noted(task))
        until(lambda: far.send([arp.probe(MAC, 7)]) and task.heard)  # the kernel keeps back what comes before it is run
        assert task.threads == {"arpipam near"}

        def finish() -> None:
            task.done = True

        loop.call(finish).result(LONG)
        assert job.future.result(LONG) == "result"
        assert [thread.name for thread in threads] == ["arpipam near"]
        close(loop)


@pytest.mark.parametrize(
    ("command", "said"), [("link del near", "near is gone"), ("link set near down", "near is down")]
)
def test_a_link_that_went_away_while_it_was_idle_fails_what_is_run_later(cable: Cable, command: str, said: str) -> None:
    with cable.open() as link:
        loop = Loop(link, rate=1000)
        loop.call(lambda: None).result(LONG)
        cable.here.ip([command])
        until(lambda: loop._error)
        abandoned: list[int] = []
        job = loop.run(Abandoned(Sender(1), partial(abandoned.append, 1)))
        with pytest.raises(LinkError, match=said):
            job.future.result(LONG)
        assert abandoned == [1]
        assert loop.call(lambda: "still").result(LONG) == "still"  # claims can be released
        close(loop)


def test_what_still_runs_when_it_closes_is_abandoned(cable: Cable) -> None:
    with cable.open() as link:
        loop = Loop(link, rate=1000)
        abandoned: list[int] = []
        jobs = [loop.run(Abandoned(Sender(), partial(abandoned.append, n))) for n in range(3)]
        loop.call(lambda: None).result(LONG)
        close(loop)
        for job in jobs:
            with pytest.raises(LinkError, match="near: closed"):
                job.future.result(0)
        assert abandoned == [0, 1, 2]


@pytest.mark.parametrize("rate", [200, 2_000, 20_000])
def test_no_more_frames_leave_than_the_rate_allows_not_even_after_a_rest(cable: Cable, rate: int) -> None:
    frames, rest = rate // 4, 0.2
    burst = max(1.0, rate * pace.BURST)
    assert rate * rest > 2 * burst
    with cable.open() as link, cable.open_far() as far:
        paced = Loop(link, rate=rate)
        paced.call(lambda: None).result(LONG)
        time.sleep(rest)  # in which more than a burst could be saved up
        started = link.now()
        tasks = [Sender(frames // 2), Sender(frames - frames // 2)]  # all of them share the rate
        for task in tasks:
            paced.run(Run(task))
        until(lambda: sum(len(task.left) for task in tasks) == frames)
        heard = far.receive(2 * frames)
        close(paced)
    assert len([frame for frame in heard if frame[6:12] == MAC]) == frames
    left = sorted(at for task in tasks for at in task.left)
    too_early = [at for sent, at in enumerate(left, 1) if sent > burst + (at - started) * rate]
    assert too_early == []


class Kept:
    """What the loop keeps for an address; notes whether what it was shown came late."""

    mac = arp.mac_text(MAC)
    deadline = None

    def __init__(self, loop: Loop) -> None:
        self.outbox = Outbox()
        self.late: list[bool] = []
        self._driver = loop

    def receive(self, packet: ArpPacket, now: float) -> None:  # noqa: ARG002 - the loop's word
        self.late.append(self._driver.late)

    def advance(self, now: float) -> None:
        """Nothing is ever due."""

    def fail(self, error: Exception) -> None:
        """It is the end of the test."""


def test_what_arrived_before_is_seen_when_it_has_caught_up_and_told_late_after_an_absence(cable: Cable) -> None:
    probe = arp.probe(MAC, 7)
    with cable.open() as near, cable.open_far() as far:
        running = Loop(near, 1000)
        try:
            kept = Kept(running)
            running.call(lambda: running.keep(7, kept)).result(LONG)
            time.sleep(3 * waking.WATCH)  # a rest is no absence
            until(lambda: far.send([probe]) and False in kept.late)

            running.call(lambda: time.sleep(2 * waking.ABSENCE))  # no processor for so long
            assert far.send([probe])
            running.catch_up().result(LONG)
            assert kept.late[-1]
        finally:
            close(running)


def test_whoever_waits_for_a_driver_that_ends_hears_why(cable: Cable) -> None:
    with cable.open() as near:
        running = Loop(near, 1000)
        running.call(lambda: None).result(LONG)
        cable.here.ip(["link set near down"])
        until(running.ended.done)
        with pytest.raises(LinkError):
            running.catch_up().result(LONG)
        close(running)
