"""The leases against what the engine really has: who owns them, which are kept by a stopped container, which leaked.

An engine that is away when a container ends, an agent that is away when an address is given back: whatever was missed,
the next comparison makes good.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from arpipam.claim_state import ClaimState
from launcher.agent.contract import EventKind
from launcher.agent.network.held import GRACE, PENDING, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterator
    from ipaddress import IPv4Address
    from typing import Any

    from arpipam.leases.lease import Lease
    from launcher.agent.network.held import Held
    from launcher.agent.network.network import Network
    from launcher.agent.network.shared import Tools
    from launcher.agent.pools import DockerPool
    from launcher.engine.model import AttachedNetwork, Endpoint, EngineView

PART = "comparison with the engine"
"""Its name among the failures of a network, and of the agent where it fails for all."""
SOON = 1.0  # s to the next comparison while something waits for it


class Comparison:
    """Compares; `forget_pool(id)` ends a network that Docker has no more, `look()` asks for another view soon."""

    def __init__(
        self,
        tools: Tools,
        networks: Callable[[], list[Network]],
        forget_pool: Callable[[str], Coroutine[Any, Any, None]],
        look: Callable[[], None],
    ) -> None:
        self._tools = tools
        self._now = tools.edges.monotonic
        self._networks = networks
        self._forget_pool = forget_pool
        self._look = look
        self._comparing = asyncio.Lock()
        self._born: dict[str, float] = {}
        self._unseen: dict[int, float] = {}
        """Leases of closed links that no container has, and since when."""
        self._open = False
        """Whether something waits for another view."""
        self._again: asyncio.TimerHandle | None = None

    async def compare(self, view: EngineView) -> None:
        """Bring all leases up to date with what the engine had. What fails for one network is shown there."""
        async with self._comparing:
            before = self._tools.containers.view
            if before is not None and view.at < before.at:
                return
            self._tools.containers.view = view
            self._open = False
            unseen: dict[int, float] = {}
            for network in self._networks():
                if not await network.supervisor.attempt(PART, partial(self._compare, network, view, unseen)):
                    self._open = True
            self._unseen = unseen
            await self._find_lost_pools(view)
            self._open |= any(
                held.idle_since is not None or held.lease.container == PENDING
                for network in self._networks()
                for held in network.holdings.of(Role.DOCKER)
            )
            if self._again is not None:
                self._again.cancel()
            self._again = asyncio.get_running_loop().call_later(SOON, self._look) if self._open else None

    async def _compare(self, network: Network, view: EngineView, unseen: dict[int, float]) -> None:
        await network.holdings.settle()
        mine = [docker for docker in view.networks if self._has(network.pool, docker)]
        await network.made.compare(mine, view.at, network.pool.count)
        # A stopped container may keep an address that another one has by now.
        known = sorted(self._endpoints(network.pool, view), key=lambda endpoint: endpoint.running)
        endpoints = {endpoint.address: endpoint for endpoint in known}
        network.promises.learn(endpoints)
        if not network.link.opened.is_set():
            await self._end_unseen(network, view, endpoints, unseen)
            return
        for address, endpoint in endpoints.items():
            held = network.holdings.get(address)
            ours = endpoint.lease is not None or self._is_ours(network.pool, endpoint, view)
            if held is None and endpoint.running and endpoint.mac and ours:
                await network.adopt(address, endpoint.mac, endpoint.name, endpoint.container)
            elif held is not None and held.role is Role.DOCKER:
                await self._learn(network, held, endpoint, view)
        for held in network.holdings.of(Role.DOCKER):
            if held.address in endpoints or _is_anothers(held.lease, view):
                continue
            if self._is_over(held, view):
                # Only Docker releases what it was given; what a stopped container keeps it has released before.
                leaked = held.idle_since is None and not held.kept and network.pool.count
                await network.end(held, EventKind.LEAKED if leaked else EventKind.RELEASED)
            else:
                self._open = True

    async def _learn(self, network: Network, held: Held, endpoint: Endpoint, view: EngineView) -> None:
        """A container has the address, or will have it when it starts."""
        if _outdated(view, held):
            return
        if (held.lease.container, held.lease.owner) != (endpoint.container, endpoint.name) and not (
            await network.holdings.set_owner(held, endpoint.name, endpoint.container)
        ):
            return  # handed out meanwhile, to another container
        if not endpoint.running:
            if held.claim.state is ClaimState.GUARDED:
                held.claim.take_over()
            held.kept |= held.idle_since is not None
            held.idle_since = None
        elif held.claim.state is not ClaimState.GUARDED:  # it may have started after an older look found it stopped
            if network.link.audible:
                held.claim.ask_owner()
            else:
                held.claim.guard()

    def _is_over(self, held: Held, view: EngineView) -> bool:
        """Whether no container has the address, or is about to have it."""
        if _outdated(view, held):
            return False
        if held.idle_since is not None:
            return True
        if held.lease.container == PENDING:
            return self._now() - held.changed > GRACE
        return held.changed + SOON < view.at  # it is in the view if it was there when that was taken

    async def _end_unseen(
        self,
        network: Network,
        view: EngineView,
        endpoints: Collection[IPv4Address],
        unseen: dict[int, float],
    ) -> None:
        """Nobody defends the leases of a link that is closed; they end with their containers all the same."""
        for lease in await network.holdings.recorded(with_mac=True):
            if lease.address in endpoints or _is_anothers(lease, view):
                continue
            since = unseen[lease.id] = self._unseen.get(lease.id, self._now())
            if self._now() - since > GRACE and not network.link.opened.is_set():
                if await network.holdings.end_lease(lease, self._tools.config.agent.quarantine):
                    text = "its link is closed, and no container has it"
                    network.tell(EventKind.LEAKED, address=str(lease.address), owner=lease.owner, text=text)
            else:
                self._open = True

    async def _find_lost_pools(self, view: EngineView) -> None:
        now = self._now()
        known = {network.pool.id: network.pool for network in self._networks()}
        self._born = {pool_id: self._born.get(pool_id, now) for pool_id in known}
        for pool in known.values():
            if any(self._has(pool, docker) for docker in view.networks):
                self._born[pool.id] = now
            elif now - self._born[pool.id] > GRACE:
                await self._forget_pool(pool.id)

    # Who is who.

    def _has(self, pool: DockerPool, docker: AttachedNetwork) -> bool:
        """Whether the Docker network has its addresses from the pool."""
        return docker.subnet == pool.subnet and self._tools.containers.is_from(docker, pool.interface)

    def _endpoints(self, pool: DockerPool, view: EngineView) -> Iterator[Endpoint]:
        for docker in view.networks:
            if docker.interface == pool.interface or self._has(pool, docker):
                yield from (endpoint for endpoint in docker.endpoints if endpoint.address in pool.subnet)

    def _is_ours(self, pool: DockerPool, endpoint: Endpoint, view: EngineView) -> bool:
        """Whether the address is one that we gave out, as opposed to Docker itself."""
        return any(docker.name == endpoint.network and self._has(pool, docker) for docker in view.networks)


def _outdated(view: EngineView, held: Held) -> bool:
    """Whether Docker has taken or given back the address after that was seen."""
    return view.at <= max(held.idle_since or 0.0, held.given or 0.0)


def _is_anothers(lease: Lease, view: EngineView) -> bool:
    """Whether the lease is bound to a container of another engine, of which this one knows nothing."""
    engine = lease.container.partition("@")[2]
    return bool(engine and view.engine) and engine != view.engine
