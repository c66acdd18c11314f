"""The keys of the agent's file, and what each may be. Every field's description is what errors say is allowed."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from arpipam.errors import InputError
from arpipam.fabric.config import HostName, InterfaceName
from arpipam.protocol.pool import Order, Pool, parse_subnet
from arpipam.protocol.timing import MISS_PROBABILITY, RATE
from launcher.defaults import DEFAULT_FABRIC, DEFAULT_SOCKET, DEFAULT_STATE_DIR

DEFAULT_DOCKER = "unix:///var/run/docker.sock"
LONGEST_SOCKET = 107
"""Bytes of a unix socket's path (unix(7), sun_path, less its final zero)."""
_DAY, _YEAR = 86_400, 31_536_000
_PORTS = 1 << 16
DHCP = "dhcp"
"""Among exclusions: what DHCP servers on the link give out."""

Policy = Literal["defend", "report", "move"]
"""What a conflict is met with: RFC 5227's defence, a report only, or another address for the container."""


@dataclass(frozen=True)
class MetricsEndpoint:
    """Where the metrics are served."""

    address: str
    port: int

    @classmethod
    def parse(cls, text: str) -> MetricsEndpoint:
        """From ADDRESS:PORT, with brackets round an IPv6 address; raises InputError for anything else."""
        match = re.fullmatch(r"(?:\[([^\[\]]*:[^\[\]]*)\]|([0-9.]+)):([0-9]{1,5})", text)
        with suppress(ValueError):
            if match is not None and 0 < int(match[3]) < _PORTS:
                return cls(str(ip_address(match[1] or match[2])), int(match[3]))
        raise InputError(f"metrics {text!r}: write ADDRESS:PORT, such as 127.0.0.1:9475 or [::1]:9475")

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def _path(value: object) -> object:
    """Text to a path, which must be absolute: the agent is started in no folder of the user's."""
    if isinstance(value, str):
        if not value.startswith("/") or "\0" in value:
            raise ValueError
        return Path(value)
    return value


def _socket(path: Path) -> Path:
    if len(os.fsencode(path)) > LONGEST_SOCKET:
        raise ValueError
    return path


def _endpoint(value: object) -> object:
    return MetricsEndpoint.parse(value) if isinstance(value, str) else value


def _fabric(value: object) -> object:
    return value if value == "none" else _path(value)


def listed(value: object) -> object:
    """TOML has lists, and what is frozen has tuples."""
    return tuple(value) if isinstance(value, list) else value


def _address(value: object) -> object:
    return IPv4Address(value) if isinstance(value, str) else value


def _network(value: object) -> object:
    return parse_subnet(value) if isinstance(value, str) else value


def _span(text: str) -> str:
    """Whether it is a range at all; whether it fits its subnet is found later."""
    Pool("0.0.0.0/0", ranges=(text,))
    return text


def _exclusion(text: str) -> str:
    return text if text == DHCP else _span(text)


def _exclusions(value: object) -> object:
    return (DHCP,) if value == DHCP else listed(value)


AbsolutePath = Annotated[Path, BeforeValidator(_path)]
Spans = Annotated[tuple[Annotated[str, AfterValidator(_span)], ...], BeforeValidator(listed)]
Exclusions = Annotated[tuple[Annotated[str, AfterValidator(_exclusion)], ...], BeforeValidator(_exclusions)]
Addresses = Annotated[tuple[Annotated[IPv4Address, BeforeValidator(_address)], ...], BeforeValidator(listed)]
# What is allowed, as errors say it.
_ABSOLUTE = "an absolute path, such as "
_SPAN = "A, A-B or A/length, such as 172.16.42.100-172.16.42.200"


