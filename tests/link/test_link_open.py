"""A link that is opened: what the kernel tells of it, what cannot be opened, and what has to be waited for."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from ipaddress import IPv4Interface, IPv4Network
from typing import TYPE_CHECKING

import pytest

from arpipam.errors import ArpipamError, InputError, LinkError
from arpipam.link import netlink
from arpipam.link import socket as link
from arpipam.link.socket import Link
from tests.support.link_spaces import LONG, NEEDS_ROOT, Space, number, probe

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = NEEDS_ROOT


# What the kernel tells.


@pytest.mark.usefixtures("wire")
def test_knows_interface_and_host(here: Space) -> None:
    here.ip(
        "link set lo up",
        "link set near address 02:00:00:00:00:01",
        "addr add 10.7.1.1/25 dev near",
        "addr add 10.50.0.1/32 dev lo",
        "link add other address 02:00:00:00:00:02 type veth peer name rehto",
        "addr add 10.8.0.1/24 dev other",
        "link set other up",
        "link set rehto up",
        "route add default via 10.7.0.254",
        "route add 10.60.0.0/16 nexthop via 10.7.0.253 dev near nexthop via 10.8.0.253 dev other",
        "route add 10.61.0.0/16 via 10.7.0.254 table 77",
        "route add 10.62.0.0/16 via 10.8.0.254",
        "neigh add 10.7.0.50 lladdr 02:00:00:00:00:50 nud stale dev near",
        "neigh add 10.7.0.51 lladdr 02:00:00:00:00:51 nud permanent dev near",
        "neigh add 10.7.0.52 nud failed dev near",
        "neigh add 10.8.0.53 lladdr 02:00:00:00:00:53 nud stale dev other",
    )
    with here.open("near") as near:
        assert near.interface == "near"
        assert near.mac == bytes.fromhex("020000000001")
        with here.entered():
            assert near.index == socket.if_nametoindex("near")
        assert near.prefixes == (IPv4Interface("10.7.0.1/24"), IPv4Interface("10.7.1.1/25"))
        assert near.local_addresses >= {number(a) for a in ("10.7.0.1", "10.7.1.1", "10.50.0.1", "10.8.0.1")}
        assert number("10.7.0.2") not in near.local_addresses
        assert near.local_macs >= {near.mac, bytes.fromhex("020000000002")}
        assert len(near.local_macs) == 3  # rehto's is the third; lo has none
        assert sorted(near.gateways) == [number("10.7.0.253"), number("10.7.0.254")]
        assert sorted(near.neighbours) == [number("10.7.0.50"), number("10.7.0.51")]


SUBNETS = [
    ("10.7.0.0/24", ["near"]),
    ("10.7.0.0/25", ["near"]),  # a part of its network
    ("10.7.0.64/26", ["near"]),  # though its own address is in another part
    ("10.0.0.0/8", ["near", "other"]),  # around both
    ("10.9.0.0/24", []),
    ("10.50.0.0/24", []),  # lo carries no ARP,
    ("10.51.0.0/24", []),  # nor does what is told not to
]


@pytest.mark.usefixtures("wire")
@pytest.mark.parametrize(("subnet", "found"), SUBNETS)
def test_finds_the_interfaces_of_a_subnet(here: Space, subnet: str, found: list[str]) -> None:
    here.ip(
        "link set lo up",
        "addr add 10.50.0.1/24 dev lo",
        "link add other type veth peer name rehto",
        "addr add 10.8.0.1/24 dev other",
        "addr add 10.8.0.2/24 dev other",  # two addresses are one interface
        "link add mute type veth peer name etum",
        "addr add 10.51.0.1/24 dev mute",
        "link set mute arp off",
    )
    with here.entered():
        assert netlink.on_subnet(IPv4Network(subnet)) == found


# What cannot be opened.


@pytest.mark.parametrize(
    ("make_it", "name", "expected"),
    [
        ([], "none", InputError("no interface 'none' here; choose one of: br0, tap0")),
        ([], "", InputError("no interface '' here")),
        ([], "port0", InputError("port0 is a port of br0; use the bridge: br0")),
        (["link set lo up"], "lo", LinkError("lo carries no ARP")),
        (["link set tap0 up", "link set tap0 arp off"], "tap0", LinkError("tap0 carries no ARP")),
        (["tuntap add dev tun0 mode tun", "link set tun0 arp on up"], "tun0", LinkError("tun0 is no Ethernet .*65534")),
        ([], "tap0", LinkError("tap0 is down; bring it up: ip link set tap0 up")),
        (["link set br0 down"], "br0", LinkError("br0 is down; bring it up: ip link set br0 up")),
        (["link set tap0 up"], "tap0", LinkError("tap0 has no carrier: plug it in")),
        ([], "br0", LinkError("br0 has no carrier: plug it in.* of a port of it")),
    ],
)
def test_says_why_it_cannot_be_opened(
    here: Space, monkeypatch: pytest.MonkeyPatch, make_it: list[str], name: str, expected: ArpipamError
) -> None:
    monkeypatch.setattr(link, "_SETTLE", 0.1)
    here.ip(
        "tuntap add dev tap0 mode tap",
        "link add name br0 type bridge",
        "link set br0 up",
        "tuntap add dev port0 mode tap",
        "link set port0 master br0",
        "link set port0 up",  # it has no carrier, so its bridge has none either
        *make_it,
    )
    with pytest.raises(type(expected), match=str(expected)) as caught:
        here.open(name)
    assert "\n" not in str(caught.value)


def test_no_interface_at_all(here: Space) -> None:
    with pytest.raises(InputError, match="none that could be used"):
        here.open("docker0")


OPEN = """
import sys
from arpipam.errors import ArpipamError
from arpipam.link.socket import Link
try:
    with Link("near") as near:
        print(near.interface)
