"""A virtual link with one witness and a crowd, and claimers on it; each case from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arpipam.lab.simulation import Claimer, Faults, SimulatedStation, VirtualLink
from arpipam.protocol.parameters import Parameters
from arpipam.protocol.search import LinkMemory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


NET = 0x0A00_0000
WITNESS = NET + 1
FIRST = NET + 2
RACE = Faults(loss=0.1, delay=0.001, jitter=0.015, duplication=0.1, echo=0.1)


def mac(number: int) -> bytes:
    return b"\x02\x5e" + number.to_bytes(4, "big")


def parameters(number: int = 0, **changes: Any) -> Parameters:
    known: dict[str, Any] = {"witnesses": (WITNESS,), "canary": NET}
    return Parameters(own_mac=mac(1000 + number), own_address=NET + 0xF000 + number, **(known | changes))


class World:
    """A link with one witness and a crowd, and claimers who all start at once."""

    def __init__(
        self, seed: int, faults: Faults | None = None, used: Iterable[int] = (), *, witness: bool = True
    ) -> None:
        self.link = VirtualLink(seed, faults)
        self.claimers: list[Claimer] = []
        self.seed = seed
        if witness:
            self.link.attach(SimulatedStation(self.link, mac(1), [WITNESS]))
        self.link.attach(SimulatedStation(self.link, mac(2), used))

    def claimer(self, pool: range, at: float = 0.0, **changes: Any) -> Claimer:
        number = len(self.claimers)
        claimer = Claimer(
            self.link, mac(100 + number), parameters(number, **changes), lambda: pool, seed=self.seed * 1000 + number
        )
        self.link.attach(claimer, at)
        self.claimers.append(claimer)
        return claimer

    def host(self, number: int, pools: Iterable[Sequence[int]]) -> None:
        """A host with a search for each of the pools at the same moment."""
        known = parameters(number)
        memory = LinkMemory(known)
        for pool in pools:
            count = len(self.claimers)
            self.claimers.append(
                Claimer(
                    self.link,
                    mac(100 + count),
                    known,
                    lambda pool=pool: pool,  # type: ignore[misc]
                    seed=self.seed * 1000 + count,
                    memory=memory,
                )
            )
            self.link.attach(self.claimers[-1])

    def run(self, limit: float = 120.0) -> list[int]:
        """Until all have ended, and two seconds more; the addresses that are held."""
        self.link.run(limit, stop=lambda: all(claimer.ended for claimer in self.claimers))
        self.link.run(self.link.now + 2)
        return [claimer.address for claimer in self.claimers if claimer.address is not None]
