"""Agents and engines that are killed at any moment while containers come and go on two hosts."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from itertools import combinations, count
from typing import TYPE_CHECKING, Self

from tests.lab import fabrics
from tests.lab.agents import AgentOn, assert_one_holder_each

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    import pytest

    from arpipam.lab import Lab

AGENT_KILLS = int(os.environ.get("ARPIPAM_AGENT_KILLS", "50"))
ENGINE_KILLS = int(os.environ.get("ARPIPAM_ENGINE_KILLS", "10"))
QUARANTINE = 2
THREADS = 2
"""On each host; docker's client and the engine need most of the processors."""
KEPT = 3
"""Containers of one thread that run at one time."""
PATIENCE = 100.0
"""Seconds: an address that Docker asked for, and died, is given up after a minute."""


@dataclass
class Life:
    """When a container surely had its address: from after `docker run` to before `docker rm`, monotonic seconds."""

    agent: AgentOn
    name: str
    address: str
    since: float
    until: float | None = None


class Load:
    """Containers come and go on all hosts; what fails meanwhile is counted by what docker says."""

    def __init__(self, agents: Sequence[AgentOn], *words: str) -> None:
        self.lives: list[Life] = []
        self.failures: Counter[str] = Counter()
        self.started = 0
        self._words = words
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._broken: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(agent, number)) for agent in agents for number in range(THREADS)
        ]

    def ended(self, agent: AgentOn) -> None:
        """All containers of that host may have ended."""
        with self._lock:
            for life in self.lives:
                if life.agent is agent and life.until is None:
                    life.until = time.monotonic()

    def overlapping(self) -> list[tuple[Life, Life]]:
        """Two that had the same address at the same time."""
        far = float("inf")
        return [
            (one, other)
            for one, other in combinations(self.lives, 2)
            if one.address == other.address and max(one.since, other.since) < min(one.until or far, other.until or far)
        ]

    def _run(self, agent: AgentOn, number: int) -> None:
        try:
            self._come_and_go(agent, number)
        except BaseException as error:
            self._broken.append(error)
            raise

    def _come_and_go(self, agent: AgentOn, number: int) -> None:
        mine: deque[Life] = deque()
        for turn in count():
            if self._ending.is_set():
                return
            name = f"c{number}-{turn}"
            done = agent.run(name, *self._words, check=False)
            if done.returncode:
                self._failed(done.stderr)
                self._remove(agent, name)
                continue
            try:
                life = Life(agent, name, agent.address(name), time.monotonic())
            except RuntimeError as error:  # the engine was killed between the two
                self._failed(str(error))
                self._remove(agent, name)
                continue
            with self._lock:
                self.started += 1
                if life.address:  # it is none while the engine brings the container up again
                    self.lives.append(life)
            mine.append(life)
            if len(mine) > KEPT:
                oldest = mine.popleft()
                oldest.until = oldest.until or time.monotonic()
                self._remove(agent, oldest.name)

    def _remove(self, agent: AgentOn, name: str) -> None:
        """Also one that was created and never ran."""
        while True:
            done = agent.host.docker("rm", "-f", name, check=False)
            if done.returncode == 0 or "No such container" in done.stderr:
                return
            self._failed(done.stderr)
            time.sleep(0.2)

    def _failed(self, said: str) -> None:
        lines = [line for line in said.splitlines() if line.strip() and "--help" not in line] or ["?"]
        with self._lock:
            self.failures[
                re.sub(r"[0-9a-f]{12,}|c\d+-\d+|[0-9.:]+(/\d+)?|\S*docker.sock\S*", "_", lines[-1])[:300]
            ] += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        assert error or not self._broken, self._broken


def agents_on_two_hosts(lab: Lab) -> list[AgentOn]:
    """Not on docker0, which an engine without a bridge of its own removes as it starts."""
    _, hosts = fabrics.declare(lab, 2, engine=True, bridge="lan0")
    agents = [AgentOn(host, agent={"quarantine": QUARANTINE, "compare": 1}) for host in hosts]
    for agent in agents:
        agent.start()
        agent.make_network()
    return agents


def audit(agents: Sequence[AgentOn], load: Load, lab: Lab) -> int:
    """What has to hold at the end; the number of containers that run."""
    assert load.overlapping() == []
    asker = lab.station("asker", agents[0].host)
    there = assert_one_holder_each(agents, asker, patience=PATIENCE)
    for agent in agents:
        agent.host.docker("rm", "-f", *agent.host.docker("ps", "-aq").stdout.split())
        agent.wait(lambda agent=agent: not any(lease.state != "ready" for lease in agent.client.leases()))
        agent.kill(15)
    return there


def report(capsys: pytest.CaptureFixture[str], load: Load, text: str) -> None:
    """Show what happened, also where all is well."""
    failures = [f"\n{number:5} {said}" for said, number in load.failures.most_common()]
    with capsys.disabled():
        print(f"\n{text}; {load.started} containers started, failures:", *failures or ["none"])  # noqa: T201 - to see it again


def test_whenever_the_agent_is_killed_no_address_is_held_twice_lost_or_leaked(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    agents = agents_on_two_hosts(lab)
    began = time.monotonic()
    with Load(agents) as load:
        for _ in range(AGENT_KILLS):
            time.sleep(rng.uniform(0, 2.0))
            agent = rng.choice(agents)
            agent.kill()
            agent.start(wait=False)  # and it may be killed while it starts
    under_load = time.monotonic() - began
    for agent in agents:
        agent.wait_served()
    there = audit(agents, load, lab)
    report(capsys, load, f"seed {seed}: {AGENT_KILLS} kills in {under_load:.0f} s, {there} left at the end")
    assert load.started > AGENT_KILLS / 2


def test_whenever_the_engine_is_killed_no_address_is_held_twice_lost_or_leaked(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    agents = agents_on_two_hosts(lab)
    began = time.monotonic()
    with Load(agents, "--restart", "always") as load:
        for _ in range(ENGINE_KILLS):
            time.sleep(rng.uniform(0, 3.0))
            agent = rng.choice(agents)
            engine = agent.host.engine
            assert engine is not None
            assert engine.process is not None
            load.ended(agent)
            engine.process.kill()
            engine.process.wait()
            load.ended(agent)
            engine.start()
    under_load = time.monotonic() - began
    there = audit(agents, load, lab)
    report(capsys, load, f"seed {seed}: {ENGINE_KILLS} kills in {under_load:.0f} s, {there} left at the end")
    assert load.started > ENGINE_KILLS
