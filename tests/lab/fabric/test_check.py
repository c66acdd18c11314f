"""`arpipam fabric check`: each fault that is put in is found and named, and what `up` can mend it mends."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from arpipam.fabric import survey_task
from arpipam.fabric.check import Condition, Finding, check
from arpipam.fabric.render import Picture
from arpipam.lab import Lab
from tests.support import fabrics
from tests.support.fabrics import declare, fabric, pending, up
from tests.support.until import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from arpipam.lab import Host, Wire
    from arpipam.lab.stations import LabStation

RUN = str(Path(sys.executable).parent / "arpipam-run")
RED, GREEN = "#c0392b", "#2e8b57"
UP = "arpipam fabric up"
FEW = """
table bridge few {
    chain few {
        type filter hook prerouting priority 0
        iifname "lp*" arp saddr ip != 0.0.0.0 drop
        iifname "lp*" ether type != arp drop
        iifname "lp*" limit rate over 500/second burst 100 packets drop
    }
}
"""


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks in this process ask their peers fewer times."""
    monkeypatch.setattr(survey_task, "ROUNDS", 4)
    monkeypatch.setattr(survey_task, "LISTEN", 0.25)


def findings(host: Host) -> dict[str, Finding]:
    """By subject: all that a check on the host finds."""
    with host.namespace.inside():
        return {finding.subject: finding for finding in check(host.site())}


def faults(host: Host) -> dict[str, str]:
    """By subject: the evidence of each fault."""
    return {f.subject: f.evidence for f in findings(host).values() if f.condition is Condition.FAULT}


@pytest.fixture(scope="module")
def switched() -> Iterator[tuple[Wire, list[Host], list[LabStation]]]:
    """Two hosts with a GRE tunnel of Open vSwitch's, and a station on each."""
    with Lab() as lab:
        wire, hosts = declare(lab, 2, tunnel="gre", openvswitch=True)
        yield wire, hosts, fabrics.stations_on(lab, hosts)


@pytest.fixture(scope="module")
def plain() -> Iterator[tuple[Wire, list[Host], list[LabStation], Lab]]:
    """Three hosts with VXLAN of the kernel's, and a station on each."""
    with Lab() as lab:
        wire, hosts = declare(lab, 3)
        yield wire, hosts, fabrics.stations_on(lab, hosts), lab


Switched = tuple["Wire", "list[Host]", "list[LabStation]"]
Plain = tuple["Wire", "list[Host]", "list[LabStation]", Lab]


# All well.


def test_all_well(switched: Switched, plain: Plain) -> None:
    for host in (switched[1][0], plain[1][0]):
        found = findings(host)
        assert {f.condition for f in found.values()} <= {Condition.OK, Condition.WARNING}
        assert {subject for subject, f in found.items() if f.condition is Condition.WARNING} <= {
            "setting bridge-nf-call-arptables",
            "setting arp_accept, arp_notify",
        }
        assert not [subject for subject in found if "host1" in subject]
        assert {"bridge docker0", "loop", "addresses", "tunnel to host2", "peer host2", "path MTU to host2"} <= set(
            found
        )


