"""The lab for tests, and claimers in processes of their own that all start at the same moment."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from arpipam import Allocator, ArpipamError
from arpipam.lab import CLIENTS, Lab, cleanup
from tests.support.lans import OWN, Lan, Opener, fresh, make_lan
from tests.support.launchers import FOREIGN, launching
from tests.support.tools import using

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from arpipam import Claim
    from arpipam.lab import Host, Namespace, Wire
    from tests.support.launchers import Launcher
    from tests.support.tools import Tool

_FORK = multiprocessing.get_context("fork")  # what is loaded already need not be loaded 64 times
_PATIENCE = 120


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab that is gone, with all that was in it, when the test ends."""
    with Lab() as lab:
        yield lab
    assert not list(cleanup.ROOT.glob(lab.id))
    assert not cleanup.spaces(lab.id)


@pytest.fixture(scope="module")
def laboratory() -> Iterator[Lab]:
    """One lab for all tests of a file."""
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def lan(laboratory: Lab) -> Lan:
    """A host and a printer on a wire."""
    return make_lan(laboratory)


@pytest.fixture
def own_lan(laboratory: Lab) -> Lan:
    """For a test that breaks it."""
    return make_lan(laboratory)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Opens allocators."""
    with ExitStack() as stack:
        yield Opener(tmp_path / "state", stack)


@pytest.fixture
def tool(lan: Lan, tmp_path: Path) -> Iterator[Tool]:
    """arpipam on the host."""
    yield from using(lan.host, tmp_path / "state")


@pytest.fixture
def tool_elsewhere(laboratory: Lab, tmp_path: Path) -> Iterator[Tool]:
    """arpipam on a host and a wire of its own."""
    host = laboratory.host(f"host{fresh()}", laboratory.wire(), f"{OWN}/24")
    laboratory.start()
    yield from using(host, tmp_path / "state")


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


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    """An empty crowd."""
    crowd = Crowd()
    yield crowd
    crowd.close()


@pytest.fixture(scope="module")
def engine_host() -> Iterator[tuple[Host, Wire]]:
    """A host with an engine, and a machine beside it that Docker knows nothing of."""
    with Lab() as lab:
        wire = lab.wire()
        host = lab.host("host", wire, "172.16.42.1/24", engine=True)
        lab.start()
        lab.station("foreign", wire, f"{FOREIGN}/24")
        yield host, wire


@pytest.fixture(params=CLIENTS, ids=lambda path: path.replace("/", "-").strip("-"))
def docker_client(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder in which `docker` is one of this machine's clients."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").symlink_to(request.param)
    return str(tmp_path / "bin")


@pytest.fixture
def launcher(engine_host: tuple[Host, Wire], tmp_path: Path) -> Iterator[Launcher]:
    """arpipam-run on the host with the engine."""
    with launching(engine_host, tmp_path) as launcher:
        yield launcher


@pytest.fixture
def any_launcher(engine_host: tuple[Host, Wire], tmp_path: Path, docker_client: str) -> Iterator[Launcher]:
    """The same with each docker client of this machine."""
    with launching(engine_host, tmp_path, PATH=f"{docker_client}:{os.environ['PATH']}") as launcher:
        yield launcher
