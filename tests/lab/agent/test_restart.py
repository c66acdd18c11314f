"""Engine and agent are started again, in either order, while containers run; macvlan; many networks at once."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Lab
from arpipam.lab.availability import Asker
from launcher.lab.agents import NETWORK, AgentOn
from tests.support.agents import assert_one_holder_each, end_quarantines, guards, last_lines, running
from tests.support.profile import by_day

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from arpipam.lab import Wire
    from arpipam.lab.engine import LabEngine
    from arpipam.lab.stations import LabStation
    from launcher.agent.contract import LeaseView

QUARANTINE = 2
PATIENCE = 100.0
GATEWAY, ASIDE, FIXED = "172.16.42.1", "172.16.42.99", "172.16.42.77"
READY = 2


@pytest.fixture(scope="module")
def place(engine_age: str) -> Iterator[tuple[AgentOn, LabStation, Wire]]:
    """A host with an engine, another host that is its witness, and a station that asks.

    Not on docker0, which an engine without a bridge of its own removes as it starts.
    """
    with Lab(engine=engine_age) as lab:
        wire = lab.wire()
        host = lab.host("host", wire, f"{GATEWAY}/24", bridge="lan0", engine=True)
        lab.host("other", wire, "172.16.42.2/24", bridge="lan0")
        lab.start()
        station = lab.station("foreign", wire, "172.16.42.3/24")
        with AgentOn(host, agent={"quarantine": QUARANTINE}, ready=READY) as agent:
            agent.make_network("--gateway", GATEWAY, "--aux-address", f"a={ASIDE}")
            yield agent, station, wire


@pytest.fixture
def agent(place: tuple[AgentOn, LabStation, Wire]) -> Iterator[AgentOn]:
    """The agent; whatever a test left, nothing of it is left in the agent soon after."""
    agent = place[0]
    yield agent
    agent.clear()
    agent.wait(lambda: nothing_left(agent), PATIENCE, lambda: f"{agent.client.leases()} {last_lines(agent.log)}")


@pytest.fixture
def station(place: tuple[AgentOn, LabStation, Wire]) -> LabStation:
    return place[1]


def nothing_left(agent: AgentOn) -> bool:
    """No lease but those that are ready, and the auxiliary address; no network but the usual one. What rests ends."""
    end_quarantines(agent)
    leases = {address for address, lease in agent.leases().items() if lease.state not in {"ready", "claimed"}}
    return leases == {ASIDE} and len(agent.client.status().networks) == 1


def engine_of(agent: AgentOn) -> LabEngine:
    assert agent.host.engine is not None
    return agent.host.engine


ENDS = (signal.SIGTERM, signal.SIGKILL)


@pytest.mark.parametrize("number", by_day(ENDS, signal.SIGTERM))  # test_faults.py kills engines
@pytest.mark.both_engines
def test_the_engine_is_started_again(number: int, agent: AgentOn, station: LabStation) -> None:
    agent.run("always", "--restart", "always")
    agent.run("always-fixed", "--restart", "always", "--ip", FIXED)
    agent.run("fixed", "--ip", "172.16.42.78")
    agent.run("plain")
    plain = agent.address("plain")
    engine_of(agent).end(number)
    engine_of(agent).start()
    assert set(running(agent)) == {"always", "always-fixed"}
    agent.wait(lambda: plain not in agent.leases() or agent.leases()[plain].owner != "plain", PATIENCE)
    assert agent.leases()["172.16.42.78"].state == "bound"
    agent.wait(lambda: guards(agent, ["172.16.42.78"]) == {"agent"})
    assert station.who_has("172.16.42.78") == {agent.leases()["172.16.42.78"].mac}
    agent.host.docker("start", "fixed", "plain")
    agent.run("new")
    assert assert_one_holder_each([agent], station) == 5
    assert agent.address("always-fixed") == FIXED
    [network] = agent.client.status().networks
    assert network.state == "up"
    assert ASIDE in agent.leases()
    [config] = json.loads(agent.host.docker("network", "inspect", "-f", "{{json .IPAM.Config}}", NETWORK).stdout)
    assert config["Gateway"] == GATEWAY


@pytest.mark.parametrize("number", ENDS)
def test_the_agent_is_started_again(number: int, agent: AgentOn, station: LabStation) -> None:
    agent.run("free")
    agent.run("fixed", "--ip", FIXED)
    agent.run("stopped", "--ip", "172.16.42.78")
    agent.host.docker("stop", "-t", "0", "stopped")
    agent.wait(lambda: guards(agent, [agent.address("free"), FIXED]) == {"container"})
    before = {address: (lease.created, lease.mac) for address, lease in leases_of_containers(agent).items()}
    agent.kill(number)
    agent.start()
    assert {address: (lease.created, lease.mac) for address, lease in leases_of_containers(agent).items()} == before
    agent.wait(lambda: guards(agent, [agent.address("free"), FIXED]) == {"container"})
    assert guards(agent, ["172.16.42.78"]) == {"agent"}
    assert station.who_has("172.16.42.78") == {agent.leases()["172.16.42.78"].mac}
    agent.host.docker("start", "stopped")
    agent.run("new")
    assert assert_one_holder_each([agent], station) == 4


def leases_of_containers(agent: AgentOn) -> dict[str, LeaseView]:
    return {address: lease for address, lease in agent.leases().items() if lease.state == "bound" and lease.mac}


@pytest.mark.slow
def test_what_happened_while_the_agent_was_away_is_made_good(agent: AgentOn, station: LabStation) -> None:
    """Docker tries for 15 s to give the addresses back, and then forgets that."""
    agent.run("gone")
    agent.run("stopped", "--ip", FIXED)
    address = agent.address("gone")
    agent.wait(lambda: (agent.leases()[address].owner, agent.leases()[FIXED].owner) == ("gone", "stopped"))
    agent.kill()
    with ThreadPoolExecutor() as pool:
        ends = [("rm", "-f", "gone"), ("stop", "-t", "0", "stopped")]
        list(pool.map(lambda words: agent.host.docker(*words), ends))
    agent.start()
    agent.wait(lambda: address not in agent.leases() or agent.leases()[address].state == "quarantined")
    agent.wait(lambda: guards(agent, [FIXED]) == {"agent"})
    assert station.who_has(FIXED) == {agent.leases()[FIXED].mac}
    agent.host.docker("start", "stopped")
    assert assert_one_holder_each([agent], station) == 1


@pytest.mark.slow
def test_the_engine_comes_up_before_the_agent(agent: AgentOn, station: LabStation) -> None:
    """It waits for the agent, then goes on without; no pool is asked for again when the agent comes.

    For each container that ran it waits once more.
    """
    agent.run("plain")
    agent.host.docker("stop", "-t", "0", "plain")
    agent.run("fixed", "--ip", FIXED)
    engine_of(agent).end(signal.SIGKILL)
    agent.kill()
    engine_of(agent).start()
    agent.start()
    agent.host.docker("start", "plain", "fixed")
    agent.run("new")
    assert assert_one_holder_each([agent], station) == 3
    assert agent.address("fixed") == FIXED


@pytest.fixture
def leaving(agent: AgentOn) -> Iterator[LabEngine]:
    """The engine, such that its containers outlive it (live-restore); afterwards as it was."""
    engine = engine_of(agent)
    engine.end()
    engine.start("--live-restore")
    yield engine
    agent.clear()
    engine.end()
    engine.start()


@pytest.mark.parametrize("number", by_day(ENDS, signal.SIGKILL))
def test_containers_that_outlive_the_engine_keep_their_addresses(
    number: int, agent: AgentOn, leaving: LabEngine, station: LabStation
) -> None:
    agent.run("one")
    agent.run("two", "--ip", FIXED)
    addresses = [agent.address("one"), FIXED]
    agent.wait(lambda: guards(agent, addresses) == {"container"})
    shown = ("inspect", "-f", "{{.State.Pid}}", "one", "two")
    processes = agent.host.docker(*shown).stdout
    before = leases_of_containers(agent)
    with Asker(station, addresses) as asker:
        leaving.end(number)
        leaving.start("--live-restore")
        agent.run("new")
        agent.wait(lambda: agent.address("new") in leases_of_containers(agent))
    assert agent.host.docker(*shown).stdout == processes
    after = leases_of_containers(agent)
    for address in addresses:
        asked, unanswered = asker.count(address)
        assert asked
        assert not unanswered
        assert {mac for _, mac in asker.senders(address)} == {before[address].mac}
        assert (after[address].created, after[address].mac) == (before[address].created, before[address].mac)
    assert assert_one_holder_each([agent], station) == 3
    agent.host.docker("rm", "-f", "one")
    agent.wait(lambda: addresses[0] not in leases_of_containers(agent))


def test_what_the_engine_tells_again_changes_nothing(agent: AgentOn, station: LabStation) -> None:
    """As an engine does that starts again beside its containers."""
    agent.run("one")
    agent.run("two", "--ip", FIXED)
    agent.wait(lambda: guards(agent, [agent.address("one"), FIXED]) == {"container"})
    [network] = agent.client.status().networks
    before = agent.leases()
    assert agent.ask("Plugin.Activate")[0] == 200
    status, pool = agent.ask("IpamDriver.RequestPool", Pool="172.16.42.0/24", SubPool="", Options={}, V6=False)
    assert (status, pool["PoolID"]) == (200, network.pool)
    gateway = {"RequestAddressType": "com.docker.network.gateway"}
    told = [(GATEWAY, gateway), (ASIDE, None), (agent.address("one"), None), (FIXED, None)]
    for address, options in told:
        status, answer = agent.ask("IpamDriver.RequestAddress", PoolID=network.pool, Address=address, Options=options)
        assert (status, answer["Address"]) == (200, f"{address}/24")
    after = agent.leases()
    assert [after[address].created for address, _ in told[1:]] == [before[address].created for address, _ in told[1:]]
    assert assert_one_holder_each([agent], station) == 2


# Other networks.


def test_on_a_macvlan_network(place: tuple[AgentOn, LabStation, Wire], agent: AgentOn) -> None:
    """The containers cannot be heard by their own host; the engine says when they run."""
    _, station, wire = place
    namespace = agent.host.namespace
    wire.plug(namespace, "par0")
    station.namespace.ip(["addr add 172.16.43.9/24 dev eth0"])
    options = ["-o", "parent=par0", "--ipam-opt", "interface=par0", "--ipam-opt", "witness=172.16.43.9"]
    words = ["--ipam-driver", "arpipam", "--subnet", "172.16.43.0/24", "--gateway", "172.16.43.9", *options]
    try:
        agent.host.docker("network", "create", "-d", "macvlan", *words, "mac")
        agent.run("free", network="mac")
        agent.run("fixed", "--ip", "172.16.43.77", network="mac")
        there = running(agent, "mac")
        assert there["fixed"][0] == "172.16.43.77"
        agent.wait(lambda: guards(agent, [address for address, _ in there.values()]) == {"container"})
        for address, mac in there.values():
            assert station.who_has(address) == {mac}
            assert station.ping(address)
        agent.host.docker("stop", "-t", "0", "free", "fixed")
        assert guards(agent, ["172.16.43.77"]) == {"agent"}
        assert station.who_has("172.16.43.77") == {agent.leases()["172.16.43.77"].mac}
        agent.host.docker("start", "free", "fixed")
        address, mac = running(agent, "mac")["fixed"]
        agent.wait(lambda: guards(agent, [address]) == {"container"})
        assert station.who_has(address) == {mac}
        agent.clear()
        agent.wait(lambda: nothing_left(agent))
    finally:
        agent.clear()
        namespace.ip(["link delete par0"])
        station.namespace.ip(["addr del 172.16.43.9/24 dev eth0"])


COMPOSE = f"""
services:
  db: &base
    image: busybox
    container_name: db
    command: sleep 10000
    restart: always
    networks: {{back: {{ipv4_address: 10.8.0.20, aliases: [database]}}}}
  cache:
    <<: *base
    container_name: cache
    restart: unless-stopped
    networks: [back]
  web:
    <<: *base
    container_name: web
    depends_on: [db, cache]
    networks: {{front: {{ipv4_address: {FIXED}}}, back: {{aliases: [application]}}}}
  proxy:
    <<: *base
    container_name: proxy
    restart: on-failure
    networks: [front]
