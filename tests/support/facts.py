"""What the kernel may say of a link."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

from arpipam.link.netlink import Facts


def link_facts(*prefixes: str, bridge: bool = True, gateways: tuple[IPv4Address, ...] = ()) -> Facts:
    """With these addresses of its own."""
    own = tuple(map(IPv4Interface, prefixes))
    return Facts(
        index=1,
        mac=b"\2\0\0\0\0\1",
        mtu=1500,
        is_bridge=bridge,
        prefixes=own,
        local_addresses=frozenset(int(prefix.ip) for prefix in own),
        local_macs=frozenset(),
        gateways=tuple(map(int, gateways)),
        neighbours=(),
    )
