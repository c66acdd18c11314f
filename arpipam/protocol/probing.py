"""RFC 5227 for one or more addresses, beside requests to the witnesses in the same rounds.

A verdict is only as good as the link was while the address was probed; `doubt` says what is wrong with it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from arpipam.protocol import arp
from arpipam.protocol.acd import Acd
from arpipam.protocol.events import Contended, Ready, Used
from arpipam.protocol.outbox import Outbox
from arpipam.protocol.outcome import NO_WITNESS, Outcome, Verdict

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator

    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.canary import Canary
    from arpipam.protocol.parameters import Parameters
    from arpipam.protocol.witnesses import SearchWitnesses


class Probing:
    """Probes `addresses` under `mac` until each has an outcome, at the latest when the budget is over."""

    def __init__(
        self,
        addresses: Iterable[int],
        mac: bytes,
        witnesses: SearchWitnesses,
        canary: Canary,
        parameters: Parameters,
        *,
        rng: random.Random,
        now: float,
    ) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.rounds = 0
        self._mac = mac
        self._witnesses = witnesses
        self._canary = canary
        self._parameters = parameters
        self._rng = rng
        self._controls = Outbox()
        """Requests to the witnesses and the canaries."""
        self._dropped = 0
        # A fixed timing takes as long as it takes; the budget is for what the link asks beyond that.
        self._began = now
        self._give_up = now + parameters.budget + witnesses.timing.longest
        self._start(addresses, now)

    def _start(self, addresses: Iterable[int], now: float) -> None:
        self._witnesses.reset(now)
        self.rounds = 0
        known = self._parameters
        self.acds = {
            address: Acd(
                address,
                self._mac,
                self._witnesses,
                rng=self._rng,
                now=now,
                local_macs=known.local_macs,
                request=known.request(address) if known.own_address else None,
            )
            for address in addresses
        }

    @property
    def done(self) -> bool:
        """Whether every address has an outcome."""
        return not self.acds.keys() - self.outcomes.keys()

    @property
    def deadline(self) -> float:
        """When `advance` wants to be called, at the latest."""
        if self.done:
            return self._began
        due = (acd.deadline for acd in self.acds.values() if acd.deadline is not None)
        return min(due, default=self._give_up)

    def outboxes(self) -> Iterator[Outbox]:
        """The frames that wait to leave."""
        yield self._controls
        for acd in self.acds.values():
            yield acd.outbox

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take in a packet from the link. What was judged free is watched on until it is claimed."""
        if packet.operation == arp.REPLY and packet.target_mac == self._parameters.own_mac:
            self._witnesses.heard(packet.sender_ip, now, beyond=self._parameters.outward(packet.sender_mac))
        acd = self.acds.get(packet.sender_ip) or self.acds.get(packet.target_ip)
        if acd is not None:
            acd.receive(packet, now)
            self._judge(acd, now)

    def overflow(self, dropped: int, now: float) -> None:
        """The kernel dropped frames, any of which may have been an answer: silence so far counts for nothing."""
        self._dropped += dropped
        self._controls.clear()
        ended = {address: outcome for address, outcome in self.outcomes.items() if outcome.verdict is not Verdict.FREE}
        again = [address for address in self.acds if address not in ended]
        self.outcomes = ended
        self._start(again, now)

    def advance(self, now: float) -> None:
        """Send what is due and judge what has ended. Whatever arrived before `now` must have been received before."""
        for acd in self.acds.values():
            acd.advance(now)
            if acd.outbox and acd.rounds >= self.rounds:
                self._round(now)
            self._judge(acd, now)
        if now >= self._give_up:
            for address, acd in self.acds.items():
                if address not in self.outcomes:
                    self.outcomes[address] = self._unknown(acd, self.doubt() or self._too_weak(acd.rounds, now), now)

    def doubt(self) -> str:
        """Why silence on this link means nothing at the moment; empty where it means something."""
        if self._canary.mac is not None:
            return self._canary.doubt()
        if silent := self._witnesses.silent():
            who = arp.address_texts(silent, self._parameters.names)
            return (
                f"no answer from witness {who}: what is behind it would look free; bring it back (is the tunnel up?), "
                "or do not name it as a witness"
            )
        if not self._witnesses.answered() and not self._witnesses.alone:
            local = arp.address_texts(sorted(self._witnesses.local), self._parameters.names)
            if local:
                return (
                    f"witness {local} is on this host itself and proves nothing of what lies beyond; name another one"
                )
            return NO_WITNESS
        return ""

    def _round(self, now: float) -> None:
        self.rounds += 1
        for address in (*self._witnesses.all(), *self._canary.addresses()):
            if self._witnesses.is_due(address, now):
                self._controls.put(self._parameters.request(address), partial(self._witnesses.sent, address))

    def _judge(self, acd: Acd, now: float) -> None:
        for event in acd.events():
            match event:
                case Ready():
                    outcome = self._free(acd, now)
                case Used(mac) if mac == self._canary.mac:
                    outcome = self._unknown(acd, self._canary.doubt(), now)
                case Used(mac, round_trip):
                    outcome = Outcome(Verdict.IN_USE, mac, round_trip, acd.rounds)
                case Contended(mac):
                    outcome = Outcome(Verdict.CONTENDED, mac, None, acd.rounds)
                case _:
                    continue
            self.outcomes[acd.address] = outcome

    def _free(self, acd: Acd, now: float) -> Outcome:
        if doubt := self.doubt():
            return self._unknown(acd, doubt, now)
        return Outcome(Verdict.FREE, probes=acd.rounds, miss_probability=self._witnesses.miss(acd.rounds, now))

    def _unknown(self, acd: Acd, reason: str, now: float) -> Outcome:
        return Outcome(
            Verdict.UNKNOWN, probes=acd.rounds, miss_probability=self._witnesses.miss(acd.rounds, now), reason=reason
        )

    def _too_weak(self, rounds: int, now: float) -> str:
        budget = f"the budget of {self._parameters.budget:g} s"
        if self._dropped:
            return (
                f"the kernel dropped {self._dropped} frames that we could not read in time (a flood on the link?); "
                "find its source, or try again"
            )
        miss = self._witnesses.miss(rounds, now)
        return (
            f"{self._witnesses.loss():.0%} of the requests to witnesses were lost: after {rounds} rounds a used "
            f"address would still look free with a chance of {1.0 if miss is None else miss:.1g}, and {budget} is "
            "over; fix the link, or allow a higher miss probability"
        )
