"""Who is on the link: a whole subnet, half full."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from arpipam import Allocator
from arpipam.lab import Lab
from bench import forked, peers
from bench.harness import Case, Plot, Scenario
from bench.network import Used, room, used_network
from bench.results import Metric, Remark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from bench.harness import Taken, Values
    from bench.results import Outcome

SOURCE = Path(__file__).resolve().parent.parent / "floor.c"
FAST = 1_000_000
"""Frames a second, which no machine reaches: unpaced."""
OURS, OURS_FAST = "arpipam", "arpipam, unpaced"
ARP_SCAN, ARP_SCAN_FAST, ARP_SCAN_TWICE = "arp-scan", "arp-scan, fastest", "arp-scan, asks twice"
SRP, FLOOR = "scapy srp", "floor (C, sends only)"
AIM = 2.0


class World(NamedTuple):
    """A lab for each size is made in its case; the floor is compiled once."""

    floor: Path


class Sweep(Scenario[World]):
    """Time, stations missed, frames, processor time."""

    name = "sweep"
    title = "all stations of a subnet, half full"
    about = f"""
        The lower half of the subnet's addresses is used. Each subject lists the stations with its link open or its
        program started as it is run by hand (`arp-scan` is a process, arpipam and scapy are called in one that has them
        loaded). `{OURS_FAST}` and `{ARP_SCAN_FAST}` send as fast as the kernel takes frames; the latter asks once and
        listens for 200 ms ({" ".join(peers.ARP_SCAN_FAST)}); arpipam asks the silent a second time, which is half as
        many frames again, and `{ARP_SCAN_TWICE}` is arp-scan doing that. The floor is a C program's loop that sends as
        many frames as `{OURS_FAST}` did, and listens to nothing.
        """
    metrics = (
        Metric(name="seconds"),
        Metric(name="missed", unit=""),
        Metric(name="frames", unit="frames"),
        Metric(name="processor"),
    )
    plots = (
        Plot("time", "seconds", "subnet", "Until all stations are listed", log_y=True),
        Plot("processor", "processor", "subnet", "Processor time of that", log_y=True),
    )
    reference = OURS_FAST

    def __init__(self, *, quick: bool) -> None:
        super().__init__(quick=quick)
        self.notes += peers.missing("arp-scan")

    def cases(self) -> Iterable[Case]:
        """Sizes; arp-scan takes minutes for a /16 at its own pace, and scapy half a minute."""
        if self.quick:
            yield Case({"subnet": "/24"}, 1)
            yield Case({"subnet": "/16"}, 1, {OURS: 0, ARP_SCAN: 0, SRP: 0})
            return
        yield Case({"subnet": "/24"}, 11, {SRP: 5})
        yield Case({"subnet": "/20"}, 7, {ARP_SCAN: 2, SRP: 3})
        yield Case({"subnet": "/16"}, 5, {OURS: 1, ARP_SCAN: 0, SRP: 1})

    @contextmanager
    def world(self) -> Iterator[World]:
        """Compile the floor."""
        with Lab() as lab:
            program = lab.directory / "floor"
            subprocess.run(["gcc", "-O2", "-o", str(program), str(SOURCE)], check=True, capture_output=True)
            yield World(program)

    @contextmanager
    def subjects(self, world: World, case: Case) -> Iterator[Mapping[str, Callable[[int], Taken]]]:
        """With arpipam at its default pace and without one, the peers, and the floor."""
        subnet = IPv4Network(f"10.50.0.0{case.vary['subnet']}")
        with Lab() as lab:
            network = used_network(lab, subnet, room(subnet) // 2)
            there = {network.witness, *map(str, network.used)}
            sent = [subnet.num_addresses]

            def listed(function: Callable[..., set[str]], *words: Any) -> Callable[[int], Values]:
                def take(_: int) -> Values:
                    before = _frames(network)
                    done = forked.call(network.host.namespace, function, *words)
                    frames = _frames(network) - before
                    if function is scan and words[-1] == FAST:
                        sent[0] = frames
                    missed = len(there - done.result)
                    return {
                        "seconds": done.seconds,
                        "missed": float(missed),
                        "frames": float(frames),
                        "processor": done.cpu,
                    }

                return take

            def floor(_: int) -> Values:
                words = [str(world.floor), network.host.bridge, str(sent[0]), str(subnet.network_address)]
                done = forked.call(network.host.namespace, subprocess.check_output, words)
                return {"seconds": float(done.result), "frames": float(sent[0]), "processor": done.cpu}

            interface = network.host.bridge
            subjects: dict[str, Callable[[int], Taken]] = {
                OURS_FAST: listed(scan, interface, FAST),
                OURS: listed(scan, interface, None),
                SRP: listed(peers.scapy_srp, interface, str(subnet), 2),
                FLOOR: floor,
            }
            if not peers.missing("arp-scan"):
                subjects[ARP_SCAN_FAST] = listed(peers.arp_scan, interface, str(subnet), *peers.ARP_SCAN_FAST)
                subjects[ARP_SCAN_TWICE] = listed(peers.arp_scan, interface, str(subnet), *peers.ARP_SCAN_TWICE)
                subjects[ARP_SCAN] = listed(peers.arp_scan, interface, str(subnet))
            yield subjects

    def check(self, outcome: Outcome) -> Iterable[Remark]:
        """None may be missed."""
        missed = sum(sum(outcome.values("missed", name)) for name in (OURS, OURS_FAST))
        yield Remark(red=missed > 0, text=f"{missed:.0f} stations missed by arpipam")
        for peer, asks in ((ARP_SCAN_FAST, "arp-scan's fastest"), (ARP_SCAN_TWICE, "arp-scan that asks twice, too")):
            ours, theirs = (outcome.values("seconds", name, subnet="/16") for name in (OURS_FAST, peer))
            if ours and theirs:
                ratio = median(theirs) / median(ours)
                aim = f" (aim {AIM:g}x: {'met' if ratio >= AIM else 'MISSED'})" if peer == ARP_SCAN_FAST else ""
                yield Remark(red=False, text=f"a /16: {ratio:.2f}x as fast as {asks}{aim}")
        floor, fast = (outcome.values("seconds", name, subnet="/16") for name in (FLOOR, ARP_SCAN_FAST))
        if floor and fast:
            yield Remark(
                red=False,
                text=f"to send the frames of a /16 takes {median(floor):.2f} s by itself, in C with nobody listening; "
                f"{AIM:g}x as fast as arp-scan's fastest, which asks once and counts on no frame being lost, would be "
                f"{median(fast) / AIM:.2f} s in all",
            )


def scan(interface: str, rate: int | None) -> set[str]:
    """The stations that arpipam finds; the link's opening is not counted, as arp-scan's is hardly anything."""
    options: dict[str, Any] = {} if rate is None else {"rate": rate}
    with Allocator(interface, **options) as allocator:
        return {str(station.address) for station in allocator.scan()}


def _frames(network: Used) -> int:
    """Frames that the host has sent to the wire."""
    return int(network.host.command("cat", "/proc/net/dev", check=True).stdout.split("uplink:")[1].split()[9])
