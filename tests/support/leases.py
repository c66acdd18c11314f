"""What the tests of the lease store share: leases to reserve, a clock, other processes."""

from __future__ import annotations

import multiprocessing
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.errors import LeaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerProcess

    from arpipam.leases.sqlite import Lease, SqliteLeaseStore

MAC = "02:5e:00:00:00:01"
DAY = 86400.0

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["arpipam.leases.sqlite"])


def address(number: int) -> IPv4Address:
    return IPv4Address("10.0.0.0") + number


def reserve(store: SqliteLeaseStore, number: int = 7, owner: str = "web", interface: str = "br0") -> Lease | None:
    return store.reserve(interface, address(number), 24, MAC, owner)


def reserved(store: SqliteLeaseStore, number: int = 7, owner: str = "web", interface: str = "br0") -> Lease:
    lease = reserve(store, number, owner, interface)
    assert lease is not None
    return lease


def refusal(call: Callable[[], object]) -> str:
    """What it says, in one line, when it refuses."""
    with pytest.raises(LeaseError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    return said


class Clock:
    """Stands where time.time is."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def process(target: Callable[..., None], *words: object) -> Iterator[tuple[ForkServerProcess, Connection[Any, Any]]]:
    """`target(connection, *words)` in a process of its own, and our end of the connection; killed at the end."""
    ours, theirs = PROCESSES.Pipe()
    started = PROCESSES.Process(target=target, args=(theirs, *words))
    started.start()
    theirs.close()
    try:
        yield started, ours
    finally:
        started.kill()
        started.join()
        started.close()
        ours.close()
