"""arpipam-run on real engines: what the container, the network and the lease store see of it."""

from __future__ import annotations

import json
import os
import signal
import termios
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from arpipam.leases.lease import LeaseState
from tests.support.launchers import FIRST, FOREIGN, FOREVER, SECOND, SHOW, Launcher, nothing_left, one_client, one_line
from tests.support.until import until


@one_client
@pytest.mark.both_engines
def test_the_container_gets_the_first_address_that_nobody_has(any_launcher: Launcher) -> None:
    done = any_launcher.run("--json", "--rm", "busybox", "sh", "-c", SHOW)
    assert done.returncode == 0, done.stderr
    claims = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout.split() == [f"{FIRST}/24", claims[0]["mac"]]  # the container's MAC is the claim's
    assert [claim["state"] for claim in claims][-1] == "released"
    assert int(claims[0]["mac"][:2], 16) & 3 == 2  # locally administered, one station's
    assert {claim["address"] for claim in claims} == {FIRST}
    assert {claim["prefix"] for claim in claims} == {24}


def test_streams_and_status_are_those_of_docker_run(any_launcher: Launcher) -> None:
    words = ["-i", "--rm", "busybox", "sh", "-c", "cat; echo wrong >&2; exit 7"]
    done = any_launcher.run(*words, input="through\n" * 10_000)
    assert (done.returncode, done.stdout, done.stderr) == (7, "through\n" * 10_000, "wrong\n")


