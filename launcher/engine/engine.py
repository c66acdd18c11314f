"""The Docker engine of this host, by docker-py: its networks, and the containers that hold our leases.

A container names its lease in the label `arpipam.lease`; a lease names its container as `<container id>@<engine id>`.
So a store that serves two engines never takes the containers of the one for lost because the other has none such.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Any

import docker
from docker.errors import APIError, DockerException
from requests.exceptions import RequestException

from arpipam.errors import InputError
from arpipam.leases.sqlite import State
from launcher.engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.leases.sqlite import Lease, SqliteLeaseStore

LEASE_LABEL = "arpipam.lease"
__all__ = ["Container", "Engine", "EngineError", "Network", "reconcile"]

BRIDGE_NAME = "com.docker.network.bridge.name"
MTU = "com.docker.network.driver.mtu"
DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
GATEWAY_KEY = "DefaultGatewayIPv4"  # the bridge driver's way to route by somebody else than the bridge itself
MAC_PER_ENDPOINT = (1, 44)  # the first API in which a client sends the MAC with the endpoint, not with the container
REJOINS, REJOIN_PAUSE = 10, 1.0  # tries, and s between them
CLOCK_STEP = 2.0  # s: events are asked for from a little before, in case that the engine's clock is coarse


@dataclass(frozen=True)
class Network:
    """A Docker network on the link."""

    name: str
    driver: str
    subnet: IPv4Network
    gateway: IPv4Address | None
    kept: frozenset[IPv4Address]
    """Addresses that the engine keeps for itself: gateway and auxiliary addresses."""
    mtu: int | None
    """Of its containers; None where nobody said."""


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
class Attached:
    """A Docker network, whoever gives its addresses out."""

    name: str
    ipam: str
    """The name of its IPAM driver."""
    subnet: IPv4Network
    ranges: IPv4Network | None
    interface: str
    """The bridge or parent; where Docker's --ipam-opt names one, that."""
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True)
class View:
    """What an engine had at one moment."""

    at: float
    """Before it was asked, on the monotonic clock."""
    version: str
    networks: tuple[Attached, ...]


