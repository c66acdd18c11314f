"""What an engine may say and how it is read: a description that cannot be read never hides the others."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest

from launcher.engine.model import FailedStart, WaitingContainer, attached_networks, failed_start, waiting_containers
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


def down(**more: Any) -> dict[str, Any]:
    """A container as the engine shows it to who asks for all of it."""
    state = {"Running": False, "Restarting": False, "Error": "refused", "StartedAt": "2026-01-01T00:00:00Z"}
    return {
        "Id": "c1",
        "Name": "/web",
        "State": state | more.pop("State", {}),
        "HostConfig": {"RestartPolicy": {"Name": more.pop("policy", "always")}},
    }


@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure"])
def test_a_start_that_failed(policy: str) -> None:
    assert failed_start(down(policy=policy)) == FailedStart("c1", "web", "refused", "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "other",
    [
        {"policy": "no"},
        {"policy": ""},
        {"State": {"Running": True}},
        {"State": {"Restarting": True}},
        {"State": {"Error": ""}},
        {"State": {"StartedAt": "0001-01-01T00:00:00Z"}},  # it never ran
    ],
)
def test_no_start_that_failed(other: dict[str, Any]) -> None:
    assert failed_start(down(**other)) is None


def test_containers_that_wait_for_any_address() -> None:
    fixed = {"lan": {"IPAMConfig": {"IPv4Address": "172.16.42.9"}}, "back": {"IPAMConfig": None}}
    summaries: list[dict[str, Any]] = [
        WEB,
        WEB | {"Names": ["/old"], "State": "exited", "Created": 5, "NetworkSettings": {"Networks": {"lan": {}}}},
        WEB | {"Names": ["/new"], "State": "created", "Created": 7, "NetworkSettings": {"Networks": fixed}},
        WEB | {"State": "exited", "NetworkSettings": {"Networks": None}},
        {},
    ]
    assert waiting_containers(summaries) == (
        WaitingContainer("lan", "old", 5.0, new=False),
        WaitingContainer("back", "new", 7.0, new=True),
    )


def test_the_name_of_a_container_that_compose_is_about_to_replace() -> None:
    networks, _ = attached_networks([LAN], [WEB | {"Names": ["/0123456789ab_shop_web_1"]}], str)
    assert [endpoint.name for endpoint in networks[0].endpoints] == ["shop_web_1"]
