"""Claimers in processes of their own that all start at the same moment."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arpipam import Allocator, ArpipamError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

    from arpipam import Claim
    from arpipam.lab import Namespace

_FORK = multiprocessing.get_context("fork")  # what is loaded already need not be loaded 64 times
_PATIENCE = 120


@dataclass(frozen=True)
class Outcome:
    """What a claimer got."""

    address: str | None
    mac: str | None
    error: str
    seconds: float


class Crowd:
    """Claimers in several processes. `claim()` lets them all go at once; they hold what they got until the end."""

    def __init__(self) -> None:
        self._members: list[tuple[Any, Connection]] = []

    def add(self, namespace: Namespace, state_dir: Path, *links: dict[str, Any], claims: int = 1) -> None:
        """One more process: an allocator for each of `links` (its options), with so many claims at once on each.

        It opens its links now and waits.
        """
        here, there = _FORK.Pipe()
        allocators = [{"interface": "docker0", "state_dir": state_dir} | options for options in links]
        process = _FORK.Process(target=_claimers, args=(there, namespace, allocators, claims))
        process.start()
        there.close()
        self._members.append((process, here))

    def claim(self) -> list[Outcome]:
        """Let all go; what each of them got."""
        for _, pipe in self._members:
            assert pipe.recv() == "ready"
        for _, pipe in self._members:
            pipe.send("go")
        outcomes = []
        for _, pipe in self._members:
            assert pipe.poll(_PATIENCE), "a claimer does not end"
            outcomes += pipe.recv()
        return outcomes

    def close(self) -> None:
        """All let go of what they hold."""
        for _, pipe in self._members:
            pipe.send("stop")
        for process, pipe in self._members:
            process.join(_PATIENCE)
            pipe.close()
        self._members.clear()


def _claimers(pipe: Connection, namespace: Namespace, links: list[dict[str, Any]], claims: int) -> None:
    held: list[Claim] = []

    def one(allocator: Allocator) -> Outcome:
        started = time.monotonic()
        try:
            claim = allocator.claim("crowd")
        except ArpipamError as error:
            return Outcome(None, None, f"{type(error).__name__}: {error}", time.monotonic() - started)
        held.append(claim)
        return Outcome(str(claim.address), claim.mac, "", time.monotonic() - started)

    with namespace.inside(), ExitStack() as stack:
        allocators = [stack.enter_context(Allocator(**options)) for options in links] * claims
        pool = stack.enter_context(ThreadPoolExecutor(len(allocators)))
        pipe.send("ready")
        pipe.recv()
        pipe.send(list(pool.map(one, allocators)))
        pipe.recv()
        for claim in held:
            claim.release(quarantine=0)
