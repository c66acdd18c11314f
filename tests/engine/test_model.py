"""What an engine may say and how it is read: a description that cannot be read never hides the others."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest

from launcher.engine.model import attached_networks
from tests.support.descriptions import LAN, WEB


def foreign(**config: Any) -> dict[str, Any]:
    return LAN | {"Name": "plain", "Id": 64 * "3", "IPAM": {"Driver": "default", "Config": [config]}}


def test_a_subnet_with_host_bits_is_read_as_the_engine_means_it() -> None:
    networks, unreadable = attached_networks(
        [foreign(Subnet="10.0.0.1/24", IPRange="10.0.0.129/25", Gateway="10.0.0.1"), LAN], [WEB], str
    )
    assert unreadable == ()
    assert [network.subnet for network in networks] == [IPv4Network("10.0.0.0/24"), IPv4Network("172.16.42.0/24")]
    assert networks[0].ranges == IPv4Network("10.0.0.128/25")


@pytest.mark.parametrize(
    "description",
    [
        foreign(Subnet="10.0.0.0/33"),
        foreign(Subnet=7),
        foreign(Subnet="10.0.0.0/24", IPRange="everything"),
        {"Name": "plain"},
        LAN | {"Name": "plain", "IPAM": [1]},
        "plain",
    ],
)
def test_a_network_that_cannot_be_read_is_named_and_hides_no_other(description: Any) -> None:
    networks, unreadable = attached_networks([description, LAN], [WEB], str)
    [lan] = networks
    assert [endpoint.name for endpoint in lan.endpoints] == ["web"]
    [line] = unreadable
    assert line.startswith("network 'plain': ")
    assert "\n" not in line


@pytest.mark.parametrize("broken", [{}, WEB | {"NetworkSettings": {"Networks": {"lan": {"IPAddress": "x"}}}}])
def test_a_container_that_cannot_be_read_hides_no_other(broken: Any) -> None:
    networks, unreadable = attached_networks([LAN], [broken, WEB], str)
    [lan] = networks
    assert [endpoint.name for endpoint in lan.endpoints] == ["web"]
    assert len(unreadable) == 1
