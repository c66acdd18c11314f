"""The verdict on given addresses, all of them probed in the same rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arpipam.protocol.outcome import NO_WITNESS, Outcome, Verdict
from arpipam.protocol.search import Search

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from arpipam.protocol.acd import Acd
    from arpipam.protocol.parameters import Parameters
    from arpipam.protocol.probing import Probing


class Verdicts(Search):
    """Probes `addresses` under `mac`."""

    def __init__(
        self,
        addresses: Iterable[int],
        mac: bytes,
        parameters: Parameters,
        *,
        rng: random.Random,
        now: float,
        possible_witnesses: Iterable[int] = (),
    ) -> None:
        super().__init__(mac, parameters, rng=rng, now=now, possible_witnesses=possible_witnesses)
        self.outcomes: dict[int, Outcome] = {}
        self.acds: dict[int, Acd] = {}
        """The machines of the addresses that are FREE; they wait to be claimed at once."""
        self._addresses = list(dict.fromkeys(addresses))
        for address in self._addresses:
            if address in parameters.local_addresses:
                self.outcomes[address] = Outcome(Verdict.IN_USE, parameters.own_mac, reason="this host's own address")
        # Requests from a real sender too: some owners answer only those, for example behind a proxy.
        self._survey((a for a in self._addresses if a not in self.outcomes), now)

    def _choose(self, now: float) -> None:
        open_ = [address for address in self._addresses if address not in self.outcomes]
        if self.parameters.closed:
            answers, closed = self.survey.answers, self.parameters.closed
            for address in open_:  # who has answered is a container of this host
                answer = answers.get(address)
                unknown = Outcome(Verdict.UNKNOWN, reason=closed)
                self.outcomes[address] = unknown if answer is None else Outcome(Verdict.IN_USE, answer.mac)
            self.done = True
        elif self._unwitnessed() and self._hunt(now):
            pass
        elif self._unwitnessed():
            self.outcomes |= {address: Outcome(Verdict.UNKNOWN, reason=NO_WITNESS) for address in open_}
            self.done = True
        elif open_:
            self._try(open_, now)
        else:
            self.done = True

    def _probed(self, probing: Probing, now: float) -> None:  # noqa: ARG002 - the interface is the search's
        for address, outcome in probing.outcomes.items():
            answer = self.survey.answers.get(address)
            if outcome.verdict is Verdict.FREE and answer is not None:
                self.outcomes[address] = Outcome(Verdict.IN_USE, answer.mac, answer.round_trip, outcome.probes)
            else:
                self.outcomes[address] = outcome
                if outcome.verdict is Verdict.FREE:
                    self.acds[address] = probing.acds[address]
        self.done = True