class Engine:
    """One engine: that of DOCKER_HOST, or of `url`. Raises EngineError when it is not there."""

    def __init__(self, url: str | None = None) -> None:
        with _asking():
            self._client = docker.from_env(version="auto", environment={"DOCKER_HOST": url} if url else None)
        self._api: Any = self._client.api

    @property
    def takes_mac_per_endpoint(self) -> bool:
        """Whether it knows a MAC per endpoint, which clients since 25.0 insist on."""
        return tuple(map(int, self._api.api_version.split("."))) >= MAC_PER_ENDPOINT

    @cached_property
    def id(self) -> str:
        """Its name for good."""
        with _asking():
            return str(self._api.info()["ID"]).replace(":", "")[:12]

    # Networks.

    def network(self, interface: str, name: str | None = None) -> Network | None:
        """Return the network on that interface, or the named one; None when there is none.

        Raises InputError when the named one is elsewhere, or cannot give a container an address and MAC of our choice.
        """
        with _asking():
            found = self._api.networks()
        for description in found:
            if (name is None and _leads_to(description, interface)) or description["Name"] == name:
                return _usable(description, interface)
        return None

    def create_network(
        self, name: str, interface: str, own: IPv4Interface, gateway: IPv4Address | None, mtu: int
    ) -> Network:
        """Make a network on the bridge `interface`, whose own address stays; `gateway` None: the bridge itself.

        Somebody else may make it at the same moment: then that one is returned.
        """
        aside = {GATEWAY_KEY: str(gateway)} if gateway not in (None, own.ip) else None
        pool = docker.types.IPAMPool(subnet=str(own.network), gateway=str(own.ip), aux_addresses=aside)
        try:
            self._api.create_network(
                name,
                driver="bridge",
                options={BRIDGE_NAME: interface, MTU: str(mtu)},
                ipam=docker.types.IPAMConfig(pool_configs=[pool]),
                check_duplicate=True,
            )
        except APIError as error:
            made = self.network(interface, name)
            if made is None:
                raise EngineError(f"the engine made no network {name} on {interface}: {_said(error)}") from error
            return made
        except (DockerException, RequestException) as error:
            raise EngineError(_unreachable(error)) from error
        made = self.network(interface, name)
        if made is None:
            raise EngineError(f"the network {name} on {interface} is gone again; who removes networks here?")
        return made

    def remove_network(self, name: str) -> None:
        """Remove a network."""
        with _asking():
            self._api.remove_network(name)

    # Containers.

    def containers(self) -> list[Container]:
        """All of them, running or not."""
        with _asking():
            return [_container(summary) for summary in self._api.containers(all=True)]

    def view(self) -> View:
        """All networks with an IPv4 subnet, and who is or will be on them."""
        at = time.monotonic()
        with _asking():
            version = str(self._api.version()["Version"])
            found, containers = self._api.networks(), self._api.containers(all=True)
        endpoints: dict[str, list[Endpoint]] = {}
        for summary in containers:
            for network, settings in (summary["NetworkSettings"]["Networks"] or {}).items():
                if endpoint := self._endpoint(summary, network, settings):
                    endpoints.setdefault(network, []).append(endpoint)
        return View(at, version, tuple(_attached(found, endpoints)))

    def _endpoint(self, summary: dict[str, Any], network: str, settings: dict[str, Any]) -> Endpoint | None:
        container = _container(summary)
        # One that could not be started is listed with the address that it gave back.
        address = settings.get("IPAddress") if container.running else ""
        address = address or (settings.get("IPAMConfig") or {}).get("IPv4Address")
        if not address:
            return None
        mac = (settings.get("MacAddress") or "") if container.running else ""
        return Endpoint(
            network=network,
            address=IPv4Address(address),
            mac=mac,
            container=self.reference(container.id),
            name=container.name,
            running=container.running,
            lease=container.lease,
        )

    def move(self, container: str, network: str) -> None:
        """Give a running container another address: it leaves the network and joins it again, aliases and all.

        Where it cannot join again, that is tried for a while: it would be left without the network.
        """
        with _asking():
            settings = self._api.inspect_container(container)["NetworkSettings"]["Networks"].get(network) or {}
            aliases = [alias for alias in settings.get("Aliases") or () if not container.startswith(alias)]
            self._api.disconnect_container_from_network(container, network, force=True)
        for left in reversed(range(REJOINS)):
            try:
                with _asking():
                    self._api.connect_container_to_network(
                        container, network, aliases=aliases or None, links=settings.get("Links")
                    )
            except EngineError:
                if not left:
                    raise
                time.sleep(REJOIN_PAUSE)
            else:
                return

    def changes(self) -> Any:
        """What happens to containers and networks from now on: an iterator with a `close()` for another thread."""
        with _asking():
            return self._api.events(filters={"type": ["container", "network"]}, decode=True)

    def close(self) -> None:
        """Leave its connections."""
        self._client.close()

    @staticmethod
    def holds(container: Container, lease: Lease) -> bool:
        """Whether the container is the lease's. The label alone does not say: images inherit it (`docker commit`)."""
        return container.lease == lease.id and lease.address in container.addresses

    def reads_input(self, container: str) -> bool | None:
        """Whether it was started with its input open (`-i`); None when it is gone."""
        try:
            return bool(self._api.inspect_container(container)["Config"]["OpenStdin"])
        except (DockerException, RequestException):
            return None

    def remove(self, container: str) -> None:
        """Remove a container that never ran, with the volumes that were made for it."""
        with _asking():
            self._api.remove_container(container, v=True)

    def reference(self, container: str) -> str:
        """The name of one of its containers in a lease."""
        return f"{container}@{self.id}"

    def label(self, lease: int) -> str:
        """The label of the container that is started with that lease."""
        return f"{LEASE_LABEL}={lease}"

    def events(self, lease: int) -> Any:
        """What happens to the container of that lease from now on: an iterator with a `close()` for another thread."""
        with _asking():
            return self._api.events(
                since=f"{time.time() - CLOCK_STEP:.9f}",
                filters={"type": "container", "label": self.label(lease)},
                decode=True,
            )


