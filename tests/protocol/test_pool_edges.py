"""The pool at the ends of its spans, and orders that stay what they are: an owner keeps its address over an update."""

from __future__ import annotations

import random
from ipaddress import IPv4Address

import pytest

from arpipam.errors import InputError
from arpipam.protocol.pool import Order, Pool


def lasts(pool: Pool, *owner: str, seed: int = 1) -> list[int]:
    """The last bytes of all candidates."""
    return [address & 255 for address in pool.candidates(*owner, rng=random.Random(seed))]


@pytest.mark.parametrize("last", [12, 13, 14])
def test_each_address_of_an_exclusion_is_named_as_excluded(last: int) -> None:
    with pytest.raises(InputError, match=f"address 10.0.0.{last} is excluded; choose another, or change --exclude"):
        Pool("10.0.0.0/24", exclude=["10.0.0.12-10.0.0.14"]).check(IPv4Address(f"10.0.0.{last}"))


def test_ranges_that_touch_are_one() -> None:
    pool = Pool("10.0.0.0/24", ranges=["10.0.0.5-10.0.0.8", "10.0.0.1-10.0.0.4", "10.0.0.10"])
    with pytest.raises(
        InputError, match=r"outside of the range 10\.0\.0\.1-10\.0\.0\.8, 10\.0\.0\.10-10\.0\.0\.10; choose"
    ):
        pool.check(IPv4Address("10.0.0.9"))


def test_who_has_no_name_has_an_order_too() -> None:
    pool = Pool("10.0.0.0/24", order="sticky")
    assert lasts(pool) == lasts(pool, "")


@pytest.mark.parametrize(
    ("order", "size", "expected"),
    [
        ("sticky", 1, [1]),
        ("sticky", 3, [2, 3, 1]),
        ("sticky", 4, [2, 3, 4, 1]),
        ("sticky", 5, [5, 1, 4, 2, 3]),
        ("sticky", 16, [12, 7, 4, 13, 16, 1, 6, 9, 2, 15, 10, 5, 8, 11, 14, 3]),
        ("random", 7, [5, 6, 2, 7, 3, 4, 1]),
    ],
)
def test_an_order_is_the_same_in_every_version(order: Order, size: int, expected: list[int]) -> None:
    assert lasts(Pool("10.0.0.0/24", ranges=[f"10.0.0.1-10.0.0.{size}"], order=order), "web") == expected
