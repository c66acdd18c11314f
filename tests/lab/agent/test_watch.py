"""What an agent sees on the link: others that use its addresses, who was there, and the link itself."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from contextlib import contextmanager
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from arpipam.lab import Lab
from arpipam.lab.capture import Capture, who_have
from arpipam.protocol import arp
from launcher.agent.contract import ClaimRequest
from launcher.agent.hooks import TIME as HOOK_TIME
from launcher.agent.memory import LIMIT
from launcher.lab.agents import AgentOn
from tests.support import fabrics
from tests.support.agents import Watching, agent_on, last_lines, running, visiting
from tests.support.fabrics import ARPIPAM
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.lab import Host, Wire
    from arpipam.lab.stations import LabStation
    from launcher.agent.client.remote_claim import RemoteClaim
    from launcher.agent.contract import NetworkView

DEFEND_INTERVAL = 10.0
"""Seconds between two announcements against the same claimant (RFC 5227, 2.4 c)."""


def lone_host(lab: Lab, *, engine: bool = True) -> tuple[Host, Wire]:
    """A host with a bridge that the engine leaves alone, and a station on its wire, the witness of every search."""
    wire = lab.wire()
    host = lab.host("host1", wire, "172.16.42.1/24", engine=engine, bridge="lan0")
    lab.start()
    lab.station("printer", wire, "172.16.42.3/24")
    return host, wire


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Lab, Host, Wire]]:
    """Such a host for several tests."""
    with Lab() as lab:
        yield lab, *lone_host(lab)


@contextmanager
def ready_agent(host: Host, **settings: Any) -> Iterator[AgentOn]:
    """An agent with a network that has a ready address."""
    with agent_on(host, **settings) as agent:
        agent.wait_ready(1)
        yield agent


def view(agent: AgentOn) -> NetworkView:
    [network] = agent.client.status().networks
    return network


def as_number(address: str) -> int:
    return int(IPv4Address(address))


@contextmanager
def capturing(station: LabStation) -> Iterator[Capture]:
    """All ARP packets that come to a station."""
    with station.namespace.inside():
        capture = Capture("eth0")
    with capture:
        yield capture


def announced(capture: Capture, address: str, mac: str, since: float) -> list[float]:
    """When the agent announced the address under this MAC; a kernel never says since when it has it."""
    capture.read()
    return [
        at
        for at, packet in capture.packets
        if packet.since
        and at > since
        and (packet.sender_ip, arp.mac_text(packet.sender_mac)) == (as_number(address), mac)
    ]


def take_by_hand(station: LabStation, address: str) -> None:
    """As somebody does who types it into a machine: the kernel says so once and answers from then on."""
    station.namespace.ip([f"addr add {address}/24 dev eth0"])
    station.send([arp.announcement(arp.mac_bytes(station.mac), as_number(address))])


def insist(station: LabStation, address: str, seconds: float, capture: Capture) -> None:
    """It goes on saying that the address is its own; what is captured meanwhile gets its time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        station.send([arp.announcement(arp.mac_bytes(station.mac), as_number(address))])
        pause = time.monotonic() + 0.5
        while time.monotonic() < pause:
            capture.read()
            time.sleep(0.02)


@contextmanager
def shown(agent: AgentOn) -> Iterator[subprocess.Popen[str]]:
    """`arpipam watch --json`, as long as the context lasts."""
    words = [ARPIPAM, "watch", "--json", "--socket", str(agent.socket)]
    with agent.host.spawn(*words, stdout=subprocess.PIPE, text=True) as command:
        try:
            yield command
        finally:
            command.terminate()


def shown_conflict(command: subprocess.Popen[str]) -> dict[str, Any]:
    """The first conflict that `arpipam watch --json` shows."""
    assert command.stdout is not None
    return next(event for event in map(json.loads, command.stdout) if event["kind"] == "conflict")


# Conflicts.


