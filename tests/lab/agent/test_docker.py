"""The agent as the IPAM driver of a real engine: networks, containers, and what their neighbours see."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Lab
from arpipam.lab.availability import Asker
from launcher.lab.agents import NETWORK, AgentOn
from tests.support.agents import assert_one_holder_each, end_quarantines, guards, last_lines, refused, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.lab.stations import LabStation

QUARANTINE = 2
FOREIGN = "172.16.42.3"  # a machine on the network that Docker knows nothing of
FREE = "172.16.42.77"
READY = 4
SIDE, SIDE_SUBNET, OWN = "side0", "10.7.0.0/24", "10.7.0.3"  # another bridge, on which this host is alone
ALONE = ("--ipam-opt", "alone=true", "--ipam-opt", "ready=0")
SHOW = "ip -o -4 addr show eth0 | awk '{print $4}'; ip route | awk '/default/{print $3}'"


@pytest.fixture(scope="module")
def place(engine_age: str) -> Iterator[tuple[AgentOn, LabStation]]:
    """A host with an engine and an agent, another host that is its witness, and a station that asks.

    Not on docker0, which an engine without a bridge of its own removes as it starts.
    """
    with Lab(engine=engine_age) as lab:
        wire = lab.wire()
        host = lab.host("host", wire, "172.16.42.1/24", bridge="lan0", engine=True)
        lab.host("other", wire, "172.16.42.2/24", bridge="lan0")
        lab.start()
        station = lab.station("foreign", wire, f"{FOREIGN}/24")
        with AgentOn(host, agent={"quarantine": QUARANTINE}) as agent:
            agent.make_network()
            agent.wait_ready(READY)
            yield agent, station


@pytest.fixture
def agent(place: tuple[AgentOn, LabStation]) -> Iterator[AgentOn]:
    """The agent; whatever a test left, nothing of it is left in the agent soon after."""
    agent, _ = place
    yield agent
    agent.clear()
    agent.wait(lambda: nothing_left(agent), told=lambda: f"{agent.client.leases()} {last_lines(agent.log)}")


def nothing_left(agent: AgentOn) -> bool:
    """No lease but those that are ready, no pool but the usual one; what rests ends now."""
    end_quarantines(agent)
    networks = agent.client.status().networks
    return {network.interface for network in networks} == {agent.host.bridge} and not any(
        lease.state != "ready" for lease in agent.client.leases()
    )


@pytest.fixture
def station(place: tuple[AgentOn, LabStation]) -> LabStation:
    return place[1]


@pytest.fixture
def side(agent: AgentOn) -> Iterator[AgentOn]:
    """The agent on a host that has one more bridge."""
    with bridge(agent, SIDE, f"{OWN}/24"):
        yield agent
        agent.clear()


@contextmanager
def bridge(agent: AgentOn, name: str, address: str) -> Iterator[None]:
    namespace = agent.host.namespace
    namespace.ip(
        [f"link add {name} type bridge forward_delay 0", f"addr add {address} dev {name}", f"link set {name} up"]
    )
    try:
        yield
    finally:
        namespace.ip([f"link delete {name}"])


def create(*words: str, name: str = "side", interface: str = SIDE, subnet: str = SIDE_SUBNET) -> list[str]:
    """The words by which docker makes a network on the bridge."""
    said = ["-d", "bridge", "--ipam-driver", "arpipam", "-o", f"com.docker.network.bridge.name={interface}"]
    return ["network", "create", *said, *(["--subnet", subnet] if subnet else []), *words, name]


def shown(agent: AgentOn, *words: str, network: str = "side") -> list[str]:
    """Address with prefix, and gateway, that a container has."""
    return agent.host.docker("run", "--rm", "--network", network, *words, "busybox", "sh", "-c", SHOW).stdout.split()


# Networks.


@pytest.mark.both_engines
def test_without_a_gateway_it_is_the_bridges_own_address(side: AgentOn) -> None:
    show = ["ip", "-o", "-4", "address", "show", SIDE]
    before = side.host.command(*show).stdout
    side.host.docker(*create(*ALONE))

    assert shown(side) == ["10.7.0.1/24", OWN]
    assert side.host.command(*show).stdout == before


@pytest.mark.both_engines
def test_gateway_auxiliary_addresses_and_range(side: AgentOn) -> None:
    words = ["--aux-address", "DefaultGatewayIPv4=10.7.0.254", "--ip-range", "10.7.0.128/30"]
    aside = ["--aux-address", "a=10.7.0.5", "--aux-address", "b=10.7.0.129"]  # one of them outside of the range
    side.host.docker(*create(*ALONE, *words, *aside))
    for number in range(3):
        side.run(f"c{number}", network="side")
    there = running(side, "side")
    assert {address for address, _ in there.values()} == {"10.7.0.128", "10.7.0.130", "10.7.0.131"}
    assert "no free address" in refused(side, "run", "--rm", "--network", "side", "busybox", "true")
    assert shown(side, "--ip", "10.7.0.77") == ["10.7.0.77/24", "10.7.0.254"]  # whoever names one need not care for it
    for address in ("10.7.0.5", "10.7.0.254"):
        assert address in refused(side, "run", "--rm", "--network", "side", "--ip", address, "busybox", "true")


@pytest.mark.parametrize(
    ("options", "address"),
    [
        (("range=10.7.0.100-10.7.0.101", "exclude=10.7.0.100"), "10.7.0.101/24"),
        (("range=10.7.0.64/30,10.7.0.9", "order=random", "exclude=10.7.0.64/30"), "10.7.0.9/24"),
        (("exclude=10.7.0.0/30", "timing=lan", f"interface={SIDE}", "policy=report"), "10.7.0.4/24"),
        (("timing=rfc5227", "order=first"), "10.7.0.1/24"),
    ],
)
def test_options(options: tuple[str, ...], address: str, side: AgentOn) -> None:
    side.host.docker(*create(*ALONE, *(word for option in options for word in ("--ipam-opt", option))))
    assert shown(side)[0] == address


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("range=10.8.0.0/30", "10.8.0.0/30"),
        ("exclude=this", "this"),
        ("exclude=10.7.0.0/24", "exclude"),
        ("order=last", "first, random or sticky"),
        ("timing=never", "adaptive, lan, rfc5227 or guarded"),
        ("witness=10.8.0.1", "10.8.0.1"),
        ("interface=side9", "side9"),
        ("colour=red", "colour"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(option: str, said: str, side: AgentOn) -> None:
    assert said in refused(side, *create("--ipam-opt", option))
    assert nothing_left(side)


def test_a_witness_that_is_silent_is_named(side: AgentOn) -> None:
    side.host.docker(*create("--ipam-opt", "witness=10.7.0.200"))
    assert "10.7.0.200" in refused(side, "run", "--rm", "--network", "side", "busybox", "true")


@pytest.mark.parametrize(
    ("words", "subnet", "said"),
    [
        (("--ipam-opt", f"interface={SIDE}"), "10.7.0.0/25", "10.7.0.0/24"),
        (("--ip-range", "10.7.0.64/26"), SIDE_SUBNET, "10.7.0.0/24"),
        ((), SIDE_SUBNET, "conflicts"),  # the same pool for us; the engine's bridge driver refuses
        ((), "", "--subnet"),
        (("--ipv6", "--subnet", "fd00::/64"), SIDE_SUBNET, "IPv4"),
        (("--subnet", "10.9.0.0/24"), SIDE_SUBNET, ""),
        ((), "10.10.0.0/24", "10.10.0.0/24"),  # no link has it
    ],
)
def test_a_network_that_cannot_be_is_refused_and_the_others_go_on(
    words: tuple[str, ...], subnet: str, said: str, side: AgentOn
) -> None:
    side.host.docker(*create(*ALONE))
    before = side.client.status().networks
    assert said in refused(side, *create(*words, name="another", subnet=subnet))
    assert [network.pool for network in side.client.status().networks] == [network.pool for network in before]
    assert shown(side) == ["10.7.0.1/24", OWN]
    side.host.docker("network", "rm", "side")
    side.wait(lambda: nothing_left(side))


def test_removed_networks_leave_nothing(side: AgentOn) -> None:
    for end in (["rm", "side"], ["prune", "--force"]):
        side.host.docker(*create(*ALONE, "--aux-address", "a=10.7.0.5", "--gateway", OWN))
        side.run("one", network="side")
        side.host.docker("run", "-d", "--name", "lan", "--network", NETWORK, "busybox", "sleep", "1000")
        side.host.docker("rm", "-f", "one")
        side.host.docker("network", *end)
        side.wait(lambda: [network.interface for network in side.client.status().networks] == [side.host.bridge])
        side.wait(lambda: not any(lease.interface == SIDE for lease in side.client.leases()))
        side.host.docker("rm", "-f", "lan")


# Addresses.


@pytest.mark.both_engines
def test_a_given_address_that_is_in_use_is_refused(agent: AgentOn, station: LabStation) -> None:
    """Also while the container that has it is being started, and not yet shown as one that runs."""
    line = refused(agent, "run", "--rm", "--network", NETWORK, "--ip", FOREIGN, "busybox", "true")
    assert FOREIGN in line
    assert station.mac in line
    agent.run("holder", "--ip", FREE)
    line = refused(agent, "run", "--rm", "--network", NETWORK, "--ip", FREE, "busybox", "true")
    assert FREE in line
    assert "holder" in line
    for own in (agent.host.address, "172.16.42.2"):
        assert own in refused(agent, "run", "--rm", "--network", NETWORK, "--ip", own, "busybox", "true")


@pytest.mark.both_engines
def test_a_stopped_container_keeps_the_address_that_it_was_given(agent: AgentOn, station: LabStation) -> None:
    agent.run("web", "--ip", FREE)
    for _ in range(2):
        assert station.who_has(FREE) == {running(agent)["web"][1]}
        agent.wait(lambda: guards(agent, [FREE]) == {"container"})
        agent.host.docker("stop", "-t", "0", "web")
        lease = agent.leases()[FREE]
        assert (lease.state, lease.owner, lease.guarded) == ("bound", "web", "agent")
        assert station.who_has(FREE) == {lease.mac}
        agent.host.docker("start", "web")
    assert_one_holder_each([agent], station)
    agent.host.docker("stop", "-t", "0", "web")
    agent.host.docker("rm", "web")
    agent.wait(lambda: agent.leases()[FREE].state == "quarantined")
    assert guards(agent, [FREE]) == {"nobody"}
    assert station.who_has(FREE) == set()
    agent.wait(lambda: FREE not in agent.leases())


def test_a_kept_address_may_be_given_to_another_and_comes_back(agent: AgentOn, station: LabStation) -> None:
    """As with Docker's own addresses; the engine does not say which container it asks for."""
    agent.run("web", "--ip", FREE)
    agent.host.docker("stop", "-t", "0", "web")
    agent.run("other", "--ip", FREE)
    agent.wait(lambda: guards(agent, [FREE]) == {"container"} and agent.leases()[FREE].owner == "other")
    assert f"{FREE} belongs to other" in agent.host.docker("start", "web", check=False).stderr
    assert station.who_has(FREE) == {running(agent)["other"][1]}
    agent.host.docker("rm", "-f", "other")
    agent.wait(lambda: agent.leases()[FREE].owner == "web")
    assert guards(agent, [FREE]) == {"agent"}
    agent.host.docker("start", "web")
    assert_one_holder_each([agent], station)


