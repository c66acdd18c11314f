"""What the witnesses show of the link: how long its round trip is, how much it loses, what silence is worth.

A witness is asked in the same rounds as the candidate, by an ordinary request from the interface's own address, which
is no conflict for anybody. After `s` answered and `f` unanswered requests to witnesses, and with a flat prior over the
link's loss, the chance that `n` requests to a station that is there all go unanswered is

    B(f + n + 1, s + 1) / B(f + 1, s + 1)          (B: Euler's beta function)

This assumes that the way to the candidate is as good as that to the witnesses, and that a station which answers
requests would answer them for the candidate too. Probes are not counted, although the candidate gets those as well: a
station may answer either. Witnesses are counted together; but one that *must* answer and has left requests unanswered
is also judged on its own count, and the worst figure holds: a lossy tunnel is not hidden behind ten good neighbours.

`LinkWitnesses` holds the requests, once for each link. All searches of a link ask from the same MAC, so they share
them: a round that one of them sends stands beside the candidates of all, and the cost does not grow with the number of
searches. `SearchWitnesses` is what one search makes of them. Each search counts for itself what was sent and answered
since its own probing began, so the chance that it states is as honest as if it were alone on the link. Where another
process of this host searches on the same link at that moment, an answer to its request may be taken for one to ours
that was lost; the answers of the kernel's own questions are too few to matter.

Where the interface has no address there are no ordinary requests: witnesses are probed, seldom, and no bound is stated.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from itertools import islice
from math import exp, lgamma
from typing import TYPE_CHECKING

from arpipam.protocol.timing import PROBE_NUM

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from arpipam.protocol.timing import Timing

MOST_WITNESSES = 4
"""Stations found on the way that are asked along as witnesses; more cost frames and hardly save rounds."""
LEAST_ROUNDS = 4
"""However many witnesses answer, this many rounds: a burst of loss may last longer than two of them."""
UNPROBED_ROUNDS = 2
"""So many rounds of requests go before the first probe, unless there are few in all: two hosts that search at once on a
link with losses would else both probe a station whose answers to the surveys were lost."""
PROXY_WAIT = 1.0
"""Seconds to listen where a proxy answers late: Linux waits up to 0.8 s, at random, before it answers for what it only
routes (`proxy_delay`)."""
PROXY_MEMORY = 8
"""Searches on the link for which that holds. When this process had no processor, quick answers look late too."""
SELDOM = 30.0
"""Seconds for which a station that has answered a probe is not probed again: two within ten seconds are a conflict to
some DHCP clients, which then delete their address."""
_NEVER = float("-inf")
_LATELY = 3.0
"""Seconds; longer than any search pauses between two rounds."""
_LONGEST_ROUND_TRIP = 0.6
"""Seconds; a silence that lasts longer is the end of a cut. Rounds are half a second apart at most."""
_SMOOTHING, _SHORTENING = 0.125, 0.5


def miss_probability(probes: int, answered: int, unanswered: int) -> float:
    """The chance that `probes` probes to a present station all stay unanswered, by the formula above."""

    def log_beta(a: float, b: float) -> float:
        return lgamma(a) + lgamma(b) - lgamma(a + b)

    return exp(log_beta(unanswered + probes + 1, answered + 1) - log_beta(unanswered + 1, answered + 1))


@dataclass(slots=True)
class Question:
    """A request to a witness that has left."""

    at: float
    answered: bool = False


class LinkWitnesses:
    """The requests to witnesses of one link in the last `memory` seconds, at least as long as a probing may take."""

    def __init__(self, memory: float = float("inf")) -> None:
        self.round_trip: float | None = None
        """Smoothed, seconds; from the youngest request to the answer."""
        self.slowest: dict[int, float] = {}
        """The time from the very first request to the very first answer of each: never shorter than its round trip.

        Set anew where an answer leaves no doubt which request it is for.
        """
        self.slow_proxy = 0
        """For so many searches more: a station has answered late for several addresses."""
        self._memory = memory
        self._questions: defaultdict[int, deque[Question]] = defaultdict(deque)
        self._first: dict[int, float] = {}
        self._asked: dict[int, float] = {}
        """When each address was asked for last, or a request was put on its way."""
        self._last_sent = _NEVER
        self._swept = _NEVER

    def join(self, now: float) -> None:
        """A search begins. Where no other one is under way, it finds out for itself how long the round trip is."""
        self.slow_proxy = max(0, self.slow_proxy - 1)
        if now - self._last_sent > _LATELY:
            self.round_trip = None
            self.slowest.clear()
            self._first.clear()
        for witness, first in list(self._first.items()):
            if witness not in self.slowest and now - first > _LONGEST_ROUND_TRIP:
                del self._first[witness]

    def measure(self, sample: float) -> None:
        """Take a round trip into account (smoothed as in RFC 6298, section 2, but shortened faster than lengthened).

        When this process had no processor for a moment, all answers look late: the next quick one corrects that.
        """
        if self.round_trip is None:
            self.round_trip = sample
        else:
            weight = _SMOOTHING if sample > self.round_trip else _SHORTENING
            self.round_trip += weight * (sample - self.round_trip)

    def is_due(self, address: int, now: float, pause: float) -> bool:
        """Whether the address was not asked for in the last `pause` seconds; if so, the caller asks now."""
        if now - self._asked.get(address, _NEVER) < pause:
            return False
        self._asked[address] = now
        return True

    def sent(self, witness: int, now: float) -> None:
        """A request has left."""
        if now - self._swept > self._memory:
            self._forget(now - self._memory)
            self._swept = now
        self._last_sent = now
        self._questions[witness].append(Question(now))
        self._first.setdefault(witness, now)

    def heard(self, witness: int, now: float, patience: float) -> float | None:
        """An answer: the age of the youngest request, None where none of the last `patience` seconds waits for one.

        An answer does not say which request it is for. Once a request is answered, no answer to an older one counts: it
        may be the same answer once more.
        """
        questions = self._questions.get(witness)
        if not questions or (youngest := questions[-1]).answered or now - youngest.at > patience:
            return None
        youngest.answered = True
        age = now - youngest.at
        if len(list(islice(self.since(witness, youngest.at - _LONGEST_ROUND_TRIP), 2))) == 1:
            self.slowest[witness] = age  # it can be the answer to no other request
        elif witness not in self.slowest:
            self.slowest[witness] = min(now - self._first.get(witness, youngest.at), _LONGEST_ROUND_TRIP)
        return age

    def since(self, witness: int, start: float) -> Iterator[Question]:
        """The requests to a witness from `start` on, the latest first."""
        for question in reversed(self._questions.get(witness, ())):
            if question.at < start:
                return
            yield question

    def _forget(self, before: float) -> None:
        for witness, questions in list(self._questions.items()):
            while questions and questions[0].at < before:
                questions.popleft()
            if not questions:
                del self._questions[witness]
        for address in [address for address, at in self._asked.items() if at < before]:
            del self._asked[address]


class SearchWitnesses:
    """The witnesses of one search, and what follows from them for the pace and the number of rounds.

    An answer does not say which request it is for (compare Karn and Partridge, 1987). Two figures enclose the round
    trip: the age of the youngest request, which sets the pace, and the time from the very first request to the very
    first answer, which is never too short and so says how long to listen.
    """

    def __init__(
        self,
        timing: Timing,
        *,
        bound: float,
        required: Iterable[int] = (),
        alone: bool = False,
        seldom: bool = False,
        lately: Collection[int] = (),
        link: LinkWitnesses | None = None,
    ) -> None:
        self.timing = timing
        self.bound = bound
        self.required = tuple(dict.fromkeys(required))
        """Stations that must answer."""
        self.found: list[int] = []
        """Stations that have answered something, and are asked along."""
        self.local: set[int] = set()
        """Required ones on this host itself: they have to answer, and prove nothing of what lies beyond."""
        self._alone = alone
        self._seldom = seldom
        """They can only be probed: who has answered is left alone, and the answer stands, for SELDOM seconds."""
        self._lately = lately
        """Who has answered a probe of another process a moment ago."""
        self._link = LinkWitnesses() if link is None else link
        self._started = _NEVER
        """From when on requests count."""

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
        other = SearchWitnesses(
            timing, bound=self.bound, required=self.required, alone=self._alone, seldom=self._seldom, link=self._link
        )
        other._lately = self._lately
        for address in self.found:
            other.add(address)
        other.local |= self.local
        return other

    def all(self) -> Collection[int]:
        """Every witness, to be asked in each round."""
        return [*self.required, *self.found]

    def reset(self, now: float) -> None:
        """Start the count for a new candidate: witnesses are asked beside it, not before it."""
        self._started = now - SELDOM if self._seldom else now

    def is_due(self, address: int, now: float) -> bool:
        """Whether this witness, or canary, is to be asked now; if so, the caller asks.

        If not, the request that another search has just sent stands beside our candidate: two in half a gap would meet
        the same burst of loss.
        """
        pause = self.gap() / 2
        if self._seldom:
            if self.answers(address):
                return False
            if address not in self.all():
                pause = SELDOM
        return self._link.is_due(address, now, pause)

    def add(self, address: int) -> None:
        """A station that has answered is a witness from now on."""
        if address not in self.required and address not in self.found and len(self.found) < MOST_WITNESSES:
            self.found.append(address)

    def sent(self, address: int, now: float) -> None:
        """A request to a witness has left."""
        self._link.sent(address, now)

    def heard(self, address: int, now: float, *, beyond: bool = True) -> None:
        """A station answered this host; it counts if it is a witness, and only as the answer to a request of ours.

        `beyond`: it is not of this host itself.
        """
        if address not in self.required and address not in self.found:
            return
        if not beyond:
            self.local.add(address)
        # The first answer may take long; later ones as long as the candidate may take.
        patience = self.settle() if address in self._link.slowest else _LATELY
        age = self._link.heard(address, now, patience)
        if age is not None:
            self.measure(age)

    def measure(self, sample: float) -> None:
        """Take a round trip into account, seconds."""
        self._link.measure(sample)

    def proxied(self, round_trip: float) -> None:
        """A station answered for one more address than it did before."""
        if round_trip > self.settle():  # for another one it might be too late
            self._link.slow_proxy = PROXY_MEMORY

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
        floor = max(self.timing.announce_wait, PROXY_WAIT if self._link.slow_proxy else 0.0)
        return max(floor, 1.25 * self._longest_round_trip())

    def miss(self, rounds: int, now: float, *, hoped: int = 0) -> float | None:
        """The chance that a used address stayed silent in so many rounds; None where no witness can say.

        `hoped`: as it would be if so many requests more were sent and answered.
        """
        # Pessimistic where the round trip is longer than that; by the end of the listening all are answered or overdue.
        patience = 0.75 * self.gap()
        required = [witness for witness in self.required if witness not in self.local]
        counts = [self.counts(witness, now, patience) for witness in (*required, *self.found)]
        answered, unanswered = sum(s for s, _ in counts), sum(f for _, f in counts)
        if self.alone or self._seldom or not answered:
            return None
        lossy = [(s + hoped, f) for s, f in counts[: len(required)] if f > 0]
        every = answered + hoped * len(counts), unanswered
        return max(miss_probability(rounds, s, f) for s, f in [every, *lossy])

    def enough(self, rounds: int, now: float, *, hoped: int = 0) -> bool:
        """Whether so many silent rounds are enough for the timing; `hoped`: see `miss`."""
        if self.timing.probe_num is not None:
            return rounds >= self.timing.probe_num
        if self.alone:
            return rounds >= LEAST_ROUNDS
        if rounds < LEAST_ROUNDS or self.silent():
            return False
        miss = self.miss(rounds, now, hoped=hoped)
        return miss is not None and miss <= self.bound

    def probe_is_due(self, rounds: int, probes: int, now: float) -> bool:
        """Whether the next round carries a probe, after so many rounds of which so many did.

        The third does, so that rivals hear of us soon, and then the last two: where some answers are lost, a station
        is hardly ever probed at all, and a second time only if it has been silent to nearly all requests.
        """
        if self.timing.probe_num is not None or (probes == 0 and rounds >= UNPROBED_ROUNDS):
            return True
        missing = PROBE_NUM - probes
        return missing > 0 and self.enough(rounds + missing, now, hoped=missing)

    def silent(self) -> list[int]:
        """The required witnesses that have not answered since the count began."""
        return [address for address in self.required if not self.answers(address)]

    def loss(self) -> float:
        """The share of requests to witnesses that stayed unanswered since the count began."""
        counts = [self.counts(witness, float("inf"), 0) for witness in self.all()]
        answered, unanswered = sum(s for s, _ in counts), sum(f for _, f in counts)
        return unanswered / (answered + unanswered) if unanswered else 0.0

    def likely_loss(self) -> float:
        """The same, and never 0: what was not lost so far may be lost next."""
        counts = [self.counts(witness, float("inf"), 0) for witness in self.all()]
        answered, unanswered = sum(s for s, _ in counts), sum(f for _, f in counts)
        return (unanswered + 0.5) / (answered + unanswered + 1)

    def answered(self) -> bool:
        """Whether any witness beyond this host answered since the count began."""
        return any(self.answers(witness) for witness in self.all() if witness not in self.local)

    def answers(self, witness: int) -> int:
        """The answers of one witness since the count began."""
        if self._seldom and (witness in self.found or witness in self._lately):
            return 1  # the probe that found it
        return sum(question.answered for question in self._link.since(witness, self._started))

    def counts(self, witness: int, now: float, patience: float) -> tuple[int, int]:
        """Answered requests, and those that wait for longer than `patience` seconds; younger ones count neither way."""
        answered = unanswered = 0
        for question in self._link.since(witness, self._started):
            if question.answered:
                answered += 1
            elif now - question.at >= patience:
                unanswered += 1
        return answered, unanswered

    def _longest_round_trip(self) -> float:
        """That of the slowest witness that must answer, or else of the fastest there is; never too short."""
        slowest = self._link.slowest
        required = [slowest[witness] for witness in self.required if witness in slowest]
        found = [slowest[witness] for witness in self.found if witness in slowest]
        return max(required, default=min(found, default=0.0))
