"""Beside others: one free and one used address against arping, a scan of a /24 and a /16 against arp-scan.

Whole commands are timed, as a user waits for them; for arpipam also the library with its link open, without the start
of Python. arping and arp-scan make no statement about loss; arpipam probes until it can.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.table import Table

from arpipam import Allocator, Verdict
from arpipam.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess
    from typing import Any

    from arpipam.lab import Host

T = TypeVar("T")

TOOL = str(Path(sys.executable).parent / "arpipam")
WIDTH = 100
TRIES = 3
FREE, USED, WITNESS = "10.50.0.9", "10.50.10.130", "10.50.0.2"
PACE = 50_000
"""Frames a second for the /16: at its default pace arp-scan takes minutes, and arpipam half a minute."""
BITS = 64 * 8
"""Of a minimum-size frame, as arp-scan counts."""
SCANS = {"10.50.10.0/24": 64, "10.50.0.0/16": 64 + 16384 + 2}
"""Stations that are there."""


def median_time(action: Callable[[str], T], subject: str, tries: int = TRIES) -> tuple[float, T]:
    """The median of some tries in seconds, and what the last of them gave back."""
    times = []
    for _ in range(tries):
        started = time.monotonic()
        result = action(subject)
        times.append(time.monotonic() - started)
    return statistics.median(times), result


def one_address(host: Host) -> list[dict[str, Any]]:
    """How long the verdict on one address takes."""

    def command(*words: str) -> Callable[[str], bool]:
        return lambda address: host.command(*words, address).returncode == 0

    rows: list[dict[str, Any]] = []
    with host.namespace.inside(), Allocator(host.bridge, witnesses=[WITNESS]) as allocator:
        calls_free = {
            "arping -D -c 1 -w 1": command("arping", "-D", "-I", host.bridge, "-c", "1", "-w", "1"),
            "arping -D -c 3": command("arping", "-D", "-I", host.bridge, "-c", "3"),
            "arpipam probe": command(TOOL, "probe", "--witness", WITNESS),
            "arpipam, the library": lambda address: allocator.probe([address])[0].verdict is Verdict.FREE,
        }
        for tool, way in calls_free.items():
            for address in (FREE, USED):
                seconds, free = median_time(way, address)
                task = f"one {'used' if address == USED else 'free'} address"
                rows.append({"task": task, "tool": tool, "seconds": seconds, "right": free == (address == FREE)})
    return rows


def scans(host: Host) -> list[dict[str, Any]]:
    """How long a scan takes, and how many of the stations it finds."""

    def command(*words: str) -> Callable[[str], CompletedProcess[str]]:
        return lambda subnet: host.command(*words, subnet, check=True)

    rows: list[dict[str, Any]] = []
    for subnet, there in SCANS.items():
        large = subnet.endswith("/16")
        tools = {"arpipam scan": command(TOOL, "scan", *(["--rate", str(PACE)] if large else []))}
        if which("arp-scan"):
            pace = [f"--bandwidth={PACE * BITS}"] if large else []
            tools["arp-scan"] = command("arp-scan", "-q", "-x", "-I", host.bridge, *pace)
        for tool, way in tools.items():
            seconds, done = median_time(way, subnet, 1 if large else TRIES)
            found = len({line.split()[0] for line in done.stdout.splitlines() if line.strip()})
            task = f"scan of a /{subnet.partition('/')[2]}" + (f" at {PACE} frames/s" if large else "")
            right = found == there
            rows.append(
                {"task": task, "tool": tool, "seconds": seconds, "right": right, "found": found, "there": there}
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    as_json = parser.parse_args().json
    with Lab() as lab:
        wire = lab.wire()
        host = lab.host("host1", wire, "10.50.0.1/16")
        lab.start()
        lab.station("gateway", wire, f"{WITNESS}/16", crowd="10.50.10.128/26")
        lab.station("crowd", wire, "10.50.0.3/16", crowd="10.50.128.0/18")
        results = one_address(host) + scans(host)
    if not which("arp-scan"):
        print("peers: arp-scan is not installed, so the scans stand alone (make bench installs it)", file=sys.stderr)
    table = Table("task", "tool", "median", "right", title="beside others")
    for row in results:
        if as_json:
            print(json.dumps({"bench": "peers"} | row))
        found = f"{row['found']} of {row['there']} stations" if "found" in row else "yes" if row["right"] else "NO"
        table.add_row(row["task"], row["tool"], f"{row['seconds']:.3f} s", found)
    if not as_json:
        Console(width=WIDTH).print(table)


if __name__ == "__main__":
    main()
