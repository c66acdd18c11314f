"""Whether a claimed address is answered for while leases are written beside it."""

from __future__ import annotations

import select
import threading
import time
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from arpipam import Allocator
from arpipam.lab import Lab
from arpipam.lab.capture import Capture
from arpipam.protocol import arp
from bench.harness import Case, Plot, Scenario
from bench.network import used_network
from bench.results import Metric, Remark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from arpipam.lab.stations import LabStation
    from bench.harness import Taken, Values
    from bench.network import Used
    from bench.results import Outcome

SUBNET = IPv4Network("172.16.42.0/24")
QUIET, LOADED = "no commits", "64 commits a second"
COMMITS = 64
EVERY = 0.01
"""Seconds from one question to the next."""
PATIENCE = 1.0
"""Seconds after which an answer counts as missing; it is told as that long."""
MOST = 0.02
"""Seconds in which each question has to be answered."""
_ASKER = 0x02A1B2000000


class World(NamedTuple):
    """A host, and a station that asks."""

    used: Used
    asker: LabStation


class LeaseLoad(Scenario[World]):
    """A station asks for a claimed address, with and without commits to the lease store beside it."""

    name = "lease-load"
    title = "answers while leases are written"
    about = f"""
        A station asks for a claimed address every {EVERY * 1000:g} ms, each time under another MAC. `answered in` is
        the time from each question to its answer, `slowest` the longest of a run; an answer that never came counts as
        {PATIENCE:g} s. `{LOADED}`: the same process reserves and forgets leases on disk in the same store at that rate,
        and claims and releases another address in a loop. The asking program shares the processors with all of that.
        """
    metrics = (Metric(name="answered in"), Metric(name="slowest"))
    plots = (Plot("time", "slowest", "address", "The slowest answer"),)
    reference = QUIET

    def cases(self) -> Iterable[Case]:
        """One after the other."""
        yield Case({"address": "claimed"}, 1 if self.quick else 5)

    @contextmanager
    def world(self) -> Iterator[World]:
        """One host."""
        with Lab() as lab:
            used = used_network(lab, SUBNET, 0)
            yield World(used, lab.station("asker", used.wire))

    @contextmanager
    def subjects(self, world: World, case: Case) -> Iterator[Mapping[str, Callable[[int], Taken]]]:  # noqa: ARG002
        """One claim, with two kinds of company."""
        seconds = 3.0 if self.quick else 10.0
        yield {
            QUIET: lambda seed: self._take(world, seed, seconds, loaded=False),
            LOADED: lambda seed: self._take(world, seed, seconds, loaded=True),
        }

    @staticmethod
    def _take(world: World, seed: int, seconds: float, *, loaded: bool) -> list[Values]:
        with TemporaryDirectory() as folder, ExitStack() as stack:
            with world.used.host.namespace.inside():
                options = {"witnesses": [world.used.witness], "timing": "lan", "seed": seed}
                allocator = Allocator(world.used.host.bridge, state_dir=Path(folder), **options)  # type: ignore[arg-type]
                stack.enter_context(allocator)
            claim = stack.enter_context(allocator.claim("bench"))
            ending = threading.Event()
            threads = [threading.Thread(target=work, args=(allocator, ending)) for work in (_commit, _claim)]
            for thread in threads if loaded else ():
                thread.start()
            try:
                took = _ask(world.asker, claim.address, seconds)
            finally:
                ending.set()
                for thread in threads if loaded else ():
                    thread.join()
        return [{"answered in": one} for one in took] + [{"slowest": max(took)}]

    def check(self, outcome: Outcome) -> Iterable[Remark]:
        """Each question is answered in time, whatever is written."""
        for case in outcome.cases():
            slowest = {name: max(outcome.values("slowest", name, case), default=PATIENCE) for name in (QUIET, LOADED)}
            ratio = slowest[LOADED] / slowest[QUIET]
            text = f"slowest answer with {LOADED}: {slowest[LOADED] * 1000:.1f} ms, {ratio:.1f} times that without"
            yield Remark(red=slowest[LOADED] > MOST, text=text)


def _commit(allocator: Allocator, ending: threading.Event) -> None:
    """Reserve and forget, on disk, at the rate."""
    store, due, number = allocator.leases, time.monotonic(), 0
    while not ending.is_set():
        number += 1
        lease = store.reserve("elsewhere", IPv4Address(number), 24, "02:00:00:00:00:01", "bench")
        if lease is not None:
            store.forget(lease.id)
        due += 2 / COMMITS
        ending.wait(max(0.0, due - time.monotonic()))


def _claim(allocator: Allocator, ending: threading.Event) -> None:
    """Claim and release another address."""
    while not ending.is_set():
        allocator.claim("company").release(quarantine=0)


def _ask(station: LabStation, address: IPv4Address, seconds: float) -> list[float]:
    """Seconds to the answer of each question."""
    with station.namespace.inside():
        capture = Capture("eth0")
    asked: dict[bytes, float] = {}
    took: dict[bytes, float] = {}
    with capture:
        poll = select.poll()
        poll.register(capture.socket, select.POLLIN)
        due = time.monotonic()
        end = due + seconds
        while (now := time.monotonic()) < end + PATIENCE and (now < end or len(took) < len(asked)):
            if due <= now < end:
                mac = (_ASKER + len(asked)).to_bytes(6, "big")
                asked[mac] = now
                capture.socket.send(arp.request(mac, int(SUBNET[250]), int(address)))
                due = max(due + EVERY, now)
            poll.poll(max(0.0, min(due - time.monotonic(), EVERY)) * 1000)
            for at, packet in capture.read():
                if packet.operation == arp.REPLY and packet.target_mac in asked:
                    took.setdefault(packet.target_mac, at - asked[packet.target_mac])
    return [took.get(mac, PATIENCE) for mac in asked]
