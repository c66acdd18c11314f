"""RFC 5227 for one address: probe, claim, announce, defend. No IO; time is an argument.

Everything that can happen to an address is one line of `TRANSITIONS`; what is not in that table is a fault of the
caller and raises, changing nothing. The pace of the probes comes from outside (`Evidence`), since it follows from the
link.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from arpipam.protocol import arp
from arpipam.protocol.outbox import Outbox

if TYPE_CHECKING:
    import random
    from collections.abc import Collection

    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.witnesses import Evidence


class State(StrEnum):
    """Where an address stands."""

    WAITING = "waiting"
    """The random delay before the first probe."""
    PROBING = "probing"
    SETTLING = "settling"
    """All probes are out; listening to the very end."""
    FREE = "free"
    """Nobody answered. It is nobody's until `claim`."""
    IN_USE = "in use"
    CONTENDED = "contended"
    """Another station is probing for it."""
    ANNOUNCING = "announcing"
    DEFENDING = "defending"
    GUARDING = "guarding"
    """Its owner answers for itself; we only look out for others who use it."""
    LOST = "lost"
    """Given up after a conflict."""
    RELEASED = "released"


class Input(StrEnum):
    """What can happen."""

    PROBE_DUE = "probe due"
    PROBES_DONE = "probes done"
    QUIET = "quiet until the end"
    USED = "a station uses it"
    RIVAL = "a station probes for it"
    ASKED = "a station asks for it"
    CLAIM = "claim"
    ANNOUNCE_DUE = "announcement due"
    ANNOUNCED = "announced"
    DEFEND = "conflict, defended"
    NOTE = "conflict, noted"
    YIELD = "conflict, given up"
    ADOPT = "ours since before"
    HAND_OVER = "its owner answers"
    TAKE_OVER = "its owner is gone"
    RELEASE = "release"


class Policy(StrEnum):
    """What to do about a conflict over an address that we hold (RFC 5227, 2.4)."""

    NEVER = "never"
    """(a) give the address up at once."""
    ONCE = "once"
    """(b) defend it, and give it up at the second conflict within DEFEND_INTERVAL."""
    ALWAYS = "always"
    """(c) defend it for ever, with at most one announcement in DEFEND_INTERVAL."""
    REPORT = "report"
    """Neither defend it nor give it up: somebody is told, and decides."""


_MOST_REPLIES = 1024
"""Answers that may wait to leave at one time."""

_S, _I = State, Input
_SEEKING = (_S.WAITING, _S.PROBING, _S.SETTLING, _S.FREE)
_ANSWERING = (_S.ANNOUNCING, _S.DEFENDING)
_HOLDING = (*_ANSWERING, _S.GUARDING)

TRANSITIONS: dict[tuple[State, Input], State] = {
    (_S.WAITING, _I.PROBE_DUE): _S.PROBING,
    (_S.PROBING, _I.PROBE_DUE): _S.PROBING,
    (_S.PROBING, _I.PROBES_DONE): _S.SETTLING,
    (_S.SETTLING, _I.PROBE_DUE): _S.PROBING,  # answers stayed out meanwhile: the link is worse than it seemed
    (_S.SETTLING, _I.QUIET): _S.FREE,
    (_S.FREE, _I.CLAIM): _S.ANNOUNCING,
    (_S.ANNOUNCING, _I.ANNOUNCE_DUE): _S.ANNOUNCING,
    (_S.ANNOUNCING, _I.ANNOUNCED): _S.DEFENDING,
    (_S.DEFENDING, _I.ANNOUNCE_DUE): _S.ANNOUNCING,  # asked for again, say when the container runs
    (_S.WAITING, _I.ADOPT): _S.ANNOUNCING,
    (_S.ANNOUNCING, _I.HAND_OVER): _S.GUARDING,
    (_S.DEFENDING, _I.HAND_OVER): _S.GUARDING,
    (_S.GUARDING, _I.TAKE_OVER): _S.DEFENDING,
    (_S.GUARDING, _I.ANNOUNCE_DUE): _S.GUARDING,
    **{(state, _I.USED): _S.IN_USE for state in _SEEKING},
    **{(state, _I.RIVAL): _S.CONTENDED for state in _SEEKING},
    **{
        (state, _I.ASKED): state for state in _SEEKING
    },  # an ordinary request is no conflict, and not ours to answer yet
    **{(state, _I.ASKED): state for state in _HOLDING},  # answered, probes too; by its owner while we guard it
    **{(state, _I.DEFEND): state for state in _HOLDING},
    **{(state, _I.NOTE): state for state in _HOLDING},
    **{(state, _I.YIELD): _S.LOST for state in _HOLDING},
    **{(state, _I.RELEASE): _S.RELEASED for state in (*_SEEKING, *_HOLDING)},
}


