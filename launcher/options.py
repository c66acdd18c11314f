"""What the user set for a search, and the allocator that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from launcher.defaults import (
    DEFAULT_INTERFACE,
    DEFAULT_MISS_PROBABILITY,
    DEFAULT_RATE,
    DEFAULT_SOCKET,
    DEFAULT_STATE_DIR,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address, IPv4Network
    from pathlib import Path

    from arpipam.allocator import Allocator
    from arpipam.fabric import Fabric


@dataclass(frozen=True)
class Options:
    """What the user set with the shared options; the names are those of Allocator's parameters where it has them."""

    interface: str = DEFAULT_INTERFACE
    ranges: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    order: Literal["first", "random", "sticky"] = "first"
    timing: Literal["adaptive", "lan", "rfc5227", "guarded"] = "adaptive"
    witnesses: tuple[IPv4Address, ...] = ()
    alone: bool = False
    miss_probability: float = DEFAULT_MISS_PROBABILITY
    rate: int = DEFAULT_RATE
    mac: str | None = None
    state_dir: Path = DEFAULT_STATE_DIR
    json: bool = False
    fabric: Path | None = None
    host: str | None = None
    socket: Path = DEFAULT_SOCKET
    """Where the agent listens, if one runs."""
    declared: Fabric | None = None
    """The network that the file declares, where its bridge is the interface."""


def make_allocator(
    options: Options,
    *,
    subnet: str | IPv4Network | None = None,
    gateway: IPv4Address | None = None,
    progress: Callable[[str], None] | None = None,
) -> Allocator:
    """Return the allocator that the options describe (not yet entered). `subnet` None: the interface's own."""
    from arpipam.allocator import Allocator  # noqa: PLC0415 - takes 0.1 s; --help and bad usage need none of it

    names: dict[IPv4Address, str] = {}
    kept: list[str] = []
    witnesses = list(options.witnesses)
    if options.declared is not None:
        from arpipam.fabric import Site  # noqa: PLC0415 - as above

        site = Site(options.declared, options.state_dir, name=options.host)
        names = {host.address.ip: host.name for host in options.declared.hosts}
        kept = [str(address) for address in site.kept()]
        if options.alone:  # the others need not answer; what is theirs stays theirs
            kept += map(str, site.witnesses())
        else:
            witnesses += site.witnesses()
        subnet = subnet or options.declared.subnet
    return Allocator(
        options.interface,
        subnet,
        ranges=options.ranges,
        exclude=(*options.exclude, *kept),
        order=options.order,
        timing=options.timing,
        witnesses=dict.fromkeys(witnesses),
        names=names,
        gateway=gateway,
        alone=options.alone,
        miss_probability=options.miss_probability,
        rate=options.rate,
        state_dir=options.state_dir,
        progress=progress,
    )
