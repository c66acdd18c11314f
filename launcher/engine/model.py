"""What the Docker engine says, as values: networks, containers, and what ties the two together.

Whatever an engine accepts is read. A description that cannot be read is skipped by itself and named in the view.
"""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

from arpipam.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

LEASE_LABEL = "arpipam.lease"
BRIDGE_NAME = "com.docker.network.bridge.name"
MTU = "com.docker.network.driver.mtu"
DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
GATEWAY_KEY = "DefaultGatewayIPv4"  # the bridge driver's way to route by another host than the bridge itself
RUNNING = {"running", "paused", "restarting"}
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)
"""What the reading of a description that no engine should give may raise."""
RESTARTED = {"always", "unless-stopped", "on-failure"}
"""Restart policies by which an engine that starts brings containers up."""
_NEVER = "0001-"
_RENAMED = re.compile(r"^[0-9a-f]{12}_(?=.)")
"""What compose puts before a container's name while it puts another one in its place."""


@dataclass(frozen=True)
class DockerNetwork:
    """A Docker network on the link."""

    name: str
    driver: str
    subnet: IPv4Network
    gateway: IPv4Address | None
    kept: frozenset[IPv4Address]
    """Addresses that the engine keeps for itself: gateway and auxiliary addresses."""
    mtu: int | None
    """Of its containers; None where it is not set."""


@dataclass(frozen=True)
class Container:
    """A container, as far as addresses go."""

    id: str
    name: str
    running: bool
    lease: int | None
    addresses: frozenset[IPv4Address]
    """Those that it has and those that it will have when it starts, on all its networks."""


@dataclass(frozen=True)
class FailedStart:
    """A container that its restart policy would have run, and whose last start failed."""

    id: str
    name: str
    error: str
    """Why, as the engine keeps it."""
    ran: str
    """When it ran last: the same text as long as it has not run since."""


@dataclass(frozen=True)
class Endpoint:
    """What ties a container to a network, running or not."""

    network: str
    """The network's name."""
    address: IPv4Address
    mac: str
    """Empty while the container does not run."""
    container: str
    """As leases name it."""
    name: str
    running: bool
    lease: int | None
    """The number in its label: arpipam-run started it."""


@dataclass(frozen=True)
class WaitingContainer:
    """A container that does not run, and that gets any address of a network when it starts."""

    network: str
    name: str
    created: float
    """Seconds since 1970."""
    new: bool
    """It never ran."""


@dataclass(frozen=True)
class AttachedNetwork:
    """A Docker network and its endpoints, whichever driver gives its addresses out."""

    name: str
    ipam: str
    """The name of its IPAM driver."""
    subnet: IPv4Network
    ranges: IPv4Network | None
    interface: str
    """The bridge or parent; where Docker's --ipam-opt names one, that."""
    endpoints: tuple[Endpoint, ...]
    driver: str = ""
    """The name of its network driver."""
    device: str = ""
    """The bridge or parent that the driver has, whatever --ipam-opt names."""


@dataclass(frozen=True)
class EngineView:
    """What an engine had at one moment."""

    at: float
    """Before it was asked, on the monotonic clock."""
    version: str
    networks: tuple[AttachedNetwork, ...]
    unreadable: tuple[str, ...] = ()
    """One line for each network or container whose description cannot be read; it is not in the view."""
    engine: str = ""
    """The engine's name, as leases have it behind their container's: `<container>@<engine>`."""
    waiting: tuple[WaitingContainer, ...] = ()


def meant(description: Any, interface: str, name: str | None) -> bool:
    """Whether it is the network of that name, or any on that interface where no name is given."""
    with suppress(*_UNREADABLE):
        return bool(description["Name"] == name) if name is not None else leads_to(description, interface)
    return False


def leads_to(description: Mapping[str, Any], interface: str) -> bool:
    """Whether the network is on that bridge or macvlan parent."""
    return description.get("Driver") in {"bridge", "macvlan"} and device_of(description) == interface


