"""The link on real interfaces: each test makes namespaces of its own, and removes them."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute, netns

from arpipam import arp, link, netlink
from arpipam.errors import ArpipamError, InputError, LinkError
from arpipam.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOREIGN = bytes.fromhex("0200000000aa")
"""A MAC that no interface has: that of a container to come."""
OWN_NAMESPACE = Path("/proc/thread-self/ns/net")
LONG = 20.0
"""Seconds after which a condition that was waited for will not come any more."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
_numbers = itertools.count()


class Space:
    """A network namespace."""

    def __init__(self) -> None:
        self.name = f"link{os.getpid()}n{next(_numbers)}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)

    def ip(self, *lines: str) -> None:
        """Run commands of ip(8) in it."""
        subprocess.run(["ip", "-n", self.name, "-batch", "-"], input="\n".join(lines), text=True, check=True)

    def run(self, *command: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.name, *command], check=True)

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=True)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace meanwhile."""
        before = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            netns.setns(f"/run/netns/{self.name}", flags=0)
            yield
        finally:
            netns.setns(before)
            os.close(before)

    def open(self, interface: str, **how: float | Callable[[str], None]) -> Link:
        with self.entered():
            return Link(interface, **how)  # type: ignore[arg-type]

    def socket(self, interface: str, protocol: int = 0) -> socket.socket:
        """A raw socket on an interface; it hears nothing unless `protocol` says what."""
        with self.entered():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((interface, protocol))
        sock.settimeout(LONG)
        return sock


@pytest.fixture
def make() -> Iterator[Callable[[], Space]]:
    """Makes namespaces that are removed at the end."""
    with contextlib.ExitStack() as stack:

        def one() -> Space:
            space = Space()
            stack.callback(space.remove)
            return space

        yield one


@pytest.fixture
def here(make: Callable[[], Space]) -> Space:
    return make()


@pytest.fixture
def there(make: Callable[[], Space]) -> Space:
    return make()


@pytest.fixture
def wire(here: Space, there: Space) -> None:
    """`near` here and `far` there are the two ends of a cable."""
    here.ip(
        f"link add near type veth peer name far netns {there.name}",
        "addr add 10.7.0.1/24 dev near",
        "link set near up",
    )
    there.ip("addr add 10.7.0.2/24 dev far", "link set far up")


@pytest.fixture
def bridged(here: Space, there: Space, wire: None) -> None:  # noqa: ARG001 - the wire has to be there
    """... and `near` is the port of a bridge."""
    here.ip(
        "addr flush dev near",
        "link add name br0 type bridge",
        "link set near master br0",
        "addr add 10.7.0.1/24 dev br0",
        "link set br0 up",
    )


def number(address: str) -> int:
    return int(IPv4Address(address))


def probe(address: str = "10.7.0.9") -> bytes:
    return arp.probe(FOREIGN, number(address))


def tagged(frame: bytes, tag: int) -> bytes:
    """The frame in 802.1Q's dress: `tag` is priority and VLAN."""
    return frame[:12] + struct.pack("!HH", 0x8100, tag) + frame[12:]


def hear(listener: Link, *, until: bytes) -> list[bytes]:
    """What arrives, up to and with a frame that is known to come."""
    frames: list[bytes] = []
    end = time.monotonic() + LONG
    while until not in frames:
        assert time.monotonic() < end, f"never came; only {frames}"
        listener.wait(0.1)
        frames += listener.receive()
    return frames


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


def test_a_dump_that_changed_on_the_way_is_asked_again() -> None:
    changed = {"header": {"flags": netlink._NLM_F_DUMP_INTR}}
    whole = {"header": {"flags": 0}}
    answers = iter([[changed], [whole, changed], [whole, whole]])
    assert netlink.dump(lambda: next(answers)) == [whole, whole]


# What is heard.


