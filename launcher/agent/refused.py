"""Containers that an engine could not bring up as it started, since we refused: started once the network is whole.

Docker tries each of them once, and never again. While an engine starts it answers nobody, so what is refused then was
asked for by the engine itself, for a container that its restart policy wants to run. Which one that was shows in the
error that the engine keeps of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arpipam.errors import ArpipamError
from launcher.agent.contract import EventKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from launcher.agent.edges import Follower
    from launcher.agent.network.network import Network
    from launcher.agent.network.shared import Tools
    from launcher.engine.model import FailedStart

TRIES = 3
PAUSES = (10.0, 60.0)  # s after a try that failed
LOOK = 1.0  # s between two looks at whether the network is whole
PATIENCE = 60.0  # s for which an address that is ready is waited for as the sign of that


@dataclass
class _Waiting:
    """A container that is to be started."""

    container: FailedStart
    network: Network
    since: float
    tries: int = 0
    not_before: float = 0.0


class RefusedStarts:
    """Those of one engine. `follower` asks the engine, on threads of its own."""

    def __init__(self, tools: Tools, follower: Follower) -> None:
        self._tools = tools
        self._now = tools.edges.monotonic
        self._follower = follower
        self._refused: dict[str, Network] = {}
        """What was said, and of which network: containers with that error are looked for."""
        self._waiting: dict[str, _Waiting] = {}
        self._news = asyncio.Event()

    def engine_started(self, networks: Iterable[Network]) -> None:
        """It brings its containers up on these networks, and asks for all of them again."""
        self._tools.containers.engine_started(self._now())
        for network in networks:
            network.hand_out.boot()
        self._forget()

    def refused(self, network: Network, text: str) -> None:
        """An address was refused with these words."""
        if self._tools.containers.is_starting:
            self._refused[" ".join(text.split())] = network
            self._news.set()

    async def run(self) -> None:
        """Start them, until cancelled."""
        while True:
            await self._news.wait()
            if not self._tools.config.agent.start_refused:
                self._forget()
            elif not self._tools.containers.is_starting:
                await self._find()
                for waiting in list(self._waiting.values()):
                    if self._now() >= waiting.not_before and self._is_whole(waiting):
                        await self._start(waiting)
            if not self._refused and not self._waiting:
                self._news.clear()
            await asyncio.sleep(LOOK)

    def _forget(self) -> None:
        self._refused.clear()
        self._waiting.clear()

    async def _find(self) -> None:
        if not self._refused:
            return
        failed = await self._failed()
        if failed is None:
            return
        for container in failed.values():
            said = next((text for text in self._refused if text in " ".join(container.error.split())), None)
            if said is not None:
                self._waiting[container.id] = _Waiting(container, self._refused[said], self._now())
        self._refused.clear()

    async def _failed(self) -> dict[str, FailedStart] | None:
        try:
            return {container.id: container for container in await self._follower.failed_starts()}
        except ArpipamError:  # the engine is away; the follower says so
            return None

    def _is_whole(self, waiting: _Waiting) -> bool:
        """Whether a start may succeed. That an address could be made ready is the best sign of it."""
        network = waiting.network
        if not network.link.opened.is_set() or network.witnesses.silent():
            return False
        shown = not network.settings.ready or len(network.ready) > 0
        return shown or self._now() - waiting.since > PATIENCE

    async def _start(self, waiting: _Waiting) -> None:
        failed = await self._failed()
        if failed is None:
            return
        container = waiting.container
        name, network = container.name, waiting.network
        still = failed.get(container.id)
        if still is None or still.ran != container.ran:  # removed, started by somebody, or not to run any more
            self._waiting.pop(container.id, None)
            return
        waiting.tries += 1
        try:
            await self._follower.start(container.id)
        except ArpipamError as error:
            over = waiting.tries >= TRIES
            what = "start it by hand" if over else "it is tried again"
            text = f"{name} could not be started (try {waiting.tries} of {TRIES}): {error}; {what}"
            network.tell(EventKind.START_FAILED, owner=name, text=text)
            if over:
                self._waiting.pop(container.id, None)
            else:
                waiting.not_before = self._now() + PAUSES[waiting.tries - 1]
        else:
            self._waiting.pop(container.id, None)
            text = f"{name} is started: while the engine started it was refused ({container.error})"
            network.tell(EventKind.STARTED, owner=name, text=text)
