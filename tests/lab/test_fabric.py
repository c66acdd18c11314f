"""`arpipam fabric` on real bridges and tunnels: it carries what it should, no frame more, and goes without a trace."""

from __future__ import annotations

import itertools
import json
import signal
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from arpipam import LinkError
from arpipam.fabric import kernel
from arpipam.fabric.ovsdb import Database
from tests.lab import fabrics
from tests.lab.fabrics import (
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
    until,
    up,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from arpipam.lab import Host, Lab
    from arpipam.lab.stations import Station

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

    storm_free(lab, hosts, wire.namespace, itertools.permutations(range(3)), hook)


def test_no_storm_in_any_order_of_three_hosts_nor_half_way_through_with_open_vswitch(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, hosts = declare(lab, 3, tunnel="gre", openvswitch=True, up=False)

    def hook(after: Callable[[], None]) -> None:
        monkeypatch.setattr(kernel, "apply", followed_by(kernel.apply, after))
        monkeypatch.setattr(Database, "commit", followed_by(Database.commit, after))

    storm_free(lab, hosts, wire.namespace, ([0, 1, 2], [2, 0, 1], [1, 2, 0]), hook)


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


# Taking it down.


def test_down_refuses_while_a_station_is_on_a_bridge_that_was_made(lab: Lab) -> None:
    _, hosts = declare(lab, 2)
    container = lab.station("container", hosts[0], "172.16.42.20/24")
    before = fabrics.state(hosts[0])
    done = fabric(hosts[0], "down")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr == (
        "arpipam: docker0 is still in use by m0; stop the containers and machines on it, then try again\n"
    )
    assert fabrics.state(hosts[0]) == before
    assert container.ping("172.16.42.2")
    hosts[0].namespace.ip(["link delete m0"])
    assert fabric(hosts[0], "down").returncode == 0


def test_down_refuses_while_somebody_has_a_port_on_the_open_vswitch_bridge_that_was_made(lab: Lab) -> None:
    _, [host] = declare(lab, 1, tunnel="gre", openvswitch=True)
    assert host.openvswitch is not None
    host.openvswitch.vsctl("add-port", "br0", "machine", "--", "set", "Interface", "machine", "type=internal")
    done = fabric(host, "down")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "arpipam: br0 is still in use by machine; stop the containers and machines on it, then try again\n"
    )
    host.openvswitch.vsctl("del-port", "br0", "machine")
    assert fabric(host, "down").returncode == 0


@pytest.mark.parametrize(("tunnel", "openvswitch"), [("gre", True), ("vxlan", True), ("vxlan", False)])
def test_down_leaves_the_host_as_it_was(lab: Lab, tunnel: str, *, openvswitch: bool) -> None:
    wire, hosts = declare(lab, 2, tunnel=tunnel, openvswitch=openvswitch, up=False)
    host = hosts[0]
    lab.station("router", wire, "192.168.122.254/24", "203.0.113.1/32")
    furnish(host)
    before = fabrics.state(host)
    up(host)
    up(hosts[1])
    assert fabrics.state(host) != before
    underlay = "br-phy" if openvswitch else "uplink"
    assert json.loads(host.namespace.run("ip", "-j", "route", "show", "default"))[0]["dev"] == underlay
    assert host.command("ping", "-c", "1", "-W", "2", "203.0.113.1").returncode == 0
    assert host.command("ping", "-c", "1", "-W", "2", "172.16.42.2").returncode == 0
    done = fabric(host, "down")
    assert (done.returncode, done.stderr) == (0, "")
    assert fabrics.state(host) == before
    assert host.command("ping", "-c", "1", "-W", "2", "203.0.113.1").returncode == 0
    done = fabric(host, "down")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list((host.directory / "state").glob("*.journal")) == []


def furnish(host: Host) -> None:
    """What a host has beside the fabric: routes over the underlay's NIC, another bridge, a firewall."""
    host.namespace.ip(
        [
            "addr add 192.168.122.101/24 dev uplink",
            "addr add 10.9.8.7/16 brd 10.9.255.255 dev uplink",
            "route add default via 192.168.122.254 metric 50",
            "route add 198.51.100.0/24 via 192.168.122.254",
            "route add 198.51.101.0/24 dev uplink",
            "link add other type bridge",
            "addr add 10.1.1.1/24 dev other",
            "link set other up",
        ]
    )
    rules = "table inet mine { chain input { type filter hook input priority 0; policy accept; tcp dport 9 drop; }; }"
    host.namespace.run("nft", "-f", "-", input=rules)


def test_a_docker0_that_was_there_keeps_its_stations_connected_and_is_as_before_after_down(lab: Lab) -> None:
    for tunnel, openvswitch, names in (("vxlan", False, "ab"), ("gre", True, "cd")):
        wire = lab.wire()
        host, other = (
            lab.host(
                f"{name}{number}",
                address=f"172.16.42.{number}/24",
                underlay=wire,
                underlay_address=f"192.168.122.{number}/24",
                tunnel=tunnel,
                openvswitch=openvswitch,
            )
            for number, name in enumerate(names, 1)
        )
        lab.start(up=False)
        host.namespace.ip(
            [
                "link add docker0 mtu 1480 type bridge forward_delay 0",
                "addr add 172.16.42.1/24 brd 172.16.42.255 dev docker0",
                "addr add 172.16.43.1/24 dev docker0",
                "link set docker0 up",
            ]
        )
        stations = [lab.station(f"{name}s", host, f"172.16.42.{20 + n}/24") for n, name in enumerate(names)]
        assert stations[0].ping("172.16.42.21")
        assert stations[0].ping("172.16.42.1")
        before = fabrics.state(host)
        pings = ["ping", "-i", "0.02", "-W", "2", "-c", "1000000"]
        running = [stations[0].namespace.enter(*pings, address) for address in ("172.16.42.1", "172.16.42.21")]
        processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for words in running]
        try:
            up(other)
            up(host)
            assert stations[1].ping("172.16.42.2")
            assert fabrics.state(host)["links"]["docker0"]["address"] == before["links"]["docker0"]["address"]
            down(host)
        finally:
            for process in processes:
                process.send_signal(signal.SIGINT)
            outputs = [process.communicate(timeout=fabrics.LONG)[0] for process in processes]
        for said in outputs:
            sent, _, received = said.partition(" packets transmitted, ")
            assert int(received.split()[0]) >= int(sent.split()[-1]) - 1, said[-300:]  # the last may be on its way
            assert int(sent.split()[-1]) > 5
        assert fabrics.state(host) == before


