"""A host boots: engine and agent stop and start in any order, power fails, cables, switch ports and hosts come late."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Lab
from arpipam.lab.until import until
from launcher.agent.refused import LOOK
from launcher.lab.agents import AgentOn
from tests.support.agents import Watching, last_lines, power_cut, refused, running
from tests.support.profile import NIGHT, by_day

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.lab import Host, Wire
    from arpipam.lab.engine import LabEngine
    from arpipam.lab.stations import LabStation

FIXED, MAC = "172.16.42.77", "02:5e:42:00:00:77"
_AWAY = "retrying in"
"""What the engine writes while its driver is away."""
PROMPT = 12.0
"""Seconds in which an engine is up that waits for nothing of ours."""
LATE = {"cable": 12.0, "spanning tree": 20.0} if NIGHT else {"cable": 8.0, "spanning tree": 8.0}
"""Seconds after which the link comes: the engine has asked for addresses long before."""
PATIENCE = 90.0


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[AgentOn, LabStation, Wire]]:
    """A host with an engine and a network, and a station on the wire; the host knows of no other."""
    with Lab() as lab:
        wire = lab.wire()
        host = lab.host("host", wire, "172.16.42.1/24", bridge="lan0", engine=True)
        lab.start()
        station = lab.station("printer", wire, "172.16.42.3/24")
        with AgentOn(host, fabric=False, ready=2) as agent:
            agent.make_network()
            yield agent, station, wire


@pytest.fixture
def agent(place: tuple[AgentOn, LabStation, Wire]) -> Iterator[AgentOn]:
    agent, _, wire = place
    agent.run("fixed", "--restart", "always", "--ip", FIXED)
    agent.run("plain", "--restart", "always")
    agent.wait(lambda: agent.leases()[FIXED].guarded == "container")
    # It is known whose it is: else its lease would outlive the boot by the minute that a container gets to appear.
    plain = agent.address("plain")
    agent.wait(lambda: agent.leases()[plain].owner == "plain")
    yield agent
    wire.heal()
    agent.host.namespace.ip(["link set uplink up"])
    agent.clear()


def engine_of(agent: AgentOn) -> LabEngine:
    assert agent.host.engine is not None
    return agent.host.engine


def assert_all_run(agent: AgentOn, station: LabStation, patience: float = 25.0) -> None:
    """Both containers run, the one on its own address, and each of them answers for its address alone."""
    agent.wait(
        lambda: set(running(agent)) == {"fixed", "plain"},
        patience,
        lambda: f"{running(agent)} {last_lines(agent.log)}",
    )
    there = running(agent)
    assert there["fixed"][0] == FIXED
    for address, mac in there.values():
        assert station.who_has(address) == {mac}
        agent.wait(lambda address=address: agent.leases()[address].guarded == "container")

    def leased() -> dict[str, str]:
        return {address: one.owner for address, one in agent.leases().items() if one.state == "bound" and one.mac}

    there_too = {address: name for name, (address, _) in there.items()}
    agent.wait(lambda: leased() == there_too, PATIENCE, lambda: f"{there} {agent.leases()} {last_lines(agent.log)}")


def started(agent: AgentOn) -> float:
    """The engine, until it answers; the seconds that this took."""
    before = time.monotonic()
    engine_of(agent).start()
    return time.monotonic() - before


ORDERS = [(down, up) for down in ("engine first", "agent first") for up in ("engine first", "agent first")]


@pytest.mark.parametrize(("down", "up"), by_day(ORDERS, *ORDERS[1:3]))
@pytest.mark.slow
def test_a_planned_reboot(agent: AgentOn, place: tuple[AgentOn, LabStation, Wire], down: str, up: str) -> None:
    if down == "engine first":
        engine_of(agent).end()
        agent.kill(signal.SIGTERM)
    else:
        agent.kill(signal.SIGTERM)
        engine_of(agent).end()
    if up == "engine first":
        log = engine_of(agent).log
        before = log.read_text().count(_AWAY)
        starting = threading.Thread(target=engine_of(agent).start)
        starting.start()
        until(lambda: log.read_text().count(_AWAY) > before, "the engine's look for its driver")
        agent.start()
        starting.join()
    else:
        agent.start()
        started(agent)
    assert_all_run(agent, place[1])


@pytest.mark.slow
def test_a_power_cut(agent: AgentOn, place: tuple[AgentOn, LabStation, Wire]) -> None:
    power_cut(agent)
    agent.start()
    started(agent)
    assert_all_run(agent, place[1])


@contextmanager
def later(seconds: float, function: object) -> Iterator[None]:
    timer = threading.Timer(seconds, function)  # type: ignore[arg-type]
    timer.start()
    try:
        yield
    finally:
        timer.join()


@pytest.mark.parametrize("what", ["cable", "spanning tree"])
@pytest.mark.slow
def test_the_link_comes_late(agent: AgentOn, place: tuple[AgentOn, LabStation, Wire], what: str) -> None:
    """No carrier for a while, or a switch port that does not forward yet."""
    _, station, wire = place
    namespace = agent.host.namespace
    engine_of(agent).end()
    agent.kill(signal.SIGTERM)
    if what == "cable":
        namespace.ip(["link set uplink down"])
    else:
        wire.cut(agent.host)
    back = wire.heal if what == "spanning tree" else lambda: namespace.ip(["link set uplink up"])
    agent.start()
    with later(LATE[what], back):
        assert started(agent) > LATE[what]
    assert_all_run(agent, station)


@pytest.mark.parametrize("link", ["cut", "down"])
def test_a_lease_of_ones_own_waits_for_nothing(
    agent: AgentOn, place: tuple[AgentOn, LabStation, Wire], link: str
) -> None:
    """By its address or by its MAC; whatever the link is like, the engine is up at once."""
    _, station, wire = place
    agent.host.docker("rm", "-f", "plain")
    agent.host.docker(
        *("run", "-d", "--stop-signal", "KILL", "--name", "plain", "--restart", "always", "--mac-address", MAC),
        *("--network", "lan", "busybox", "sleep", "1000"),
    )
    agent.wait(lambda: agent.leases()[agent.address("plain")].owner == "plain")
    before = agent.address("plain")
    power_cut(agent)  # so that nothing is given back
    bridge = ["link set lan0 down"] if link == "down" else []
    agent.host.namespace.ip(bridge)
    wire.cut(agent.host)
    agent.start()
    try:
        assert started(agent) < PROMPT
        assert agent.address("fixed") == FIXED
        assert agent.address("plain") == before
    finally:
        wire.heal()
        agent.host.namespace.ip(["link set lan0 up"])
    assert_all_run(agent, station)


def test_the_address_of_a_container_that_runs_is_refused_after_a_start_of_the_agent(agent: AgentOn) -> None:
    """Also before the agent has seen what the engine has."""
    agent.kill()
    agent.start()
    words = ["run", "-d", "--network", "lan", "--ip", FIXED, "busybox", "true"]
    assert "belongs to fixed on this host" in refused(agent, *words)


@contextmanager
def beside_another(lab: Lab) -> Iterator[tuple[Wire, AgentOn, Host]]:
    """An agent whose host has another one beside it, which must answer; no container runs there."""
    wire = lab.wire()
    host, other = (lab.host(f"host{n}", wire, f"172.16.42.{n}/24", bridge="lan0", engine=n == 1) for n in (1, 2))
    lab.start()
    lab.station("printer", wire, "172.16.42.3/24")
    with AgentOn(host, ready=2) as agent:
        agent.make_network()
        yield wire, agent, other


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_was_refused_while_the_engine_started_is_started_once_the_other_host_is_there(lab: Lab) -> None:
    with beside_another(lab) as (wire, agent, other):
        agent.run("fixed", "--restart", "always", "--ip", FIXED)
        agent.run("plain", "--restart", "always")
        agent.run("failing", "--restart", "on-failure")
        agent.run("stopped", "--restart", "unless-stopped")
        agent.host.docker("stop", "-t", "0", "stopped")
        words = ["--network", "lan", "busybox", "sleep", "1000"]
        agent.host.docker("create", "--name", "new", "--restart", "always", *words)
        agent.run("never")
        power_cut(agent)
        wire.cut(other)
        agent.start()
        took = started(agent)
        assert 35 < took < 60, took  # it waits through both phases, before and after the silence is noticed
        assert set(running(agent)) == {"fixed"}
        with Watching(agent, recent=True) as watching:
            assert watching.wait("refused")[1].text.startswith("lan0, 172.16.42.0/24: no answer from host2")
            time.sleep(3 * LOOK)
            assert watching.of("started", "start failed") == []
            assert set(running(agent)) == {"fixed"}
            wire.heal()
            for name in ("plain", "failing"):
                watching.wait("started", owner=name, patience=PATIENCE)
            agent.wait(lambda: set(running(agent)) == {"fixed", "plain", "failing"})
            time.sleep(2 * LOOK)
            assert {event.owner for _, event in watching.of("started")} == {"plain", "failing"}
        assert set(running(agent)) == {"fixed", "plain", "failing"}