def usable(description: Mapping[str, Any], interface: str) -> DockerNetwork:
    """The network, if it can give a container on that link an address and MAC of our choice; else InputError."""
    name, driver = description["Name"], description["Driver"]
    if not leads_to(description, interface):
        raise InputError(
            f"the Docker network {name} (driver {driver}) is not on {interface}; name one whose bridge or macvlan "
            f"parent it is, or leave --network out"
        )
    options = _mapping(description.get("Options"))
    if options.get(DEFAULT_BRIDGE) == "true":
        raise InputError(
            f"{interface} belongs to the engine's default network, which takes no address of ours; start the engine "
            'with "bridge": "none", or use another bridge'
        )
    configs = [
        config
        for config in _mapping(description.get("IPAM")).get("Config") or ()
        if ":" not in (config.get("Subnet") or ":")
    ]
    if not configs:
        raise InputError(f"the Docker network {name} has no IPv4 subnet: name another one")
    config = configs[0]
    aside = {key: address_of(text) for key, text in _mapping(config.get("AuxiliaryAddresses")).items()}
    own = address_of(config["Gateway"]) if config.get("Gateway") else None
    gateway = aside.get(GATEWAY_KEY, own) if driver == "bridge" else own
    kept = frozenset([*aside.values(), *([own] if own else [])])
    mtu = str(options.get(MTU, ""))
    return DockerNetwork(
        name,
        driver,
        subnet_of(config["Subnet"]),
        gateway,
        kept,
        int(mtu) if mtu.isascii() and mtu.isdecimal() else None,
    )


def container(summary: Mapping[str, Any]) -> Container:
    """A container from the engine's list. An address that cannot be read is left out."""
    networks = _mapping(_mapping(summary.get("NetworkSettings")).get("Networks"))
    addresses = set()
    for settings in networks.values():
        for text in (_at(settings, "IPAddress"), _at(settings, "IPAMConfig", "IPv4Address")):
            with suppress(*_UNREADABLE):
                addresses.add(address_of(text))
    label = str(_mapping(summary.get("Labels")).get(LEASE_LABEL, ""))
    names = summary.get("Names") or [summary["Id"][:12]]  # one that is being removed has none
    return Container(
        id=summary["Id"],
        name=_RENAMED.sub("", names[0].lstrip("/")),
        running=summary.get("State") in RUNNING,
        lease=int(label) if label.isascii() and label.isdecimal() else None,
        addresses=frozenset(addresses),
    )


def containers(summaries: Iterable[Mapping[str, Any]] | None) -> list[Container]:
    """All containers of the engine's list that can be read."""
    found = []
    for summary in summaries or ():
        with suppress(*_UNREADABLE):
            found.append(container(summary))
    return found


def failed_start(description: Mapping[str, Any]) -> FailedStart | None:
    """That container, as it was inspected; None where it runs, is not to run, never ran, or ended by itself.

    One that never ran was refused to its maker, and the engine does not start it either.
    """
    state, policy = description["State"], (description["HostConfig"].get("RestartPolicy") or {}).get("Name")
    ran, error = state.get("StartedAt") or _NEVER, state.get("Error") or ""
    if (
        policy not in RESTARTED
        or state.get("Running")
        or state.get("Restarting")
        or not error
        or ran.startswith(_NEVER)
    ):
        return None
    return FailedStart(description["Id"], description["Name"].lstrip("/"), error, ran)


def attached_networks(
    found: Iterable[Mapping[str, Any]] | None,
    summaries: Iterable[Mapping[str, Any]] | None,
    reference: Callable[[str], str],
) -> tuple[tuple[AttachedNetwork, ...], tuple[str, ...]]:
    """All networks with an IPv4 subnet, and one line for each description that cannot be read.

    `reference`: from a container's id to the name that leases have for it.
    """
    networks: list[AttachedNetwork] = []
    unreadable: list[str] = []
    endpoints: dict[str, list[Endpoint]] = {}

    @contextmanager
    def reading(kind: str, description: Any, key: str) -> Iterator[None]:
        try:
            yield
        except _UNREADABLE as error:
            unreadable.append(f"{kind} {_name(description, key)}: {_why(error)}")

    for summary in summaries or ():
        with reading("container", summary, "Names"):
            owner = container(summary)
            for network, settings in _mapping(_mapping(summary.get("NetworkSettings")).get("Networks")).items():
                with reading("container", summary, "Names"):
                    if one := _endpoint(owner, network, _mapping(settings), reference):
                        # Two networks may have one name. One that was made anew has another id, and a stopped
                        # container will join it by its name all the same.
                        key = (owner.running and _at(settings, "NetworkID")) or network
                        endpoints.setdefault(key, []).append(one)
    for description in found or ():
        with reading("network", description, "Name"):
            name, network_id = description["Name"], description["Id"]
            mine = [endpoint for key in {name, network_id} for endpoint in endpoints.get(key, ())]
            for config in _mapping(description.get("IPAM")).get("Config") or ():
                with reading("network", description, "Name"):
                    if one_of := _attached(description, _mapping(config), mine):
                        networks.append(one_of)
    return tuple(networks), tuple(dict.fromkeys(unreadable))


