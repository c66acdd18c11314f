"""arpipam-run on real engines in a race: with the engine for an address, with the neighbours, and with its own end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.leases.lease import LeaseState
from arpipam.protocol import arp
from tests.support.launchers import FIRST, FOREVER, SECOND, SHOW, Launcher, one_client
from tests.support.profile import by_day
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Callable

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


@one_client
@pytest.mark.parametrize("words", [["--rm"], ["--name", "web"]])
def test_when_the_engine_took_the_address_it_goes_on_to_the_next(words: list[str], robbed: Launcher) -> None:
    done = robbed.run(*words, "busybox", "sh", "-c", SHOW, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == f"{SECOND}/24"
    assert f"the engine has given {FIRST} to" in done.stderr


@one_client
@pytest.mark.parametrize(("status", "rests"), [(0, True), (7, True), (125, False)])
def test_an_address_rests_though_nobody_saw_its_container(
    any_launcher: Launcher, tmp_path: Path, status: int, *, rests: bool
) -> None:
    """It may have lived for a moment only; docker says 125 where it could not be started."""
    assert any_launcher.run("--rm", "busybox", "true").returncode == 0
    docker = (tmp_path / "bin/docker").readlink()
    (tmp_path / "bin/docker").unlink()
    (tmp_path / "bin/docker").write_text(f'#!/bin/sh\n[ "$1" = run ] && exit {status}\nexec {docker} "$@"\n')
    (tmp_path / "bin/docker").chmod(0o755)
    assert any_launcher.run("--name", "unseen", "busybox", "true").returncode == status
    resting = {str(lease.address) for lease in any_launcher.leases(LeaseState.QUARANTINED)}
    assert resting == ({FIRST, SECOND} if rests else {FIRST})


@one_client
def test_its_input_is_read_again_from_a_file(robbed: Launcher, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("all of it")
    with (tmp_path / "input").open() as file:
        done = robbed.run("-i", "--rm", "busybox", "cat", stdin=file)
    assert (done.returncode, done.stdout) == (0, "all of it")


@one_client
def test_input_from_a_pipe_is_never_lost_silently(robbed: Launcher) -> None:
    done = robbed.run("-i", "--rm", "busybox", "cat", input="gone")
    assert done.returncode == 125
    assert done.stdout == ""


@one_client
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
    [lease] = any_launcher.leases(LeaseState.BOUND)
    assert {arp.mac_text(packet.sender_mac) for packet in mine} == {lease.mac}
    assert sum(packet.operation == arp.REPLY for packet in mine) >= asked


STAGES: dict[str, Callable[[Launcher], Any]] = {
    "reserved": lambda launcher: (
        (Path(launcher.env["ARPIPAM_STATE_DIR"]) / "leases.db").exists() and launcher.leases(LeaseState.CLAIMED)
    ),
    "created": lambda launcher: launcher.containers(),
    "running": lambda launcher: launcher.docker("ps", "-q"),
    "bound": lambda launcher: launcher.docker("ps", "-q") and launcher.leases(LeaseState.BOUND),
}
VICTIMS = ("launcher", "docker too")


KILLS = [(stage, victim) for stage in STAGES for victim in VICTIMS]
KILLS_BY_DAY = [(stage, VICTIMS[turn % 2]) for turn, stage in enumerate(STAGES)]


@pytest.mark.parametrize(("stage", "victim"), by_day(KILLS, *KILLS_BY_DAY))
def test_killed_at_any_point_no_address_is_held_by_two(stage: str, victim: str, launcher: Launcher) -> None:
    process = launcher.spawn("--name", "killed", *FOREVER)
    until(lambda: STAGES[stage](launcher), lambda: f"{stage}: {process.poll()} {launcher.leases(*LeaseState)}")
    if victim == "docker too":
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
    held = [lease.address for lease in launcher.leases(LeaseState.CLAIMED, LeaseState.BOUND, LeaseState.QUARANTINED)]
    assert len(set(held)) == len(held)
    assert set(map(IPv4Address, addresses)) <= set(held)
