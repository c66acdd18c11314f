"""`arpipam fabric` on real bridges and tunnels: it carries what it should, no frame more, and converges."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.fabric import kernel
from arpipam.fabric.ovsdb import Ovsdb
from tests.support import fabrics
from tests.support.fabrics import (
    Changes,
    Frames,
    declare,
    down,
    edit,
    fabric,
    listening,
    marked_broadcast,
    pending,
    send,
    up,
)
from tests.support.profile import by_day
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from arpipam.lab import Host, Lab
    from arpipam.lab.stations import LabStation

MEGABYTES_10 = 10 * 1024 * 1024
RTM_NEWADDR = 20


# What it carries.


@pytest.mark.parametrize(
    ("count", "tunnel", "openvswitch"),
    [
        (2, "gre", True),
        (3, "gre", True),
        (2, "vxlan", True),
        (3, "vxlan", True),
        (3, "vxlan", False),
        (8, "vxlan", False),
    ],
)
def test_all_stations_reach_each_other_and_a_broadcast_costs_a_frame_for_each_tunnel(
    lab: Lab, count: int, tunnel: str, *, openvswitch: bool
) -> None:
    wire, hosts = declare(lab, count, tunnel=tunnel, openvswitch=openvswitch)
    stations = fabrics.stations_on(lab, hosts)
    assert fabrics.unreachable(stations) == []
    pairs = list(itertools.permutations(stations, 2))
    for sender, receiver in pairs if count <= 3 else pairs[:: len(pairs) // 5]:
        sent, received = fabrics.transfer(sender, receiver, MEGABYTES_10)
        assert received == sent
    with Frames(wire.namespace) as underlay, listening(stations) as listeners:
        for number, (host, station) in enumerate(zip(hosts, stations, strict=True)):
            for namespace, interface, local in ((host.namespace, host.bridge, -1), (station.namespace, "eth0", number)):
                copies, heard = broadcast(namespace, interface, underlay, listeners, local)
                assert copies == count - 1, f"{host.name}, {interface}"
                assert heard == [int(n != local) for n in range(count)], f"{host.name}, {interface}"


def broadcast(
    namespace: Any, interface: str, underlay: Frames, listeners: Sequence[Frames], local: int
) -> tuple[int, list[int]]:
    """Send one frame, then a last one, and wait for that; the first one's copies on the wire, and at each station."""
    frame, marker = marked_broadcast()
    last, end = marked_broadcast()
    others = [listener for number, listener in enumerate(listeners) if number != local]
    send(namespace, interface, frame)
    send(namespace, interface, last)
    until(lambda: all(listener.count(end) for listener in others), "the broadcast")
    return underlay.copies(marker), [listener.count(marker) for listener in listeners]


def test_marked_frames_are_counted(lab: Lab) -> None:
    """The measure itself: with its port no longer isolated, a broadcast comes back to the wire."""
    wire, hosts = declare(lab, 3)
    stations: list[LabStation] = fabrics.stations_on(lab, hosts)
    hosts[1].namespace.run("bridge", "link", "set", "dev", "vx-docker0", "isolated", "off", "hairpin", "on")
    with Frames(wire.namespace) as underlay, listening(stations) as listeners:
        copies, _ = broadcast(stations[0].namespace, "eth0", underlay, listeners, 0)
        until(lambda: underlay.count(b"\x88\xb5") > 4)
    assert copies >= 2
    assert struct.calcsize("=IH") == 6


def test_a_plain_bridge_with_a_nic_in_it_reaches_the_stations_of_the_wire(lab: Lab) -> None:
    wire = lab.wire()
    hosts = [lab.host(f"host{n}", wire, f"172.16.42.{n}/24") for n in (1, 2)]
    lab.start()
    stations = [*fabrics.stations_on(lab, hosts), lab.station("printer", wire, "172.16.42.30/24")]
    assert fabrics.unreachable(stations) == []
    assert up(hosts[0]) == []


