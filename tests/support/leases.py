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

    from arpipam.leases.lease import Lease, LeaseStore

MAC = "02:5e:00:00:00:01"
DAY = 86400.0

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["arpipam.leases.sqlite"])


def address(number: int) -> IPv4Address:
    return IPv4Address("10.0.0.0") + number


def reserve(store: LeaseStore, number: int = 7, owner: str = "web", interface: str = "br0") -> Lease | None:
    return store.reserve(interface, address(number), 24, MAC, owner)


def reserved(store: LeaseStore, number: int = 7, owner: str = "web", interface: str = "br0") -> Lease:
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
    """The clocks of a host. `now` is its calendar; to add to it lets time pass, on both clocks."""

    def __init__(self) -> None:
        self.boot = "boot 1"
        self._passed = 0.0
        self._calendar = 1_000_000.0
        self._booted = -100.0

    @property
    def now(self) -> float:
        return self._calendar + self._passed

    @now.setter
    def now(self, now: float) -> None:
        self._passed += now - self.now

    def set(self, by: float) -> None:
        """Somebody sets the calendar forth, or back."""
        self._calendar += by

    def reboot(self, takes: float) -> None:
        self._passed += takes
        self._booted = self._passed
        self.boot += "1"

    def calendar(self) -> float:
        return self.now

    def elapsed(self) -> float:
        return self._passed - self._booted


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
