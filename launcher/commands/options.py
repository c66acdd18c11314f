"""Command line options that `arpipam` and `arpipam-run` share, and the one way in which both end.

Every option is also an environment variable: `--state-dir` is ARPIPAM_STATE_DIR. One that may be repeated takes its
values there separated by spaces.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arpipam.errors import ArpipamError, InputError
from launcher.console import complain
from launcher.defaults import (
    DEFAULT_FABRIC,
    DEFAULT_INTERFACE,
    DEFAULT_MISS_PROBABILITY,
    DEFAULT_RATE,
    DEFAULT_SOCKET,
    DEFAULT_STATE_DIR,
)
from launcher.options import Options

if TYPE_CHECKING:
    from arpipam.fabric import Fabric

INTERRUPTED = 130  # what a shell shows for a program that SIGINT ended


class AddressType(click.ParamType[IPv4Address]):
    """An IPv4 address on the command line."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> IPv4Address:
        """Return the address, or fail as click does."""
        try:
            return IPv4Address(value)
        except ValueError:
            self.fail(f"{value!r} is not an IPv4 address such as 172.16.42.7", param, ctx)


ADDRESS = AddressType()

Function = Callable[..., Any]


def option(*names: str, **attributes: Any) -> Callable[[Function], Function]:
    """Return click's option with its environment variable, ARPIPAM_ and the long name.

    Not click's auto_envvar_prefix: in a group of commands that would make it ARPIPAM_PROBE_INTERFACE.
    """
    long = next(name for name in names if name.startswith("--"))
    variable = "ARPIPAM_" + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=True, **attributes)


SOCKET = option(
    "--socket",
    metavar="PATH",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The agent's socket.  [default: {DEFAULT_SOCKET}]",
)

SHARED = (
    option(
        "-I",
        "--interface",
        metavar="IF",
        help=f"The link to look at.  [default: the fabric's bridge, or {DEFAULT_INTERFACE}]",
    ),
    option("--range", "ranges", metavar="A-B", multiple=True, help="Take addresses from here only; may be repeated."),
    option("--exclude", metavar="A[-B]", multiple=True, help="Never take these addresses; may be repeated."),
    option(
        "--order",
        type=click.Choice(["first", "random", "sticky"]),
        default="first",
        show_default=True,
        help="Which free address: the first, any, or the owner's last one.",
    ),
    option(
        "--timing",
        type=click.Choice(["adaptive", "lan", "rfc5227", "guarded"]),
        default="adaptive",
        show_default=True,
        help="How long to listen: as the link needs, about 0.3 s, RFC 5227's 4 to 7 s; guarded: 8 frames a second.",
    ),
    option(
        "--witness",
        "witnesses",
        metavar="ADDRESS",
        type=ADDRESS,
        multiple=True,
        help="A station that is there: nothing is called free unless it answers; may be repeated.",
    ),
    option("--alone", is_flag=True, help="Nobody else need be on the link: silence counts without a witness."),
    option(
        "--miss-probability",
        metavar="P",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=DEFAULT_MISS_PROBABILITY,
        show_default=True,
        help="The accepted chance that a used address is called free.",
    ),
    option(
        "--rate",
        metavar="N",
        type=click.IntRange(min=1),
        default=DEFAULT_RATE,
        show_default=True,
        help="Send at most so many frames a second.",
    ),
    option("--mac", metavar="MAC", help="The MAC that will own the address; a random one if not given."),
    option(
        "--state-dir",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_STATE_DIR,
        show_default=True,
        help="Where the leases are kept.",
    ),
    option("--json", is_flag=True, help="One JSON object per line."),
    option(
        "--fabric",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"The declared network, whose other hosts are witnesses.  [default: {DEFAULT_FABRIC}, if it is there]",
    ),
    SOCKET,
    option("--host", metavar="NAME", help="Which host of that file this is, where its addresses do not tell."),
)


def shared_options(function: Function) -> Function:
    """Give a command the shared options; they reach it as one argument, `options`."""

    @functools.wraps(function)
    def gathered(*args: Any, **kwargs: Any) -> Any:
        said = {field.name: kwargs.pop(field.name) for field in fields(Options) if field.name in kwargs}
        declared = _declared(said["fabric"])
        said["socket"] = said["socket"] or DEFAULT_SOCKET
        interface = said.pop("interface")
        if interface is None:
            interface = declared.bridge if declared is not None else DEFAULT_INTERFACE
        if declared is not None and declared.bridge != interface:
            declared = None
        return function(*args, options=Options(interface=interface, declared=declared, **said), **kwargs)

    command: Function = gathered
    for add in reversed(SHARED):
        command = add(command)
    return command


def _declared(path: Path | None) -> Fabric | None:
    """The declared network: the named file's, or the usual one's where there is one."""
    if path is None and not DEFAULT_FABRIC.exists():
        return None
    from arpipam.fabric.config import load  # noqa: PLC0415 - pydantic takes time that a host without need not

    return load(path or DEFAULT_FABRIC)


def execute(command: click.Command, program: str, arguments: Sequence[str] | None = None) -> int:
    """Run a click command and return its exit status (what it returned, or 0 for None).

    Every ArpipamError and every bad usage becomes one line on stderr, `program: what and what to do`, and its own exit
    status; an interrupt becomes 130. Not click's own main(), which writes several lines and an empty one on interrupt.
    """
    try:
        with command.make_context(program, list(sys.argv[1:] if arguments is None else arguments)) as context:
            return command.invoke(context) or 0
    except click.exceptions.Exit as done:  # --help, --version
        return done.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)  # noqa: T201 - this is the command's output
        return InputError.exit_status
    except click.ClickException as error:
        return complain(program, f"{error.format_message()} (see {program} --help)", InputError.exit_status)
    except ArpipamError as error:
        return complain(program, str(error), error.exit_status)
