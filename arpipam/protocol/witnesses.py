"""What the witnesses show of the link: how long its round trip is, how much it loses, what silence is worth.

A witness is probed in the same rounds as the candidate. After `s` answered and `f` unanswered witness probes, and with
a flat prior over the link's loss, the chance that `n` probes to a station that is there all go unanswered is

    B(f + n + 1, s + 1) / B(f + 1, s + 1)          (B: Euler's beta function)

This assumes that the way to the candidate is as good as that to the witnesses. Witnesses are counted together; but one
that *must* answer and has left probes unanswered is also judged on its own count, and the worst figure holds: a lossy
tunnel is not hidden behind ten good neighbours.

`LinkWitnesses` holds the probes, once for each link. Searches that run at the same moment share it: a round of witness
probes that one of them sends stands beside the candidates of all, so the cost does not grow with the number of
searches. `SearchWitnesses` is what one search makes of them. Each search counts for itself what was sent and answered
since its own probing began, so the chance that it states is as honest as if it were alone on the link.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from math import exp, lgamma
from typing import TYPE_CHECKING

from arpipam.protocol import arp

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from arpipam.protocol.timing import Timing

MOST_WITNESSES = 4
"""Stations found on the way that are asked along as witnesses; more cost frames and hardly save rounds."""
LEAST_ROUNDS = 4
"""However many witnesses answer, this many rounds: a burst of loss may last longer than two of them."""
_NEVER = float("-inf")
_LATELY = 1.0
"""Seconds."""
_SMOOTHING, _SHORTENING = 0.125, 0.5


def miss_probability(probes: int, answered: int, unanswered: int) -> float:
    """The chance that `probes` probes to a present station all stay unanswered, by the formula above."""

    def log_beta(a: float, b: float) -> float:
        return lgamma(a) + lgamma(b) - lgamma(a + b)

    return exp(log_beta(unanswered + probes + 1, answered + 1) - log_beta(unanswered + 1, answered + 1))


@dataclass(slots=True)
class WitnessProbe:
    """A probe to a witness that has left."""

    at: float
    mac: bytes
    """Its sender."""
    shared: bool
    """It is part of a round for all searches; else it counts only for its sender."""
    answered: bool = False


class LinkWitnesses:
    """The witness probes of one link in the last `memory` seconds, which is at least as long as a probing may take."""

    def __init__(self, memory: float = float("inf")) -> None:
        self.round_trip: float | None = None
        """Smoothed, seconds; from the youngest probe or request to the answer."""
        self._memory = memory
        self._probes: defaultdict[int, deque[WitnessProbe]] = defaultdict(deque)
        self._last_round = _NEVER
        self._last_sent = _NEVER

    def join(self, now: float) -> None:
        """A search begins. Where no other one is under way, it finds out for itself how long the round trip is."""
        if now - self._last_sent > _LATELY:
            self.round_trip = None

    def measure(self, sample: float) -> None:
        """Take a round trip into account (smoothed as in RFC 6298, section 2, but shortened faster than lengthened).

        When this process had no processor for a moment, all answers look late: the next quick one corrects that.
        """
        if self.round_trip is None:
            self.round_trip = sample
        else:
            weight = _SMOOTHING if sample > self.round_trip else _SHORTENING
            self.round_trip += weight * (sample - self.round_trip)

    def begin_round(self, now: float, gap: float) -> bool:
        """Whether a round is due, which the caller then sends; two in half a gap would meet the same burst of loss."""
        if now - self._last_round < gap / 2:
            return False
        self._last_round = now
        self._forget(now - self._memory)
        return True

    def sent(self, witness: int, probe: WitnessProbe) -> None:
        """A probe has left."""
        self._last_sent = probe.at
        self._probes[witness].append(probe)

    def heard(self, witness: int, mac: bytes, now: float, patience: float) -> float | None:
        """An answer to this MAC: the age of its youngest probe, None where none of the last `patience` seconds waits.

        An answer does not say which probe it is for, but it goes to the MAC that asked: the answer to the probe of one
        search is never taken for the answer to another's. Once a probe is answered, no answer to an older one counts:
        it may be the same answer once more.
        """
        for probe in reversed(self._probes.get(witness, ())):
            if now - probe.at > patience:
                break
            if probe.mac == mac:
                if probe.answered:
                    break
                probe.answered = True
                return now - probe.at
        return None

    def since(self, witness: int, start: float, mac: bytes) -> Iterator[WitnessProbe]:
        """What counts for the search of this MAC: rounds and its own probes from `start` on, the latest first."""
        for probe in reversed(self._probes.get(witness, ())):
            if probe.at < start:
                return
            if probe.shared or probe.mac == mac:
                yield probe

    def _forget(self, before: float) -> None:
        for witness, probes in list(self._probes.items()):
            while probes and probes[0].at < before:
                probes.popleft()
            if not probes:
                del self._probes[witness]


class SearchWitnesses:
    """The witnesses of one search, and what follows from them for the pace and the number of probes.

    An answer does not say which probe it is for (compare Karn and Partridge, 1987). Two figures enclose the round trip:
    the age of the youngest probe, which sets the pace, and the time from the very first probe to the very first answer,
    which is never too short and so says how long to listen.
    """

    def __init__(
        self,
        timing: Timing,
        *,
        bound: float,
        required: Iterable[int] = (),
        alone: bool = False,
        mac: bytes = arp.NO_MAC,
        link: LinkWitnesses | None = None,
    ) -> None:
        self.timing = timing
        self.bound = bound
        self.required = tuple(dict.fromkeys(required))
        """Stations that must answer."""
        self.found: list[int] = []
        """Stations that have answered something, and are asked along."""
        self._alone = alone
        self._mac = mac
        self._link = LinkWitnesses() if link is None else link
        self._started = _NEVER
        """From when on probes count."""
        self._first: dict[int, float] = {}
        """When each was probed first."""
        self._slowest: dict[int, float] = {}
        """Upper bound of each one's round trip, seconds."""
        self._round_at = _NEVER

    @property
    def alone(self) -> bool:
        """The caller says that there is no other station, and none has shown itself: no bound can be stated."""
        return self._alone and not self.required and not self.found

    @property
    def round_trip(self) -> float | None:
        """Smoothed, seconds; None before the first answer."""
        return self._link.round_trip

    def under(self, timing: Timing) -> SearchWitnesses:
        """The same witnesses under another timing, with a count of their own."""
        other = SearchWitnesses(timing, bound=self.bound, required=self.required, alone=self._alone, mac=self._mac)
        for address in self.found:
            other.add(address)
        if self.round_trip is not None:
            other.measure(self.round_trip)
        return other

    def all(self) -> Collection[int]:
        """Every witness, to be probed in each round."""
        return [*self.required, *self.found]

    def reset(self, now: float) -> None:
        """Start the count for a new candidate: witnesses are probed beside it, not before it."""
        self._started = now

    def begin_round(self, now: float) -> bool:
        """Whether a round is due, which is then ours to send; else that of another search stands beside our probe."""
        self._round_at = now
        return self._link.begin_round(now, self.gap())

    def strangers(self) -> Collection[int]:
        """Those that have yet to answer us: all that are required, or else one of those found; until then, we ask them.

        No answer to another MAC stands for that: a switch may let others pass and refuse this one.
        """
        if self.required:
            return self.silent()
        return [] if self.answered() else list(self.found)

    def add(self, address: int) -> None:
        """A station that has answered is a witness from now on."""
        if address not in self.required and address not in self.found and len(self.found) < MOST_WITNESSES:
            self.found.append(address)

    def sent(self, address: int, now: float, *, shared: bool = False) -> None:
        """A probe of ours to a witness has left, in a round that all searches share, or for this one only."""
        self._link.sent(address, WitnessProbe(now, self._mac, shared))
        self._first.setdefault(address, now)

    def heard(self, address: int, now: float) -> None:
        """A station answered us; it counts if it is a witness, and only as the answer to a probe of ours."""
        if address not in self.required and address not in self.found:
            return
        # The first answer may take any time; later ones as long as the candidate may take.
        patience = self.settle() if address in self._slowest else float("inf")
        age = self._link.heard(address, self._mac, now, patience)
        if age is None:
            return
        if address in self._first:
            self._slowest.setdefault(address, now - self._first[address])
        # The youngest probe of ours may have been the candidate's, in a round that another search sent.
        self.measure(min(age, now - self._round_at))

    def measure(self, sample: float) -> None:
        """Take a round trip into account, seconds."""
        self._link.measure(sample)

    def gap(self) -> float:
        """Time from one round to the next, seconds: two round trips within the timing's limits."""
        low, high = self.timing.probe_min, self.timing.probe_max
        if self.alone:
            return low
        round_trip = self.round_trip
        if round_trip is None:  # no answer yet: as if the round trip were as long as the floor
            return max(low, self.timing.announce_wait)
        return min(max(low, 2 * round_trip), high)

    def settle(self) -> float:
        """Seconds to listen after the last probe: the slowest witness and a quarter, at least the floor."""
        return max(self.timing.announce_wait, 1.25 * self._longest_round_trip())

    def miss(self, probes: int, now: float) -> float | None:
        """The chance that a used address stayed silent to `probes` probes; None where no witness can say."""
        # Pessimistic where the round trip is longer than that; by the end of the listening all are answered or overdue.
        patience = 0.75 * self.gap()
        counts = [self.counts(witness, now, patience) for witness in self.all()]
        answered, unanswered = sum(s for s, _ in counts), sum(f for _, f in counts)
        if self.alone or not answered:
            return None
        lossy = [(s, f) for s, f in counts[: len(self.required)] if f > 0]
        return max(miss_probability(probes, s, f) for s, f in [(answered, unanswered), *lossy])

    def enough(self, probes: int, now: float) -> bool:
        """Whether this many silent probes are enough for the timing."""
        if self.timing.probe_num is not None:
            return probes >= self.timing.probe_num
        if self.alone:
            return probes >= LEAST_ROUNDS
        if probes < LEAST_ROUNDS or self.strangers():
            return False
        miss = self.miss(probes, now)
        return miss is not None and miss <= self.bound

    def silent(self) -> list[int]:
        """The required witnesses that have not answered us since the count began."""
        return [address for address in self.required if not self.answers(address)]

    def loss(self) -> float:
        """The share of witness probes that stayed unanswered since the count began."""
        counts = [self.counts(witness, float("inf"), 0) for witness in self.all()]
        answered, unanswered = sum(s for s, _ in counts), sum(f for _, f in counts)
        return unanswered / (answered + unanswered) if unanswered else 0.0

    def answered(self) -> bool:
        """Whether any witness answered us since the count began."""
        return any(self.answers(witness) for witness in self.all())

    def answers(self, witness: int) -> int:
        """The answers of one witness to us since the count began."""
        return sum(probe.answered for probe in self._probes(witness) if probe.mac == self._mac)

    def counts(self, witness: int, now: float, patience: float) -> tuple[int, int]:
        """Answered probes, and those whose answer is overdue by `patience` seconds; younger ones count neither way."""
        answered = unanswered = 0
        for probe in self._probes(witness):
            if probe.answered:
                answered += 1
            elif now - probe.at >= patience:
                unanswered += 1
        return answered, unanswered

    def _longest_round_trip(self) -> float:
        """That of the slowest witness that must answer, or else of the fastest there is; never too short."""
        required = [self._slowest[witness] for witness in self.required if witness in self._slowest]
        found = [self._slowest[witness] for witness in self.found if witness in self._slowest]
        return max(required, default=min(found, default=0.0))

    def _probes(self, witness: int) -> Iterator[WitnessProbe]:
        return self._link.since(witness, self._started, self._mac)
