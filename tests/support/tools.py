"""`arpipam` as it is installed, run on a host of the lab."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.lans import LONG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.lab import Host


ARPIPAM = str(Path(sys.executable).parent / "arpipam")


@dataclass
class Tool:
    """arpipam on a host, with a lease store of its own and no Docker engine."""

    host: Host
    state: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        return {"ARPIPAM_STATE_DIR": str(self.state), "DOCKER_HOST": f"unix://{self.state}/none", "COLUMNS": "300"}

    def run(self, *words: str, before: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return self.host.command(*before, ARPIPAM, *words, env=self.env | env, timeout=2 * LONG)

    def json(self, *words: str, status: int = 0) -> list[dict[str, Any]]:
        """What it prints as JSON, when it ends with this status."""
        done = self.run(*words, "--json")
        assert done.returncode == status, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def both(self, *commands: list[str]) -> list[dict[str, Any]]:
        """What they print as JSON, a line each, when they run side by side."""
        processes = [self.spawn(*words, "--json") for words in commands]
        return [json.loads(process.communicate(timeout=LONG)[0]) for process in processes]

    def spawn(self, *words: str, before: tuple[str, ...] = (), **options: Any) -> subprocess.Popen[str]:
        """Start it."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        process = self.host.spawn(*before, ARPIPAM, *words, env=self.env, text=True, **pipes)
        self.started.append(process)
        return process

    def claim(self, *words: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        """Start a claim, and wait until it holds."""
        process = self.spawn("claim", "--json", *words)
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())

    def terminal(self, *words: str) -> tuple[int, str]:
        """Run it on a terminal: exit status, and the words that are seen there."""
        ours, theirs = os.openpty()
        process = self.spawn(*words, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        seen = b""
        try:
            while part := os.read(ours, 4096):
                seen += part
        except OSError:  # the other end is closed
            pass
        os.close(ours)
        return process.wait(LONG), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def using(host: Host, state: Path) -> Iterator[Tool]:
    tool = Tool(host, state)
    yield tool
    for process in tool.started:
        if process.poll() is None:
            process.kill()
            process.send_signal(signal.SIGCONT)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr that says why it ended; nothing else was printed."""
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("arpipam: ")
    return line


def states(printed: str) -> list[str]:
    return [json.loads(line)["state"] for line in printed.splitlines()]