@pytest.mark.parametrize("policy", ["defend", "report", "move"])
@pytest.mark.slow
def test_a_machine_that_takes_the_address_of_a_container(
    place: tuple[Lab, Host, Wire], capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    """It is told at once to all who listen, and met by the policy of the network."""
    lab, host, wire = place
    hooked = host.directory / "hooked"
    hook = host.directory / "hook"
    hook.write_text(f"#!/bin/sh\ncat >> {hooked}\n")
    hook.chmod(stat.S_IRWXU)
    hooked.unlink(missing_ok=True)
    with (
        agent_on(host, agent={"hook": str(hook)}, policy=policy, ready=2) as agent,
        visiting(lab, "thief", wire) as thief,
        visiting(lab, "bystander", wire, "172.16.42.4/24") as bystander,
    ):
        agent.run("web")
        address, mac = running(agent)["web"]
        agent.wait(lambda: agent.leases()[address].guarded == "container")
        with shown(agent) as command, Watching(agent) as watching, capturing(bystander) as capture:
            time.sleep(3)  # in which the command has begun, and the announcements of the start are over
            taken = time.monotonic()
            take_by_hand(thief, address)
            at, conflict = watching.wait("conflict", address=address)
            assert (conflict.mac, conflict.other, conflict.owner) == (mac, thief.mac, "web")
            line = shown_conflict(command)
            assert (line["address"], line["other"]) == (address, thief.mac)
            agent.wait(lambda: hooked.exists() and hooked.read_text().endswith("\n"))
            told = json.loads(hooked.read_text().splitlines()[0])
            assert (told["kind"], told["address"], told["other"]) == ("conflict", address, thief.mac)
            if policy == "move":
                _, moved = watching.wait("moved", address=address)
                assert moved.owner == "web"
                assert watching.of("released", address=address)
                assert not watching.of("taken over", address=address)  # the thief would be contradicted once more
                new, _ = running(agent)["web"]
                assert new != address
                assert bystander.ping(new)
                agent.wait(lambda: agent.leases()[new].guarded == "container")
                assert who_have(bystander.namespace, "eth0", [address, new]) == {
                    address: {thief.mac},
                    new: {running(agent)["web"][1]},
                }
            else:
                assert agent.leases()[address].conflict == thief.mac
                insist(thief, address, (1.5 if policy == "defend" else 0.5) * DEFEND_INTERVAL, capture)
                defences = announced(capture, address, mac, taken)
                assert bool(defences) == (policy == "defend")
                gaps = [later - earlier for earlier, later in pairwise(defences)]
                assert all(gap > 0.95 * DEFEND_INTERVAL for gap in gaps), gaps
                assert running(agent)["web"] == (address, mac)
    with capsys.disabled():
        print(f" told after {1000 * (at - taken):.0f} ms ", end="")  # noqa: T201 - to be seen


def test_a_hook_that_hangs_holds_up_nothing_and_ends_with_the_agent(place: tuple[Lab, Host, Wire]) -> None:
    """Its time limit is 30 s: until then conflicts are told, containers start, and the agent can stop."""
    lab, host, wire = place
    hook, alive = host.directory / "hanging", host.directory / "alive"
    hook.write_text(f"#!/bin/sh\nexec 3<>{alive}\necho here >&3\nsleep 4711.5 &\nwait\n")
    hook.chmod(stat.S_IRWXU)
    os.mkfifo(alive)
    reading = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)

    def read() -> bytes | None:
        """What the hooks said; empty once no process of them is left, None while there is nothing new."""
        try:
            return os.read(reading, 100)
        except BlockingIOError:
            return None

    with (
        agent_on(host, agent={"hook": str(hook)}, policy="report", ready=2) as agent,
        visiting(lab, "thief", wire) as thief,
        Watching(agent) as watching,
    ):
        for name in ("one", "two"):
            agent.run(name)
            address = agent.address(name)
            agent.wait(lambda address=address: agent.leases()[address].guarded == "container")
            take_by_hand(thief, address)
            watching.wait("conflict", address=address)
        agent.wait(read)
        began = time.monotonic()
        agent.kill(signal.SIGTERM)
        assert time.monotonic() - began < HOOK_TIME / 3
        agent.wait(lambda: read() == b"", told=lambda: "the end of all that the hook started")
        agent.start()
    os.close(reading)


# Stations.


def claim(agent: AgentOn, *ranges: str, subnet: str | None = None) -> RemoteClaim:
    return agent.client.claim(ClaimRequest(agent.host.bridge, "somebody", subnet=subnet, ranges=ranges))


def known(agent: AgentOn) -> dict[str, str]:
    """What `arpipam stations` lists: addresses and MACs."""
    done = agent.host.command(ARPIPAM, "stations", "--json", "--socket", str(agent.socket))
    assert done.returncode == 0, done.stderr
    return {line["address"]: line["mac"] for line in map(json.loads, done.stdout.splitlines())}


def test_a_station_that_was_there_and_sleeps_keeps_its_address_while_there_are_others(lab: Lab) -> None:
    host, wire = lone_host(lab, engine=False)
    laptop = lab.station("laptop", wire, "172.16.42.5/24")
    few = "172.16.42.5-172.16.42.6"
    with AgentOn(host) as agent:
        with claim(agent):  # which makes the network
            pass
        assert laptop.ping(host.address)
        agent.wait(lambda: known(agent).get("172.16.42.5") == laptop.mac)
        laptop.namespace.ip(["link set eth0 down"])
        with claim(agent, few) as one:
            assert str(one.address) == "172.16.42.6"
            with claim(agent, few) as other:  # its address is the only one left, and nobody answers for it
                assert str(other.address) == "172.16.42.5"
        agent.kill(signal.SIGTERM)
        agent.start()
        with claim(agent):
            pass
        assert known(agent)["172.16.42.5"] == laptop.mac


