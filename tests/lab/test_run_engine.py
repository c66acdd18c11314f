"""arpipam-run on real engines: what the container, the network and the lease store see of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arpipam import arp
from arpipam.lab import CLIENTS, Host, Lab, Wire
from arpipam.leases import Lease, SqliteLeaseStore, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUN = str(Path(sys.executable).parent / "arpipam-run")
FOREIGN = "172.16.42.2"  # a machine on the network that Docker knows nothing of
FIRST, SECOND = "172.16.42.3", "172.16.42.4"  # the first addresses that nobody has
SHOW = "ip -o addr show eth0 | awk '/inet /{print $4}'; cat /sys/class/net/eth0/address"
FOREVER = ["busybox", "sleep", "1000"]


@dataclass
class Launcher:
    """arpipam-run on a host of the lab, with a lease store of its own."""

    host: Host
    wire: Wire
    env: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        env = self.env | options.pop("env", {})
        return self.host.command(RUN, *words, env=env, timeout=60, **options)

    def spawn(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start it, in a process group of its own."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        process = self.host.spawn(RUN, *words, env=self.env, text=True, process_group=0, **pipes)
        self.started.append(process)
        return process

    def docker(self, *words: str) -> str:
        """What docker says."""
        return self.host.docker(*words).stdout.strip()

    def leases(self, *states: State) -> list[Lease]:
        """The leases in these states."""
        with SqliteLeaseStore(Path(self.env["ARPIPAM_STATE_DIR"]) / "leases.db") as store:
            return store.leases(states=states)

    def containers(self) -> list[str]:
        """All containers."""
        return self.docker("ps", "-aq", "--no-trunc").split()

    def address(self, container: str) -> str:
        """The address that the engine has for a container."""
        return self.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container)


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[Host, Wire]]:
    with Lab() as lab:
        wire = lab.wire()
        host = lab.host("host", wire, "172.16.42.1/24", engine=True)
        lab.start()
        lab.station("foreign", wire, f"{FOREIGN}/24")
        yield host, wire


@pytest.fixture(params=CLIENTS, ids=lambda path: path.replace("/", "-").strip("-"))
def client(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder in which `docker` is one of this machine's clients."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").symlink_to(request.param)
    return str(tmp_path / "bin")


@contextmanager
def launching(lab: tuple[Host, Wire], tmp_path: Path, **env: str) -> Iterator[Launcher]:
    host, wire = lab
    launcher = Launcher(host, wire, {"ARPIPAM_STATE_DIR": str(tmp_path / "state")} | env)
    try:
        yield launcher
    finally:
        for process in launcher.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        if containers := launcher.containers():
            host.docker("rm", "--force", "--volumes", *containers)


@pytest.fixture
def launcher(lab: tuple[Host, Wire], tmp_path: Path) -> Iterator[Launcher]:
    with launching(lab, tmp_path) as launcher:
        yield launcher


@pytest.fixture
def any_launcher(lab: tuple[Host, Wire], tmp_path: Path, client: str) -> Iterator[Launcher]:
    """The same with each docker client of this machine."""
    with launching(lab, tmp_path, PATH=f"{client}:{os.environ['PATH']}") as launcher:
        yield launcher


def until(condition: Callable[[], Any]) -> Any:
    """The first true value of the condition."""
    while not (value := condition()):
        time.sleep(0.02)
    return value


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


def test_detached_it_stays_until_the_container_answers_for_itself(any_launcher: Launcher) -> None:
    done = any_launcher.run("--json", "-d", *FOREVER)
    assert done.returncode == 0, done.stderr
    [container] = any_launcher.containers()
    assert done.stdout == f"{container}\n"
    claims = [json.loads(line) for line in done.stderr.splitlines()]
    assert claims[-1]["state"] == "handed over"
    assert any_launcher.wire.who_has(FIRST) == {claims[0]["mac"]}
    [lease] = any_launcher.leases(State.BOUND)
    assert lease.container.startswith(f"{container}@")
    label = any_launcher.docker("inspect", "-f", '{{index .Config.Labels "arpipam.lease"}}', container)
    assert label == str(lease.id)
    assert any_launcher.run("-d", *FOREVER).returncode == 0
    assert sorted(map(any_launcher.address, any_launcher.containers())) == [FIRST, SECOND]


def test_a_removed_container_gives_its_address_back(launcher: Launcher) -> None:
    assert launcher.run("--rm", "busybox", "true").returncode == 0
    assert launcher.leases(State.CLAIMED, State.BOUND) == []
    [lease] = launcher.leases(State.QUARANTINED)
    assert lease.address == IPv4Address(FIRST)


def test_a_stopped_container_keeps_its_address(launcher: Launcher) -> None:
    assert launcher.run("--name", "stopped", "busybox", "sh", "-c", "sleep 0.2; exit 3").returncode == 3
    [lease] = launcher.leases(State.BOUND)
    assert lease.address == IPv4Address(FIRST)
    assert launcher.run("--name", "other", "-d", *FOREVER).returncode == 0
    assert launcher.address("other") == SECOND
    assert launcher.host.docker("start", "-a", "stopped", check=False).returncode == 3


def test_a_container_that_went_without_us_is_found_by_the_next_run(launcher: Launcher) -> None:
    assert launcher.run("--name", "web", "-d", *FOREVER).returncode == 0
    launcher.docker("rm", "--force", "web")
    assert [lease.address for lease in launcher.leases(State.BOUND)] == [IPv4Address(FIRST)]
    assert launcher.run("--name", "other", "-d", *FOREVER).returncode == 0
    assert [lease.address for lease in launcher.leases(State.BOUND)] == [IPv4Address(SECOND)]
    assert [lease.address for lease in launcher.leases(State.QUARANTINED)] == [IPv4Address(FIRST)]


@pytest.mark.parametrize("options", [["--order", "sticky"], ["--ip", FIRST]])
def test_the_same_container_made_anew_has_its_address_again(options: list[str], launcher: Launcher) -> None:
    words = [*options, "--name", "web", "-d", *FOREVER]
    assert launcher.run(*words).returncode == 0
    before = launcher.address("web")
    launcher.docker("rm", "--force", "web")
    assert launcher.run(*words).returncode == 0
    assert launcher.address("web") == before


def nothing_left(launcher: Launcher) -> bool:
    return not launcher.containers() and not launcher.leases(State.CLAIMED, State.BOUND)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stderr.startswith("arpipam-run: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    return done.stderr


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
        until(lambda: launcher.leases(State.CLAIMED))
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


THIEF = """#!/bin/sh
# Takes the address at the last moment, once, as another user of the engine may.
if [ "$1" = run ] && mkdir {marker} 2>/dev/null; then
  for word; do [ "$before" = --ip ] && address=$word; before=$word; done
  {docker} run --detach --rm --network arpipam-docker0 --ip $address busybox sleep 1000 >/dev/null