class AgentSettings(BaseModel, extra="forbid", frozen=True, strict=True):
    """The table [agent]. Times are seconds."""

    socket: Annotated[AbsolutePath, AfterValidator(_socket)] = Field(
        default=DEFAULT_SOCKET, description=f"{_ABSOLUTE}{DEFAULT_SOCKET}, of at most {LONGEST_SOCKET} bytes"
    )
    state_dir: AbsolutePath = Field(default=DEFAULT_STATE_DIR, description=f"{_ABSOLUTE}{DEFAULT_STATE_DIR}")
    metrics: Annotated[MetricsEndpoint | None, BeforeValidator(_endpoint)] = Field(
        default=None, description="ADDRESS:PORT, such as 127.0.0.1:9475"
    )
    """None: they are not served."""
    fabric: Annotated[Path | Literal["none"] | None, BeforeValidator(_fabric)] = Field(
        default=None, description=f'{_ABSOLUTE}{DEFAULT_FABRIC}, or "none"'
    )
    """None: not said; see `fabric_file`."""
    host: HostName | None = Field(default=None, description="the name of a host in the fabric's file")
    witnesses: Addresses = Field(default=(), alias="witness", description="IPv4 addresses, such as 172.16.42.254")
    """Stations that must answer on every network that has them in its subnet, beside the network's own."""
    docker: Annotated[str, Field(pattern=r"^(unix:///|tcp://|https?://)\S+$")] | None = Field(
        default=None, description=f"unix:///PATH or tcp://HOST:PORT, such as {DEFAULT_DOCKER}"
    )
    """None: not said; see `docker_host`."""
    hook: Annotated[Path | None, BeforeValidator(_path)] = Field(
        default=None, description=f"{_ABSOLUTE}/etc/arpipam/on-conflict"
    )
    """A program that is run for each conflict and mismatch."""
    remember: float = Field(default=_DAY, ge=0, le=_YEAR, description=f"seconds, from 0 (off) to {_YEAR}")
    """For so long a station that was seen is passed over."""
    quarantine: float = Field(default=60, ge=0, le=_DAY, description=f"seconds, from 0 to {_DAY}")
    """For so long a released address rests."""
    compare: float = Field(default=60, ge=1, le=_DAY, description=f"seconds, from 1 to {_DAY}")
    """Time between two full comparisons with the engine."""
    start_refused: bool = Field(default=True, description="true or false")
    """Whether containers that were refused while their engine started are started once the network is whole."""

    def fabric_file(self) -> Path | None:
        """The file of the declared network: the one that was named, or the usual one where there is one."""
        if self.fabric == "none":
            return None
        return self.fabric or (DEFAULT_FABRIC if DEFAULT_FABRIC.exists() else None)

    def docker_host(self) -> str:
        """The engine: the one that was named, the environment's, or the usual one."""
        return self.docker or os.environ.get("DOCKER_HOST") or DEFAULT_DOCKER


class NetworkSettings(BaseModel, extra="forbid", frozen=True, strict=True):
    """What holds for a network; the table [network] has the same keys. The names are Allocator's where it has them."""

    ready: int = Field(default=4, ge=0, le=64, description="a whole number from 0 to 64")
    """Addresses that are kept ready while nobody asks for any."""
    most_ready: int = Field(default=32, ge=0, le=256, description="a whole number from 0 to 256")
    """As many at most, however great the demand."""
    policy: Policy = Field(default="defend", description="defend, report or move")
    order: Order = Field(default="first", description="first, random or sticky")
    timing: Literal["adaptive", "lan", "rfc5227", "guarded"] = Field(
        default="adaptive", description="adaptive, lan, rfc5227 or guarded"
    )
    """Of a search that somebody waits for; ready addresses are probed by rfc5227."""
    ranges: Spans = Field(default=(), alias="range", description=_SPAN)
    exclude: Exclusions = Field(default=(), description=f"{_SPAN}, or {DHCP}")
    witnesses: Addresses = Field(default=(), alias="witness", description="IPv4 addresses, such as 172.16.42.254")
    alone: bool = Field(default=False, description="true or false")
    miss_probability: float = Field(
        default=MISS_PROBABILITY, gt=0, lt=1, description="a number between 0 and 1, such as 1e-6"
    )
    rate: int = Field(default=RATE, ge=1, le=1_000_000, description="frames a second, a whole number from 1 to 1000000")
    interface: InterfaceName | None = Field(default=None, description="the name of an interface, such as docker0")
    """None: the one that has the subnet."""

    @property
    def excluded_spans(self) -> tuple[str, ...]:
        """The exclusions that are addresses."""
        return tuple(text for text in self.exclude if text != DHCP)

    @property
    def avoids_dhcp(self) -> bool:
        """Whether what DHCP servers give out is excluded."""
        return DHCP in self.exclude


class DeclaredNetwork(NetworkSettings, extra="forbid", frozen=True, strict=True):
    """One [[networks]]."""

    subnet: Annotated[IPv4Network, BeforeValidator(_network)] = Field(
        description="an IPv4 network, such as 172.16.42.0/24"
    )