def waiting_containers(summaries: Iterable[Mapping[str, Any]]) -> tuple[WaitingContainer, ...]:
    """Those of the engine's list; what cannot be read is named by `attached_networks`."""
    waiting = []
    for summary in summaries:
        with suppress(ValueError, TypeError, LookupError, AttributeError):
            owner, new = container(summary), summary["State"] == "created"
            for network, settings in (summary["NetworkSettings"]["Networks"] or {}).items():
                if not owner.running and not (settings.get("IPAMConfig") or {}).get("IPv4Address"):
                    waiting.append(WaitingContainer(network, owner.name, float(summary["Created"]), new))
    return tuple(waiting)


def subnet_of(text: str) -> IPv4Network:
    """A subnet as engines keep it: as the user wrote it, where host bits may be set, and zeros stand in front."""
    return IPv4Network(_without_zeros(text), strict=False)


def address_of(text: str) -> IPv4Address:
    """An address, with or without a prefix."""
    return IPv4Address(_without_zeros(text).partition("/")[0])


def _without_zeros(text: str) -> str:
    """010.0.0.7 is 10.0.0.7 to engines that were built with Go before 1.17."""
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", text)


def _at(value: Any, *path: str) -> Any:
    """What stands there; None where there is no such thing."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    """An object of the engine's; empty where it is missing or null."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(f"{str(value)[:40]!r} is no object")
    return value


def device_of(description: Mapping[str, Any]) -> str:
    """The bridge or parent; empty where there is none, or where the driver is not one of those two."""
    options = _mapping(description.get("Options"))
    if description.get("Driver") == "bridge":
        return str(options.get(BRIDGE_NAME) or f"br-{description['Id'][:12]}")
    return str(options.get("parent") or "")


def _attached(
    description: Mapping[str, Any], config: Mapping[str, Any], endpoints: Sequence[Endpoint]
) -> AttachedNetwork | None:
    """The network as far as one of its subnets goes; None for an IPv6 one."""
    if ":" in (config.get("Subnet") or ":"):
        return None
    ipam, device, subnet = _mapping(description.get("IPAM")), device_of(description), subnet_of(config["Subnet"])
    return AttachedNetwork(
        name=str(description["Name"]),
        ipam=str(ipam.get("Driver") or ""),
        subnet=subnet,
        ranges=subnet_of(config["IPRange"]) if config.get("IPRange") else None,
        interface=str(_mapping(ipam.get("Options")).get("interface") or device),
        endpoints=tuple(endpoint for endpoint in endpoints if endpoint.address in subnet),
        driver=str(description.get("Driver") or ""),
        device=device,
    )


def _endpoint(
    owner: Container, network: str, settings: Mapping[str, Any], reference: Callable[[str], str]
) -> Endpoint | None:
    # A container that could not be started is listed with the address that it gave back.
    address = settings.get("IPAddress") if owner.running else ""
    address = address or _mapping(settings.get("IPAMConfig")).get("IPv4Address")
    if not address:
        return None
    return Endpoint(
        network=network,
        address=address_of(address),
        mac=(settings.get("MacAddress") or "") if owner.running else "",
        container=reference(owner.id),
        name=owner.name,
        running=owner.running,
        lease=owner.lease,
    )


def _name(description: Mapping[str, Any], key: str) -> str:
    return repr(description.get(key) if isinstance(description, dict) else description)[:80]


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
