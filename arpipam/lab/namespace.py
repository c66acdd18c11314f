"""A network namespace of the lab, and ways to be in it."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroute2 import netns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SELF = "/proc/thread-self/ns/net"
DAEMONS: list[subprocess.Popen[bytes]] = []
"""Those that this process has started; their ends are waited for where they are killed."""


def sh(*words: str, **options: Any) -> str:
    """Run a command that has to succeed; its output."""
    done = subprocess.run(words, check=False, text=True, capture_output=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    output: str = done.stdout
    return output


class Namespace:
    """One network namespace, made at once; IPv6 is off in it, so that no frame is sent that nobody asked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path("/run/netns") / name
        sh("ip", "netns", "add", name)
        self.shell(
            "ip link set lo up; sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.disable_ipv6=1 "
            "net.ipv6.conf.default.disable_ipv6=1"
        )

    def enter(self, *words: str) -> list[str]:
        """The command that runs `words` in here; unlike `ip netns exec` it leaves /sys alone, as an engine needs."""
        return ["nsenter", f"--net={self.path}", *words]

    def run(self, *words: str, **options: Any) -> str:
        """Run a command in here that has to succeed; its output."""
        return sh(*self.enter(*words), **options)

    def shell(self, script: str) -> str:
        """Run a shell script in here."""
        return self.run("sh", "-ec", script)

    def ip(self, lines: Sequence[str]) -> None:
        """Run several `ip` commands in here at once."""
        sh("ip", "-n", self.name, "-batch", "-", input="\n".join(lines) + "\n")

    def daemon(self, words: Sequence[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start a program in here that runs until the lab ends; what it prints is added to the file `log`."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.enter(*words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **options,
            )
        DAEMONS.append(process)
        return process

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in here for a while; sockets opened and threads started meanwhile stay here."""
        home = os.open(_SELF, os.O_RDONLY | os.O_CLOEXEC)
        try:
            netns.setns(str(self.path), flags=os.O_RDONLY)
            yield
        finally:
            netns.setns(home)
            os.close(home)

    def delete(self) -> None:
        """Remove the namespace; interfaces go with it, once no process is in it."""
        sh("ip", "netns", "del", self.name)
