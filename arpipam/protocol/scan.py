"""Who is on the link: a survey of a whole subnet, round after round, until one finds no new station.

The rounds follow each other at the pace of the timing's probes, and only after the second is there a wait, as long as
that of a search after its last probe: twice the slowest round trip that was seen, within the timing's bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arpipam.protocol import arp
from arpipam.protocol.canary import Canary
from arpipam.protocol.outbox import Outbox
from arpipam.protocol.survey import Answer, Survey

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator

    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.parameters import Parameters

LEAST_ROUNDS = 2
MOST_ROUNDS = 8


class Scan:
    """Asks every address, and those that stay silent at least once more, until a round brings no answer."""

    def __init__(
        self,
        addresses: Iterable[int],
        parameters: Parameters,
        *,
        now: float,
        rng: random.Random | None = None,
        on_station: Callable[[int, Answer], None] | None = None,
    ) -> None:
        self.done = False
        # Where the interface has no address its requests are probes, and no station shall get two of them.
        self._least, most = (LEAST_ROUNDS, MOST_ROUNDS) if parameters.own_address else (1, 1)
        self.survey = Survey(parameters.own_mac, parameters.own_address, rounds=most, on_answer=self._heard)
        self.rounds = 1
        self.dropped = 0
        self.answered: dict[int, bytes] = {}
        """Stations with their MACs that have answered a probe of ours (see Search)."""
        self._canary = Canary(
            parameters.canary, parameters.last, rng=rng, taken=lambda address: address in self.survey.answers
        )
        self._parameters = parameters
        self._outbox = Outbox()
        if parameters.own_address:
            self._ask_canaries()
        self._known = 0
        self._timing = parameters.timing
        self._slowest = 0.0
        self._told = on_station
        self.survey.add((address for address in addresses if address not in parameters.local_addresses), now)
        if not parameters.own_address:
            for address, mac in parameters.answered_lately.items():
                self.survey.note(address, Answer(mac, None))

    @property
    def deadline(self) -> float | None:
        """When `advance` wants to be called; None: when the frames have left."""
        if self.done or self.survey:
            return None
        timing = self._timing
        if self.rounds < self._least and self.survey.silent:
            return self.survey.last_sent + timing.probe_min
        return self.survey.last_sent + max(timing.announce_wait, min(2 * self._slowest, timing.probe_max))

    @property
    def interest(self) -> None:
        """Everything: each sender is a station."""

    def outboxes(self) -> Iterator[Outbox | Survey]:
        """The frames that wait to leave."""
        yield self._outbox
        yield self.survey

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take in a packet from the link."""
        if packet.target_ip == arp.UNSPECIFIED and packet.target_mac == self._parameters.own_mac:
            self.answered[packet.sender_ip] = packet.sender_mac
        self.survey.receive(packet, now)
        if self._canary.receive(packet):
            self._ask_canaries()

    def _ask_canaries(self) -> None:
        for address in self._canary.addresses():
            self._outbox.put(self._parameters.request(address))

    def _heard(self, address: int, answer: Answer) -> None:
        if answer.round_trip is not None and answer.round_trip > self._slowest:
            self._slowest = answer.round_trip
        if self._told is not None:
            self._told(address, answer)

    def doubt(self) -> str:
        """Why the list of stations means nothing; empty where it does."""
        if silent := [witness for witness in self._parameters.witnesses if witness in self.survey.silent]:
            who = arp.address_texts(silent, self._parameters.names)
            return f"no answer from witness {who}: what is behind it is missing here; bring it back"
        return self._canary.doubt()

    def overflow(self, dropped: int, now: float) -> None:  # noqa: ARG002 - the next round asks again
        """The kernel dropped frames; the next round asks the silent again."""
        self.dropped += dropped

    def advance(self, now: float) -> None:
        """Go on to the next round, or end."""
        if self.deadline is None or now < self.deadline:
            return
        news = len(self.survey.answers) - self._known
        self._known += news
        if (self.rounds >= self._least and not news) or self.rounds == MOST_ROUNDS or not self.survey.silent:
            self.done = True
        else:
            self.rounds += 1
            self.survey.ask_again(now)
