"""A link whose own MAC or address changes while an agent asks its witness once a second and defends its claims."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from arpipam.lab.capture import Capture
from arpipam.lab.host import UPLINK
from arpipam.protocol import arp
from launcher.lab.agents import AgentOn
from tests.support.agents import Watching, last_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from arpipam.lab import Host, Lab
    from arpipam.protocol.arp import ArpPacket

SUBNET, WITNESS, VIRTUAL = "172.16.42.0/24", "172.16.42.3", "172.16.42.100"
READY = 2


@contextmanager
def agent_on(lab: Lab, *lines: str) -> Iterator[tuple[Host, AgentOn, Capture]]:
    """An agent without an engine on a bridge that is made as these lines say; all ARP packets that the witness gets."""
    wire = lab.wire()
    host = lab.host("host1", wire, "172.16.42.1/24", bridge="lan0")
    lab.start(up=False)
    host.namespace.ip([f"link set {UPLINK} address 52:54:00:12:34:56", *lines, f"link set {UPLINK} master lan0 up"])
    host.namespace.ip(["link set lan0 up"])
    station = lab.station("witness", wire, f"{WITNESS}/24")
    with station.namespace.inside():
        capture = Capture("eth0")
    settings = {"ready": READY, "witness": [WITNESS]}
    with capture, AgentOn(host, fabric=False, agent={"quarantine": 0}, **settings) as agent:
        options = {"interface": "lan0"}
        status, answer = agent.ask("IpamDriver.RequestPool", Pool=SUBNET, SubPool="", Options=options, V6=False)
        assert status == 200, answer
        agent.wait_ready(READY)
        yield host, agent, capture


def mac_of(host: Host) -> str:
    [link] = json.loads(host.namespace.run("ip", "-j", "link", "show", "lan0"))
    return str(link["address"])


def asks(agent: AgentOn, capture: Capture) -> Sequence[ArpPacket]:
    """The questions to the witness in some seconds from now, but for those from the ready addresses themselves."""
    now, wanted = time.monotonic(), int(IPv4Address(WITNESS))
    ready = {arp.mac_bytes(lease.mac) for lease in agent.client.leases()}

    def asked() -> list[ArpPacket]:
        capture.read()
        later = [packet for at, packet in capture.packets if at > now and packet.target_ip == wanted]
        return [packet for packet in later if packet.sender_mac not in ready]

    agent.wait(lambda: len(asked()) > 2, told=lambda: last_lines(agent.log))
    return asked()


def test_nothing_is_sent_from_a_mac_that_the_bridge_has_no_more(lab: Lab) -> None:
    """A bridge without a MAC of its own takes the lowest of its ports, as it comes with a container."""
    with agent_on(lab, "link add lan0 type bridge", "addr add 172.16.42.1/24 dev lan0") as (host, agent, capture):
        before = mac_of(host)
        assert {arp.mac_text(packet.sender_mac) for packet in asks(agent, capture)} == {before}
        host.namespace.ip(
            ["link add low address 02:00:00:00:00:01 type veth peer name wol", "link set low master lan0 up"]
        )
        after = mac_of(host)
        assert after != before
        assert {arp.mac_text(packet.sender_mac) for packet in asks(agent, capture)} == {after}
        [network] = agent.client.status().networks
        assert network.state == "up"


def test_nothing_is_sent_from_an_address_that_has_moved_to_another_station(lab: Lab) -> None:
    made = "link add lan0 address 02:00:00:00:01:01 type bridge"
    addresses = [f"addr add {VIRTUAL}/32 dev lan0", "addr add 172.16.42.1/24 dev lan0"]
    with agent_on(lab, made, *addresses) as (host, agent, capture), Watching(agent) as watching:
        senders = {packet.sender_ip for packet in asks(agent, capture)}
        assert senders == {int(IPv4Address("172.16.42.1"))}  # of several, the one whose network is meant
        host.namespace.ip([f"addr del {VIRTUAL}/32 dev lan0"])
        assert {packet.sender_ip for packet in asks(agent, capture)} == senders
        host.namespace.ip(["addr add 172.16.42.55/24 dev lan0", "addr del 172.16.42.1/24 dev lan0"])  # as by DHCP
        host.namespace.ip(["addr replace 172.16.42.55/24 dev lan0"])
        assert {packet.sender_ip for packet in asks(agent, capture)} == {int(IPv4Address("172.16.42.55"))}
        [network] = agent.client.status().networks
        assert (network.state, network.ready) == ("up", READY)
        assert watching.of("link down", "partition", "gap") == []
