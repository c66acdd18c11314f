"""From "this address is free" to a container that answers for it: what the neighbours see meanwhile."""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from arpipam.lab import Lab
from arpipam.lab.availability import Asker
from bench import forked, peers
from bench.harness import Case, Plot, Scenario
from bench.results import Metric, Remark
from launcher.commands import run as arpipam_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from arpipam.lab import Host
    from arpipam.lab.stations import LabStation
    from bench.harness import Taken, Values
    from bench.results import Outcome

SUBNET = "172.16.42"
WITNESS = f"{SUBNET}.254"
NETWORK = "arpipam-docker0"
CONTAINER = ["busybox", "sleep", "1000"]
ARTICLE, PLAIN = "arping -D, then docker run --ip", "docker run --ip"
AFTER = 0.3
"""Seconds for which the container is asked once it is up."""
MOST_UNANSWERED = 0.1
_FORMER = "02:00:00:00:00:99"
_PORT = 9
"""Discard (RFC 863)."""


class World(NamedTuple):
    """A host with an engine, one that asks all the time, and one that talked to the address's former owner."""

    host: Host
    asker: LabStation
    neighbour: LabStation
    patience: float


class HandOver(Scenario[World]):
    """A container with a given address is started while a station asks for that address every 20 ms."""

    name = "handover"
    title = "from the claim to the container"
    about = f"""
        A container is started with one address while a station asks for it every 20 ms. `unanswered` is for how long,
        from the moment at which the subject considers the address its own, nobody answered: for arpipam that is its
        first announcement, for `{ARTICLE}` the verdict, for `{PLAIN}` the start of the command. `MACs` is how many
        answered from then on. A neighbour that talked to the address's former owner still has that one's MAC and goes
        on sending; `wrong MAC` is how long it does so from the container's first answer (for arpipam: its first
        announcement) on, up to a limit.
        """
    metrics = (
        Metric(name="unanswered"),
        Metric(name="wrong MAC"),
        Metric(name="MACs", unit=""),
    )
    plots = (Plot("time", "unanswered", "container", "An address of ours that nobody answers for"),)

    def cases(self) -> Iterable[Case]:
        """One after the other."""
        yield Case({"container": "started"}, 2 if self.quick else 5, {} if not self.quick else {PLAIN: 1, ARTICLE: 1})

    @contextmanager
    def world(self) -> Iterator[World]:
        """One engine."""
        with Lab() as lab:
            wire = lab.wire()
            host = lab.host("host1", wire, f"{SUBNET}.1/24", engine=True)
            lab.start()
            asker = lab.station("asker", wire, f"{WITNESS}/24")
            neighbour = lab.station("neighbour", wire, f"{SUBNET}.253/24")
            bridge = ["-o", f"com.docker.network.bridge.name={host.bridge}", "--gateway", host.address]
            host.docker("network", "create", "-d", "bridge", "--subnet", f"{SUBNET}.0/24", *bridge, NETWORK)
            yield World(host, asker, neighbour, 2.0 if self.quick else 12.0)

    @contextmanager
    def subjects(self, world: World, case: Case) -> Iterator[Mapping[str, Callable[[int], Taken]]]:  # noqa: ARG002
        """Each under another address every time."""
        count = iter(range(10, 240))

        def sampled(start: Callable[[World, str, str], float | None]) -> Callable[[int], Values]:
            return lambda _: watched(world, f"{SUBNET}.{next(count)}", start)

        yield {"arpipam-run": sampled(ours), ARTICLE: sampled(article), PLAIN: sampled(plain)}

    reference = "arpipam-run"

    def check(self, outcome: Outcome) -> Iterable[Remark]:
        """Ours is answered for without a gap, under one MAC."""
        gaps = outcome.values("unanswered", self.reference)
        macs = outcome.values("MACs", self.reference)
        worst = max(gaps, default=0.0)
        yield Remark(
            red=worst > MOST_UNANSWERED, text=f"at worst {worst * 1000:.0f} ms without an answer after the claim"
        )
        yield Remark(red=bool(macs) and max(macs) != 1, text=f"{max(macs, default=0):.0f} MAC at most answered for it")


def watched(world: World, address: str, start: Callable[[World, str, str], float | None]) -> Values:
    """Start a container and look on; `start` gives back when the address became its own, None: at its announcement."""
    name = f"c{address.rpartition('.')[2]}"
    world.neighbour.namespace.ip([f"neigh replace {address} lladdr {_FORMER} dev eth0 nud stale"])
    with Asker(world.asker, [address], sender=WITNESS) as asker:
        since = start(world, address, name)
        up = time.monotonic()
        fixed = forked.call(world.neighbour.namespace, until_right, address, world.patience).result
        time.sleep(max(0.0, up + AFTER - time.monotonic()))
    seen = asker.senders(address)
    world.host.docker("rm", "--force", name)
    if not seen:
        raise RuntimeError(f"nobody ever answered for {address}")
    if since is None:
        since = seen[0][0]
    _, missed = asker.count(address)
    # The last questions may still be on their way to an answer when the asking ends.
    gap = sum(asker.EVERY for at in missed if since <= at < up + AFTER / 2)
    return {
        "unanswered": gap,
        "MACs": float(len({mac for _, mac in seen})),
        "wrong MAC": max(0.0, fixed - seen[0][0]),
    }


def until_right(address: str, patience: float) -> float:
    """Go on talking to the address until the kernel has another MAC for it than the former owner's; when that was."""
    until = time.monotonic() + patience
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as talk:
        while time.monotonic() < until:
            with suppress(OSError):  # nobody there at this moment
                talk.sendto(b"?", (address, _PORT))
            table = Path("/proc/thread-self/net/arp").read_text()
            macs = [line.split()[3] for line in table.splitlines()[1:] if line.split()[0] == address]
            if macs and macs[0] not in {_FORMER, "00:00:00:00:00:00"}:
                break
            time.sleep(0.01)
    return time.monotonic()


def ours(world: World, address: str, name: str) -> None:
    """`arpipam-run`, in a child of this process: a fault that was put in is in it too."""
    words = ["--witness", WITNESS, "--ip", address, "-d", "--name", name, *CONTAINER]
    status = forked.call(world.host.namespace, _run, world.host.env, words).result
    if status:
        raise RuntimeError(f"arpipam-run ended with {status}")


def _run(env: dict[str, str], words: list[str]) -> int:
    os.environ.clear()
    os.environ.update(env)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    sys.argv = ["arpipam-run", *words]
    try:
        arpipam_run.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def plain(world: World, address: str, name: str) -> float:
    """By hand, unchecked."""
    started = time.monotonic()
    world.host.docker("run", "-d", "--network", NETWORK, "--ip", address, "--name", name, *CONTAINER)
    return started


def article(world: World, address: str, name: str) -> float:
    """The article's way."""
    said = peers.arping(world.host.namespace, world.host.bridge, address, 1, 1)
    if not said.free:
        raise RuntimeError(f"arping -D calls {address} used")
    return plain(world, address, name)