def reconcile(leases: SqliteLeaseStore, engine: Engine) -> list[Lease]:
    """Bring the leases up to date with the containers: gone without us (a crash, -d --rm), or started and not recorded.

    Returns the leases that were given back.
    """
    known = leases.leases()  # before the containers: one that is bound by now existed before we look
    bound = [lease for lease in known if lease.state is State.BOUND and lease.container.endswith(f"@{engine.id}")]
    lost = [lease for lease in known if lease.state is not State.BOUND and not leases.held(lease.id)]
    if not lost and not bound:
        return []
    containers = engine.containers()
    ids = {container.id for container in containers}
    released = [lease for lease in bound if lease.container.partition("@")[0] not in ids]
    for lease in released:
        leases.release(lease.id)
    for lease in lost:
        holder = next((container for container in containers if engine.holds(container, lease)), None)
        if holder is not None:
            leases.bind(lease.id, engine.reference(holder.id))
    return released + leases.reap()


def _attached(found: list[dict[str, Any]], endpoints: dict[str, list[Endpoint]]) -> Iterator[Attached]:
    for description in found:
        ipam = description.get("IPAM") or {}
        options = description.get("Options") or {}
        bridge = options.get(BRIDGE_NAME, f"br-{description['Id'][:12]}")
        by_driver = options.get("parent", "") if description["Driver"] == "macvlan" else bridge
        for config in ipam.get("Config") or ():
            if ":" in config.get("Subnet", ":"):
                continue
            subnet = IPv4Network(config["Subnet"])
            yield Attached(
                name=description["Name"],
                ipam=ipam.get("Driver", ""),
                subnet=subnet,
                ranges=IPv4Network(config["IPRange"]) if config.get("IPRange") else None,
                interface=(ipam.get("Options") or {}).get("interface", by_driver),
                endpoints=tuple(e for e in endpoints.get(description["Name"], ()) if e.address in subnet),
            )


def _leads_to(description: dict[str, Any], interface: str) -> bool:
    options = description.get("Options") or {}
    if description["Driver"] == "bridge":
        return bool(options.get(BRIDGE_NAME, f"br-{description['Id'][:12]}") == interface)
    return description["Driver"] == "macvlan" and options.get("parent") == interface


def _usable(description: dict[str, Any], interface: str) -> Network:
    name, driver = description["Name"], description["Driver"]
    if not _leads_to(description, interface):
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
    aside = {key: IPv4Address(address) for key, address in (config.get("AuxiliaryAddresses") or {}).items()}
    own = IPv4Address(config["Gateway"].partition("/")[0]) if config.get("Gateway") else None
    gateway = aside.get(GATEWAY_KEY, own) if driver == "bridge" else own
    kept = frozenset([*aside.values(), *([own] if own else [])])
    mtu = (description.get("Options") or {}).get(MTU, "")
    return Network(name, driver, IPv4Network(config["Subnet"]), gateway, kept, int(mtu) if mtu.isdecimal() else None)


def _container(summary: dict[str, Any]) -> Container:
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
        running=summary["State"] in {"running", "paused", "restarting"},
        lease=int(label) if label.isdecimal() else None,
        addresses=frozenset(IPv4Address(text) for text in texts),
    )


@contextmanager
def _asking() -> Iterator[None]:
    """Turn docker-py's errors into ours."""
    try:
        yield
    except APIError as error:
        raise EngineError(f"the Docker engine refuses: {_said(error)}") from error
    except (DockerException, RequestException) as error:
        raise EngineError(_unreachable(error)) from error


def _said(error: APIError) -> str:
    return str(error.explanation or error)


def _unreachable(error: Exception) -> str:
    return f"cannot reach the Docker engine: {error}; is it running, and is DOCKER_HOST right?"
