"""A Docker network with several subnets on one link: where the first is full, the next one is used.

The engine asks the pool of the first subnet, and goes on to the next only where its own IPAM says that it is full: what
a driver such as this one answers is an error like any other. So the next one's address is the answer. The engine takes
it as it is, gives it back to the first one's pool, and drivers such as macvlan find the gateway by the address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arpipam.errors import PoolExhaustedError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

    from arpipam.leases.lease import Lease
    from launcher.agent.network.containers import Containers
    from launcher.agent.network.network import Network


async def hand_out(network: Network, others: Iterable[Network], mac: str, address: IPv4Address | None) -> Lease:
    """An address of this network, or else of the `others` whose subnets belong to the same Docker networks."""
    if address is not None:
        return await network.hand_out.give(mac, address)
    full: list[str] = []
    inline = [network, *_beside(network, others)]
    for one in inline:
        try:
            return await one.hand_out.give(mac, None, patient=one is inline[-1])
        except PoolExhaustedError as error:
            full.append(str(error))
    raise PoolExhaustedError(" ".join(full))


def _beside(network: Network, others: Iterable[Network]) -> list[Network]:
    """Those that are on the same link, and in every Docker network that has this one."""
    containers: Containers = network.tools.containers
    known = containers.view.networks if containers.view else ()
    ours = [docker for docker in known if containers.is_from(docker, network.interface)]
    names = {docker.name for docker in ours if docker.subnet == network.subnet}
    return [
        other
        for other in others
        if other is not network
        and other.interface == network.interface
        and names
        and all(any(docker.name == name and docker.subnet == other.subnet for docker in ours) for name in names)
    ]
