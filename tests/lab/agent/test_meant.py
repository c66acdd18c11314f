"""What a real engine would make of a slip of the pen: no address of this host or of the LAN is ever lost by it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Lab
from launcher.lab.agents import AgentOn
from tests.support.agents import Watching, last_lines, refused
from tests.support.tools import ARPIPAM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from arpipam.lab import Host, Wire
    from arpipam.lab.stations import LabStation

ROUTER, NIC = "172.16.42.254", "eth1"
NIC_ROUTER = "10.43.0.254"
ON_BRIDGE = ("-d", "bridge", "-o", "com.docker.network.bridge.name=lan0")
HOOK = "#!/bin/sh\ncat >> {}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AgentOn, LabStation, Wire, Path]]:
    """A host with a bridge on one LAN and a plain NIC on another, a router on each, and an agent with a hook."""
    folder = tmp_path_factory.mktemp("hook")
    hook = folder / "hook"
    hook.write_text(HOOK.format(folder / "told"))
    hook.chmod(0o755)
    with Lab() as lab:
        wire, other = lab.wire(), lab.wire()
        host = lab.host("host", wire, "172.16.42.1/24", bridge="lan0", engine=True)
        lab.start()
        router = lab.station("router", wire, f"{ROUTER}/24")
        lab.station("router2", other, f"{NIC_ROUTER}/24")
        other.plug(host.namespace, NIC)
        host.namespace.ip([f"addr add 10.43.0.1/24 dev {NIC}", f"route add default via {ROUTER}"])
        with AgentOn(host, fabric=False, agent={"hook": str(hook), "quarantine": 1}, ready=0) as agent:
            yield agent, router, wire, folder / "told"


@pytest.fixture
def agent(place: tuple[AgentOn, LabStation, Wire, Path]) -> Iterator[AgentOn]:
    agent = place[0]
    yield agent
    agent.host.docker("network", "rm", "lan", check=False)
    agent.clear()
    agent.wait(lambda: not agent.client.status().networks, told=lambda: last_lines(agent.log))


def links(host: Host) -> str:
    """All addresses and routes."""
    return host.namespace.run("ip", "-4", "-o", "address") + host.namespace.run("ip", "route")


def create(*words: str) -> list[str]:
    return ["network", "create", "--ipam-driver", "arpipam", *words, "x"]


REFUSED = {
    "the router": (["--subnet", "172.16.42.0/24", "--gateway", ROUTER], f"DefaultGatewayIPv4={ROUTER}"),
    "any address": (["--subnet", "172.16.42.0/24", "--gateway", "172.16.42.9"], "DefaultGatewayIPv4=172.16.42.9"),
    "a part": (
        ["--subnet", "172.16.42.128/25", "--ipam-opt", "interface=lan0"],
        "--subnet 172.16.42.0/24 --ip-range 172.16.42.128/25",
    ),
    "a longer prefix": (["--subnet", "172.16.42.0/25"], "--subnet 172.16.42.0/24"),
    "a shorter prefix": (["--subnet", "172.16.0.0/16"], "--subnet 172.16.42.0/24"),
    "elsewhere": (["--subnet", "10.1.0.0/24", "--ipam-opt", "interface=lan0"], "--subnet 172.16.42.0/24"),
}


@pytest.mark.parametrize("silent", [False, True], ids=["", "router silent"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_would_cost_the_bridge_its_address_is_refused(
    case: str, agent: AgentOn, place: tuple[AgentOn, LabStation, Wire, Path], *, silent: bool
) -> None:
    words, said = REFUSED[case]
    _, router, wire, _ = place
    before = links(agent.host)
    if silent:
        router.namespace.ip(["link set eth0 down"])
    try:
        line = refused(agent, *create(*ON_BRIDGE, *words))
    finally:
        router.namespace.ip(["link set eth0 up"])
    assert said in line
    assert "lan0" in line
    assert links(agent.host) == before
    assert not agent.client.leases()
    agent.wait(lambda: wire.who_has(ROUTER) == {router.mac})


def test_the_router_is_the_gateway_of_an_untouched_bridge(agent: AgentOn) -> None:
    before = links(agent.host)
    aside = ["--aux-address", f"DefaultGatewayIPv4={ROUTER}", "--ipam-opt", f"witness={ROUTER}"]
    agent.host.docker(*create(*ON_BRIDGE, "--subnet", "172.16.42.0/24", *aside))
    shown = agent.host.docker(
        "run", "--rm", "--network", "x", "busybox", "sh", "-c", f"ip route; ping -c1 -W2 {ROUTER}"
    ).stdout
    assert f"default via {ROUTER}" in shown
    assert " 0% packet loss" in shown
    assert links(agent.host) == before


def test_a_bridge_without_an_address_never_gets_that_of_a_station(
    agent: AgentOn, place: tuple[AgentOn, LabStation, Wire, Path]
) -> None:
    _, router, wire, _ = place
    namespace = agent.host.namespace
    namespace.ip(["link add bare0 type bridge forward_delay 0", "link set bare0 up"])
    wire.plug(namespace, "bare1")
    router.namespace.ip(["addr add 10.3.0.254/24 dev eth0"])
    words = ["-d", "bridge", "-o", "com.docker.network.bridge.name=bare0", "--subnet", "10.3.0.0/24"]
    words += ["--ipam-opt", "interface=bare0", "--ipam-opt", "alone=true"]
    try:
        namespace.ip(["link set bare1 master bare0"])
        line = refused(agent, *create(*words, "--gateway", "10.3.0.254"))
        assert router.mac in line
        assert "DefaultGatewayIPv4=10.3.0.254" in line
        assert "bare0" not in namespace.run("ip", "-4", "-o", "address")
        agent.host.docker(*create(*words, "--gateway", "10.3.0.9"))
        assert "10.3.0.9/24" in namespace.run("ip", "-4", "-o", "address", "show", "bare0")
        agent.clear()
    finally:
        router.namespace.ip(["addr del 10.3.0.254/24 dev eth0"])
        namespace.ip(["link delete bare0", "link delete bare1"])


@pytest.mark.parametrize(
    "words",
    [["--ipam-opt", f"interface={NIC}"], [], ["-d", "macvlan", "-o", f"parent={NIC}"]],
    ids=["bridge", "nothing said", "macvlan"],
)
def test_no_gateway_is_guessed_on_a_link_that_is_no_bridge(words: list[str], agent: AgentOn) -> None:
    before = links(agent.host)
    line = refused(agent, *create(*words, "--subnet", "10.43.0.0/24"))
    for said in (f"{NIC} is not a bridge", f"-d macvlan -o parent={NIC}", "--gateway ADDRESS"):
        assert said in line
    assert links(agent.host) == before


def test_a_network_on_another_device_gives_nothing_out(
    agent: AgentOn, place: tuple[AgentOn, LabStation, Wire, Path]
) -> None:
    """`-d macvlan` is forgotten, and the gateway named: that cannot be known before the engine has made its bridge."""
    told = place[3]
    words = ["--subnet", "10.43.0.0/24", "--gateway", NIC_ROUTER, "--ipam-opt", f"witness={NIC_ROUTER}"]
    with Watching(agent) as watching:
        agent.host.docker(*create(*words))
        line = refused(agent, "run", "--rm", "--network", "x", "busybox", "true")
        assert "driver bridge" in line
        assert f"-d macvlan -o parent={NIC}" in line
        _, event = watching.wait("mismatch")
    assert event.interface == NIC
    assert event.text in line
    [network] = agent.client.status().networks
    assert (network.state, network.reason) == ("mismatch", event.text)
    done = agent.host.command(ARPIPAM, "agent", "status", "--socket", str(agent.socket))
    assert done.returncode == 1
    assert event.text in done.stdout
    assert event.text in agent.log.read_text()
    agent.wait(told.exists)
    assert [json.loads(said)["text"] for said in told.read_text().splitlines()] == [event.text]
    told.unlink()
    agent.host.docker("network", "rm", "x")
    agent.wait(lambda: not agent.client.status().networks)
    assert not agent.client.leases()

    agent.host.docker(*create("-d", "macvlan", "-o", f"parent={NIC}", *words))
    shown = agent.host.docker("run", "--rm", "--network", "x", "busybox", "ip", "route").stdout
    assert f"default via {NIC_ROUTER}" in shown
    assert [network.state for network in agent.client.status().networks] == ["up"]


def test_another_parent_than_the_link_gives_nothing_out(
    agent: AgentOn, place: tuple[AgentOn, LabStation, Wire, Path]
) -> None:
    place[2].plug(agent.host.namespace, "eth2")
    words = ["--subnet", "10.43.0.0/24", "--gateway", NIC_ROUTER, "--ipam-opt", f"interface={NIC}"]
    try:
        agent.host.docker(*create("-d", "macvlan", "-o", "parent=eth2", *words))
        line = refused(agent, "run", "--rm", "--network", "x", "busybox", "true")
        assert f"with the parent eth2 and not with {NIC}" in line
        agent.clear()
    finally:
        agent.host.namespace.ip(["link delete eth2"])


def test_a_vlan_that_docker_would_make_is_told_of(agent: AgentOn) -> None:
    words = ["-d", "macvlan", "-o", f"parent={NIC}.10", "--ipam-opt", f"interface={NIC}.10"]
    line = refused(agent, *create(*words, "--subnet", "10.4.0.0/24", "--gateway", "10.4.0.1"))
    assert f"ip link add link {NIC} name {NIC}.10 type vlan id 10" in line
