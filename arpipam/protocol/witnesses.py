"""What the witnesses say of the link: how long its round trip is, how much it loses, what silence is worth.

A witness is probed in the same rounds as the candidate. After `s` answered and `f` unanswered witness probes, and with
a flat prior over the link's loss, the chance that `n` probes to a station that is there all go unanswered is

    B(f + n + 1, s + 1) / B(f + 1, s + 1)          (B: Euler's beta function)

This assumes that the candidate's way is as good as the witnesses'. Witnesses are counted together; but one that *must*
answer and has left probes unanswered is also judged on its own count, and the worst figure holds: a lossy tunnel is not
hidden behind ten good neighbours.
"""

from __future__ import annotations

from math import exp, lgamma
from typing import TYPE_CHECKING

from arpipam.protocol import arp
from arpipam.protocol.control import Control, Probe

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from arpipam.protocol.timing import Timing

MOST_WITNESSES = 4
"""Stations found on the way that are asked along as witnesses; more cost frames and hardly save rounds."""
LEAST_ROUNDS = 4
"""However many witnesses answer, this many rounds: a burst of loss may last longer than two of them."""


def miss_probability(probes: int, answered: int, unanswered: int) -> float:
    """The chance that `probes` probes to a present station all stay unanswered, by the formula above."""

    def log_beta(a: float, b: float) -> float:
        return lgamma(a) + lgamma(b) - lgamma(a + b)

    return exp(log_beta(unanswered + probes + 1, answered + 1) - log_beta(unanswered + 1, answered + 1))


class Witness:
    """One witness, as one search sees it: what counts of the control experiment, and the round trip of its own probes.

    An answer does not say which probe it is for (compare Karn and Partridge, 1987). Two figures enclose the truth: the
    age of the youngest probe, which sets the pace, and the time from the very first probe to the very first answer,
    which is never too short and so says how long to listen.
    """

    def __init__(self, address: int, mac: bytes, control: Control) -> None:
        self.slowest: float | None = None
        """Upper bound of the round trip, seconds."""
        self._address = address
        self._mac = mac
        self._control = control
        self._first: float | None = None
        self._start = float("-inf")

    def reset(self, now: float) -> None:
        """Count anew; what is on the way does not count."""
        self._start = now

    def sent(self, now: float, *, shared: bool) -> None:
        """A probe of ours has left."""
        self._control.sent(self._address, Probe(now, self._mac, shared))
        if self._first is None:
            self._first = now

    def heard(self, now: float, patience: float) -> float | None:
        """An answer to us: the age of the youngest probe; None where none of the last `patience` seconds waits."""
        patience = float("inf") if self.slowest is None else patience
        age = self._control.answered(self._address, self._mac, now, patience)
        if age is not None and self.slowest is None and self._first is not None:
            self.slowest = now - self._first
        return age

    @property
    def answers(self) -> int:
        """Answers to us since the count began."""
        return sum(probe.answered for probe in self._probes() if probe.mac == self._mac)

    def counts(self, now: float, patience: float) -> tuple[int, int]:
        """Answered probes, and those whose answer is overdue by `patience` seconds; younger ones count neither way."""
        answered = unanswered = 0
        for probe in self._probes():
            if probe.answered:
                answered += 1
            elif now - probe.at >= patience:
                unanswered += 1
        return answered, unanswered

    def _probes(self) -> Iterator[Probe]:
        return self._control.since(self._address, self._start, self._mac)


