"""`arpipam fabric check` of many hosts, and of a host with an engine."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.fabrics import declare, fabric, pending, up

if TYPE_CHECKING:
    from arpipam.lab import Host, Lab

RUN = str(Path(sys.executable).parent / "arpipam-run")


@pytest.mark.timing
def test_thirty_hosts_are_planned_and_checked_in_seconds(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    _, hosts = declare(lab, 30)
    started = time.monotonic()
    assert fabric(hosts[0], "plan").returncode == 0
    planned = time.monotonic()
    done = fabric(hosts[0], "check", "--json")
    ended = time.monotonic()
    with capsys.disabled():
        print(f" 30 hosts: plan {planned - started:.2f} s, check {ended - planned:.2f} s ", end="")  # noqa: T201 - a figure
    assert done.returncode == 0, done.stdout
    subjects = {line["subject"] for line in map(json.loads, done.stdout.splitlines())}
    assert {f"peer host{n}" for n in range(2, 31)} <= subjects
    assert ended - started < 15


@pytest.mark.engine
def test_the_engine_has_no_network_on_the_bridge_yet_then_a_wrong_one_then_the_right_one(lab: Lab) -> None:
    _, [host, _] = declare(lab, 2, engine=True)
    [line] = docker_lines(host)
    make = (
        "docker network create -d bridge --subnet 172.16.42.0/24 --gateway 172.16.42.1 "
        "-o com.docker.network.bridge.name=docker0 -o com.docker.network.driver.mtu=1450 lan"
    )
    assert line == ["warning", "docker", "no network on docker0 yet; arpipam-run makes it", make]
    host.docker(*make.replace("mtu=1450", "mtu=1500").split()[1:])
    [line] = docker_lines(host)
    assert line == [
        *("fault", "docker", "network lan: MTU 1500 instead of 1450"),
        f"docker network rm lan && {make}",
    ]
    host.docker("network", "rm", "lan")
    host.docker(*make.replace("172.16.42", "172.16.99").replace("lan", "other").split()[1:])
    [line] = docker_lines(host)
    assert line[0] == "fault"
    assert "subnet 172.16.99.0/24 instead of 172.16.42.0/24" in line[2]
    assert "gateway 172.16.99.1 instead of 172.16.42.1" in line[2]
    host.docker("network", "rm", "other")
    host.namespace.run("ip", "addr", "del", "172.16.99.1/24", "dev", "docker0")
    up(host)
    launched = host.command(
        *(RUN, "--fabric", str(host.fabric_file), "--host", "host1"), *("-d", "--name", "web", "busybox", "sleep", "99")
    )
    assert launched.returncode == 0, launched.stderr
    [line] = docker_lines(host)
    assert line[0] == "ok", line
    assert "172.16.42.0/24, MTU 1450" in line[2]
    assert pending(host) == []


def docker_lines(host: Host) -> list[list[str]]:
    lines = [line.split("\t") for line in fabric(host, "check").stdout.splitlines()]
    return [line for line in lines if line[1] == "docker"]
