"""RFC 5227 for one address: probe, claim, announce, defend. No IO; time is an argument.

Theory of operation
-------------------
One `Acd` stands for one address under one MAC. It passes through three groups of states:

1. Probing (WAITING, PROBING, SETTLING). It asks in rounds and listens. Each round is an ordinary request from our own
   address; only some carry a probe too, since a station may take two within seconds for a conflict and delete its
   address. A frame from the address ends in IN_USE, another station's probe for it in CONTENDED; silence to the end
   leads to FREE. The pace, the number of rounds and which of them carry a probe come from the witnesses of the search
   (`SearchWitnesses`), since they follow from the link.
2. FREE. The address is not reserved. The caller claims it at once, or lets it go.
3. Held (ANNOUNCING, DEFENDING, GUARDING). From `claim` on we answer for the address; after `guard` its owner does,
   and we only watch. A frame of another station from the address is a conflict. `decide` (policy.py) says what follows:
   defend, report or give up. LOST and RELEASED are final, and nothing is sent from them.

Three kinds of things move it: packets (`receive`), time (`advance`) and the caller (`claim`, `announce`, `guard`,
...). Each is an `Input`. `TRANSITIONS` holds, for each state, the inputs that are legal there and what comes next;
where that depends on a decision, it lists the decisions. Any other input is a fault of the caller: it raises
`IllegalTransition` and changes nothing.

The caller reads what happened from `events`, never by comparing states. The queue of events is bounded: a flood of
conflicts that nobody reads is counted in `dropped_events`.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING

from arpipam.protocol import arp
from arpipam.protocol.events import Announced, Conflict, Contended, Defended, Lost, Ready, Used
from arpipam.protocol.outbox import Outbox
from arpipam.protocol.policy import MAX_OLDER_CLAIM, Decision, Policy, decide, is_older
from arpipam.protocol.timing import PROBE_NUM

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Mapping

    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.events import Event
    from arpipam.protocol.witnesses import SearchWitnesses


class AcdState(StrEnum):
    """Where an address stands."""

    WAITING = "waiting"
    """The random delay before the first probe."""
    PROBING = "probing"
    SETTLING = "settling"
    """All probes are out; listening to the very end."""
    FREE = "free"
    """No station answered. The address is not reserved: use `claim` to keep it."""
    IN_USE = "in use"
    CONTENDED = "contended"
    """Another station is probing for it."""
    ANNOUNCING = "announcing"
    DEFENDING = "defending"
    GUARDING = "guarding"
    """Its owner answers for itself; we only watch for others who use it."""
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
    ADOPT = "ours since before"
    OWNER_ANSWERS = "its owner answers"
    TAKE_OVER = "its owner is gone"
    RELEASE = "release"


MOST_REPLIES = 1024
"""Answers, and announcements that the caller asks for, that may wait to leave at one time."""
MOST_EVENTS = 256
"""Events that may wait to be read at one time. The four that end probing or the claim are kept in any case."""

_LATELY = 60.0
"""Seconds: a claim that was met longer ago than this may be gone by now."""

_S, _I, _D = AcdState, Input, Decision
_SEEKING = (_S.WAITING, _S.PROBING, _S.SETTLING, _S.FREE)
_ANSWERING = (_S.ANNOUNCING, _S.DEFENDING)
_HOLDING = (*_ANSWERING, _S.GUARDING)

TRANSITIONS: Mapping[AcdState, Mapping[Input, AcdState | Mapping[Decision, AcdState]]] = {
    _S.WAITING: {
        _I.PROBE_DUE: _S.PROBING,
        _I.ADOPT: _S.ANNOUNCING,
        _I.USED: _S.IN_USE,
        _I.RIVAL: _S.CONTENDED,
        _I.ASKED: _S.WAITING,  # an ordinary request is no conflict, and the answer is not ours to give yet
        _I.RELEASE: _S.RELEASED,
    },
    _S.PROBING: {
        _I.PROBE_DUE: _S.PROBING,
        _I.PROBES_DONE: _S.SETTLING,
        _I.USED: _S.IN_USE,
        _I.RIVAL: _S.CONTENDED,
        _I.ASKED: _S.PROBING,
        _I.RELEASE: _S.RELEASED,
    },
    _S.SETTLING: {
        _I.PROBE_DUE: _S.PROBING,  # witnesses stayed silent meanwhile: the link is worse than it seemed
        _I.QUIET: _S.FREE,
        _I.USED: _S.IN_USE,
        _I.RIVAL: _S.CONTENDED,
        _I.ASKED: _S.SETTLING,
        _I.RELEASE: _S.RELEASED,
    },
    _S.FREE: {
        _I.CLAIM: _S.ANNOUNCING,
        _I.USED: _S.IN_USE,
        _I.RIVAL: _S.CONTENDED,
        _I.ASKED: _S.FREE,
        _I.RELEASE: _S.RELEASED,
    },
    _S.ANNOUNCING: {
        _I.ANNOUNCE_DUE: _S.ANNOUNCING,
        _I.ANNOUNCED: _S.DEFENDING,
        _I.ASKED: _S.ANNOUNCING,  # answered, probes too
        _I.USED: {_D.DEFEND: _S.ANNOUNCING, _D.REPORT: _S.ANNOUNCING, _D.GIVE_UP: _S.LOST},
        _I.OWNER_ANSWERS: _S.GUARDING,
        _I.RELEASE: _S.RELEASED,
    },
    _S.DEFENDING: {
        _I.ANNOUNCE_DUE: _S.ANNOUNCING,  # the caller asked for it, for example because the container runs
        _I.ASKED: _S.DEFENDING,
        _I.USED: {_D.DEFEND: _S.DEFENDING, _D.REPORT: _S.DEFENDING, _D.GIVE_UP: _S.LOST},
        _I.OWNER_ANSWERS: _S.GUARDING,
        _I.RELEASE: _S.RELEASED,
    },
    _S.GUARDING: {
        _I.ANNOUNCE_DUE: _S.GUARDING,
        _I.ASKED: _S.GUARDING,  # its owner answers
        _I.USED: {_D.DEFEND: _S.GUARDING, _D.REPORT: _S.GUARDING, _D.GIVE_UP: _S.LOST},
        _I.TAKE_OVER: {_D.DEFEND: _S.DEFENDING, _D.GIVE_UP: _S.LOST},
        _I.RELEASE: _S.RELEASED,
    },
    _S.IN_USE: {},
    _S.CONTENDED: {},
    _S.LOST: {},
    _S.RELEASED: {},
}


class IllegalTransition(RuntimeError):  # noqa: N818 - the name says what happened, as in h11
    """The caller asked for a step that does not lead on from this state; nothing has changed."""


class Acd:
    """Address conflict detection for one address under one MAC.

    `outbox` holds the frames to send, `deadline` the time at which `advance` wants to be called (None: nothing is due,
    or frames have to leave first), `state` the outcome so far. Times are seconds on the link's clock.
    """

    def __init__(
        self,
        address: int,
        mac: bytes,
        witnesses: SearchWitnesses,
        *,
        rng: random.Random,
        now: float,
        local_macs: Collection[bytes] = (),
        policy: Policy = Policy.ONCE,
        max_older_claim: float = MAX_OLDER_CLAIM,
        request: bytes | None = None,
    ) -> None:
        """`request`: the frame that asks for the address from our own; None: there is none, each round is a probe."""
        self.address = address
        self.mac = mac
        self.outbox = Outbox()
        self.state = AcdState.WAITING
        self.rounds = 0
        """Rounds that have really left, and ..."""
        self.probes = 0
        """... how many of them carried a probe."""
        self.dropped_events = 0
        self.since = 0
        """When it was claimed, microseconds since 1970, as announcements say; 0: they do not."""
        self.epoch: float | None = None
        """The time of day when the link's clock was 0, seconds since 1970; None: not known, and not compared."""
        self.policy = policy
        self.deadline: float | None = now + rng.uniform(0, witnesses.timing.probe_wait)
        self._witnesses = witnesses
        self._timing = witnesses.timing
        self._rng = rng
        self._local_macs = local_macs
        self._former: set[bytes] = set()
        self._max_older_claim = max_older_claim
        self._events: deque[Event] = deque()
        self._older: bool | None = None
        """Of the last conflict, at `_met` with the MAC `_other`: whether ours is the older claim; None: not known."""
        self._met = 0.0
        self._opponent = (arp.NO_MAC, False)
        """The other claim that was met last: its MAC, and whether ours is older."""
        self._other = arp.NO_MAC
        self._announcements = 0
        self._request = request
        self._last_round: float | None = None
        self._last_defence: float | None = None
        self._defence_waits = False
        """A defence is in the outbox: another one beside it would leave with it."""

    def events(self) -> list[Event]:
        """What has happened since the last call, oldest first; they are returned once."""
        events, self._events = list(self._events), deque()
        return events

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
        enough = self.probes >= PROBE_NUM and self._witnesses.enough(self.rounds, now)
        quiet = (self._last_round or 0.0) + self._witnesses.settle()
        if self.state is AcdState.ANNOUNCING:
            self._step(Input.ANNOUNCE_DUE)
            self._announce()
        elif self.state is AcdState.SETTLING and enough and now >= quiet:
            self._step(Input.QUIET)
            self.deadline = None
            self._emit(Ready())
        elif enough:
            if self.state is AcdState.PROBING:
                self._step(Input.PROBES_DONE)
            self.deadline = quiet  # what others take to answer may have shown meanwhile
        else:
            self._step(Input.PROBE_DUE)
            self.deadline = None
            self._round(now)

    def claim(self) -> None:
        """Take the free address: announce it now, and answer for it from this moment (2.3)."""
        self._step(Input.CLAIM)
        self._announce(first=True)

    def announce(self) -> None:
        """Announce ANNOUNCE_NUM times more, for example because the owner is up now; once where we guard it."""
        under_way = self.state is AcdState.ANNOUNCING and self.deadline is None
        self._step(Input.ANNOUNCE_DUE)
        self._announcements = 0
        if self.state is AcdState.GUARDING:
            if len(self.outbox) < MOST_REPLIES:
                self._announce_once(Announced())
        elif not under_way:
            self._announce()

    def adopt(self) -> None:
        """The address was ours before, under another process: announce it, and answer for it from this moment."""
        self._step(Input.ADOPT)
        self._announce(first=True)

    def guard(self) -> None:
        """Its owner answers for itself: only watch for others from now on."""
        self._stop(Input.OWNER_ANSWERS)

    def take_over(self, now: float) -> None:
        """Its owner is gone: answer for it again, unless an older claim was met lately, which gets the address now."""
        if self._older is False and now - self._met < _LATELY:
            self._stop(Input.TAKE_OVER, Decision.GIVE_UP)
            self._emit(Lost(self._other))
        else:
            self._step(Input.TAKE_OVER, Decision.DEFEND)

    def change_mac(self, mac: bytes) -> None:
        """The address that we hold goes to another MAC of ours: announce it at once."""
        self._step(Input.ANNOUNCE_DUE)
        self._former = {*self._former, self.mac} - {mac}
        self.mac = mac
        self._silence()
        self._announcements = 0
        if self.state is AcdState.GUARDING:
            self._announce_once(Announced())
        else:
            self._announce()

    def release(self) -> None:
        """Stop: nothing is sent any more."""
        self._stop(Input.RELEASE)

    def _used(self, packet: ArpPacket, now: float) -> None:
        """A station sends with our address as its own: a conflict, request or reply (2.1.1 and 2.4)."""
        if self.state in _SEEKING:
            self._stop(Input.USED)
            self._emit(Used(packet.sender_mac, None if self._last_round is None else now - self._last_round))
            return
        older = self._compare(packet, now)
        recent = self._last_defence is not None and now - self._last_defence < self._timing.defend_interval
        guarding = self.state is AcdState.GUARDING
        decision = decide(self.policy, older=older, recently_defended=recent, guarding=guarding)
        self._step(Input.USED, decision)
        self._older, self._other, self._met = older, packet.sender_mac, now
        self._emit(Conflict(packet.sender_mac, older, decision))
        if decision is Decision.GIVE_UP:
            self._silence()
            self._emit(Lost(packet.sender_mac))
        elif decision is Decision.DEFEND and not recent and not self._defence_waits:
            self._last_defence = now
            self._defence_waits = True
            self._announce_once(Defended())

    def _compare(self, packet: ArpPacket, now: float) -> bool | None:
        """Whether ours is the older of two claims, for example after a cut link is whole again.

        Only announcements say since when; for other frames of the same station the last answer stays.
        """
        time_of_day = None if self.epoch is None else self.epoch + now
        ours, theirs = (self.since, self.mac), (packet.since, packet.sender_mac)
        older = is_older(ours, theirs, time_of_day=time_of_day, max_older_claim=self._max_older_claim)
        if older is not None:
            self._opponent = packet.sender_mac, older
        return self._opponent[1] if self._opponent[0] == packet.sender_mac else None

    def _asked(self, packet: ArpPacket) -> None:
        """A station asks for the address, by a probe or by an ordinary request."""
        local = packet.sender_mac in self._local_macs
        if self.state in _SEEKING and packet.is_rival and not local:
            self._stop(Input.RIVAL)
            self._emit(Contended(packet.sender_mac))
            return
        self._step(Input.ASKED)
        # To our own kernel it would leave by the wrong side; a flood of questions must not become one of answers.
        if self.state in _ANSWERING and not local and len(self.outbox) < MOST_REPLIES:
            self.outbox.put(arp.reply(self.mac, packet))

    def _round(self, now: float) -> None:
        """Ask; the round counts once its last frame has left."""
        probe = self._request is None or self._witnesses.probe_is_due(self.rounds, self.probes, now)
        if self._request is not None:
            self.outbox.put(self._request, None if probe else self._round_left)
        if probe:
            self.outbox.put(arp.probe(self.mac, self.address), self._probed)

    def _probed(self, now: float) -> None:
        self.probes += 1
        self._round_left(now)

    def _round_left(self, now: float) -> None:
        self.rounds += 1
        self._last_round = now
        timing = self._timing
        if timing.probe_num is None:
            self.deadline = now + self._witnesses.gap()
        elif self.rounds < timing.probe_num:
            self.deadline = now + self._rng.uniform(timing.probe_min, timing.probe_max)
        else:
            self.deadline = now  # ANNOUNCE_WAIT counts from the last round

    def _announce(self, *, first: bool = False) -> None:
        """Announce it. `first`: we did not answer before. Who asked then is told by a reply, and may hear nothing else.

        So does `busybox udhcpc -a`, for 2 s after its only question; a quick search begins and ends within them.
        """
        self.deadline = None
        self.outbox.put(arp.announcement(self.mac, self.address, self.since), self._announced)
        if first:
            self.outbox.put(arp.reply_to_all(self.mac, self.address, self.since))

    def _announce_once(self, event: Event) -> None:
        def sent(now: float) -> None:
            if isinstance(event, Defended):
                self._defence_waits = False
                self._last_defence = now  # DEFEND_INTERVAL counts from the frame, however long it waited
            self._emit(event)

        self.outbox.put(arp.announcement(self.mac, self.address, self.since), sent)

    def _announced(self, now: float) -> None:
        self._announcements += 1
        if self._announcements < self._timing.announce_num:
            self.deadline = now + self._timing.announce_interval
        else:
            self._step(Input.ANNOUNCED)
            self._emit(Announced())

    def _stop(self, what: Input, decision: Decision | None = None) -> None:
        self._step(what, decision)
        self._silence()

    def _silence(self) -> None:
        self.deadline = None
        self.outbox.clear()
        self._defence_waits = False

    def _emit(self, event: Event) -> None:
        if len(self._events) < MOST_EVENTS or isinstance(event, _FINAL):
            self._events.append(event)
        else:
            self.dropped_events += 1

    def _step(self, what: Input, decision: Decision | None = None) -> None:
        after = TRANSITIONS[self.state].get(what)
        if isinstance(after, AcdState) or after is None:
            after = None if decision else after
        else:
            after = after.get(decision) if decision else None
        if after is None:
            how = f"{what.value!r}, decided {decision.value!r}," if decision else f"{what.value!r}"
            raise IllegalTransition(f"{how} in state {self.state.value!r}")
        self.state = after


_LIVE = frozenset((*_SEEKING, *_HOLDING))
_FINAL = (Ready, Used, Contended, Lost)
"""These happen once at most, so keeping them needs no bound."""
