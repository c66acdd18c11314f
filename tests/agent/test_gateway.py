"""Which gateway a network may have: what an engine makes of it leaves every link as it was."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.errors import InputError
from launcher.agent.network.gateway import fitting
from tests.support.facts import link_facts

LAN = IPv4Network("172.16.42.0/24")
OWN, ROUTER = IPv4Address("172.16.42.1"), IPv4Address("172.16.42.254")


@pytest.mark.parametrize(
    ("subnet", "wanted", "said"),
    [
        (LAN, ROUTER, ["--gateway 172.16.42.254", "172.16.42.1/24", "--aux-address DefaultGatewayIPv4=172.16.42.254"]),
        (IPv4Network("172.16.42.128/25"), None, ["--subnet 172.16.42.0/24 --ip-range 172.16.42.128/25"]),
        (IPv4Network("172.16.42.0/25"), None, ["172.16.42.1/24", "--subnet 172.16.42.0/24 --ip-range 172.16.42.0/25"]),
        (IPv4Network("172.16.42.0/25"), OWN, ["172.16.42.1/24", "--subnet 172.16.42.0/24"]),
        (IPv4Network("172.16.0.0/16"), OWN, ["172.16.42.1/24", "--subnet 172.16.42.0/24"]),
        (IPv4Network("10.8.0.0/24"), IPv4Address("10.8.0.1"), ["172.16.42.1/24", "--subnet 172.16.42.0/24"]),
    ],
)
def test_what_would_take_the_bridges_address_is_refused(
    subnet: IPv4Network, wanted: IPv4Address | None, said: list[str]
) -> None:
    with pytest.raises(InputError) as refused:
        fitting("br0", subnet, wanted, link_facts("172.16.42.1/24", gateways=(ROUTER,)))
    assert "\n" not in str(refused.value)
    for words in ["br0", *said]:
        assert words in str(refused.value)


@pytest.mark.parametrize("wanted", [None, OWN])
def test_the_bridges_own_address_is_the_gateway(wanted: IPv4Address | None) -> None:
    assert fitting("br0", LAN, wanted, link_facts("10.8.0.1/24", "172.16.42.1/24", gateways=(ROUTER,))) == OWN


def test_a_bridge_without_an_address_may_have_any() -> None:
    assert fitting("br0", LAN, None, link_facts()) is None
    assert fitting("br0", LAN, ROUTER, link_facts()) is None  # that the wire is asked for


@pytest.mark.parametrize(("gateways", "known"), [((ROUTER,), "is 172.16.42.254"), ((), "--gateway ADDRESS")])
def test_on_a_link_that_is_no_bridge_no_gateway_is_guessed(gateways: tuple[IPv4Address, ...], known: str) -> None:
    facts = link_facts("172.16.42.1/24", bridge=False, gateways=gateways)
    with pytest.raises(InputError, match=r"-d macvlan -o parent=eth1 .*--gateway ADDRESS") as refused:
        fitting("eth1", LAN, None, facts)
    assert known in str(refused.value)
    assert fitting("eth1", LAN, ROUTER, facts) == ROUTER


SUBNETS = st.sampled_from(["10.0.0.0/24", "10.0.0.0/25", "10.0.0.128/25", "10.0.0.0/16", "10.1.0.0/24"]).map(
    IPv4Network
)
ADDRESSES = st.sampled_from([f"10.{b}.{c}.{d}" for b in (0, 1) for c in (0, 3) for d in (1, 2, 130, 254)])
PREFIXES = st.lists(st.builds("{}/{}".format, ADDRESSES, st.sampled_from([16, 24, 25])), max_size=3, unique=True)


@given(SUBNETS, st.none() | ADDRESSES.map(IPv4Address), PREFIXES)
def test_no_address_of_a_bridge_is_ever_lost(
    subnet: IPv4Network, wanted: IPv4Address | None, prefixes: list[str]
) -> None:
    """What the engine's bridge driver does with the answer, as in its setup_ipv4.go."""
    facts = link_facts(*prefixes)
    try:
        gateway = fitting("br0", subnet, wanted, facts)
    except InputError:
        return
    if gateway is None:
        assert not prefixes
        return
    chosen = IPv4Interface(f"{gateway}/{subnet.prefixlen}")
    there = next((own for own in facts.prefixes if own.ip in chosen.network), facts.prefixes[0])
    assert there == chosen  # else it is deleted, and the gateway put in its place
