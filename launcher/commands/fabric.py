"""`arpipam fabric`: the network itself, set up, checked, repaired and removed.

Exit status: 0 done, or all well; 1 changes pending (plan) or faults found (check); 2 a bad file; 3 could not look, or
not act.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher.commands.options import option
from launcher.defaults import DEFAULT_FABRIC, DEFAULT_STATE_DIR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from arpipam.fabric import Site
    from arpipam.fabric.check import Finding

_WATCH_EVERY = 2.0
_MARKS = {"ok": ("green", "✓"), "warning": ("yellow", "!"), "fault": ("red", "✗"), "unknown": ("magenta", "?")}


@click.group()
def fabric() -> None:
    """Set up, check, repair and remove the network of several hosts, as declared in one file.

    Exit status: 0 done or all well; 1 changes pending (plan), faults found (check); 2 a bad file; 3 could not look, or
    not act.
    """


def _options(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of all; they reach it as `site` and `as_json`."""

    @functools.wraps(function)
    def gathered(path: Path, host: str | None, ovsdb: str | None, state_dir: Path, **more: Any) -> int:
        from arpipam.fabric import Site, load  # noqa: PLC0415 - takes time that --help need not

        return function(Site(load(path), state_dir, name=host, ovsdb=ovsdb), **more)

    command: Callable[..., int] = gathered
    for add in (
        option("--json", "as_json", is_flag=True, help="One JSON object per line."),
        option(
            "--state-dir",
            type=click.Path(file_okay=False, path_type=Path),
            default=DEFAULT_STATE_DIR,
            show_default=True,
            metavar="DIR",
            help="Where it is recorded what has to be undone.",
        ),
        option("--ovsdb", metavar="REMOTE", help="Open vSwitch's database; the file's or the usual if not given."),
        option("--host", metavar="NAME", help="Which host of the file this is, where its addresses do not tell."),
        option(
            "--fabric",
            "path",
            type=click.Path(dir_okay=False, path_type=Path),
            default=DEFAULT_FABRIC,
            show_default=True,
            metavar="FILE",
            help="The declared network.",
        ),
    ):
        command = add(command)
    return command


@fabric.command()
@_options
def plan(site: Site, *, as_json: bool) -> int:
    """Show what `up` would change, as a diff; change nothing."""
    wanted = site.plan()
    _show(wanted.lines, as_json=as_json)
    return 1 if wanted.changes else 0


@fabric.command()
@_options
def up(site: Site, *, as_json: bool) -> int:
    """Make this host what the file declares; anything already correct is left alone."""
    _show(site.up().lines, as_json=as_json)
    return 0


@fabric.command()
@_options
def down(site: Site, *, as_json: bool) -> int:
    """Remove what `up` made, and nothing else."""
    steps = site.down()
    _show([step.text for step in reversed(steps)], as_json=as_json)
    return 0


def _show(lines: Iterable[str], *, as_json: bool) -> None:
    colours = {"+": "green", "-": "red", "~": "yellow"}
    for line in lines:
        if as_json:
            click.echo(json.dumps({"change": line[0], "what": line[2:]}))
        else:
            click.secho(line, fg=colours[line[0]])  # plain where it is no terminal


@fabric.command()
@_options
@click.option("--watch", is_flag=True, help="Look again and again, until interrupted.")
def check(site: Site, *, as_json: bool, watch: bool) -> int:
    """See whether the network is as declared and carries frames: a line each with state, evidence and remedy."""
    if watch and sys.stdout.isatty() and not as_json:
        _watch(site)
    while True:
        status = _report(_findings(site), as_json=as_json)
        if not watch:
            return status
        sys.stdout.flush()
        time.sleep(_WATCH_EVERY)


@fabric.command()
@_options
@click.option("--dot", "kind", flag_value="dot", default="dot", help="For Graphviz (the default).")
@click.option("--svg", "kind", flag_value="svg", help="For a browser.")
def show(site: Site, *, as_json: bool, kind: str) -> int:
    """Draw the hosts, bridges, tunnels and their state as seen from here."""
    from arpipam.fabric.check import check as look  # noqa: PLC0415 - as all that takes time to load
    from arpipam.fabric.render import Picture  # noqa: PLC0415

    picture = Picture(site.fabric, site.local, look(site))
    text = picture.svg() if kind == "svg" else picture.dot()
    click.echo(json.dumps({"format": kind, "picture": text}) if as_json else text)
    return 0


