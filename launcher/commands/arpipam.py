"""`arpipam`: look at a link, find and claim addresses, and see the leases of this host.

Tables and progress on a terminal, tab-separated lines in a pipe, one JSON object a line with --json. Diagnostics go to
stderr.
"""

from __future__ import annotations

import os
import signal
import sys
from queue import SimpleQueue
from typing import TYPE_CHECKING

import click

from launcher.agent.client.connection import running
from launcher.commands.agent import agent, agent_leases, stations, watch
from launcher.commands.fabric import fabric
from launcher.commands.options import ADDRESS, INTERRUPTED, execute, shared_options
from launcher.commands.output import Output
from launcher.console import tell
from launcher.defaults import DEFAULT_SOCKET, DEFAULT_STATE_DIR
from launcher.options import make_allocator

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from arpipam.allocator import Allocator
    from arpipam.claim_state import ClaimState
    from arpipam.results import Station
    from launcher.options import Options

_MILLISECONDS = 1000
_READER_GONE = 141  # what a shell shows for a program that SIGPIPE ended
_WORST = {"free": 0, "in_use": 1, "contended": 1, "unknown": 3}
"""Exit status of a verdict; of several, the highest holds."""


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * _MILLISECONDS, 3)


def _progress(text: str) -> None:
    tell("arpipam", text)


@click.group()
@click.version_option(package_name="arpipam", prog_name="arpipam")
def arpipam() -> None:
    """Find out which addresses of a network are really free, by asking the network.

    Exit status: 0 free, found or done; 1 in use, contended, or nothing free; 2 bad usage or input; 3 unknown: no
    witness answered, frames were dropped, the link is down, or something answers for every address; 130 interrupted.
    """


for command in (fabric, agent, watch, stations):
    arpipam.add_command(command)


@arpipam.command()
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True, type=ADDRESS)
@shared_options
def probe(addresses: tuple[IPv4Address, ...], options: Options) -> int:
    """Say of each ADDRESS whether a station uses it."""
    output = Output(
        ["address", "verdict", "mac", "rtt_ms", "probes", "miss_probability", "reason"], as_json=options.json
    )
    with make_allocator(options, progress=_progress) as allocator:
        probed = allocator.probe(addresses, options.mac)
    for one in probed:
        output.row(
            address=one.address,
            verdict=one.verdict.value,
            mac=one.mac,
            rtt_ms=_milliseconds(one.rtt),
            probes=one.probes,
            miss_probability=one.miss_probability,
            reason=one.reason,
        )
    output.end()
    return max(_WORST[one.verdict.value] for one in probed)


@arpipam.command()
@click.argument("subnet", required=False)
@shared_options
def find(subnet: str | None, options: Options) -> int:
    """Find the first address of SUBNET (default: the interface's own) that nobody uses.

    It is not reserved: use claim to keep it.
    """
    output = Output(
        ["address", "prefix", "mac", "elapsed_ms", "probed", "in_use", "miss_probability"], as_json=options.json
    )
    with make_allocator(options, subnet=subnet, progress=_progress) as allocator:
        found = allocator.find(mac=options.mac)
    output.row(
        address=found.address,
        prefix=found.prefix,
        mac=found.mac,
        elapsed_ms=_milliseconds(found.elapsed),
        probed=found.probed,
        in_use=found.in_use,
        miss_probability=found.miss_probability,
    )
    output.end()
    return 0


@arpipam.command()
@click.argument("subnet", required=False)
@shared_options
def scan(subnet: str | None, options: Options) -> int:
    """List the stations of SUBNET (default: the interface's own)."""
    output = Output(["address", "mac", "rtt_ms"], as_json=options.json)
    with make_allocator(options, subnet=subnet, progress=_progress) as allocator:
        for station in _watched(allocator):
            output.row(address=station.address, mac=station.mac, rtt_ms=_milliseconds(station.rtt))
    output.end()
    return 0


def _watched(allocator: Allocator) -> list[Station]:
    """The stations, with a running count on a terminal."""
    if not sys.stderr.isatty():
        return allocator.scan()
    from rich.console import Console  # noqa: PLC0415 - a pipe needs none of it

    with Console(stderr=True).status("asking …") as status:
        count = 0

        def heard(_: Station) -> None:
            nonlocal count
            count += 1
            status.update(f"{count} stations")

        return allocator.scan(heard)


@arpipam.command()
@click.argument("address", required=False, type=ADDRESS)
@shared_options
def claim(address: IPv4Address | None, options: Options) -> int:
    """Claim ADDRESS, or the first free one, and defend it in the foreground until interrupted; then release it.

    Interrupting is the normal end: exit status 130. A station that insists on the address ends it too: exit status 1.
    """
    output = Output(["address", "prefix", "mac", "state"], as_json=options.json, table=False)  # it has no end
    changes: SimpleQueue[ClaimState | None] = SimpleQueue()  # which a signal handler may put into; None: interrupted

    def show(state: ClaimState) -> None:
        output.row(address=holding.address, prefix=holding.prefix, mac=holding.mac, state=state.value)

    with make_allocator(options, progress=_progress) as allocator:
        with allocator.claim("arpipam claim", address, options.mac) as holding:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: changes.put(None))
            holding.on_change(changes.put)
            state = holding.state  # with all that changed before
            show(state)
            while state.value not in _ENDED and (new := changes.get()) is not None:
                if new is not state:
                    show(new)
                state = new
        show(holding.state)
        if holding.conflict is not None:
            _progress(f"{holding.conflict} insists on {holding.address}, so it was given up; claim another")
        elif holding.failure is not None:
            _progress(f"{holding.address} was given up: {holding.failure}")
    return _ENDED.get(state.value, INTERRUPTED)


_ENDED = {"conflict": 1, "link lost": 3}


@arpipam.command()
@shared_options
def leases(options: Options) -> int:
    """List the leases of this host: as the agent has them, where it runs and no other folder is named.

    Else those whose container or process is gone are released first.
    """
    if (options.state_dir == DEFAULT_STATE_DIR or options.socket != DEFAULT_SOCKET) and running(options.socket):
        return agent_leases(options.socket, as_json=options.json)
    from arpipam.allocator import may_exist  # noqa: PLC0415 - as all that takes time to load
    from arpipam.leases.sqlite import SqliteLeaseStore  # noqa: PLC0415 - as all that takes time to load
    from launcher.engine.engine import Engine  # noqa: PLC0415
    from launcher.engine.errors import EngineError  # noqa: PLC0415
    from launcher.engine.reconcile import reconcile  # noqa: PLC0415

    output = Output(["interface", "address", "prefix", "mac", "owner", "state", "container"], as_json=options.json)
    path = options.state_dir / "leases.db"
    if may_exist(path):
        with SqliteLeaseStore(path) as store:
            try:
                reconcile(store, Engine())
            except EngineError as error:
                _progress(f"{error}; the leases of containers are shown as they were recorded")
                store.reap()
            for lease in store.leases():
                output.row(
                    interface=lease.interface,
                    address=lease.address,
                    prefix=lease.prefix,
                    mac=lease.mac,
                    owner=lease.owner,
                    state=lease.state.value,
                    container=lease.container,
                )
    output.end()
    return 0


def main() -> None:
    """Run the command line."""
    try:
        status = execute(arpipam, "arpipam")
    except BrokenPipeError:  # our reader has gone; at exit Python would try to write once more, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _READER_GONE
    sys.exit(status)
