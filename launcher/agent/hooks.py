"""The hook: the administrator's program, run for each conflict and mismatch, and when a link goes down or is up again.

It gets the event as JSON on its standard input.

It runs as the agent does, so nobody else may be able to write it. A flood of conflicts never becomes a flood of
processes, and nothing that it started outlives its time limit.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from collections import deque
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from launcher.agent.contract import Event, EventKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path
    from typing import Any

    from launcher.agent.journal import Journal

TIME = 30.0  # s that the hook may take
AT_ONCE = 4
MOST_WAITING = 64
"""Events that wait for the hook; what comes beyond that is left out, and told with a count."""
MOST_OF_ONE = 4
"""Events about one address that wait."""


class HookError(Exception):
    """The hook cannot be run, or did not end well; one line that says what to do."""


async def run_hook(path: Path, text: bytes, *, limit: float = TIME) -> None:
    """Run the program with the text on its standard input. Raises HookError, after `limit` seconds at the latest."""
    check(path)
    try:
        process = await asyncio.create_subprocess_exec(
            path, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise HookError(f"hook {path}: {error.strerror}") from None
    try:
        async with asyncio.timeout(limit):
            await process.communicate(text)
    except TimeoutError:
        raise HookError(f"hook {path}: killed after {limit:g} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started, too: the session is its own
            await process.wait()
    if process.returncode:
        raise HookError(f"hook {path}: exit status {process.returncode}")


def check(path: Path) -> None:
    """Raise HookError unless the program is root's or ours and nobody else can write it, or put another in its place.

    Whoever can write one of the folders above it can do that; a sticky one, such as /tmp, lets nobody touch what is
    another's.
    """
    try:
        program = path.resolve(strict=True)
        _check(path, program, stat.S_IWGRP | stat.S_IWOTH)
        for folder in dict.fromkeys([*path.absolute().parents, *program.parents]):
            sticky = folder.stat().st_mode & stat.S_ISVTX
            _check(path, folder, 0 if sticky else stat.S_IWGRP | stat.S_IWOTH)
    except OSError as error:
        raise HookError(f"hook {path}: {error.strerror}") from None


def _check(hook: Path, path: Path, writable: int) -> None:
    """Raise HookError where the path is somebody else's, or has one of these bits."""
    found = path.stat()
    whose = f"hook {hook}" if path == hook else f"hook {hook}: {path}"
    if found.st_uid not in {0, os.geteuid()}:
        raise HookError(f"{whose} belongs to user {found.st_uid}, and is not run: chown root {path}")
    if found.st_mode & writable:
        raise HookError(f"{whose} can be written by others than its owner, and is not run: chmod go-w {path}")


class Hooks:
    """Runs the hook for events, a few at a time. `spawn` starts a task; `run` is an edge, `run_hook` by default."""

    def __init__(
        self,
        journal: Journal,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        run: Callable[[Path, bytes], Awaitable[None]] = run_hook,
    ) -> None:
        self._journal = journal
        self._spawn = spawn
        self._run = run
        self._waiting: deque[tuple[Path, Event]] = deque()
        self._workers = 0
        self._left_out = 0

    def pass_on(self, path: Path, event: Event) -> None:
        """Run the hook with this event soon, unless too many wait already."""
        here = event.interface, event.address
        of_one = sum((waiting.interface, waiting.address) == here for _, waiting in self._waiting)
        if len(self._waiting) >= MOST_WAITING or of_one >= MOST_OF_ONE:
            if not self._left_out:
                text = f"hook {path}: {len(self._waiting)} events wait for it, so some are left out"
                self._journal.add(EventKind.HOOK_FAILED, text=text)
            self._left_out += 1
            return
        self._waiting.append((path, event))
        if self._workers < AT_ONCE:
            self._workers += 1
            self._spawn(self._work())

    async def _work(self) -> None:
        path: Path | None = None
        try:
            while self._waiting:
                path, event = self._waiting.popleft()
                try:
                    await self._run(path, json.dumps(asdict(event)).encode() + b"\n")
                except HookError as error:
                    self._journal.add(EventKind.HOOK_FAILED, text=str(error))
        finally:
            self._workers -= 1
        if self._left_out and not self._workers:
            count, self._left_out = self._left_out, 0
            self._journal.add(EventKind.HOOK_FAILED, text=f"hook {path}: {count} events were left out")
