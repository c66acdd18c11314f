"""What the loop drives: tasks, which come to an end, and claims, which are kept until they are let go."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from arpipam.errors import UnknownError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.interest import Interest

T = TypeVar("T")

_log = logging.getLogger(__name__)

SEARCH, SCAN = range(2)
"""Priorities: what has the lower number sends first."""


class Frames(Protocol):
    """Frames that wait to leave (see Outbox)."""

    def peek(self, most: int) -> list[bytes]:
        """The frames that are next, `most` at most; the same until `sent` is called."""

    def sent(self, count: int, now: float) -> None:
        """So many of the frames that `peek` showed have left."""

    def __len__(self) -> int: ...


class Machine(Protocol):
    """A protocol object without IO that is driven to its end: a search, a check, a scan. Times are the link's."""

    done: bool

    @property
    def deadline(self) -> float | None:
        """When `advance` wants to be called."""

    @property
    def interest(self) -> Interest | None:
        """Which packets it has a use for, and is given; None: all."""

    def outboxes(self) -> Iterable[Frames]:
        """Frames that wait to leave."""

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take in a packet."""

    def overflow(self, dropped: int, now: float) -> None:
        """The kernel dropped frames."""

    def advance(self, now: float) -> None:
        """Do what is due."""


M = TypeVar("M", bound=Machine)


class Kept(Protocol):
    """What the loop keeps until it is let go: a claim."""

    mac: str

    @property
    def outbox(self) -> Frames:
        """Frames that wait to leave."""

    @property
    def deadline(self) -> float | None:
        """When `advance` wants to be called."""

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take in a packet from or for the claimed address."""

    def advance(self, now: float) -> None:
        """Do what is due."""

    def fail(self, error: Exception) -> None:
        """The link is gone: the claim is not defended any more."""


class Task(Generic[T]):
    """A machine, and what becomes of it at its end. All methods are called on the loop's thread.

    Exactly one of `finish` and `abandon` is called, once; `discard` where the result came too late to be wanted.
    """

    priority = SEARCH
    sender: tuple[bytes, int] | None = None
    """The MAC and address of the interface that its questions come from: it ends where they are others'."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.future: Future[T] = Future()
        self.future.set_running_or_notify_cancel()
        self.unwanted = False

    def outdated(self, link: LoopLink) -> UnknownError | None:
        """Why it cannot go on: its frames would come from a MAC or an address that is not the interface's now."""
        if self.sender is None or link.has(*self.sender):
            return None
        return UnknownError(f"{link.interface}: its own MAC or address changed during the search; try again")

    def goes_on(self) -> bool:
        """The machine is done: whether another one has taken its place, so that there is no result yet."""
        return False

    def finish(self) -> T:
        """The result, before any other frame is looked at. What this raises is what the caller gets."""
        raise NotImplementedError

    def abandon(self) -> Future[None] | None:
        """It ends without a result; the future is done when what it had begun is undone. None: that is so already."""

    def discard(self, result: T) -> None:
        """Nobody wants the result any more."""

    def fail(self, error: BaseException) -> None:
        """End it without a result, unless it has one. The caller hears of it once nothing half done is left."""
        if self.future.done():
            return
        undone = None
        try:
            undone = self.abandon()
        except Exception:  # noqa: BLE001 - logged, and the caller hears of the first error
            _log.exception("what a search had begun is not undone")
        if undone is None:
            self.future.set_exception(error)
        else:
            undone.add_done_callback(lambda undone: self._failed(error, undone))

    def _failed(self, error: BaseException, undone: Future[None]) -> None:
        if (trouble := undone.exception()) is not None:
            _log.error("what a search had begun is not undone: %s", trouble)
        self.future.set_exception(error)


class Run(Task[M]):
    """A machine that is its own result."""

    def __init__(self, machine: M) -> None:
        super().__init__(machine)
        self._machine = machine

    def finish(self) -> M:
        """The machine."""
        return self._machine


class LoopLink(Protocol):
    """What the loop needs of a link, and its only clock."""

    interface: str

    @property
    def mac(self) -> bytes:
        """Of the interface, as it is now."""

    @property
    def closed(self) -> str:
        """Why nobody beyond this host can be heard; empty where somebody may be."""

    @property
    def openings(self) -> int:
        """How often a way to stations beyond this host has opened since."""

    def news(self) -> bool:
        """Take in what the kernel has told; whether the interface's MAC or addresses are others now. Never waits."""

    def has(self, mac: bytes, address: int) -> bool:
        """Whether frames may be sent from this MAC and address (0: none) as the interface's own."""

    def now(self) -> float:
        """Seconds on a clock that never jumps."""

    def send(self, frames: Sequence[bytes]) -> int:
        """Send frames; how many were taken."""

    def receive(self, limit: int) -> list[bytes]:
        """The frames that have arrived, `limit` at most; never waits."""

    def drops(self) -> int:
        """Frames that were dropped since the last call."""

    def focus(self, interest: Interest | None) -> None:
        """Receive only what is of interest from now on."""

    def rest(self, seconds: float) -> None:
        """Let so much time pass; what arrives meanwhile waits."""

    def wait(self, timeout: float | None, wake_fd: int | None) -> None:
        """Wait until a frame arrives or `wake_fd` can be read, at most `timeout` seconds (None: for ever)."""
