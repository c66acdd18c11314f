"""Whether a link plainly has no other end."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from arpipam.link import netlink
from arpipam.link import socket as link
from arpipam.link.socket import Link
from tests.support.link_spaces import LONG, NEEDS_ROOT, Space

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.link.rtnetlink import Questions

pytestmark = NEEDS_ROOT
_numbers = itertools.count()


@pytest.fixture
def bridge(here: Space) -> Space:
    here.ip("link add name br0 type bridge", "addr add 10.7.0.1/24 dev br0", "link set br0 up")
    return here


def plug(bridge: Space, container: Space, address: str = "10.7.0.2/24", name: str = "eth0") -> None:
    """As an engine does with a container."""
    port = f"v{next(_numbers)}"
    bridge.ip(
        f"link add {port} type veth peer name {name} netns {container.name}",
        f"link set {port} master br0",
        f"link set {port} up",
    )
    container.ip(*([f"addr add {address} dev {name}"] if address else []), f"link set {name} up")


def alone(space: Space, interface: str = "br0") -> bool:
    with space.entered(), Link(interface) as opened:
        return opened.plainly_alone()


def test_alone_without_ports(bridge: Space) -> None:
    assert alone(bridge)


def test_alone_after_the_last_container_went(bridge: Space, there: Space) -> None:
    plug(bridge, there)
    there.ip("link del eth0")
    assert alone(bridge)  # such a bridge has no carrier any more


def test_alone_with_containers(bridge: Space, make: Callable[[], Space]) -> None:
    first, second, third = make(), make(), make()
    plug(bridge, first)
    plug(bridge, second, "10.7.0.3/24")
    plug(bridge, third, "")  # address to come, and nowhere else to go
    assert alone(bridge)
    plug(bridge, second, "10.7.0.4/24", name="eth1")  # two NICs and an address on each
    second.ip("link add name docker0 type bridge", "addr add 172.17.0.1/16 dev docker0", "link set docker0 up")
    assert alone(bridge)


def test_alone_with_a_container_that_only_a_process_keeps(bridge: Space, make: Callable[[], Space]) -> None:
    container = make()
    plug(bridge, container)
    keeper = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{container.name}", "sh", "-c", "echo; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with keeper:
        assert keeper.stdout is not None
        keeper.stdout.readline()
        subprocess.run(["umount", f"/run/netns/{container.name}"], check=True)
        assert alone(bridge)
        keeper.communicate(b"\n")


def test_not_alone_on_what_is_no_bridge(here: Space, wire: None) -> None:  # noqa: ARG001 - the wire has to be there
    assert not alone(here, "near")


@pytest.mark.parametrize(
    "beyond",
    [
        ["link add name br1 type bridge", "link set br1 up", "link set eth0 master br1"],
        ["link add sub link eth0 type macvlan mode bridge"],
        ["link set eth0 promisc on"],
        ["addr flush dev eth0", "link add more0 type veth peer name more1", "link set more0 up"],
    ],
    ids=["bridged", "macvlan", "promiscuous", "no address and another way out"],
)
def test_not_alone_when_a_container_may_lead_further(
    bridge: Space, make: Callable[[], Space], beyond: list[str]
) -> None:
    first, second = make(), make()
    plug(bridge, first)
    plug(bridge, second, "10.7.0.3/24")
    assert alone(bridge)
    second.ip(*beyond)
    assert not alone(bridge)


@pytest.mark.parametrize(
    "more",
    [
        ["tuntap add dev tap0 mode tap", "link set tap0 master br0", "link set tap0 up"],
        ["link add vx0 type vxlan id 7 remote 10.9.9.9 dstport 4789", "link set vx0 master br0", "link set vx0 up"],
        ["link add a0 type veth peer name b0", "link set a0 master br0", "link set a0 up", "link set b0 up"],
        ["link add sub link br0 type macvlan mode bridge"],
    ],
    ids=["tap", "tunnel", "both ends here", "macvlan on the bridge"],
)
def test_not_alone_when_the_bridge_may_lead_further(bridge: Space, there: Space, more: list[str]) -> None:
    plug(bridge, there)
    assert alone(bridge)
    bridge.ip(*more)
    assert not alone(bridge)


@pytest.mark.parametrize(("capabilities", "said"), [("+net_raw,+net_admin", "True"), ("+net_raw", "False")])
def test_what_a_process_may_know_that_has_few_capabilities(
    bridge: Space, there: Space, capabilities: str, said: str
) -> None:
    """As the agent under its unit; and as somebody who may not ask for other namespaces, and so has to doubt."""
    plug(bridge, there)
    script = "from arpipam.link.socket import Link; print(Link('br0').plainly_alone())"
    limited = ["setpriv", f"--bounding-set=-all,{capabilities}", sys.executable, "-c", script]
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{bridge.name}", *limited], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == said


def test_waits_for_an_engine_that_is_plugging_in_a_container(
    bridge: Space, there: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.ip("link add name other0 type bridge", "link set other0 up")  # a second network, so the address matters
    steps = iter([(bridge, [f"link set eth0 netns {there.name}"]), (there, ["addr add 10.7.0.2/24 dev eth0"])])
    seen = []

    def look(index: int, questions: Questions) -> bool | None:
        seen.append(ends_here(index, questions))
        return seen[-1]

    def engine(_: float) -> None:
        space, lines = next(steps)
        space.ip(*lines)

    ends_here = netlink.ends_here
    with bridge.entered(), Link("br0") as br0:
        bridge.ip("link add port type veth peer name eth0", "link set port master br0", "link set port up")
        monkeypatch.setattr(link, "_PATIENCE", LONG)
        monkeypatch.setattr(netlink, "ends_here", look)
        monkeypatch.setattr(time, "sleep", engine)
        assert br0.plainly_alone()
    assert seen == [None, None, True]
