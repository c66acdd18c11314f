"""Which gateway a network may have, so that the engine leaves this host's link as it is.

The engine's bridge driver puts the gateway on the bridge. Of the addresses that are there, it looks at the first one in
the subnet, or at the first of all. If that is not the gateway, with the subnet's prefix length, the engine deletes it.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NoReturn

from arpipam.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection
    from ipaddress import IPv4Interface, IPv4Network

    from arpipam.link.netlink import Facts

ASIDE = "--aux-address DefaultGatewayIPv4"
"""How the bridge driver is told of a gateway that is not the bridge."""


def fitting(interface: str, subnet: IPv4Network, wanted: IPv4Address | None, facts: Facts) -> IPv4Address | None:
    """The gateway for the subnet on that link; None where the link is a bridge without any address.

    Raises InputError, which says what to do, where the link would not stay as it is, or the gateway would be a guess.
    """
    if not facts.is_bridge:
        return wanted if wanted is not None else _unguessed(interface, subnet, facts)
    touched = _touched(facts.prefixes, subnet)
    if touched is None:
        return None
    if touched.network != subnet:
        ranges = f" --ip-range {subnet}" if subnet.subnet_of(touched.network) else ""
        raise InputError(
            f"--subnet {subnet}: {interface} has {touched}, which the engine would take away for an address of that "
            f"subnet; use --subnet {touched.network}{ranges}"
        )
    if wanted not in {None, touched.ip}:
        raise InputError(
            f"--gateway {wanted}: the engine would put that address on {interface} in place of {touched}; leave "
            f"--gateway out, and where {wanted} is the containers' way out, say {ASIDE}={wanted}"
        )
    return touched.ip


def taken(interface: str, wanted: IPv4Address, why: str) -> InputError:
    """The error of a gateway that is another station's, for a bridge without any address."""
    return InputError(
        f"--gateway {wanted} {why}, and the engine would put it on {interface}; give {interface} an address of its "
        f"own, leave --gateway out, and say {ASIDE}={wanted}"
    )


def _touched(prefixes: Collection[IPv4Interface], subnet: IPv4Network) -> IPv4Interface | None:
    """The address of the bridge that the engine would compare with the gateway."""
    return next((prefix for prefix in prefixes if prefix.ip in subnet), next(iter(prefixes), None))


def _unguessed(interface: str, subnet: IPv4Network, facts: Facts) -> NoReturn:
    routers = [address for address in map(IPv4Address, facts.gateways) if address in subnet]
    known = f"; this host's own router there is {routers[0]}" if routers else ""
    raise InputError(
        f"{interface} is not a bridge, and a gateway is never guessed there: make the network with -d macvlan -o "
        f"parent={interface} and name the containers' way out, --gateway ADDRESS{known}"
    )