# What goes wrong.


def test_a_link_of_somebody_else_in_the_way_is_named_and_nothing_is_done(lab: Lab) -> None:
    _, [host, _] = declare(lab, 2, up=False)
    host.namespace.ip(["link add vx-docker0 type bridge"])
    before = fabrics.state(host)
    done = fabric(host, "up")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "arpipam: vx-docker0 is there already and is not ours; remove it: ip link delete vx-docker0\n"
    )
    assert fabrics.state(host) == before


def test_a_step_that_fails_undoes_those_before_it(lab: Lab) -> None:
    """Another VXLAN with the same identifier and port is there: the kernel refuses ours, after the bridge is made."""
    _, [host, _] = declare(lab, 2, up=False)
    host.namespace.ip(["link add other type vxlan id 42 local 192.168.122.1 dstport 4789"])
    before = fabrics.state(host)
    done = fabric(host, "up")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("arpipam: + link vx-docker0: vxlan")
    assert "File exists" in done.stderr
    assert done.stderr.count("\n") == 1
    assert fabrics.state(host) == before
    assert list((host.directory / "state").glob("*.journal")) == []
    host.namespace.ip(["link delete other"])
    assert fabric(host, "up").returncode == 0


@pytest.mark.parametrize(("tunnel", "openvswitch"), [("gre", True), ("vxlan", False)])
def test_whichever_step_fails_the_host_is_as_before(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tunnel: str, *, openvswitch: bool
) -> None:
    _, [host, _] = declare(lab, 2, tunnel=tunnel, openvswitch=openvswitch, up=False)
    furnish(host)
    before = fabrics.state(host)
    for good in itertools.count():
        counter = itertools.count()

        def fails(
            function: Callable[..., Any], counter: itertools.count[int] = counter, good: int = good
        ) -> Callable[..., Any]:
            def may_fail(*args: Any, **kwargs: Any) -> Any:
                if kwargs.get("tolerant"):  # that is undoing
                    return function(*args, **kwargs)
                if next(counter) == good:
                    raise LinkError("no more")
                return function(*args, **kwargs)

            return may_fail

        with monkeypatch.context() as patch:
            patch.setattr(kernel, "apply", fails(kernel.apply))
            patch.setattr(Database, "commit", fails(Database.commit))
            try:
                up(host)
            except LinkError as error:
                failure = str(error)
            else:
                break
        assert failure == "no more"
        assert fabrics.state(host) == before, f"{good} steps were done"
        assert list((host.directory / "state").glob("*.journal")) == []
    assert good > 5
    assert pending(host) == []
    down(host)
    assert fabrics.state(host) == before


