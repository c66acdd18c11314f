"""Many claimers at the same moment on real links. The wire itself is asked who holds what."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.lab.capture import who_have
from tests.support.profile import count

if TYPE_CHECKING:
    from arpipam.lab import Host, Lab, Wire
    from tests.support.crowd import Crowd, Outcome

BATCHES = count("BATCHES", day=2, night=10)
SEEDS = count("SEEDS", day=2, night=5)


def hosts_on_a_wire(lab: Lab, count: int) -> tuple[Wire, list[Host]]:
    wire = lab.wire()
    hosts = [lab.host(f"host{n}", wire, f"172.16.42.{n}/24") for n in range(1, count + 1)]
    lab.start()
    return wire, hosts


def assert_one_owner_each(wire: Wire, outcomes: list[Outcome]) -> None:
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    addresses = Counter(outcome.address for outcome in outcomes)
    assert [address for address, owners in addresses.items() if owners > 1] == []
    wire.loss = 0
    seen = wire.who_have(str(outcome.address) for outcome in outcomes)
    assert seen == {str(outcome.address): {str(outcome.mac)} for outcome in outcomes}


def witnesses(host: Host, hosts: list[Host]) -> list[str]:
    return [other.address for other in hosts if other is not host]


def eight_launches_each(crowd: Crowd, hosts: list[Host], seed: int, **options: Any) -> list[Outcome]:
    """Of each host, in two processes, which only the lease store keeps apart, at the same moment."""
    for number, host in enumerate(hosts * 2):
        link = options | {"witnesses": witnesses(host, hosts)[:1], "seed": seed * 100 + number}
        crowd.add(host.namespace, host.directory / "state", link, claims=4)
    return crowd.claim()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_eight_hosts_with_eight_launches_each_at_ten_percent_loss(lab: Lab, crowd: Crowd, seed: int) -> None:
    wire, hosts = hosts_on_a_wire(lab, 8)
    wire.loss = 10
    outcomes = eight_launches_each(crowd, hosts, seed)
    assert_one_owner_each(wire, outcomes)
    assert len({outcome.address for outcome in outcomes}) == 64


@pytest.mark.parametrize("seed", range(SEEDS))
def test_eight_claims_in_one_process_of_each_of_eight_hosts_at_ten_percent_loss(
    lab: Lab, crowd: Crowd, seed: int
) -> None:
    """The eight of a process share the link, and what they ask it."""
    wire, hosts = hosts_on_a_wire(lab, 8)
    lab.station("gateway", wire, "172.16.42.254/24")
    wire.loss = 10
    for number, host in enumerate(hosts):
        link = {"witnesses": ["172.16.42.254"], "seed": seed * 100 + number}
        crowd.add(host.namespace, host.directory / "state", link, claims=8)
    outcomes = crowd.claim()
    assert_one_owner_each(wire, outcomes)
    assert len({outcome.address for outcome in outcomes}) == 64


def test_sixty_four_claimers_get_the_last_sixty_four_addresses(lab: Lab, crowd: Crowd) -> None:
    wire, hosts = hosts_on_a_wire(lab, 8)
    wire.loss = 10
    outcomes = eight_launches_each(crowd, hosts, 7, ranges=["172.16.42.100-172.16.42.163"])
    assert_one_owner_each(wire, outcomes)
    assert len({outcome.address for outcome in outcomes}) == 64


@pytest.mark.slow
def test_races_of_eight_for_one_address_have_one_owner(lab: Lab, crowd: Crowd) -> None:
    wire, hosts = hosts_on_a_wire(lab, 8)
    gateway = lab.station("gateway", wire, "172.16.42.254/24")
    wins = 0
    for batch in range(BATCHES):  # of ten races, each for an address of its own
        wire.loss = 10
        for seed, host in enumerate(hosts, batch * 1000):
            races = [
                {"witnesses": ["172.16.42.254"], "ranges": [f"172.16.42.{number}"], "seed": seed * 1000 + number}
                for number in range(100, 110)
            ]
            crowd.add(host.namespace, host.directory / "state", *races)
        won = [outcome for outcome in crowd.claim() if outcome.address is not None]
        owners = {str(outcome.address): outcome.mac for outcome in won}
        assert len(owners) == len(won), f"batch {batch}: {won}"
        wire.loss = 0
        seen = who_have(gateway.namespace, "eth0", owners)
        assert seen == {address: {mac} for address, mac in owners.items()}
        wins += len(owners)
        crowd.close()
    assert wins >= 9 * BATCHES
