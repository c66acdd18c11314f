"""What the witnesses say of the link: how long its round trip is, how much it loses, what silence is worth.

A witness is probed in the same rounds as the candidate. After `s` answered and `f` unanswered witness probes, and with
a flat prior over the link's loss, the chance that `n` probes to a station that is there all go unanswered is

    B(f + n + 1, s + 1) / B(f + 1, s + 1)          (B: Euler's beta function)

This assumes that the candidate's way is as good as the witnesses'. Witnesses are counted together; but one that *must*
answer and has left probes unanswered is also judged on its own count, and the worst figure holds: a lossy tunnel is not
hidden behind ten good neighbours.
"""

from __future__ import annotations

from collections import deque
from math import exp, lgamma
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from arpipam.timing import Timing

MOST_WITNESSES = 4
"""Stations found on the way that are asked along as witnesses; more cost frames and hardly save rounds."""
LEAST_ROUNDS = 4
"""However many witnesses answer, this many rounds: a burst of loss may last longer than two of them."""
_SMOOTHING = 0.125
_OUTSTANDING = 64


def miss_probability(probes: int, answered: int, unanswered: int) -> float:
    """The chance that `probes` probes to a present station all stay unanswered, by the formula above."""

    def log_beta(a: float, b: float) -> float:
        return lgamma(a) + lgamma(b) - lgamma(a + b)

    return exp(log_beta(unanswered + probes + 1, answered + 1) - log_beta(unanswered + 1, answered + 1))


class Witness:
    """Probes to one witness, matched with its answers.

    An answer does not say which probe it is for (compare Karn and Partridge, 1987). Two figures enclose the truth: the
    age of the youngest probe, which sets the pace, and the time from the very first probe to the very first answer,
    which is never too short and so says how long to listen.
    """

    def __init__(self) -> None:
        self.probes = 0
        self.answers = 0
        self.slowest: float | None = None
        """Upper bound of the round trip, seconds."""
        self._first: float | None = None
        self._waiting: deque[float] = deque(maxlen=_OUTSTANDING)

    def reset(self) -> None:
        """Count anew; what is on the way does not count."""
        self.probes = self.answers = 0
        self._waiting.clear()

    def sent(self, now: float) -> None:
        """A probe has left."""
        self.probes += 1
        self._waiting.append(now)
        if self._first is None:
            self._first = now

    def heard(self, now: float, patience: float) -> float | None:
        """An answer: the age of the youngest probe; None where none of the last `patience` seconds waits for one."""
        if not self._waiting or (self.slowest is not None and now - self._waiting[-1] > patience):
            return None
        if self.slowest is None and self._first is not None:
            self.slowest = now - self._first
        self.answers += 1
        return now - self._waiting.pop()

    def unanswered(self, now: float, patience: float) -> int:
        """Probes whose answer is overdue by `patience` seconds; younger ones are not counted either way."""
        pending = sum(1 for at in self._waiting if now - at < patience)
        return self.probes - self.answers - pending


class Evidence:
    """The witnesses of one search, and what follows from them for the pace and the number of probes."""

    def __init__(self, timing: Timing, *, bound: float, required: Iterable[int] = (), alone: bool = False) -> None:
        self.timing = timing
        self.bound = bound
        self._alone = alone
        self.required = {address: Witness() for address in required}
        self.others: dict[int, Witness] = {}
        self.round_trip: float | None = None
        """Smoothed, seconds; from the youngest probe to the answer."""

    @property
    def alone(self) -> bool:
        """There is no other station, says the caller, and none has shown itself: no bound can be stated."""
        return self._alone and not self.required and not self.others

    def under(self, timing: Timing) -> Evidence:
        """The same witnesses under another timing."""
        other = Evidence(timing, bound=self.bound, required=self.required, alone=self._alone)
        for address in self.others:
            other.adopt(address)
        other.round_trip = self.round_trip
        return other

    def witnesses(self) -> Collection[int]:
        """Everyone to probe in each round."""
        return [*self.required, *self.others]

    def reset(self) -> None:
        """Start the count for a new candidate: the control is run beside the experiment, not before it."""
        for witness in self._all():
            witness.reset()

    def adopt(self, address: int) -> None:
        """A station that has answered is a witness from now on."""
        if address not in self.required and len(self.others) < MOST_WITNESSES:
            self.others.setdefault(address, Witness())

    def sent(self, address: int, now: float) -> None:
        """A probe to a witness has left."""
        (self.required.get(address) or self.others[address]).sent(now)

    def heard(self, address: int, now: float) -> None:
        """A station answered us; it counts if it is a witness, and only as the answer to a probe of ours."""
        witness = self.required.get(address) or self.others.get(address)
        if witness is None:
            return
        sample = witness.heard(now, self._patience())
        if sample is not None:
            self.measure(sample)

    def measure(self, sample: float) -> None:
        """Take a round trip into account (smoothed as in RFC 6298, section 2)."""
        self.round_trip = (
            sample if self.round_trip is None else self.round_trip + _SMOOTHING * (sample - self.round_trip)
        )

    def gap(self) -> float:
        """Time from one round to the next, seconds: two round trips within the timing's limits."""
        low, high = self.timing.probe_min, self.timing.probe_max
        if self.alone:
            return low
        if self.round_trip is None:  # nobody has answered yet: as if the round trip were as long as the floor
            return max(low, self.timing.announce_wait)
        return min(max(low, 2 * self.round_trip), high)

    def settle(self) -> float:
        """Seconds to listen after the last probe: the slowest witness and a quarter, at least the floor."""
        return max(self.timing.announce_wait, 1.25 * self._slowest())

    def miss(self, probes: int, now: float) -> float | None:
        """The chance that a used address stayed silent to `probes` probes; None where no witness can say."""
        # Pessimistic where the round trip is longer than that; by the end of the listening all are answered or overdue.
        patience = 0.75 * self.gap()
        counts = [(w.answers, w.unanswered(now, patience)) for w in self._all()]
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
        if probes < LEAST_ROUNDS or self.silent():
            return False
        miss = self.miss(probes, now)
        return miss is not None and miss <= self.bound

    def silent(self) -> list[int]:
        """The required witnesses that have not answered since the count began."""
        return [address for address, witness in self.required.items() if not witness.answers]

    def loss(self) -> float:
        """The share of witness probes that stayed unanswered since the count began."""
        probes = sum(w.probes for w in self._all())
        return 1 - sum(w.answers for w in self._all()) / probes if probes else 0.0

    def answered(self) -> bool:
        """Whether any witness answered since the count began."""
        return any(w.answers for w in self._all())

    def _slowest(self) -> float:
        """The round trip of the slowest witness that must answer, or else of the fastest there is; never too short."""
        required = [w.slowest for w in self.required.values() if w.slowest is not None]
        others = [w.slowest for w in self.others.values() if w.slowest is not None]
        return max(required, default=min(others, default=0.0))

    def _patience(self) -> float:
        """From when on an answer is overdue, seconds."""
        return max(0.75 * self.gap(), self._slowest())

    def _all(self) -> list[Witness]:
        return [*self.required.values(), *self.others.values()]