def test_a_flood_of_made_up_stations_is_bounded_in_memory_and_stops_nobody(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    host, wire = lone_host(lab, engine=False)
    liar = lab.station("liar", wire)
    large = "172.16.0.0/12"
    with AgentOn(host, witness=["172.16.42.3"]) as agent:
        with claim(agent, subnet=large):
            pass
        before = resident(agent)
        for first in range(as_number("172.17.0.0"), as_number("172.17.0.0") + 2 * LIMIT, LIMIT):
            senders = range(first, first + LIMIT)
            liar.send([arp.announcement((0x02 << 40 | number).to_bytes(6), number) for number in senders])
        until(lambda: len(agent.client.stations()) == LIMIT, "all that it may remember", pause=0.5)  # it lists them all
        after = resident(agent)
        with claim(agent, subnet=large) as one:
            assert one.address < IPv4Address("172.17.0.0")
    with capsys.disabled():
        print(f" {before} to {after} MB ", end="")  # noqa: T201 - to be seen
    assert after - before < 150


def resident(agent: AgentOn) -> int:
    """Memory of the agent, MB."""
    assert agent.process is not None
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) // 1024


# What was ready; the file; the figures.


def test_the_first_run_takes_what_is_ready(place: tuple[Lab, Host, Wire], capsys: pytest.CaptureFixture[str]) -> None:
    _, host, _ = place
    with ready_agent(host, ready=2) as agent, Watching(agent) as watching:
        agent.wait_ready(2)
        started = time.monotonic()
        agent.run("first")
        took = time.monotonic() - started
        _, handed = watching.wait("handed out")
        assert handed.text.startswith("ready, ")
        assert handed.address == running(agent)["first"][0]
    with capsys.disabled():
        print(f" {handed.text} of {took:.2f} s ", end="")  # noqa: T201 - to be seen


def test_the_file_is_read_again_and_a_wrong_one_changes_nothing(lab: Lab) -> None:
    host, wire = lone_host(lab, engine=False)
    with AgentOn(host, agent={"metrics": "127.0.0.1:9475"}, witness=["172.16.42.3"]) as agent, claim(agent) as kept:
        assert agent.process is not None
        assert view(agent).policy == "defend"
        agent.configure(policy="report")
        agent.process.send_signal(signal.SIGHUP)
        agent.wait(lambda: view(agent).policy == "report")
        text = agent.file.read_text()
        agent.file.write_text(text + "ready = 'many'\n")
        agent.process.send_signal(signal.SIGHUP)
        agent.wait(lambda: "not reloaded" in agent.log.read_text())
        line = next(line for line in agent.log.read_text().splitlines() if "not reloaded" in line)
        assert f"{agent.file}: line {len(text.splitlines()) + 1}: network.ready" in line
        assert view(agent).policy == "report"
        assert agent.leases()[str(kept.address)].mac == kept.mac
        asker = lab.station("asker", wire)
        assert asker.who_has(str(kept.address)) == {kept.mac}


def test_the_figures_are_served_for_prometheus(lab: Lab) -> None:
    host, _ = lone_host(lab, engine=False)
    with AgentOn(host, agent={"metrics": "127.0.0.1:9475"}, witness=["172.16.42.3"]) as agent, claim(agent):
        agent.wait(lambda: view(agent).round_trip)
        with host.namespace.inside(), urlopen("http://127.0.0.1:9475/metrics") as answer:
            figures = dict(
                line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#")
            )
    here = '{interface="lan0",subnet="172.16.42.0/24"}'
    assert float(figures[f"arpipam_network_up{here}"]) == 1
    assert float(figures[f"arpipam_pool_left{here}"]) > 200
    assert float(figures[f"arpipam_witness_round_trip_seconds{here}"]) > 0
    assert float(figures['arpipam_claim_seconds_count{how="search"}']) == 1
    assert float(figures['arpipam_verdicts_total{verdict="free"}']) >= 1
    named = ("leases", "ready", "ready_wanted", "dropped_frames_total", "witness_loss_ratio", "network_partitioned")
    for name in named:
        assert f"arpipam_{name}{here}" in figures
    assert any(name.startswith("process_resident_memory_bytes") for name in figures)


# The link.


@pytest.mark.slow
def test_a_link_that_goes_down_or_is_made_anew_has_its_leases_defended_again(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    host, wire = lone_host(lab)
    with ready_agent(host, ready=1) as agent:
        agent.run("web")
        address, mac = running(agent)["web"]
        agent.wait(lambda: agent.leases()[address].guarded == "container")
        took = []
        for make, mend in (
            (["link set lan0 down"], lambda: host.namespace.ip(["link set lan0 up"])),
            (["link del lan0"], lambda: fabrics.up(host)),
        ):
            host.namespace.ip(make)
            agent.wait(lambda: view(agent).state == "down")
            assert "lan0" in view(agent).reason
            assert agent.leases()[address].guarded == "nobody"
            refused = agent.run("none", check=False)
            assert refused.returncode
            assert "lan0" in refused.stderr
            host.docker("rm", "-f", "none")
            mend()
            took.append(agent.wait(lambda: view(agent).state == "up", told=lambda: last_lines(agent.log)))
            assert agent.leases()[address].guarded in {"agent", "container"}
            asker = lab.station(f"asker{len(took)}", wire, f"172.16.42.{100 + len(took)}/24")
            assert who_have(asker.namespace, "eth0", [address]) == {address: {mac}}
        agent.wait(lambda: view(agent).ready)
    with capsys.disabled():
        print(" up again after " + " s and ".join(f"{one:.1f}" for one in took) + " s ", end="")  # noqa: T201 - to be seen
