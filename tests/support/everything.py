"""A task of the link that hears every packet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.interest import Interest
    from arpipam.protocol.outbox import Outbox


class Everything:
    """A task that has a use for all packets, so that nothing is held back by the kernel."""

    def __init__(self) -> None:
        self.done = False
        self.packets: list[ArpPacket] = []

    @property
    def deadline(self) -> float | None:
        return None

    @property
    def interest(self) -> Interest | None:
        return None

    def outboxes(self) -> Iterable[Outbox]:
        return ()

    def receive(self, packet: ArpPacket, now: float) -> None:  # noqa: ARG002 - the driver's word
        self.packets.append(packet)

    def overflow(self, dropped: int, now: float) -> None:
        raise AssertionError(f"{dropped} dropped at {now}")

    def advance(self, now: float) -> None:
        """Nothing is ever due."""