def test_a_terminal_is_the_containers(any_launcher: Launcher) -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (33, 77))
    os.set_blocking(ours, True)
    size = '"$(stty size)"'
    words = [
        "-it",
        "--rm",
        "busybox",
        "sh",
        "-c",
        f"until [ '33 77' = {size} ]; do sleep 0.05; done; echo 33x77; read w; echo got $w; exit 5",
    ]
    process = any_launcher.spawn(*words, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b"33x77" not in seen:
        seen += os.read(ours, 4096)
    os.write(ours, b"this\r")
    while b"got this" not in seen:
        seen += os.read(ours, 4096)
    assert process.wait() == 5
    os.close(ours)


def test_a_signal_reaches_the_container(any_launcher: Launcher) -> None:
    script = 'trap "echo bye; exit 9" TERM; echo up; while :; do sleep 0.05; done'
    process = any_launcher.spawn("--rm", "busybox", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert process.communicate()[0] == "bye\n"
    assert process.returncode == 9


@one_client
@pytest.mark.both_engines
def test_detached_it_stays_until_the_container_answers_for_itself(any_launcher: Launcher) -> None:
    done = any_launcher.run("--json", "-d", *FOREVER)
    assert done.returncode == 0, done.stderr
    [container] = any_launcher.containers()
    assert done.stdout == f"{container}\n"
    claims = [json.loads(line) for line in done.stderr.splitlines()]
    assert claims[-1]["state"] == "handed over"
    assert any_launcher.wire.who_has(FIRST) == {claims[0]["mac"]}
    [lease] = any_launcher.leases(LeaseState.BOUND)
    assert lease.container.startswith(f"{container}@")
    label = any_launcher.docker("inspect", "-f", '{{index .Config.Labels "arpipam.lease"}}', container)
    assert label == str(lease.id)
    assert any_launcher.run("-d", *FOREVER).returncode == 0
    assert sorted(map(any_launcher.address, any_launcher.containers())) == [FIRST, SECOND]


def test_a_removed_container_gives_its_address_back(launcher: Launcher) -> None:
    assert launcher.run("--rm", "busybox", "true").returncode == 0
    assert launcher.leases(LeaseState.CLAIMED, LeaseState.BOUND) == []
    [lease] = launcher.leases(LeaseState.QUARANTINED)
    assert lease.address == IPv4Address(FIRST)


def test_a_stopped_container_keeps_its_address(launcher: Launcher) -> None:
    assert launcher.run("--name", "stopped", "busybox", "sh", "-c", "sleep 0.2; exit 3").returncode == 3
    [lease] = launcher.leases(LeaseState.BOUND)
    assert lease.address == IPv4Address(FIRST)
    assert launcher.run("--name", "other", "-d", *FOREVER).returncode == 0
    assert launcher.address("other") == SECOND
    assert launcher.host.docker("start", "-a", "stopped", check=False).returncode == 3


def test_a_container_that_went_without_us_is_found_by_the_next_run(launcher: Launcher) -> None:
    assert launcher.run("--name", "web", "-d", *FOREVER).returncode == 0
    launcher.docker("rm", "--force", "web")
    assert [lease.address for lease in launcher.leases(LeaseState.BOUND)] == [IPv4Address(FIRST)]
    assert launcher.run("--name", "other", "-d", *FOREVER).returncode == 0
    assert [lease.address for lease in launcher.leases(LeaseState.BOUND)] == [IPv4Address(SECOND)]
    assert [lease.address for lease in launcher.leases(LeaseState.QUARANTINED)] == [IPv4Address(FIRST)]


@pytest.mark.parametrize("options", [["--order", "sticky"], ["--ip", FIRST]])
def test_the_same_container_made_anew_has_its_address_again(options: list[str], launcher: Launcher) -> None:
    words = [*options, "--name", "web", "-d", *FOREVER]
    assert launcher.run(*words).returncode == 0
    before = launcher.address("web")
    launcher.docker("rm", "--force", "web")
    assert launcher.run(*words).returncode == 0
    assert launcher.address("web") == before


@pytest.mark.both_engines
def test_an_address_by_hand(launcher: Launcher) -> None:
    done = launcher.run("--ip", "172.16.42.77/24", "--gateway", "172.16.42.1", "--rm", "busybox", "sh", "-c", SHOW)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "172.16.42.77/24"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--ip", FOREIGN], 1, FOREIGN),
        (["--ip", "172.16.42.7/16"], 2, "172.16.42.0/24"),
        (["--ip", "10.0.0.7"], 2, "172.16.42.0/24"),
        (["--ip", "172.16.42.255"], 2, "172.16.42.255"),
        (["--gateway", "10.0.0.1"], 2, "172.16.42.0/24"),
        (["--gateway", "172.16.42.9"], 2, "172.16.42.1"),
        (["--network", "none"], 2, "is not on docker0"),
        (["--range", FOREIGN], 1, ""),
        (["--mac", "this"], 2, "this"),
        (["--interface", "docker9"], 2, "docker9"),
        (["--witness", "172.16.42.200"], 3, "172.16.42.200"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    words: list[str], status: int, said: str, launcher: Launcher
) -> None:
    launcher.run("--rm", "busybox", "true")  # the network is there
    done = launcher.run(*words, "busybox", "true")
    assert done.returncode == status, done.stderr
    assert said in one_line(done)
    assert nothing_left(launcher)


def test_an_address_of_our_own_stopped_container_is_in_use(launcher: Launcher) -> None:
    assert launcher.run("--name", "stopped", "busybox", "true").returncode == 0
    done = launcher.run("--ip", FIRST, "busybox", "true")
    assert done.returncode == 1
    assert "stopped" in one_line(done)


def test_no_image_is_dockers_to_say_and_leaves_nothing(any_launcher: Launcher) -> None:
    done = any_launcher.run("no.such.host/image", "true")
    assert done.returncode == 125
    assert "no.such.host/image" in done.stderr
    assert nothing_left(any_launcher)


def test_an_engine_without_a_client_is_one_line(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    tools = tmp_path / "empty"
    for name in ("nsenter", "env"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    done = launcher.run("busybox", "true", env={"PATH": str(tools)})
    assert done.returncode == 125
    assert "is it installed" in one_line(done)
    assert nothing_left(launcher)


def test_interrupted_while_it_listens_it_leaves_nothing(launcher: Launcher) -> None:
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = launcher.spawn("--timing", "rfc5227", "busybox", "true")
        until((Path(launcher.env["ARPIPAM_STATE_DIR"]) / "leases.db").exists)
        until(lambda: launcher.leases(LeaseState.CLAIMED))
        process.send_signal(number)
        assert process.wait() == status
        assert nothing_left(launcher)


def test_the_bridge_keeps_its_address_and_the_network_is_made_once(launcher: Launcher) -> None:
    show = ["ip", "-brief", "-4", "address"]
    before = launcher.host.command(*show).stdout
    for _ in range(2):
        assert launcher.run("--rm", "busybox", "true").returncode == 0
    assert launcher.host.command(*show).stdout == before
    assert launcher.docker("network", "ls", "--quiet", "--filter", "driver=bridge").count("\n") == 0


def test_a_gateway_other_than_the_bridge(launcher: Launcher) -> None:
    launcher.host.namespace.ip(["link add br1 type bridge", "addr add 172.16.43.1/24 dev br1", "link set br1 up"])
    words = ["-I", "br1", "--alone", "--gateway", "172.16.43.9", "--rm", "busybox", "ip", "route"]
    try:
        for _ in range(2):  # with the network made, and found
            done = launcher.run(*words)
            assert done.returncode == 0, done.stderr
            assert "default via 172.16.43.9" in done.stdout
        assert launcher.host.command("ip", "-brief", "-4", "address", "show", "br1").stdout.split()[2:] == [
            "172.16.43.1/24"
        ]
    finally:
        launcher.host.docker("network", "rm", "arpipam-br1", check=False)
        launcher.host.namespace.ip(["link delete br1"])


@pytest.mark.both_engines
def test_on_a_macvlan_network(launcher: Launcher) -> None:
    host, wire = launcher.host, launcher.wire
    wire.plug(host.namespace, "lan0")
    host.namespace.ip(["addr add 172.16.42.50/24 dev lan0", "link set lan0 up"])
    options = ["-o", "parent=lan0", "--subnet", "172.16.42.0/24", "--gateway", "172.16.42.50"]
    moved = host.docker("network", "rm", "arpipam-docker0", check=False)  # Docker takes a subnet only once
    assert moved.returncode in {0, 1}
    try:
        host.docker("network", "create", "--driver", "macvlan", *options, "lan")
        for words in (["--network", "lan"], []):
            done = launcher.run("-I", "lan0", *words, "--json", "-d", *FOREVER)
            assert done.returncode == 0, done.stderr
            claim = json.loads(done.stderr.splitlines()[0])
            assert wire.who_has(claim["address"]) == {claim["mac"]}
        assert len({launcher.address(container) for container in launcher.containers()}) == 2
    finally:
        if containers := launcher.containers():
            host.docker("rm", "--force", *containers)
        host.docker("network", "rm", "lan", check=False)
        host.namespace.ip(["link delete lan0"])


def test_addresses_that_the_engine_has_promised_are_passed_over(launcher: Launcher) -> None:
    launcher.run("--rm", "busybox", "true")
    launcher.docker("create", "--network", "arpipam-docker0", "--ip", SECOND, "busybox", "true")
    done = launcher.run("--range", f"{SECOND}-172.16.42.5", "--rm", "busybox", "sh", "-c", SHOW)
    assert done.returncode == 0
    assert done.stdout.split()[0] == "172.16.42.5/24"
