"""What a caller wants of the addresses on a link, checked; and what that comes to on a link that is open."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any, Self

from arpipam.errors import InputError
from arpipam.protocol.parameters import Terms
from arpipam.protocol.pool import Order, Pool, parse_subnet
from arpipam.protocol.timing import Timing, profile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from ipaddress import IPv4Interface

    from arpipam.link.socket import Link

LAST_WITH_CANARY = 30
"""Up to this prefix length a network has an address that no station can have: its own (RFC 3021)."""
_MOST_NEIGHBOURS = 16


@dataclass(frozen=True)
class Demands:
    """The options of `Allocator` that say which addresses, and on what terms."""

    subnet: IPv4Network | None
    ranges: tuple[str, ...]
    exclude: tuple[str, ...]
    order: Order
    timing: Timing
    confirm: Timing | None
    avoid: Collection[int]
    witnesses: tuple[IPv4Address, ...]
    names: Mapping[int, str]
    gateway: IPv4Address | None
    known: tuple[int, ...]
    alone: bool
    miss_probability: float
    budget: float

    @classmethod
    def read(
        cls,
        *,
        subnet: IPv4Network | str | None,
        timing: str | Timing,
        witnesses: Iterable[IPv4Address | str],
        names: Mapping[IPv4Address, str] | None,
        gateway: IPv4Address | str | None,
        miss_probability: float,
        budget: float,
        **others: Any,
    ) -> Self:
        """From what a caller wrote; raises InputError for what makes no sense."""
        if not 0 < miss_probability < 1:
            raise InputError(f"miss probability {miss_probability}: give a number between 0 and 1, such as 1e-6")
        if budget <= 0:
            raise InputError(f"budget {budget:g} s: it must be above 0")
        return cls(
            subnet=parse_subnet(subnet) if isinstance(subnet, str) else subnet,
            timing=profile(timing) if isinstance(timing, str) else timing,
            witnesses=tuple(parse_address(witness, "witness") for witness in witnesses),
            names={int(address): name for address, name in (names or {}).items()},
            gateway=None if gateway is None else parse_address(gateway, "gateway"),
            miss_probability=miss_probability,
            budget=budget,
            **others,
        )

    def on(self, link: Link) -> tuple[Pool, Terms]:
        """The pool and the terms on this link as it is now; raises InputError for what cannot be there."""
        own = _own_prefix(link.prefixes, self.subnet)
        if self.subnet is None and own is None:
            raise InputError(
                f"{link.interface} has no IPv4 address to take the subnet from; give SUBNET, or set an address"
            )
        subnet = self.subnet or IPv4Network(own.network if own else 0)
        for witness in self.witnesses:
            if int(witness) in link.local_addresses:
                raise InputError(
                    f"witness {witness} is this host's own address; name a station on the other side of the link"
                )
        reserved = {*self.witnesses, *([self.gateway] if self.gateway else []), *([own.ip] if own else [])}
        pool = Pool(
            subnet,
            ranges=self.ranges,
            exclude=self.exclude,
            reserved=[address for address in reserved if address in subnet],
            order=self.order,
        )
        wire = own.network if own is not None else subnet
        witnesses = tuple(int(witness) for witness in self.witnesses)
        gateway = (int(self.gateway),) if self.gateway else ()
        known = dict.fromkeys([*gateway, *link.gateways, *self.known, *link.neighbours])
        neighbours = [
            n for n in known if n not in link.local_addresses and n not in witnesses and IPv4Address(n) in wire
        ]
        terms = Terms(
            own_mac=link.mac,
            own_address=int(own.ip) if own is not None else 0,
            timing=self.timing,
            confirm=self.confirm,
            miss_probability=self.miss_probability,
            budget=self.budget,
            alone=self.alone or (not witnesses and link.plainly_alone()),
            witnesses=witnesses,
            names=self.names,
            neighbours=tuple(neighbours[:_MOST_NEIGHBOURS]),
            canary=int(wire.network_address) if wire.prefixlen <= LAST_WITH_CANARY else None,
            local_addresses=link.local_addresses,
            local_macs=link.local_macs,
        )
        return pool, terms


def parse_address(address: IPv4Address | str, what: str) -> IPv4Address:
    """An address that the caller calls `what`; raises InputError for anything else."""
    try:
        return IPv4Address(address)
    except ValueError:
        raise InputError(f"{what} {address!r} is no IPv4 address; write it as 172.16.42.7") from None


def _own_prefix(prefixes: Iterable[IPv4Interface], subnet: IPv4Network | None) -> IPv4Interface | None:
    """The interface's own address in the subnet, or else in the network that the subnet is a part of."""
    prefixes = list(prefixes)
    inside = [own for own in prefixes if subnet is None or own.ip in subnet]
    around = [own for own in prefixes if subnet is not None and subnet.subnet_of(own.network)]
    return next(iter(inside + around), None)