def test_the_nic_of_a_plain_bridge_gives_its_address_and_routes_to_the_bridge_and_gets_them_back(lab: Lab) -> None:
    wire = lab.wire()
    host = lab.host("host1", wire, "172.16.42.1/24")
    lab.start(up=False)
    router = lab.station("router", wire, "172.16.42.254/24", "203.0.113.1/32")
    host.namespace.ip(["addr add 172.16.42.1/24 dev uplink", "route add default via 172.16.42.254"])
    before = fabrics.state(host)
    up(host)
    found = fabrics.state(host)
    assert addresses(found, "uplink") == []
    assert addresses(found, "docker0") == ["172.16.42.1/24"]
    assert {(route["dst"], route["dev"]) for route in found["routes"]} == {
        ("default", "docker0"),
        ("172.16.42.0/24", "docker0"),
    }
    assert router.ping("172.16.42.1")
    assert host.command("ping", "-c", "1", "-W", "2", "203.0.113.1").returncode == 0
    assert pending(host) == []
    down(host)
    assert fabrics.state(host) == before


def addresses(found: dict[str, Any], name: str) -> list[str]:
    return [f"{a['local']}/{a['prefixlen']}" for a in found["links"][name]["addr_info"]]


# No storm, in whatever order it comes about.

ORDERS = tuple(itertools.permutations(range(3)))
THREE_ORDERS = (0, 1, 2), (2, 0, 1), (1, 2, 0)
"""In which each host is the first, the second and the last."""


def storm_free(lab: Lab, hosts: list[Host], wire_namespace: Any, orders: Iterable[Sequence[int]], hook: Any) -> None:
    """Bring the hosts up in each order; after each step all stations send a broadcast: a copy for each other host."""
    for host in hosts:
        host.namespace.ip(["link add docker0 type bridge forward_delay 0", "link set docker0 up"])
    stations = fabrics.stations_on(lab, hosts)
    markers: list[bytes] = []

    def after_a_step() -> None:
        for station in stations:
            frame, marker = marked_broadcast()
            markers.append(marker)
            send(station.namespace, "eth0", frame)

    hook(after_a_step)
    for order in orders:
        markers.clear()
        with Frames(wire_namespace) as underlay:
            for number in order:
                up(hosts[number])
            assert fabrics.unreachable(stations) == []
            copies = [underlay.copies(marker) for marker in markers]
            assert len(copies) > 3 * len(hosts)
            assert max(copies) == len(hosts) - 1, f"order {order}"
            assert len(underlay.all()) < len(copies) * len(hosts) + 2000
        for number in order:
            down(hosts[number])


