"""Agents on hosts of the lab: started, killed, asked."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from arpipam.lab.until import until
from launcher.agent.client.client import AgentClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.lab import Host

PATIENCE = 30.0
"""Seconds in which whatever is waited for should have come, on a machine that is busy too."""
NETWORK = "lan"
_MAIN = "from launcher.commands.arpipam import main; main()"


class AgentOn:
    """The agent of one host, as a process of its own; the host's engine finds it. It ends with the context.

    With `disk`, a size such as 2m, its state is on a disk of its own: see `inside` of the engine, which runs already.
    """

    def __init__(self, host: Host, **settings: Any) -> None:
        self.host = host
        self._disk = str(settings.pop("disk", ""))
        plugins = host.directory / "run-docker" / "plugins"  # the engine's own /run/docker
        plugins.mkdir(parents=True, exist_ok=True)
        self.socket = plugins / "arpipam.sock"
        self.state_dir = host.directory / "state"
        self.file = host.directory / "agent.toml"
        self.log = host.directory / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        if self._disk:
            self.state_dir.mkdir(exist_ok=True)
            mount = ["mount", "-t", "tmpfs", "-o", f"size={self._disk}", "none", str(self.state_dir)]
            host.command(*self._inside(*mount), check=True)
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

    def _inside(self, *words: str) -> list[str]:
        """Where its disk is mounted."""
        if self._disk and self.host.engine is not None:
            return self.host.engine.inside(*words)
        return list(words)

    @property
    def client(self) -> AgentClient:
        """Of its API."""
        return AgentClient(self.socket)

    def start(self, *words: str, wait: bool = True, **environment: str) -> Self:
        """Start it with more `words` on its command line, and wait until it serves unless told otherwise."""
        command = [sys.executable, "-c", _MAIN, "agent", "--config", str(self.file), *words]
        with self.log.open("ab") as log:
            self.process = self.host.spawn(
                *self._inside(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        if wait:
            self.wait_served()
        return self

    def wait_served(self) -> None:
        """Until it serves."""
        process = self.process
        self.wait(lambda: self._serves() or process is None or process.poll() is not None)
        if process is None or process.poll() is not None:
            raise RuntimeError(f"the agent of {self.host.name} did not come up:\n{self.log.read_text()[-3000:]}")

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
        until(condition, lambda: told() or "it", patience, pause=0.05)
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
        """`docker run -d` of a container that does nothing for long, and ends at once when it is told to."""
        # Its first process hears no SIGTERM (pid_namespaces(7)): Docker would wait for ten seconds.
        said = ["run", "-d", "--stop-signal", "KILL", "--name", name, "--network", network, *words]
        return self.host.docker(*said, "busybox", "sleep", "10000", check=check)

    def address(self, name: str, network: str = NETWORK) -> str:
        """The address that the engine says a container has."""
        form = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
        return self.host.docker("inspect", "-f", form, name).stdout.strip()

    def leases(self) -> dict[str, Any]:
        """What the agent says of each address."""
        return {lease.address: lease for lease in self.client.leases()}

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
