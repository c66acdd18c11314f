"""How long until a free address is claimed: by one claimer, and by 8 hosts with 8 claimers each at the same moment.

The claimers of a host are processes of their own, or 8 claims in one process, which share the link and what they ask
it. Links are open already; the time is that from the word until `AsyncAllocator.claim` returns. The crowd's time is
also given as a ratio to that of one claimer on the same wire in the same run, since only ratios travel.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table

from arpipam import ArpipamError, AsyncAllocator
from arpipam.lab import Lab

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from typing import Any

    from arpipam import Claim
    from arpipam.lab import Host, Wire

FORK = multiprocessing.get_context("fork")  # what is loaded already need not be loaded 64 times
WIDTH = 100
HOSTS = 8
CLAIMERS = 8
SINGLES = 9
"""Claims of one claimer, one after the other."""
CROWDS = 3
"""Rounds of each crowd; the figures are medians over them."""
LOSSES = (0, 10)
PATIENCE = 60


class Claimed(NamedTuple):
    """What a claimer got, and after how many seconds."""

    address: str
    mac: str
    seconds: float
    error: str


def claimer(pipe: Connection, host: Host, witness: str, seed: int, claims: int) -> None:
    """Open the link, wait for the word, claim, and hold the addresses until the next word."""
    options: dict[str, Any] = {"witnesses": [witness], "state_dir": host.directory / "state", "seed": seed}
    held: list[Claim] = []

    async def claim(allocator: AsyncAllocator, started: float) -> Claimed:
        try:
            claim = await allocator.claim("bench")
        except ArpipamError as error:
            return Claimed("", "", time.monotonic() - started, str(error))
        held.append(claim)
        return Claimed(str(claim.address), claim.mac, time.monotonic() - started, "")

    async def claim_all() -> None:
        async with AsyncAllocator(host.bridge, **options) as allocator:
            pipe.send("ready")
            pipe.recv()
            started = time.monotonic()
            pipe.send(await asyncio.gather(*(claim(allocator, started) for _ in range(claims))))
            await asyncio.to_thread(pipe.recv)
            for one in held:
                one.release(quarantine=0)

    with host.namespace.inside():
        asyncio.run(claim_all())


def claim_at_once(wire: Wire, processes: list[Host], witness: str, seed: int, claims: int = 1) -> list[Claimed]:
    """Let all processes make their claims at the same moment; the wire itself is asked who holds what in the end."""
    members = []
    for number, host in enumerate(processes):
        here, there = FORK.Pipe()
        process = FORK.Process(target=claimer, args=(there, host, witness, seed * 1000 + number, claims))
        process.start()
        there.close()
        members.append((process, here))
    for _, pipe in members:
        pipe.recv()
    for _, pipe in members:
        pipe.send("go")
    claimed: list[Claimed] = []
    for process, pipe in members:
        if not pipe.poll(PATIENCE):
            sys.exit(f"claims: a claimer had no address after {PATIENCE} s")
        try:
            claimed += pipe.recv()
        except EOFError:
            process.join()
            sys.exit(f"claims: a claimer ended by itself, exit code {process.exitcode}")
    check(wire, claimed)
    for process, pipe in members:
        pipe.send("stop")
        process.join()
        pipe.close()
    return claimed


def check(wire: Wire, claimed: list[Claimed]) -> None:
    """No figure is worth anything if an address has two owners."""
    if failed := [one.error for one in claimed if one.error]:
        sys.exit(f"claims: {failed[0]}")
    loss, wire.loss = wire.loss, 0
    seen = wire.who_have(one.address for one in claimed)
    wire.loss = loss
    twice = [address for address, count in Counter(one.address for one in claimed).items() if count > 1]
    if twice or seen != {one.address: {one.mac} for one in claimed}:
        sys.exit(f"claims: an address is not its claimer's alone: {twice or seen}")


def measure(wire: Wire, hosts: list[Host], witness: str, loss: int) -> list[dict[str, Any]]:
    """One claimer and the crowds on the same wire, in turn."""
    wire.loss = loss
    singles: list[float] = []
    crowds: dict[int, list[list[float]]] = {CLAIMERS: [], 1: []}  # by the number of processes on each host
    for turn in range(CROWDS):
        seed = loss * 100 + turn * 10
        for n in range(SINGLES // CROWDS):
            [one] = claim_at_once(wire, hosts[:1], witness, seed + n)
            singles.append(one.seconds)
        for processes, results in crowds.items():
            crowd = claim_at_once(wire, hosts * processes, witness, seed + 9 - processes % 2, CLAIMERS // processes)
            results.append(sorted(one.seconds for one in crowd))
    single = statistics.median(singles)
    rows: list[dict[str, Any]] = [
        {
            "loss": loss,
            "claimers": 1,
            "processes": 1,
            "median_s": single,
            "last_s": max(singles),
            "ratio_median": 1.0,
            "ratio_last": None,
        }
    ]
    for processes, results in crowds.items():
        middle = statistics.median(statistics.median(crowd) for crowd in results)
        last = statistics.median(crowd[-1] for crowd in results)
        rows.append(
            {
                "loss": loss,
                "claimers": HOSTS * CLAIMERS,
                "processes": HOSTS * processes,
                "median_s": middle,
                "last_s": last,
                "ratio_median": middle / single,
                "ratio_last": last / single,
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    as_json = parser.parse_args().json
    with Lab() as lab:
        wire = lab.wire()
        hosts = [lab.host(f"host{n}", wire, f"172.16.42.{n}/24") for n in range(1, HOSTS + 1)]
        lab.start()
        witness = "172.16.42.254"
        lab.station("gateway", wire, f"{witness}/24")
        results = [row for loss in LOSSES for row in measure(wire, hosts, witness, loss)]
    table = Table(
        "loss each way",
        "claimers",
        "processes",
        "median",
        "last",
        "median / one",
        "last / one",
        title="until an address is claimed",
    )
    for row in results:
        if as_json:
            print(json.dumps({"bench": "claims"} | row))
        ratio_last = "" if row["ratio_last"] is None else f"{row['ratio_last']:.2f}"
        table.add_row(
            f"{row['loss']} %",
            str(row["claimers"]),
            str(row["processes"]),
            f"{row['median_s']:.3f} s",
            f"{row['last_s']:.3f} s",
            f"{row['ratio_median']:.2f}",
            ratio_last,
        )
    if not as_json:
        Console(width=WIDTH).print(table)


if __name__ == "__main__":
    main()
