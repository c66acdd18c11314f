"""A link whose clock is the test's, for a loop without a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arpipam.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arpipam.protocol.interest import Interest

MAC = bytes.fromhex("020000000001")
OWN = 0x0A000001
"""The interface's own address."""


class VirtualLink:
    """A link whose time passes while it is waited for."""

    interface = "virtual0"

    def __init__(self) -> None:
        self.mac = MAC
        self.closed = ""
        self.openings = 0
        self.moved = False
        """The kernel tells that the interface has another MAC or address."""
        self.dropped = 0
        self.time = 0.0
        self.sent: list[tuple[float, bytes]] = []
        self.arrived: list[bytes] = []
        self.interest: Interest | None = None
        self.gone = False

    def now(self) -> float:
        return self.time

    def send(self, frames: Sequence[bytes]) -> int:
        if self.gone:
            raise LinkError("virtual0 is gone")
        self.sent += [(self.time, frame) for frame in frames]
        return len(frames)

    def receive(self, limit: int) -> list[bytes]:
        frames, self.arrived = self.arrived[:limit], self.arrived[limit:]
        return frames

    def news(self) -> bool:
        moved, self.moved = self.moved, False
        return moved

    def has(self, mac: bytes, address: int) -> bool:
        return mac == self.mac and address in {0, OWN}

    def drops(self) -> int:
        dropped, self.dropped = self.dropped, 0
        return dropped

    def focus(self, interest: Interest | None) -> None:
        self.interest = interest

    def rest(self, seconds: float) -> None:
        self.time += seconds

    def wait(self, timeout: float | None, wake_fd: int | None) -> None:  # noqa: ARG002 - the loop's word
        self.time += 0.01 if timeout is None else timeout
