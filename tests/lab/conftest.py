"""The lab for tests, and claimers in processes of their own that all start at the same moment."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from arpipam import Allocator, ArpipamError
from arpipam.lab import Lab, cleanup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from arpipam.lab import Namespace

_FORK = multiprocessing.get_context("fork")  # what is loaded already need not be loaded 64 times
_PATIENCE = 120


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab that is gone, with all that was in it, when the test ends."""
    with Lab() as lab:
        yield lab
    assert not list(cleanup.ROOT.glob(lab.id))
    assert not cleanup.spaces(lab.id)


@dataclass(frozen=True)
class Outcome:
    """What a claimer got."""

    address: str | None
    mac: str | None
    error: str
    seconds: float


class Crowd:
    """Claimers in processes of their own. `claim()` lets them all go at once; they hold what they got until the end."""

    def __init__(self) -> None:
        self._members: list[tuple[Any, Connection]] = []

    def add(self, namespace: Namespace, state_dir: Path, *, interface: str = "docker0", **options: Any) -> None:
        """One more claimer; it opens its link now and waits."""
        here, there = _FORK.Pipe()
        options |= {"interface": interface, "state_dir": state_dir}
        process = _FORK.Process(target=_claimer, args=(there, namespace, options))
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
            outcomes.append(pipe.recv())
        return outcomes

    def close(self) -> None:
        """All let go of what they hold."""
        for _, pipe in self._members:
            with suppress(BrokenPipeError):  # it found nothing and has ended
                pipe.send("stop")
        for process, pipe in self._members:
            process.join(_PATIENCE)
            pipe.close()
        self._members.clear()


def _claimer(pipe: Connection, namespace: Namespace, options: dict[str, Any]) -> None:
    with namespace.inside(), Allocator(**options) as allocator:
        pipe.send("ready")
        pipe.recv()
        started = time.monotonic()
        try:
            claim = allocator.claim("crowd")
        except ArpipamError as error:
            pipe.send(Outcome(None, None, f"{type(error).__name__}: {error}", time.monotonic() - started))
            return
        pipe.send(Outcome(str(claim.address), claim.mac, "", time.monotonic() - started))
        pipe.recv()
        claim.release(quarantine=0)


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    """An empty crowd."""
    crowd = Crowd()
    yield crowd
    crowd.close()
