"""The hook: who may write it, what ends with it, and how many of it there are."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from launcher.agent.contract import Event
from launcher.agent.hooks import AT_ONCE, MOST_OF_ONE, MOST_WAITING, HookError, Hooks, run_hook
from launcher.agent.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file or a folder away")


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_hook_gets_the_event(tmp_path: Path) -> None:
    asyncio.run(run_hook(program(tmp_path / "hook", f"cat > {tmp_path}/said"), b'{"kind": "conflict"}\n'))
    assert (tmp_path / "said").read_text() == '{"kind": "conflict"}\n'


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_hook_that_others_can_write_is_not_run(tmp_path: Path, mode: int) -> None:
    hook = program(tmp_path / "hook", f"touch {tmp_path}/ran")
    hook.chmod(mode)
    with pytest.raises(HookError, match=r"can be written by others .*: chmod go-w /"):
        asyncio.run(run_hook(hook, b""))
    assert not (tmp_path / "ran").exists()


@ONLY_ROOT
def test_a_hook_of_somebody_else_is_not_run(tmp_path: Path) -> None:
    hook = program(tmp_path / "hook", f"touch {tmp_path}/ran")
    os.chown(hook, 12345, 0)
    with pytest.raises(HookError, match=r"belongs to user 12345, and is not run: chown root /"):
        asyncio.run(run_hook(hook, b""))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("owner", [0, 12345])
@ONLY_ROOT
def test_a_hook_in_a_folder_of_others_is_not_run(tmp_path: Path, owner: int, *, linked: bool) -> None:
    """They could put another program in its place; where it is a link, at either end."""
    shared = tmp_path / "shared"
    (shared / "inner").mkdir(parents=True)
    hook = program(shared / "inner" / "hook", f"touch {tmp_path}/ran")
    if linked:
        (tmp_path / "link").symlink_to(hook)
        hook = tmp_path / "link"
    os.chown(shared, owner, 0)
    shared.chmod(0o755 if owner else 0o777)
    said = rf"hook {hook}: {shared} .*, and is not run: ch(own root|mod go-w) {shared}$"
    with pytest.raises(HookError, match=said):
        asyncio.run(run_hook(hook, b""))
    assert not (tmp_path / "ran").exists()
    os.chown(shared, 0, 0)
    shared.chmod(0o1777)  # as /tmp: nobody takes away what is another's
    asyncio.run(run_hook(hook, b""))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "complaint"), [("exit 3", "exit status 3"), (None, "No such file"), ("kill $$", "exit status -15")]
)
def test_a_hook_that_fails_is_one_line(tmp_path: Path, text: str | None, complaint: str) -> None:
    hook = tmp_path / "hook"
    if text is not None:
        program(hook, text)
    with pytest.raises(HookError, match=complaint):
        asyncio.run(run_hook(hook, b"x"))


def test_the_time_limit_ends_all_that_the_hook_started(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alive")
    hook = program(tmp_path / "hook", f"sleep 1000 > {tmp_path}/alive &\nwait")
    # A reader of the pipe sees its end once no process has it open for writing any more.
    reading = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)

    async def test() -> bytes:
        with pytest.raises(HookError, match=r"killed after 0\.5 s"):
            await run_hook(hook, b"", limit=0.5)
        os.set_blocking(reading, True)
        async with asyncio.timeout(30):
            return await asyncio.to_thread(os.read, reading, 1)

    try:
        assert asyncio.run(test()) == b""
    finally:
        os.close(reading)


def flood(events: list[Event], tmp_path: Path) -> tuple[int, int, list[str]]:
    """How many hooks ran for these at once, and in all, and what was told."""
    journal, gate = Journal(lambda: 5.0), asyncio.Event()
    running = most = total = 0

    async def run(_: Path, text: bytes) -> None:
        nonlocal running, most, total
        assert json.loads(text)["kind"] == "conflict"
        running, total = running + 1, total + 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    async def test() -> None:
        tasks: list[asyncio.Task[None]] = []

        def spawn(work: Coroutine[Any, Any, None]) -> None:
            tasks.append(asyncio.create_task(work))

        hooks = Hooks(journal, spawn, run)
        for event in events:
            hooks.pass_on(tmp_path, event)
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(test())
    return most, total, [event.text for event in journal._events]


@pytest.mark.parametrize(
    ("address", "allowed"), [(lambda _: "10.0.0.1", MOST_OF_ONE), (lambda number: f"10.0.0.{number}", MOST_WAITING)]
)
def test_a_flood_of_conflicts_is_no_flood_of_processes(
    tmp_path: Path, address: Callable[[int], str], allowed: int
) -> None:
    most, total, told = flood([Event(0.0, "conflict", address=address(number)) for number in range(5000)], tmp_path)
    assert most <= AT_ONCE
    assert total == allowed
    assert len(told) == 2
    assert told[1] == f"hook {tmp_path}: {5000 - allowed} events were left out"
