"""The agent's socket itself: made and removed, or passed by systemd."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from arpipam.errors import InputError
from launcher.agent.server.listening import PathSocket, passed_fds
from launcher.agent.server.server import Server
from tests.support.agent_server import FakeAgent, calling, docker, one_line, run, serving


def test_the_socket_is_roots_and_its_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "docker" / "plugins" / "arpipam.sock"
    umask = os.umask(0)

    async def test() -> None:
        async with serving(path):
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
            assert {stat.S_IMODE(folder.stat().st_mode) for folder in path.parents[:2]} == {0o700}
        assert not path.exists()

    try:
        run(test())
    finally:
        os.umask(umask)


def test_a_dead_processs_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.is_socket()

    async def test() -> None:
        async with serving(path) as (_, client):
            assert (await docker(client, "Plugin.Activate"))[0] == 200

    run(test())


def test_a_second_server_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def test() -> None:
        async with serving(path) as (_, client):
            second = Server(FakeAgent(), path)
            with pytest.raises(InputError, match=r"somebody listens on .* already: is another agent running") as caught:
                await second.start()
            one_line(str(caught.value))
            await second.stop()
            assert (await docker(client, "Plugin.Activate"))[0] == 200

    run(test())


def test_somebody_who_does_not_accept_listens_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        waiting = []
        with suppress(BlockingIOError):
            while True:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)  # noqa: FBT003 - the standard library's own
                waiting[-1].connect(str(path))
        with pytest.raises(InputError, match="somebody listens"):
            PathSocket(path)
        for one in waiting:
            one.close()


def test_the_next_ones_socket_is_left(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = PathSocket(path)
    path.unlink()
    second = PathSocket(path)
    first.remove()
    assert path.is_socket()
    second.remove()
    second.remove()
    assert not path.exists()
    first.socket.close()
    second.socket.close()


def test_where_no_socket_can_be_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for path, said in (
        (file, "is no socket; remove it"),
        (file / "s", "cannot be made: Not a directory"),
        (tmp_path / ("x" * 120), "cannot be made: AF_UNIX path too long"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            PathSocket(path)
        one_line(str(caught.value))
    assert file.read_text() == "kept"


SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-W", "error", "-c", sys.argv[2]])
"""
AGENT = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from launcher.agent.server.listening import passed_socket
passed = passed_socket()  # before all that takes long to load
assert passed is None or passed.getsockname()
from launcher.agent.server.server import Server
from tests.support.agent_server import FakeAgent
async def main():
    server = Server(FakeAgent(), Path("/nowhere/at/all"), passed=passed)
    await server.start()
    assert not any(name.startswith("LISTEN_") for name in os.environ)
    assert not os.get_inheritable(3)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()
asyncio.run(main())
"""


def child(listener: socket.socket, count: int = 1) -> subprocess.Popen[str]:
    """A process that is started as systemd starts one: the socket is descriptor 3."""
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", SYSTEMD, str(listener.fileno()), AGENT.format(root=root)],
        pass_fds=[listener.fileno()],
        env=os.environ | {"LISTEN_FDS": str(count), "LISTEN_FDNAMES": "arpipam.socket"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_socket_that_systemd_passed(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def talk() -> int:
        async with calling(path) as client:
            return (await docker(client, "Plugin.Activate"))[0]

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        for _ in range(2):  # the socket outlives the agent: who asks meanwhile waits
            with child(listener) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                assert asyncio.run(talk()) == 200
                _, errors = process.communicate("")
                assert (process.returncode, errors) == (0, "")
            assert path.is_socket()


@pytest.mark.parametrize(
    ("family", "kind", "count", "said"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, 1, "a socket of another kind"),
        (socket.AF_UNIX, socket.SOCK_DGRAM, 1, "a socket of another kind"),
        (socket.AF_UNIX, socket.SOCK_STREAM, 2, "passed 2 sockets"),
    ],
)
def test_what_systemd_should_not_pass(
    tmp_path: Path, family: socket.AddressFamily, kind: socket.SocketKind, count: int, said: str
) -> None:
    with socket.socket(family, kind) as listener:
        listener.bind(("127.0.0.1", 0) if family is socket.AF_INET else str(tmp_path / "s"))
        if kind is socket.SOCK_STREAM:
            listener.listen()
        with child(listener, count) as process:
            _, errors = process.communicate("")
    assert f"InputError: systemd passed {said.removeprefix('passed ')}" in errors


def test_what_was_passed_to_another_process_is_not_taken() -> None:
    for pid, fds, count in (("1", "1", 0), (str(os.getpid()), "x", 0), (str(os.getpid()), "1", 1), ("", "", 0)):
        environment = {"LISTEN_PID": pid, "LISTEN_FDS": fds, "LISTEN_FDNAMES": "a", "HOME": "/"}
        assert passed_fds(environment) == count
        assert environment == {"HOME": "/"}
