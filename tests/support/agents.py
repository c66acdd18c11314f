"""What tests do with agents on hosts of the lab: load them, watch them, and ask the wire whether they are right."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter, deque
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import combinations, count
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, Self

from arpipam.errors import ArpipamError
from arpipam.lab.capture import who_have
from arpipam.leases.lease import LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore
from launcher.lab.agents import NETWORK, PATIENCE, AgentOn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from arpipam.lab import Host, Lab, Wire
    from arpipam.lab.stations import LabStation
    from launcher.agent.contract import Event

THREADS = 2
"""On each host; docker's client and the engine need most of the processors."""
KEPT = 3
"""Containers of one thread that run at one time."""
_NOISE = re.compile(r"--help|^time=.*error waiting for container")


_VARYING = re.compile(r"[0-9a-f]{12,}|c\d+-\d+|[0-9.:]+(/\d+)?|\S*docker.sock\S*")
"""What differs between two messages of the same kind."""


@dataclass
class Life:
    """When a container surely had its address: from after `docker run` to before `docker rm`, monotonic seconds."""

    agent: AgentOn
    name: str
    address: str
    since: float
    until: float | None = None


class Load:
    """Containers come and go on all hosts as long as the context lasts; what fails is counted by what docker says."""

    def __init__(self, agents: Sequence[AgentOn], *words: str) -> None:
        self.lives: list[Life] = []
        self.failures: Counter[str] = Counter()
        self.started = 0
        self._words = words
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._broken: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(agent, number), daemon=True)
            for agent in agents
            for number in range(THREADS)
        ]

    def ended(self, agent: AgentOn) -> None:
        """All containers of that host may have ended."""
        with self._lock:
            for life in self.lives:
                if life.agent is agent and life.until is None:
                    life.until = time.monotonic()

    def started_on(self, agent: AgentOn) -> int:
        """How many containers of that host have had an address."""
        return sum(life.agent is agent for life in list(self.lives))

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
        until = time.monotonic() + 2 * PATIENCE
        while time.monotonic() < until:
            done = agent.host.docker("rm", "-f", name, check=False)
            if done.returncode == 0 or "No such container" in done.stderr:
                return
            self._failed(done.stderr)
            time.sleep(0.2)
        raise RuntimeError(f"{agent.host.name}: {name} cannot be removed")

    def _failed(self, said: str) -> None:
        lines = [line for line in said.splitlines() if line.strip() and "--help" not in line] or ["?"]
        with self._lock:
            self.failures[_VARYING.sub("_", lines[-1])[:300]] += 1

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


class Watching:
    """An agent's events from now on, as long as the context lasts, or all that it remembers too."""

    def __init__(self, agent: AgentOn, *, recent: bool = False) -> None:
        self.seen: list[tuple[float, Event]] = []
        """Each with the monotonic time at which it came."""
        self._events = agent.client.events(recent=recent)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with suppress(ArpipamError):  # it ended
            for event in self._events:
                self.seen.append((time.monotonic(), event))

    def of(self, *kinds: str, **said: str) -> list[tuple[float, Event]]:
        """Those of these kinds, and with these values."""
        return [
            (at, event)
            for at, event in list(self.seen)
            if event.kind in kinds and all(getattr(event, name) == value for name, value in said.items())
        ]

    def wait(self, *kinds: str, patience: float = PATIENCE, **said: str) -> tuple[float, Event]:
        """The first of these."""
        told = lambda: f"{kinds} {said}: {[event for _, event in self.seen]}"  # noqa: E731
        AgentOn.wait(lambda: self.of(*kinds, **said), patience, told)
        return self.of(*kinds, **said)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.close()
        self._thread.join()


@contextmanager
def agent_on(host: Host, *words: str, **settings: Any) -> Iterator[AgentOn]:
    """An agent and its network, on a host that other tests use as well: nothing is left of both."""
    with AgentOn(host, **settings) as agent:
        agent.make_network(*words)
        try:
            yield agent
        finally:
            agent.clear()
            host.docker("network", "rm", NETWORK)
    forget(agent)


def forget(agent: AgentOn) -> None:
    """Remove what an agent that has ended wrote."""
    agent.log.unlink()
    for path in agent.state_dir.iterdir():
        if not path.name.startswith("fabric-"):  # what the host's own fabric remembers
            rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def visiting(lab: Lab, name: str, on: Wire | Host, *addresses: str) -> Iterator[LabStation]:
    """A station that is gone afterwards."""
    station = lab.station(name, on, *addresses)
    try:
        yield station
    finally:
        station.namespace.delete()


def two_hosts(lab: Lab, prefix: int, addresses: Sequence[str]) -> tuple[list[Host], LabStation]:
    """Two hosts on a wire with an engine each, and a foreign station with these addresses.

    Not on docker0, which an engine without a bridge of its own removes as it starts.
    """
    wire = lab.wire()
    hosts = [lab.host(f"host{n}", wire, f"172.16.42.{n}/{prefix}", bridge="lan0", engine=True) for n in (1, 2)]
    lab.start()
    return hosts, lab.station("foreign", wire, *(f"{address}/{prefix}" for address in addresses))


