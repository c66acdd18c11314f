"""What the Docker engine says, as values: networks, containers, and what ties the two together.

Whatever an engine accepts is read. A description that cannot be read is skipped by itself and named in the view.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

from arpipam.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

LEASE_LABEL = "arpipam.lease"
BRIDGE_NAME = "com.docker.network.bridge.name"
MTU = "com.docker.network.driver.mtu"
DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
GATEWAY_KEY = "DefaultGatewayIPv4"  # the bridge driver's way to route by another host than the bridge itself
RUNNING = {"running", "paused", "restarting"}


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


def leads_to(description: Mapping[str, Any], interface: str) -> bool:
    """Whether the network is on that bridge or macvlan parent."""
    options = description.get("Options") or {}
    if description["Driver"] == "bridge":
        return bool(options.get(BRIDGE_NAME, f"br-{description['Id'][:12]}") == interface)
    return description["Driver"] == "macvlan" and options.get("parent") == interface


def usable(description: Mapping[str, Any], interface: str) -> DockerNetwork:
    """The network, if it can give a container on that link an address and MAC of our choice; else InputError."""
    name, driver = description["Name"], description["Driver"]
    if not leads_to(description, interface):
        raise InputError(
            f"the Docker network {name} (driver {driver}) is not on {interface}; name one whose bridge or macvlan "
            f"parent it is, or leave --network out"
        )
    if (description.get("Options") or {}).get(DEFAULT_BRIDGE) == "true":
        raise InputError(
            f"{interface} belongs to the engine's default network, which takes no address of ours; start the engine "
            'with "bridge": "none", or use another bridge'
        )
    configs = [config for config in description["IPAM"]["Config"] or [] if ":" not in config["Subnet"]]
    if not configs:
        raise InputError(f"the Docker network {name} has no IPv4 subnet: name another one")
    config = configs[0]
    aside = {key: address_of(text) for key, text in (config.get("AuxiliaryAddresses") or {}).items()}
    own = address_of(config["Gateway"]) if config.get("Gateway") else None
    gateway = aside.get(GATEWAY_KEY, own) if driver == "bridge" else own
    kept = frozenset([*aside.values(), *([own] if own else [])])
    mtu = (description.get("Options") or {}).get(MTU, "")
    return DockerNetwork(
        name, driver, subnet_of(config["Subnet"]), gateway, kept, int(mtu) if mtu.isdecimal() else None
    )


def container(summary: Mapping[str, Any]) -> Container:
    """A container from the engine's list."""
    networks: dict[str, dict[str, Any]] = summary["NetworkSettings"]["Networks"] or {}
    texts = {
        text
        for endpoint in networks.values()
        for text in (endpoint.get("IPAddress"), (endpoint.get("IPAMConfig") or {}).get("IPv4Address"))
        if text
    }
    label = (summary.get("Labels") or {}).get(LEASE_LABEL, "")
    return Container(
        id=summary["Id"],
        name=(summary.get("Names") or ["?"])[0].lstrip("/"),
        running=summary["State"] in RUNNING,
        lease=int(label) if label.isdecimal() else None,
        addresses=frozenset(address_of(text) for text in texts),
    )


def attached_networks(
    found: Iterable[Mapping[str, Any]], summaries: Iterable[Mapping[str, Any]], reference: Callable[[str], str]
) -> tuple[tuple[AttachedNetwork, ...], tuple[str, ...]]:
    """All networks with an IPv4 subnet, and one line for each description that cannot be read.

    `reference`: from a container's id to the name that leases have for it.
    """
    networks: list[AttachedNetwork] = []
    unreadable: list[str] = []
    endpoints: dict[str, list[Endpoint]] = {}
    for summary in summaries:
        try:
            for network, settings in (summary["NetworkSettings"]["Networks"] or {}).items():
                if one := _endpoint(container(summary), network, settings, reference):
                    endpoints.setdefault(network, []).append(one)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            unreadable.append(f"container {_name(summary, 'Names')}: {_why(error)}")
    for description in found:
        try:
            networks += _attached(description, endpoints.get(description["Name"], ()))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            unreadable.append(f"network {_name(description, 'Name')}: {_why(error)}")
    return tuple(networks), tuple(unreadable)


def subnet_of(text: str) -> IPv4Network:
    """A subnet as engines keep it: as the user wrote it, where host bits may be set."""
    return IPv4Network(text, strict=False)


def address_of(text: str) -> IPv4Address:
    """An address, with or without a prefix."""
    return IPv4Address(text.partition("/")[0])


def _attached(description: Mapping[str, Any], endpoints: Sequence[Endpoint]) -> list[AttachedNetwork]:
    ipam = description.get("IPAM") or {}
    options = description.get("Options") or {}
    bridge = options.get(BRIDGE_NAME, f"br-{description['Id'][:12]}")
    by_driver = options.get("parent", "") if description["Driver"] == "macvlan" else bridge
    networks = []
    for config in ipam.get("Config") or ():
        if ":" in config.get("Subnet", ":"):
            continue
        subnet = subnet_of(config["Subnet"])
        networks.append(
            AttachedNetwork(
                name=description["Name"],
                ipam=ipam.get("Driver", ""),
                subnet=subnet,
                ranges=subnet_of(config["IPRange"]) if config.get("IPRange") else None,
                interface=(ipam.get("Options") or {}).get("interface", by_driver),
                endpoints=tuple(endpoint for endpoint in endpoints if endpoint.address in subnet),
            )
        )
    return networks


def _endpoint(
    owner: Container, network: str, settings: Mapping[str, Any], reference: Callable[[str], str]
) -> Endpoint | None:
    # A container that could not be started is listed with the address that it gave back.
    address = settings.get("IPAddress") if owner.running else ""
    address = address or (settings.get("IPAMConfig") or {}).get("IPv4Address")
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
