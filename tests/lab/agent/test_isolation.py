"""One fault stays one: a wrong file, an odd network, many moves at once end nothing else. With real engines."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Lab
from arpipam.protocol import arp
from launcher.engine.engine import Engine
from tests.support.agents import Watching, agent_on
from tests.support.profile import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.lab import Host
    from arpipam.lab.stations import LabStation
    from launcher.lab.agents import AgentOn

MOVED = count("MOVED", day=12, night=32)
"""By night as many as the agent has threads for what waits: before, that left none for the engine's requests. By day
many more than move at one time.
"""
AT_ONCE = 4
"""So many of them are started side by side."""
PRINTER = "172.16.42.3"


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Host, LabStation]]:
    """A host with a bridge that the engine leaves alone, and a station beside it."""
    with Lab() as lab:
        wire = lab.wire()
        host = lab.host("host1", wire, "172.16.42.1/24", engine=True, bridge="lan0")
        lab.start()
        yield host, lab.station("printer", wire, f"{PRINTER}/24")


def log_of(agent: AgentOn) -> str:
    return agent.log.read_text()


@pytest.mark.parametrize("kind", ["syntax", "missing", "host"])
def test_a_reload_with_a_wrong_fabric_file_changes_nothing(place: tuple[Host, LabStation], kind: str) -> None:
    host, _ = place
    with agent_on(host, witness=[PRINTER], ready=0) as agent:
        agent.run("web")
        before = agent.client.status()
        text = host.fabric_file.read_text()
        if kind == "syntax":
            host.fabric_file.write_text("[fabric\n")
        elif kind == "missing":
            host.fabric_file.unlink()
        else:
            host.fabric_file.write_text(text.replace(f'"{host.name}"', '"elsewhere"'))
        assert agent.process is not None
        agent.process.send_signal(signal.SIGHUP)
        agent.wait(lambda: "not reloaded" in log_of(agent), told=lambda: log_of(agent)[-1000:])
        after = agent.client.status()
        assert (after.pid, after.failures) == (before.pid, ())
        assert [(network.state, network.leases) for network in after.networks] == [("up", 1)]
        agent.run("more")
        host.fabric_file.write_text(text)
        agent.process.send_signal(signal.SIGHUP)
        agent.wait(lambda: "event=reloaded" in log_of(agent), told=lambda: log_of(agent)[-1000:])


@pytest.mark.own_engine  # a newer one refuses such a network
def test_a_foreign_network_with_host_bits_hides_nothing(place: tuple[Host, LabStation]) -> None:
    host, _ = place
    with agent_on(host, agent={"quarantine": 2, "compare": 5}, ready=0) as agent:
        agent.run("before")
        host.docker("network", "create", "--subnet", "10.0.0.1/24", "plain")
        agent.run("after")
        addresses = {agent.address(name) for name in ("before", "after")}
        host.docker("rm", "-f", "before", "after")
        agent.wait(lambda: not addresses & agent.leases().keys(), told=lambda: f"{agent.leases()}\n{log_of(agent)}")
        assert agent.client.status().failures == ()
        assert "internal error" not in log_of(agent)


def test_health_checks_are_no_news_of_an_engine(place: tuple[Host, LabStation]) -> None:
    """Before, each of them brought a full look at the engine. Asked with each kind of command that runs inside."""
    host, _ = place
    assert host.engine is not None
    host.docker("run", "-d", "--name", "web", "--network", "none", "busybox", "sleep", "1000")
    engine = Engine(host.engine.env["DOCKER_HOST"])
    try:
        news = engine.changes()
        for _ in range(3):
            host.docker("exec", "web", "true")
        host.docker("rename", "web", "web2")
        first = next(news)
        assert (first["Type"], first["Action"]) == ("container", "rename")
        host.docker("rm", "-f", "web2")
        actions = [next(news)["Action"] for _ in range(2)]
        assert set(actions) <= {"die", "disconnect", "destroy"}
        news.close()
    finally:
        engine.close()


@pytest.mark.slow
def test_many_containers_move_at_once_while_others_start(place: tuple[Host, LabStation]) -> None:
    host, printer = place
    with agent_on(host, policy="move", ready=0, timing="lan") as agent, Watching(agent) as watching:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(agent.run, [f"web{number}" for number in range(MOVED)]))
        addresses = {f"web{number}": agent.address(f"web{number}") for number in range(MOVED)}
        printer.namespace.ip([f"addr add {address}/24 dev eth0" for address in addresses.values()])
        mac = arp.mac_bytes(printer.mac)
        printer.send([arp.announcement(mac, int(IPv4Address(address))) for address in addresses.values()])
        started = threading.Thread(target=agent.run, args=("late",))
        started.start()
        for address in addresses.values():
            watching.wait("moved", address=address, patience=120.0)
        started.join()
        assert watching.of("move failed") == []
        after = {name: agent.address(name) for name in addresses}
        assert not set(after.values()) & set(addresses.values())
        assert len(set(after.values())) == MOVED
    printer.namespace.ip(["addr flush dev eth0", f"addr add {PRINTER}/24 dev eth0"])
