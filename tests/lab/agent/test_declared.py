"""The agent honours the fabric and the witnesses of command line and environment, as every other command does."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Lab
from launcher.lab.agents import NETWORK, AgentOn
from tests.support import fabrics
from tests.support.agents import forget, refused, visiting
from tests.support.fabrics import ARPIPAM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.lab import Host, Wire

WITNESS = "172.16.42.9"


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Lab, Wire, list[Host]]]:
    """Two hosts of a fabric, and a station on each."""
    with Lab() as lab:
        wire, hosts = fabrics.declare(lab, 2, engine=True, bridge="lan0")
        fabrics.stations_on(lab, hosts)
        yield lab, wire, hosts


@contextmanager
def agent_of(host: Host) -> Iterator[AgentOn]:
    """An agent to be started, whose own file names no fabric; nothing is left of it and its network."""
    agent = AgentOn(host, fabric=False, ready=0)
    try:
        yield agent
        agent.clear()
        host.docker("network", "rm", NETWORK)
    finally:
        agent.kill(signal.SIGTERM)
    forget(agent)


@pytest.mark.parametrize("by", ["environment", "words"])
def test_nothing_is_handed_out_while_a_host_of_the_named_fabric_is_silent(
    place: tuple[Lab, Wire, list[Host]], by: str
) -> None:
    """Though a station near by answers, and though the agent's own file names no fabric."""
    _, wire, hosts = place
    host = hosts[0]
    with agent_of(host) as agent:
        if by == "words":
            agent.start("--fabric", str(host.fabric_file), "--host", host.name)
        else:
            agent.start(ARPIPAM_FABRIC=str(host.fabric_file), ARPIPAM_HOST=host.name)
        agent.make_network()
        agent.run("before")
        status = agent.client.status()
        assert status.fabric == f"{host.fabric_file} as {host.name} on lan0"
        assert status.networks[0].required == (hosts[1].name,)
        wire.cut(hosts[1])
        assert f"no answer from {hosts[1].name}" in refused(agent, "run", "-d", "--network", "lan", "busybox", "true")
        assert agent.process is not None
        agent.process.send_signal(signal.SIGHUP)  # by which it is read again, and still honoured
        agent.wait(lambda: "event=reloaded" in agent.log.read_text())
        assert f"no answer from {hosts[1].name}" in refused(agent, "run", "-d", "--network", "lan", "busybox", "true")
        wire.heal()
        agent.wait(lambda: not agent.client.status().networks[0].silent)
        agent.run("after")


def test_nothing_is_handed_out_while_a_named_witness_is_silent(place: tuple[Lab, Wire, list[Host]]) -> None:
    lab, _, [host, _] = place
    with agent_of(host) as agent:
        agent.start("--witness", "10.9.9.9", ARPIPAM_WITNESS=WITNESS)  # the word comes before the environment
        agent.make_network()
        agent.run("one")
        agent.host.docker("rm", "-f", "one")
        agent.host.docker("network", "rm", "lan")
        agent.kill(signal.SIGTERM)
        agent.start(ARPIPAM_WITNESS=f"10.9.9.9 {WITNESS}")
        assert agent.client.status().fabric == f"witnesses 10.9.9.9, {WITNESS}"
        agent.make_network()
        assert f"no answer from {WITNESS}" in refused(agent, "run", "-d", "--network", "lan", "busybox", "true")
        with visiting(lab, "witness", host, f"{WITNESS}/24"):
            agent.wait(lambda: not agent.client.status().networks[0].silent)
            agent.run("two")


def test_a_named_fabric_file_that_is_missing_or_wrong_ends_the_agent_in_one_line(lab: Lab) -> None:
    _, [host] = fabrics.declare(lab, 1, engine=False, bridge="lan0")
    agent = AgentOn(host, fabric=False)

    def said(*words: str, **environment: str) -> str:
        done = host.command(ARPIPAM, "agent", "--config", str(agent.file), *words, env=environment, timeout=60)
        assert done.returncode == 2, done
        [line] = done.stderr.splitlines()
        return line

    missing = host.directory / "nothing.toml"
    assert said("--fabric", str(missing)) == (
        f"arpipam: {missing}: No such file or directory; write the file, or name another with --fabric"
    )
    assert said(ARPIPAM_FABRIC=str(missing)).startswith(f"arpipam: {missing}: No such file")
    assert said("--fabric", str(host.fabric_file), "--host", "nobody") == (
        f"arpipam: --host nobody: the file names {host.name}"
    )
    host.fabric_file.write_text("[fabric\n")
    assert "line 1" in said("--fabric", str(host.fabric_file))
