"""The fabric's file in a search: the other hosts are witnesses, and what is gone on purpose keeps its addresses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support import fabrics
from tests.support.fabrics import ARPIPAM, declare, edit, fabric

if TYPE_CHECKING:
    import subprocess

    from arpipam.lab import Host, Lab


def find(host: Host, *words: str, interface: bool = False) -> subprocess.CompletedProcess[str]:
    """Search with the file; without an interface unless asked for."""
    command = [ARPIPAM, "find", "--json", "--fabric", str(host.fabric_file), "--host", host.name, *words]
    return host.command(*command, env={} if interface else {"ARPIPAM_INTERFACE": ""})


def test_the_other_hosts_are_witnesses_and_the_silent_one_is_named(lab: Lab) -> None:
    wire, hosts = declare(lab, 3)
    fabrics.stations_on(lab, hosts, 4)
    done = find(hosts[0])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["address"] == "172.16.42.7"  # the first that neither host nor station has
    wire.cut(hosts[2])
    done = find(hosts[0])
    assert (done.returncode, done.stdout) == (3, "")
    assert "host3" in done.stderr
    assert "host2" not in done.stderr
    assert done.stderr.count("\n") == 1
    alone = find(hosts[0], "--alone", "--range", "172.16.42.3-172.16.42.9")
    assert alone.returncode == 0, alone.stderr
    # What is behind host3 looks free now, as whoever says --alone wants it; host3's own address stays its own.
    assert json.loads(alone.stdout)["address"] == "172.16.42.6"
    edit(hosts[0], 'name = "host3"', 'name = "host3"\nabsent = true')
    done = find(hosts[0])
    assert done.returncode == 0, done.stderr


def test_what_was_last_seen_behind_an_absent_host_is_not_offered(lab: Lab) -> None:
    wire, hosts = declare(lab, 3)
    lab.station("mine", hosts[0], "172.16.42.4/24")
    lab.station("other", hosts[1], "172.16.42.5/24")
    lab.station("gone", hosts[2], "172.16.42.6/24")
    assert fabric(hosts[0], "check").returncode == 0
    wire.cut(hosts[2])
    edit(hosts[0], 'name = "host3"', 'name = "host3"\nabsent = true')
    done = find(hosts[0])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["address"] == "172.16.42.7"
    few = find(hosts[0], "--range", "172.16.42.3-172.16.42.6")
    assert few.returncode == 1
    assert few.stdout == ""
    (hosts[0].directory / "state" / "fabric-docker0.seen").unlink()  # which is what kept it
    assert json.loads(find(hosts[0]).stdout)["address"] == "172.16.42.6"


def test_what_was_seen_behind_an_absent_host_with_open_vswitch_is_not_offered(lab: Lab) -> None:
    wire, hosts = declare(lab, 2, tunnel="gre", openvswitch=True)
    lab.station("gone", hosts[1], "172.16.42.3/24")
    assert fabric(hosts[0], "check").returncode == 0
    wire.cut(hosts[1])
    done = find(hosts[0])
    assert done.returncode == 3
    assert "host2" in done.stderr
    edit(hosts[0], 'name = "host2"', 'name = "host2"\nabsent = true')
    office = lab.wire()
    office.plug(hosts[0].namespace, "office")
    hosts[0].namespace.ip([f"link set office master {hosts[0].bridge}"])
    printer = lab.station("printer", office, "172.16.42.9/24")
    assert printer.ping("172.16.42.1")
    done = find(hosts[0], "--witness", "172.16.42.9")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["address"] == "172.16.42.4"


def test_the_link_is_the_bridge_of_the_file_and_another_link_has_none_of_its_witnesses(lab: Lab) -> None:
    wire, hosts = declare(lab, 2, bridge="lan0")
    done = find(hosts[0])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["address"] == "172.16.42.3"
    wire.cut(hosts[1])
    assert find(hosts[0]).returncode == 3
    hosts[0].namespace.ip(["link add docker0 type bridge", "addr add 10.0.0.1/24 dev docker0", "link set docker0 up"])
    lab.station("there", hosts[0], "172.16.42.4/24")
    done = find(hosts[0], "--interface", "lan0")
    assert (done.returncode, "host2" in done.stderr) == (3, True)
    done = find(hosts[0], "--interface", "docker0", "--alone")
    assert "host2" not in done.stderr


def test_a_witness_of_the_file_is_asked_too(lab: Lab) -> None:
    _, hosts = declare(lab, 2)
    edit(hosts[0], 'tunnel = "vxlan"', 'tunnel = "vxlan"\nwitnesses = ["172.16.42.200"]')
    done = find(hosts[0])
    assert done.returncode == 3
    assert "172.16.42.200" in done.stderr
    lab.station("printer", hosts[1], "172.16.42.200/24")
    assert find(hosts[0]).returncode == 0


def test_a_file_that_is_wrong_ends_the_search_with_2(lab: Lab) -> None:
    _, hosts = declare(lab, 1)
    edit(hosts[0], 'tunnel = "vxlan"', 'tunnel = "vxlan"\nwitnesses = ["nobody"]')
    done = find(hosts[0])
    assert (done.returncode, done.stdout) == (2, "")
    assert "witnesses" in done.stderr
    assert done.stderr.count("\n") == 1