def test_no_storm_in_any_order_of_three_hosts_nor_half_way_through_with_vxlan(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, hosts = declare(lab, 3, up=False)

    def hook(after: Callable[[], None]) -> None:
        monkeypatch.setattr(kernel, "apply", followed_by(kernel.apply, after))

    storm_free(lab, hosts, wire.namespace, by_day(ORDERS, *THREE_ORDERS), hook)


def test_no_storm_in_any_order_of_three_hosts_nor_half_way_through_with_open_vswitch(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, hosts = declare(lab, 3, tunnel="gre", openvswitch=True, up=False)

    def hook(after: Callable[[], None]) -> None:
        monkeypatch.setattr(kernel, "apply", followed_by(kernel.apply, after))
        monkeypatch.setattr(Ovsdb, "commit", followed_by(Ovsdb.commit, after))

    storm_free(lab, hosts, wire.namespace, THREE_ORDERS, hook)


def followed_by(function: Callable[..., Any], after: Callable[[], None]) -> Callable[..., Any]:
    def both(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        after()
        return result

    return both


# Converging.


@pytest.mark.parametrize(("tunnel", "openvswitch"), [("gre", True), ("vxlan", True), ("vxlan", False)])
def test_a_second_up_changes_nothing(lab: Lab, tunnel: str, *, openvswitch: bool) -> None:
    _, [host, _] = declare(lab, 2, tunnel=tunnel, openvswitch=openvswitch)
    lab.station("container", host, "172.16.42.20/24")
    configuration = next_cfg(host)
    with Changes(host.namespace) as changes:
        assert up(host) == []
        done = fabric(host, "up")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert changes.seen() == {}
        assert next_cfg(host) == configuration
        host.namespace.ip(["addr add 198.51.100.1/32 dev docker0"])
        assert changes.seen()[RTM_NEWADDR] == 1  # so it would have been seen


def next_cfg(host: Host) -> str:
    return "" if host.openvswitch is None else host.openvswitch.vsctl("get", "Open_vSwitch", ".", "next_cfg")


def test_a_tunnel_port_with_other_options_is_mended(lab: Lab) -> None:
    _, hosts = declare(lab, 2, tunnel="gre", openvswitch=True)
    switch = hosts[0].openvswitch
    assert switch is not None
    stations = fabrics.stations_on(lab, hosts)
    switch.vsctl("set", "Interface", "gre-host2", "options:remote_ip=192.168.122.77", "options:key=3")
    switch.vsctl("set", "Port", "gre-host2", "protected=false")
    done = fabric(hosts[0], "plan")
    assert done.returncode == 1
    assert sorted(done.stdout.splitlines()) == [
        "~ ovs Interface gre-host2 options: key=3 remote_ip=192.168.122.77 -> remote_ip=192.168.122.2",
        "~ ovs Port gre-host2 protected: off -> on",
    ]
    assert fabric(hosts[0], "up").returncode == 0
    assert pending(hosts[0]) == []
    until(lambda: not fabrics.unreachable(stations))


def test_a_vxlan_link_with_another_network_identifier_is_mended(lab: Lab) -> None:
    _, hosts = declare(lab, 2)
    stations = fabrics.stations_on(lab, hosts)
    for host in hosts:
        edit(host, 'tunnel = "vxlan"', 'tunnel = "vxlan"\nvni = 4242')
    up(hosts[0])
    assert not stations[0].ping("172.16.42.21")  # only one of them has it
    up(hosts[1])
    until(lambda: not fabrics.unreachable(stations))
    assert "vxlan id 4242" in hosts[0].namespace.run("ip", "-d", "link", "show", "vx-docker0")
    assert pending(hosts[0]) == []


@pytest.mark.parametrize(("tunnel", "openvswitch"), [("gre", True), ("vxlan", False)])
def test_a_peer_that_is_no_longer_in_the_file_is_pruned_and_comes_back(
    lab: Lab, tunnel: str, *, openvswitch: bool
) -> None:
    _, hosts = declare(lab, 3, tunnel=tunnel, openvswitch=openvswitch)
    stations = fabrics.stations_on(lab, hosts)
    declared = hosts[0].fabric_file.read_text()
    fabrics.without_host(hosts[0], "host3")
    assert len(up(hosts[0])) == 1
    assert "192.168.122.3" not in tunnels(hosts[0])
    assert "192.168.122.2" in tunnels(hosts[0])
    assert stations[0].ping("172.16.42.21")
    hosts[0].fabric_file.write_text(declared)
    assert len(up(hosts[0])) == 1
    assert "192.168.122.3" in tunnels(hosts[0])
    until(lambda: not fabrics.unreachable(stations))


def tunnels(host: Host) -> str:
    if host.openvswitch is not None:
        return host.openvswitch.vsctl("show")
    entries = host.namespace.run("bridge", "fdb", "show", "dev", "vx-docker0").splitlines()
    return "\n".join(entry for entry in entries if entry.startswith("00:00:00:00:00:00"))


def test_a_fabric_of_one_host_alone_comes_up_and_goes(lab: Lab) -> None:
    _, [host] = declare(lab, 1, tunnel="gre", openvswitch=True, up=False)
    before = fabrics.state(host)
    up(host)
    assert pending(host) == []
    down(host)
    assert fabrics.state(host) == before
