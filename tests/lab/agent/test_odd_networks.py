"""Networks and containers of others, as odd as a real engine takes them: nothing of them ends the following of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from launcher.engine.engine import Engine
from launcher.lab.agents import AgentOn
from tests.support.agents import last_lines

if TYPE_CHECKING:
    from arpipam.lab import Lab

NETWORKS = {
    "host bits": ["--subnet", "10.0.0.1/24"],
    "host bits and range": ["--subnet", "10.1.0.1/24", "--ip-range", "10.1.0.200/25", "--gateway", "10.1.0.7"],
    "aside": ["--subnet", "10.2.0.0/24", "--aux-address", "a b=10.2.0.9", "--aux-address", "\x1b=10.2.0.8"],
    "a\nline": ["--subnet", "10.3.0.0/24", "--label", "\x1b[31m=\n"],
    "é/../x y": ["--subnet", "10.4.0.0/24", "--label", "arpipam.lease=x"],
    "two families": ["--ipv6", "--subnet", "fd00:7::/64", "--subnet", "10.5.0.0/24"],
    "internal": ["--internal", "--subnet", "10.6.0.0/30"],
}


def test_the_following_goes_on_whatever_else_the_engine_has(lab: Lab) -> None:
    wire = lab.wire()
    host = lab.host("h1", wire, "172.16.42.1/24", bridge="lan0", engine=True)
    lab.start()
    lab.station("printer", wire, "172.16.42.3/24")
    assert host.engine is not None
    with AgentOn(host, fabric=False, agent={"quarantine": 1, "compare": 5}, ready=1) as agent:
        agent.make_network()
        agent.run("before")
        for name, words in NETWORKS.items():
            host.docker("network", "create", *words, name)
        host.docker("create", "--name", "never", "--network", "a\nline", "busybox", "true")
        host.docker("run", "-d", "--name", "netless", "--network", "none", "busybox", "sleep", "1000")
        host.docker("run", "-d", "--name", "guest", "--network", "container:netless", "busybox", "sleep", "1000")
        host.docker("run", "--name", "both", "--label", "arpipam.lease=²", "--network", "host", "busybox", "true")
        host.docker("run", "--name", "failed", "--network", "host bits", "busybox", "no such program", check=False)
        host.docker(
            "create",
            "--name",
            "by_id",
            "--network",
            host.docker("network", "inspect", "-f", "{{.Id}}", "lan").stdout.strip(),
            "busybox",
            "true",
        )
        agent.run("after")
        addresses = {agent.address(name) for name in ("before", "after")}
        agent.wait(lambda: {agent.leases()[address].owner for address in addresses} == {"before", "after"})
        host.docker("rm", "-f", "before", "after")
        told = lambda: f"{agent.leases()}\n{last_lines(agent.log)}"  # noqa: E731
        agent.wait(lambda: not addresses & agent.leases().keys(), told=told)
        status = agent.client.status()
        assert (status.failures, [network.state for network in status.networks]) == ((), ["up"])
        engine = Engine(host.engine.env["DOCKER_HOST"])
        try:
            view, names = engine.view(), {c.name for c in engine.containers()}
        finally:
            engine.close()
        assert view.unreadable == ()
        shown = host.docker("network", "ls", "--format", "{{json .Name}}").stdout.splitlines()
        assert {network.name for network in view.networks} == set(map(json.loads, shown)) - {"none", "host"}
        assert {"never", "netless", "guest", "both", "failed", "by_id"} <= names
        assert "internal error" not in agent.log.read_text()
