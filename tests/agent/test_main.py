"""The agent as a process: the name that the engine has for it, a reload, a start that fails."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.until import LONG, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CODE = """
import os, sys
from pathlib import Path
if len(sys.argv) > 2:
    os.dup2(int(sys.argv[2]), 3)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
from launcher.agent import main
class Told(main.Agent):
    def __init__(self, config, **more):
        print("driver", more["driver"], file=sys.stderr, flush=True)
        super().__init__(config, **more)
main.Agent = Told
main.run(Path(sys.argv[1]))
"""


def written(tmp_path: Path, **more: str) -> Path:
    said = {
        "socket": str(tmp_path / "arpipam.sock"),
        "state_dir": str(tmp_path / "state"),
        "fabric": "none",
        "docker": f"unix://{tmp_path}/no-engine",
    } | more
    file = tmp_path / "agent.toml"
    file.write_text("\n".join(["[agent]", *(f"{key} = {json.dumps(value)}" for key, value in said.items())]) + "\n")
    return file


class Process:
    """An agent, and what it wrote."""

    def __init__(self, words: Sequence[str], descriptors: Sequence[int]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, *words], pass_fds=descriptors, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._seen = 0
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr:
            for line in self.process.stderr:
                self.lines.append(line)

    def until(self, text: str) -> str:
        """Wait for the first line with the text, after those that were waited for before."""

        def line() -> str | None:
            ended = not self.reader.is_alive()
            while self._seen < len(self.lines):
                self._seen += 1
                if text in self.lines[self._seen - 1]:
                    return self.lines[self._seen - 1]
            assert not ended, f"it ended without {text!r}: {self.lines}"
            return None

        found: str = until(line, lambda: f"a line with {text!r} after {self.lines}", LONG)
        return found


@contextmanager
def agent(file: Path, listener: socket.socket | None = None) -> Iterator[Process]:
    descriptors = [] if listener is None else [listener.fileno()]
    process = Process([str(file), *map(str, descriptors)], descriptors)
    try:
        yield process
    finally:
        process.process.send_signal(signal.SIGTERM)
        process.process.wait(LONG)
        process.reader.join(LONG)


def test_its_driver_has_the_name_of_its_socket(tmp_path: Path) -> None:
    with agent(written(tmp_path)) as process:
        assert process.until("driver") == "driver arpipam\n"
        process.until("event=ready")


def test_its_driver_has_the_name_of_the_socket_that_was_passed(tmp_path: Path) -> None:
    """The engine knows it by that one, whatever its file says."""
    path = tmp_path / "lan.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with agent(written(tmp_path), listener) as process:
            assert process.until("driver") == "driver lan\n"
            assert f"socket={path}" in process.until("event=ready")
    assert not (tmp_path / "arpipam.sock").exists()


@pytest.mark.parametrize("wrong", ["file", "fabric"])
def test_a_wrong_file_at_a_reload_ends_nothing(tmp_path: Path, wrong: str) -> None:
    with agent(written(tmp_path)) as process:
        process.until("event=ready")
        if wrong == "file":
            (tmp_path / "agent.toml").write_text("[agent\n")
        else:
            (tmp_path / "fabric.toml").write_text("[fabric\n")
            written(tmp_path, fabric=str(tmp_path / "fabric.toml"))
        process.process.send_signal(signal.SIGHUP)
        assert "line 1" in process.until("not reloaded")
        written(tmp_path)
        process.process.send_signal(signal.SIGHUP)
        process.until("event=reloaded")
        assert process.process.poll() is None
    assert process.process.returncode == 0


def test_a_start_that_fails_ends_in_its_reason(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    with agent(written(tmp_path)) as process:
        process.until("LeaseError")
        assert process.process.wait(LONG) == 1
        process.reader.join(LONG)
    assert "join" not in "".join(process.lines)
