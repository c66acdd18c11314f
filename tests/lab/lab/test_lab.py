"""The lab itself: its faults are what was asked for, and nothing of it is left however it ends."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from ipaddress import IPv4Address
from itertools import count
from math import sqrt
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Lab, cleanup
from arpipam.lab.capture import Capture, who_has, who_have
from arpipam.protocol import arp
from tests.support.traces import traces
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.lab import Wire
    from arpipam.lab.stations import LabStation

LONG = 60.0
"""Seconds after which a condition that was waited for will not come any more."""
FRAMES = 10_000
SIGMAS = 6.0
"""So far from the mean, a fair count is once in five hundred million times."""
DELAY = 0.06
_numbers = count()


def number(address: str) -> int:
    return int(IPv4Address(address))


# The faults of a wire.


@pytest.fixture(scope="module")
def stations() -> Iterator[tuple[Wire, list[LabStation]]]:
    """Three stations on a wire: 172.16.42.1, .2 and .3."""
    with Lab() as lab:
        wire = lab.wire()
        yield wire, [lab.station(f"s{n}", wire, f"172.16.42.{n}/24") for n in (1, 2, 3)]


@pytest.fixture
def three(stations: tuple[Wire, list[LabStation]]) -> Iterator[tuple[Wire, list[LabStation]]]:
    """The same, whole again when the test ends."""
    yield stations
    stations[0].loss = 0
    stations[0].heal()


def listen(station: LabStation) -> Capture:
    with station.namespace.inside():
        return Capture("eth0")


@pytest.mark.parametrize("percent", [0, 0.5, 10, 30, 90])
@pytest.mark.timing
def test_as_many_frames_are_lost_as_was_asked_and_each_receiver_loses_its_own(
    three: tuple[Wire, list[LabStation]], percent: float
) -> None:
    wire, (first, second, third) = three
    mac = b"\x02\xcc" + next(_numbers).to_bytes(4, "big")
    frames = [arp.request(mac, 0x0A000000 + n, 0x0A800000) for n in range(FRAMES)]
    end = arp.request(mac, 0x0A7FFFFF, 0x0A800000)
    wire.loss = percent
    got: list[set[int]] = []
    with listen(second) as one, listen(third) as other:
        first.send(frames)
        wire.loss = 0
        first.send([end])
        for capture in (one, other):
            until(lambda capture=capture: any(p.sender_ip == 0x0A7FFFFF for _, p in capture.read()))  # type: ignore[misc]
            heard = [packet.sender_ip - 0x0A000000 for _, packet in capture.packets if packet.sender_mac == mac]
            assert len(heard) == len(set(heard))  # and none comes twice
            got.append(set(heard) - {0x7FFFFF})
    share = percent / 100

    def fair(lost: int, chance: float) -> bool:
        return abs(lost - FRAMES * chance) <= SIGMAS * sqrt(FRAMES * chance * (1 - chance))

    assert fair(FRAMES - len(got[0]), share)
    assert fair(FRAMES - len(got[1]), share)
    assert fair(FRAMES - len(got[0] | got[1]), share**2)


def round_trip(asker: LabStation, address: str) -> float:
    """Seconds from a question to its answer."""
    mac = b"\x02\xdd" + next(_numbers).to_bytes(4, "big")
    with listen(asker) as capture:
        started = time.monotonic()
        asker.send([arp.request(mac, number("172.16.42.77"), number(address))])
        while True:
            select.select([capture.socket], [], [], LONG)
            if any(packet.target_mac == mac for _, packet in capture.read()):
                return time.monotonic() - started


@pytest.mark.timing
def test_a_delay_is_that_of_each_way_and_of_one_station_alone() -> None:
    with Lab() as lab:
        wire = lab.wire()
        near, far, other = (lab.station(f"s{n}", wire, f"172.16.42.{n}/24") for n in (1, 2, 3))
        wire.delay(far, DELAY)
        late = [round_trip(near, "172.16.42.2") for _ in range(5)]
        back = [round_trip(far, "172.16.42.1") for _ in range(5)]
        assert min(late + back) >= 2 * DELAY
        assert min(round_trip(near, "172.16.42.3") for _ in range(5)) < min(late)
        wire.cut(far)  # a station with a delay is cut and healed as any other
        assert near.who_has("172.16.42.2") == set()
        wire.heal(far)
        assert round_trip(near, "172.16.42.2") >= 2 * DELAY
        wire.delay(far, 0.0)
        assert min(round_trip(near, "172.16.42.2") for _ in range(5)) < min(late)
        assert round_trip(other, "172.16.42.1") > 0


def test_a_delay_keeps_the_order_and_loses_nothing() -> None:
    with Lab() as lab:
        wire = lab.wire()
        near, far = (lab.station(f"s{n}", wire, f"172.16.42.{n}/24") for n in (1, 2))
        wire.delay(far, 0.01)
        sent = [0x0A000000 + n for n in range(200)]
        with listen(far) as capture:
            near.send([arp.request(arp.mac_bytes(near.mac), n, 0x0A800000) for n in sent])

            def heard() -> list[int]:
                capture.read()
                return [packet.sender_ip for _, packet in capture.packets if packet.target_ip == 0x0A800000]

            until(lambda: sent[-1] in heard())
            assert heard() == sent


def test_cut_cuts_one_off_from_all_and_heal_heals(three: tuple[Wire, list[LabStation]]) -> None:
    wire, (first, second, third) = three
    macs = {n: {station.mac} for n, station in enumerate((first, second, third), 1)}

    def seen(station: LabStation, *others: int) -> list[int]:
        asked = who_have(station.namespace, "eth0", [f"172.16.42.{n}" for n in others], timeout=0.1)
        return [n for n in others if asked[f"172.16.42.{n}"] == macs[n]]

    assert (seen(first, 2, 3), seen(second, 1, 3), seen(third, 1, 2)) == ([2, 3], [1, 3], [1, 2])
    wire.cut(second)
    with listen(second) as second_hears, listen(third) as third_hears:
        assert (seen(first, 2, 3), seen(second, 1, 3), seen(third, 1, 2)) == ([3], [], [1])
    # Neither way: each has heard its own and what passes between the others, but nothing across the cut.
    asked_by = [{packet.target_ip & 0xFF for _, packet in hears.packets} for hears in (second_hears, third_hears)]
    assert asked_by[0] == {1, 3}
    assert asked_by[1] >= {1, 2}
    assert "LOWER_UP" in second.namespace.run("ip", "link", "show", "eth0")  # as behind a dead tunnel
    wire.cut(third)
    assert (seen(first, 2, 3), seen(second, 1, 3), seen(third, 1, 2)) == ([], [], [])
    wire.heal(second)
    assert (seen(first, 2, 3), seen(second, 1, 3), seen(third, 1, 2)) == ([2], [1], [])
    wire.heal()
    assert (seen(first, 2, 3), seen(second, 1, 3), seen(third, 1, 2)) == ([2, 3], [1, 3], [1, 2])


# How it ends.

LAB = """
import sys, time
from arpipam.lab import Lab
with Lab() as lab:
    print(lab.id, flush=True)
    first, second, underlay = lab.two_hosts()
    first.docker("run", "--detach", "--network", "none", "busybox", "sleep", "1000")
    lab.station("station", first, "172.16.42.9/24")
    print("up", flush=True)
    time.sleep(1000)
