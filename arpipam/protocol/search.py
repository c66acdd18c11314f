"""What every search does: a survey, the witnesses and the canary in it, then RFC 5227 for what is chosen.

A protocol object without IO: it is given packets (`receive`) and the time (`advance`), has frames to send (`outboxes`),
says when it wants to be called (`deadline`), and is `done` at the end. Its driver hands over everything that arrived
before `now` first, and then calls `advance(now)`.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from arpipam.errors import ArpipamError, UnknownError
from arpipam.protocol import arp
from arpipam.protocol.canary import Canary
from arpipam.protocol.interest import Interest
from arpipam.protocol.outbox import Outbox
from arpipam.protocol.outcome import NO_WITNESS, Verdict
from arpipam.protocol.passage import PASSED_FOR, Passage
from arpipam.protocol.probing import Probing
from arpipam.protocol.survey import FRESH, Answer, RecentRequests, Survey
from arpipam.protocol.witnesses import SELDOM, LinkWitnesses, SearchWitnesses

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator

    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.parameters import Parameters
    from arpipam.protocol.timing import Timing

WITNESS_HUNT = 1024
"""Addresses that are surveyed at most for the sake of finding one station that answers, ..."""
HUNT_WINDOW = 256
"""... so many at a time, ..."""
SMALL_WINDOW = 4
"""... or so many where the interface has no address, so that surveys are probes."""
SURVEY_ROUNDS = 2
"""How often a silent address is asked for in all; the later rounds go out beside the probes."""
_LONGEST_LISTENING = 0.1


class LinkMemory:
    """What the searches on one link share: the requests to the witnesses, and what their surveys asked."""

    def __init__(self, parameters: Parameters) -> None:
        self.longest_probing = parameters.longest_probing
        self.passed_at = float("-inf")
        """When a station answered a MAC that is not this host's own (see passage.py)."""
        confirming = parameters.confirm.longest if parameters.confirm else 0.0
        seldom = 0.0 if parameters.own_address else SELDOM
        self.witnesses = LinkWitnesses(max(self.longest_probing, parameters.budget + confirming, seldom))
        self.requests = RecentRequests()