def test_the_command_line_says_the_same_in_lines_of_json_and_ends_with_0(plain: Plain) -> None:
    done = fabric(plain[1][0], "check", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(list(line) == ["state", "subject", "evidence", "remedy"] for line in lines)
    assert all(isinstance(text, str) for line in lines for text in line.values())
    assert {line["subject"] for line in lines} == {*findings(plain[1][0]), "docker"}
    assert {line["state"] for line in lines} == {"ok", "warning"}


# What is not as declared.


@pytest.mark.parametrize(
    ("words", "subject", "evidence"),
    [
        (
            "set Interface gre-host2 options:remote_ip=192.168.122.77",
            "tunnel to host2",
            "options is remote_ip=192.168.122.77, should be remote_ip=192.168.122.2",
        ),
        ("del-port br0 gre-host2", "tunnel to host2", "ovs port gre-host2 is missing"),
        ("set Port gre-host2 protected=false", "tunnel to host2", "protected is off, should be on"),
        ("del-br br0", "Open vSwitch bridge br0", "ovs bridge br0 is missing"),
        ("set Interface br0 mtu_request=1300", "Open vSwitch bridge br0", "mtu_request is 1300, should be 1462"),
    ],
    ids=["wrong address", "no port", "not protected", "no bridge", "mtu"],
)
def test_what_open_vswitch_has_otherwise_is_a_fault_that_up_mends(
    switched: Switched, words: str, subject: str, evidence: str
) -> None:
    _, [host, _], stations = switched
    assert host.openvswitch is not None
    host.openvswitch.vsctl(*words.split())
    found = findings(host)
    assert found[subject].condition is Condition.FAULT
    assert evidence in found[subject].evidence
    assert found[subject].remedy == UP
    up(host)
    assert pending(host) == []
    until(lambda: not fabrics.unreachable(stations))


@pytest.mark.parametrize(
    ("words", "subject", "evidence"),
    [
        ("ip link set docker0 mtu 1400", "bridge docker0", "docker0 mtu is 1400, should be 1450"),
        ("ip link set docker0 down", "bridge docker0", "docker0 up is off, should be on"),
        ("ip addr del 172.16.42.1/24 dev docker0", "bridge docker0", "address 172.16.42.1/24 on docker0 is missing"),
        ("ip link delete vx-docker0", "link vx-docker0", "link vx-docker0 is missing"),
        ("ip link set vx-docker0 nomaster", "link vx-docker0", "vx-docker0 master is none, should be docker0"),
        ("ip link set vx-docker0 down", "link vx-docker0", "vx-docker0 up is off, should be on"),
        ("bridge link set dev vx-docker0 isolated off", "link vx-docker0", "isolated is off, should be on"),
        (
            "bridge fdb del 00:00:00:00:00:00 dev vx-docker0 dst 192.168.122.2",
            "tunnel to host2",
            "peer 192.168.122.2 of vx-docker0 is missing",
        ),
        (
            "bridge fdb append 00:00:00:00:00:00 dev vx-docker0 dst 192.168.122.99",
            "link vx-docker0",
            "peer 192.168.122.99 of vx-docker0 should not be there",
        ),
    ],
    ids=lambda value: value if value.startswith(("ip ", "bridge fdb", "bridge link")) else "",
)
def test_what_the_kernel_has_otherwise_is_a_fault_that_up_mends(
    plain: Plain, words: str, subject: str, evidence: str
) -> None:
    _, [host, *_], stations, _ = plain
    host.namespace.run(*words.split())
    found = findings(host)
    assert found[subject].condition is Condition.FAULT
    assert evidence in found[subject].evidence
    assert found[subject].remedy == UP
    up(host)
    assert pending(host) == []
    until(lambda: not fabrics.unreachable(stations))


def test_the_command_line_ends_with_1_and_names_the_fault_in_a_line(plain: Plain) -> None:
    _, [host, *_], _, _ = plain
    host.namespace.run("ip", "link", "set", "docker0", "mtu", "1400")
    done = fabric(host, "check")
    assert (done.returncode, done.stderr) == (1, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert ["fault", "bridge docker0", "link docker0 mtu is 1400, should be 1450", UP] in lines
    assert {len(line) for line in lines} == {4}
    up(host)


@pytest.mark.parametrize("how", ["blocking", "listening"])
def test_a_port_that_spanning_tree_holds_is_a_fault(plain: Plain, how: str) -> None:
    _, [host, *_], _, _ = plain
    host.namespace.run("ip", "link", "set", "docker0", "type", "bridge", "forward_delay", "300", "stp_state", "1")
    if how == "blocking":
        port = "lp1"  # a second port on the same segment
        host.namespace.ip(["link add lp0 type veth peer lp1", "link set lp0 master docker0 up"])
        host.namespace.ip(["link set lp1 master docker0 up"])
    else:
        port = "vx-docker0"
        host.namespace.ip(["link set vx-docker0 down", "link set vx-docker0 up"])
    until(lambda: f"state {how}" in host.namespace.run("bridge", "link", "show", "dev", port), how)
    found = findings(host)
    assert found[f"port {port}"].condition is Condition.FAULT
    assert how in found[f"port {port}"].evidence
    assert "spanning tree" not in found
    assert "stp is on, should be off" in found["bridge docker0"].evidence
    if how == "blocking":
        host.namespace.ip(["link delete lp0"])
    up(host)
    host.namespace.run("ip", "link", "set", "docker0", "type", "bridge", "forward_delay", "0")
    assert pending(host) == []
    until(lambda: faults(host) == {})


def test_settings_that_spoil_probing_are_faults_with_the_command_that_mends_them(plain: Plain) -> None:
    _, [host, *_], _, _ = plain
    names = {
        "setting arp_ignore": "net.ipv4.conf.docker0.arp_ignore=8",
        "setting proxy_arp": "net.ipv4.conf.docker0.proxy_arp=1",
        "setting arp_filter": "net.ipv4.conf.all.arp_filter=1",
    }
    for setting in names.values():
        host.namespace.run("sysctl", "-qw", setting)
    host.namespace.run("bridge", "link", "set", "dev", "vx-docker0", "neigh_suppress", "on")
    found = findings(host)
    for subject, setting in names.items():
        assert found[subject].condition is Condition.FAULT
        assert setting.replace("=", " = ") in found[subject].evidence
        host.command(*found[subject].remedy.split(), check=True)
    assert "neighbour suppression" in found["port vx-docker0"].evidence
    host.command(*found["port vx-docker0"].remedy.split(), check=True)
    assert faults(host) == {}


# What others do.


def test_an_address_that_two_have_is_a_fault(plain: Plain) -> None:
    _, hosts, stations, lab = plain
    first = lab.station("first", hosts[1], "172.16.42.2/24")  # a peer's
    second = lab.station("second", hosts[0], "172.16.42.22/24")  # that of the station on host3
    third = lab.station("third", hosts[2], "172.16.42.1/24")  # this host's
    found = faults(hosts[0])
    assert {subject for subject in found if subject.startswith("address ")} == {
        "address 172.16.42.1",
        "address 172.16.42.2",
        "address 172.16.42.22",
    }
    assert first.mac in found["address 172.16.42.2"]
    assert second.mac in found["address 172.16.42.22"]
    assert stations[2].mac in found["address 172.16.42.22"]
    assert f"this host's own address, also at {third.mac}" in found["address 172.16.42.1"]
    for station in (first, second, third):
        station.namespace.run("ip", "link", "delete", "eth0")
    until(lambda: not fabrics.unreachable(stations))
    until(lambda: faults(hosts[0]) == {})


@pytest.mark.parametrize("kind", ["switched", "plain"])
def test_a_peer_that_is_down_is_a_fault_and_red_in_the_picture(request: pytest.FixtureRequest, kind: str) -> None:
    wire, [host, peer, *_], stations, *_ = request.getfixturevalue(kind)
    wire.cut(peer)
    found = findings(host)
    assert found["peer host2"].condition is Condition.FAULT
    assert "172.16.42.2 answers no ARP request" in found["peer host2"].evidence
    assert "absent = true" in found["peer host2"].remedy
    assert found["underlay of host2"].condition is Condition.WARNING
    assert "path MTU to host2" not in found
    with host.namespace.inside():
        site = host.site()
    picture = Picture(site.fabric, site.local, found.values())
    colours = picture_colours(picture.dot())
    assert (colours["host1"], colours["host2"]) == (GREEN, RED)
    root = ET.fromstring(picture.svg())  # noqa: S314 - our own
    boxes = {box.attrib["stroke"] for box in root.iter("{http://www.w3.org/2000/svg}rect")}
    lines = [line.attrib["stroke"] for line in root.iter("{http://www.w3.org/2000/svg}line")]
    assert {RED, GREEN} <= boxes
    assert lines.count(RED) == 1
    wire.heal()
    until(lambda: not fabrics.unreachable(stations))
    until(lambda: faults(host) == {})
    assert RED not in fabric(host, "show").stdout


def picture_colours(dot: str) -> dict[str, str]:
    return dict(re.findall(r'^  "(\S+)" \[.* color="(#\w+)"\];$', dot, re.MULTILINE))


def test_a_path_that_swallows_full_frames_is_a_fault(plain: Plain) -> None:
    wire, [host, *_], _, _ = plain
    wire.namespace.ip(["link set p1 mtu 1300"])
    found = findings(host)
    assert found["path MTU to host2"].condition is Condition.FAULT
    assert "packets of 1450 bytes do not cross" in found["path MTU to host2"].evidence
    assert found["peer host2"].condition is Condition.OK
    assert found["path MTU to host3"].condition is Condition.OK
    wire.namespace.ip(["link set p1 mtu 1500", "link set wire mtu 1500"])
    until(lambda: faults(host) == {})


def forwards(host: Host, port: str) -> bool:
    """Whether a bridge's port has noticed its carrier, which takes the kernel up to a second."""
    [link] = json.loads(host.namespace.run("ip", "-j", "-d", "link", "show", port))
    return bool(link["operstate"] == "UP" and link["linkinfo"]["info_slave_data"]["state"] == "forwarding")


@pytest.mark.parametrize("where", ["on this host", "between two hosts"])
def test_a_loop_is_a_fault(plain: Plain, where: str) -> None:
    """Only probes go round in it, and few of them a second, so that it is no storm."""
    _, [host, peer, _], stations, _ = plain
    other = host if where == "on this host" else peer
    for one in {host.namespace, other.namespace}:
        one.run("nft", "-f", "-", input=FEW)
    host.namespace.ip([f"link add lp0 mtu 1450 type veth peer name lp1 netns {other.namespace.name}"])
    host.namespace.ip(["link set lp0 master docker0 up"])
    other.namespace.ip(["link set lp1 master docker0 up"])
    try:
        until(lambda: forwards(host, "lp0") and forwards(other, "lp1"), "the loop")
        found = findings(host)
    finally:
        host.namespace.ip(["link delete lp0"])
        for one in {host.namespace, other.namespace}:
            one.run("nft", "delete", "table", "bridge", "few")
    assert found["loop"].condition is Condition.FAULT
    assert "came back" in found["loop"].evidence
    until(lambda: not fabrics.unreachable(stations))
    assert faults(host) == {}


def test_a_switch_that_was_killed_is_named_and_mended_once_it_runs_again(switched: Switched) -> None:
    _, [host, _], stations = switched
    fabrics.kill_switch(host)
    done = fabric(host, "check")
    assert done.returncode == 1
    assert re.search(r"^fault\tOpen vSwitch\t.*ovs-vswitchd.*\tsystemctl", done.stdout, re.MULTILINE), done.stdout
    done = fabric(host, "up")
    assert done.returncode == 3
    assert "ovs-vswitchd cannot be asked" in done.stderr
    fabrics.start_switch(host)
    assert fabric(host, "up").returncode == 0
    until(lambda: not fabrics.unreachable(stations))
    until(lambda: faults(host) == {})


def test_a_host_on_which_nothing_is_up_yet_has_faults_and_no_traceback(lab: Lab) -> None:
    _, [host, other] = declare(lab, 2, up=False)
    done = fabric(host, "check")
    assert done.returncode == 1
    assert done.stderr == ""
    assert "fault\tbridge docker0\tlink docker0 is missing" in done.stdout
    done = fabric(other, "show", "--dot")
    assert done.returncode == 0
    assert picture_colours(done.stdout)["host2"] == RED
    done = fabric(other, "show", "--svg")
    strokes = [box.attrib["stroke"] for box in ET.fromstring(done.stdout).iter("{http://www.w3.org/2000/svg}rect")]  # noqa: S314 - our own
    assert RED in strokes


# As a person sees it.


def read_until(ours: int, done: re.Pattern[str], count: int = 1) -> str:
    """What appears on the terminal, until the pattern has come so often."""
    text = ""
    end = time.monotonic() + fabrics.LONG
    while len(done.findall(text)) < count:
        assert select.select([ours], [], [], max(0.0, end - time.monotonic()))[0], text
        text += os.read(ours, 65536).decode()
    return text


def on_a_terminal(host: Host, *command: str) -> tuple[subprocess.Popen[bytes], int]:
    ours, theirs = pty.openpty()
    env = {"COLUMNS": "200", "LINES": "50", "TERM": "xterm-256color"}
    process: subprocess.Popen[bytes] = host.spawn(
        *fabrics.words(host, *command), stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    )
    os.close(theirs)
    return process, ours


def test_a_terminal_shows_a_table(plain: Plain) -> None:
    process, ours = on_a_terminal(plain[1][0], "check")
    text = read_until(ours, re.compile(r"docker +\S.*\n"))
    assert process.wait(fabrics.LONG) == 0
    os.close(ours)
    plain_text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert re.search(r"^ +what +evidence +remedy", plain_text, re.MULTILINE)
    assert re.search(r"^✓ +tunnel to host3 +vxlan from 192.168.122.1 to 192.168.122.3", plain_text, re.MULTILINE)
    assert "\t" not in plain_text


def test_watch_looks_again_and_again_until_interrupted(plain: Plain) -> None:
    _, [host, *_], _, _ = plain
    process, ours = on_a_terminal(host, "check", "--watch")
    try:
        read_until(ours, re.compile(r"MTU 1450"))
        host.namespace.run("ip", "link", "set", "docker0", "mtu", "1400")
        read_until(ours, re.compile(r"mtu is 1400"))
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(fabrics.LONG)
        os.close(ours)
        up(host)
    assert status == 130
