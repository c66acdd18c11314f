"""What several files of tests start from: a lease store, namespaces for links, and a small agent with its client."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from arpipam.leases.sqlite import SqliteLeaseStore
from launcher.agent.client.client import AgentClient
from tests.support import agent_client, link_spaces
from tests.support.agent_client import ClaimWish
from tests.support.leases import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from launcher.agent.client.remote_claim import RemoteClaim
    from tests.support.agent_client import FakeAgent
    from tests.support.link_spaces import Space


def pytest_configure() -> None:
    """Let every program that a test starts be interrupted.

    A shell starts a background job with SIGINT ignored, and a child inherits that: a test would wait for a program that
    no interrupt reaches.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
    claim = client.claim(ClaimWish())
    yield claim
    claim.close()
