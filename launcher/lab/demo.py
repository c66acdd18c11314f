"""The demonstration: two hosts, one network, a machine that no engine knows, and containers that get free addresses.

Everything runs in a lab on this machine. What is shown is also checked: the exit status is 1 if anything is not as it
should be.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from arpipam.lab import Lab

if TYPE_CHECKING:
    from arpipam.lab import Host
    from arpipam.lab.stations import LabStation

FOREIGN = "172.16.42.3"
_BIN = Path(sys.executable).parent
console = Console(width=max(120, Console().width), emoji=False)


class Container(NamedTuple):
    """A container that arpipam-run started."""

    name: str
    host: Host
    address: str
    mac: str
    found: float
    """Milliseconds that finding the address took, and ..."""
    seconds: float
    """... seconds until `docker run -d` was done."""


class Failed(Exception):  # noqa: N818 - it is how the demonstration ends
    """Something is not as it should be."""


def check(fact: bool, text: str) -> None:  # noqa: FBT001 - the fact is what is checked
    """Say what holds; end the demonstration if it does not."""
    console.print(f"  [green]✓[/] {text}" if fact else f"  [red]✗ {text}[/]", highlight=False)
    if not fact:
        raise Failed(text)


def inspect(host: Host, name: str) -> dict[str, Any]:
    """The container's endpoint on its one network."""
    networks = json.loads(host.docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", name).stdout)
    [endpoint] = networks.values()
    return dict(endpoint)


def plain_docker(host: Host, observer: LabStation) -> None:
    """What Docker does by itself: it gives out an address that somebody has, and the wire shows two owners."""
    console.rule("[bold]Plain Docker")
    network = ["network", "create", "-d", "bridge", "--subnet", "172.16.42.0/24", "--gateway", host.address]
    host.docker(
        *network, "--aux-address", "peer=172.16.42.2", "-o", f"com.docker.network.bridge.name={host.bridge}", "plain"
    )
    host.docker("run", "-d", "--name", "plain", "--network", "plain", "busybox", "sleep", "1000")
    address = inspect(host, "plain")["IPAddress"]
    owners = observer.who_has(address)
    console.print(f"  docker run gave [bold]{address}[/]; asked on the wire, it is at {', '.join(sorted(owners))}")
    check(address == FOREIGN and len(owners) == 2, f"{address} is there twice: the foreign machine had it already")  # noqa: PLR2004
    host.docker("rm", "-f", "plain")
    host.docker("network", "rm", "plain")


def launch(host: Host, name: str) -> Container:
    """Start a container by arpipam-run."""
    started = time.monotonic()
    fabric = ["--fabric", str(host.fabric_file), "--host", host.name]  # whose other host is the witness
    done = host.command(str(_BIN / "arpipam-run"), *fabric, "--json", "-d", "--name", name, "busybox", "sleep", "1000")
    seconds = time.monotonic() - started
    if done.returncode:
        raise Failed(f"arpipam-run on {host.name}: exit {done.returncode}: {done.stderr.strip()}")
    claimed = json.loads(next(line for line in done.stderr.splitlines() if line.startswith("{")))
    endpoint = inspect(host, name)
    return Container(name, host, endpoint["IPAddress"], endpoint["MacAddress"], claimed["elapsed_ms"], seconds)


def show(containers: list[Container], answers: dict[str, set[str]]) -> None:
    """The table."""
    table = Table("container", "host", "address", "MAC", "time to find", "time to run", "answers from")
    for container in containers:
        table.add_row(
            container.name,
            container.host.name,
            container.address,
            container.mac,
            f"{container.found:.0f} ms",
            f"{container.seconds:.2f} s",
            ", ".join(sorted(answers[container.name])),
        )
    console.print(table)


def demonstrate(lab: Lab) -> None:
    """The whole of it."""
    console.rule("[bold]Two hosts, one network")
    started = time.monotonic()
    one, two, _ = lab.two_hosts()
    foreign = lab.station("foreign", two, f"{FOREIGN}/24")
    observer = lab.station("observer", one)
    console.print(
        f"  docker0, Open vSwitch br0 and a GRE tunnel between them, up in {time.monotonic() - started:.1f} s"
    )
    for host in (one, two):
        words = ["--fabric", str(host.fabric_file), "--host", host.name]
        looked = host.command(str(_BIN / "arpipam"), "fabric", "check", *words)
        check(looked.returncode == 0, f"arpipam fabric check on {host.name}: all is as declared, and carries frames")
    check(foreign.ping(one.address), f"the foreign machine {FOREIGN} reaches {one.address} through the tunnel")

    plain_docker(one, observer)

    console.rule("[bold]arpipam-run, one after the other")
    containers = [launch(host, f"{host.name}-{letter}") for letter in "ab" for host in (one, two)]
    console.rule("[bold]arpipam-run, on both hosts at the same moment")
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(launch, host, f"{host.name}-{letter}") for letter in "cd" for host in (one, two)]
        containers += [job.result() for job in jobs]

    answers = {container.name: observer.who_has(container.address) for container in containers}
    show(containers, answers)
    addresses = {container.address for container in containers}
    check(len(addresses) == len(containers), f"{len(containers)} containers, {len(addresses)} addresses")
    check(not addresses & {FOREIGN, one.address, two.address}, "none of them was somebody else's")
    check(
        all(answers[container.name] == {container.mac} for container in containers),
        "each address is answered for by one machine, its container",
    )
    check(observer.who_has(FOREIGN) == {foreign.mac}, f"the foreign machine still has {FOREIGN} for itself")
    asked = answered = 0
    for container in containers:
        for target in [FOREIGN, *sorted(addresses - {container.address})]:
            words = ["exec", container.name, "ping", "-c", "1", "-W", "3", target]
            answered += container.host.docker(*words, check=False).returncode == 0
            asked += 1
    check(answered == asked, f"each container reaches all others and the foreign machine: {answered} of {asked} pings")


def main() -> int:
    """Run the demonstration; the exit status."""
    started = time.monotonic()
    try:
        with Lab() as lab:
            demonstrate(lab)
    except Failed as failure:
        console.print(f"[red]failed:[/] {failure}")
        return 1
    console.print(f"everything as it should be, and removed again, after {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
