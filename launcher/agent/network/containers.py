"""What the engine had when it was looked at last, and what it said since it started: which containers run.

An engine that starts brings its containers up before it answers anybody, so nobody can look at it then. But it says
enough: it begins by activating its IPAM driver, tells the addresses of containers that outlived it, gives back those of
containers that did not, and asks for the address of each one that it starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.agent.network.held import GRACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from ipaddress import IPv4Address, IPv4Network

    from arpipam.leases.lease import Lease
    from launcher.agent.pools import DockerPool
    from launcher.engine.model import AttachedNetwork, Endpoint, EngineView, WaitingContainer


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
        self.look: Callable[[], None] = lambda: None
        """Asks for another view soon."""
        self._started: float | None = None
        self._given: dict[tuple[str, IPv4Address], float] = {}
        """When the engine was given an address, or told that a container has it; without what it gave back."""

    # What the engine says when it asks for addresses; `now` is monotonic.

    def engine_started(self, now: float) -> None:
        """It has started: of the containers from before, only those run that it tells of."""
        self._started = now
        self._given.clear()

    def given(self, interface: str, address: IPv4Address, now: float) -> None:
        """A container that runs, or that is being started, has the address."""
        self._given[interface, address] = now

    def released(self, interface: str, address: IPv4Address) -> None:
        """The container that had the address does not run."""
        self._given.pop((interface, address), None)

    def was_given(self, lease: Lease) -> bool:
        """Whether the address of the lease was given by this agent, and not given back."""
        return (lease.interface, lease.address) in self._given

    # What follows.

    @property
    def is_starting(self) -> bool:
        """Whether the engine has started and answers nobody yet: whatever it asks for, it asks by itself."""
        return self._started is not None and (self.view is None or self.view.at <= self._started)

    @property
    def is_known(self) -> bool:
        """Whether it can be said at all which containers run."""
        return self.view is not None or self._started is not None

    def stopped(self, lease: Lease) -> bool:
        """Whether the container that has the address is known to exist and not to run.

        One that starts at this moment does not run yet: only time tells it from one that has stopped.
        """
        given = self._given.get((lease.interface, lease.address))
        if self.is_starting:
            return given is None
        if self.view is None or not self.keeps(lease):
            return False
        return given is None or self.view.at - given > GRACE

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

    def waiting(self, interface: str, subnet: IPv4Network) -> list[WaitingContainer]:
        """The containers that may be started on a network of ours and ask for any address there."""
        known = self.view.networks if self.view else ()
        ours = {docker.name for docker in known if docker.subnet == subnet and self.is_from(docker, interface)}
        return [one for one in (self.view.waiting if self.view else ()) if one.network in ours]

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
