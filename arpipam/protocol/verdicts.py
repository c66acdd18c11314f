"""The verdict on given addresses, all of those that stay silent probed in the same rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arpipam.protocol.outcome import NO_WITNESS, Outcome, Verdict
from arpipam.protocol.search import Search

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from arpipam.protocol.acd import Acd
    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.parameters import Parameters
    from arpipam.protocol.probing import Probing
    from arpipam.protocol.search import LinkMemory
    from arpipam.protocol.survey import Answer

_PAUSE = 0.2, 0.6
"""Seconds, before an address is tried again that another station probes for; longer than the quiet of a rival like us
between its first probe and its last ones."""


class Verdicts(Search):
    """Judges `addresses`, which would be used under `mac`.

    `tries`: how often an address that another station probes for is tried, each time after a random pause in which that
    station may go on. A station that merely looks for who is there is gone by then.
    """

    def __init__(
        self,
        addresses: Iterable[int],
        mac: bytes,
        parameters: Parameters,
        *,
        rng: random.Random,
        now: float,
        tries: int,
        possible_witnesses: Iterable[int] = (),
        memory: LinkMemory | None = None,
    ) -> None:
        super().__init__(mac, parameters, rng=rng, now=now, possible_witnesses=possible_witnesses, memory=memory)
        self.outcomes: dict[int, Outcome] = {}
        self.acds: dict[int, Acd] = {}
        """The machines of the addresses that are FREE; they wait to be claimed at once."""
        self._tries = tries
        self._waiting: dict[int, Outcome] = {}
        """Contended, and to be tried again after the pause."""
        self._addresses = list(dict.fromkeys(addresses))
        for address in self._addresses:
            if address in parameters.local_addresses:
                self.outcomes[address] = Outcome(Verdict.IN_USE, parameters.own_mac, reason="this host's own address")
        # Who answers an ordinary request needs no probe, which some take for a conflict.
        self._survey((a for a in self._addresses if a not in self.outcomes), now)

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take in a packet from the link."""
        super().receive(packet, now)
        ours = packet.sender_mac == self.mac or packet.sender_mac in self.parameters.local_macs
        if packet.is_rival and packet.target_ip in self._waiting and not ours:  # it goes on: leave the address to it
            self.outcomes[packet.target_ip] = self._waiting.pop(packet.target_ip)

    def _choose(self, now: float) -> None:
        self._waiting.clear()
        for address in self._addresses:
            if address not in self.outcomes and (answer := self.survey.answers.get(address)) is not None:
                self.outcomes[address] = self._used(answer)
        open_ = [address for address in self._addresses if address not in self.outcomes]
        if self.parameters.closed:  # who has answered is a container of this host
            self.outcomes |= {address: Outcome(Verdict.UNKNOWN, reason=self.parameters.closed) for address in open_}
            self.done = True
        elif not open_:
            self.done = True
        elif self._unwitnessed() and self._hunt(now):
            pass
        elif self._unwitnessed():
            self.outcomes |= {address: Outcome(Verdict.UNKNOWN, reason=NO_WITNESS) for address in open_}
            self.done = True
        else:
            self._tries -= 1
            self._try(open_, now)

    def _used(self, answer: Answer) -> Outcome:
        if answer.mac == self.canary.mac:
            return Outcome(Verdict.UNKNOWN, reason=self.canary.doubt())
        return Outcome(Verdict.IN_USE, answer.mac, answer.round_trip)

    def _probed(self, probing: Probing, now: float) -> None:
        for address, outcome in probing.outcomes.items():
            if outcome.verdict is Verdict.CONTENDED and self._tries > 0:
                self._waiting[address] = outcome
            else:
                self.outcomes[address] = outcome
                if outcome.verdict is Verdict.FREE:
                    self.acds[address] = probing.acds[address]
        if self._waiting:
            self._pause_until = now + self._rng.uniform(*_PAUSE)
        else:
            self.done = True
