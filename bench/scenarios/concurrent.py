"""Many who want an address at the same moment."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from arpipam.lab import Lab
from bench import claimers
from bench.claimers import Claimed
from bench.forked import Worker
from bench.harness import Case, Plot, Scenario
from bench.results import Metric, Remark

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from arpipam.lab import Host, Wire
    from bench.harness import Taken, Values
    from bench.results import Outcome, Value

MOST_HOSTS = 16
SUBNET = "172.16.42"
WITNESS = f"{SUBNET}.254"
FIRST, LAST = 32, 250
RANGE = f"{SUBNET}.{FIRST}-{SUBNET}.{LAST}"
WHOLE, SPLIT = "whole", "split"
ARTICLE = "arping -D -c 1 -w 1"


class World(NamedTuple):
    """Hosts on one wire."""

    wire: Wire
    hosts: list[Host]


class Concurrent(Scenario[World]):
    """All start at once; the wire says in the end who holds what."""

    name = "concurrent"
    title = "many claimers at the same moment"
    about = f"""
        Claimers on one or more hosts, each with a link of its own, are let go at the same moment and want the first
        free address of a /24; `seconds` is when the last of them had one, `one by one` how long one in the middle took.
        Afterwards the wire itself is asked, without loss, who answers for each address: a `duplicate` is a claimer
        whose address was given to an earlier one too, or does not answer under its claimer's MAC alone. In the network
        that is `{SPLIT}` half of the hosts are cut off from the witness and the others: they must get nothing. The peer
        is the article's way: `{ARTICLE}` over the candidates; what seems free is then set, as a container would.
        It hears nothing of the others, so its time is a second however many there are, and its addresses are the same.
        arpipam's claimers hear each other and settle who has which; 64 processes of them also share the processors of
        this machine.
        """
    metrics = (
        Metric(name="seconds"),
        Metric(name="one by one"),
        Metric(name="frames", unit="frames"),
        Metric(name="duplicates", unit=""),
        Metric(name="without", unit="", shown=False),
    )
    plots = (
        Plot(
            "time",
            "seconds",
            "claimers, hosts",
            "Until the last of all has an address",
            panel="loss",
            only={"network": WHOLE},
        ),
        Plot(
            "frames",
            "frames",
            "claimers, hosts",
            "ARP frames on the wire",
            panel="loss",
            log_y=True,
            only={"network": WHOLE},
        ),
        Plot(
            "duplicates",
            "duplicates",
            "claimers, hosts",
            "Addresses given out twice",
            panel="loss",
            only={"network": WHOLE},
        ),
    )

    def cases(self) -> Iterable[Case]:
        """Claimers and hosts, loss, and a network in two halves."""
        if self.quick:
            yield self._case(8, 4, 0, 1)
            yield self._case(16, 8, 30, 2, article=1)
            yield self._case(8, 4, 0, 1, network=SPLIT, article=0)
            return
        for loss in (0, 10, 30):
            for claimers_, hosts in ((1, 1), (4, 4), (16, 4), (16, 16), (64, 8), (64, 16)):
                yield self._case(claimers_, hosts, loss, 9 if claimers_ == 1 else 5)
        yield self._case(16, 4, 0, 3, network=SPLIT, article=0)

    @staticmethod
    def _case(claimers_: int, hosts: int, loss: int, turns: int, *, network: str = WHOLE, article: int = 1) -> Case:
        vary: dict[str, Value] = {"claimers": claimers_, "hosts": hosts, "loss": f"{loss} %", "network": network}
        return Case(vary, turns, {ARTICLE: article})

    @contextmanager
    def world(self) -> Iterator[World]:
        """Hosts, and a station that all may take for a witness."""
        with Lab() as lab:
            wire = lab.wire()
            most = max(int(case.vary["hosts"]) for case in self.cases())
            hosts = [lab.host(f"host{n}", wire, f"{SUBNET}.{n}/24") for n in range(1, most + 1)]
            lab.start()
            lab.station("gateway", wire, f"{WITNESS}/24")
            yield World(wire, hosts)

    @contextmanager
    def subjects(self, world: World, case: Case) -> Iterator[Mapping[str, Callable[[int], Taken]]]:
        """Both arpipam and the article's way."""
        hosts = world.hosts[: int(case.vary["hosts"])]
        each = int(case.vary["claimers"]) // len(hosts)
        loss = float(str(case.vary["loss"]).split()[0])
        cut = hosts[len(hosts) // 2 :] if case.vary["network"] == SPLIT else []

        @contextmanager
        def weather() -> Iterator[None]:
            world.wire.loss = loss
            world.wire.cut(*cut)
            try:
                yield
            finally:
                world.wire.loss = 0
                if cut:
                    world.wire.heal(*cut)

        def ours(seed: int) -> Values:
            # A cut host's own address would look free to the others, who name one witness and not each other.
            workers = claimers.allocators(hosts, each, seed, witnesses=[WITNESS], ranges=[RANGE])
            try:
                with weather(), world.wire.capture() as capture:
                    claimed = claimers.at_once(workers)
                values = judge(world.wire, claimed, len(capture.packets))
                return values | {"without": values["without"] - len(cut) * each}
            finally:
                claimers.let_go(workers)

        def theirs(_: int) -> Values:
            workers = [Worker(host.namespace, _article, host.bridge, each, n) for n, host in enumerate(hosts)]
            try:
                for worker in workers:
                    worker.answer()
                with weather(), world.wire.capture() as capture:
                    claimed = claimers.at_once(workers)
                return judge(world.wire, claimed, len(capture.packets))
            finally:
                claimers.let_go(workers)

        yield {"arpipam": ours, ARTICLE: theirs}

    def check(self, outcome: Outcome) -> Iterable[Remark]:
        """No duplicates, everybody served who can be, nobody who cannot."""
        twice = sum(outcome.values("duplicates", "arpipam"))
        yield Remark(red=twice > 0, text=f"{twice:.0f} of arpipam's claimers have an address that is not theirs alone")
        without = sum(outcome.values("without", "arpipam"))
        yield Remark(red=without != 0, text=f"{without:.0f} more claimers than expected got nothing")
        theirs = outcome.values("duplicates", ARTICLE)
        if theirs:
            yield Remark(red=False, text=f"{ARTICLE} made {sum(theirs):.0f} duplicates in {len(theirs)} rounds")


def judge(wire: Wire, claimed: list[Claimed], frames: int) -> Values:
    """What the wire says of what they got."""
    got = [one for one in claimed if one.address]
    seen = wire.who_have({one.address for one in got})
    count = Counter(one.address for one in got)
    wrong = [address for address, macs in seen.items() if count[address] > 1 or macs != {_mac(got, address)}]
    times = sorted(one.seconds for one in got) or [0.0]
    return {
        "seconds": times[-1],
        "one by one": times[len(times) // 2],
        "frames": float(frames),
        "duplicates": float(sum(max(1, count[address] - 1) for address in wrong)),
        "without": float(len(claimed) - len(got)),
    }


def _mac(got: list[Claimed], address: str) -> str:
    return next(one.mac for one in got if one.address == address)


def _article(interface: str, each: int, number: int) -> Generator[object, None, None]:
    """The article's way on one host, which keeps a list of its own in memory, as the article's script does.

    What seems free is set on the host, which then answers for it as a container would.
    """
    [link] = json.loads(subprocess.check_output(["ip", "-j", "link", "show", interface]))
    taken: set[str] = set()
    lock = threading.Lock()
    held: list[str] = []

    def one(_: int) -> Claimed:
        started = time.perf_counter()
        for last in range(FIRST, LAST + 1):
            address = f"{SUBNET}.{last}"
            with lock:
                if address in taken:
                    continue
                taken.add(address)
            done = subprocess.run(["arping", "-D", "-q", "-I", interface, "-c", "1", "-w", "1", address], check=False)
            if done.returncode == 0:
                subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", interface], check=True)
                held.append(address)
                return Claimed(address, link["address"], time.perf_counter() - started, "")
        return Claimed("", "", time.perf_counter() - started, f"host {number}: nothing is free")

    with ThreadPoolExecutor(each) as pool:
        yield "ready"
        yield list(pool.map(one, range(each)))
    for address in held:
        subprocess.run(["ip", "addr", "del", f"{address}/32", "dev", interface], check=True)