"""


@contextmanager
def running(wait_for: str = "up") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has a lab with engines, a container, Open vSwitch and a station; and the lab's id."""
    process = subprocess.Popen([sys.executable, "-c", LAB], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lab = process.stdout.readline().strip()
    try:
        assert lab
        if wait_for == "up":
            assert process.stdout.readline() == "up\n"
        else:  # somewhere in the middle of its start
            until(lambda: wait_for in str(traces(lab).get("processes")))
        yield process, lab
    finally:
        process.kill()
        process.communicate()
        cleanup.remove(lab)


def clean() -> list[str]:
    done = subprocess.run([sys.executable, "-m", "arpipam.lab", "clean"], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.engine
def test_clean_removes_all_of_a_lab_whose_process_was_killed_and_nothing_of_others(lab: Lab) -> None:
    wire = lab.wire()
    mine = lab.station("mine", wire, "172.16.42.1/24")
    with running() as (process, other):
        assert f"removed {other}" not in clean()  # it lives
        process.kill()
        process.wait()
        left = traces(other)
        assert set(left) == {"files", "namespaces", "groups", "processes", "mounts"}
        assert {"dockerd", "ovs-vswitchd", "sleep"} <= {name.partition(" ")[2] for name in left["processes"]}
        assert f"removed {other}" in clean()
        assert traces(other) == {}
        assert clean().count(f"removed {other}") == 0
    assert wire.who_has("172.16.42.1") == {mine.mac}
    assert set(traces(lab.id)) >= {"files", "namespaces"}


@pytest.mark.parametrize("wait_for", ["up", "dockerd"], ids=["up", "while it starts"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.engine
def test_a_lab_that_is_told_to_end_leaves_nothing(number: signal.Signals, wait_for: str) -> None:
    with running(wait_for) as (process, lab):
        process.send_signal(number)
        _, said = process.communicate()
        assert traces(lab) == {}
    if number is signal.SIGTERM:
        assert (process.returncode, said) == (128 + signal.SIGTERM, "")
    else:
        assert process.returncode == -signal.SIGINT
        assert said.splitlines()[-1].strip() == "KeyboardInterrupt"


@pytest.mark.engine
def test_two_labs_at_once_do_not_disturb_each_other() -> None:
    """They have the same names and addresses, and know nothing of each other."""
    with Lab() as second:
        with Lab() as first:
            wires, hosts, stations = [], [], []
            for lab in (first, second):
                wires.append(lab.wire())
                hosts.append(lab.host("host", wires[-1], "172.16.42.1/24", engine=True))
                lab.start()
                stations.append(lab.station("station", wires[-1], "172.16.42.2/24"))
                lab.hosts["host"].docker(
                    "run", "--detach", "--network", "none", "--name", "same", "busybox", "sleep", "99"
                )
            for wire, station in zip(wires, stations, strict=True):
                assert wire.who_has("172.16.42.2") == {station.mac}
            wires[0].cut(stations[0])
            wires[0].loss = 90
            seen = [who_has(host.namespace, host.bridge, "172.16.42.2") for host in hosts]
            assert seen == [set(), {stations[1].mac}]
            with wires[0].capture() as capture:
                stations[1].send([arp.announcement(arp.mac_bytes(stations[1].mac), number("172.16.42.3"))])
                assert wires[1].who_has("172.16.42.1") != set()
            assert capture.packets == []
        assert traces(first.id) == {}
        assert wires[1].who_has("172.16.42.2") == {stations[1].mac}
        assert hosts[1].docker("ps", "--format", "{{.Names}}").stdout == "same\n"
        assert stations[1].ping("172.16.42.1")
    assert traces(second.id) == {}


@pytest.mark.engine
def test_what_containerd_dumps_is_within_the_lab(lab: Lab) -> None:
    host = lab.host("host", engine=True)
    lab.start()
    pid = int((host.directory / "exec/containerd/containerd.pid").read_text())
    os.kill(pid, signal.SIGUSR1)
    assert until(lambda: list(host.directory.glob(f"tmp/containerd.{pid}.*")))


@pytest.mark.engine
def test_an_error_in_the_midst_of_it_leaves_nothing() -> None:
    with pytest.raises(OSError, match="of the test"), Lab() as lab:  # noqa: PT012 - the lab ends with it
        lab.wire()
        host = lab.host("host", engine=True)
        lab.start()
        with host.namespace.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
            raise OSError("of the test")
    assert traces(lab.id) == {}
