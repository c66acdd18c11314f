"""What a driver runs and keeps: tasks, which come to an end, and holdings, which are let go."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.interest import Interest
    from arpipam.protocol.outbox import Outbox
    from arpipam.protocol.survey import Survey

T = TypeVar("T")


class Task(Protocol):
    """What the driver runs to its end: a search, a check, a scan."""

    done: bool

    @property
    def deadline(self) -> float | None:
        """When `advance` wants to be called."""

    @property
    def interest(self) -> Interest | None:
        """Which packets it has a use for, and is given; None: all."""

    def outboxes(self) -> Iterable[Outbox | Survey]:
        """Frames that wait to leave."""

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take in a packet."""

    def overflow(self, dropped: int, now: float) -> None:
        """The kernel dropped frames."""

    def advance(self, now: float) -> None:
        """Do what is due."""


class Holding(Protocol):
    """What the driver keeps until it is let go: a claim."""

    mac: str

    @property
    def outbox(self) -> Outbox:
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


class Job(Generic[T]):
    """A task, and whom its result is for."""

    def __init__(
        self, task: Task, finish: Callable[[], T], abandon: Callable[[], None], discard: Callable[[T], None]
    ) -> None:
        self.task = task
        self.finish = finish
        self.abandon = abandon
        self.discard = discard
        self.future: Future[T] = Future()
        self.future.set_running_or_notify_cancel()
        self.unwanted = False
