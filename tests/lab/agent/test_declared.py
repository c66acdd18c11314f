"""The agent honours the fabric and the witnesses of command line and environment, as every other command does."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from launcher.lab.agents import AgentOn
from tests.support import fabrics
from tests.support.agents import refused
from tests.support.fabrics import ARPIPAM

if TYPE_CHECKING:
    from arpipam.lab import Lab

WITNESS = "172.16.42.9"


@pytest.mark.parametrize("by", ["environment", "words"])
def test_nothing_is_handed_out_while_a_host_of_the_named_fabric_is_silent(lab: Lab, by: str) -> None:
    """Though a station near by answers, and though the agent's own file names no fabric."""
    wire, hosts = fabrics.declare(lab, 2, engine=True, bridge="lan0")
    fabrics.stations_on(lab, hosts)
    host = hosts[0]
    agent = AgentOn(host, fabric=False, ready=0)
    try:
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
    finally:
        agent.kill(signal.SIGTERM)


def test_nothing_is_handed_out_while_a_named_witness_is_silent(lab: Lab) -> None:
    wire = lab.wire()
    host = lab.host("host", wire, "172.16.42.1/24", bridge="lan0", engine=True)
    lab.start()
    lab.station("printer", wire, "172.16.42.3/24")
    agent = AgentOn(host, fabric=False, ready=0)
    try:
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
        lab.station("witness", wire, f"{WITNESS}/24")
        agent.wait(lambda: not agent.client.status().networks[0].silent)
        agent.run("two")
    finally:
        agent.kill(signal.SIGTERM)


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
