"""What a link knows while it is open: what the kernel told last, which ways lead beyond this host, and who is there."""

from __future__ import annotations

from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.errors import LinkError, UnknownError
from arpipam.link import news
from arpipam.link.loop import Loop
from arpipam.link.task import Run
from arpipam.protocol import arp
from arpipam.protocol.outbox import Outbox
from tests.support.link_spaces import NEEDS_ROOT, Space, number
from tests.support.until import until
from tests.support.virtual import MAC, OWN, VirtualLink

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.link.socket import Link

pytestmark = NEEDS_ROOT

OTHER = bytes.fromhex("020000000077")


def told(link: Link, condition: Callable[[], bool], what: str) -> None:
    """Take in the news until it holds."""

    def holds() -> bool:
        link.news()
        return condition()

    until(holds, what)


@pytest.mark.usefixtures("wire")
def test_mac_and_addresses_are_those_of_now(here: Space) -> None:
    with here.open("near") as near:
        macs, addresses = near.local_macs, near.local_addresses
        assert not near.news()
        here.ip("link set near address 02:00:00:00:00:77", "addr add 10.7.0.9/24 dev near")
        assert near.news()
        assert not near.news()
        assert near.mac == OTHER
        assert near.prefixes == (IPv4Interface("10.7.0.1/24"), IPv4Interface("10.7.0.9/24"))
        assert (OTHER in macs, number("10.7.0.9") in addresses) == (True, True)
        here.ip("addr del 10.7.0.1/24 dev near")  # the second one goes with it, as sysctl promote_secondaries is off
        assert near.news()
        assert number("10.7.0.1") not in {int(prefix.ip) for prefix in near.prefixes}
        assert number("10.7.0.1") not in addresses
        here.ip("link add more type veth peer name erom")
        assert not near.news()  # it is no matter of this interface, ...
        assert len(macs) == 3  # ... but it is this host


@pytest.mark.usefixtures("wire")
def test_a_link_that_is_removed_is_told_as_gone_not_as_another_address(here: Space) -> None:
    with here.open("near") as near:
        here.ip("link del near")  # its addresses leave first
        assert not near.news()
        assert near.prefixes == ()
        with pytest.raises(LinkError, match="near is gone"):
            near.receive(1)


@pytest.mark.usefixtures("wire")
def test_of_two_addresses_in_one_network_the_first_one_is_primary(here: Space) -> None:
    here.ip("addr add 10.7.0.8/24 dev near", "addr add 10.9.0.1/24 dev near")
    with here.open("near") as near:
        wanted = tuple(map(IPv4Interface, ("10.7.0.1/24", "10.9.0.1/24", "10.7.0.8/24")))
        assert near.prefixes == wanted


@pytest.mark.usefixtures("wire")
def test_news_that_were_too_many_are_asked_for_anew(here: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "_BUFFER", 2304)  # the least that the kernel gives
    with here.open("near") as near:
        for round_ in range(5):
            here.ip(
                *(f"link set near mtu {1400 + n}" for n in range(20)),
                f"link set near address 02:00:00:00:00:{round_:02x}",
            )
        here.ip("link set near address 02:00:00:00:00:77")
        told(near, lambda: near.mac == OTHER, "the last MAC")


# Carrier, and ways beyond this host.


@pytest.mark.usefixtures("wire")
def test_a_cable_that_is_pulled_and_put_back(here: Space, there: Space) -> None:
    with here.open("near") as near:
        assert (near.closed, near.openings) == ("", 0)
        there.ip("link set far down")
        told(near, lambda: bool(near.closed), "no carrier")
        assert near.closed == "near has no carrier: plug it in"
        there.ip("link set far up")
        told(near, lambda: not near.closed, "a carrier")
        assert near.openings == 1


def contained(bridge: Space, container: Space, port: str, address: str) -> None:
    """A container on the bridge, as an engine plugs it in."""
    bridge.ip(
        f"link add {port} type veth peer name eth0 netns {container.name}",
        f"link set {port} master br0",
        f"link set {port} up",
    )
    container.ip(f"addr add {address} dev eth0", "link set eth0 up")


@pytest.fixture
def bridge(here: Space, there: Space) -> Space:
    """A bridge whose uplink leads to another bridge, with a station there at 10.7.0.2."""
    here.ip(
        "link add name br0 address 02:00:00:00:00:01 type bridge",
        f"link add uplink type veth peer name far netns {there.name}",
        "link set uplink master br0",
        "addr add 10.7.0.1/24 dev br0",
        "link set br0 up",
        "link set uplink up",
    )
    there.ip(
        "link add name br1 type bridge",
        "link set far master br1",
        "link set far up",
        "addr add 10.7.0.2/24 dev br1",
        "link set br1 up",
    )
    return here


def ask(link: Link, address: str) -> bytes:
    """The MAC that answers for an address, through this very link."""
    link.send([arp.request(link.mac, number("10.7.0.1"), number(address))])
    found: list[bytes] = []

    def answered() -> bool:
        link.wait(0.05)
        packets = [arp.dissect(frame) for frame in link.receive()]
        found.extend(
            packet.sender_mac
            for packet in packets
            if isinstance(packet, arp.ArpPacket) and packet.sender_ip == number(address)
        )
        return bool(found)

    until(answered, f"an answer from {address}")
    return found[0]