except ArpipamError as error:
    print(error)
"""


@pytest.mark.usefixtures("wire")
@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ("-net_raw", "near: raw frames are not permitted; run as root or with CAP_NET_RAW"),
        ("-net_admin", "near"),  # no more is needed
    ],
)
def test_needs_cap_net_raw_alone(here: Space, lacking: str, said: str) -> None:
    command = ["setpriv", "--bounding-set", lacking, sys.executable, "-c", OPEN]
    with here.entered():
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (said + "\n", "")


@pytest.mark.usefixtures("wire")
def test_an_interface_that_vanishes_while_it_is_opened(here: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(_: object) -> None:
        monkeypatch.undo()
        here.ip("link del near")

    for place, name in ((Link, "_open"), (Link, "_settle")):
        before = getattr(place, name)

        def wrapped(self: Link, *args: object, before: Callable[..., object] = before) -> object:
            vanish(self)
            return before(self, *args)

        monkeypatch.setattr(place, name, wrapped)
        with pytest.raises(LinkError, match="near is gone"):
            here.open("near")
        here.ip("link add near type veth peer name again", "link set near up", "link set again up")


# Bridges that are not ready.


@pytest.mark.usefixtures("bridged")
def test_waits_for_spanning_tree(here: Space) -> None:
    here.ip("link set br0 type bridge forward_delay 200 stp_state 1", "link set near down", "link set near up")
    said: list[str] = []
    with here.open("br0", progress=said.append) as br0:
        assert br0.send([probe("10.7.0.2")])
        br0.wait(LONG)
        assert len(br0.receive()) == 1  # the very first probe passes
    assert said == ["br0: waiting for spanning tree (STP) to open port near"]


@pytest.mark.usefixtures("bridged")
def test_what_the_caller_makes_of_the_progress_hinders_nothing(here: Space, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: str) -> None:
        raise BrokenPipeError

    here.ip("link set br0 type bridge stp_state 1", "link set near down", "link set near up")
    with pytest.raises(LinkError, match="has held port near for 1 s"):
        here.open("br0", progress=fails, stp_timeout=1.0)
    assert "told of the progress" in caplog.text


@pytest.mark.usefixtures("bridged")
def test_names_the_port_that_spanning_tree_holds(here: Space) -> None:
    here.ip("link set br0 type bridge stp_state 1", "link set near down", "link set near up")
    with pytest.raises(LinkError, match=r"br0: spanning tree \(STP\) has held port near for 0.2 s"):
        here.open("br0", stp_timeout=0.2)


@pytest.mark.usefixtures("bridged")
def test_a_container_that_starts_does_not_disturb(here: Space, there: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    there.ip("link set far down")  # as in the moment before an engine brings it up
    sleep = time.sleep

    def bring_up(seconds: float) -> None:
        there.ip("link set far up")
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", bring_up)
    here.open("br0").close()
