"""The order `sticky` for plain docker run and compose: a container of the same name gets the same address again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Lab
from launcher.lab.agents import AgentOn
from tests.support.agents import assert_one_holder_each, last_lines, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from arpipam.lab.stations import LabStation

MAC = "02:5e:42:00:00:33"


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[AgentOn, LabStation]]:
    with Lab() as lab:
        wire = lab.wire()
        host = lab.host("host", wire, "172.16.42.1/24", bridge="lan0", engine=True)
        lab.start()
        station = lab.station("printer", wire, "172.16.42.3/24")
        with AgentOn(host, fabric=False, agent={"quarantine": 60}, order="sticky", ready=2) as agent:
            agent.make_network()
            agent.wait_ready(2)
            yield agent, station


@pytest.fixture
def agent(place: tuple[AgentOn, LabStation]) -> Iterator[AgentOn]:
    agent = place[0]
    yield agent
    agent.clear()


def named(agent: AgentOn, name: str) -> str:
    """The container's address, once the agent knows whose it is."""
    address = agent.address(name)
    agent.wait(lambda: agent.leases()[address].owner == name, told=lambda: f"{agent.leases()} {last_lines(agent.log)}")
    return address


def test_a_container_of_the_same_name_gets_the_same_address(agent: AgentOn, place: tuple[AgentOn, LabStation]) -> None:
    """Removed and made again, at once and later; restarted; stopped and started; others come and go meanwhile."""
    agent.run("web")
    agent.run("db")
    web, db = named(agent, "web"), named(agent, "db")
    agent.host.docker("rm", "-f", "web")
    agent.run("web")
    assert agent.address("web") == web
    named(agent, "web")
    agent.host.docker("rm", "-f", "web", "db")
    agent.wait(lambda: {agent.leases()[address].state for address in (web, db)} == {"quarantined"})
    agent.run("other")
    agent.run("db")
    agent.run("web")
    assert (agent.address("web"), agent.address("db")) == (web, db)
    named(agent, "web")
    agent.host.docker("restart", "-t", "0", "web")
    assert agent.address("web") == web
    agent.host.docker("stop", "-t", "0", "db")
    agent.wait(lambda: agent.leases()[db].state == "quarantined")
    agent.run("more")
    agent.host.docker("start", "db")
    assert agent.address("db") == db
    assert assert_one_holder_each([agent], place[1]) == 4


def test_an_address_that_is_used_by_now_is_not_given_again(agent: AgentOn, place: tuple[AgentOn, LabStation]) -> None:
    _, station = place
    agent.run("web")
    web = named(agent, "web")
    agent.host.docker("rm", "-f", "web")
    agent.wait(lambda: agent.leases()[web].state == "quarantined")
    station.namespace.ip([f"addr add {web}/24 dev eth0"])
    try:
        agent.run("web")
        assert agent.address("web") != web
    finally:
        station.namespace.ip([f"addr del {web}/24 dev eth0"])


def test_many_at_once_get_an_address_each(agent: AgentOn, place: tuple[AgentOn, LabStation]) -> None:
    """Nobody knows then which is which: what is left of it is that nobody is harmed."""
    names = [f"c{number}" for number in range(4)]
    for _ in range(2):
        for name in names:
            agent.host.docker("create", "--name", name, "--network", "lan", "busybox", "sleep", "1000")
        agent.host.docker("start", *names)
        assert assert_one_holder_each([agent], place[1]) == len(names)
        agent.host.docker("rm", "-f", *names)


def test_with_a_mac_of_its_own_the_mac_is_the_same_too(agent: AgentOn) -> None:
    words = ["--mac-address", MAC]
    agent.run("web", *words)
    before = running(agent)["web"]
    named(agent, "web")
    agent.host.docker("rm", "-f", "web")
    agent.run("web", *words)
    assert running(agent)["web"] == before == (before[0], MAC)


COMPOSE = """
services:
  web: {image: busybox, command: sleep 1000, networks: [front]}
networks:
  front: {external: true, name: lan}
"""


def test_a_compose_service_keeps_its_address(agent: AgentOn, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(COMPOSE)

    def compose(*words: str) -> str:
        command = ["docker-compose", "--project-name", "shop", "--project-directory", str(tmp_path), *words]
        agent.host.command(*command, cwd=tmp_path, check=True)
        [name] = agent.host.docker("ps", "-a", "--format", "{{.Names}}").stdout.split() or [""]
        return name

    name = compose("up", "-d")
    before = named(agent, name)
    for words in (["restart", "-t", "0"], ["up", "-d", "--force-recreate", "-t", "0"]):
        assert compose(*words) == name
        assert agent.address(name) == before
        named(agent, name)
    assert not compose("down", "-t", "0")
    compose("up", "-d")
    assert agent.address(name) == before