def test_a_container_that_stops_gives_its_own_address_back(agent: AgentOn, station: LabStation) -> None:
    agent.run("web")
    address = agent.address("web")
    agent.host.docker("stop", "-t", "0", "web")
    agent.wait(lambda: agent.leases()[address].state == "quarantined")
    assert station.who_has(address) == set()
    agent.host.docker("start", "web")
    agent.host.docker("restart", "-t", "0", "web")
    assert assert_one_holder_each([agent], station) == 1


def test_a_container_that_is_restarted_until_it_succeeds(agent: AgentOn, station: LabStation) -> None:
    script = 'echo x >> /tries; [ "$(wc -l < /tries)" -ge 4 ] && exec sleep 1000; exit 1'
    words = ["--restart", "on-failure", "--network", NETWORK, "busybox", "sh", "-c", script]
    agent.host.docker("run", "-d", "--name", "free", *words)
    agent.host.docker("run", "-d", "--name", "fixed", "--ip", FREE, *words)
    for name in ("free", "fixed"):
        form = "{{.RestartCount}} {{.State.Running}} {{.State.Restarting}}"
        agent.wait(
            lambda name=name, form=form: agent.host.docker("inspect", "-f", form, name).stdout.strip() == "3 true false"
        )
    assert assert_one_holder_each([agent], station) == 2
    assert agent.address("fixed") == FREE


