"""What the engine has made against what was meant: a network elsewhere, a bridge that lost its address."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.errors import InputError, LinkError
from arpipam.link.netlink import NoInterfaceError, facts
from launcher.agent.contract import EventKind
from launcher.agent.edges import Edges
from launcher.agent.network import made as module
from launcher.agent.network.made import Made, misplaced, missing
from launcher.engine.model import AttachedNetwork
from tests.support.facts import link_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from arpipam.link.netlink import Facts

LAN = AttachedNetwork("lan", "arpipam", IPv4Network("172.16.42.0/24"), None, "eth1", (), "macvlan", "eth1")
ON_BRIDGE = replace(LAN, driver="bridge", device="br-0123456789ab")


class Place:
    """What lies around it."""

    def __init__(self, *prefixes: str, bridge: bool = True) -> None:
        self.facts: Facts | None = link_facts(*prefixes, bridge=bridge)
        self.now = 0.0
        self.asked = 0
        self.told: list[tuple[str, str]] = []
        self.mismatches: list[str] = []
        edges = Edges(facts=self._facts, monotonic=lambda: self.now, in_thread=_at_once)  # type: ignore[arg-type]
        self.made = Made("eth1", lambda kind, text: self.told.append((kind, text)), edges)
        self.made.on_mismatch = self.mismatches.append

    def _facts(self, _: str) -> Facts:
        self.asked += 1
        if self.facts is None:
            raise LinkError("eth1 is gone")
        return self.facts

    async def show(self, *networks: AttachedNetwork) -> None:
        self.now += 1
        await self.made.compare(networks, self.now)

    async def refuses(self) -> str:
        with pytest.raises(InputError) as refused:
            await self.made.check()
        assert "\n" not in str(refused.value)
        return str(refused.value)


async def _at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def run(test: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test

    asyncio.run(limited())


@pytest.mark.parametrize(
    ("docker", "is_bridge", "said"),
    [
        (ON_BRIDGE, False, ["driver bridge", "br-0123456789ab", "-d macvlan -o parent=eth1"]),
        (ON_BRIDGE, None, ["docker network rm lan", "-d macvlan -o parent=eth1"]),
        (ON_BRIDGE, True, ["on br-0123456789ab and not on eth1", "-o com.docker.network.bridge.name=eth1"]),
        (replace(LAN, device="eth1.10"), False, ["the parent eth1.10", "-o parent=eth1"]),
        (replace(LAN, device=""), False, ["a parent of its own", "-o parent=eth1"]),
        (replace(LAN, driver="ipvlan"), False, ["one MAC address", "-d macvlan -o parent=eth1"]),
        (replace(ON_BRIDGE, name="a\nb"), False, [r"'a\nb'"]),
    ],
)
def test_a_network_elsewhere_is_told_in_one_line(
    docker: AttachedNetwork, said: list[str], *, is_bridge: bool | None
) -> None:
    line = misplaced(docker, "eth1", is_bridge=is_bridge)
    assert line.isprintable()
    for words in [*said, "nothing is handed out"]:
        assert words in line


@pytest.mark.parametrize(
    "docker", [LAN, replace(ON_BRIDGE, device="eth1"), replace(LAN, driver="weave", device=""), replace(LAN, driver="")]
)
def test_what_was_meant_is_no_mismatch(docker: AttachedNetwork) -> None:
    """Nor is what is not known: the device of a driver that is a plugin."""
    assert misplaced(docker, "eth1", is_bridge=False) == ""


def test_nothing_is_handed_out_until_the_network_is_as_it_was_meant() -> None:
    async def test() -> None:
        place = Place("172.16.42.1/24", bridge=False)
        place.made.expect(place.facts, new=True)
        for _ in range(2):
            await place.show(ON_BRIDGE)
        assert place.mismatches == [await place.refuses()]  # told once
        await place.show(LAN, ON_BRIDGE)
        assert len(place.mismatches) == 1
        await place.show(LAN)
        await place.made.check()
        assert [kind for kind, _ in place.told] == [EventKind.WORKS_AGAIN]

    run(test())


def test_a_mismatch_ends_with_its_network() -> None:
    async def test() -> None:
        place = Place(bridge=False)
        await place.show(ON_BRIDGE)
        assert place.made.mismatch
        await place.show()
        assert not place.made.mismatch

    run(test())


def test_the_bridges_addresses_before_and_after_are_compared() -> None:
    async def test() -> None:
        place = Place("172.16.42.1/24")
        lan = replace(ON_BRIDGE, device="eth1")
        place.made.expect(place.facts, new=True)
        place.facts = link_facts("172.16.42.254/24")
        await place.show(lan)
        line = await place.refuses()
        assert "from 172.16.42.1/24 to 172.16.42.254/24" in line
        assert "ip addr add 172.16.42.1/24 dev eth1" in line
        place.facts = link_facts("172.16.42.1/24")
        await place.show(lan)
        await place.made.check()
        place.facts = link_facts("172.16.42.9/24")  # by hand, later: no doing of the engine's
        await place.show(lan)
        await place.made.check()

    run(test())


def test_the_kernel_is_not_asked_at_every_look() -> None:
    async def test() -> None:
        place = Place("172.16.42.1/24")
        lan = replace(ON_BRIDGE, device="eth1")
        place.made.expect(place.facts, new=True)
        for _ in range(5):
            await place.show(lan)
        assert place.asked == 1

    run(test())


def test_a_bridge_whose_addresses_cannot_be_seen_is_compared_later() -> None:
    async def test() -> None:
        place = Place("172.16.42.1/24")
        lan = replace(ON_BRIDGE, device="eth1")
        place.made.expect(place.facts, new=True)
        place.facts = None
        await place.show(lan)
        await place.made.check()
        place.facts = link_facts()
        await place.show(lan)
        assert "to no address" in await place.refuses()

    run(test())


def test_a_view_from_before_says_nothing() -> None:
    async def test() -> None:
        place = Place(bridge=False)
        place.now = 10.0
        place.made.expect(place.facts, new=True)
        await place.made.compare([ON_BRIDGE], 10.0)
        assert not place.made.mismatch

    run(test())


def test_the_first_container_of_a_new_network_waits_for_the_engines_view(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        place = Place(bridge=False)
        place.made.expect(place.facts, new=True)
        waiting = asyncio.create_task(place.made.check())
        await asyncio.sleep(0)
        await place.show(ON_BRIDGE)
        with pytest.raises(InputError, match="driver bridge"):
            await waiting
        place = Place(bridge=False)
        place.made.expect(place.facts, new=True)
        monkeypatch.setattr(module, "FIRST_LOOK", 0.01)
        await place.made.compare([LAN], 1.0, 2)  # a second network on the pool, which the engine does not show yet
        assert not place.made._shown.is_set()
        await place.made.check()  # an engine that shows nothing
        monkeypatch.setattr(module, "FIRST_LOOK", 1000.0)
        await place.made.check()  # is waited for once
        place.made.expect(place.facts, new=True)
        place.now += 1000.0
        await place.made.check()  # and only soon after the pool was asked for
        place.made.expect(place.facts, new=False)
        await place.made.check()  # and not where it has only started

    run(test())


def test_a_vlans_interface_that_docker_would_make_is_told_in_one_line() -> None:
    with pytest.raises(NoInterfaceError) as refused:
        facts("lo.10")
    line = str(missing("lo.10", refused.value))
    assert "ip link add link lo name lo.10 type vlan id 10" in line
    assert "\n" not in line
    for name, error in (("br9", refused.value), ("lo.x", refused.value), ("lo.10", LinkError("lo.10 is down"))):
        assert missing(name, error) is error