@pytest.mark.usefixtures("bridged")
def test_a_probe_under_a_foreign_mac_gets_its_answer(here: Space) -> None:
    with here.open("br0") as br0:
        assert br0.send(probe("10.7.0.2"))
        end = time.monotonic() + LONG
        answers: list[arp.ArpPacket | arp.Refusal] = []
        while not answers and time.monotonic() < end:
            br0.wait(0.1)
            answers = [arp.dissect(frame) for frame in br0.receive()]
    [answer] = answers
    assert isinstance(answer, arp.ArpPacket)
    assert (answer.operation, answer.sender_ip, answer.destination) == (arp.REPLY, number("10.7.0.2"), FOREIGN)


@pytest.mark.usefixtures("bridged")
def test_hears_other_programs_of_this_host_but_never_itself(here: Space) -> None:
    with here.open("br0") as br0, here.open("br0") as another:
        assert br0.send(probe("10.7.0.8"))
        assert another.send(probe("10.7.0.9"))
        assert hear(br0, until=probe("10.7.0.9")) == [probe("10.7.0.9")]
        assert hear(another, until=probe("10.7.0.8")) == [probe("10.7.0.8")]


@pytest.mark.usefixtures("wire")
def test_hears_arp_without_a_vlan_alone(here: Space, there: Space) -> None:
    priority = tagged(probe("10.7.0.11"), 5 << 13)
    unheard = [
        FOREIGN + FOREIGN + b"\x08\x00" + bytes(40),
        arp.BROADCAST + FOREIGN + b"\x08\x06"[::-1] + bytes(40),
        arp.BROADCAST + FOREIGN + b"\x00\x10" + bytes(16),
        tagged(probe("10.7.0.12"), 7),
        tagged(probe("10.7.0.13"), 5 << 13 | 4094),
    ]
    with there.open("far"), here.open("near") as near, there.socket("far") as far, here.socket("near") as local:
        for sock in (far, local):  # what arrives, and what another program of this host sends
            for frame in [*unheard, probe("10.7.0.10")]:
                sock.send(frame)
            assert hear(near, until=probe("10.7.0.10")) == [probe("10.7.0.10")]
        far.send(priority)
        assert hear(near, until=probe("10.7.0.11")) == [probe("10.7.0.11")]  # VLAN 0 is no VLAN


@pytest.mark.usefixtures("wire")
def test_nothing_gets_past_the_filter_while_the_link_opens(here: Space, there: Space) -> None:
    stop = threading.Event()

    def flood(sock: socket.socket) -> None:
        while not stop.is_set():
            sock.send(FOREIGN + FOREIGN + b"\x08\x00" + bytes(40))

    with there.socket("far") as far:
        thread = threading.Thread(target=flood, args=(far,))
        thread.start()
        try:
            for _ in range(20):
                with here.open("near") as near:
                    assert near.receive() == []
        finally:
            stop.set()
            thread.join()


@pytest.mark.usefixtures("wire")
def test_counts_what_the_kernel_dropped(here: Space, there: Space) -> None:
    frames = [arp.probe(FOREIGN, address) for address in range(2000)]
    with here.open("near") as near, there.open("far") as far:
        near._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        assert False not in [far.send(frame) for frame in frames]
        heard = near.receive()
        assert 0 < len(heard) < len(frames)
        assert near.drops() == len(frames) - len(heard)
        assert near.drops() == 0
        assert far.send(probe())
        assert hear(near, until=probe()) == [probe()]
        assert near.drops() == 0


@pytest.mark.usefixtures("wire")
def test_a_sweep_of_65536_arrives_whole(here: Space, there: Space) -> None:
    frames = [arp.probe(FOREIGN, address) for address in range(65536)]
    with here.open("near") as near, there.open("far") as far:
        assert False not in [near.send(frame) for frame in frames]
        heard: list[bytes] = []
        while batch := far.receive(1000):
            assert len(batch) <= 1000
            heard += batch
        assert [frame for frame in heard if frame[6:12] == FOREIGN] == frames
        assert far.drops() == 0


# Waiting.


