"""arpipam-run without an agent: what happens to its claim while it waits for a slow engine."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Lab
from arpipam.leases.lease import LeaseState
from tests.support.launchers import FIRST, SECOND, SHOW, Launcher, launching, nothing_left
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from arpipam.lab.capture import Capture
    from arpipam.lab.stations import LabStation

TAKEN = 1


@contextmanager
def stopped(launcher: Launcher) -> Iterator[Callable[[], None]]:
    """What stops the engine, until the end of the block."""
    engine = launcher.host.engine
    assert engine is not None
    assert engine.process is not None
    try:
        yield partial(engine.process.send_signal, signal.SIGSTOP)
    finally:
        engine.process.send_signal(signal.SIGCONT)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Launcher, LabStation]]:
    """A host with an engine and a Docker network, and a station, which has the first address."""
    with Lab() as lab:
        wire = lab.wire()
        host = lab.host("host", wire, "172.16.42.1/24", engine=True)
        lab.start()
        lab.station("foreign", wire, "172.16.42.2/24")
        with launching((host, wire), tmp_path) as launcher:
            assert launcher.run("--rm", "busybox", "true").returncode == 0
            (tmp_path / "state" / "leases.db").unlink()
            yield launcher, lab.station("late", wire, "172.16.42.50/24")


def seen(capture: Capture, *, announced: bool) -> bool:
    """Whether the first address was asked for, or announced, on the wire."""
    capture.read()
    packets = [packet for _, packet in capture.packets if packet.target_ip == int(IPv4Address(FIRST))]
    return any(bool(packet.sender_ip) == announced and packet.sender_ip in {0, packet.target_ip} for packet in packets)


def lose_it(launcher: Launcher, station: LabStation) -> None:
    """The host's cable is out for a moment, in which the station takes the first address."""
    launcher.host.namespace.ip(["link set uplink down"])
    station.namespace.ip([f"addr add {FIRST}/24 dev eth0"])
    launcher.host.namespace.ip(["link set uplink up"])


def test_an_address_that_was_taken_while_the_engine_was_slow_is_not_given(place: tuple[Launcher, LabStation]) -> None:
    launcher, station = place
    with stopped(launcher) as stop, launcher.wire.capture() as capture:
        stop()
        process = launcher.spawn("--rm", "busybox", "sh", "-c", SHOW)
        until(lambda: seen(capture, announced=True), "an announcement")
        lose_it(launcher, station)
    said, complained = process.communicate(timeout=60)
    assert process.returncode == 0, complained
    assert said.split()[0] == f"{SECOND}/24"
    assert f"has taken {FIRST} meanwhile; going on to the next" in complained
    assert launcher.wire.who_has(FIRST) == {station.mac}
    assert not launcher.leases(LeaseState.CLAIMED, LeaseState.BOUND)


def test_a_named_one_ends_in_one_line(place: tuple[Launcher, LabStation]) -> None:
    launcher, station = place
    launcher.docker("network", "rm", "arpipam-docker0")  # so that the engine is asked once more after the claim
    with stopped(launcher) as stop, launcher.wire.capture() as capture:
        process = launcher.spawn("--timing", "rfc5227", "--ip", FIRST, "busybox", "true")
        until(lambda: seen(capture, announced=False), "a probe")
        stop()
        until(lambda: seen(capture, announced=True), "an announcement")
        lose_it(launcher, station)
    _, complained = process.communicate(timeout=60)
    assert process.returncode == TAKEN, complained
    assert f"has taken {FIRST} meanwhile; take another" in complained.splitlines()[-1]
    assert nothing_left(launcher)
    assert launcher.wire.who_has(FIRST) == {station.mac}
