"""What the fabric file declares about the agent's networks.

The file is read once and kept: a file that has become wrong changes nothing until a reload accepts it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arpipam.errors import InputError
from arpipam.fabric import Site
from arpipam.fabric import load as load_fabric
from arpipam.link import netlink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Address, IPv4Network

    from arpipam.fabric import Fabric
    from launcher.agent.config.file import Config
    from launcher.agent.config.keys import NetworkSettings
    from launcher.agent.pools import DockerPool


@dataclass(frozen=True)
class Declaration:
    """What is declared for one network."""

    required: Mapping[IPv4Address, str]
    """The stations that must answer, with their names; the named witnesses are among them."""
    kept: tuple[str, ...]
    """Addresses that stay reserved."""


class Declared:
    """What the fabric file says, under one configuration of the agent. Its methods read files: for threads."""

    def __init__(self, config: Config, *, on_subnet: Callable[[IPv4Network], list[str]] = netlink.on_subnet) -> None:
        self._agent = config.agent
        self._on_subnet = on_subnet
        self._lock = threading.Lock()
        self._fabric: Fabric | None = None

    def fabric(self) -> Fabric | None:
        """The fabric, or None where there is no file. Raises InputError for a file that is wrong, until it is right.

        So it does where the host that this one is said to be is not in it.
        """
        with self._lock:
            if self._fabric is None and (file := self._agent.fabric_file()) is not None:
                fabric = load_fabric(file)
                if self._agent.host is not None:
                    fabric.local(name=self._agent.host, addresses=(), hostname="")
                self._fabric = fabric
            return self._fabric

    def honoured(self) -> str:
        """Which fabric is honoured, and who must answer besides, for a person; empty where nothing is declared."""
        file, host, said = self._agent.fabric_file(), self._agent.host, []
        if file is not None:
            bridge = "" if self._fabric is None else f" on {self._fabric.bridge}"
            said.append(f"{file}{f' as {host}' if host else ''}{bridge}")
        if self._agent.witnesses:
            said.append(f"witnesses {', '.join(map(str, self._agent.witnesses))}")
        return "; ".join(said)

    def of(self, pool: DockerPool, settings: NetworkSettings) -> Declaration:
        """What is declared for the network. Raises InputError for a file, or a host in it, that is wrong."""
        everywhere = [witness for witness in self._agent.witnesses if witness in pool.subnet]
        required = dict.fromkeys((*settings.witnesses, *everywhere), "")
        fabric = self.fabric()
        if fabric is None or fabric.bridge != pool.interface or not fabric.subnet.overlaps(pool.subnet):
            return Declaration(required, ())
        site = Site(fabric, self._agent.state_dir, name=self._agent.host)
        names = {host.address.ip: host.name for host in fabric.hosts}
        required |= {address: names.get(address, "") for address in site.witnesses()}
        return Declaration(required, tuple(str(address) for address in site.kept() if address in pool.subnet))

    def interface_of(self, subnet: IPv4Network) -> str:
        """The interface that has the subnet, or on which the fabric declares it. Raises InputError if there is none."""
        found = self._on_subnet(subnet)
        if len(found) == 1:
            return found[0]
        fabric = self.fabric()
        if fabric is not None and fabric.subnet.overlaps(subnet):
            return fabric.bridge
        several = (
            f"several interfaces have an address in it ({', '.join(found)})"
            if found
            else "no interface has an address in it"
        )
        raise InputError(f"pool {subnet}: {several}; name the link: --ipam-opt interface=IF")
