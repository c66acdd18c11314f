"""The leases against what the engine really has: who owns them, which are kept by a stopped container, which leaked.

An engine that is away when a container ends, an agent that is away when an address is given back: whatever was missed,
the next comparison makes good.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from arpipam.claim import ClaimState
from launcher.agent.network.network import GRACE, PENDING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator
    from typing import Any

    from arpipam.leases.lease import Lease
    from launcher.agent.network.network import Held, Network
    from launcher.agent.network.shared import Tools
    from launcher.agent.pools import DockerPool
    from launcher.engine.model import AttachedNetwork, Endpoint, EngineView

SOON = 1.0  # s to the next comparison while something waits for it


class Ledger:
    """Compares; `forget_pool(id)` ends a network that Docker has no more, `look()` asks for another view soon."""

    def __init__(
        self,
        tools: Tools,
        networks: Callable[[], list[Network]],
        forget_pool: Callable[[str], Coroutine[Any, Any, None]],
        look: Callable[[], None],
    ) -> None:
        self._tools = tools
        self._networks = networks
        self._forget_pool = forget_pool
        self._look = look
        self._view: EngineView | None = None
        self._comparing = asyncio.Lock()
        self._born: dict[str, float] = {}
        self._open = False
        """Whether something waits for another view."""
        self._again: asyncio.TimerHandle | None = None

    async def compare(self, view: EngineView) -> None:
        """Bring all leases up to date with what the engine had."""
        async with self._comparing:
            if self._view is not None and view.at < self._view.at:
                return
            self._view = view
            self._open = False
            for network in self._networks():
                if network.opened.is_set():
                    await self._compare(network, view)
            await self._find_lost_pools(view)
            self._open |= any(
                held.idle_since is not None or held.claim.lease.container == PENDING
                for network in self._networks()
                for held in network.held.values()
            )
            if self._again is not None:
                self._again.cancel()
            self._again = asyncio.get_running_loop().call_later(SOON, self._look) if self._open else None

    async def _compare(self, network: Network, view: EngineView) -> None:
        # A stopped container may keep an address that another one has by now.
        known = sorted(self._endpoints(network.pool, view), key=lambda endpoint: endpoint.running)
        endpoints = {endpoint.address: endpoint for endpoint in known}
        for address, endpoint in endpoints.items():
            held = network.held.get(address)
            ours = endpoint.lease is not None or self._is_ours(network.pool, endpoint, view)
            if held is None and endpoint.running and endpoint.mac and ours and address not in network.lending:
                await network.adopt(address, endpoint.mac, endpoint.name, endpoint.container)
            elif held is not None:
                await self._learn(network, held, endpoint, view)
        for address, held in list(network.held.items()):
            if address in endpoints:
                continue
            if self._is_over(held, view):
                leaked = held.idle_since is None and network.pool.count  # arpipam-run's are given back by nobody else
                kind = "leaked" if leaked else "released"
                await network.release(address, kind)
            else:
                self._open = True

    async def _learn(self, network: Network, held: Held, endpoint: Endpoint, view: EngineView) -> None:
        """A container has the address, or will have it when it starts."""
        if _outdated(view, held):
            return
        lease = held.claim.lease
        if (lease.container, lease.owner) != (endpoint.container, endpoint.name):
            named = await asyncio.to_thread(self._tools.leases.set_owner, lease.id, endpoint.name, endpoint.container)
            if held.claim.lease is not lease:
                return  # handed out meanwhile, to another container
            held.claim.lease = named
        if not endpoint.running:
            if held.claim.state is ClaimState.GUARDED:
                held.claim.take_over()
            held.kept |= held.idle_since is not None
            held.idle_since = None
        elif held.claim.state is not ClaimState.GUARDED:  # it may have started after an older look found it stopped
            if network.audible:
                held.claim.await_owner()
            else:
                held.claim.guard()

    def _is_over(self, held: Held, view: EngineView) -> bool:
        """Whether the lease of an address that no container has is nobody's any more."""
        if _outdated(view, held):
            return False
        if held.idle_since is not None:
            return True
        lease = held.claim.lease
        if lease.container == PENDING:
            return time.time() - lease.changed > GRACE
        age = time.monotonic() - view.at
        return time.time() - lease.changed > age + SOON  # it is in the view if it was there when that was taken

    async def _find_lost_pools(self, view: EngineView) -> None:
        now = time.monotonic()
        known = {network.pool.id: network.pool for network in self._networks()}
        self._born = {pool_id: self._born.get(pool_id, now) for pool_id in known}
        for pool in known.values():
            if any(self._has(pool, docker) for docker in view.networks):
                self._born[pool.id] = now
            elif now - self._born[pool.id] > GRACE:
                await self._forget_pool(pool.id)

    # Who is who.

    def _has(self, pool: DockerPool, docker: AttachedNetwork) -> bool:
        """Whether the Docker network has its addresses from the pool.

        Docker names the bridge or parent; where only one pool has the subnet, it is that one, whatever its link is.
        """
        if docker.ipam != self._tools.driver or docker.subnet != pool.subnet:
            return False
        pools = [network.pool for network in self._networks() if network.pool.subnet == pool.subnet]
        return docker.interface == pool.interface or len(pools) == 1

    def _endpoints(self, pool: DockerPool, view: EngineView) -> Iterator[Endpoint]:
        for docker in view.networks:
            if docker.interface == pool.interface or self._has(pool, docker):
                yield from (endpoint for endpoint in docker.endpoints if endpoint.address in pool.subnet)

    def _is_ours(self, pool: DockerPool, endpoint: Endpoint, view: EngineView) -> bool:
        """Whether the address is one that we gave out, as opposed to Docker itself."""
        return any(docker.name == endpoint.network and self._has(pool, docker) for docker in view.networks)

    def _of(self, lease: Lease) -> Iterable[Endpoint]:
        for docker in self._view.networks if self._view else ():
            if docker.interface == lease.interface or docker.ipam == self._tools.driver:
                yield from (endpoint for endpoint in docker.endpoints if endpoint.address == lease.address)

    def stopped(self, held: Held) -> bool:
        """Whether the container that has the address is known to exist and not to run.

        One that starts at this moment does not run yet: what the engine shows is told from that by time alone.
        """
        endpoints = list(self._of(held.claim.lease))
        if self._view is None or not endpoints or any(endpoint.running for endpoint in endpoints):
            return False
        return held.kept or held.given is None or self._view.at - held.given > GRACE

    def attached(self, lease: Lease) -> str | None:
        """The Docker network by which the running container has its address."""
        return next((endpoint.network for endpoint in self._of(lease) if endpoint.running), None)

    def given_by_us(self, network: str) -> bool:
        """Whether the addresses of that Docker network come from us; arpipam-run's networks may be Docker's own."""
        driver = self._tools.driver
        known = self._view.networks if self._view else ()
        return any(docker.name == network and docker.ipam == driver for docker in known)


def _outdated(view: EngineView, held: Held) -> bool:
    """Whether Docker has taken or given back the address after that was seen."""
    return view.at <= max(held.idle_since or 0.0, held.given or 0.0)
