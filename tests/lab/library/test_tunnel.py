"""Two hosts as they are in the field: real engines, and Open vSwitch with a GRE tunnel between their bridges."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Lab
from arpipam.leases.lease import LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.lab import Host, Wire

RUN = str(Path(sys.executable).parent / "arpipam-run")
FOREVER = ["busybox", "sleep", "1000"]
_numbers = count()

EXPECTED = {
    r"timeval\(?.*\|WARN\|Unreasonably long \d+ms poll interval": "others use this machine's processors too",
    r"timeval\(?.*\|WARN\|(faults|disk|context switches): \d+": "details of the same",
}
"""What Open vSwitch may warn of, and why that is no fault of ours; nothing else."""


@pytest.fixture(scope="module")
def tunnel() -> Iterator[tuple[Host, Host, Wire]]:
    with Lab() as lab:
        yield lab.two_hosts()


@pytest.fixture
def hosts(tunnel: tuple[Host, Host, Wire]) -> Iterator[tuple[Host, Host, Wire]]:
    """The same, whole again and without containers when the test ends."""
    yield tunnel
    tunnel[2].heal()
    for host in tunnel[:2]:
        if found := containers(host):
            host.docker("rm", "--force", *found)


@pytest.fixture
def few() -> list[str]:
    """A range of addresses that no other test has used."""
    first = 10 + 8 * next(_numbers)
    return ["--range", f"172.16.42.{first}-172.16.42.{first + 7}"]


def containers(host: Host) -> list[str]:
    return host.docker("ps", "-aq").stdout.split()


def active(host: Host) -> list[str]:
    """The addresses that the host's leases hold."""
    with SqliteLeaseStore(host.directory / "state" / "leases.db") as store:
        return [str(lease.address) for lease in store.leases(states=(LeaseState.CLAIMED, LeaseState.BOUND))]


def address(host: Host, container: str) -> str:
    shown = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return host.docker("inspect", "-f", shown, container).stdout.strip()


def launch(host: Host, witness: Host, *words: str) -> subprocess.Popen[str]:
    """Start a container that stays, beside what else starts."""
    command = [RUN, "--witness", witness.address, *words, "-d", "--name", "web", *FOREVER]
    return host.spawn(*command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def assert_running_apart(first: Host, second: Host) -> None:
    """Each host's container has an address of its own, and they reach each other through the tunnel."""
    one, other = address(first, "web"), address(second, "web")
    assert len({one, other, first.address, second.address, ""}) == 5
    for host, to in ((first, other), (second, one)):
        assert " 0% packet loss" in host.docker("exec", "web", "ping", "-c", "2", "-W", "5", to).stdout


@pytest.mark.parametrize("turn", range(3))
def test_launches_at_the_same_moment_on_both_hosts_get_an_address_each(
    hosts: tuple[Host, Host, Wire],
    few: list[str],
    turn: int,  # noqa: ARG001 - the same again
) -> None:
    first, second, _ = hosts
    for process in [launch(first, second, *few), launch(second, first, *few)]:
        _, said = process.communicate()
        assert (process.returncode, said) == (0, "")
    assert_running_apart(first, second)
    assert (active(first), active(second)) == ([address(first, "web")], [address(second, "web")])


def test_over_a_cut_tunnel_nothing_is_launched_and_the_silent_witness_is_named(
    hosts: tuple[Host, Host, Wire], few: list[str]
) -> None:
    first, second, underlay = hosts
    underlay.cut(second)
    for host, witness in ((first, second), (second, first)):
        process = launch(host, witness, *few)
        output, said = process.communicate()
        assert (process.returncode, output) == (3, "")
        assert f"no answer from witness {witness.address}" in said
        assert said.startswith("arpipam-run: ")
        assert said.count("\n") == 1
        assert containers(host) == []
        assert active(host) == []


@pytest.mark.parametrize("cold", [False, True], ids=["warm", "cold"])
def test_over_a_healed_tunnel_the_first_launch_succeeds(
    hosts: tuple[Host, Host, Wire],
    few: list[str],
    cold: bool,  # noqa: FBT001 - a case
) -> None:
    """A tunnel in userspace forgets its neighbour after a while, and swallows what comes until it knows it again."""
    first, second, underlay = hosts
    underlay.cut(first)
    process = launch(first, second, *few)
    assert process.communicate()[0] == ""
    assert process.returncode == 3
    if cold:
        for host in (first, second):
            tell(host, "tnl/neigh/flush")
            tell(host, "revalidator/purge")  # with the neighbour goes the flow of its answers, idle for longer still
            assert "192.168.122." not in tell(host, "tnl/neigh/show")
    underlay.heal()
    for host, witness in ((first, second), (second, first)):
        process = launch(host, witness, *few)
        _, said = process.communicate()
        assert (process.returncode, said) == (0, "")
    assert_running_apart(first, second)
    assert "192.168.122.1 " in tell(second, "tnl/neigh/show")  # it knows it again


def tell(host: Host, *words: str) -> str:
    """Give an order to the host's Open vSwitch; what it says."""
    assert host.openvswitch is not None
    return host.namespace.run("ovs-appctl", "-t", "ovs-vswitchd", *words, env=os.environ | host.openvswitch.env)


def unexpected(log: str) -> list[str]:
    """The lines of a log that complain of something that is not expected."""
    complaints = [line for line in log.splitlines() if re.search(r"\|(WARN|ERR|EMER)\|", line)]
    return [line for line in complaints if not any(re.search(pattern, line) for pattern in EXPECTED)]


def test_after_all_that_open_vswitch_has_complained_of_nothing(hosts: tuple[Host, Host, Wire]) -> None:
    for host in hosts[:2]:
        assert host.openvswitch is not None
        for program in ("ovs-vswitchd", "ovsdb-server"):
            log = (host.openvswitch.directory / f"{program}.log").read_text()
            assert "|INFO|" in log
            assert unexpected(log) == []


def test_a_complaint_of_open_vswitch_would_be_seen(hosts: tuple[Host, Host, Wire]) -> None:
    first, *_ = hosts
    assert first.openvswitch is not None
    log = first.openvswitch.directory / "ovs-vswitchd.log"
    first.openvswitch.vsctl("add-port", "br0", "none")
    # a thread of the daemon's own writes the file
    until(lambda: any("none" in line for line in unexpected(log.read_text())), "no complaint of the missing port")
    first.openvswitch.vsctl("del-port", "br0", "none")
