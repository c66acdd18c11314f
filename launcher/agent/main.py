"""Runs the agent until SIGTERM or SIGINT; SIGHUP makes it read its file again."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arpipam.errors import ArpipamError
from launcher.agent import log
from launcher.agent.agent import Agent
from launcher.agent.config import file as configuration
from launcher.agent.server.listening import passed_socket
from launcher.agent.server.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.agent.config.file import Config

NICE = -15  # as other daemons that answer for the network: an answer that comes late is none
SWITCH = 0.001  # s that one of our threads may keep the others waiting
WORKERS = 32  # threads that may wait for the kernel, the disk or a link at one time


def run(path: Path | None, **words: Any) -> None:
    """Run by the file at `path`; `words` override keys of its [agent], at each reload too.

    Raises ArpipamError, in one line, where it cannot even start.
    """

    def read() -> Config:
        return configuration.load(path).override(**words)

    config = read()
    with suppress(OSError):  # not ours to decide: a unit's Nice= does the same
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    sys.setswitchinterval(SWITCH)
    log.configure()
    asyncio.run(_run(config, read))


async def _run(config: Config, read: Callable[[], Config]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(WORKERS, "arpipam"))
    ending, reloading = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    loop.add_signal_handler(signal.SIGHUP, reloading.set)
    async with AsyncExitStack() as stack:
        passed = passed_socket()
        path = config.agent.socket if passed is None else Path(passed.getsockname())
        agent = Agent(config, driver=path.stem)
        stack.push_async_callback(agent.stop)
        await agent.start()
        server = Server(agent, path, passed=passed)
        await server.start()
        stack.push_async_callback(server.stop)
        gc.collect()
        gc.freeze()  # what is loaded by now stays: to look through it again and again would take 40 ms each time
        log.logger().info("ready", socket=str(path), state_dir=str(config.agent.state_dir))
        while not ending.is_set():
            waits = [asyncio.create_task(event.wait()) for event in (ending, reloading)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if reloading.is_set():
                reloading.clear()
                config = await _reload(agent, config, read)


async def _reload(agent: Agent, old: Config, read: Callable[[], Config]) -> Config:
    """Go on by the file as it is now; a file that is wrong changes nothing."""
    try:
        new = read()
        await agent.reload(new)
    except ArpipamError as error:
        log.logger().error("not reloaded", reason=str(error))
        return old
    except Exception:  # noqa: BLE001 - a reload never ends the agent
        log.logger().exception("not reloaded; internal error, please report it")
        return old
    if fixed := configuration.changes(old, new):
        log.logger().warning("needs a restart", keys=", ".join(fixed))
    log.logger().info("reloaded")
    return new
