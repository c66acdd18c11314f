"""What a caller wants of the addresses on a link, checked; and what that comes to on a link that is open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping  # noqa: TC003 - the fields can be read at run time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, TypedDict

from arpipam.errors import InputError
from arpipam.protocol.parameters import Parameters
from arpipam.protocol.pool import Order, Pool, parse_subnet
from arpipam.protocol.timing import ADAPTIVE, BUDGET, MISS_PROBABILITY, Timing, profile

if TYPE_CHECKING:
    from ipaddress import IPv4Interface

    from arpipam.link.socket import Link

LAST_WITH_CANARY = 30
"""Up to this prefix length a network has an address that no station can have: its own (RFC 3021)."""
_MOST_NEIGHBOURS = 16

Address = IPv4Address | str


class SearchKeywords(TypedDict, total=False):
    """The fields of `SearchOptions` but for the subnet, as keywords."""

    ranges: Iterable[str]
    exclude: Iterable[str]
    order: Order
    timing: Timing | str
    confirm: Timing | None
    avoid: Iterable[Address]
    witnesses: Iterable[Address]
    names: Mapping[IPv4Address, str] | Mapping[str, str] | None
    gateway: Address | None
    known: Iterable[Address]
    alone: bool
    miss_probability: float
    budget: float


class VariantKeywords(SearchKeywords, total=False):
    """The fields of `SearchOptions` as keywords."""

    subnet: IPv4Network | str | None


@dataclass(frozen=True)
class SearchOptions:
    """Which addresses to look for, and what has to be shown before one counts as free.

    Addresses may be given as text. What can be read only once, as a generator, is read here. Raises InputError, in one
    line, for what makes no sense.
    """

    subnet: IPv4Network | str | None = None
    """None: that of the interface."""
    ranges: Iterable[str] = ()
    """Parts of the subnet that may be given out, as 10.0.0.10-10.0.0.99 or 10.0.0.64/26; none: all of it."""
    exclude: Iterable[str] = ()
    """Addresses and ranges that are never given out."""
    order: Order = "first"
    timing: Timing | str = ADAPTIVE
    """The pace of the probes: a profile's name, or a timing."""
    confirm: Timing | None = None
    """What is found free is probed once more by this timing."""
    avoid: Iterable[Address] = ()
    """Addresses that are tried last."""
    witnesses: Iterable[Address] = ()
    """Stations that must answer in every search."""
    names: Mapping[IPv4Address, str] | Mapping[str, str] | None = None
    """What the witnesses are called."""
    gateway: Address | None = None
    """Never given out, and probably there."""
    known: Iterable[Address] = ()
    """Stations that are probably there: they are asked first."""
    alone: bool = False
    """There is no other station, so that silence needs no witness."""
    miss_probability: float = MISS_PROBABILITY
    """The bound on the chance of calling a used address free."""
    budget: float = BUDGET
    """The limit on the probing of one address, seconds."""

    def __post_init__(self) -> None:
        if not 0 < self.miss_probability < 1:
            raise InputError(f"miss probability {self.miss_probability}: give a number between 0 and 1, such as 1e-6")
        if not self.budget > 0:
            raise InputError(f"budget {self.budget:g} s: it must be above 0")
        self._set(
            subnet=parse_subnet(self.subnet) if isinstance(self.subnet, str) else self.subnet,
            ranges=tuple(self.ranges),
            exclude=tuple(self.exclude),
            timing=profile(self.timing) if isinstance(self.timing, str) else self.timing,
            avoid=tuple(parse_address(address, "address to avoid") for address in self.avoid),
            witnesses=tuple(parse_address(witness, "witness") for witness in self.witnesses),
            names={parse_address(address, "witness"): name for address, name in (self.names or {}).items()},
            gateway=None if self.gateway is None else parse_address(self.gateway, "gateway"),
            known=tuple(parse_address(address, "known station") for address in self.known),
        )
        if self.subnet is not None:
            self._pool(self.read_subnet, ())  # raises for ranges and an order that make no sense

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    # The fields accept what a person writes; these are the same in one type each.

    @property
    def read_timing(self) -> Timing:
        """The timing, read."""
        return profile(self.timing) if isinstance(self.timing, str) else self.timing

    @property
    def read_subnet(self) -> IPv4Network | None:
        """The subnet, read."""
        return parse_subnet(self.subnet) if isinstance(self.subnet, str) else self.subnet

    def on(self, link: Link) -> tuple[Pool, Parameters]:
        """The pool and the terms on this link as it is now; raises InputError for what cannot be there."""
        given = self.read_subnet
        own = own_prefix(link.prefixes, given)
        if given is None and own is None:
            raise InputError(
                f"{link.interface} has no IPv4 address to take the subnet from; give SUBNET, or set an address"
            )
        subnet = given or IPv4Network(own.network if own else 0)
        witnesses = numbers(self.witnesses)
        for witness in witnesses:
            if witness in link.local_addresses:
                raise InputError(
                    f"witness {IPv4Address(witness)} is this host's own address; name a station on the other side of "
                    "the link"
                )
        gateway = () if self.gateway is None else numbers((self.gateway,))
        reserved = {*witnesses, *gateway, *([int(own.ip)] if own else [])}
        wire = own.network if own is not None else subnet
        known = dict.fromkeys([*gateway, *link.gateways, *numbers(self.known), *link.neighbours])
        neighbours = [
            n for n in known if n not in link.local_addresses and n not in witnesses and IPv4Address(n) in wire
        ]
        terms = Parameters(
            own_mac=link.mac,
            own_address=int(own.ip) if own is not None else 0,
            timing=self.read_timing,
            confirm=self.confirm,
            miss_probability=self.miss_probability,
            budget=self.budget,
            alone=self.alone or (not witnesses and link.plainly_alone()),
            witnesses=witnesses,
            names={number(address): name for address, name in (self.names or {}).items()},
            neighbours=tuple(neighbours[:_MOST_NEIGHBOURS]),
            canary=int(wire.network_address) if wire.prefixlen <= LAST_WITH_CANARY else None,
            last=int(wire.broadcast_address) if wire.prefixlen <= LAST_WITH_CANARY else None,
            local_addresses=link.local_addresses,
            local_macs=link.local_macs,
            outward=link.outward,
            closed="" if self.alone else link.closed,
        )
        return self._pool(subnet, sorted(reserved)), terms

    def _pool(self, subnet: IPv4Network | None, reserved: Iterable[int]) -> Pool:
        assert subnet is not None  # noqa: S101 - both callers know it
        kept = [address for address in map(IPv4Address, reserved) if address in subnet]
        return Pool(subnet, ranges=self.ranges, exclude=self.exclude, reserved=kept, order=self.order)