@pytest.mark.usefixtures("wire")
def test_waits_for_a_frame_a_byte_or_the_time(here: Space, there: Space) -> None:
    first, second = os.pipe(), os.pipe()
    with here.open("near") as near, there.open("far") as far:
        for timeout in (0.0, -1.0, 0.02):
            near.wait(timeout)  # below 0 is long past, and not for ever
        assert near.receive() == []
        assert far.send(probe())
        near.wait(None)
        assert near.receive() == [probe()]
        for read, write in (first, second, first):
            os.write(write, b"!")
            near.wait(None, read)
            os.read(read, 1)
        os.write(first[1], b"!")
        near.wait(0.02, second[0])  # the one that it was woken by before does not count any more
        started = near.now()
        near.wait(0.05, second[0])
        assert near.now() - started >= 0.05
    for fd in (*first, *second):
        os.close(fd)


@pytest.mark.usefixtures("wire")
def test_a_signal_does_not_end_the_wait(here: Space, there: Space) -> None:
    seen = 0
    with here.open("near") as near, there.open("far") as far:

        def handle(*_: object) -> None:
            nonlocal seen
            seen += 1
            if seen == 5:
                far.send(probe())

        before = signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        try:
            near.wait(LONG)
            frames = near.receive()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert frames == [probe()]
    assert seen >= 5


# Trouble at work.


@pytest.mark.usefixtures("wire")
def test_a_frame_without_room_is_not_sent_and_the_link_goes_on(here: Space, there: Space) -> None:
    here.run("tc", "qdisc", "add", "dev", "near", "root", "tbf", "rate", "8kbit", "burst", "100", "limit", "100")
    with here.open("near") as near, there.socket("far", 0x0806) as far:
        sent = [near.send(arp.probe(FOREIGN, address)) for address in range(20)]
        assert True in sent
        assert False in sent
        here.run("tc", "qdisc", "del", "dev", "near", "root")
        assert near.send(probe())
        far.recv(128)


@pytest.mark.usefixtures("wire")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("link set near down", "near is down; bring it up: ip link set near up"),
        ("link del near", "near is gone"),
        ("link set near netns {there}", "near is gone"),
    ],
)
def test_a_link_that_goes_away(here: Space, there: Space, command: str, said: str) -> None:
    with here.open("near") as near, here.open("near") as another:
        here.ip(command.format(there=there.name))
        near.wait(LONG)
        with pytest.raises(LinkError, match=said):
            near.receive()
        with pytest.raises(LinkError, match=said):
            another.send(probe())
        with pytest.raises(LinkError, match=said):
            near.send(probe())


@pytest.mark.usefixtures("bridged")
def test_leaves_nothing_behind(here: Space) -> None:
    def promiscuous() -> int:
        with here.entered(), IPRoute() as ipr:
            return int(ipr.get_links(ifname="br0")[0].get("promiscuity"))

    def ours() -> tuple[set[str], int, int]:
        files = {fd.name for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
        return files, threading.active_count(), OWN_NAMESPACE.stat().st_ino

    before = ours()
    with here.open("br0") as br0, here.entered():
        assert promiscuous() == 1
        inside = OWN_NAMESPACE.stat().st_ino
        assert br0.plainly_alone()
        assert OWN_NAMESPACE.stat().st_ino == inside
    br0.close()
    with pytest.raises(InputError):
        here.open("none")
    here.ip("link set br0 down")
    with pytest.raises(LinkError):
        here.open("br0")
    assert promiscuous() == 0
    assert ours() == before


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
from arpipam.link import Link
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
        assert br0.send(probe("10.7.0.2"))
        br0.wait(LONG)
        assert len(br0.receive()) == 1  # the very first probe passes
    assert said == ["br0: waiting for spanning tree (STP) to open port near"]


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


# Whether the link plainly has no other end.


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


def test_not_alone_when_the_other_namespace_cannot_be_found(
    bridge: Space, there: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug(bridge, there)
    monkeypatch.setattr(netlink, "_namespaces", lambda *_: {})
    assert not alone(bridge)


def test_waits_for_an_engine_that_is_plugging_in_a_container(
    bridge: Space, there: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.ip("link add name other0 type bridge", "link set other0 up")  # a second network, so the address matters
    steps = iter([(bridge, [f"link set eth0 netns {there.name}"]), (there, ["addr add 10.7.0.2/24 dev eth0"])])
    seen = []

    def look(index: int) -> bool | None:
        seen.append(ends_here(index))
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
