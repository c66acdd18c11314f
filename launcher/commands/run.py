"""arpipam-run: `docker run` with an address that nobody on the network uses."""

from __future__ import annotations

import signal
import sys
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any

import click

from launcher.commands.options import ADDRESS, execute, option, shared_options
from launcher.run.child import SIGNAL_BASE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from launcher.options import Options

PROGRAM = "arpipam-run"


class AddressWithPrefix(click.ParamType[tuple[IPv4Address, int | None]]):
    """An IPv4 address on the command line, with the length of its prefix or without (None)."""

    name = "address/prefix"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[IPv4Address, int | None]:
        """Return both, or fail as click does."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return] # click may convert twice
        try:
            interface = IPv4Interface(value)
        except ValueError:
            self.fail(f"{value!r} is not an address such as 172.16.42.7 or 172.16.42.7/24", param, ctx)
        return interface.ip, interface.network.prefixlen if "/" in value else None


class RunCommand(click.Command):
    """Takes the options that it knows, and leaves everything from the first other word on to `docker run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse our part; docker's words become the parameter `words`."""
        own, words = split(self.get_params(ctx), args)
        rest = super().parse_args(ctx, own)
        if not words:
            raise click.UsageError("no image is named", ctx)
        ctx.params["words"] = tuple(words)
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Show docker's part in the usage line."""
        return [*super().collect_usage_pieces(ctx), "[DOCKER RUN OPTIONS]", "IMAGE", "[COMMAND]..."]


def split(parameters: Sequence[click.Parameter], words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the command line where the first word stands that is neither one of our options nor its value."""
    takes_value = {
        name: not (parameter.is_flag or parameter.count)
        for parameter in parameters
        if isinstance(parameter, click.Option)
        for name in parameter.opts
    }
    at = 0
    while at < len(words):
        word = words[at]
        name, has_value = (word.partition("=")[0], "=" in word) if word.startswith("--") else (word[:2], len(word) > 2)  # noqa: PLR2004 - -I and what follows
        if name not in takes_value:
            break
        at += 2 if takes_value[name] and not has_value else 1
    return list(words[:at]), list(words[at:])


@click.command(
    cls=RunCommand,
    help="Run a container with an address that no station on the network uses.\n\n"
    "Our options come first. From the first other word on everything is `docker run`'s, as it stands.",
)
@shared_options
@option(
    "--ip",
    "wanted",
    metavar="ADDRESS[/PREFIX]",
    type=AddressWithPrefix(),
    default=(None, None),
    help="This address, if nobody uses it.",
)
@option(
    "--gateway", metavar="ADDRESS", type=ADDRESS, help="The container's way out; the bridge's own address if not given."
)
@option("--network", metavar="NAME", help="The Docker network; the one on the interface if not given, made if missing.")
@click.option(
    "-H", "engine", metavar="URL", help="The engine, as docker's -H.  [default: DOCKER_HOST's, or the context's]"
)
@click.option(
    "-c", "--context", metavar="NAME", help="The docker context to take.  [default: DOCKER_CONTEXT, or the current one]"
)
def command(
    options: Options,
    *,
    wanted: tuple[IPv4Address | None, int | None],
    gateway: IPv4Address | None,
    network: str | None,
    engine: str | None,
    context: str | None,
    words: tuple[str, ...],
) -> int:
    """Run a container; the return value is the exit status."""
    from launcher.engine.target import chosen  # noqa: PLC0415 - as below
    from launcher.run.launch import Launch, RunRequest  # noqa: PLC0415 - takes 0.1 s; --help and bad usage need none of it

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    address, prefix = wanted
    return Launch(options, RunRequest(words, address, prefix, gateway, network, chosen(engine, context))).run()


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a signal handler
    """Leave by way of every `with`, so that what is claimed is released."""
    sys.exit(SIGNAL_BASE + number)


def main() -> None:
    """Start as `arpipam-run`."""
    sys.exit(execute(command, PROGRAM))
