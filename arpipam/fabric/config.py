"""The declared network: one file, `fabric.toml`, the same on every host.

It names the bridge that containers attach to, what connects the bridges of the hosts, and the hosts. The local host is
the one whose underlay address, bridge address or name this machine has.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from arpipam.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

DEFAULT_OVSDB = "unix:/var/run/openvswitch/db.sock"
LONGEST_INTERFACE = 15
"""IFNAMSIZ less its final zero (linux/if.h)."""
OVERHEAD = {"gre": 38, "vxlan": 50}
"""Bytes of an underlay packet that are not the container's: outer IPv4 20; GRE 4, or UDP 8 and VXLAN 8; inner Ethernet
14 (RFC 2784, RFC 7348)."""
_LEAST_MTU = 576

InterfaceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DeclaredHost(_Strict):
    """One host of the fabric."""

    name: HostName
    address: IPv4Interface
    """On the bridge, with its prefix."""
    underlay: IPv4Address | None = None
    """Where its tunnels end."""
    underlay_nic: InterfaceName | None = None
    absent: bool = False
    """Gone on purpose: it need not answer, and the addresses last seen behind it stay reserved."""


class Fabric(_Strict):
    """The whole file."""

    bridge: InterfaceName = "docker0"
    ovs_bridge: InterfaceName | None = None
    """An Open vSwitch bridge, a port of the Linux bridge; None: a fabric without Open vSwitch."""
    tunnel: Literal["gre", "vxlan"] | None = None
    """None: no tunnels, the bridge has a NIC in it."""
    nic: InterfaceName | None = None
    """A NIC that becomes a port of the bridge."""
    subnet: IPv4Network
    datapath: Literal["auto", "system", "netdev"] = "auto"
    underlay_nic: InterfaceName | None = None
    vni: Annotated[int, Field(ge=1, lt=1 << 24)] = 42
    """VXLAN network identifier."""
    mtu: Annotated[int, Field(ge=_LEAST_MTU, le=65535)] | None = None
    """Of the bridge and new containers; None: what the underlay leaves."""
    ovsdb: str = ""
    witnesses: tuple[IPv4Address, ...] = ()
    hosts: Annotated[tuple[DeclaredHost, ...], Field(min_length=1)]

    @field_validator("ovsdb")
    @classmethod
    def _remote(cls, value: str) -> str:
        if value and not re.match(r"(unix|tcp|ssl):.", value):
            raise ValueError("write unix:PATH, tcp:ADDRESS:PORT or ssl:ADDRESS:PORT")
        return value

    @model_validator(mode="after")
    def _hosts_fit(self) -> Fabric:
        for host in self.hosts:
            if host.address.network != self.subnet:
                raise ValueError(f"host {host.name}: address {host.address} is not in subnet {self.subnet}")
            if host.address.ip in {self.subnet.network_address, self.subnet.broadcast_address}:
                raise ValueError(f"host {host.name}: {host.address.ip} is no address that a host can have")
            if self.tunnel and host.underlay is None:
                raise ValueError(f"host {host.name}: underlay is missing: the address where its tunnels end")
        for what in ("name", "address", "underlay"):
            values = [getattr(host, what) for host in self.hosts if getattr(host, what) is not None]
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"{what} {twice} is there twice")
        return self

    @model_validator(mode="after")
    def _links_fit(self) -> Fabric:
        if self.tunnel is None and self.nic is None and len(self.hosts) > 1:
            raise ValueError('give tunnel = "gre" or "vxlan"; or nic, the NIC that becomes a port of the bridge')
        if self.tunnel is None and self.ovs_bridge is not None:
            raise ValueError('ovs_bridge goes with tunnel = "gre" or "vxlan"')
        if self.tunnel is not None and self.nic is not None:
            raise ValueError("nic goes without tunnel; the NIC below the tunnels is underlay_nic")
        if self.ovs_bridge == self.bridge:
            raise ValueError("ovs_bridge and bridge must be two bridges: Docker needs a Linux bridge")
        if self.datapath != "auto" and self.ovs_bridge is None:
            raise ValueError(f'datapath = "{self.datapath}" goes with ovs_bridge')
        return self

    def peers(self, local: DeclaredHost) -> list[DeclaredHost]:
        """The other hosts that should be there."""
        return [host for host in self.hosts if host != local and not host.absent]

    def port_of(self, peer: DeclaredHost) -> str:
        """The name of the tunnel port that leads to the peer."""
        name = f"{'gre' if self.tunnel == 'gre' else 'vx'}-{peer.name}"
        if len(name) <= LONGEST_INTERFACE:
            return name
        return f"{name[:3].rstrip('-')}-{_digest(peer.name)}"

    @property
    def vxlan_link(self) -> str:
        """The name of the kernel's VXLAN device of this bridge; no other bridge's device has it."""
        name = f"vx-{self.bridge}"
        return name if len(name) <= LONGEST_INTERFACE else f"{name[:6]}-{_digest(self.bridge)}"

    def local(self, *, name: str | None, addresses: Collection[IPv4Address], hostname: str) -> DeclaredHost:
        """The host that this machine is: the named one, or the one with an address of ours, or with our name.

        Raises InputError where none is.
        """
        names = ", ".join(host.name for host in self.hosts)
        if name is not None:
            for host in self.hosts:
                if host.name == name:
                    return host
            raise InputError(f"--host {name}: the file names {names}")
        for host in self.hosts:
            if host.underlay in addresses:
                return host
        for host in self.hosts:
            if host.address.ip in addresses or host.name == hostname:
                return host
        raise InputError(f"this machine has no underlay address of the file; say which host it is: --host {names}")


def _digest(name: str) -> str:
    """Eight characters that stand for a name that is too long for an interface."""
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def load(path: Path) -> Fabric:
    """Read and validate a file; raises InputError, in one line with file and key, for what cannot be meant."""
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; write the file, or name another with --fabric") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from None
    return parse(data, str(path))


def parse(data: dict[str, Any], source: str) -> Fabric:
    """Validate the content of a file, which is called `source` in errors."""
    unknown = [key for key in data if key not in {"fabric", "host"}]
    if unknown:
        raise InputError(f"{source}: {unknown[0]}: unknown; allowed are [fabric] and [[host]]")
    table, hosts = data.get("fabric", {}), data.get("host", [])
    if not isinstance(table, dict) or not isinstance(hosts, list):
        raise InputError(f"{source}: write one [fabric] and a [[host]] for each host")
    try:
        return Fabric.model_validate({**table, "hosts": hosts})
    except ValidationError as error:
        raise InputError(f"{source}: {'; '.join(_line(detail) for detail in error.errors())}") from None


def _line(detail: Any) -> str:
    """One of pydantic's errors: where, and what is allowed."""
    where = list(detail["loc"])
    if where[:1] == ["hosts"]:
        where[0] = "host"
        if len(where) > 1 and isinstance(where[1], int):
            where[:2] = [f"host[{where[1] + 1}]"]
    allowed = _fields(where)
    text = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        text = f"unknown key; allowed are {allowed}"
    elif detail["type"] == "missing":
        text = "missing"
    key = ".".join(str(part) for part in where)
    shown = "" if detail["type"] in {"missing", "extra_forbidden", "value_error"} else f" {detail['input']!r}"
    return f"{key or '[fabric]'}{shown}: {text}"


def _fields(where: list[Any]) -> str:
    model = DeclaredHost if where and str(where[0]).startswith("host[") else Fabric
    return ", ".join(name for name in model.model_fields if name != "hosts")
