"""Finds the first free address of a pool: surveys a window of candidates, then probes the one chosen.

The survey finds who is there in one round trip however full the network is; only one address at a time is probed with
sender 0.0.0.0, since hosts that probe a whole window contend with each other for every address of it. On
contention both let go (RFC 5227, 2.1.1), and this search goes on with a random other silent candidate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from arpipam.errors import PoolExhaustedError, UnknownError
from arpipam.protocol.outcome import Verdict
from arpipam.protocol.search import SMALL_WINDOW, Search
from arpipam.protocol.survey import Answer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator

    from arpipam.protocol.acd import Acd
    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.outcome import Outcome
    from arpipam.protocol.parameters import Parameters
    from arpipam.protocol.probing import Probing
    from arpipam.protocol.search import LinkMemory

WINDOW = 32
"""Candidates of the first survey; each further one is twice as large, ..."""
LARGEST_WINDOW = 1024
"""... up to this."""
_RIVAL_MEMORY = 0.35
"""Seconds for which an address is left to a station that probes for it: between its first probe and its last ones a
search like ours is quiet for a quarter of a second."""
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


class FreeAddress(NamedTuple):
    """A free address; its machine is in state FREE and waits to be claimed at once."""

    acd: Acd
    miss_probability: float | None
    elapsed: float
    probed: int
    in_use: int


class FirstFree(Search):
    """Looks for the first free one of `candidates`.

    `reserve(address)` is asked before an address is probed, and says whether it may be (another process of this host
    may hold it); None: the answer comes later, by `answer`. `unreserve(address)` is told when it turned out not to be
    free.
    """

    def __init__(
        self,
        candidates: Iterator[int],
        mac: bytes,
        parameters: Parameters,
        *,
        rng: random.Random,
        now: float,
        possible_witnesses: Iterable[int] = (),
        reserve: Callable[[int], bool | None] = lambda _: True,
        unreserve: Callable[[int], None] = lambda _: None,
        memory: LinkMemory | None = None,
    ) -> None:
        super().__init__(mac, parameters, rng=rng, now=now, possible_witnesses=possible_witnesses, memory=memory)
        self.found: FreeAddress | None = None
        self.contentions = 0
        self._candidates = candidates
        self._reserve = reserve
        self._unreserve = unreserve
        self._offered: dict[int, None] = {}
        self._local = 0
        self._reserved: set[int] = set()
        self._asked: int | None = None
        """The address that `reserve` has not answered for yet."""
        self._rivals: dict[int, float] = {}
        self._window = WINDOW if parameters.own_address else SMALL_WINDOW
        self._contended: list[int] = []
        self._conflicts = 0
        self._free: Outcome | None = None
        """The verdict that is being confirmed."""
        self._last_try = now
        self._pause = _FIRST_PAUSE
        timing = parameters.timing
        confirmation = parameters.confirm.longest if parameters.confirm else 0.0
        # Time for every conflict up to the rate limit, for that pause, and for one candidate after it.
        one = parameters.longest_probing + timing.announce_wait
        self._give_up = now + (timing.max_conflicts + 1) * one + timing.rate_limit_interval + confirmation
        self._extend(now)

    @property
    def deadline(self) -> float | None:
        """When `advance` wants to be called; None: when the frames have left, or `reserve` has been answered."""
        return None if self._asked is not None else super().deadline

    def answer(self, *, granted: bool, now: float) -> None:
        """Say whether the address that `reserve` was asked for may be probed."""
        address, self._asked = self._asked, None
        assert address is not None  # noqa: S101 - the caller's fault
        if granted and self.canary.mac is None and self.survey.silent.get(address) and address not in self._rivals:
            self._last_try = now
            self._try([address], now)
            return
        if granted:  # meanwhile it turned out not to be free
            self._unreserve(address)
        else:
            self._reserved.add(address)
        self._choose(now)

    def receive(self, packet: ArpPacket, now: float) -> None:
        """Take in a packet from the link."""
        super().receive(packet, now)
        if (
            packet.target_ip in self._offered
            and packet.is_rival
            and packet.sender_mac != self.mac
            and packet.sender_mac not in self.parameters.local_macs
        ):
            self._rivals[packet.target_ip] = now

    def _extend(self, now: float) -> bool:
        """Survey the next window; whether there was one."""
        window: list[int] = []
        for address in self._candidates:
            if address in self.parameters.local_addresses:
                self._local += 1
                continue
            window.append(address)
            if len(window) == self._window:
                break
        self._window = min(2 * self._window, LARGEST_WINDOW) if self.parameters.own_address else SMALL_WINDOW
        self._offered.update(dict.fromkeys(window))
        self._survey(window, now)
        self._bound()
        return bool(window)

    def _bound(self) -> None:
        """Foreign probes are of interest from the first to the last of the addresses that may still be chosen."""
        silent = [address for address in self.survey.silent if address in self._offered]
        self._span = (min(silent), max(silent)) if silent else None

    def _choose(self, now: float) -> None:
        self._bound()
        if self.canary.mac is not None:
            self._fail(UnknownError(self.canary.doubt()))
        elif self.parameters.closed:
            self._fail(UnknownError(self.parameters.closed))
        elif self._try_at(now) >= self._give_up:  # at once, where the wait would only end in this
            self._fail(
                PoolExhaustedError(f"others claim faster than we can: gave up after {self.contentions} contentions")
            )
        elif self._unwitnessed() and self._hunt(now):
            pass
        elif self._unwitnessed() and self._offered:
            self._no_witness()
        elif (silent := self._silent(now)) and (at := self._try_at(now)) > now:
            self._pause_until = at
        elif (address := self._pick(silent)) is not None:
            self._last_try = now
            self._try([address], now)
        elif self._asked is None and not self._extend(now):
            self._end_of_pool(now)

    def _try_at(self, now: float) -> float:
        """When the next candidate may be tried: after MAX_CONFLICTS one in RATE_LIMIT_INTERVAL (RFC 5227, 2.1.1)."""
        timing = self.parameters.timing
        if self._conflicts < timing.max_conflicts:
            return now
        return max(now, self._last_try + timing.rate_limit_interval)

    def _silent(self, now: float) -> list[int]:
        """The candidates that may be tried, in order."""
        for address in [a for a, at in self._rivals.items() if now - at > _RIVAL_MEMORY]:
            del self._rivals[address]
        silent = [
            address
            for address in self._offered  # in the order of the pool, which the survey need not keep
            if self.survey.silent.get(address) and address not in self._rivals and address not in self._reserved
        ]
        if self.contentions:
            self._rng.shuffle(silent)
        return silent

    def _pick(self, silent: list[int]) -> int | None:
        """The first of the candidates that can be reserved; None when there is none, or while one is being reserved."""
        for address in silent:
            granted = self._reserve(address)
            if granted is None:
                self._asked = address
                return None
            if granted:
                return address
            self._reserved.add(address)
        return None

    def _probed(self, probing: Probing, now: float) -> None:
        [(address, outcome)] = probing.outcomes.items()
        if outcome.verdict is Verdict.FREE and self.parameters.confirm is not None and self._free is None:
            self._free = outcome
            self._try([address], now, timing=self.parameters.confirm)
            return
        sure, self._free = self._free or outcome, None
        if outcome.verdict is Verdict.FREE:
            in_use = self._in_use()
            probed = len(self._offered)
            self.found = FreeAddress(probing.acds[address], sure.miss_probability, now - self.started, probed, in_use)
            self.done = True
            return
        self._unreserve(address)
        if outcome.verdict is Verdict.UNKNOWN:
            self._fail(UnknownError(outcome.reason))
            return
        self._conflicts += 1
        if outcome.verdict is Verdict.IN_USE:
            # The survey missed it, so it may have missed more.
            self.survey.note(address, Answer(outcome.mac or b"", None))
            if self.parameters.own_address:
                self.survey.repeat(now)
            self._survey([], now)
        else:
            self.contentions += 1
            self._rivals[address] = now
            # All who contended are about to choose again: apart in time, each hears what the earlier ones chose.
            self._pause_until = now + self._rng.uniform(0, 2 * self.witnesses.gap())

    def _in_use(self) -> int:
        return sum(1 for address in self._offered if address in self.survey.answers) + self._local

    def _end_of_pool(self, now: float) -> None:
        """All were surveyed. Those that contended may have let go too: look again after a random, growing pause."""
        self._contended = [address for address in self._offered if address in self._rivals]
        if not self._contended:
            self._fail(PoolExhaustedError(self._exhausted()))
            return
        self._pause_until = now + self._rng.uniform(0, self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _resume(self, now: float) -> None:
        if not self._contended:
            self._choose(now)
            return
        self._rivals.clear()
        self.survey.forget(self._contended, now)
        self._contended = []
        self._survey([], now)

    def _exhausted(self) -> str:
        macs = {answer.mac for address, answer in self.survey.answers.items() if address in self._offered}
        text = f"no free address left: {self._in_use()} in use"
        if self._reserved:
            text += f", {len(self._reserved)} leased or reserved on this host"
        if len(macs) == 1 and self._in_use() > WINDOW:
            text += "; all of them answered from one MAC (is it a proxy?)"
        return text + "; widen the range, or release some"