def test_a_container_of_this_host_is_not_beyond_it(bridge: Space, make: Callable[[], Space]) -> None:
    contained(bridge, make(), "before", "10.7.0.3/24")
    with bridge.open("br0") as br0, bridge.entered():
        contained(bridge, make(), "after", "10.7.0.4/24")
        assert not br0.outward(ask(br0, "10.7.0.3"))
        assert br0.outward(ask(br0, "10.7.0.2"))
        assert not br0.outward(ask(br0, "10.7.0.4"))  # plugged in since
        assert br0.outward(OTHER)  # of whom the bridge knows nothing


def test_a_bridge_without_an_open_way_says_so_though_a_container_is_on_it(
    bridge: Space, there: Space, make: Callable[[], Space]
) -> None:
    contained(bridge, make(), "local", "10.7.0.3/24")
    with bridge.open("br0") as br0, bridge.entered():
        assert br0.closed == ""
        there.ip("link set far down")
        told(br0, lambda: bool(br0.closed), "no way out")
        assert br0.closed.startswith("br0: no port that leads beyond this host (uplink) has a carrier and forwards")
        there.ip("link set far up")
        told(br0, lambda: not br0.closed, "a way out")
        assert br0.openings == 1


def test_a_container_that_comes_and_goes_opens_no_way(bridge: Space, make: Callable[[], Space]) -> None:
    with bridge.open("br0") as br0, bridge.entered():
        contained(bridge, make(), "local", "10.7.0.3/24")
        told(br0, lambda: not br0.outward(ask(br0, "10.7.0.3")), "the container is known")
        bridge.ip("link del local")
        br0.news()
        assert (br0.openings, br0.closed) == (0, "")


def test_a_second_way_opens_when_it_is_plugged_in(bridge: Space) -> None:
    with bridge.open("br0") as br0:
        bridge.ip("tuntap add dev tap0 mode tap", "link set tap0 master br0", "link set tap0 up")
        br0.news()
        assert br0.openings == 0  # it has no carrier
        bridge.ip(
            "link add second type veth peer name dnoces",
            "link set dnoces up",
            "link set second master br0",
            "link set second up",
        )
        told(br0, lambda: br0.openings == 1, "a second way")


def test_a_port_that_spanning_tree_holds_is_no_open_way(bridge: Space) -> None:
    with bridge.open("br0") as br0:
        bridge.ip(
            "link set br0 type bridge stp_state 1 forward_delay 200", "link set uplink down", "link set uplink up"
        )
        told(br0, lambda: bool(br0.closed), "held")
        told(br0, lambda: not br0.closed, "forwards")


def test_a_forwarding_table_whose_news_were_lost_is_asked_for(
    bridge: Space, make: Callable[[], Space], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arpipam.link.forwarding._BUFFER", 2304)
    contained(bridge, make(), "local", "10.7.0.3/24")
    with bridge.open("br0") as br0, bridge.entered():
        mac = ask(br0, "10.7.0.3")
        br0.send([bytes(6) + b"\2" + n.to_bytes(5, "big") + b"\x08\x06" + bytes(46) for n in range(200)])
        bridge.run("bridge", "fdb", "add", "02:00:00:00:00:99", "dev", "uplink", "master", "static")
        br0.look()
        assert not br0.outward(mac)


# What the loop does about it.


class Asker:
    """A machine with a question that waits to leave."""

    interest = None
    deadline = None
    done = False

    def __init__(self) -> None:
        self.outbox = Outbox()

    def outboxes(self) -> list[Outbox]:
        return [self.outbox]


def asking(loop: Loop, sender: tuple[bytes, int] | None) -> Run[Any]:
    task: Run[Any] = Run(Asker())
    task.sender = sender
    loop.run(task)
    return task


@pytest.mark.parametrize("sender", [(OTHER, OWN), (MAC, OWN + 1)])
def test_a_search_from_what_is_not_the_interfaces_own_never_starts(sender: tuple[bytes, int]) -> None:
    loop = Loop(VirtualLink(), 1_000, threaded=False)
    wrong, right = asking(loop, sender), asking(loop, (MAC, OWN))
    loop.turn()
    with pytest.raises(UnknownError, match="virtual0: its own MAC or address changed during the search; try again"):
        wrong.future.result(0)
    assert not right.future.done()
    loop.close()


def test_a_search_ends_when_the_interface_has_another_mac() -> None:
    link = VirtualLink()
    loop = Loop(link, 1_000, threaded=False)
    heard: list[float] = []
    loop.follow(lambda: heard.append(link.time))
    search, no_matter = asking(loop, (MAC, OWN)), asking(loop, None)
    loop.turn()
    assert heard == []
    link.mac, link.moved = OTHER, True
    loop.turn()
    assert len(heard) == 1
    assert isinstance(search.future.exception(0), UnknownError)
    assert not no_matter.future.done()
    loop.close()
