"""arpipam-run on a host of the lab with an engine, and what tests ask of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.lab import CLIENTS
from arpipam.leases.lease import Lease, LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore
from tests.support.profile import by_day

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.lab import Host, Wire

RUN = str(Path(sys.executable).parent / "arpipam-run")
FOREIGN = "172.16.42.2"  # a machine on the network that Docker knows nothing of
FIRST, SECOND = "172.16.42.3", "172.16.42.4"  # the first addresses that nobody has
SHOW = "ip -o addr show eth0 | awk '/inet /{print $4}'; cat /sys/class/net/eth0/address"
FOREVER = ["busybox", "sleep", "1000"]
one_client = pytest.mark.parametrize(
    "docker_client", by_day(CLIENTS, *CLIENTS[:1]), ids=lambda path: path.replace("/", "-").strip("-"), indirect=True
)
"""By day not with each docker client of this machine."""


@dataclass
class Launcher:
    """arpipam-run on a host of the lab, with a lease store of its own."""

    host: Host
    wire: Wire
    env: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        env = self.env | options.pop("env", {})
        return self.host.command(RUN, *words, env=env, timeout=60, **options)

    def spawn(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start it, in a process group of its own."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        process = self.host.spawn(RUN, *words, env=self.env, text=True, process_group=0, **pipes)
        self.started.append(process)
        return process

    def docker(self, *words: str) -> str:
        """What docker says."""
        return self.host.docker(*words).stdout.strip()

    def leases(self, *states: LeaseState) -> list[Lease]:
        """The leases in these states."""
        with SqliteLeaseStore(Path(self.env["ARPIPAM_STATE_DIR"]) / "leases.db") as store:
            return store.leases(states=states)

    def containers(self) -> list[str]:
        """All containers."""
        return self.docker("ps", "-aq", "--no-trunc").split()

    def address(self, container: str) -> str:
        """The address that the engine has for a container."""
        return self.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container)


@contextmanager
def launching(lab: tuple[Host, Wire], tmp_path: Path, **env: str) -> Iterator[Launcher]:
    host, wire = lab
    launcher = Launcher(host, wire, {"ARPIPAM_STATE_DIR": str(tmp_path / "state")} | env)
    try:
        yield launcher
    finally:
        for process in launcher.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        if containers := launcher.containers():
            host.docker("rm", "--force", "--volumes", *containers)


def nothing_left(launcher: Launcher) -> bool:
    return not launcher.containers() and not launcher.leases(LeaseState.CLAIMED, LeaseState.BOUND)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stderr.startswith("arpipam-run: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    return done.stderr
