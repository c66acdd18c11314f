"""Agents on hosts of the lab: started, killed, asked."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations, count
from typing import TYPE_CHECKING, Any, Self

from arpipam.errors import ArpipamError
from arpipam.lab.capture import who_have
from launcher.agent.client import AgentClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

    from arpipam.lab.host import Host
    from arpipam.lab.stations import Station
    from launcher.agent.views import Event

PATIENCE = 30.0
NETWORK = "lan"
THREADS = 2
"""On each host; docker's client and the engine need most of the processors."""
KEPT = 3
"""Containers of one thread that run at one time."""
_NOISE = re.compile(r"--help|^time=.*error waiting for container")
_MAIN = "from launcher.cli import main; main()"


class AgentOn:
    """The agent of one host, as a process of its own; the host's engine finds it. It ends with the context."""

    def __init__(self, host: Host, **settings: Any) -> None:
        self.host = host
        plugins = host.directory / "run-docker" / "plugins"  # the engine's own /run/docker
        plugins.mkdir(parents=True, exist_ok=True)
        self.socket = plugins / "arpipam.sock"
        self.state_dir = host.directory / "state"
        self.file = host.directory / "agent.toml"
        self.log = host.directory / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(**settings)

    def configure(self, *, fabric: bool = True, agent: dict[str, Any] | None = None, **network: Any) -> None:
        """Write its file: the keys of [network], and others of [agent]."""
        said = {
            "socket": str(self.socket),
            "state_dir": str(self.state_dir),
            "fabric": str(self.host.fabric_file) if fabric else "none",
            "host": self.host.name,
        } | (agent or {})
        if self.host.engine is not None:
            said["docker"] = self.host.engine.env["DOCKER_HOST"]
        tables = {"agent": said, "network": network}
        lines = [
            line
            for name, table in tables.items()
            for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()))
        ]
        self.file.write_text("\n".join(lines) + "\n")

    @property
    def client(self) -> AgentClient:
        """Of its API."""
        return AgentClient(self.socket)

    def start(self, *, wait: bool = True) -> Self:
        """Start it, and wait until it serves unless told otherwise."""
        words = [sys.executable, "-c", _MAIN, "agent", "--config", str(self.file)]
        with self.log.open("ab") as log:
            self.process = self.host.spawn(*words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if wait:
            self.wait_served()
        return self

    def wait_served(self) -> None:
        """Until it serves."""
        self.wait(lambda: self._serves() or self.process is None or self.process.poll() is not None)
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]

    def _serves(self) -> bool:
        try:
            self.client.status()
        except Exception:  # noqa: BLE001 - not yet, whatever it is
            return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it in that way, and wait until it is gone."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
            self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill(signal.SIGTERM)

    @staticmethod
    def wait(condition: Any, patience: float = PATIENCE, told: Callable[[], str] = lambda: "") -> float:
        """Until the condition holds; the seconds that it took. `told` says more where it never does."""
        start = time.monotonic()
        while not condition():
            assert time.monotonic() < start + patience, f"it never came to that: {told()}"
            time.sleep(0.05)
        return time.monotonic() - start

    def wait_ready(self, count: int, patience: float = PATIENCE) -> None:
        """Until so many addresses are kept ready on each network."""
        self.wait(lambda: all(network.ready >= count for network in self.client.status().networks), patience)

    def make_network(self, *words: str, name: str = NETWORK) -> None:
        """`docker network create` on the host's bridge, with the agent as the IPAM driver."""
        bridge = ["-o", f"com.docker.network.bridge.name={self.host.bridge}"]
        subnet = [] if "--subnet" in words else ["--subnet", str(self.host.interface.network)]
        self.host.docker(
            "network", "create", "-d", "bridge", "--ipam-driver", "arpipam", *subnet, *bridge, *words, name
        )

    def run(
        self, name: str, *words: str, network: str = NETWORK, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """`docker run -d` of a container that does nothing for long."""
        return self.host.docker(
            "run", "-d", "--name", name, "--network", network, *words, "busybox", "sleep", "10000", check=check
        )

    def address(self, name: str, network: str = NETWORK) -> str:
        """The address that the engine says a container has."""
        form = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
        return self.host.docker("inspect", "-f", form, name).stdout.strip()

    def leases(self) -> dict[str, Any]:
        """What the agent says of each address."""
        return {lease.address: lease for lease in self.client.leases()}

    def refused(self, *words: str) -> str:
        """The one line by which `docker` says why it cannot do that."""
        done = self.host.docker(*words, check=False)
        assert done.returncode != 0, done.stdout
        # The client also tells, now and then, that it no longer waits for a container that it did not start.
        lines = [line for line in done.stderr.splitlines() if line.strip() and not _NOISE.search(line)]
        assert len(lines) == 1, lines
        return lines[0]

    def ask(self, method: str, **body: Any) -> tuple[int, dict[str, Any]]:
        """What an engine would get for this request of Docker's IPAM protocol: a status and an answer."""
        connection = http.client.HTTPConnection("agent")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self.socket))
            connection.request("POST", f"/{method}", json.dumps(body).encode())
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def clear(self) -> None:
        """Remove all containers, and all networks but the usual one."""
        if containers := self.host.docker("ps", "-aq").stdout.split():
            self.host.docker("rm", "-f", *containers)
        names = self.host.docker("network", "ls", "--format", "{{.Name}}").stdout.split()
        if others := set(names) - {"none", "host", "bridge", NETWORK}:
            self.host.docker("network", "rm", *others)


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


class Watching:
    """An agent's events from now on, as long as the context lasts, or all that it remembers too."""

    def __init__(self, agent: AgentOn, *, recent: bool = False) -> None:
        self.seen: list[tuple[float, Event]] = []
        """Each with the monotonic time at which it came."""
        self._client = agent.client
        self._events = self._client.events(recent=recent)
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
        self._client.close()


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


def assert_one_holder_each(agents: Sequence[AgentOn], asker: Station, *, patience: float = PATIENCE) -> int:
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


def guards(agent: AgentOn, addresses: Iterable[str]) -> set[str]:
    """Who answers for these addresses."""
    leases = agent.leases()
    return {leases[address].guarded if address in leases else "nobody" for address in addresses}


def last_lines(path: Path, count: int = 20) -> str:
    """The end of a log, for a message."""
    return "\n".join(path.read_text().splitlines()[-count:])
