"""`arpipam fabric` taken down, and where something goes wrong: it goes without a trace."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from arpipam import LinkError
from arpipam.fabric import kernel
from arpipam.fabric.ovsdb import Ovsdb
from tests.support import fabrics
from tests.support.fabrics import declare, down, edit, fabric, pending, up

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.lab import Host, Lab


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
        pings = ["ping", "-i", "0.005", "-W", "2", "-c", "1000000"]
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


@pytest.mark.parametrize("tunnel", ["gre", "vxlan"])
def test_an_open_vswitch_bridge_that_was_there_is_as_before_after_down(lab: Lab, tunnel: str) -> None:
    _, hosts = declare(lab, 2, tunnel=tunnel, openvswitch=True, up=False)
    switch = hosts[0].openvswitch
    assert switch is not None
    switch.vsctl(
        "add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev", "other_config:hwaddr=02:00:00:00:00:77"
    )
    switch.vsctl("add-port", "br0", "machine", "--", "set", "Interface", "machine", "type=internal")
    hosts[0].namespace.ip(["link set br0 up"])
    before = fabrics.state(hosts[0])
    for host in hosts:
        up(host)
    assert switch.vsctl("list-ports", "br0").split() != ["machine"]
    assert hosts[0].command("ping", "-c", "1", "-W", "2", "172.16.42.2").returncode == 0
    done = fabric(hosts[0], "down")
    assert (done.returncode, done.stderr) == (0, "")
    assert switch.vsctl("list-ports", "br0").split() == ["machine"]
    assert fabrics.state(hosts[0]) == before


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
            patch.setattr(Ovsdb, "commit", fails(Ovsdb.commit))
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
