"""Claimers in processes of their own, which start at the same moment."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from arpipam import Allocator, ArpipamError
from bench.forked import Worker

if TYPE_CHECKING:
    from collections.abc import Generator

    from arpipam import Claim
    from arpipam.lab import Host


class Claimed(NamedTuple):
    """What a claimer got, and after how many seconds."""

    address: str
    mac: str
    seconds: float
    error: str


def allocators(hosts: list[Host], each: int, seed: int, **options: Any) -> list[Worker]:
    """A process for each host, with so many claimers in it, each with a link of its own: they are up, and wait."""
    workers = []
    for number, host in enumerate(hosts):
        mine = options | {"state_dir": host.directory / "state"}
        seeds = [seed * 10007 + number * 101 + n for n in range(each)]
        workers.append(Worker(host.namespace, _claim, host.bridge, mine, seeds))
    for worker in workers:
        worker.answer()
    return workers


def at_once(workers: list[Worker]) -> list[Claimed]:
    """Let all go."""
    for worker in workers:
        worker.tell()
    return [claimed for worker in workers for claimed in worker.answer()]


def let_go(workers: list[Worker]) -> None:
    """All release what they hold, side by side."""
    for worker in workers:
        worker.tell()
    for worker in workers:
        worker.close()


def _claim(interface: str, options: dict[str, Any], seeds: list[int]) -> Generator[Any, Any, None]:
    held: list[Claim] = []

    def one(allocator: Allocator) -> Claimed:
        started = time.perf_counter()
        try:
            claim = allocator.claim("bench")
        except ArpipamError as error:
            return Claimed("", "", time.perf_counter() - started, f"{type(error).__name__}: {error}")
        held.append(claim)
        return Claimed(str(claim.address), claim.mac, time.perf_counter() - started, "")

    with ExitStack() as stack:
        opened = [stack.enter_context(Allocator(interface, seed=seed, **options)) for seed in seeds]
        with ThreadPoolExecutor(len(opened)) as pool:
            yield "ready"
            yield list(pool.map(one, opened))
        for claim in held:
            claim.release(quarantine=0)