def test_what_open_vswitch_only_records_is_reported_and_undone(lab: Lab) -> None:
    _, [host, _] = declare(lab, 2, tunnel="gre", openvswitch=True, up=False)
    switch = host.openvswitch
    assert switch is not None
    switch.vsctl("add-br", "mine", "--", "set", "Bridge", "mine", "datapath_type=netdev")
    switch.vsctl(
        *("add-port", "mine", "taken", "--", "set", "Interface", "taken"),
        *("type=gre", "options:remote_ip=192.168.122.2"),
    )
    before = fabrics.state(host)
    done = fabric(host, "up")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("arpipam: Open vSwitch port gre-host2: ")
    assert "could not add" in done.stderr
    assert fabrics.state(host) == before


def test_a_nic_that_is_on_another_bridge_of_open_vswitch_is_not_taken_from_it(lab: Lab) -> None:
    _, [host, _] = declare(lab, 2, tunnel="gre", openvswitch=True, up=False)
    switch = host.openvswitch
    assert switch is not None
    switch.vsctl("add-br", "mine", "--", "set", "Bridge", "mine", "datapath_type=netdev")
    switch.vsctl("add-port", "mine", "uplink")
    before = fabrics.state(host)
    done = fabric(host, "up")
    assert done.returncode == 3
    assert "port uplink is on Open vSwitch bridge mine already" in done.stderr
    assert fabrics.state(host) == before


def test_open_vswitch_that_does_not_run_is_named(lab: Lab) -> None:
    _, [host, _] = declare(lab, 2, tunnel="gre", openvswitch=True, up=False)
    done = host.command(*fabrics.words(host, "up")[:-1], "unix:/nowhere/db.sock")
    assert done.returncode == 3
    assert "no database at unix:/nowhere/db.sock" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_underlay_address_that_the_host_does_not_have_is_named(lab: Lab) -> None:
    _, [host, _] = declare(lab, 2, up=False)
    edit(host, "192.168.122.1", "192.168.122.9")
    done = fabric(host, "up")
    assert done.returncode == 3
    assert "192.168.122.9 of host host1 is on no interface" in done.stderr


def test_two_at_once_do_not_disturb_each_other(lab: Lab) -> None:
    _, [host, _] = declare(lab, 2, tunnel="gre", openvswitch=True, up=False)
    processes = [host.spawn(*fabrics.words(host, "up"), stdout=-1, stderr=-1, text=True) for _ in range(3)]
    said = [process.communicate(timeout=fabrics.LONG) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert sum(bool(out) for out, _ in said) == 1
    assert pending(host) == []


def test_marked_frames_are_counted(lab: Lab) -> None:
    """The measure itself: with its port no longer isolated, a broadcast comes back to the wire."""
    wire, hosts = declare(lab, 3)
    stations: list[Station] = fabrics.stations_on(lab, hosts)
    hosts[1].namespace.run("bridge", "link", "set", "dev", "vx-docker0", "isolated", "off", "hairpin", "on")
    with Frames(wire.namespace) as underlay, listening(stations) as listeners:
        copies, _ = broadcast(stations[0].namespace, "eth0", underlay, listeners, 0)
        until(lambda: underlay.count(b"\x88\xb5") > 4)
    assert copies >= 2
    assert struct.calcsize("=IH") == 6
