"""The control experiment of a link: probes to its witnesses, and which of them were answered.

Searches that run at the same moment on one link share it. A round of witness probes that one of them sends stands
beside the candidates of all, so the cost of the experiment does not grow with their number. Each counts for itself
what was sent and answered since its own trial began, and so states a chance that is as honest as if it were alone.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEVER = float("-inf")
_LATELY = 1.0
"""Seconds."""
_SMOOTHING, _SHORTENING = 0.125, 0.5


@dataclass(slots=True)
class Probe:
    """A probe to a witness that has left."""

    at: float
    mac: bytes
    """Its sender."""
    shared: bool
    """It is part of a round for all; else it counts only for its sender."""
    answered: bool = False


class Control:
    """The witness probes of the last `memory` seconds, which is at least as long as a trial may take."""

    def __init__(self, memory: float = float("inf")) -> None:
        self.round_trip: float | None = None
        """Smoothed, seconds; from the youngest probe or request to the answer."""
        self._memory = memory
        self._probes: defaultdict[int, deque[Probe]] = defaultdict(deque)
        self._last_round = _NEVER
        self._last_sent = _NEVER

    def join(self, now: float) -> None:
        """A search begins. Where no other one is under way, it finds out for itself how long the round trip is."""
        if now - self._last_sent > _LATELY:
            self.round_trip = None

    def measure(self, sample: float) -> None:
        """Take a round trip into account (smoothed as in RFC 6298, section 2, but sooner short again than long).

        When this process had no processor for a moment, all answers look late: the next quick one says otherwise.
        """
        if self.round_trip is None:
            self.round_trip = sample
        else:
            weight = _SMOOTHING if sample > self.round_trip else _SHORTENING
            self.round_trip += weight * (sample - self.round_trip)

    def begin_round(self, now: float, gap: float) -> bool:
        """Whether a round is due, which is then for the caller to send; two in half a gap would meet the same burst."""
        if now - self._last_round < gap / 2:
            return False
        self._last_round = now
        self._forget(now - self._memory)
        return True

    def sent(self, witness: int, probe: Probe) -> None:
        """A probe has left."""
        self._last_sent = probe.at
        self._probes[witness].append(probe)

    def answered(self, witness: int, mac: bytes, now: float, patience: float) -> float | None:
        """An answer to this MAC: the age of its youngest probe, None where none of the last `patience` seconds waits.

        An answer does not say which probe it is for, but it goes to the MAC that asked: the answer to the probe of one
        search is never taken for the answer to another's. After that to a probe, there is none to an older one: it may
        be the same once more.
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

    def since(self, witness: int, start: float, mac: bytes) -> Iterator[Probe]:
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
