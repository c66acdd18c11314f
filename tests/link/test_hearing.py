"""Since when a link has been heard: what counts as a gap, and what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arpipam.link.hearing import STOPPED, SUSPENDED, Hearing, suspended
from arpipam.link.loop import Loop
from tests.support.virtual import VirtualLink

if TYPE_CHECKING:
    import pytest


class Machine:
    """A machine whose sleep is the test's."""

    def __init__(self) -> None:
        self.slept = 100.0
        self.told = 0
        self.hearing = Hearing(1.0, slept=lambda: self.slept)
        self.hearing.on_change.append(self.tell)

    def tell(self) -> None:
        self.told += 1


def since(hearing: Hearing) -> float | None:
    return hearing.whole_since


def test_whole_from_the_start() -> None:
    hearing = Machine().hearing
    assert (hearing.whole_since, hearing.reason) == (1.0, "")
    assert hearing.covers(1.0)
    assert not hearing.covers(0.9)


def test_what_was_seen_before_a_gap_holds_no_more() -> None:
    machine = Machine()
    machine.hearing.gap("a storm", 5.0)
    assert machine.hearing.whole_since == 5.0
    assert not machine.hearing.covers(4.9)
    assert (machine.hearing.why, machine.told) == ("a storm", 1)
    machine.hearing.gap("the same once more", 5.0)
    assert machine.told == 1


def test_a_deaf_link_covers_nothing_until_every_reason_is_gone() -> None:
    machine = Machine()
    hearing = machine.hearing
    hearing.set_deaf("carrier", "no carrier", 2.0)
    hearing.set_deaf("carrier", "no carrier", 2.5)
    hearing.set_deaf("witnesses", "all silent", 3.0)
    assert (since(hearing), hearing.reason, hearing.covers(10.0)) == (None, "no carrier", False)
    hearing.gap("late", 4.0)
    assert since(hearing) is None
    hearing.set_deaf("carrier", "", 5.0)
    assert (since(hearing), hearing.reason) == (None, "all silent")
    hearing.set_deaf("witnesses", "", 6.0)
    assert since(hearing) == 6.0
    hearing.set_deaf("witnesses", "", 7.0)
    assert (since(hearing), machine.told) == (6.0, 5)


def test_a_process_that_was_stopped_or_a_machine_that_slept() -> None:
    machine = Machine()
    machine.hearing.turn(2.0, STOPPED)
    assert machine.hearing.whole_since == 1.0  # as late as a busy machine makes it
    machine.hearing.turn(4.0, STOPPED + 0.1)
    assert machine.hearing.whole_since == 4.0
    machine.slept += SUSPENDED
    machine.hearing.turn(5.0, 0.0)
    assert machine.hearing.whole_since == 4.0
    machine.slept += 3600
    machine.hearing.turn(6.0, 0.0)
    assert (machine.hearing.whole_since, machine.hearing.why) == (6.0, "this machine was suspended for 3600 s")
    machine.hearing.turn(7.0, 0.0)
    assert machine.hearing.whole_since == 6.0


def test_this_machine_has_slept_for_no_negative_time() -> None:
    assert suspended() > -0.001


def test_a_listener_that_raises_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    machine.hearing.on_change.insert(0, lambda: 1 / 0)
    machine.hearing.gap("a storm", 5.0)
    assert machine.told == 1
    assert "ZeroDivisionError" in caplog.text


class Kept:
    """A claim that has nothing to do."""

    mac = ""
    outbox: list[bytes] = []  # noqa: RUF012 - it stays empty
    deadline = None

    def receive(self, packet: object, now: float) -> None:
        """Nothing comes."""

    def advance(self, now: float) -> None:
        """Nothing is due."""

    def fail(self, error: Exception) -> None:
        """It does not matter."""


def looping(link: VirtualLink) -> Loop:
    """A loop with a claim, in the midst of its work."""
    loop = Loop(link, 1_000, threaded=False)
    loop.keep(7, Kept())  # type: ignore[arg-type] # an empty list has no frames
    for _ in range(3):
        loop.turn()
    assert loop.hearing.whole_since == 0.0
    return loop


def test_the_loop_notices_that_it_was_stopped() -> None:
    link = VirtualLink()
    loop = looping(link)
    link.time += STOPPED - 0.1
    loop.turn()
    assert loop.hearing.whole_since == 0.0
    link.time += STOPPED + 0.1
    loop.turn()
    assert loop.hearing.whole_since is not None
    assert loop.hearing.whole_since > STOPPED
    loop.close()


def test_the_loop_notices_drops_and_ways_that_close_and_open() -> None:
    link = VirtualLink()
    loop = looping(link)
    link.dropped = 3
    loop.turn()
    dropped = loop.hearing.whole_since
    assert dropped is not None
    assert dropped > 0
    link.closed = "virtual0 has no carrier"
    loop.turn()
    assert (loop.hearing.whole_since, loop.hearing.reason) == (None, "virtual0 has no carrier")
    link.closed = ""
    loop.turn()
    opened = loop.hearing.whole_since
    assert opened is not None
    assert opened > dropped
    link.openings += 1  # another port, or one that was away for so short a time that nobody was told
    loop.turn()
    assert loop.hearing.whole_since is not None
    assert loop.hearing.whole_since > opened
    loop.close()
