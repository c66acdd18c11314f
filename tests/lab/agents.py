"""Agents on hosts of the lab: started, killed, asked."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from arpipam.lab.capture import who_have
from launcher.agent.client import AgentClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from arpipam.lab.host import Host
    from arpipam.lab.stations import Station

PATIENCE = 30.0
NETWORK = "lan"
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

    def wait_ready(self, count: int) -> None:
        """Until so many addresses are kept ready on each network."""
        self.wait(lambda: all(network.ready >= count for network in self.client.status().networks))

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
    assert len(set(addresses)) == len(addresses), sorted(addresses)
    assert not set(addresses) & {agent.host.address for agent in agents}
    answers = who_have(asker.namespace, "eth0", addresses)
    assert answers == {address: {mac} for address, mac in everybody}
    for agent, containers in there.items():
        wanted = dict(containers.values())
        told = lambda agent=agent, wanted=wanted: f"{bound(agent)} for {wanted}: {last_lines(agent.log)}"  # noqa: E731
        agent.wait(lambda agent=agent, wanted=wanted: bound(agent) == wanted, patience, told)
        agent.wait(lambda agent=agent, wanted=wanted: guards(agent, wanted) <= {"container"}, patience, told)
    return len(everybody)


def guards(agent: AgentOn, addresses: Iterable[str]) -> set[str]:
    """Who answers for these addresses."""
    leases = agent.leases()
    return {leases[address].guarded if address in leases else "nobody" for address in addresses}


def last_lines(path: Path, count: int = 20) -> str:
    """The end of a log, for a message."""
    return "\n".join(path.read_text().splitlines()[-count:])