def _findings(site: Site) -> Iterator[Finding]:
    """What the library finds, and what the Docker engine has to say."""
    from arpipam.fabric.check import check as look  # noqa: PLC0415 - as all that takes time to load
    from launcher.commands import fabric_dhcp  # noqa: PLC0415

    with fabric_dhcp.hearing(site.fabric.bridge) as heard:
        yield from look(site)
        yield from _docker(site)
    yield from fabric_dhcp.findings(site.fabric, heard)


def _docker(site: Site) -> Iterator[Finding]:
    """The engine's network on the bridge: whether it is there, with the right subnet, gateway and MTU."""
    from arpipam.errors import ArpipamError  # noqa: PLC0415 - as above
    from arpipam.fabric.check import Condition, Finding  # noqa: PLC0415
    from launcher.engine.engine import Engine  # noqa: PLC0415
    from launcher.engine.errors import EngineError  # noqa: PLC0415

    bridge, local = site.fabric.bridge, site.local
    try:
        mtu = site.plan().mtu
        network = Engine().network(bridge)
    except EngineError as error:
        yield Finding(Condition.WARNING, "docker", str(error), "nothing, where this host runs no containers")
        return
    except ArpipamError as error:
        yield Finding(Condition.FAULT, "docker", str(error), "")
        return
    make = (
        f"docker network create -d bridge --subnet {site.fabric.subnet} --gateway {local.address.ip} "
        f"-o com.docker.network.bridge.name={bridge} -o com.docker.network.driver.mtu={mtu} lan"
    )
    if network is None:
        yield Finding(Condition.WARNING, "docker", f"no network on {bridge} yet; arpipam-run makes it", make)
        return
    wrong = []
    if network.subnet != site.fabric.subnet:
        wrong.append(f"subnet {network.subnet} instead of {site.fabric.subnet}")
    if local.address.ip not in {network.gateway, *network.kept}:
        wrong.append(f"gateway {network.gateway} instead of {local.address.ip}")
    if network.mtu != mtu:
        wrong.append(f"MTU {network.mtu or 'not set'} instead of {mtu}")
    if wrong:
        remedy = f"docker network rm {network.name} && {make}"
        yield Finding(Condition.FAULT, "docker", f"network {network.name}: {', '.join(wrong)}", remedy)
    else:
        yield Finding(Condition.OK, "docker", f"network {network.name} on {bridge}, {network.subnet}, MTU {mtu}")


def _report(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Write a line each; the exit status."""
    seen = set()
    rows = []
    for finding in findings:
        seen.add(finding.condition.value)
        values = {
            "state": finding.condition.value,
            "subject": finding.subject,
            "evidence": finding.evidence,
            "remedy": finding.remedy,
        }
        if as_json:
            click.echo(json.dumps(values))
        elif sys.stdout.isatty():
            rows.append(finding)
        else:
            click.echo("\t".join(text or "-" for text in values.values()))
    if rows:
        from rich.console import Console  # noqa: PLC0415 - a pipe needs none of it

        Console(emoji=False).print(_table(rows))
    return 1 if "fault" in seen else 3 if "unknown" in seen else 0


def _table(findings: Iterable[Finding]) -> Any:
    from rich.table import Table  # noqa: PLC0415 - a pipe needs none of it
    from rich.text import Text  # noqa: PLC0415

    table = Table("", "what", "evidence", "remedy", box=None, pad_edge=False)
    for finding in findings:
        colour, mark = _MARKS[finding.condition.value]
        table.add_row(Text(mark, colour), finding.subject, Text(finding.evidence), Text(finding.remedy))
    return table


def _watch(site: Site) -> None:
    """Until interrupted."""
    from rich.live import Live  # noqa: PLC0415 - a pipe needs none of it

    with Live(refresh_per_second=4) as live:
        while True:
            live.update(_table(list(_findings(site))))
            time.sleep(_WATCH_EVERY)