fi
exec {docker} "$@"
"""


@pytest.fixture
def robbed(any_launcher: Launcher, tmp_path: Path) -> Launcher:
    """A launcher whose first address the engine gives away between claim and start."""
    assert any_launcher.run("--rm", "busybox", "true").returncode == 0
    (tmp_path / "state" / "leases.db").unlink()
    docker = (tmp_path / "bin/docker").readlink()
    (tmp_path / "bin/docker").unlink()
    (tmp_path / "bin/docker").write_text(THIEF.format(marker=tmp_path / "taken", docker=docker))
    (tmp_path / "bin/docker").chmod(0o755)
    return any_launcher


@pytest.mark.parametrize("words", [["--rm"], ["--name", "web"]])
def test_when_the_engine_took_the_address_it_goes_on_to_the_next(words: list[str], robbed: Launcher) -> None:
    done = robbed.run(*words, "busybox", "sh", "-c", SHOW, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == f"{SECOND}/24"
    assert f"the engine has given {FIRST} to" in done.stderr


def test_its_input_is_read_again_from_a_file(robbed: Launcher, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("all of it")
    with (tmp_path / "input").open() as file:
        done = robbed.run("-i", "--rm", "busybox", "cat", stdin=file)
    assert (done.returncode, done.stdout) == (0, "all of it")


def test_input_from_a_pipe_is_never_lost_silently(robbed: Launcher) -> None:
    done = robbed.run("-i", "--rm", "busybox", "cat", input="gone")
    assert done.returncode == 125
    assert done.stdout == ""


def test_a_given_address_that_the_engine_took_is_in_use(robbed: Launcher) -> None:
    done = robbed.run("--ip", FIRST, "--rm", "busybox", "true", stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert f"the engine has given {FIRST} to" in done.stderr


def test_the_neighbours_learn_one_mac_and_are_always_answered(any_launcher: Launcher) -> None:
    """From the first announcement on, over the hand-over, until the container is well up."""
    wire = any_launcher.wire
    question = arp.probe(bytes.fromhex("02a1b2c3d4e6"), int(IPv4Address(FIRST)))
    asked = 0
    with wire.capture() as capture:
        process = any_launcher.spawn("-d", *FOREVER)
        while process.poll() is None or asked < 10:
            capture.read()
            if any(packet.sender_ip == int(IPv4Address(FIRST)) for _, packet in capture.packets):
                before = len(capture.packets)
                capture.socket.send(question)
                asked += 1
                until(lambda before=before: list(capture.read()) and len(capture.packets) > before)  # type: ignore[misc]
            time.sleep(0.01)
    mine = [packet for _, packet in capture.packets if packet.sender_ip == int(IPv4Address(FIRST))]
    assert process.returncode == 0
    [lease] = any_launcher.leases(State.BOUND)
    assert {arp.mac_text(packet.sender_mac) for packet in mine} == {lease.mac}
    assert sum(packet.operation == arp.REPLY for packet in mine) >= asked


STAGES: dict[str, Callable[[Launcher], Any]] = {
    "reserved": lambda launcher: (
        (Path(launcher.env["ARPIPAM_STATE_DIR"]) / "leases.db").exists() and launcher.leases(State.CLAIMED)
    ),
    "created": lambda launcher: launcher.containers(),
    "running": lambda launcher: launcher.docker("ps", "-q"),
    "bound": lambda launcher: launcher.docker("ps", "-q") and launcher.leases(State.BOUND),
}


@pytest.mark.parametrize("all_of_it", [False, True], ids=["launcher", "docker too"])
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_point_no_address_is_held_by_two(stage: str, all_of_it: bool, launcher: Launcher) -> None:  # noqa: FBT001 - a case
    process = launcher.spawn("--name", "killed", *FOREVER)
    until(lambda: STAGES[stage](launcher))
    if all_of_it:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    done = launcher.run("--name", "next", "-d", *FOREVER)
    assert done.returncode == 0, done.stderr
    addresses = [address for name in launcher.containers() if (address := launcher.address(name))]
    assert len(set(addresses)) == len(addresses)
    for address in addresses:
        assert len(launcher.wire.who_has(address)) == 1
    held = [lease.address for lease in launcher.leases(State.CLAIMED, State.BOUND, State.QUARANTINED)]
    assert len(set(held)) == len(held)
    assert set(map(IPv4Address, addresses)) <= set(held)
