"""Where an engine is, as its process and its sockets show it."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import pytest

from launcher.engine import place
from launcher.engine.errors import EngineError
from launcher.engine.place import require_here

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LISTENER = """
import socket, sys
open("/proc/self/comm", "w").write(sys.argv[1])
kind = socket.AF_UNIX if sys.argv[2] != "tcp" else socket.AF_INET
with socket.socket(kind) as listener:
    listener.bind(sys.argv[2] if kind == socket.AF_UNIX else ("127.0.0.1", 0))
    listener.listen()
    print(listener.getsockname(), flush=True)
    sys.stdin.read()
"""


@contextmanager
def listening(name: str, where: str) -> Iterator[str]:
    """A process of that name that listens there; where that is."""
    words = [sys.executable, "-c", LISTENER, name, where]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def port_of(said: str) -> str:
    return said.rpartition(" ")[2].rstrip(")")


def test_a_socket_of_this_host_is_here(tmp_path: Path) -> None:
    with listening("dockerd", f"{tmp_path}/docker.sock"):
        require_here(f"unix://{tmp_path}/docker.sock")


def test_an_abstract_socket_is_here() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0arpipam-test-place")
        listener.listen()
        require_here("unix://@arpipam-test-place")


@pytest.mark.parametrize("name", ["ssh", "com.docker.backe"])
def test_what_passes_the_words_on_is_elsewhere(name: str, tmp_path: Path) -> None:
    with (
        listening(name, f"{tmp_path}/docker.sock"),
        pytest.raises(EngineError, match=r"docker\.sock is behind (ssh|com)"),
    ):
        require_here(f"unix://{tmp_path}/docker.sock")


@pytest.mark.parametrize("url", ["ssh://root@far", "npipe:////./pipe/x", "fd://"])
def test_other_ways_lead_elsewhere(url: str) -> None:
    with pytest.raises(
        EngineError, match=f"{url} is reached by {url.partition(':')[0]}, .* unix:///var/run/docker.sock"
    ):
        require_here(url)


def test_an_engine_that_listens_on_this_hosts_tcp_is_here() -> None:
    with listening("dockerd", "tcp") as said:
        require_here(f"tcp://127.0.0.1:{port_of(said)}")


def test_another_program_on_this_hosts_tcp_may_lead_anywhere() -> None:
    with (
        listening("docker-proxy", "tcp") as said,
        pytest.raises(EngineError, match="behind a program that is not an engine"),
    ):
        require_here(f"tcp://localhost:{port_of(said)}")


def test_another_station_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class Far:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def getpeername(self) -> tuple[str, int]:
            return "192.0.2.7", 2376

        def getsockname(self) -> tuple[str, int]:
            return "192.0.2.1", 40000

    monkeypatch.setattr(socket, "create_connection", lambda *_: Far())
    with pytest.raises(EngineError, match=r"is another station, 192\.0\.2\.7"):
        require_here("tcp://far.example:2376")


def test_a_process_elsewhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = {"thread-self": (4, 1)}
    monkeypatch.setattr(place, "_network_of", lambda process: networks.get(process, (4, 2)))
    with (
        listening("dockerd", f"{tmp_path}/docker.sock"),
        pytest.raises(EngineError, match=r"in another network namespace \(process \d+, dockerd\)"),
    ):
        require_here(f"unix://{tmp_path}/docker.sock")


def test_where_no_process_may_be_looked_at_the_socket_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_network_of", lambda _: None)
    (tmp_path / "link").symlink_to(tmp_path / "docker.sock")
    with listening("dockerd", f"{tmp_path}/docker.sock"):
        require_here(f"unix://{tmp_path}/link")
        monkeypatch.setattr(place, "_unix_sockets", lambda _: set())  # as where it was made in another namespace
        with pytest.raises(EngineError, match="in another network namespace"):
            require_here(f"unix://{tmp_path}/docker.sock")


def test_the_engine_behind_init_is_found(tmp_path: Path) -> None:
    """Where systemd listens on the engine's behalf, the engine has the same socket."""
    with listening("dockerd", f"{tmp_path}/docker.sock"):
        sockets = place._unix_sockets(f"{tmp_path}/docker.sock")
        assert len(sockets) == 1
        pid, all_seen = place._engine_with(sockets)
        assert pid is not None
        assert all_seen
        assert place._name(pid) == "dockerd"
    assert place._engine_with({"0"}) == (None, True)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("unix:///nowhere/docker.sock", "No such file or directory"),
        ("tcp://127.0.0.1:1", "Connection refused"),
        ("tcp://127.0.0.1:x", "Port"),
    ],
)
def test_nobody_there_is_one_line(url: str, why: str) -> None:
    with pytest.raises(EngineError, match=f"cannot reach the Docker engine at {url}: {why}.*is it running") as refused:
        require_here(url)
    assert "\n" not in str(refused.value)
