"""The markers, the order of a run, and what several files of tests start from."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from arpipam.leases.sqlite import SqliteLeaseStore
from launcher.agent.client.client import AgentClient
from tests.support import agent_client, link_spaces
from tests.support.agent_client import wanted
from tests.support.leases import Clock
from tests.support.profile import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from launcher.agent.client.remote_claim import RemoteClaim
    from tests.support.agent_client import FakeAgent
    from tests.support.link_spaces import Space


# A machine that is busy makes an example slow, and no code wrong.
settings.register_profile("patient", deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
if settings.get_current_profile_name() == "default":  # else another was chosen, as for the mutation runs
    settings.load_profile("patient")


def pytest_configure() -> None:
    """Let every program that a test starts be interrupted.

    A shell starts a background job with SIGINT and SIGQUIT ignored, and a child inherits that: a test would wait for a
    program that no interrupt reaches.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


# Markers, and the order of a run.

_FOLDERS = {
    "lab": ("lab/", "vm/"),
    "engine": ("lab/agent/", "lab/run/", "vm/"),
    "timing": ("lab/library/test_hostile", "lab/library/test_reliability"),
    "slow": ("lab/bench/", "lab/agent/test_faults", "lab/agent/test_load", "lab/agent/test_partition", "vm/"),
}
"""What a marker stands for, by the place of a file below tests/; more stands in the files themselves."""
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test, and put those first that take long, so that no worker is left with one of them at the end.

    Tests that share something for the time of a file stay together on one worker; so do the unit tests of a file.
    """
    ranks: dict[str, int] = {}
    for item in items:
        place = item.path.relative_to(_HERE).as_posix()
        for name, starts in _FOLDERS.items():
            if place.startswith(starts):
                item.add_marker(name)
        if item.get_closest_marker("lab") is None:
            item.add_marker("unit")
        if item.get_closest_marker("unit") or _shares(item):
            item.add_marker(pytest.mark.xdist_group(place + _age(item)))
        group = _group(item)
        ranks[group] = min(ranks.get(group, len(_RANKS)), _rank(item))
    items.sort(key=lambda item: ranks[_group(item)])


_RANKS = ("slow", "engine", "lab", "unit")


def _rank(item: pytest.Item) -> int:
    return next(rank for rank, name in enumerate(_RANKS) if item.get_closest_marker(name))


def _group(item: pytest.Item) -> str:
    marker = item.get_closest_marker("xdist_group")
    return str(marker.args[0]) if marker else item.nodeid


def _age(item: pytest.Item) -> str:
    """The engine's version, where a test has one: what is shared on one age of engine is not shared with another."""
    return str(getattr(item, "callspec").params.get("engine_age", "")) if hasattr(item, "callspec") else ""  # noqa: B009


def _shares(item: pytest.Item) -> bool:
    """Whether it uses a fixture of ours that lasts longer than a test; an engine's version alone is quickly there."""
    definitions = getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009 - not in pytest's types
    ours = (last[-1] for last in definitions if last[-1].baseid.startswith("tests"))
    return any(definition.scope != "function" and definition.argname != "engine_age" for definition in ours)


# The lease store.


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "leases.db"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[SqliteLeaseStore]:
    with SqliteLeaseStore(path, clock=clock) as store:
        yield store


@pytest.fixture
def other(path: Path, clock: Clock, store: SqliteLeaseStore) -> Iterator[SqliteLeaseStore]:
    """What another process would have open: it shares only the files."""
    assert store.path == path
    with SqliteLeaseStore(path, clock=clock) as other:
        yield other


# The link.


@pytest.fixture
def make() -> Iterator[Callable[[], Space]]:
    with link_spaces.spaces() as make:
        yield make


@pytest.fixture
def here(make: Callable[[], Space]) -> Space:
    return make()


@pytest.fixture
def there(make: Callable[[], Space]) -> Space:
    return make()


@pytest.fixture
def wire(here: Space, there: Space) -> None:
    link_spaces.cable(here, there)


@pytest.fixture
def bridged(here: Space, there: Space, wire: None) -> None:  # noqa: ARG001 - the wire has to be there
    """... and `near` is the port of a bridge."""
    here.ip(
        "addr flush dev near",
        "link add name br0 type bridge",
        "link set near master br0",
        "addr add 10.7.0.1/24 dev br0",
        "link set br0 up",
    )


# The agent's client.


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    with agent_client.serving(tmp_path / "agent.sock") as agent:
        yield agent


@pytest.fixture
def client(agent: FakeAgent) -> AgentClient:
    return AgentClient(agent.path)


@pytest.fixture
def claim(client: AgentClient) -> Iterator[RemoteClaim]:
    claim = client.claim(wanted())
    yield claim
    claim.close()