class Evidence:
    """The witnesses of one search, and what follows from them for the pace and the number of probes."""

    def __init__(
        self,
        timing: Timing,
        *,
        bound: float,
        required: Iterable[int] = (),
        alone: bool = False,
        mac: bytes = arp.NO_MAC,
        control: Control | None = None,
    ) -> None:
        self.timing = timing
        self.bound = bound
        self._alone = alone
        self._mac = mac
        self._control = Control() if control is None else control
        self.required = {address: self._witness(address) for address in required}
        self.others: dict[int, Witness] = {}
        self._round_at = float("-inf")

    @property
    def alone(self) -> bool:
        """There is no other station, says the caller, and none has shown itself: no bound can be stated."""
        return self._alone and not self.required and not self.others

    @property
    def round_trip(self) -> float | None:
        """Smoothed, seconds; None before the first answer."""
        return self._control.round_trip

    def under(self, timing: Timing) -> Evidence:
        """The same witnesses under another timing, in a control experiment of its own."""
        other = Evidence(timing, bound=self.bound, required=self.required, alone=self._alone, mac=self._mac)
        for address in self.others:
            other.adopt(address)
        if self.round_trip is not None:
            other.measure(self.round_trip)
        return other

    def witnesses(self) -> Collection[int]:
        """Everyone to probe in each round."""
        return [*self.required, *self.others]

    def reset(self, now: float) -> None:
        """Start the count for a new candidate: the control is run beside the experiment, not before it."""
        for witness in self._all():
            witness.reset(now)

    def begin_round(self, now: float) -> bool:
        """Whether a round is due, which is then ours to send; else that of another search stands beside our probe."""
        self._round_at = now
        return self._control.begin_round(now, self.gap())

    def strangers(self) -> Collection[int]:
        """Those that have yet to answer us: all that are required, or else one of the others; until then, we ask them.

        Nobody else's answer stands for that: a switch may let others pass and refuse this MAC.
        """
        if self.required:
            return self.silent()
        return [] if self.answered() else list(self.others)

    def adopt(self, address: int) -> None:
        """A station that has answered is a witness from now on."""
        if address not in self.required and len(self.others) < MOST_WITNESSES:
            self.others.setdefault(address, self._witness(address))

    def sent(self, address: int, now: float, *, shared: bool = False) -> None:
        """A probe of ours to a witness has left, in a round that all searches share, or for this one only."""
        (self.required.get(address) or self.others[address]).sent(now, shared=shared)

    def heard(self, address: int, now: float) -> None:
        """A station answered us; it counts if it is a witness, and only as the answer to a probe of ours."""
        witness = self.required.get(address) or self.others.get(address)
        if witness is None:
            return
        age = witness.heard(now, self.settle())  # as long as the candidate may take
        if age is not None:  # the youngest probe of ours may have been the candidate's, in a round that another sent
            self.measure(min(age, now - self._round_at))

    def measure(self, sample: float) -> None:
        """Take a round trip into account, seconds."""
        self._control.measure(sample)

    def gap(self) -> float:
        """Time from one round to the next, seconds: two round trips within the timing's limits."""
        low, high = self.timing.probe_min, self.timing.probe_max
        if self.alone:
            return low
        round_trip = self.round_trip
        if round_trip is None:  # nobody has answered yet: as if the round trip were as long as the floor
            return max(low, self.timing.announce_wait)
        return min(max(low, 2 * round_trip), high)

    def settle(self) -> float:
        """Seconds to listen after the last probe: the slowest witness and a quarter, at least the floor."""
        return max(self.timing.announce_wait, 1.25 * self._slowest())

    def miss(self, probes: int, now: float) -> float | None:
        """The chance that a used address stayed silent to `probes` probes; None where no witness can say."""
        # Pessimistic where the round trip is longer than that; by the end of the listening all are answered or overdue.
        patience = 0.75 * self.gap()
        counts = [witness.counts(now, patience) for witness in self._all()]
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
        return [address for address, witness in self.required.items() if not witness.answers]

    def loss(self) -> float:
        """The share of witness probes that stayed unanswered since the count began."""
        counts = [witness.counts(float("inf"), 0) for witness in self._all()]
        answered, unanswered = sum(s for s, _ in counts), sum(f for _, f in counts)
        return unanswered / (answered + unanswered) if unanswered else 0.0

    def answered(self) -> bool:
        """Whether any witness answered us since the count began."""
        return any(witness.answers for witness in self._all())

    def _slowest(self) -> float:
        """The round trip of the slowest witness that must answer, or else of the fastest there is; never too short."""
        required = [w.slowest for w in self.required.values() if w.slowest is not None]
        others = [w.slowest for w in self.others.values() if w.slowest is not None]
        return max(required, default=min(others, default=0.0))

    def _witness(self, address: int) -> Witness:
        return Witness(address, self._mac, self._control)

    def _all(self) -> list[Witness]:
        return [*self.required.values(), *self.others.values()]
