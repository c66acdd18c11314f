"""What the engine has, as it changes: it is followed, and after each look our leases are compared with it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from launcher.agent.comparison import PART, Comparison
from launcher.agent.contract import EventKind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from launcher.agent.network.network import Network
    from launcher.agent.network.shared import Tools
    from launcher.agent.supervise import Supervisor
    from launcher.engine.model import EngineView

ENGINE = "engine"
"""The follower's name among the agent's failures."""


class Following:
    """`follower` follows; what it tells is taken in on the event loop, by way of `soon(function, ...)`.

    `networks` and `forget_pool` are the comparison's.
    """

    def __init__(
        self,
        tools: Tools,
        supervisor: Supervisor,
        *,
        soon: Callable[..., None],
        networks: Callable[[], list[Network]],
        forget_pool: Callable[[str], Coroutine[Any, Any, None]],
    ) -> None:
        self.engine = "not looked for yet"
        """The engine's version, or why it cannot be reached."""
        self.follower = tools.edges.follower(
            tools.config.agent.docker_host(),
            interval=lambda: tools.config.agent.compare,
            seen=lambda view: soon(self._seen, view),
            lost=lambda why: soon(self._lost, why),
        )
        self._tools = tools
        self._supervisor = supervisor
        self._comparison = Comparison(tools, networks, forget_pool, self.follower.look)
        self._unreadable: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Follow until cancelled; a follower that fails is started again."""
        await self._supervisor.run(ENGINE, self.follower.run)

    async def stop(self) -> None:
        """End the follower."""
        await self._supervisor.attempt(ENGINE, partial(self._tools.edges.in_thread, self.follower.stop))

    def _seen(self, view: EngineView) -> None:
        self._supervisor.works(ENGINE)
        journal = self._tools.journal
        if self.engine != view.version:
            self.engine = view.version
            journal.add(EventKind.ENGINE_FOUND, text=f"Docker {view.version}")
        for line in sorted(frozenset(view.unreadable) - self._unreadable):
            journal.add(EventKind.ENGINE_UNREADABLE, text=f"skipped, since it cannot be read: {line}")
        self._unreadable = frozenset(view.unreadable)
        self._tools.spawn(self._compare(view))

    async def _compare(self, view: EngineView) -> None:
        await self._supervisor.attempt(PART, partial(self._comparison.compare, view))

    def _lost(self, why: str) -> None:
        if self.engine != why:
            self.engine = why
            self._tools.journal.add(EventKind.ENGINE_LOST, text=why)
