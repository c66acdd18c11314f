"""Many claimers at the same moment on real links. The wire itself is asked who holds what."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from arpipam.lab import Host, Lab, Wire
    from tests.lab.conftest import Crowd, Outcome


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


@pytest.mark.parametrize("seed", range(5))
def test_eight_hosts_with_eight_launches_each_at_ten_percent_loss(lab: Lab, crowd: Crowd, seed: int) -> None:
    wire, hosts = hosts_on_a_wire(lab, 8)
    wire.loss = 10
    for number, host in enumerate(hosts * 8):
        state, witness = host.directory / "state", witnesses(host, hosts)[:1]
        crowd.add(host.namespace, state, witnesses=witness, seed=seed * 100 + number)
    outcomes = crowd.claim()
    assert_one_owner_each(wire, outcomes)
    assert len({outcome.address for outcome in outcomes}) == 64


def test_sixty_four_claimers_get_the_last_sixty_four_addresses(lab: Lab, crowd: Crowd) -> None:
    wire, hosts = hosts_on_a_wire(lab, 8)
    wire.loss = 10
    for host in hosts:
        for _ in range(8):
            crowd.add(
                host.namespace,
                host.directory / "state",
                witnesses=witnesses(host, hosts)[:1],
                ranges=["172.16.42.100-172.16.42.163"],
            )
    outcomes = crowd.claim()
    assert_one_owner_each(wire, outcomes)
    assert len({outcome.address for outcome in outcomes}) == 64


def test_a_hundred_races_of_eight_for_one_address_have_one_owner(lab: Lab, crowd: Crowd) -> None:
    wire, hosts = hosts_on_a_wire(lab, 8)
    gateway = lab.station("gateway", wire, "172.16.42.254/24")
    wire.loss = 10
    wins = 0
    for batch in range(10):  # of ten races, each for an address of its own
        for number in range(100, 110):
            for host in hosts:
                crowd.add(
                    host.namespace,
                    host.directory / "state",
                    witnesses=["172.16.42.254"],
                    ranges=[f"172.16.42.{number}"],
                    seed=batch * 1000 + number * 8 + hosts.index(host),
                )
        owners = [outcome for outcome in crowd.claim() if outcome.address]
        assert len({outcome.address for outcome in owners}) == len(owners), f"batch {batch}: {owners}"
        seen = {address: gateway.who_has(address) for address in (str(outcome.address) for outcome in owners[:1])}
        assert all(macs <= {str(owners[0].mac)} for macs in seen.values())
        wins += len(owners)
        crowd.close()
    assert wins >= 90
