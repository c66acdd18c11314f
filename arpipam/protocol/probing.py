"""RFC 5227 probes for one or more addresses, beside probes to the witnesses in the same rounds.

A verdict is only as good as the link was while the address was probed; `doubt` says what is wrong with it.
"""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from arpipam.protocol import arp
from arpipam.protocol.acd import Acd
from arpipam.protocol.events import Contended, Ready, Used
from arpipam.protocol.outbox import Outbox

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator, Mapping

    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.parameters import Terms
    from arpipam.protocol.witnesses import Evidence


class Verdict(StrEnum):
    """What is known of an address."""

    FREE = "free"
    IN_USE = "in_use"
    CONTENDED = "contended"
    UNKNOWN = "unknown"


class Outcome(NamedTuple):
    """The verdict on one address and what it rests on."""

    verdict: Verdict
    mac: bytes | None = None
    """Of the station that uses or probes for the address."""
    round_trip: float | None = None
    probes: int = 0
    miss_probability: float | None = None
    """The bound on the chance that it is used all the same; None where no witness stood beside the probes."""
    reason: str = ""


class Canary:
    """An address that no station can have, the network's own. Whoever answers for it answers for everything."""

    def __init__(self, address: int | None) -> None:
        self.address = address
        self.mac: bytes | None = None

    def receive(self, packet: ArpPacket) -> None:
        """Note an answer."""
        if packet.sender_ip == self.address:
            self.mac = packet.sender_mac

    def doubt(self) -> str:
        """What an answer means."""
        if self.mac is None:
            return ""
        return (
            f"{arp.mac_text(self.mac)} answers for every address, even {dotted([self.address or 0])} (proxy ARP, or a "
            "cloud's network): silence and answers mean nothing here; switch that off, or use another link"
        )


class Trial:
    """Probes `addresses` under `mac` until each has an outcome, at the latest when the budget is over."""

    def __init__(
        self,
        addresses: Iterable[int],
        mac: bytes,
        evidence: Evidence,
        canary: Canary,
        terms: Terms,
        *,
        rng: random.Random,
        now: float,
    ) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.rounds = 0
        self._mac = mac
        self._evidence = evidence
        self._canary = canary
        self._terms = terms
        self._rng = rng
        self._witnessed = Outbox()
        self._dropped = 0
        # A fixed timing takes its time; the budget is for what the link asks beyond that.
        self._began = now
        self._give_up = now + terms.budget + evidence.timing.longest
        self._start(addresses, now)

    def _start(self, addresses: Iterable[int], now: float) -> None:
        self._evidence.reset(now)
        self.rounds = 0
        self.acds = {
            address: Acd(address, self._mac, self._evidence, rng=self._rng, now=now, local_macs=self._terms.local_macs)
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
        for acd in self.acds.values():
            yield acd.outbox
        yield self._witnessed

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take in a packet from the link."""
        if packet.operation == arp.REPLY and packet.target_mac == self._mac:
            self._evidence.heard(packet.sender_ip, now)
        acd = self.acds.get(packet.sender_ip) or self.acds.get(packet.target_ip)
        if acd is not None and packet.sender_ip not in self.outcomes:
            acd.receive(packet, now)
            self._judge(acd, now)

    def overflow(self, dropped: int, now: float) -> None:
        """The kernel dropped frames, any of which may have been an answer: silence so far counts for nothing."""
        self._dropped += dropped
        self._witnessed.clear()
        self._start([address for address in self.acds if address not in self.outcomes], now)

    def advance(self, now: float) -> None:
        """Send what is due and judge what has ended. Whatever arrived before `now` must have been received before."""
        for acd in self.acds.values():
            acd.advance(now)
            if acd.outbox and acd.probes >= self.rounds:
                self._round(now)
            self._judge(acd, now)
        if now >= self._give_up:
            for address, acd in self.acds.items():
                if address not in self.outcomes:
                    self.outcomes[address] = self._unknown(acd, self.doubt() or self._too_weak(acd.probes, now), now)

    def doubt(self) -> str:
        """Why silence on this link means nothing at the moment; empty where it means something."""
        if self._canary.mac is not None:
            return self._canary.doubt()
        if silent := self._evidence.silent():
            return (
                f"no answer from witness {dotted(silent, self._terms.names)}: what is behind it would look free; bring "
                "it back (is the tunnel up?), or do not name it as a witness"
            )
        if not self._evidence.answered() and not self._evidence.alone:
            return NO_WITNESS
        return ""

    def _round(self, now: float) -> None:
        self.rounds += 1
        evidence = self._evidence
        shared = evidence.begin_round(now)
        for witness in evidence.witnesses() if shared else evidence.strangers():
            self._witnessed.put(arp.probe(self._mac, witness), partial(evidence.sent, witness, shared=shared))
        if shared and self._canary.address is not None:
            self._witnessed.put(arp.probe(self._mac, self._canary.address))

    def _judge(self, acd: Acd, now: float) -> None:
        for event in acd.events():
            match event:
                case Ready():
                    outcome = self._free(acd, now)
                case Used(mac) if mac == self._canary.mac:
                    outcome = self._unknown(acd, self._canary.doubt(), now)
                case Used(mac, round_trip):
                    outcome = Outcome(Verdict.IN_USE, mac, round_trip, acd.probes)
                case Contended(mac):
                    outcome = Outcome(Verdict.CONTENDED, mac, None, acd.probes)
                case _:
                    continue
            self.outcomes[acd.address] = outcome

    def _free(self, acd: Acd, now: float) -> Outcome:
        if doubt := self.doubt():
            return self._unknown(acd, doubt, now)
        return Outcome(Verdict.FREE, probes=acd.probes, miss_probability=self._evidence.miss(acd.probes, now))

    def _unknown(self, acd: Acd, reason: str, now: float) -> Outcome:
        return Outcome(
            Verdict.UNKNOWN, probes=acd.probes, miss_probability=self._evidence.miss(acd.probes, now), reason=reason
        )

    def _too_weak(self, probes: int, now: float) -> str:
        budget = f"the budget of {self._terms.budget:g} s"
        if self._dropped:
            return (
                f"the kernel dropped {self._dropped} frames that we could not read in time (a flood on the link?); "
                "find its source, or try again"
            )
        miss = self._evidence.miss(probes, now)
        return (
            f"{self._evidence.loss():.0%} of the witness probes were lost: after {probes} probes a used address "
            f"would still look free with a chance of {1.0 if miss is None else miss:.1g}, and {budget} is over; "
            "mend the link, or allow a higher miss probability"
        )


NO_WITNESS = (
    "no station answered, so silence proves nothing; name one that must answer with --witness ADDRESS, or say --alone "
    "if there is no other"
)


def dotted(addresses: Iterable[int], names: Mapping[int, str] = MappingProxyType({})) -> str:
    """Addresses for a person, with names for those that have one."""
    texts = ((str(IPv4Address(address)), names.get(address)) for address in addresses)
    return ", ".join(f"{name} ({text})" if name else text for text, name in texts)
