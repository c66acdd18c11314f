"""Addresses that somebody has been promised: by name, by a created container, by the size of a range, by a MAC."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from arpipam.errors import AddressInUseError
from arpipam.lab import Lab
from arpipam.protocol import arp
from launcher.agent.contract import ClaimRequest
from launcher.lab.agents import NETWORK, AgentOn
from tests.support.agents import Watching, guards, last_lines, refused, running
from tests.support.lans import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.lab import Wire
    from arpipam.lab.stations import LabStation

SUBNET = "172.16.42.0/24"
READY = 4
FREE = "172.16.42.77"
TWICE = "172.16.44.77"
FORGED = 5000
MOMENT = 15.0
"""Seconds for three commands of docker on a busy machine; one search that waits for answers took as long."""


@dataclass
class Place:
    """A host with an engine and an agent: a bridge and a macvlan parent on one wire, two parents on wires apart."""

    agent: AgentOn
    printer: LabStation
    proxy: LabStation
    beside: Wire
    """That of the last parent, whose cable is at its port p0."""

    def network(self, *words: str) -> None:
        """The network on the bridge, made anew."""
        self.agent.clear()
        self.agent.host.docker("network", "rm", NETWORK, check=False)
        self.agent.wait(lambda: not self.agent.client.status().networks)
        self.agent.host.namespace.ip([f"addr replace 172.16.42.1/24 dev {self.agent.host.bridge}"])
        self.agent.make_network(*words)

    def macvlan(self, parent: str, *words: str, name: str) -> None:
        """A network on a parent."""
        driver = ["-d", "macvlan", "-o", f"parent={parent}", "--ipam-driver", "arpipam"]
        self.agent.host.docker("network", "create", *driver, "--ipam-opt", f"interface={parent}", *words, name)

    def mac(self, name: str, network: str = NETWORK) -> str:
        return running(self.agent, network)[name][1]


@pytest.fixture(scope="module")
def made() -> Iterator[Place]:
    with Lab() as lab:
        wire, one, other = lab.wire(), lab.wire(), lab.wire()
        host = lab.host("host", wire, "172.16.42.1/24", bridge="lan0", engine=True)
        lab.start()
        printer, proxy = lab.station("printer", wire, "172.16.42.3/24"), lab.station("proxy", wire)
        for parent, behind in (("par0", wire), ("par1", one), ("par2", other)):
            behind.plug(host.namespace, parent)
        lab.station("first", one, "172.16.44.3/24", "172.16.52.1/29", "172.16.53.1/24")
        lab.station("second", other, "172.16.44.3/24", "172.16.45.3/24")
        lab.station("many", one, *(f"172.16.52.{last}/29" for last in range(3, 7)))
        with AgentOn(host) as agent:
            agent.make_network()
            yield Place(agent, printer, proxy, other)


@pytest.fixture
def place(made: Place) -> Iterator[Place]:
    yield made
    made.agent.clear()


def lost(place: Place) -> str:
    """What there is to say of a condition that does not come."""
    return f"{place.agent.client.leases()} {last_lines(place.agent.log)}"


# Who names an address.


def test_who_names_an_address_takes_it_from_the_filling(place: Place) -> None:
    place.network()
    names = {f"c{last}": f"172.16.42.{last}" for last in (2, 4, 5, 6)}  # what the filling takes first
    for name, address in names.items():
        place.agent.run(name, "--ip", address)
    there = running(place.agent)
    assert {name: address for name, (address, _) in there.items()} == names
    for address, mac in there.values():
        assert place.printer.who_has(address) == {mac}
    place.agent.wait_ready(READY)


def test_who_names_an_address_takes_it_whether_ready_or_on_its_way_back(place: Place) -> None:
    place.network()
    place.agent.wait_ready(READY)
    ready = [lease.address for lease in place.agent.client.leases() if lease.state == "ready"]
    with place.agent.client.claim(ClaimRequest("lan0", "run", subnet=SUBNET, address=ready[0])) as claim:
        assert str(claim.address) == ready[0]
        with pytest.raises(AddressInUseError, match="leased on this host"):
            place.agent.client.claim(ClaimRequest("lan0", "another", subnet=SUBNET, address=ready[0]))
    for address in ready:  # the first one rests, after its release at this moment
        place.agent.run(f"c{address}", "--ip", address)
        assert place.printer.who_has(address) == {place.mac(f"c{address}")}


def test_what_a_created_container_will_have_goes_to_nobody_else(place: Place) -> None:
    place.network()
    place.agent.wait_ready(READY)
    promised = next(lease.address for lease in place.agent.client.leases() if lease.state == "ready")
    place.agent.host.docker(
        "create", "--name", "later", "--network", NETWORK, "--ip", promised, "busybox", "sleep", "99"
    )
    place.agent.wait(lambda: promised not in place.agent.leases(), told=lambda: lost(place))
    for turn in range(READY + 2):
        place.agent.run(f"c{turn}")
    assert promised not in {address for address, _ in running(place.agent).values()}
    place.agent.host.docker("start", "later")
    assert place.printer.who_has(promised) == {place.mac("later")}


# A small range.


def test_where_nothing_else_is_free_what_rests_goes_out_again_the_longest_rested_first(place: Place) -> None:
    place.network("--ip-range", "172.16.42.64/30")
    for turn in range(4):
        place.agent.run(f"c{turn}")
    assert "no free address left" in refused(place.agent, "run", "--rm", "--network", NETWORK, "busybox", "true")
    before = {name: address for name, (address, _) in running(place.agent).items()}
    gone = ["c2", "c0", "c3", "c1"]
    place.agent.host.docker("rm", "-f", *gone)
    for name in gone:  # at once
        place.agent.run(f"{name}again")
    after = {name: address for name, (address, _) in running(place.agent).items()}
    assert set(after.values()) == set(before.values())
    for address, mac in running(place.agent).values():
        assert place.printer.who_has(address) == {mac}
    place.agent.host.docker("rm", "-f", "c2again")
    place.agent.wait(lambda: place.agent.leases()[after["c2again"]].state == "quarantined", told=lambda: lost(place))
    place.agent.host.docker("rm", "-f", "c0again")
    place.agent.wait(lambda: place.agent.leases()[after["c0again"]].state == "quarantined", told=lambda: lost(place))
    place.agent.run("last")
    assert running(place.agent)["last"][0] == after["c2again"]


# One MAC.


def test_two_containers_with_one_mac_have_two_addresses(place: Place) -> None:
    place.network()
    place.agent.wait_ready(READY)
    mac = "02:00:00:aa:00:78"
    with Watching(place.agent) as watching:
        names = ("one", "two")
        runs = [threading.Thread(target=place.agent.run, args=(name, "--mac-address", mac)) for name in names]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        there = running(place.agent)
        assert {mac for _, mac in there.values()} == {mac}
        assert len({address for address, _ in there.values()}) == 2
        _, told = watching.wait("same MAC")
        assert told.mac == mac


def test_a_container_with_two_interfaces_on_one_wire_is_no_conflict(place: Place) -> None:
    """Its kernel answers by both for both of its addresses."""
    place.network("--ipam-opt", "policy=move")
    place.agent.wait_ready(1)
    other = ["--subnet", "172.16.43.0/24", "--gateway", "172.16.43.254", "--ipam-opt", "ready=0"]
    place.macvlan("par0", *other, "--ipam-opt", "alone=true", name="side")
    with Watching(place.agent) as watching:
        place.agent.run("two")
        place.agent.host.docker("network", "connect", "side", "two")
        address, mac = running(place.agent)["two"]
        macs: set[str] = set()
        for _ in range(20):
            macs |= place.printer.who_has(address)
            time.sleep(0.1)
        assert macs == {mac, place.mac("two", "side")}  # as the kernel does: without it this test shows nothing
        time.sleep(2)
        assert not watching.of("conflict", "moved")
        assert running(place.agent)["two"] == (address, mac)
        assert not place.agent.leases()[address].conflict


def test_the_mac_of_a_removed_container_is_named_where_somebody_still_answers_with_it(place: Place) -> None:
    place.network()
    place.agent.run("web", "--ip", FREE)
    place.agent.wait(lambda: guards(place.agent, [FREE]) == {"container"})
    mac = place.mac("web")
    place.agent.host.docker("rm", "-f", "web")
    proxy = place.proxy.namespace
    proxy.ip(["link set eth0 down", f"link set eth0 address {mac}", f"addr add {FREE}/24 dev eth0", "link set eth0 up"])
    try:
        place.agent.wait(lambda: place.printer.who_has(FREE) == {mac})
        for _ in range(2):  # also where the address rests no longer
            line = refused(place.agent, "run", "--rm", "--network", NETWORK, "--ip", FREE, "busybox", "true")
            assert f"in use by {mac}" in line
            assert "the MAC by which web had it until" in line
    finally:
        proxy.ip([f"addr del {FREE}/24 dev eth0"])


# Several networks.


def test_one_subnet_on_two_links_is_two_networks(place: Place) -> None:
    agent = place.agent
    for last in "12":
        words = ["--subnet", "172.16.44.0/24", "--gateway", "172.16.44.3", "--ipam-opt", "witness=172.16.44.3"]
        place.macvlan(f"par{last}", *words, name=f"n{last}")
        agent.run(f"web{last}", "--ip", TWICE, network=f"n{last}")

    def of(link: str) -> tuple[str, str, str]:
        [lease] = [one for one in agent.client.leases() if (one.interface, one.address) == (link, TWICE)]
        return lease.owner, lease.state, lease.guarded

    for name, link, beside in (("web1", "par1", "par2"), ("web2", "par2", "par1")):
        other = "web2" if name == "web1" else "web1"
        agent.host.docker("stop", "-t", "0", name)
        agent.wait(lambda link=link: of(link)[2] == "agent", told=lambda: lost(place))
        assert of(beside) == (other, "bound", "container")
        agent.host.docker("start", name)
        agent.wait(lambda link=link, name=name: of(link) == (name, "bound", "container"), told=lambda: lost(place))
    agent.host.docker("restart", "-t", "0", "web1", "web2")
    assert running(agent, "n1")["web1"][0] == running(agent, "n2")["web2"][0] == TWICE


def test_where_the_first_subnet_of_a_network_is_full_the_next_is_used(place: Place) -> None:
    agent = place.agent
    full, wide = ["--subnet", "172.16.52.0/29", "--gateway", "172.16.52.1"], ["--subnet", "172.16.53.0/24"]
    for _ in range(20):  # docker's command line has them in an order by chance
        place.macvlan("par1", *full, *wide, "--gateway", "172.16.53.1", "--ipam-opt", "ready=0", name="n")
        first = agent.host.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "n").stdout.strip()
        if first == full[1]:
            break
        agent.host.docker("network", "rm", "n")
    assert first == full[1]
    for name in ("one", "two", "three"):
        agent.run(name, network="n")
    there = {name: address for name, (address, _) in running(agent, "n").items()}
    assert there["one"] == "172.16.52.2"
    assert {there["two"], there["three"]} == {"172.16.53.2", "172.16.53.3"}
    agent.wait(lambda: guards(agent, there.values()) == {"container"}, told=lambda: lost(place))
    route = agent.host.docker("exec", "two", "ip", "route").stdout
    assert "default via 172.16.53.1" in route
    agent.host.docker("restart", "-t", "0", "two")
    agent.host.docker("rm", "-f", "two", "three")
    agent.wait(
        lambda: (
            {agent.leases()[one].state for one in there.values() if one in agent.leases()} == {"bound", "quarantined"}
        ),
        told=lambda: lost(place),
    )


def test_a_second_network_whose_cable_is_out_holds_up_nothing_of_ones_own(place: Place) -> None:
    agent = place.agent
    words = ["--subnet", "172.16.45.0/24", "--gateway", "172.16.45.3", "--ipam-opt", "ready=0"]
    place.macvlan("par2", *words, name="second")
    agent.run("web")
    agent.host.docker("network", "connect", "--ip", "172.16.45.7", "second", "web")
    agent.host.docker("stop", "-t", "0", "web")
    agent.wait(lambda: guards(agent, ["172.16.45.7"]) == {"agent"}, told=lambda: lost(place))
    place.beside.namespace.ip(["link set p0 down"])
    try:
        agent.wait(lambda: "down" in {network.state for network in agent.client.status().networks})
        started = time.monotonic()
        agent.host.docker("start", "web")
        assert running(agent, "second")["web"][0] == "172.16.45.7"
        for named in ([], ["--ip", "172.16.45.8"]):
            line = refused(agent, "run", "--rm", "--network", "second", *named, "busybox", "true")
            assert "no carrier" in line
        assert time.monotonic() - started < MOMENT
    finally:
        place.beside.namespace.ip(["link set p0 up"])


# A flood.


def test_a_flood_of_forged_frames_for_one_address_is_told_once_with_its_number(place: Place) -> None:
    agent = place.agent
    place.network()
    agent.wait_ready(READY)
    agent.run("web")
    address, mac = running(agent)["web"]
    agent.wait(lambda: guards(agent, [address]) == {"container"}, told=lambda: lost(place))
    ready = next(lease.address for lease in agent.client.leases() if lease.state == "ready")
    with Watching(agent) as watching:
        for target in (address, ready):
            forged = [b"\x02\x66" + turn.to_bytes(4, "big") for turn in range(FORGED)]
            for start in range(0, FORGED, 500):
                place.proxy.send([arp.announcement(one, number(target)) for one in forged[start : start + 500]])
        watching.wait("conflict", address=address, other="")  # the number of those that were not told
        assert len(watching.of("conflict", address=address)) <= 8
        assert len(watching.of("conflict", address=ready)) == 1
        assert place.printer.who_has(address) == {mac}
