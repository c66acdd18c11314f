"""The lab: makes wires, hosts and stations, starts what is slow side by side, and takes everything away again."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self, TypeVar

from arpipam.lab import cleanup, stations
from arpipam.lab.host import UPLINK, Host
from arpipam.lab.namespace import Namespace
from arpipam.lab.wire import Wire

if TYPE_CHECKING:
    from types import TracebackType

    from arpipam.lab.daemons import Program

_COUNT = itertools.count()
P = TypeVar("P", bound="Program")


class Lab:
    """Everything in here ends with it: leave the context, and nothing is left; SIGTERM ends it in the same way.

    `engine` is the version of its hosts' engines where they do not say another; empty: this machine's own.
    """

    def __init__(self, *, engine: str = "") -> None:
        self._engine = engine
        self.id = f"{os.getpid()}x{next(_COUNT)}"
        self.directory = cleanup.ROOT / self.id
        self.hosts: dict[str, Host] = {}
        self._started: set[str] = set()
        self._wires: list[Wire] = []
        self._stack = ExitStack()
        self._names = itertools.count()
        self._declared: dict[str, tuple[Wire | None, dict[str, Any]]] = {}
        """By host: what it is joined to, and its lines of the fabric's file."""

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
        engine: bool | str = False,
        client: str | None = None,
        underlay: Wire | None = None,
        underlay_address: str = "",
        tunnel: str = "gre",
        openvswitch: bool = True,
    ) -> Host:
        """A host with a bridge, plugged into a `wire` or with tunnels over the `underlay` to the others there.

        Its network is a fabric (see arpipam.fabric), up after `start()`; tunnels are Open vSwitch's or the kernel's.
        `engine` is True, or the version of one that is unpacked beside this machine's own, such as 26.1.
        """
        engine = self._engine if engine is True else engine
        directory = self.directory / name
        directory.mkdir()
        host = Host(name, self.namespace(name), directory, address=address, bridge=bridge, engine=engine, client=client)
        network: dict[str, Any] = {"bridge": bridge}
        line: dict[str, Any] = {"name": name, "address": address}
        if wire is not None:
            host.join(wire)
            network["nic"] = UPLINK
        elif underlay is not None:
            host.tunnel(underlay, underlay_address, openvswitch=openvswitch)
            network |= {"tunnel": tunnel, "underlay_nic": UPLINK} | ({"ovs_bridge": "br0"} if openvswitch else {})
            line["underlay"] = underlay_address.partition("/")[0]
        self._declared[name] = wire or underlay, {"network": network, "line": line}
        self.hosts[name] = host
        return host

    def start(self, *, up: bool = True) -> None:
        """Start the hosts that are not up yet, side by side; with their fabric `up`, or only declared."""
        new = [host for name, host in self.hosts.items() if name not in self._started]
        with ThreadPoolExecutor(max_workers=8) as pool:
            jobs = [pool.submit(host.start, self._fabric(host), up=up) for host in new]
        for job in jobs:
            job.result()
        self._started |= {host.name for host in new}

    def _fabric(self, host: Host) -> dict[str, Any]:
        """What the host's file declares: itself and the others on the same wire."""
        wire, own = self._declared[host.name]
        lines = [other["line"] for at, other in self._declared.values() if other is own or (at is wire and wire)]
        return {**own["network"], "subnet": str(host.interface.network), "hosts": lines}

    def two_hosts(self, *, engine: bool | str = True, client: str | None = None) -> tuple[Host, Host, Wire]:
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

    def station(self, name: str, on: Wire | Host, *addresses: str, **behaviour: Any) -> stations.LabStation:
        """A machine that nobody told Docker about, on a wire or on a host's bridge (which must be up).

        It is a plain kernel with these addresses, or one that misbehaves (see LabStation).
        """
        namespace = self.namespace(name)
        on.plug(namespace, "eth0")
        station = stations.LabStation(namespace, addresses, **behaviour)
        self._stack.callback(station.close)
        return station

    def run(self, kind: type[P], station: stations.LabStation, *words: Any, **options: Any) -> P:
        """Start a program that gives this station its address, or others theirs: see arpipam.lab.daemons."""
        program = kind(station, self.directory / f"program{next(self._names)}", *words, **options)
        self._stack.callback(program.stop)
        program.start()
        return program


def _terminated(number: int, frame: object) -> None:  # noqa: ARG001 - a signal handler's arguments
    raise SystemExit(128 + number)
