"""What stands between us and the child: nothing that can be told from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launcher.run.child import StandardInput
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Iterator

WRAPPER = """
import os, sys
from launcher.run.child import run_child
from launcher.signals import signals_held
with signals_held():
    status = run_child(sys.argv[1:], os.environ)
sys.exit(status)
"""


@contextmanager
def wrapped(*words: str) -> Iterator[subprocess.Popen[str]]:
    """The words, run as a child of a process of their own, in a group of their own."""
    with subprocess.Popen(
        [sys.executable, "-c", WRAPPER, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    ) as wrapper:
        try:
            yield wrapper
        finally:
            with suppress(ProcessLookupError):
                os.killpg(wrapper.pid, signal.SIGKILL)


def line(wrapper: subprocess.Popen[str]) -> str:
    assert wrapper.stdout is not None
    return wrapper.stdout.readline().strip()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_state(wanted: str, pid: int) -> None:
    until(lambda: state(pid) == wanted, lambda: f"state {wanted} of {pid}, which is {state(pid)},")


TRAPS = """
for s in INT TERM HUP USR1; do trap "echo got $s" $s; done
trap "exit 7" QUIT
echo up
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill $$", 143)])
def test_its_end_is_the_childs(script: str, status: int) -> None:
    with wrapped("sh", "-c", script) as wrapper:
        assert wrapper.wait() == status


def test_its_streams_are_the_childs() -> None:
    with wrapped("cat") as wrapper:
        assert wrapper.communicate("through\n")[0] == "through\n"


def test_the_child_has_the_signals_as_a_shell_would_give_them() -> None:
    with wrapped("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status") as wrapper:
        blocked, ignored = (int(text.split()[1], 16) for text in wrapper.communicate()[0].splitlines())
    assert blocked == 0
    assert not ignored & 0x7FFFFFFF  # 32 and 33 are the C library's own


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "USR1"])
def test_a_signal_to_us_alone_reaches_the_child(name: str) -> None:
    with wrapped("sh", "-c", TRAPS) as wrapper:
        assert line(wrapper) == "up"
        wrapper.send_signal(getattr(signal, f"SIG{name}"))
        assert line(wrapper) == f"got {name}"
        wrapper.send_signal(signal.SIGQUIT)
        assert wrapper.wait() == 7


def test_an_interrupt_from_the_terminal_reaches_the_child_once() -> None:
    pid, terminal = os.forkpty()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", WRAPPER, "sh", "-c", TRAPS])  # noqa: S606 - what forkpty is for
    heard = b""
    try:
        while b"up" not in heard:
            heard += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        while b"got INT" not in heard:
            heard += os.read(terminal, 4096)
        os.kill(pid, signal.SIGUSR1)  # passed on after the interrupt would have been
        while b"got USR1" not in heard:
            heard += os.read(terminal, 4096)
        os.write(terminal, b"\x1c")
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert heard.count(b"got INT") == 1
    assert os.waitstatus_to_exitcode(status) == 7


def test_it_stops_and_goes_on_with_the_child() -> None:
    with wrapped("sh", "-c", "echo $$; read word; exit 4") as wrapper:
        child = int(line(wrapper))
        wrapper.send_signal(signal.SIGTSTP)
        wait_state("T", child)
        wait_state("T", wrapper.pid)
        os.killpg(wrapper.pid, signal.SIGCONT)
        wait_state("S", child)
        wait_state("S", wrapper.pid)
        wrapper.communicate("\n")
        assert wrapper.returncode == 4


def test_a_child_that_cannot_be_started_is_an_error() -> None:
    with wrapped("/no/such/program") as wrapper:
        assert "FileNotFoundError" in wrapper.communicate()[0]


def test_a_file_is_read_again_from_where_it_stood(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_text("read before, and the rest")
    with path.open("rb", buffering=0) as file:
        file.read(12)
        standard_input = StandardInput(file.fileno())
        assert file.read() == b" and the rest"
        assert standard_input.rewind(untouched=False)
        assert file.read() == b" and the rest"


def test_what_was_read_from_a_pipe_is_gone() -> None:
    reading, writing = os.pipe()
    try:
        standard_input = StandardInput(reading)
        assert not standard_input.rewind(untouched=False)
        assert standard_input.rewind(untouched=True)
    finally:
        os.close(reading)
        os.close(writing)


def test_no_input_can_always_be_read_again() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    assert StandardInput(reading).rewind(untouched=False)
