"""What an engine says of its containers: by its last view, and while it starts, when it shows nothing."""

from __future__ import annotations

from ipaddress import IPv4Address

from arpipam.leases.lease import Lease, LeaseState
from launcher.agent.network.containers import Containers
from launcher.agent.network.held import GRACE
from tests.support.networks import endpoint, seen

ADDRESS = IPv4Address("10.0.0.7")
LEASE = Lease(1, "br0", ADDRESS, 24, "02:00:00:00:00:01", "web", LeaseState.BOUND, "web@e1", 0.0, 0.0, 0.0)


def made() -> Containers:
    return Containers("arpipam")


def test_of_an_engine_that_was_never_seen_nothing_is_known() -> None:
    containers = made()
    assert not containers.is_known
    assert not containers.is_starting
    assert not containers.stopped(LEASE)


def test_a_stopped_container_is_known_from_the_view() -> None:
    containers = made()
    containers.view = seen(endpoint(ADDRESS, "web"), at=5.0)
    assert containers.is_known
    assert containers.stopped(LEASE)
    containers.view = seen(endpoint(ADDRESS, "web", running=True), at=5.0)
    assert not containers.stopped(LEASE)
    containers.view = seen(at=5.0)
    assert not containers.stopped(LEASE)


def test_a_container_that_is_being_started_is_not_a_stopped_one() -> None:
    containers = made()
    containers.given("br0", ADDRESS, 4.0)
    containers.view = seen(endpoint(ADDRESS, "web"), at=4.0 + GRACE)
    assert not containers.stopped(LEASE)
    containers.view = seen(endpoint(ADDRESS, "web"), at=4.1 + GRACE)
    assert containers.stopped(LEASE)
    containers.given("br0", ADDRESS, 100.0)
    containers.released("br0", ADDRESS)
    containers.released("br0", ADDRESS)  # once more does no harm
    assert containers.stopped(LEASE)


def test_of_an_engine_that_starts_only_those_run_that_it_tells_of() -> None:
    containers = made()
    containers.given("br0", ADDRESS, 1.0)
    containers.view = seen(endpoint(ADDRESS, "web", running=True), at=2.0)
    containers.engine_started(3.0)
    assert containers.is_known
    assert containers.is_starting
    assert containers.stopped(LEASE)  # whatever was seen before
    containers.given("br0", ADDRESS, 4.0)
    assert not containers.stopped(LEASE)
    containers.released("br0", ADDRESS)
    assert containers.stopped(LEASE)
    containers.view = seen(endpoint(ADDRESS, "web", running=True), at=3.1)
    assert not containers.is_starting
    assert not containers.stopped(LEASE)
