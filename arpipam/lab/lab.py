"""The lab: makes wires, hosts and stations, starts what is slow side by side, and takes everything away again."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from arpipam.lab import cleanup, stations
from arpipam.lab.host import Host
from arpipam.lab.namespace import Namespace
from arpipam.lab.wire import Wire

if TYPE_CHECKING:
    from types import TracebackType

_COUNT = itertools.count()


class Lab:
    """Everything in here ends with it: leave the context, and nothing is left; SIGTERM ends it in the same way."""

    def __init__(self) -> None:
        self.id = f"{os.getpid()}x{next(_COUNT)}"
        self.directory = cleanup.ROOT / self.id
        self.hosts: dict[str, Host] = {}
        self._started: set[str] = set()
        self._wires: list[Wire] = []
        self._stack = ExitStack()
        self._names = itertools.count()
        self._underlay: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        (self.directory / "owner").write_text(cleanup.owner_of(os.getpid()))
        self._stack.callback(cleanup.remove, self.id)
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _terminated)
            self._stack.callback(signal.signal, signal.SIGTERM, signal.SIG_DFL)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def namespace(self, name: str) -> Namespace:
        """A bare namespace."""
        return Namespace(f"{cleanup.PREFIX}{self.id}-{next(self._names)}{name}"[:60])

    def wire(self, *, loss: float = 0.0, mtu: int = 1500) -> Wire:
        """A wire to plug hosts and stations into."""
        wire = Wire(self.namespace("wire"), mtu=mtu)
        self._wires.append(wire)
        self._stack.callback(wire.close)
        if loss:
            wire.loss = loss
        return wire

    def host(
        self,
        name: str,
        wire: Wire | None = None,
        address: str = "172.16.42.1/24",
        *,
        bridge: str = "docker0",
        engine: bool = False,
        client: str | None = None,
        underlay: Wire | None = None,
        underlay_address: str = "",
        tunnel: str = "gre",
    ) -> Host:
        """A host with a bridge, plugged into a `wire` or with tunnels over the `underlay` to the others there.

        It is up after `start()`.
        """
        directory = self.directory / name
        directory.mkdir()
        host = Host(name, self.namespace(name), directory, address=address, bridge=bridge, engine=engine, client=client)
        if wire is not None:
            host.join(wire)
        if underlay is not None:
            host.tunnel(underlay, underlay_address, tunnel)
            self._underlay[name] = underlay_address.partition("/")[0]
        self.hosts[name] = host
        return host

    def start(self) -> None:
        """Start the hosts that are not up yet, side by side."""
        new = [host for name, host in self.hosts.items() if name not in self._started]
        with ThreadPoolExecutor(max_workers=8) as pool:
            jobs = [
                pool.submit(host.start, {name: at for name, at in self._underlay.items() if name != host.name})
                for host in new
            ]
        for job in jobs:
            job.result()
        self._started |= {host.name for host in new}

    def two_hosts(self, *, engine: bool = True, client: str | None = None) -> tuple[Host, Host, Wire]:
        """Two hosts with docker0 and br0 each and a GRE tunnel between them; the wire is the underlay."""
        underlay = self.wire()
        first, second = (
            self.host(
                f"host{n}",
                address=f"172.16.42.{n}/24",
                engine=engine,
                client=client,
                underlay=underlay,
                underlay_address=f"192.168.122.{n}/24",
            )
            for n in (1, 2)
        )
        self.start()
        return first, second, underlay

    def station(self, name: str, on: Wire | Host, *addresses: str, **behaviour: Any) -> stations.Station:
        """A machine that nobody told Docker about, on a wire or on a host's bridge (which must be up).

        It is a plain kernel with these addresses, or one that misbehaves (see Station).
        """
        namespace = self.namespace(name)
        on.plug(namespace, "eth0")
        station = stations.Station(namespace, addresses, **behaviour)
        self._stack.callback(station.close)
        return station


def _terminated(number: int, frame: object) -> None:  # noqa: ARG001 - a signal handler's arguments
    raise SystemExit(128 + number)
