"""What the engine had when it was looked at last: which container has an address, and whether it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.agent.network.held import GRACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.leases.lease import Lease
    from launcher.agent.network.held import Held
    from launcher.engine.model import Endpoint, EngineView


class Containers:
    """The last view of the engine; `driver` is the name of this agent's IPAM driver, as the engine knows it."""

    def __init__(self, driver: str) -> None:
        self.driver = driver
        self.view: EngineView | None = None
        """Set by the comparison."""

    def stopped(self, held: Held) -> bool:
        """Whether the container that has the address is known to exist and not to run.

        One that starts at this moment does not run yet: only time tells it from one that has stopped.
        """
        endpoints = list(self._of(held.lease))
        if self.view is None or not endpoints or any(endpoint.running for endpoint in endpoints):
            return False
        return held.kept or held.given is None or self.view.at - held.given > GRACE

    def attached(self, lease: Lease) -> str | None:
        """The Docker network by which the running container has its address."""
        return next((endpoint.network for endpoint in self._of(lease) if endpoint.running), None)

    def given_by_us(self, network: str) -> bool:
        """Whether the addresses of that Docker network come from us; arpipam-run's networks may be Docker's own."""
        known = self.view.networks if self.view else ()
        return any(docker.name == network and docker.ipam == self.driver for docker in known)

    def _of(self, lease: Lease) -> Iterator[Endpoint]:
        for docker in self.view.networks if self.view else ():
            if docker.interface == lease.interface or docker.ipam == self.driver:
                yield from (endpoint for endpoint in docker.endpoints if endpoint.address == lease.address)