class Search:
    """The common part of `FirstFree` and `Verdicts`: surveys, then a `Probing` as `_choose` decides.

    Where no witness is named, a station of the link that answers is looked for first, among `possible_witnesses`
    (addresses of the same subnet).
    """

    def __init__(
        self,
        mac: bytes,
        parameters: Parameters,
        *,
        rng: random.Random,
        now: float,
        possible_witnesses: Iterable[int] = (),
        memory: LinkMemory | None = None,
    ) -> None:
        self.mac = mac
        """The MAC that will own the address: probes are sent from it."""
        self.parameters = parameters
        self.done = False
        self.error: ArpipamError | None = None
        """Why there is no outcome, once `done`."""
        self.started = now
        self.canary = Canary(parameters.canary, parameters.last, rng=rng, taken=self._is_taken)
        memory = self.memory = LinkMemory(parameters) if memory is None else memory
        self.witnesses = SearchWitnesses(
            parameters.timing,
            bound=parameters.miss_probability,
            required=parameters.witnesses,
            alone=parameters.alone,
            seldom=not parameters.own_address,
            lately=parameters.answered_lately,
            link=memory.witnesses,
        )
        self.probing: Probing | None = None
        self.answered: dict[int, bytes] = {}
        """Stations with their MACs that have answered a probe of ours: they shall not get another one soon."""
        self._macs: set[bytes] = set()
        """Of stations that have answered the survey."""
        self._rng = rng
        self._possible_witnesses = islice(possible_witnesses, WITNESS_HUNT)
        # Where the interface has no address its requests are probes, and no station shall get two of them: ask once.
        rounds = SURVEY_ROUNDS if parameters.own_address else 1
        memory.witnesses.join(now)
        self.witnesses.reset(now - FRESH)
        self.survey = Survey(
            parameters.own_mac, parameters.own_address, rounds=rounds, on_answer=self._answered, recent=memory.requests
        )
        self._outbox = Outbox()
        self._span: tuple[int, int] | None = None
        """From the first to the last of the addresses that may be chosen; in between may be addresses that may not."""
        self._interest = Interest()
        self._interest_of: tuple[object, ...] | None = None
        self._pause_until: float | None = None
        self._listening_since = now
        self.survey.add((n for n in parameters.neighbours if n not in parameters.witnesses), now)

    @property
    def deadline(self) -> float | None:
        """When `advance` wants to be called; None: when the frames have left."""
        if self.done:
            return None
        if self._pause_until is not None:
            return self._pause_until
        if self.probing is not None:
            return self.probing.deadline
        if self._outbox or self.survey:
            return None
        return max(self.survey.last_sent, self._listening_since) + self._listen()

    @property
    def interest(self) -> Interest | None:
        """Which packets it has a use for."""
        canaries = self.canary.addresses()
        if self._interest_of != (self.probing, self._span, canaries):  # asked at every turn, and seldom another
            tried = () if self.probing is None else self.probing.acds
            ours = frozenset((self.mac, self.parameters.own_mac))
            self._interest = Interest(frozenset(tried), ours, self._span, frozenset(canaries))
            self._interest_of = self.probing, self._span, canaries
        return self._interest

    def outboxes(self) -> Iterator[Outbox | Survey]:
        """The frames that wait to leave, the urgent ones first."""
        if self.probing is not None:
            yield from self.probing.outboxes()
        yield self._outbox
        yield self.survey

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take in a packet from the link."""
        if packet.sender_mac == self.mac:
            return
        if packet.target_ip == arp.UNSPECIFIED and packet.target_mac in (self.mac, self.parameters.own_mac):
            self.answered[packet.sender_ip] = packet.sender_mac
        if packet.sender_ip != arp.UNSPECIFIED:  # a probe shows no station; when many search, most packets are probes
            self.survey.receive(packet, now)
            if self.canary.receive(packet):
                self._ask(self.canary.addresses(), now)
        if self.probing is not None:
            self.probing.receive(packet, now)
        elif packet.operation == arp.REPLY and packet.target_mac == self.parameters.own_mac:
            self.witnesses.heard(packet.sender_ip, now, beyond=self.parameters.outward(packet.sender_mac))

    def overflow(self, dropped: int, now: float) -> None:
        """The kernel dropped that many frames: what seemed silent may not have been."""
        if self.probing is not None:
            self.probing.overflow(dropped, now)

    def advance(self, now: float) -> None:
        """Go on, if something is due by now."""
        deadline = self.deadline
        if self.done or deadline is None or now < deadline:
            return
        if self._pause_until is not None:
            self._pause_until = None
            self._resume(now)
        elif self.probing is None:
            self._choose(now)
        else:
            rounds = self.probing.rounds
            self.probing.advance(now)
            if self.probing.rounds > rounds:
                self.survey.ask_again(now)
            if self.probing.done:
                probing, self.probing = self.probing, None
                self.answered |= {
                    address: outcome.mac
                    for address, outcome in probing.outcomes.items()
                    if outcome.verdict is Verdict.IN_USE and outcome.mac is not None and probing.acds[address].probes
                }
                self._probed(probing, now)

    def passage(self, address: int, now: float) -> Passage | None:
        """What finds out, once the address is ours, whether its MAC passes; None: that is known, or nobody can say."""
        witnesses = [witness for witness in self.witnesses.all() if self.witnesses.answers(witness)]
        if not witnesses or self.mac == self.parameters.own_mac or now - self.memory.passed_at < PASSED_FOR:
            return None
        loss, round_trip = self.witnesses.likely_loss(), self.witnesses.round_trip or 0.0
        own = self.parameters.own_mac, self.parameters.own_address
        return Passage(self.mac, address, witnesses, own=own, loss=loss, round_trip=round_trip, now=now)

    def _resume(self, now: float) -> None:
        """A pause is over."""
        self._choose(now)

    def _choose(self, now: float) -> None:
        """The survey has been listened to: try something, or give up."""
        raise NotImplementedError

    def _probed(self, probing: Probing, now: float) -> None:
        """A probing has ended: every address of it has an outcome."""
        raise NotImplementedError

    def _try(self, addresses: Iterable[int], now: float, *, timing: Timing | None = None) -> None:
        witnesses = self.witnesses if timing is None else self.witnesses.under(timing)
        self.probing = Probing(addresses, self.mac, witnesses, self.canary, self.parameters, rng=self._rng, now=now)
        self.probing.advance(now)

    def _survey(self, addresses: Iterable[int], now: float) -> None:
        """Ask for these too, and listen before the next choice."""
        addresses = list(addresses)
        self.survey.add(addresses, now)
        for address in addresses:
            if (mac := self.parameters.answered_lately.get(address)) is not None:
                self.survey.note(address, Answer(mac, None, to_us=not self.parameters.own_address))
        self._ask((*self.witnesses.required, *self.canary.addresses()), now)
        self._listening_since = now

    def _hunt(self, now: float) -> bool:
        """Survey some more addresses in the hope of a witness; whether there were any."""
        window = list(islice(self._possible_witnesses, HUNT_WINDOW if self.parameters.own_address else SMALL_WINDOW))
        self._survey((address for address in window if address not in self.parameters.local_addresses), now)
        return bool(window)

    def _ask(self, addresses: Iterable[int], now: float) -> None:
        """Ask for witnesses or canaries, but for those that were asked for just now."""
        for address in addresses:
            if self.witnesses.is_due(address, now):
                self._outbox.put(self.parameters.request(address), partial(self._has_asked, address))

    def _has_asked(self, address: int, now: float) -> None:
        self.witnesses.sent(address, now)
        self._listening_since = now

    def _is_taken(self, address: int) -> bool:
        """Whether an address is used, as far as is known, or may be tried at this moment."""
        tried = self.probing is not None and address in self.probing.acds
        known = address in self.witnesses.all() or address in self.parameters.local_addresses
        return tried or known or address in self.survey.answers

    def _listen(self) -> float:
        """How long to listen after the survey's last request, seconds: a silent witness is waited for a while."""
        if self.witnesses.silent():
            return _LONGEST_LISTENING
        return min(self.witnesses.gap(), _LONGEST_LISTENING)

    def _answered(self, address: int, answer: Answer) -> None:
        """The survey found a station: it is one more witness, and may show the round trip."""
        if not answer.to_us or answer.mac in self.parameters.local_macs or not self.parameters.outward(answer.mac):
            return
        self.witnesses.add(address)
        if answer.round_trip is not None:
            self.witnesses.measure(answer.round_trip)
            if answer.mac in self._macs:
                self.witnesses.proxied(answer.round_trip)
        self._macs.add(answer.mac)

    def _unwitnessed(self) -> bool:
        """Whether no station has shown that this link carries ARP, and the caller did not say that none is needed."""
        return not (self.witnesses.required or self.witnesses.found or self.parameters.alone)

    def _fail(self, error: ArpipamError) -> None:
        self.error = error
        self.done = True

    def _no_witness(self) -> None:
        self._fail(UnknownError(NO_WITNESS))
