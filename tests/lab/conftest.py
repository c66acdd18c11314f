"""The lab for tests."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import CLIENTS, Lab, cleanup
from tests.support import engines
from tests.support.crowd import Crowd
from tests.support.lans import OWN, Lan, Opener, fresh, make_lan
from tests.support.launchers import FOREIGN, launching
from tests.support.tools import using

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.lab import Host, Wire
    from tests.support.launchers import Launcher
    from tests.support.tools import Tool


_HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def engine_age() -> str:
    """The version of the hosts' engines; empty: this machine's own."""
    return ""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on more than one age of engine where it should be."""
    if "engine_age" in metafunc.fixturenames:
        ages = engines.ages(metafunc.definition, metafunc.definition.path.relative_to(_HERE).as_posix())
        if ages:
            metafunc.parametrize("engine_age", ages, scope="module")


@pytest.fixture
def lab(engine_age: str) -> Iterator[Lab]:
    """A lab that is gone, with all that was in it, when the test ends."""
    with Lab(engine=engine_age) as lab:
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
def own_tool(own_lan: Lan, tmp_path: Path) -> Iterator[Tool]:
    """The same for a test that breaks the link."""
    yield from using(own_lan.host, tmp_path / "state")


@pytest.fixture
def tool_elsewhere(laboratory: Lab, tmp_path: Path) -> Iterator[Tool]:
    """arpipam on a host and a wire of its own."""
    host = laboratory.host(f"host{fresh()}", laboratory.wire(), f"{OWN}/24")
    laboratory.start()
    yield from using(host, tmp_path / "state")


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    """An empty crowd."""
    crowd = Crowd()
    yield crowd
    crowd.close()


@pytest.fixture(scope="module")
def engine_host(engine_age: str) -> Iterator[tuple[Host, Wire]]:
    """A host with an engine, and a machine beside it that Docker knows nothing of."""
    with Lab(engine=engine_age) as lab:
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
