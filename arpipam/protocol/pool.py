"""Which addresses may be given out, and in which order they are tried. Pure, and lazy: a /8 costs no more than a /28.

Addresses are host-order integers inside; what the user writes is text.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, get_args

from arpipam.errors import InputError

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Iterable, Iterator

Order = Literal["first", "random", "sticky"]
"""Ascending; a random permutation; or one that follows from the owner's name."""

_POINT_TO_POINT = 31
"""From this prefix length on there is neither network nor broadcast address (RFC 3021)."""
_ROUNDS = 4


def parse_subnet(text: str) -> IPv4Network:
    """A subnet such as 172.16.42.0/24; raises InputError for anything else."""
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError):
        raise InputError(f"subnet {text!r}: write an IPv4 network such as 172.16.42.0/24") from None
    except ValueError:
        network = IPv4Network(text, strict=False)
        raise InputError(f"subnet {text!r} has host bits set: write {network}") from None


class Pool:
    """The addresses of `subnet` that lie in one of `ranges` (default: all), and in none of `exclude` and `reserved`.

    A range is "A-B", "A/length" or "A". The network and the broadcast address are never offered. Raises InputError, in
    one line, for what cannot be meant.
    """

    def __init__(
        self,
        subnet: IPv4Network | str,
        *,
        ranges: Iterable[str] = (),
        exclude: Iterable[str] = (),
        reserved: Iterable[IPv4Address | int] = (),
        order: Order = "first",
    ) -> None:
        self.subnet = parse_subnet(subnet) if isinstance(subnet, str) else subnet
        self.prefix = self.subnet.prefixlen
        if order not in get_args(Order):
            raise InputError(f"order {order!r}: choose one of {', '.join(get_args(Order))}")
        self.order: Order = order
        self._ranges = _merge(self._inside(text, "range") for text in ranges) or [self._hosts()]
        self._excluded = _merge(self._inside(text, "exclude") for text in exclude)
        self._reserved = {int(address) for address in reserved}
        gaps = _merge([*self._excluded, *((address, address) for address in self._reserved), *self._edges()])
        self._spans = _subtract(self._ranges, gaps)
        """What is left, as inclusive spans in ascending order."""
        self._ends = list(accumulate(last - first + 1 for first, last in self._spans))
        if not self._spans:
            raise InputError(f"subnet {self.subnet}: ranges and exclusions leave no address to give out")

    def __len__(self) -> int:
        return self._ends[-1]

    def __contains__(self, address: int) -> bool:
        at = bisect_right(self._spans, (address, 2**32)) - 1
        return at >= 0 and self._spans[at][0] <= address <= self._spans[at][1]

    def check(self, address: IPv4Address | int) -> None:
        """Raise InputError, saying why, unless the address may be given out."""
        number = int(address)
        if number in self:
            return
        name = f"address {IPv4Address(number)}"
        if IPv4Address(number) not in self.subnet:
            raise InputError(f"{name} is outside of {self.subnet}")
        if any(first <= number <= last for first, last in self._edges()):
            what = "network" if number == int(self.subnet.network_address) else "broadcast"
            raise InputError(f"{name} is the {what} address of {self.subnet}; no station can have it")
        if number in self._reserved:
            raise InputError(f"{name} belongs to the gateway, a witness or this host; choose another")
        if any(first <= number <= last for first, last in self._excluded):
            raise InputError(f"{name} is excluded; choose another, or change --exclude")
        spans = ", ".join(f"{IPv4Address(first)}-{IPv4Address(last)}" for first, last in self._ranges)
        raise InputError(f"{name} is outside of the range {spans}; choose another, or change --range")

    def candidates(
        self, owner: str = "", *, rng: random.Random, prefer: Iterable[int] = (), avoid: Collection[int] = ()
    ) -> Iterator[int]:
        """Each address once, in the pool's order; first those of `prefer` that the pool has, last those of `avoid`."""
        first = list(dict.fromkeys(address for address in prefer if address in self))
        yield from first
        if self.order == "first":
            indices: Iterable[int] = range(len(self))
        else:
            seed = hashlib.sha256(owner.encode()).digest() if self.order == "sticky" else rng.randbytes(32)
            indices = _permutation(len(self), seed)
        skip = set(first)
        last = []
        for index in indices:
            address = self._at(index)
            if address in avoid and address not in skip:
                last.append(address)
            elif address not in skip:
                yield address
        yield from last

    def _at(self, index: int) -> int:
        span = bisect_right(self._ends, index)
        before = self._ends[span - 1] if span else 0
        return self._spans[span][0] + index - before

    def _hosts(self) -> tuple[int, int]:
        return int(self.subnet.network_address), int(self.subnet.broadcast_address)

    def _edges(self) -> list[tuple[int, int]]:
        """Network and broadcast address."""
        if self.prefix >= _POINT_TO_POINT:
            return []
        first, last = self._hosts()
        return [(first, first), (last, last)]

    def _inside(self, text: str, what: str) -> tuple[int, int]:
        """A span as the user wrote it, which must lie in the subnet."""
        try:
            if "/" in text:
                network = IPv4Network(text)
                span = int(network.network_address), int(network.broadcast_address)
            else:
                first, dash, last = text.partition("-")
                span = int(IPv4Address(first.strip())), int(IPv4Address((last if dash else first).strip()))
        except ValueError:
            raise InputError(
                f"{what} {text!r}: write A, A-B or A/length, such as 172.16.42.100-172.16.42.200"
            ) from None
        if span[0] > span[1]:
            raise InputError(f"{what} {text!r} ends before it starts")
        if IPv4Address(span[0]) not in self.subnet or IPv4Address(span[1]) not in self.subnet:
            raise InputError(f"{what} {text!r} is not inside of {self.subnet}")
        return span


def _merge(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same addresses as disjoint spans in ascending order."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged


def _subtract(spans: Iterable[tuple[int, int]], gaps: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """`spans` without `gaps`; both disjoint and ascending."""
    left: list[tuple[int, int]] = []
    gaps = list(gaps)
    for first, last in spans:
        for gap_first, gap_last in gaps:
            if gap_last < first or gap_first > last:
                continue
            if gap_first > first:
                left.append((first, gap_first - 1))
            first = gap_last + 1  # noqa: PLW2901 - what remains of the span
        if first <= last:
            left.append((first, last))
    return left


def _permutation(size: int, seed: bytes) -> Iterator[int]:
    """0 to size-1, each once, in an order that follows from the seed: a Feistel network that walks its cycles.

    The network permutes the numbers of 2k bits, at most four times as many as there are; those beyond the end are
    encrypted again until they fall inside (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = [int.from_bytes(hashlib.sha256(seed + bytes([i])).digest()[:8], "big") | 1 for i in range(_ROUNDS)]

    def encrypt(number: int) -> int:
        left, right = number >> half, number & mask
        for key in keys:
            mixed = ((right + 1) * key) & 0xFFFF_FFFF_FFFF_FFFF
            left, right = right, left ^ ((mixed ^ mixed >> 29) * key >> 32 & mask)
        return left << half | right

    for index in range(size):
        number = encrypt(index)
        while number >= size:
            number = encrypt(number)
        yield number
