"""What engines and kernels say meanwhile: the containers, the addresses of the stations, the routes of the hosts."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from arpipam.lab.daemons import held
from launcher.lab.agents import NETWORK

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from arpipam.lab import Host
    from launcher.lab.soak.world import World

EVERY = 1.0
"""Seconds between two looks at each engine, and at all kernels."""
_PATIENCE = 2.0


@dataclass(frozen=True)
class Container:
    """A container as its engine shows it."""

    id: str
    name: str
    address: str
    mac: str
    state: str
    """`created`, `running`, `exited`, …"""
    named: str
    """The address of its --ip."""


@dataclass(frozen=True)
class Look:
    """What one engine said between two moments."""

    since: float
    until: float
    containers: dict[str, Container]


@dataclass
class Seen:
    """All that was seen."""

    looks: dict[str, list[Look]] = field(default_factory=dict)
    harmed: list[tuple[float, str, str]] = field(default_factory=list)
    """When, which station, which address it had lost."""
    routes: list[tuple[float, str, str]] = field(default_factory=list)
    """When, which host, which route or address it had lost."""


class Observers:
    """They look as long as the context lasts."""

    def __init__(self, world: World) -> None:
        self.seen = Seen({name: [] for name in world.agents})
        self._world = world
        self._whole = {name: kernel(agent.host) for name, agent in world.agents.items()}
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._follow, args=(name,), daemon=True) for name in world.agents]
        self._threads.append(threading.Thread(target=self._kernels, daemon=True))

    def _follow(self, name: str) -> None:
        engine = self._world.host(name).engine
        assert engine is not None  # noqa: S101 - for mypy: each host of the soak has one
        while not self._ending.wait(EVERY):
            since = self._world.now()
            with suppress(OSError, ValueError, http.client.HTTPException):  # it is away
                containers = ask(engine.socket)
                self.seen.looks[name].append(Look(since, self._world.now(), containers))

    def _kernels(self) -> None:
        lost: dict[tuple[str, str], int] = {}
        while not self._ending.wait(EVERY):
            for name, address in self._missing():
                lost[name, address] = lost.get((name, address), 0) + 1
                if lost[name, address] == 2:  # noqa: PLR2004 - twice: one that is just taken or given up is no loss
                    self.seen.harmed.append((self._world.now(), name, address))
            for name, whole in self._whole.items():
                for line in whole - kernel(self._world.host(name)):
                    if (name, line) not in lost:
                        lost[name, line] = 1
                        self.seen.routes.append((self._world.now(), name, line))

    def _missing(self) -> list[tuple[str, str]]:
        with self._world.lock:
            expected = [(name, foreign.station, set(foreign.has)) for name, foreign in self._world.foreign.items()]
        return [(name, address) for name, station, has in expected for address in has - held(station)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


def kernel(host: Host) -> set[str]:
    """The addresses of the host's bridge and its routes."""
    routes = host.namespace.run("ip", "-4", "route", "show").splitlines()
    addresses = host.namespace.run("ip", "-4", "-o", "addr", "show", "dev", host.bridge).splitlines()
    found = {f"route {' '.join(word for word in line.split() if word != 'linkdown')}" for line in routes}
    return found | {f"address {line.split()[3]}" for line in addresses}


def ask(path: Path) -> dict[str, Container]:
    """The containers of an engine's network, by their names; asked without any of arpipam's own code."""
    connection = http.client.HTTPConnection("engine", timeout=_PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(_PATIENCE)
    try:
        connection.sock.connect(str(path))
        connection.request("GET", "/containers/json?all=1")
        response = connection.getresponse()
        said = json.loads(response.read())
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise ValueError(said)
    return {container.name: container for one in said if (container := _container(one)) is not None}


def _container(said: dict[str, Any]) -> Container | None:
    endpoint = said["NetworkSettings"]["Networks"].get(NETWORK)
    if endpoint is None:
        return None
    return Container(
        said["Id"],
        said["Names"][0].lstrip("/"),
        endpoint["IPAddress"],
        endpoint["MacAddress"],
        said["State"],
        (endpoint["IPAMConfig"] or {}).get("IPv4Address", ""),
    )