@contextmanager
def agents_on(hosts: Sequence[Host], *words: str, **settings: Any) -> Iterator[list[AgentOn]]:
    """An agent and its network on each of the hosts; nothing is left of them."""
    with ExitStack() as stack:
        yield [stack.enter_context(agent_on(host, *words, **settings)) for host in hosts]


@contextmanager
def two_agents(lab: Lab, prefix: int, addresses: Sequence[str]) -> Iterator[tuple[list[AgentOn], LabStation]]:
    """Two such hosts with agents and a network each, which end with the lab."""
    hosts, station = two_hosts(lab, prefix, addresses)
    with ExitStack() as stack:
        agents = [stack.enter_context(AgentOn(host)) for host in hosts]
        for agent in agents:
            agent.make_network()
        yield agents, station


def power_cut(agent: AgentOn) -> None:
    """All processes of the host end at once: agent, engine, what keeps the containers, containers."""
    engine = agent.host.engine
    assert engine is not None
    ids = agent.host.docker("ps", "-q").stdout.split()
    shown = agent.host.docker("inspect", "-f", "{{.State.Pid}}", *ids).stdout.split() if ids else []
    containers = [int(pid) for pid in shown]
    keepers = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in containers}
    agent.kill(signal.SIGKILL)
    for pid in (*keepers, *containers):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    engine.end(signal.SIGKILL)


def refused(agent: AgentOn, *words: str) -> str:
    """The one line by which `docker` says why it cannot do that."""
    done = agent.host.docker(*words, check=False)
    assert done.returncode != 0, done.stdout
    # The client also tells, now and then, that it no longer waits for a container that it did not start.
    lines = [line for line in done.stderr.splitlines() if line.strip() and not _NOISE.search(line)]
    assert len(lines) == 1, lines
    return lines[0]


def running(agent: AgentOn, network: str = NETWORK) -> dict[str, tuple[str, str]]:
    """The containers that run on the host's network: by name the address and the MAC that the engine says."""
    names = agent.host.docker("ps", "-q", "--filter", f"network={network}").stdout.split()
    shown = f'{{{{with index .NetworkSettings.Networks "{network}"}}}}{{{{.IPAddress}}}} {{{{.MacAddress}}}}{{{{end}}}}'
    form = f"{{{{.Name}}}} {shown}"
    lines = agent.host.docker("inspect", "-f", form, *names).stdout.splitlines() if names else []
    return {name.lstrip("/"): (address, mac) for name, address, mac in map(str.split, lines)}


def bound(agent: AgentOn) -> dict[str, str]:
    """The addresses, with their MACs, that the host's leases hold for containers."""
    return {lease.address: lease.mac for lease in agent.client.leases() if lease.state == "bound" and lease.mac}


def assert_one_holder_each(agents: Sequence[AgentOn], asker: LabStation, *, patience: float = PATIENCE) -> int:
    """No address is held twice, says the wire; none is leased without its container, or has a container and no lease.

    What the agents find by comparing has some time. The number of containers that run.
    """
    there = {agent: running(agent) for agent in agents}
    everybody = [pair for containers in there.values() for pair in containers.values()]
    addresses = [address for address, _ in everybody]
    twice = {address for address in addresses if addresses.count(address) > 1}
    assert not twice, "\n".join(line for agent in agents for line in history(agent, twice))
    assert not set(addresses) & {agent.host.address for agent in agents}
    answers = who_have(asker.namespace, "eth0", addresses)
    assert answers == {address: {mac} for address, mac in everybody}
    for agent, containers in there.items():
        wanted = dict(containers.values())
        told = lambda agent=agent, wanted=wanted: f"{bound(agent)} for {wanted}: {last_lines(agent.log)}"  # noqa: E731
        agent.wait(lambda agent=agent, wanted=wanted: bound(agent) == wanted, patience, told)
        agent.wait(lambda agent=agent, wanted=wanted: guards(agent, wanted) <= {"container"}, patience, told)
    return len(everybody)


def history(agent: AgentOn, addresses: Iterable[str]) -> list[str]:
    """What the agent remembers of these addresses and of the network, for a message."""
    with Watching(agent, recent=True) as watching:
        time.sleep(1)
    return [f"{agent.host.name}: {e}" for _, e in watching.seen if e.address in addresses or not e.address]


def end_quarantines(agent: AgentOn) -> None:
    """The addresses that rest need rest no longer: the next test wants them."""
    with SqliteLeaseStore(agent.state_dir / "leases.db") as store:
        for lease in store.leases(states=[LeaseState.QUARANTINED]):
            store.forget(lease.id)


def guards(agent: AgentOn, addresses: Iterable[str]) -> set[str]:
    """Who answers for these addresses."""
    leases = agent.leases()
    return {leases[address].guarded if address in leases else "nobody" for address in addresses}


def last_lines(path: Path, count: int = 20) -> str:
    """The end of a log, for a message."""
    return "\n".join(path.read_text().splitlines()[-count:])
