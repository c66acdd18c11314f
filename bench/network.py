"""Networks that are used to some degree, in the lab."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, summarize_address_range
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from arpipam.lab import Host, Lab, Namespace, Wire


class Used(NamedTuple):
    """A host on a wire, a witness, and a crowd that uses addresses."""

    wire: Wire
    host: Host
    witness: str
    used: list[IPv4Address]
    """By the crowd, ascending."""
    first_free: IPv4Address


def used_network(lab: Lab, subnet: IPv4Network, count: int, name: str = "host1") -> Used:
    """The `count` lowest addresses of the subnet after the host's and the witness's are used.

    This is how addresses lie where a program hands out the lowest free one, and the worst case of every search that
    starts at the lowest.
    """
    wire = lab.wire()
    base = int(subnet.network_address)
    length = subnet.prefixlen
    host = lab.host(name, wire, f"{subnet[1]}/{length}")
    lab.start()
    witness = str(subnet[2])
    lab.station("gateway", wire, f"{witness}/{length}")
    used = [IPv4Address(base + 3 + n) for n in range(count)]
    if used:
        crowd = lab.station("crowd", wire)
        answer_for(crowd.namespace, used[0], used[-1])
    return Used(wire, host, witness, used, IPv4Address(base + 3 + count))


def answer_for(namespace: Namespace, first: IPv4Address, last: IPv4Address) -> None:
    """The kernel in there answers for all addresses from the first to the last."""
    blocks = summarize_address_range(first, last)
    namespace.ip([f"route add local {block} dev lo" for block in blocks])


def room(subnet: IPv4Network) -> int:
    """Addresses of the subnet that `used_network` can have used."""
    return subnet.num_addresses - 4  # the network's, the broadcast address, the host, the witness
