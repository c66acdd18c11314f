"""Agents and engines that are killed at any moment while containers come and go on two hosts."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Lab
from launcher.lab.agents import AgentOn
from tests.support import fabrics
from tests.support.agents import Load, assert_one_holder_each
from tests.support.profile import count, seeded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from arpipam.lab.stations import LabStation
    from launcher.agent.contract import LeaseView

AGENT_KILLS = count("AGENT_KILLS", day=4, night=50)
ENGINE_KILLS = count("ENGINE_KILLS", day=2, night=10)
QUARANTINE = 2
PATIENCE = 100.0
"""Seconds: an address that Docker asked for, and died, is given up after a minute."""


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[list[AgentOn], LabStation]]:
    """Agents on two hosts, and a station that asks: each test leaves nothing of its containers.

    Not on docker0, which an engine without a bridge of its own removes as it starts.
    """
    with Lab() as lab, ExitStack() as stack:
        _, hosts = fabrics.declare(lab, 2, engine=True, bridge="lan0")
        agents = [AgentOn(host, agent={"quarantine": QUARANTINE, "compare": 1}) for host in hosts]
        for agent in agents:
            stack.enter_context(agent)
            agent.make_network()
        yield agents, lab.station("asker", hosts[0])


def audit(agents: Sequence[AgentOn], load: Load, asker: LabStation) -> int:
    """What has to hold at the end; the number of containers that run."""
    assert load.overlapping() == []
    there = assert_one_holder_each(agents, asker, patience=PATIENCE)
    for agent in agents:
        agent.host.docker("rm", "-f", *agent.host.docker("ps", "-aq").stdout.split())
        wait_empty(agent)
    return there


def wait_empty(agent: AgentOn) -> None:
    """Until no address of the host is leased."""
    agent.wait(lambda: not others_than_ready(agent), told=lambda: str(others_than_ready(agent)))


def others_than_ready(agent: AgentOn) -> list[LeaseView]:
    """The leases of a host, without the addresses that are kept ready or that are about to be."""
    return [lease for lease in agent.client.leases() if lease.owner != "ready"]


def assert_goes_on(agents: Sequence[AgentOn], load: Load) -> None:
    """After the last kill containers start again on each host; Docker waits ever longer for a plugin that is away."""
    for agent in agents:
        agent.wait_served()
        _assert_goes_on(agent, load)


def _assert_goes_on(agent: AgentOn, load: Load) -> None:
    enough = load.started_on(agent) + 3
    what = lambda: f"{load.started_on(agent)} of {enough} containers on {agent.host.name}, {load.failures},"  # noqa: E731
    agent.wait(lambda: load.started_on(agent) >= enough, PATIENCE, what)


def report(capsys: pytest.CaptureFixture[str], load: Load, text: str) -> None:
    """Show what happened, also where all is well."""
    failures = [f"\n{number:5} {said}" for said, number in load.failures.most_common()]
    with capsys.disabled():
        print(f"\n{text}; {load.started} containers started, failures:", *failures or ["none"])  # noqa: T201 - to see it again


def test_whenever_the_agent_is_killed_no_address_is_held_twice_lost_or_leaked(
    place: tuple[list[AgentOn], LabStation], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = seeded()
    agents, asker = place
    began = time.monotonic()
    with Load(agents) as load:
        for _ in range(AGENT_KILLS):
            time.sleep(rng.uniform(0, 3.0))  # docker waits for ever longer for a plugin that is away
            agent = rng.choice(agents)
            agent.kill()
            agent.start(wait=rng.random() < 0.8)  # else it may be killed while it starts
        assert_goes_on(agents, load)
    under_load = time.monotonic() - began
    there = audit(agents, load, asker)
    report(capsys, load, f"{AGENT_KILLS} kills in {under_load:.0f} s, {there} left at the end")


def test_whenever_the_engine_is_killed_no_address_is_held_twice_lost_or_leaked(
    place: tuple[list[AgentOn], LabStation], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = seeded()
    agents, asker = place
    began = time.monotonic()
    with Load(agents, "--restart", "always") as load:
        for _ in range(ENGINE_KILLS):
            time.sleep(rng.uniform(0, 3.0))
            agent = rng.choice(agents)
            engine = agent.host.engine
            assert engine is not None
            load.ended(agent)
            engine.end(signal.SIGKILL)
            load.ended(agent)
            engine.start()
        assert_goes_on(agents, load)
    under_load = time.monotonic() - began
    there = audit(agents, load, asker)
    report(capsys, load, f"{ENGINE_KILLS} kills in {under_load:.0f} s, {there} left at the end")
