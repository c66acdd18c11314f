"""Addresses that are kept ready: how they are confirmed on the wire, and how many there are."""

from __future__ import annotations

from contextlib import contextmanager
from ipaddress import IPv4Address
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.lab.capture import Capture
from arpipam.protocol import arp
from arpipam.protocol.timing import RFC5227
from launcher.lab.agents import AgentOn
from tests.support.agents import Watching

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.lab import Lab

SUBNET = "172.16.42.0/24"
EARLY = 0.05
"""Seconds by which a packet may seem early: a capture reads it late when the one before it came late."""


@contextmanager
def agent_beside_a_witness(lab: Lab, **network: Any) -> Iterator[tuple[AgentOn, Capture]]:
    """An agent without an engine, and all ARP packets that come to a station beside it."""
    wire = lab.wire()
    host = lab.host("host1", wire, "172.16.42.1/24", bridge="lan0")
    lab.start()
    station = lab.station("witness", wire, "172.16.42.2/24")
    with station.namespace.inside():
        capture = Capture("eth0")
    settings = {"witness": ["172.16.42.2"]} | network
    with capture, AgentOn(host, agent={"quarantine": 0}, **settings) as agent:
        yield agent, capture


def request_pool(agent: AgentOn) -> str:
    status, answer = agent.ask("IpamDriver.RequestPool", Pool=SUBNET, SubPool="", Options={}, V6=False)
    assert status == 200, answer
    return str(answer["PoolID"])


@pytest.mark.timing  # it tells frames apart by when they came
def test_an_address_is_ready_only_after_the_standards_own_probes(lab: Lab) -> None:
    """PROBE_NUM probes, PROBE_MIN seconds apart at least, then ANNOUNCE_WAIT seconds of silence (RFC 5227, 2.1.1)."""
    with agent_beside_a_witness(lab, ready=1) as (agent, capture), Watching(agent) as watching:
        request_pool(agent)

        def claimed() -> bool:
            capture.read()
            return bool(watching.of("claimed", owner="ready"))

        agent.wait(claimed)
        at, event = watching.of("claimed", owner="ready")[0]
        address, mac = int(IPv4Address(event.address)), event.mac
    ours = [(time, packet) for time, packet in capture.packets if arp.mac_text(packet.sender_mac) == mac]
    probes = [time for time, packet in ours if packet.is_probe and packet.target_ip == address]
    announced = [time for time, packet in ours if packet.sender_ip == packet.target_ip == address]
    assert RFC5227.probe_num is not None
    confirming = probes[-RFC5227.probe_num :]
    assert len(confirming) == RFC5227.probe_num == 3
    assert [
        later - sooner for sooner, later in pairwise(confirming) if later - sooner < RFC5227.probe_min - EARLY
    ] == []
    assert announced[0] - confirming[-1] > RFC5227.announce_wait - EARLY
    assert at > announced[0] - EARLY


def test_more_are_kept_ready_as_more_are_asked_for_up_to_the_limit(lab: Lab) -> None:
    with agent_beside_a_witness(lab, ready=2, most_ready=5) as (agent, _):
        pool = request_pool(agent)

        def wanted() -> int:
            [network] = agent.client.status().networks
            return network.wanted

        def take(number: int) -> None:
            options = {"com.docker.network.endpoint.macaddress": f"02:42:00:00:00:{number:02x}"}
            status, answer = agent.ask("IpamDriver.RequestAddress", PoolID=pool, Address="", Options=options)
            assert status == 200, answer

        agent.wait_ready(2)
        assert wanted() == 2
        take(0)
        assert wanted() == 3
        take(1)
        assert wanted() == 4
        agent.wait_ready(4)
        for number in range(2, 6):
            take(number)
        assert wanted() == 5
        agent.wait_ready(5)
        agent.wait(lambda: wanted() == 2)  # nothing was asked for lately
