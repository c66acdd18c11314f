"""Whenever `arpipam fabric up` is killed, the next one completes it and `down` takes all of it back; the same where
Docker or Open vSwitch removed what it had made.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from arpipam.fabric.check import Condition, check
from tests.support import fabrics
from tests.support.fabrics import declare, down, pending, up
from tests.support.profile import count, seeded
from tests.support.until import until

if TYPE_CHECKING:
    from arpipam.lab import Host, Lab

POINTS = count("POINTS", day=6, night=40)
"""At which each of them is killed."""


@pytest.mark.parametrize(("tunnel", "openvswitch"), [("gre", True), ("vxlan", False)])
@pytest.mark.slow
def test_an_up_that_was_killed_is_completed_by_the_next_and_taken_back_by_down(
    lab: Lab, capsys: pytest.CaptureFixture[str], tunnel: str, *, openvswitch: bool
) -> None:
    rng = seeded()
    _, [host, _] = declare(lab, 2, tunnel=tunnel, openvswitch=openvswitch, up=False)
    host.namespace.ip(
        [
            "addr add 192.168.122.101/24 dev uplink",
            "route add default via 192.168.122.254",
            "route add 198.51.100.0/24 via 192.168.122.254",
        ]
    )
    before = fabrics.state(host)
    first, last = changing(host)
    down(host)
    assert fabrics.state(host) == before
    killed = 0
    for point in range(POINTS):
        delay = rng.uniform(first, last)
        started = time.monotonic()
        process = subprocess.Popen(host.namespace.enter(*fabrics.words(host, "up")), env=host.env)
        try:
            process.wait(delay)
            took = time.monotonic() - started  # the machine is quicker now than it was at first
            first, last = first * min(1.0, took / last), min(last, took)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += process.returncode == -9
        half = pending(host)
        if point % 2:  # straight back
            down(host)
            assert fabrics.state(host) == before, f"point {point}, after {delay:.3f} s: {half}"
        up(host)
        assert pending(host) == [], f"point {point}, after {delay:.3f} s: {half}"
        down(host)
        assert fabrics.state(host) == before, f"point {point}, after {delay:.3f} s: {half}"
    with capsys.disabled():
        print(f" {killed} of {POINTS} were killed ", end="")  # noqa: T201 - to see it again
    assert killed > POINTS / 4


def changing(host: Host) -> tuple[float, float]:
    """Seconds from its start until an `up` changes something, and until it has ended."""
    started = time.monotonic()
    with fabrics.Changes(host.namespace) as changes:
        process = subprocess.Popen(host.namespace.enter(*fabrics.words(host, "up")), env=host.env)
        until(changes.seen, "a change")
        first = time.monotonic() - started
        assert process.wait(fabrics.LONG) == 0
    return first - 0.02, time.monotonic() - started


def evidence(host: Host) -> dict[str, str]:
    with host.namespace.inside():
        return {f.subject: f.evidence for f in check(host.site()) if f.condition is Condition.FAULT}


@pytest.mark.parametrize(("tunnel", "openvswitch"), [("gre", True), ("vxlan", False)])
@pytest.mark.engine
def test_an_engine_that_removes_docker0_as_it_starts(lab: Lab, tunnel: str, *, openvswitch: bool) -> None:
    _, hosts = declare(lab, 2, tunnel=tunnel, openvswitch=openvswitch, engine=True, up=False)
    before = fabrics.state(hosts[0])
    for host in hosts:
        up(host)
    stations = fabrics.stations_on(lab, hosts)
    assert fabrics.unreachable(stations) == []
    engine = hosts[0].engine
    assert engine is not None
    engine.end()
    engine.start()
    assert "docker0" not in fabrics.state(hosts[0])["links"]  # --bridge=none
    found = evidence(hosts[0])
    assert "link docker0 is missing" in found["bridge docker0"]
    assert "address 172.16.42.1/24 on docker0 is missing" in found["bridge docker0"]
    up(hosts[0])
    assert pending(hosts[0]) == []
    hosts[0].namespace.ip(["link set m0 master docker0"])  # the container, as the engine would
    until(lambda: not fabrics.unreachable(stations))
    assert evidence(hosts[0]) == {}
    hosts[0].namespace.ip(["link delete m0"])
    down(hosts[0])
    assert fabrics.state(hosts[0]) == before


def test_the_nic_of_a_plain_bridge_that_an_engine_removed_finds_its_address_again(lab: Lab) -> None:
    wire = lab.wire()
    host = lab.host("host1", wire, "172.16.42.1/24")
    lab.start(up=False)
    router = lab.station("router", wire, "172.16.42.254/24")
    host.namespace.ip(["addr add 172.16.42.1/24 dev uplink", "route add default via 172.16.42.254"])
    before = fabrics.state(host)
    up(host)
    host.namespace.ip(["link delete docker0"])
    up(host)
    assert pending(host) == []
    assert json.loads(host.namespace.run("ip", "-j", "route", "show", "default"))[0]["dev"] == "docker0"
    assert router.ping("172.16.42.1")
    down(host)
    assert fabrics.state(host) == before


@pytest.mark.parametrize("tunnel", ["gre", "vxlan"])
def test_open_vswitch_that_is_started_again_loses_what_up_mends(lab: Lab, tunnel: str) -> None:
    wire, hosts = declare(lab, 2, tunnel=tunnel, openvswitch=True, up=False)
    lab.station("router", wire, "192.168.122.254/24", "203.0.113.1/32")
    host = hosts[0]
    host.namespace.ip(
        ["addr add 192.168.122.101/24 dev uplink", "route add default via 192.168.122.254"],
    )
    before = fabrics.state(host)
    for one in hosts:
        up(one)
    stations = fabrics.stations_on(lab, hosts)
    assert fabrics.unreachable(stations) == []
    fabrics.kill_switch(host)
    assert "ovs-vswitchd cannot be asked" in evidence(host)["Open vSwitch"]
    host.namespace.ip(["link delete br0", "link delete br-phy"])  # as when the switch cleans up behind itself
    fabrics.start_switch(host)
    found = evidence(host)
    assert "link br0 master is none, should be docker0" in found["Open vSwitch bridge br0"]
    assert "address 192.168.122.1/24 on br-phy is missing" in found["Open vSwitch bridge br-phy"]
    up(host)
    assert pending(host) == []
    until(lambda: not fabrics.unreachable(stations))
    assert host.command("ping", "-c", "1", "-W", "2", "203.0.113.1").returncode == 0
    sent, received = fabrics.transfer(stations[0], stations[1], 1 << 20)
    assert received == sent
    until(lambda: not evidence(host))
    host.namespace.ip(["link delete m0"])
    down(host)
    host.namespace.ip(["link set uplink promisc off"])  # a killed ovs-vswitchd forgets that it had set it
    assert fabrics.state(host) == before
