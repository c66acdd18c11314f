"""An agent on a link with a DHCP server: what it sees, says, and keeps out of."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether

from arpipam.lab.daemons import Udhcpc, Udhcpd
from arpipam.link.dhcp_socket import DhcpSocket
from launcher.lab.agents import AgentOn
from tests.support.agents import Watching
from tests.support.tools import ARPIPAM
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.lab import Host, Lab
    from arpipam.lab.stations import LabStation
    from launcher.agent.contract import NetworkView

SUBNET = "172.16.42.0/24"
SERVER = "172.16.42.2"


@contextmanager
def agent_beside_a_server(lab: Lab, **network: Any) -> Iterator[tuple[AgentOn, LabStation]]:
    """An agent without an engine, whose pool is .10 to .40, and the station of a DHCP server that does not run yet."""
    wire = lab.wire()
    host = lab.host("host1", wire, "172.16.42.1/24", bridge="lan0")
    lab.start()
    server = lab.station("server", wire, f"{SERVER}/24")
    with AgentOn(host, witness=[SERVER], range=["172.16.42.10-172.16.42.40"], **network) as agent:
        status, answer = agent.ask("IpamDriver.RequestPool", Pool=SUBNET, SubPool="", Options={}, V6=False)
        assert status == 200, answer
        yield agent, server


def view(agent: AgentOn) -> NetworkView:
    [network] = agent.client.status().networks
    return network


def offers(*addresses: str, tag: int | None = None) -> list[bytes]:
    ethernet = Ether(dst="ff:ff:ff:ff:ff:ff", src="02:00:00:00:00:02")
    frames = []
    for address in addresses:
        body = BOOTP(op=2, yiaddr=address) / DHCP(
            options=[("message-type", "offer"), ("server_id", SERVER), ("lease_time", 60), "end"]
        )
        link = ethernet if tag is None else ethernet / Dot1Q(vlan=tag)
        frames.append(bytes(link / IP(src=SERVER) / UDP(sport=67, dport=68) / body))
    return frames


def command(host: Host, *words: str) -> tuple[int, str, str]:
    done = host.command(ARPIPAM, *words, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_a_server_in_the_pool_is_warned_of_everywhere(lab: Lab) -> None:
    with agent_beside_a_server(lab, ready=0) as (agent, server), Watching(agent) as watching:
        lab.run(Udhcpd, server, "172.16.42.20", "172.16.42.29")
        client = lab.run(Udhcpc, lab.station("client", lab.hosts["host1"]), request="172.16.42.25")
        assert client.wait() == "172.16.42.25"
        agent.wait(lambda: view(agent).dhcp, told=lambda: f"{client.said()}, {agent.log.read_text()}")
        assert view(agent).dhcp == ("172.16.42.2 gives out 172.16.42.25-172.16.42.25",)
        [warning] = view(agent).dhcp_warnings
        assert "172.16.42.25 is in this pool" in warning
        assert watching.wait("dhcp")[1].text == warning
        status, _, told = command(agent.host, "agent", "status", "--socket", str(agent.socket))
        assert (status, told) == (0, f"warning: lan0: {warning}\n")
        done = agent.host.command(
            ARPIPAM,
            "fabric",
            "check",
            "--fabric",
            str(agent.host.fabric_file),
            env={"ARPIPAM_SOCKET": str(agent.socket)},
        )
        lines = [line for line in done.stdout.splitlines() if "\tdhcp\t" in line]
        assert len(lines) == 1, done
        assert lines[0].startswith(f"warning\tdhcp\t{warning}\t"), lines


def test_ready_addresses_leave_what_a_server_gives_out(lab: Lab) -> None:
    with agent_beside_a_server(lab, ready=2, exclude="dhcp") as (agent, server):
        agent.wait_ready(2)
        assert {"172.16.42.10", "172.16.42.11"} <= set(agent.leases())
        server.send(offers("172.16.42.10", "172.16.42.30"))

        def ready() -> set[str]:
            return {address for address, lease in agent.leases().items() if lease.state == "ready"}

        agent.wait(lambda: ready() == {"172.16.42.31", "172.16.42.32"}, told=lambda: f"{agent.leases()}")
        assert view(agent).dhcp_warnings == ()
        options = {"com.docker.network.endpoint.macaddress": "02:42:00:00:00:01"}
        pool = view(agent).pool
        status, answer = agent.ask("IpamDriver.RequestAddress", PoolID=pool, Address="172.16.42.20", Options=options)
        assert (status, answer["Address"]) == (200, "172.16.42.20/24")  # who names it gets it


def test_the_socket_hears_dhcp_alone(lab: Lab) -> None:
    wire = lab.wire()
    here, there = lab.station("here", wire, "172.16.42.3/24"), lab.station("there", wire, "172.16.42.4/24")
    with here.namespace.inside():
        sock = DhcpSocket("eth0")
    wanted = offers("172.16.42.10")
    other = bytes(Ether(dst="ff:ff:ff:ff:ff:ff") / IP(src=SERVER) / UDP(sport=5353, dport=68) / bytes(300))
    there.send([other, *offers("172.16.42.11", tag=5), *offers("172.16.42.12", tag=0), *wanted, other])
    heard: list[bytes] = []

    def all_of_it() -> bool:
        heard.extend(sock.receive(10))
        return wanted[0] in heard

    until(all_of_it, lambda: f"{heard}")
    assert heard == [*offers("172.16.42.12"), *wanted]  # a priority alone (VLAN 0) is no VLAN
    assert sock.receive(10) == []
    sock.close()