def parse_address(address: Address, what: str) -> IPv4Address:
    """An address that the caller calls `what`; raises InputError for anything else."""
    try:
        return address if isinstance(address, IPv4Address) else IPv4Address(address)
    except ValueError:
        raise InputError(f"{what} {address!r} is not an IPv4 address; write it as 172.16.42.7") from None


def number(address: Address) -> int:
    """The address as the protocol has it."""
    return int(IPv4Address(address))


def numbers(addresses: Iterable[Address]) -> tuple[int, ...]:
    """The addresses as the protocol has them."""
    return tuple(map(number, addresses))


def own_prefix(prefixes: Iterable[IPv4Interface], subnet: IPv4Network | None) -> IPv4Interface | None:
    """Of the interface's own addresses the one whose network is meant; None where it has none there.

    An address of that very network goes first, then one of the smallest network around it, then one inside. An address
    without a network, such as a virtual router's /32, goes last.
    """
    fitting = [own for own in prefixes if subnet is None or own.ip in subnet or subnet.subnet_of(own.network)]

    def distance(own: IPv4Interface) -> tuple[bool, bool, int]:
        if subnet is None:
            return own.network.num_addresses == 1, False, 0
        around = subnet.subnet_of(own.network)
        return own.network.num_addresses == 1, not around, abs(subnet.prefixlen - own.network.prefixlen)

    return min(fitting, key=distance, default=None)
