"""Many containers at one moment on two hosts, more than there are addresses, and a long time in the small."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Lab
from launcher.lab.agents import NETWORK, AgentOn
from tests.support.agents import agents_on, assert_one_holder_each, refused, running, two_agents, two_hosts
from tests.support.profile import count

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

    from arpipam.lab import Host
    from arpipam.lab.stations import LabStation

AT_ONCE = count("AT_ONCE", day=12, night=40)
"""Containers that are started at the same moment on each host."""
MANY = 20
"""Foreign stations."""
RUNS, PAIRS = count("RUNS", day=6, night=60), count("PAIRS", day=60, night=1500)
"""Containers one after another, and addresses taken and given back without one."""
PATIENCE = 100.0
MORE_MEMORY = 2048
"""KiB by which the agent may grow in the last third: by then its code is loaded, and its events fit what it has."""


def run_at_once(agents: Sequence[AgentOn], count: int) -> list[subprocess.CompletedProcess[str]]:
    """`docker run` so many times on each host, all at the same moment."""
    with ThreadPoolExecutor(len(agents) * count) as pool:
        jobs = [pool.submit(agent.run, f"c{n}", check=False) for n in range(count) for agent in agents]
        return [job.result() for job in jobs]


def test_many_on_each_of_two_hosts_at_the_same_moment(lab: Lab) -> None:
    crowd = [f"172.16.42.{n}" for n in range(3, 3 + MANY)]  # just those that would come first
    with two_agents(lab, 24, crowd) as (agents, station):
        done = run_at_once(agents, AT_ONCE)
        assert [run.stderr for run in done if run.returncode] == []
        addresses = [address for agent in agents for address, _ in running(agent).values()]
        assert len(set(addresses)) == 2 * AT_ONCE
        assert not set(addresses) & set(crowd)
        assert assert_one_holder_each(agents, station) == 2 * AT_ONCE


def test_more_than_there_are(lab: Lab) -> None:
    """Of 14 the hosts have two and a foreign machine has one."""
    with two_agents(lab, 28, ["172.16.42.3"]) as (agents, station):
        done = run_at_once(agents, 8)
        surplus = [run.stderr for run in done if run.returncode]
        given = {address for agent in agents for address, _ in running(agent).values()}
        assert given == {f"172.16.42.{n}" for n in range(4, 15)}, surplus
        assert len(surplus) == 5
        for said in surplus:
            [line] = [line for line in said.splitlines() if line.strip() and "--help" not in line]
            assert "no free address" in line
            assert "172.16.42.0/28" in line
        assert assert_one_holder_each(agents, station) == 11


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[list[Host], LabStation]]:
    """Two hosts with engines, and a foreign station."""
    with Lab() as lab:
        yield two_hosts(lab, 24, ["172.16.42.3"])


def test_ready_addresses_of_an_idle_host_are_there_for_the_other(pair: tuple[list[Host], LabStation]) -> None:
    hosts, station = pair
    with agents_on(hosts, "--ip-range", "172.16.42.64/28") as [busy, idle]:
        for agent in (busy, idle):
            agent.wait_ready(1)  # an eighth of those that the other one leaves
        [network] = busy.client.status().networks
        given: list[str] = []

        def one_more() -> bool:
            mac = f"02:42:00:00:00:{len(given):02x}"
            options = {"com.docker.network.endpoint.macaddress": mac}
            status, answer = busy.ask("IpamDriver.RequestAddress", PoolID=network.pool, Address="", Options=options)
            if status == 200:
                given.append(answer["Address"])
            return status == 200

        while one_more():
            pass
        assert len(given) >= 16 - 4
        while len(given) < 16:
            busy.wait(one_more)
        assert len(set(given)) == 16
        assert not one_more()
        assert idle.client.status().networks[0].ready == 0
        line = refused(idle, "run", "--rm", "--network", NETWORK, "busybox", "true")
        assert "no free address" in line
        assert station.who_has("172.16.42.64") != set()


def held_by(agent: AgentOn) -> dict[str, int]:
    """What the agent holds of the machine: descriptors, threads, memory (KiB), and rows of its database in use."""
    assert agent.process is not None
    proc = Path(f"/proc/{agent.process.pid}")
    [memory] = [line.split()[1] for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS")]
    with sqlite3.connect(agent.state_dir / "leases.db") as database:
        [rows] = database.execute("SELECT count(*) FROM lease WHERE state IN ('claimed', 'bound')").fetchone()
    database.close()
    return {
        "descriptors": len(list((proc / "fd").iterdir())),
        "threads": len(list((proc / "task").iterdir())),
        "memory": int(memory),
        "leases": rows,
        "leases told": len([lease for lease in agent.client.leases() if lease.state in {"ready", "claimed", "bound"}]),
    }


def settled(agent: AgentOn) -> dict[str, int]:
    """The same once all that was given back is at rest."""
    agent.wait(
        lambda: all(lease.state in {"ready", "quarantined"} for lease in agent.client.leases()), patience=PATIENCE
    )
    agent.wait(lambda: all(n.ready >= min(n.wanted, 4) for n in agent.client.status().networks), patience=PATIENCE)
    return held_by(agent)


def assert_level(figures: Sequence[dict[str, int]]) -> None:
    """Nothing has grown from the first third to the last, nor memory in the last."""
    print(*figures, sep="\n")  # noqa: T201 - what the growth was
    first, last = figures[0], figures[-1]
    assert last["memory"] <= figures[-2]["memory"] + MORE_MEMORY
    for name in ("descriptors", "threads"):
        assert last[name] <= first[name] + 8, name  # what waits for the disk has a few threads, made when first needed
    for figure in figures:
        assert max(figure["leases"], figure["leases told"]) <= 40, figure  # those that are or become ready


def test_a_long_time_in_the_small(pair: tuple[list[Host], LabStation]) -> None:
    hosts, station = pair
    with agents_on(hosts, agent={"quarantine": 1}, most_ready=8) as [agent, _]:
        [network] = agent.client.status().networks
        figures = []
        for third in range(3):
            for _ in range(RUNS // 3):
                agent.host.docker("run", "--rm", "--network", NETWORK, "busybox", "true")
            for turn in range(PAIRS // 3):
                options = {"com.docker.network.endpoint.macaddress": f"02:42:00:00:{third:02x}:{turn:02x}"}
                status, answer = agent.ask(
                    "IpamDriver.RequestAddress", PoolID=network.pool, Address="", Options=options
                )
                assert status == 200, answer
                address = answer["Address"].partition("/")[0]
                status, answer = agent.ask("IpamDriver.ReleaseAddress", PoolID=network.pool, Address=address)
                assert status == 200, answer
            figures.append(settled(agent))
        assert_level(figures)
        agent.run("last")
        assert assert_one_holder_each([agent], station) == 1