networks:
  front:
    external: true
    name: {NETWORK}
  back:
    name: back
    driver: bridge
    driver_opts: {{com.docker.network.bridge.name: back0}}
    ipam:
      driver: arpipam
      config: [{{subnet: 10.8.0.0/24}}]
      options: {{alone: "true"}}
"""
"""Two networks, one that is there and one that it makes; fixed and free addresses; all restart policies."""


@pytest.mark.own_engine  # docker-compose 1 cannot make a container anew on an engine since 25.0
def test_a_compose_file(agent: AgentOn, station: LabStation, tmp_path: Path) -> None:
    namespace = agent.host.namespace
    namespace.ip(["link add back0 type bridge forward_delay 0", "addr add 10.8.0.1/24 dev back0", "link set back0 up"])
    (tmp_path / "compose.yaml").write_text(COMPOSE)

    def compose(*words: str) -> None:
        agent.host.command("docker-compose", "--project-directory", str(tmp_path), *words, cwd=tmp_path, check=True)

    try:
        compose("up", "-d")

        def holds() -> None:
            front, back = running(agent), running(agent, "back")
            assert set(front) == {"web", "proxy"}
            assert set(back) == {"db", "cache", "web"}
            assert (front["web"][0], back["db"][0]) == (FIXED, "10.8.0.20")
            there = dict([*front.values(), *back.values()])
            assert len(there) == 5
            agent.wait(
                lambda: {a: lease.mac for a, lease in leases_of_containers(agent).items()} == there,
                told=lambda: f"{leases_of_containers(agent)} for {there}",
            )
            agent.wait(lambda: guards(agent, there) == {"container"})
            for address, mac in front.values():
                assert station.who_has(address) == {mac}
            for address, _ in back.values():
                agent.host.docker("exec", "web", "ping", "-c", "1", "-W", "2", address)

        holds()
        agent.host.docker("exec", "web", "ping", "-c", "1", "-W", "2", "database")
        compose("restart", "-t", "0")
        holds()
        compose("stop", "-t", "0")
        agent.wait(lambda: set(leases_of_containers(agent)) == {FIXED, "10.8.0.20"})
        assert guards(agent, [FIXED, "10.8.0.20"]) == {"agent"}
        compose("start")
        holds()
        compose("up", "-d", "--force-recreate", "-t", "0")
        holds()
        compose("down", "-t", "0")
        assert "back" not in agent.host.docker("network", "ls", "--format", "{{.Name}}").stdout.split()
    finally:
        agent.clear()
        namespace.ip(["link delete back0"])
