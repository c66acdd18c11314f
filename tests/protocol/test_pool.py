"""The pool: exactly the allowed addresses, each once, in the order that was asked for, however large the subnet."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arpipam.errors import InputError
from arpipam.protocol.pool import Order, Pool, parse_subnet

if TYPE_CHECKING:
    from collections.abc import Callable

ORDERS: tuple[Order, ...] = get_args(Order)


def text(address: int) -> str:
    return str(IPv4Address(address))


def number(address: str) -> int:
    return int(IPv4Address(address))


def given_out(
    pool: Pool, owner: str = "", seed: int = 1, prefer: tuple[int, ...] = (), avoid: frozenset[int] = frozenset()
) -> list[str]:
    return [text(address) for address in pool.candidates(owner, rng=random.Random(seed), prefer=prefer, avoid=avoid)]


def refusal(call: Callable[[], object]) -> str:
    """What it says, in one line, when it refuses."""
    with pytest.raises(InputError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    return said


# Subnets.


@pytest.mark.parametrize("subnet", ["172.16.42.0/24", "10.0.0.0/8", "0.0.0.0/0", "10.0.0.4/31", "10.0.0.5/32"])
def test_a_subnet_is_taken_as_it_is_written(subnet: str) -> None:
    assert parse_subnet(subnet) == IPv4Network(subnet)
    assert Pool(subnet).subnet == Pool(IPv4Network(subnet)).subnet == IPv4Network(subnet)
    assert Pool(subnet).prefix == int(subnet.partition("/")[2])


@pytest.mark.parametrize(
    "subnet", ["", "lan", "172.16.42.0/33", "172.16.42.0/24/8", "172.16.42/24", "fe80::/64", "172.16.42.0/24\n", "/24"]
)
def test_what_is_no_subnet_is_refused_with_an_example(subnet: str) -> None:
    expected = f"subnet {subnet!r}: write an IPv4 network such as 172.16.42.0/24"
    assert refusal(lambda: parse_subnet(subnet)) == expected
    assert refusal(lambda: Pool(subnet)) == expected


def test_host_bits_are_refused_with_what_to_write() -> None:
    said = refusal(lambda: parse_subnet("172.16.42.7/24"))
    assert said == "subnet '172.16.42.7/24' has host bits set: write 172.16.42.0/24"


ADDRESSLIKE = st.text(alphabet="0123456789./- \n", max_size=24) | st.text(max_size=8)


@given(ADDRESSLIKE)
def test_any_subnet_is_taken_or_refused_in_one_line(subnet: str) -> None:
    try:
        parse_subnet(subnet)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


@given(ADDRESSLIKE)
def test_any_range_is_taken_or_refused_in_one_line(wanted: str) -> None:
    try:
        Pool("0.0.0.0/0", ranges=[wanted])
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


def test_an_order_that_does_not_exist_is_refused() -> None:
    wrong: Any = "best"
    assert refusal(lambda: Pool("10.0.0.0/24", order=wrong)) == "order 'best': choose one of first, random, sticky"


# Ranges, exclusions, reserved addresses.


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        (["10.0.0.7"], ["7"]),
        (["10.0.0.7-10.0.0.9"], ["7", "8", "9"]),
        ([" 10.0.0.7 - 10.0.0.8 "], ["7", "8"]),
        (["10.0.0.8/30"], ["8", "9", "10", "11"]),
        (["10.0.0.8/32"], ["8"]),
        (["10.0.0.20", "10.0.0.3-10.0.0.4", "10.0.0.4-10.0.0.5"], ["3", "4", "5", "20"]),
        (["10.0.0.0/30"], ["1", "2", "3"]),  # the network address is never offered
        (["10.0.0.253-10.0.0.255"], ["253", "254"]),  # nor is the broadcast address
    ],
)
def test_each_way_to_write_a_range(ranges: list[str], expected: list[str]) -> None:
    assert given_out(Pool("10.0.0.0/24", ranges=ranges)) == [f"10.0.0.{last}" for last in expected]


def test_exclusions_are_written_as_ranges_are() -> None:
    pool = Pool("10.0.0.0/28", exclude=["10.0.0.1", "10.0.0.4/30", "10.0.0.9-10.0.0.13"])
    assert given_out(pool) == ["10.0.0.2", "10.0.0.3", "10.0.0.8", "10.0.0.14"]


def test_reserved_addresses_are_left_out_wherever_they_lie() -> None:
    pool = Pool("10.0.0.0/29", reserved=[IPv4Address("10.0.0.1"), number("10.0.0.4"), number("192.0.2.1")])
    assert given_out(pool) == ["10.0.0.2", "10.0.0.3", "10.0.0.5", "10.0.0.6"]


HOW = "write A, A-B or A/length, such as 172.16.42.100-172.16.42.200"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("", HOW),
        ("web", HOW),
        ("10.0.0.1-", HOW),
        ("-10.0.0.1", HOW),
        ("10.0.0.1-9", HOW),
        ("10.0.0.1-10.0.0.2-10.0.0.3", HOW),
        ("10.0.0.5/24", HOW),
        ("10.0.0.0/40", HOW),
        ("10.0.0.9-10.0.0.3", "ends before it starts"),
        ("10.0.1.7", "is not inside of 10.0.0.0/24"),
        ("10.0.0.250-10.0.1.3", "is not inside of 10.0.0.0/24"),
        ("9.255.255.255-10.0.0.3", "is not inside of 10.0.0.0/24"),
        ("10.0.0.0/16", "is not inside of 10.0.0.0/24"),
    ],
)
@pytest.mark.parametrize("option", ["range", "exclude"])
def test_a_range_that_cannot_be_meant_is_refused(option: str, wanted: str, said: str) -> None:
    spans: Any = {"ranges" if option == "range" else "exclude": [wanted]}
    line = refusal(lambda: Pool("10.0.0.0/24", **spans))
    assert line.startswith(f"{option} {wanted!r}")
    assert line.endswith(said)


@pytest.mark.parametrize(
    "limits",
    [
        {"exclude": ["10.0.0.0/30"]},
        {"ranges": ["10.0.0.0"]},
        {"ranges": ["10.0.0.3"]},
        {"ranges": ["10.0.0.1"], "reserved": [IPv4Address("10.0.0.1")]},
    ],
)
def test_a_pool_without_an_address_is_refused(limits: dict[str, Any]) -> None:
    said = refusal(lambda: Pool("10.0.0.0/30", **limits))
    assert said == "subnet 10.0.0.0/30: ranges and exclusions leave no address to give out"


@pytest.mark.parametrize(
    ("subnet", "expected"),
    [
        ("10.0.0.4/30", ["10.0.0.5", "10.0.0.6"]),
        ("10.0.0.4/31", ["10.0.0.4", "10.0.0.5"]),
        ("10.0.0.4/32", ["10.0.0.4"]),
        ("255.255.255.252/30", ["255.255.255.253", "255.255.255.254"]),
        ("0.0.0.2/31", ["0.0.0.2", "0.0.0.3"]),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_network_and_broadcast_address_are_kept_where_there_are_such(
    subnet: str, expected: list[str], order: Order
) -> None:
    assert sorted(given_out(Pool(subnet, order=order))) == expected


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("10.0.1.5", "is outside of 10.0.0.0/24"),
        ("9.255.255.255", "is outside of 10.0.0.0/24"),
        ("10.0.0.0", "is the network address of 10.0.0.0/24; no station can have it"),
        ("10.0.0.255", "is the broadcast address of 10.0.0.0/24; no station can have it"),
        ("10.0.0.11", "belongs to the gateway, a witness or this host; choose another"),
        ("10.0.0.12", "is excluded; choose another, or change --exclude"),
        ("10.0.0.13", "belongs to the gateway, a witness or this host; choose another"),
        ("10.0.0.9", "is outside of the range 10.0.0.10-10.0.0.20, 10.0.0.30-10.0.0.30; choose another, or change"),
    ],
)
def test_why_an_address_may_not_be_given_out(address: str, said: str) -> None:
    pool = Pool(
        "10.0.0.0/24",
        ranges=["10.0.0.30", "10.0.0.10-10.0.0.20"],
        exclude=["10.0.0.12-10.0.0.13"],
        reserved=[IPv4Address("10.0.0.11"), IPv4Address("10.0.0.13")],
    )
    assert refusal(lambda: pool.check(IPv4Address(address))).startswith(f"address {address} {said}")
    assert refusal(lambda: pool.check(number(address))).startswith(f"address {address} {said}")
    pool.check(IPv4Address("10.0.0.10"))
    pool.check(IPv4Address("10.0.0.30"))


@dataclass(frozen=True)
class Wish:
    """A pool as a user may write it, and the addresses that it must have, found the slow way."""

    subnet: str
    ranges: list[str]
    exclude: list[str]
    reserved: list[int]
    allowed: list[int]
    around: range

    def pool(self, order: Order = "first") -> Pool:
        return Pool(self.subnet, ranges=self.ranges, exclude=self.exclude, reserved=self.reserved, order=order)


@st.composite
def wishes(draw: st.DrawFn) -> Wish:
    prefix = draw(st.integers(24, 32))
    size = 1 << (32 - prefix)
    base = draw(st.integers(0, 2**prefix - 1)) * size
    inside = st.integers(base, base + size - 1)

    def span() -> tuple[str, set[int]]:
        first, last = sorted((draw(inside), draw(inside)))
        match draw(st.sampled_from(["A", "A-B", "A/length"])):
            case "A":
                return text(first), {first}
            case "A-B":
                return f"{text(first)}-{text(last)}", set(range(first, last + 1))
            case _:
                length = draw(st.integers(prefix, 32))
                block = 1 << (32 - length)
                first -= first % block
                return f"{text(first)}/{length}", set(range(first, first + block))

    ranges = [span() for _ in range(draw(st.integers(0, 3)))]
    exclude = [span() for _ in range(draw(st.integers(0, 3)))]
    reserved = draw(st.lists(inside | st.integers(0, 2**32 - 1), max_size=6))
    allowed = set(range(base, base + size))
    if prefix < 31:
        allowed -= {base, base + size - 1}
    if ranges:
        allowed &= set().union(*(addresses for _, addresses in ranges))
    allowed -= set().union(*(addresses for _, addresses in exclude), reserved)
    return Wish(
        f"{text(base)}/{prefix}",
        [written for written, _ in ranges],
        [written for written, _ in exclude],
        reserved,
        sorted(allowed),
        range(max(base - 2, 0), min(base + size + 2, 2**32)),
    )


SOME = wishes().filter(lambda wish: bool(wish.allowed))


@given(SOME, st.sampled_from(ORDERS), st.integers(0, 2**32), st.data())
def test_candidates_are_exactly_the_allowed_addresses_each_once(
    wish: Wish, order: Order, seed: int, data: st.DataObject
) -> None:
    pool = wish.pool(order)
    prefer = data.draw(st.lists(st.sampled_from(wish.around), max_size=5))
    found = list(pool.candidates("web", rng=random.Random(seed), prefer=prefer))
    assert sorted(found) == wish.allowed
    assert len(pool) == len(wish.allowed)
    preferred = [address for address in dict.fromkeys(prefer) if address in wish.allowed]
    assert found[: len(preferred)] == preferred
    if order == "first":
        assert found[len(preferred) :] == [address for address in wish.allowed if address not in preferred]


@given(wishes())
def test_an_address_is_in_the_pool_and_passes_its_check_only_when_it_is_allowed(wish: Wish) -> None:
    if not wish.allowed:
        assert "leave no address" in refusal(wish.pool)
        return
    pool = wish.pool()
    assert [address for address in wish.around if address in pool] == wish.allowed
    for address in (wish.around[0], wish.around[2], wish.around[-3], wish.around[-1], *wish.reserved, wish.allowed[0]):
        if address in wish.allowed:
            pool.check(address)
        else:
            assert refusal(lambda address=address: pool.check(address)).startswith(  # type: ignore[misc]
                f"address {text(address)} "
            )


# Orders.


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 2**24 - 2), st.integers(1, 600)), min_size=1, max_size=4),
    st.sampled_from(["random", "sticky"]),
    st.integers(0, 2**32),
)
def test_a_permutation_has_each_address_once_whatever_the_sizes(
    spans: list[tuple[int, int]], order: Order, seed: int
) -> None:
    base = number("10.0.0.0")
    parts = [range(base + start, min(base + start + size, base + 2**24 - 1)) for start, size in spans]
    pool = Pool("10.0.0.0/8", ranges=[f"{text(part[0])}-{text(part[-1])}" for part in parts], order=order)
    found = list(pool.candidates(f"owner {seed}", rng=random.Random(seed)))
    assert sorted(found) == sorted({address for part in parts for address in part})


@pytest.mark.parametrize("subnet", ["10.0.0.0/8", "0.0.0.0/0"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_huge_subnet_costs_no_more_than_a_small_one(subnet: str, order: Order) -> None:
    tracemalloc.start()
    try:
        pool = Pool(subnet, exclude=["10.1.0.0/16"], reserved=[number("10.0.0.2")], order=order)
        first = list(islice(pool.candidates("web", rng=random.Random(1), prefer=[number("10.77.0.1")]), 10))
        size = len(pool)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000  # bytes
    assert size == 2 ** (32 - pool.prefix) - 2 - 2**16 - 1
    assert len(set(first)) == 10
    assert all(address in pool for address in first)
    assert first[0] == number("10.77.0.1")
    if order == "first":
        assert first[1:4] == [address for address in range(first[1], first[1] + 4) if address in pool][:3]
    else:
        assert len({address >> 16 for address in first}) >= 9  # from all over the subnet


def test_the_first_free_address_is_the_lowest() -> None:
    assert given_out(Pool("10.0.0.0/29")) == [f"10.0.0.{last}" for last in range(1, 7)]
    assert given_out(Pool("10.0.0.0/29"), "web", seed=2) == given_out(Pool("10.0.0.0/29"), "db", seed=3)


def test_a_random_order_follows_from_the_generator_only() -> None:
    pool = Pool("10.0.0.0/24", order="random")
    assert given_out(pool, "web", seed=1) == given_out(pool, "db", seed=1)
    assert given_out(pool, "web", seed=1) != given_out(pool, "web", seed=2)


def test_a_second_random_order_from_one_generator_is_another() -> None:
    pool, rng = Pool("10.0.0.0/24", order="random"), random.Random(1)
    assert list(pool.candidates(rng=rng)) != list(pool.candidates(rng=rng))


def test_an_owner_has_the_same_order_each_time() -> None:
    pool = Pool("10.0.0.0/24", order="sticky")
    assert given_out(pool, "web", seed=1) == given_out(Pool("10.0.0.0/24", order="sticky"), "web", seed=2)


def test_an_owner_has_the_same_order_in_every_process() -> None:
    first = given_out(Pool("10.0.0.0/24", order="sticky"), "web-1")[:4]
    assert first == ["10.0.0.164", "10.0.0.25", "10.0.0.138", "10.0.0.244"]


def test_different_owners_seldom_meet() -> None:
    pool = Pool("10.0.0.0/24", order="sticky")
    orders = [given_out(pool, f"web-{n}") for n in range(500)]
    assert len({tuple(order) for order in orders}) == 500
    firsts = Counter(order[0] for order in orders)
    # 500 balls fall into 254 bins: 218 are hit on average, and about two is the usual number in one.
    assert len(firsts) > 200
    assert max(firsts.values()) < 12


@pytest.mark.parametrize("size", [2, 3, 5, 17, 200])
def test_each_address_is_somebodys_first_about_equally_often(size: int) -> None:
    last = text(number("10.0.0.0") + size)
    pool = Pool("10.0.0.0/24", ranges=[f"10.0.0.1-{last}"], order="sticky")
    owners = 30 * size
    firsts = Counter(next(pool.candidates(f"web-{n}", rng=random.Random(1))) for n in range(owners))
    assert len(firsts) == size
    assert max(firsts.values()) < 60


@pytest.mark.parametrize("order", ORDERS)
def test_preferred_addresses_come_first_and_only_once(order: Order) -> None:
    pool = Pool("10.0.0.0/24", exclude=["10.0.0.9"], order=order)
    wanted = tuple(map(number, ["10.0.0.7", "10.0.0.9", "192.0.2.1", "10.0.0.3", "10.0.0.7", "10.0.0.255"]))
    found = given_out(pool, prefer=wanted)
    assert found[:2] == ["10.0.0.7", "10.0.0.3"]
    others = [address for address in given_out(pool) if address not in {"10.0.0.7", "10.0.0.3"}]
    assert found[2:] == others


@pytest.mark.parametrize("order", ORDERS)
def test_avoided_addresses_come_last_and_in_the_pools_order(order: Order) -> None:
    pool = Pool("10.0.0.0/28", order=order)
    avoid = frozenset(map(number, ["10.0.0.3", "10.0.0.1", "10.0.0.9", "192.0.2.1", "10.0.0.0"]))
    usual = given_out(pool, "web")
    shunned = [address for address in usual if number(address) in avoid]
    assert sorted(shunned) == ["10.0.0.1", "10.0.0.3", "10.0.0.9"]
    wanted = [address for address in usual if address not in shunned]
    assert given_out(pool, "web", avoid=avoid) == wanted + shunned


def test_a_preferred_address_comes_first_though_it_is_avoided_and_only_once() -> None:
    wanted = tuple(map(number, ["10.0.0.7", "10.0.0.3"]))
    found = given_out(Pool("10.0.0.0/28"), prefer=wanted, avoid=frozenset({*wanted, number("10.0.0.1")}))
    assert (found[:2], found[-1]) == (["10.0.0.7", "10.0.0.3"], "10.0.0.1")
    assert len(found) == len(set(found)) == 14


def test_where_all_are_avoided_all_are_offered() -> None:
    pool = Pool("10.0.0.0/28")
    assert given_out(pool, avoid=frozenset(map(number, given_out(pool)))) == given_out(pool)


def test_a_vast_pool_stays_lazy_though_some_are_avoided() -> None:
    candidates = Pool("10.0.0.0/8").candidates(rng=random.Random(1), avoid={number("10.0.0.1")})
    assert text(next(candidates)) == "10.0.0.2"
