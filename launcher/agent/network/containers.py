"""What the engine had when it was looked at last: which container has an address, and whether it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.agent.network.held import GRACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from arpipam.leases.lease import Lease
    from launcher.agent.network.held import Held
    from launcher.agent.pools import DockerPool
    from launcher.engine.model import AttachedNetwork, Endpoint, EngineView


class Containers:
    """The last view of the engine; `driver` is the name of this agent's IPAM driver, as the engine knows it.

    `pools` returns all pools of the agent.
    """

    def __init__(self, driver: str, pools: Callable[[], Iterable[DockerPool]] = tuple) -> None:
        self.driver = driver
        self._pools = pools
        self.view: EngineView | None = None
        """Set by the comparison."""
        self._macs: tuple[EngineView | None, frozenset[str]] = None, frozenset()
        """Of a view, those of the containers that run."""

    def stopped(self, held: Held) -> bool:
        """Whether the container that has the address is known to exist and not to run.

        One that starts at this moment does not run yet: only time tells it from one that has stopped.
        """
        if self.view is None or not self.keeps(held.lease):
            return False
        return held.kept or held.given is None or self.view.at - held.given > GRACE

    def keeps(self, lease: Lease) -> bool:
        """Whether a container was seen that will have the address when it starts, and none that has it."""
        endpoints = list(self._of(lease))
        return bool(endpoints) and not any(endpoint.running for endpoint in endpoints)

    def has(self, mac: str) -> bool:
        """Whether a container that runs on this host has the MAC, on whatever network."""
        view, macs = self._macs
        if view is not self.view and self.view is not None:  # a flood of conflicts asks again and again
            endpoints = (endpoint for docker in self.view.networks for endpoint in docker.endpoints)
            macs = frozenset(endpoint.mac for endpoint in endpoints if endpoint.running)
            self._macs = self.view, macs
        return mac in macs

    def attached(self, lease: Lease) -> str | None:
        """The Docker network by which the running container has its address."""
        return next((endpoint.network for endpoint in self._of(lease) if endpoint.running), None)

    def given_by_us(self, network: str) -> bool:
        """Whether the addresses of that Docker network come from us; arpipam-run's networks may be Docker's own."""
        known = self.view.networks if self.view else ()
        return any(docker.name == network and docker.ipam == self.driver for docker in known)

    def is_from(self, docker: AttachedNetwork, interface: str) -> bool:
        """Whether the Docker network has its addresses from a pool of ours on that link.

        Docker names the bridge or parent; where only one pool has the subnet, it is that one, whatever its link is.
        """
        if docker.ipam != self.driver:
            return False
        links = {pool.interface for pool in self._pools() if pool.subnet == docker.subnet}
        return docker.interface == interface or links == {interface}

    def _of(self, lease: Lease) -> Iterator[Endpoint]:
        for docker in self.view.networks if self.view else ():
            if docker.interface == lease.interface or self.is_from(docker, lease.interface):
                yield from (endpoint for endpoint in docker.endpoints if endpoint.address == lease.address)
