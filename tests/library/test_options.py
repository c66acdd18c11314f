"""What is asked for is checked where it is written, and read once."""

from __future__ import annotations

from dataclasses import fields, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, get_type_hints

import pytest

import arpipam
from arpipam import InputError, SearchOptions
from arpipam.allocator import Allocator
from arpipam.options import VariantKeywords, own_prefix
from arpipam.protocol.timing import LAN


def test_what_is_given_as_text_is_the_same_as_what_is_given_as_addresses() -> None:
    written = SearchOptions(
        "10.0.0.0/24",
        timing="lan",
        avoid=["10.0.0.9"],
        witnesses=["10.0.0.2"],
        names={"10.0.0.2": "two"},
        gateway="10.0.0.1",
        known=["10.0.0.3"],
    )
    assert written == SearchOptions(
        IPv4Network("10.0.0.0/24"),
        timing=LAN,
        avoid=(IPv4Address("10.0.0.9"),),
        witnesses=(IPv4Address("10.0.0.2"),),
        names={IPv4Address("10.0.0.2"): "two"},
        gateway=IPv4Address("10.0.0.1"),
        known=(IPv4Address("10.0.0.3"),),
    )


@pytest.mark.parametrize("name", ["ranges", "exclude", "avoid", "witnesses", "known"])
def test_what_can_be_read_only_once_serves_every_search(name: str) -> None:
    given: dict[str, Any] = {name: (text for text in ["10.0.0.7"])}
    options = SearchOptions("10.0.0.0/24", **given)
    expected = ("10.0.0.7",) if name in {"ranges", "exclude"} else (IPv4Address("10.0.0.7"),)
    assert getattr(options, name) == getattr(replace(options, budget=1.0), name) == expected
    given = {name: (text for text in ["10.0.0.7"])}
    assert getattr(Allocator("docker0", "10.0.0.0/24", **given).options, name) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"subnet": "10.0.0.1/24"}, "subnet '10.0.0.1/24' has host bits set: write 10.0.0.0/24"),
        ({"timing": "fast"}, "timing 'fast': choose one of"),
        ({"witnesses": ["printer"]}, "witness 'printer' is not an IPv4 address"),
        ({"avoid": ["printer"]}, "address to avoid 'printer' is not"),
        ({"known": ["printer"]}, "known station 'printer' is not"),
        ({"gateway": "10.0.0"}, "gateway '10.0.0' is not"),
        ({"miss_probability": 0}, "miss probability 0: give a number"),
        ({"miss_probability": float("nan")}, "miss probability nan: give a number"),
        ({"budget": 0}, "budget 0 s: it must be above 0"),
        ({"budget": float("nan")}, "budget nan s: it must be above 0"),
        ({"subnet": "10.0.0.0/24", "ranges": ["10.0.1.1"]}, "10.0.1.1"),
        ({"subnet": "10.0.0.0/24", "order": "last"}, "order 'last': choose one of"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        SearchOptions(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rate_must_be_above_zero() -> None:
    for rate in (0, -1, float("nan")):
        with pytest.raises(InputError, match=r"rate .* it must be above 0"):
            Allocator("docker0", rate=rate)


def test_keywords_win_over_options() -> None:
    options = SearchOptions("10.0.0.0/24", timing="lan", budget=1.0)
    assert Allocator("docker0", options=options).options == options
    assert Allocator("docker0", "10.1.0.0/24", options=options, budget=2.0).options == replace(
        options, subnet=IPv4Network("10.1.0.0/24"), budget=2.0
    )


@pytest.mark.parametrize(
    ("prefixes", "subnet", "meant"),
    [
        (["10.0.0.1/24"], None, "10.0.0.1/24"),
        (["10.0.0.100/32", "10.0.0.1/24"], None, "10.0.0.1/24"),  # a virtual router's, which moves
        (["10.0.0.100/32", "10.0.0.1/24"], "10.0.0.0/24", "10.0.0.1/24"),
        (["10.0.0.1/24", "10.0.0.2/24"], "10.0.0.0/24", "10.0.0.1/24"),
        (["10.0.0.1/16", "10.0.0.2/24"], "10.0.0.0/24", "10.0.0.2/24"),
        (["10.0.0.1/8", "10.0.0.2/16"], "10.0.0.0/24", "10.0.0.2/16"),  # the smallest around
        (["10.0.9.1/24", "10.0.0.1/16"], "10.0.0.0/24", "10.0.0.1/16"),  # in another part of it
        (["10.0.0.2/25", "10.0.0.1/16"], "10.0.0.0/24", "10.0.0.1/16"),  # of a part only
        (["10.0.0.2/25"], "10.0.0.0/24", "10.0.0.2/25"),
        (["10.0.0.9/32"], "10.0.0.0/24", "10.0.0.9/32"),
        (["10.1.0.1/24"], "10.0.0.0/24", None),
        ([], None, None),
    ],
)
def test_of_several_own_addresses_the_one_whose_network_is_meant(
    prefixes: list[str], subnet: str | None, meant: str | None
) -> None:
    wanted = None if subnet is None else IPv4Network(subnet)
    found = own_prefix(map(IPv4Interface, prefixes), wanted)
    assert found == (None if meant is None else IPv4Interface(meant))


def test_the_keywords_are_the_fields() -> None:
    keywords, hints = get_type_hints(VariantKeywords), get_type_hints(SearchOptions)
    assert keywords.keys() == {field.name for field in fields(SearchOptions)}
    assert keywords == hints


def test_everything_public_is_there() -> None:
    for name in arpipam.__all__:
        assert getattr(arpipam, name)
    assert arpipam.__version__[0].isdigit()