def test_a_command_that_cannot_be_started_leaves_nothing(agent: AgentOn) -> None:
    done = agent.host.docker("run", "--name", "wrong", "--network", NETWORK, "busybox", "/no/such", check=False)
    assert done.returncode == 127
    agent.wait(lambda: not any(lease.state == "bound" for lease in agent.client.leases()))


@pytest.mark.both_engines
def test_networks_are_joined_and_left(side: AgentOn, station: LabStation) -> None:
    side.host.docker(*create(*ALONE))
    side.run("web")
    first = side.address("web")
    side.host.docker("network", "connect", "--ip", "10.7.0.50", "side", "web")
    side.wait(lambda: guards(side, [first, "10.7.0.50"]) == {"container"})
    side.wait(lambda: side.leases()["10.7.0.50"].owner == "web")
    side.host.docker("network", "disconnect", NETWORK, "web")
    side.wait(lambda: side.leases()[first].state == "quarantined")
    assert station.who_has(first) == set()
    side.host.docker("stop", "-t", "0", "web")
    assert guards(side, ["10.7.0.50"]) == {"agent"}
    side.host.docker("network", "connect", NETWORK, "web")  # nothing is asked for until it starts
    side.host.docker("start", "web")
    side.wait(lambda: guards(side, [side.address("web"), "10.7.0.50"]) == {"container"})
    assert side.address("web", "side") == "10.7.0.50"
    assert station.who_has(side.address("web")) == {running(side)["web"][1]}


@pytest.mark.parametrize("fixed", [False, True], ids=["ready", "given"])
@pytest.mark.both_engines
def test_neighbours_learn_one_mac_and_are_always_answered(fixed: bool, agent: AgentOn, station: LabStation) -> None:  # noqa: FBT001 - a case
    agent.wait_ready(READY)
    wanted = [FREE] if fixed else [lease.address for lease in agent.client.leases() if lease.state == "ready"]
    with Asker(station, wanted) as asker:
        agent.run("web", *(["--ip", FREE] if fixed else []))
        address, mac = running(agent)["web"]
        agent.wait(lambda: guards(agent, [address]) == {"container"})
    assert address in wanted
    senders = asker.senders(address)
    macs = [sender for _, sender in senders]
    assert set(macs[macs.index(mac) :]) == {mac}
    assert len(set(macs)) == (1 if fixed else 2)  # a ready one is ours until it is the container's
    asked, silent = asker.count(address)
    since = senders[0][0] if fixed else 0.0  # nobody had it before it was claimed
    assert [at for at in silent if at > since] == []
    print(f"{asked} times asked, {len(silent)} times before it was anybody's")  # noqa: T201
