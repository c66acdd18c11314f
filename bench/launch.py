"""What arpipam-run costs: `arpipam-run -d` beside `docker run -d --ip` on the same engine, in pairs.

The extra time of a pair is the listening window, which buys the proof that the address is free, and a rest, which buys
nothing: starting, looking at the engine, waiting until the container answers for itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from arpipam.lab import Lab

if TYPE_CHECKING:
    from arpipam.lab import Host

WIDTH = 100
PAIRS = 11
MOST_REST = 0.5
"""Seconds that the rest should stay below."""
LAUNCHER = str(Path(sys.executable).parent / "arpipam-run")
WITNESS = "172.16.42.254"
CONTAINER = ["busybox", "sleep", "1000"]


def timed(host: Host, *words: str) -> tuple[float, str]:
    """Run a command; the seconds it took, and what it wrote on stderr."""
    started = time.monotonic()
    done = host.command(*words, check=True)
    return time.monotonic() - started, done.stderr


def ours(host: Host) -> tuple[float, float]:
    """Seconds of `arpipam-run -d`, and of its listening."""
    seconds, said = timed(host, LAUNCHER, "--json", "--witness", WITNESS, "-d", "--name", "ours", *CONTAINER)
    claimed = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    host.command("docker", "rm", "--force", "ours", check=True)
    return seconds, claimed["elapsed_ms"] / 1000


def plain(host: Host, address: str) -> float:
    """Seconds of `docker run -d --ip`."""
    network = f"arpipam-{host.bridge}"
    seconds, _ = timed(
        host, "docker", "run", "-d", "--name", "plain", "--network", network, "--ip", address, *CONTAINER
    )
    host.command("docker", "rm", "--force", "plain", check=True)
    return seconds


def measure(host: Host) -> dict[str, float]:
    """Medians over the pairs; which of a pair comes first alternates."""
    ours(host)  # makes the network, and warms up what there is to warm
    plain(host, "172.16.42.200")
    pairs: list[tuple[float, float, float]] = []
    for turn in range(PAIRS):
        if turn % 2:
            docker = plain(host, f"172.16.42.{201 + turn}")
            seconds, window = ours(host)
        else:
            seconds, window = ours(host)
            docker = plain(host, f"172.16.42.{201 + turn}")
        pairs.append((seconds, window, docker))
    return {
        "pairs": PAIRS,
        "docker_run_s": statistics.median(docker for _, _, docker in pairs),
        "arpipam_run_s": statistics.median(seconds for seconds, _, _ in pairs),
        "ratio": statistics.median(seconds / docker for seconds, _, docker in pairs),
        "extra_s": statistics.median(seconds - docker for seconds, _, docker in pairs),
        "window_s": statistics.median(window for _, window, _ in pairs),
        "rest_s": statistics.median(seconds - docker - window for seconds, window, docker in pairs),
        "most_rest_s": MOST_REST,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    as_json = parser.parse_args().json
    with Lab() as lab:
        wire = lab.wire()
        host = lab.host("host1", wire, "172.16.42.1/24", engine=True)
        lab.start()
        lab.station("gateway", wire, f"{WITNESS}/24")
        result = measure(host)
    if as_json:
        print(json.dumps({"bench": "launch"} | result))
        return
    table = Table("", "median", title=f"a container, detached; {PAIRS} pairs")
    table.add_row("docker run -d --ip", f"{result['docker_run_s']:.3f} s")
    table.add_row("arpipam-run -d", f"{result['arpipam_run_s']:.3f} s")
    table.add_row("arpipam-run / docker run", f"{result['ratio']:.2f}")
    table.add_row("extra time", f"{result['extra_s']:.3f} s")
    table.add_row("  of it listening", f"{result['window_s']:.3f} s")
    verdict = "" if result["rest_s"] <= MOST_REST else " (too much)"
    table.add_row(f"  of it the rest, {MOST_REST:g} s at most", f"{result['rest_s']:.3f} s{verdict}")
    Console(width=WIDTH).print(table)


if __name__ == "__main__":
    main()
