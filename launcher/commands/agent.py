"""`arpipam agent`, `agent status`, `watch` and `stations`: the agent itself, and what it tells.

Times are local ones in ISO 8601 for people and pipes, and seconds since 1970 in JSON.
"""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from launcher.agent.client.client import AgentClient
from launcher.agent.client.connection import NoAgentError
from launcher.commands.options import ADDRESS, SOCKET, option
from launcher.commands.output import Output
from launcher.defaults import DEFAULT_FABRIC, DEFAULT_SOCKET, DEFAULT_STATE_DIR

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.agent.contract import Event, Failure, Status

_UP = "up"

_JSON = option("--json", "as_json", is_flag=True, help="One JSON object per line.")


def _asks(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of all that ask the agent; they reach it as `client` and `as_json`."""

    @functools.wraps(function)
    def gathered(*, socket: Path | None, **more: Any) -> int:
        # The option also counts before the command: `arpipam agent --socket PATH status`.
        return function(AgentClient(socket or click.get_current_context().obj or DEFAULT_SOCKET), **more)

    command: Callable[..., int] = gathered
    return SOCKET(_JSON(command))


@click.group(invoke_without_command=True)
@option(
    "--config",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The agent's settings.  [default: /etc/arpipam/agent.toml, if it is there]",
)
@SOCKET
@option(
    "--state-dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Where the leases are kept.  [default: the file's, or {DEFAULT_STATE_DIR}]",
)
@option("--metrics", metavar="ADDRESS:PORT", help="Serve Prometheus metrics there.  [default: the file's, or nowhere]")
@option(
    "--fabric",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The declared network, whose other hosts must answer.  "
    f"[default: the file's, or {DEFAULT_FABRIC}, if it is there]",
)
@option("--host", metavar="NAME", help="Which host of that file this is, where its addresses do not tell.")
@option(
    "--witness",
    metavar="ADDRESS",
    type=ADDRESS,
    multiple=True,
    help="A station that must answer on the networks that have its address; may be repeated.",
)
@click.pass_context
def agent(context: click.Context, /, config: Path | None, socket: Path | None, **words: Any) -> int:
    """Run this host's agent, Docker's IPAM driver, until it is told to end; or ask the one that runs.

    These options override the file.
    """
    context.obj = socket
    if context.invoked_subcommand is not None:
        for name in ("config", *words):
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{name.replace('_', '-')} is for the agent itself, not for its commands")
        return 0
    from launcher.agent.main import run  # noqa: PLC0415 - all of the agent takes time that its commands need not

    run(config, socket=socket, **words)
    return 0


@agent.command()
@_asks
def status(client: AgentClient, *, as_json: bool) -> int:
    """Say how the agent and its networks are.

    Exit status: 0 all networks are up and every part works; 1 a network is not up, or a part has failed
    (which, since when and why is shown); 3 no agent answers.
    """
    said = client.status()
    if as_json:
        click.echo(json.dumps(asdict(said)))
    else:
        _show(said)
    return 0 if all(network.state == _UP for network in said.networks) and not _failures(said) else 1


def _failures(said: Status) -> list[tuple[str, Failure]]:
    """The parts that do not work, each with its network's interface, or nothing where it is none of a network."""
    own = [("", failure) for failure in said.failures]
    return own + [(network.interface, failure) for network in said.networks for failure in network.failures]


def _show(said: Status) -> None:
    person = sys.stdout.isatty()
    if person:
        click.echo(
            f"arpipam {said.version}, process {said.pid}, since {moment(said.started)}; Docker engine: {said.engine}"
        )
        click.echo(f"fabric: {said.fabric or 'none'}")
    for interface, failure in _failures(said):  # beside the table, which programs read
        where = f"{interface}: " if interface else ""
        click.echo(f"failed since {moment(failure.since)}: {where}{failure.part}: {failure.reason}", err=not person)
    for network in said.networks:
        for warning in network.dhcp_warnings:
            click.echo(f"warning: {network.interface}: {warning}", err=not person)
    if person and not said.networks:
        click.echo("no networks")
        return
    output = Output(
        ["interface", "subnet", "state", "ready", "wanted", "left", "leases", "policy", "silent", "reason"],
        as_json=False,
    )
    for network in said.networks:
        output.row(**asdict(network) | {"silent": ", ".join(network.silent)})
    output.end()


@click.command()
@_asks
@click.option("--recent", is_flag=True, help="Show recent events first (at most 1,000 are kept).")
def watch(client: AgentClient, *, as_json: bool, recent: bool) -> int:
    """Show conflicts, partitions, and what becomes of addresses, as it happens, until interrupted."""
    output = Output(["at", "kind", "interface", "address", "mac", "other", "owner", "text"], as_json=as_json)
    person = sys.stdout.isatty() and not as_json  # whom a table would never reach: it has no end
    with client.events(recent=recent) as events:
        for event in events:
            if person:
                click.echo(_line(event))
            else:
                output.row(**asdict(event) | {"at": event.at if as_json else moment(event.at, "milliseconds")})
    raise NoAgentError(f"the agent at {client.path} ended")


def _line(event: Event) -> str:
    """One event for a person, whom the text tells what the single values are."""
    words = event.text or " ".join(filter(None, (event.address, event.mac, event.other, event.owner)))
    return f"{moment(event.at, 'milliseconds')}  {event.kind:<11}  {event.interface:<10}  {words}".rstrip()


@click.command()
@_asks
def stations(client: AgentClient, *, as_json: bool) -> int:
    """List who was seen on the links of the agent's networks, and when."""
    output = Output(["interface", "address", "mac", "first", "last"], as_json=as_json)
    for station in client.stations():
        times = {} if as_json else {"first": moment(station.first), "last": moment(station.last)}
        output.row(**asdict(station) | times)
    output.end()
    return 0


def agent_leases(socket: Path, *, as_json: bool) -> int:
    """List the leases of this host as the agent has them: who answers for them, and who else does."""
    output = Output(
        ["interface", "address", "prefix", "mac", "owner", "state", "container", "guarded", "conflict", "created"],
        as_json=as_json,
    )
    for lease in AgentClient(socket).leases():
        output.row(**asdict(lease) | ({} if as_json else {"created": moment(lease.created)}))
    output.end()
    return 0


def moment(at: float, precision: str = "seconds") -> str:
    """Seconds since 1970 as local time, such as 2026-01-31T12:00:00+01:00."""
    try:
        return datetime.fromtimestamp(at).astimezone().isoformat(timespec=precision)
    except (ValueError, OverflowError, OSError):  # no clock ever showed that
        return str(at)