class IllegalTransition(RuntimeError):  # noqa: N818 - the name says what happened, as in h11
    """The caller asked for a step that does not lead on from this state; nothing has changed."""


class Acd:
    """Address conflict detection for one address under one MAC.

    `outbox` holds the frames to send, `deadline` the time at which `advance` wants to be called (None: nothing is due,
    or frames have to leave first), `state` the outcome so far.
    """

    def __init__(
        self,
        address: int,
        mac: bytes,
        evidence: Evidence,
        *,
        rng: random.Random,
        now: float,
        local_macs: Collection[bytes] = (),
        policy: Policy = Policy.ONCE,
    ) -> None:
        self.address = address
        self.mac = mac
        self.outbox = Outbox()
        self.state = State.WAITING
        self.probes = 0
        """Probes that have really left."""
        self.other: bytes | None = None
        """The MAC of the station that uses or wants the address."""
        self.answer_after: float | None = None
        """Seconds from our last probe to the frame that showed the address in use."""
        self.conflicts = 0
        """Conflicts since the address is claimed."""
        self.since = 0
        """When it was claimed, microseconds since 1970, which announcements say; 0: they do not."""
        self.elder: bool | None = None
        """Of the last conflict: whether ours is the elder claim; None where the other one did not say."""
        self.policy = policy
        self.deadline: float | None = now + rng.uniform(0, evidence.timing.probe_wait)
        self._evidence = evidence
        self._timing = evidence.timing
        self._rng = rng
        self._local_macs = local_macs
        self._former: set[bytes] = set()
        self._rivals: dict[bytes, bool] = {}
        """The other claim that was met last, by its MAC: whether ours is elder."""
        self._announcements = 0
        self._last_probe: float | None = None
        self._last_defence: float | None = None

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take in a packet from the link."""
        if packet.sender_mac == self.mac or self.state not in _LIVE or packet.sender_mac in self._former:
            return  # our own frame come back (2.1.1, "may be echoed"), or the owner itself after hand-over
        if packet.sender_ip == self.address:
            self._used(packet, now)
        elif packet.target_ip == self.address and packet.operation == arp.REQUEST:
            self._asked(packet)

    def advance(self, now: float) -> None:
        """Do what is due by now. Whatever arrived before `now` must have been received before."""
        if self.deadline is None or now < self.deadline:
            return
        if self.state is State.ANNOUNCING:
            self._step(Input.ANNOUNCE_DUE)
            self._announce()
        elif self.state is State.SETTLING and self._evidence.enough(self.probes, now):
            self._step(Input.QUIET)
            self.deadline = None
        elif self.state is State.PROBING and self._evidence.enough(self.probes, now):
            self._step(Input.PROBES_DONE)
            assert self._last_probe is not None  # noqa: S101 - PROBING is left only after a probe was sent
            self.deadline = self._last_probe + self._evidence.settle()
        else:
            self._step(Input.PROBE_DUE)
            self.deadline = None
            self.outbox.put(arp.probe(self.mac, self.address), self._probed)

    def claim(self) -> None:
        """Take the free address: announce it now, and answer for it from this moment (2.3)."""
        self._step(Input.CLAIM)
        self._announce()

    def announce(self) -> None:
        """Announce once more ANNOUNCE_NUM times, say since the owner is up now."""
        self._announcements = 0
        if self.state is State.GUARDING:
            self._step(Input.ANNOUNCE_DUE)
            self.outbox.put(arp.announcement(self.mac, self.address, self.since))
        elif self.state is State.DEFENDING or self.deadline is not None:  # else one is on its way out already
            self._step(Input.ANNOUNCE_DUE)
            self._announce()

    def adopt(self) -> None:
        """The address was ours before, under another process: announce it, and answer for it from this moment."""
        self._step(Input.ADOPT)
        self._announce()

    def hand_over(self) -> None:
        """Its owner answers for itself: only look out for others from now on."""
        self._step(Input.HAND_OVER)
        self.deadline = None
        self.outbox.clear()

    def take_over(self) -> None:
        """Its owner is gone: answer for it again, unless an elder claim is known, to which it goes now."""
        if self.elder is False:
            self._stop(Input.YIELD)
        else:
            self._step(Input.TAKE_OVER)

    def rename(self, mac: bytes) -> None:
        """The address we answer for goes to another MAC of ours: say so at once."""
        self._step(Input.ANNOUNCE_DUE)
        self._former = {*self._former, self.mac} - {mac}
        self.mac = mac
        self.outbox.clear()
        self._announcements = 0
        if self.state is State.GUARDING:
            self.outbox.put(arp.announcement(self.mac, self.address, self.since))
        else:
            self._announce()

    def release(self) -> None:
        """Stop; the address is not answered for any more."""
        self._step(Input.RELEASE)
        self.deadline = None
        self.outbox.clear()

    def _used(self, packet: ArpPacket, now: float) -> None:
        """Somebody sends with our address as its own: a conflict, request or reply (2.1.1 and 2.4)."""
        self.other = packet.sender_mac
        if self.state in _SEEKING:
            if self._last_probe is not None:
                self.answer_after = now - self._last_probe
            self._stop(Input.USED)
            return
        self.conflicts += 1
        # Two claims of ours met, after a cut say: both sides know which one is elder. The owner of the other one says
        # nothing of that in its own frames.
        self.elder = self._rivals.get(packet.sender_mac)
        if packet.since and self.since:
            self.elder = (self.since, self.mac) < (packet.since, packet.sender_mac)
            self._rivals = {packet.sender_mac: self.elder}
        interval = self._timing.defend_interval
        recent = self._last_defence is not None and now - self._last_defence < interval
        if self.elder is False:
            if self.state is State.GUARDING:
                self._step(Input.NOTE)  # its owner uses it all the same; whoever is told has to move the owner
            else:
                self._stop(Input.YIELD)
        elif self.elder is None and self.policy is Policy.REPORT:
            self._step(Input.NOTE)
        elif self.elder is None and (self.policy is Policy.NEVER or (self.policy is Policy.ONCE and recent)):
            self._stop(Input.YIELD)
        else:
            self._step(Input.DEFEND)
            if not recent:
                self._last_defence = now
                self.outbox.put(arp.announcement(self.mac, self.address, self.since))

    def _asked(self, packet: ArpPacket) -> None:
        """Somebody asks for the address, by a probe or by an ordinary request."""
        local = packet.sender_mac in self._local_macs
        if self.state is State.GUARDING:
            self._step(Input.ASKED)
        elif self.state in _ANSWERING:
            self._step(Input.ASKED)
            # A frame to our own kernel would leave by the wrong side; a flood of questions must not become one of
            # answers.
            if not local and len(self.outbox) < _MOST_REPLIES:
                self.outbox.put(arp.reply(self.mac, packet))
        elif packet.is_probe and not local:
            self.other = packet.sender_mac
            self._stop(Input.RIVAL)
        else:
            self._step(Input.ASKED)

    def _probed(self, now: float) -> None:
        self.probes += 1
        self._last_probe = now
        timing = self._timing
        if timing.probe_num is None:
            self.deadline = now + self._evidence.gap()
        elif self.probes < timing.probe_num:
            self.deadline = now + self._rng.uniform(timing.probe_min, timing.probe_max)
        else:
            self.deadline = now  # ANNOUNCE_WAIT counts from the last probe

    def _announce(self) -> None:
        self.deadline = None
        self.outbox.put(arp.announcement(self.mac, self.address, self.since), self._announced)

    def _announced(self, now: float) -> None:
        self._announcements += 1
        if self._announcements < self._timing.announce_num:
            self.deadline = now + self._timing.announce_interval
        else:
            self._step(Input.ANNOUNCED)

    def _stop(self, what: Input) -> None:
        self._step(what)
        self.deadline = None
        self.outbox.clear()

    def _step(self, what: Input) -> None:
        try:
            self.state = TRANSITIONS[self.state, what]
        except KeyError:
            raise IllegalTransition(f"{what.value!r} in state {self.state.value!r}") from None


_LIVE = frozenset((*_SEEKING, *_HOLDING))
