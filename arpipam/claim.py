"""An address that is ours: announced, defended from the first moment, and handed over when its owner is up."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from arpipam.leases.lease import QUARANTINE, LeaseState
from arpipam.protocol import arp, events
from arpipam.protocol.acd import AcdState

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address
    from types import TracebackType

    from arpipam.leases.lease import Lease, LeaseStore
    from arpipam.link.loop import Driver
    from arpipam.protocol.acd import Acd
    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.outbox import Outbox
    from arpipam.protocol.policy import Policy
    from arpipam.results import Found

_HELD = (AcdState.ANNOUNCING, AcdState.DEFENDING, AcdState.GUARDING)

_ASK_EVERY = 0.02
_ASK_SELDOM = 1.0
"""An owner that does not answer is asked less and less often, down to once in so many seconds."""


class ClaimState(StrEnum):
    """Where a claim stands."""

    ANNOUNCING = "announcing"
    DEFENDING = "defending"
    GUARDED = "guarded"
    """Its owner answers for itself; others who use it are looked out for."""
    CONFLICT = "conflict"
    """Another station insists on the address; it is given up (RFC 5227, 2.4)."""
    HANDED_OVER = "handed over"
    RELEASED = "released"
    LINK_LOST = "link lost"
    """Nobody can defend it any more."""


_STATES = {
    AcdState.ANNOUNCING: ClaimState.ANNOUNCING,
    AcdState.DEFENDING: ClaimState.DEFENDING,
    AcdState.GUARDING: ClaimState.GUARDED,
    AcdState.LOST: ClaimState.CONFLICT,
    AcdState.RELEASED: ClaimState.RELEASED,
}


@dataclass(frozen=True)
class Conflict:
    """Another station was seen to use the address."""

    address: IPv4Address
    mac: str
    """Ours."""
    other: str
    """The MAC of the other station."""
    older: bool | None
    """Whether ours is the older of two claims; None where the other station does not say since when it has it."""


class Claim:
    """A claimed address, defended until `handed_over()` or `release()`.

    As a context manager it is released at the end, unless it was bound or handed over.
    """

    def __init__(self, acd: Acd, lease: Lease, found: Found, *, driver: Driver, store: LeaseStore, asker: int) -> None:
        self.address: IPv4Address = lease.address
        self.prefix: int = lease.prefix
        self.mac: str = lease.mac
        self.found = found
        self.lease = lease
        self.state = _STATES[acd.state]
        self.conflict: str | None = None
        """The MAC of the station that insists on the address."""
        self.failure: Exception | None = None
        """Why the link is lost."""
        self.answered = threading.Event()
        """Set once the owner itself has answered."""
        self._acd = acd
        self._driver = driver
        self._store = store
        self._question = (
            arp.request(driver.link.mac, asker, acd.address) if asker else arp.probe(driver.link.mac, acd.address)
        )
        self._listeners: list[Callable[[ClaimState], None]] = []
        self._conflict_listeners: list[Callable[[Conflict], None]] = []
        self._absence_listeners: list[Callable[[str], None]] = []
        self._ask_at: float | None = None
        self._ask_gap = _ASK_EVERY

    # What the driver calls, on its thread.

    @property
    def outbox(self) -> Outbox:
        """Frames that wait to leave."""
        return self._acd.outbox

    @property
    def deadline(self) -> float | None:
        """When `advance` wants to be called, seconds on the link's clock."""
        due = [at for at in (self._acd.deadline, self._ask_at) if at is not None]
        return min(due, default=None)

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take in a packet from or for the address."""
        if (
            packet.operation == arp.REPLY
            and packet.sender_mac == self._acd.mac
            and packet.sender_ip == self._acd.address
            and packet.target_mac == self._driver.link.mac
        ):
            # We never answer our own host, so this came from the owner.
            self.answered.set()
            if self._ask_at is not None:
                self._ask_at = None
                self._acd.hand_over()
        if self._driver.late and packet.is_probe and packet.target_ip == self._acd.address:
            self._was_absent(packet)
        self._acd.receive(packet, now)
        self._follow()

    def _was_absent(self, packet: ArpPacket) -> None:
        """A probe waited for us for so long that its sender may have taken our silence for an answer."""
        if self._acd.state in (AcdState.ANNOUNCING, AcdState.DEFENDING) and packet.sender_mac != self._acd.mac:
            self._acd.announce()  # if it has claimed the address by now, this tells it which claim is older
            for listener in self._absence_listeners:
                listener(arp.mac_text(packet.sender_mac))

    def advance(self, now: float) -> None:
        """Do what is due."""
        self._acd.advance(now)
        if self._ask_at is not None and now >= self._ask_at:
            self._ask()
            self._ask_at = now + self._ask_gap
            self._ask_gap = min(1.25 * self._ask_gap, _ASK_SELDOM)
        self._follow()

    def fail(self, error: Exception) -> None:
        """The link is gone."""
        self.failure = error
        self._become(ClaimState.LINK_LOST)

    def discard(self) -> None:
        """Release it: whoever claimed it does not want it any more, and has never seen it."""
        self._end(ClaimState.RELEASED)
        self._store.release(self.lease.id)

    def _follow(self) -> None:
        self._driver.stir(self._acd.address)
        for event in self._acd.events():
            if isinstance(event, events.Conflict):
                conflict = Conflict(self.address, self.mac, arp.mac_text(event.mac), event.older)
                for listener in self._conflict_listeners:
                    listener(conflict)
            elif isinstance(event, events.Lost):
                self.conflict = arp.mac_text(event.mac)
        self._become(_STATES[self._acd.state])
        if self._acd.state is AcdState.LOST:
            self._driver.let_go(self._acd.address)

    def _become(self, state: ClaimState) -> None:
        if state is not self.state:
            self.state = state
            for listener in self._listeners:
                listener(state)

    # What its holder calls, on any thread.

    @property
    def holder_fd(self) -> int:
        """A file descriptor to pass on to a child: the lease is held while either lives."""
        return self._store.holder_fd(self.lease.id)

    def on_change(self, listener: Callable[[ClaimState], None]) -> None:
        """Call `listener(state)` at each change, on the driver's thread."""
        self._listeners.append(listener)

    def on_conflict(self, listener: Callable[[Conflict], None]) -> None:
        """Call `listener(conflict)` whenever another station uses the address, on the driver's thread."""
        self._conflict_listeners.append(listener)

    def on_absence(self, listener: Callable[[str], None]) -> None:
        """Call `listener(mac)` when a probe of that station was answered too late, on the driver's thread."""
        self._absence_listeners.append(listener)

    def announce(self) -> None:
        """Announce again, say since the owner is up now."""
        self._driver.call(self._announce).result()

    def announce_soon(self) -> None:
        """The same without waiting until it is under way."""
        self._driver.call(self._announce)

    def hand_out(self, lease: Lease, policy: Policy) -> None:
        """The address goes to an owner with the MAC of `lease`, which is on disk: announce it under that at once.

        We answer for it until the owner does, see `await_owner`; later conflicts are met by `policy`.
        """

        def hand_out() -> None:
            self.lease, self.mac = lease, lease.mac
            self._acd.policy = policy
            self.answered.clear()
            self._ask_at = None
            if self._acd.state is AcdState.GUARDING:  # whoever had it until now is gone
                self._acd.take_over()
            if arp.mac_bytes(lease.mac) != self._acd.mac:
                self._acd.change_mac(arp.mac_bytes(lease.mac))
            self._follow()

        self._driver.call(hand_out)

    def follow(self, policy: Policy) -> None:
        """Meet conflicts by another policy from now on."""
        self._acd.policy = policy

    def await_owner(self) -> None:
        """Ask the owner until it answers for itself, and from then on only look out for others: `GUARDED`."""

        def ask() -> None:
            if self._ask_at is None and self._acd.state in (AcdState.ANNOUNCING, AcdState.DEFENDING):
                self.answered.clear()
                self._ask_gap = _ASK_EVERY
                self._ask_at = self._driver.link.now()
                self._driver.stir(self._acd.address)

        self._driver.call(ask)

    def guard(self) -> None:
        """The owner is known to answer for itself (where that cannot be heard)."""

        def guard() -> None:
            self._ask_at = None
            if self._acd.state in (AcdState.ANNOUNCING, AcdState.DEFENDING):
                self._acd.hand_over()
            self._follow()

        self._driver.call(guard)

    def take_over(self) -> None:
        """The owner is gone, or about to: answer for the address again."""

        def take_over() -> None:
            self._ask_at = None
            if self._acd.state is AcdState.GUARDING:
                self._acd.take_over()
            self._follow()

        self._driver.call(take_over)

    def wait_handed_over(self, timeout: float) -> bool:
        """Ask the owner until it answers for itself, for at most `timeout` seconds; whether it did."""
        until = self._driver.link.now() + timeout
        while not self.answered.is_set() and self.state in (ClaimState.ANNOUNCING, ClaimState.DEFENDING):
            left = until - self._driver.link.now()
            if left <= 0:
                break
            self._driver.call(self._ask).result()
            self.answered.wait(min(_ASK_EVERY, left))
        return self.answered.is_set()

    def bind(self, container: str) -> None:
        """The address belongs to this container now; its lease outlives this process."""
        self.lease = self._store.bind(self.lease.id, container)

    def handed_over(self) -> None:
        """The owner answers for itself: stop defending. The lease stays."""
        self._stop(ClaimState.HANDED_OVER)

    def release(self, quarantine: float = QUARANTINE) -> None:
        """Give the address back; nobody else gets it for `quarantine` seconds."""
        if self.state is not ClaimState.RELEASED:
            self._stop(ClaimState.RELEASED)
            self._store.release(self.lease.id, quarantine=quarantine)

    def _announce(self) -> None:
        if self._acd.state in _HELD:
            self._acd.announce()
            self._follow()

    def _ask(self) -> None:
        self._acd.outbox.put(self._question)
        self._driver.stir(self._acd.address)

    def _stop(self, state: ClaimState) -> None:
        self._driver.call(lambda: self._end(state)).result()

    def _end(self, state: ClaimState) -> None:
        self._driver.let_go(self._acd.address)
        if self._acd.state in _HELD:
            self._acd.release()
        self._become(state)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.state is not ClaimState.HANDED_OVER and self.lease.state is not LeaseState.BOUND:
            self.release()
