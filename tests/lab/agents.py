"""Agents on hosts of the lab: started, killed, asked."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from launcher.agent.client import AgentClient

if TYPE_CHECKING:
    from pathlib import Path

    from arpipam.lab.host import Host

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

    def start(self) -> AgentOn:
        """Start it, and wait until it serves."""
        words = [sys.executable, "-c", _MAIN, "agent", "--config", str(self.file)]
        with self.log.open("ab") as log:
            self.process = self.host.spawn(*words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.wait(lambda: self._serves() or self.process is None or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return self

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

    def __enter__(self) -> AgentOn:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill(signal.SIGTERM)

    @staticmethod
    def wait(condition: Any, patience: float = PATIENCE) -> None:
        """Until the condition holds."""
        until = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < until, "it never came to that"
            time.sleep(0.05)

    def wait_ready(self, count: int) -> None:
        """Until so many addresses are kept ready on each network."""
        self.wait(lambda: all(network.ready >= count for network in self.client.status().networks))

    def make_network(self, *words: str, name: str = NETWORK) -> None:
        """`docker network create` on the host's bridge, with the agent as the IPAM driver."""
        bridge = ["-o", f"com.docker.network.bridge.name={self.host.bridge}"]
        subnet = [] if "--subnet" in words else ["--subnet", str(self.host.interface.network)]
        self.host.docker("network", "create", "-d", "bridge", "--ipam-driver", "arpipam", *subnet, *bridge, *words, name)

    def run(self, name: str, *words: str, network: str = NETWORK, check: bool = True) -> subprocess.CompletedProcess[str]:
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


def last_lines(path: Path, count: int = 20) -> str:
    """The end of a log, for a message."""
    return "\n".join(path.read_text().splitlines()[-count:])
