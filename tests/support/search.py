"""A virtual link with one witness and a crowd, and claimers on it; each case from a seed."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from arpipam.lab.simulation import Claimer, Faults, SimulatedStation, VirtualLink
from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.parameters import Parameters
from arpipam.protocol.search import LinkMemory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from arpipam.link.task import Machine


NET = 0x0A00_0000
WITNESS = NET + 1
FIRST = NET + 2
RACE = Faults(loss=0.1, delay=0.001, jitter=0.015, duplication=0.1, echo=0.1)


def mac(number: int) -> bytes:
    return b"\x02\x5e" + number.to_bytes(4, "big")


def parameters(number: int = 0, **changes: Any) -> Parameters:
    known: dict[str, Any] = {"witnesses": (WITNESS,), "canary": NET}
    return Parameters(own_mac=mac(1000 + number), own_address=NET + 0xF000 + number, **(known | changes))


class ByHand:
    """One search without a link: its clock, the frames that left, and stations that answer at once.

    `stations` answer every request; those of `deaf` answer probes only, so that a survey misses them.
    """

    def __init__(self, stations: Mapping[int, bytes] = MappingProxyType({}), deaf: Collection[int] = ()) -> None:
        self.now = 0.0
        self.sent: list[tuple[float, ArpPacket]] = []
        self.stations = dict(stations)
        self.deaf = deaf

    def flush(self, search: Machine) -> None:
        """Let what waits leave, and what answers be heard."""
        for outbox in search.outboxes():
            while frames := outbox.peek(1):
                outbox.sent(1, self.now)
                packet = arp.dissect(frames[0])
                assert isinstance(packet, ArpPacket)
                self.sent.append((self.now, packet))
                mac = self.stations.get(packet.target_ip)
                if mac is not None and (packet.is_probe or packet.target_ip not in self.deaf):
                    answer = arp.dissect(arp.reply(mac, packet))
                    assert isinstance(answer, ArpPacket)
                    search.receive(answer, self.now)

    def run(self, search: Machine, until: float) -> None:
        """Let time pass."""
        self.flush(search)
        while not search.done and (due := search.deadline) is not None and due <= until:
            self.now = max(due, self.now)
            search.advance(self.now)
            self.flush(search)
        self.now = max(until, self.now)

    def end(self, search: Machine) -> float:
        """Until it is done; the time then."""
        while not search.done:
            self.step(search)
        return self.now

    def step(self, search: Machine) -> None:
        """Up to the next thing that is due."""
        self.flush(search)
        assert search.deadline is not None
        self.run(search, search.deadline)

    def probed(self, address: int) -> list[float]:
        """When the address was probed."""
        return [at for at, packet in self.sent if packet.is_probe and packet.target_ip == address]

    def requested(self, address: int) -> list[float]:
        """When it was asked for by an ordinary request."""
        return [at for at, packet in self.sent if not packet.is_probe and packet.target_ip == address]


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
