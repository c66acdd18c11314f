"""An address that is ours: announced, defended from the first moment, and handed over when its owner is up."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from arpipam.claim_state import ClaimState
from arpipam.leases.lease import QUARANTINE, LeaseState
from arpipam.protocol import arp, events
from arpipam.protocol.acd import AcdState

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address
    from types import TracebackType

    from arpipam.leases.lease import Lease, LeaseStore
    from arpipam.leases.writer import LeaseWriter
    from arpipam.link.loop import Loop
    from arpipam.protocol.acd import Acd
    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.outbox import Outbox
    from arpipam.protocol.policy import Policy
    from arpipam.results import Found

_ANSWERING = (AcdState.ANNOUNCING, AcdState.DEFENDING)
_HELD = (*_ANSWERING, AcdState.GUARDING)

_ASK_EVERY = 0.02
_ASK_SELDOM = 1.0
"""An owner that does not answer is asked less and less often, down to once in so many seconds."""


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
    """A claimed address, defended until `hand_over()` or `release()`.

    As a context manager it is released at the end, unless it was bound or handed over. Listeners are called on the
    loop's thread, in the order of events; what they raise is logged. They may call every method of the claim.
    """

    def __init__(
        self,
        acd: Acd,
        lease: Lease,
        found: Found,
        *,
        loop: Loop,
        store: LeaseStore,
        writer: LeaseWriter,
        asker: Callable[[], int],
    ) -> None:
        """`asker()` is the interface's own address at this moment; 0 where it has none."""
        self.address: IPv4Address = lease.address
        self.prefix: int = lease.prefix
        self.mac: str = lease.mac
        self.found = found
        self.lease = lease
        self.conflict: str | None = None
        """The MAC of the station that insists on the address."""
        self.failure: Exception | None = None
        """Why the link is lost."""
        self.ask_every = _ASK_EVERY
        """Seconds between two questions to its owner, at first."""
        self.looked = float("-inf")
        """When the look at the wire began that found nobody else, on the link's clock; see `needs_check`."""
        self.answered = threading.Event()
        """Set once the owner itself has answered."""
        self._acd = acd
        self._loop = loop
        self._store = store
        self._writer = writer
        self._asker = asker
        self._end_state: ClaimState | None = None
        self._told = _STATES[acd.state]
        self._listeners: list[Callable[[ClaimState], object]] = []
        self._conflict_listeners: list[Callable[[Conflict], object]] = []
        self._absence_listeners: list[Callable[[str], object]] = []
        self._ask_at: float | None = None
        self._ask_gap = _ASK_EVERY

    @property
    def state(self) -> ClaimState:
        """Where it stands at this moment."""
        return self._end_state or _STATES[self._acd.state]

    @property
    def needs_check(self) -> bool:
        """Whether the link could not be heard at some time since then: another station may have the address by now.

        After such a gap the address is asked for, so that a station that has it is reported as a conflict at once. But
        only `Allocator.check` proves that there is none.
        """
        return not self._loop.hearing.covers(self.looked)

    # What the loop calls, on its thread.

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
            and packet.target_mac == self._loop.link.mac
        ):
            # We never answer our own host, so this came from the owner.
            self.answered.set()
            if self._ask_at is not None:
                self._ask_at = None
                self._acd.guard()
        if self._loop.late and packet.is_probe and packet.target_ip == self._acd.address:
            self._was_absent(packet)
        self._acd.receive(packet, now)
        self._tell()

    def _was_absent(self, packet: ArpPacket) -> None:
        """A probe waited for us for so long that its sender may have taken our silence for an answer."""
        if self._acd.state in _ANSWERING and packet.sender_mac != self._acd.mac:
            self._acd.announce()  # if it has claimed the address by now, this tells it which claim is older
            for listener in self._absence_listeners:
                self._loop.post(partial(listener, arp.mac_text(packet.sender_mac)))

    def advance(self, now: float) -> None:
        """Do what is due."""
        self._acd.advance(now)
        if self._ask_at is not None and now >= self._ask_at:
            self._ask()
            self._ask_at = now + self._ask_gap
            self._ask_gap = min(1.25 * self._ask_gap, _ASK_SELDOM)
        self._tell()

    def fail(self, error: Exception) -> None:
        """The link is gone."""
        self.failure = error
        self._finish(ClaimState.LINK_LOST)

    def discard(self) -> None:
        """Release it: the caller that claimed it does not want it any more, and has never seen it."""
        self._end(ClaimState.RELEASED)
        self._writer.post(self._store.release, self.lease.id)

    def _tell(self) -> None:
        """Tell the listeners what has happened."""
        self._loop.stir(self._acd.address)
        for event in self._acd.events():
            if isinstance(event, events.Conflict):
                conflict = Conflict(self.address, self.mac, arp.mac_text(event.mac), event.older)
                for met in self._conflict_listeners:
                    self._loop.post(partial(met, conflict))
            elif isinstance(event, events.Lost):
                self.conflict = arp.mac_text(event.mac)
                self._loop.let_go(self._acd.address)
        if (state := self.state) is not self._told:
            self._told = state
            for listener in self._listeners:
                self._loop.post(partial(listener, state))

    # What its holder calls, on any thread.

    @property
    def holder_fd(self) -> int:
        """A file descriptor to pass on to a child: the lease is held while either lives."""
        return self._store.holder_fd(self.lease.id)

    def on_change(self, listener: Callable[[ClaimState], object]) -> None:
        """Call `listener(state)` at each change, on the loop's thread."""
        self._listeners.append(listener)

    def on_conflict(self, listener: Callable[[Conflict], object]) -> None:
        """Call `listener(conflict)` whenever another station uses the address, on the loop's thread."""
        self._conflict_listeners.append(listener)

    def on_absence(self, listener: Callable[[str], object]) -> None:
        """Call `listener(mac)` when a probe of that station was answered too late, on the loop's thread."""
        self._absence_listeners.append(listener)

    def announce(self) -> None:
        """Announce again, for example since the owner is up now; return once it is under way."""
        self._loop.call(self._announce).result()

    def announce_soon(self) -> None:
        """The same without waiting until it is under way."""
        self._loop.post(self._announce)

    def hand_out(self, lease: Lease, policy: Policy) -> None:
        """The address goes to an owner with the MAC of `lease`, which is on disk: announce it under that at once.

        We answer for it until the owner does, see `ask_owner`; later conflicts are met by `policy`.
        """

        def hand_out() -> None:
            self.lease, self.mac = lease, lease.mac
            self._acd.policy = policy
            self.answered.clear()
            self._ask_at = None
            if self._acd.state is AcdState.GUARDING:  # the owner that had it until now is gone
                self._acd.take_over(self._loop.link.now())
            if arp.mac_bytes(lease.mac) != self._acd.mac:
                self._acd.change_mac(arp.mac_bytes(lease.mac))
            self._tell()

        self._loop.post(hand_out)

    def set_policy(self, policy: Policy) -> None:
        """Meet conflicts by another policy from now on."""
        self._acd.policy = policy

    def ask_owner(self) -> None:
        """Ask the owner until it answers for itself, and from then on only watch for others: `GUARDED`."""

        def ask() -> None:
            if self._ask_at is None and self._acd.state in _ANSWERING:
                self.answered.clear()
                self._ask_gap = self.ask_every
                self._ask_at = self._loop.link.now()
                self._loop.stir(self._acd.address)

        self._loop.post(ask)

    def guard(self) -> None:
        """The owner is known to answer for itself (where that cannot be heard)."""

        def guard() -> None:
            self._ask_at = None
            if self._acd.state in _ANSWERING:
                self._acd.guard()
            self._tell()

        self._loop.post(guard)

    def take_over(self) -> None:
        """The owner is gone, or about to: answer for the address again."""

        def take_over() -> None:
            self._ask_at = None
            if self._acd.state is AcdState.GUARDING:
                self._acd.take_over(self._loop.link.now())
            self._tell()

        self._loop.post(take_over)

    def wait_handed_over(self, timeout: float) -> bool:
        """Ask the owner until it answers for itself, for at most `timeout` seconds; whether it did."""
        until = self._loop.link.now() + timeout
        while not self.answered.is_set() and self.state in (ClaimState.ANNOUNCING, ClaimState.DEFENDING):
            left = until - self._loop.link.now()
            if left <= 0:
                break
            self._loop.call(self._ask).result()
            self.answered.wait(min(self.ask_every, left))
        return self.answered.is_set()

    def bind(self, container: str) -> None:
        """The address belongs to this container now; its lease outlives this process. On disk when this returns."""
        self.lease = self._store.bind(self.lease.id, container)

    def hand_over(self) -> None:
        """The owner answers for itself: stop defending. The lease stays."""
        self._stop(ClaimState.HANDED_OVER)

    def release(self, quarantine: float = QUARANTINE) -> None:
        """End the claim; for `quarantine` seconds the address goes to its last owner only.

        The lease has ended when this returns; in a listener, which must not wait for the disk, soon after.
        """
        if self.state is ClaimState.RELEASED:
            return
        self._stop(ClaimState.RELEASED)
        if self._loop.is_here():
            self._writer.post(self._store.release, self.lease.id, quarantine=quarantine)
        else:
            self._store.release(self.lease.id, quarantine=quarantine)

    def _announce(self) -> None:
        if self._acd.state in _HELD:
            self._acd.announce()
            self._tell()

    def _ask(self) -> None:
        mac, asker, address = self._loop.link.mac, self._asker(), self._acd.address
        self._acd.outbox.put(arp.request(mac, asker, address))  # without an asker it is a probe
        self._loop.stir(self._acd.address)

    def _stop(self, state: ClaimState) -> None:
        self._loop.call(lambda: self._end(state)).result()

    def _end(self, state: ClaimState) -> None:
        self._loop.let_go(self._acd.address)
        if self._acd.state in _HELD:
            self._acd.release()
        self._finish(state)

    def _finish(self, state: ClaimState) -> None:
        self._end_state = state
        self._tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.state is not ClaimState.HANDED_OVER and self.lease.state is not LeaseState.BOUND:
            self.release()
