"""The Docker engine of this host, by docker-py: its networks, and the containers that hold our leases.

A container names its lease in the label `arpipam.lease`; a lease names its container as `<container id>@<engine id>`.
So a store that serves two engines never takes the containers of the one for lost because the other has none such.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import docker
from docker.errors import APIError, DockerException, NotFound
from requests.exceptions import RequestException

from launcher.engine import model
from launcher.engine.errors import EngineError
from launcher.engine.model import (
    BRIDGE_NAME,
    GATEWAY_KEY,
    LEASE_LABEL,
    MTU,
    Container,
    DockerNetwork,
    EngineView,
    FailedStart,
)
from launcher.engine.place import UNIX
from launcher.engine.target import Target, chosen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv4Interface

    from arpipam.leases.lease import Lease

MAC_PER_ENDPOINT = (1, 44)  # the first API in which a client sends the MAC with the endpoint, not with the container
CHANGES = ("connect", "create", "destroy", "die", "disconnect", "remove", "rename", "start", "stop")
"""Actions of containers and networks after which an engine's view is another one."""
REJOINS, REJOIN_PAUSE = 10, 1.0  # tries, and s between them
CLOCK_STEP = 2.0  # s: events are asked for from a little before, in case that the engine's clock is coarse


class Engine:
    """One engine: the target, that of a url, or else the one that the docker command would talk to.

    Raises EngineError when it is not there, InputError where the environment leads to none.
    """

    def __init__(self, target: Target | str | None = None) -> None:
        meant = target if isinstance(target, Target) else chosen(target)
        with _asking():
            self._client = docker.DockerClient(meant.url, version="auto", tls=_tls(meant))
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

    def network(self, interface: str, name: str | None = None) -> DockerNetwork | None:
        """Return the network on that interface, or the named one; None when there is none.

        Raises InputError when the named one is elsewhere, or cannot give a container an address and MAC of our choice.
        """
        with _asking():
            found = self._api.networks()
        for description in found:
            if model.meant(description, interface, name):
                try:
                    return model.usable(description, interface)
                except (TypeError, LookupError, AttributeError) as error:
                    raise EngineError(f"the Docker network {name or interface} cannot be read: {error!r}") from error
        return None

    def create_network(
        self, name: str, interface: str, own: IPv4Interface, gateway: IPv4Address | None, mtu: int
    ) -> DockerNetwork:
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
            return model.containers(self._api.containers(all=True))

    def view(self) -> EngineView:
        """All networks with an IPv4 subnet, and the containers that are or will be on them."""
        at = time.monotonic()
        with _asking():
            version = str(self._api.version()["Version"])
            found, containers = self._api.networks(), self._api.containers(all=True)
        networks, unreadable = model.attached_networks(found, containers, self.reference)
        waiting = model.waiting_containers(containers)
        return EngineView(at, version, networks, unreadable, engine=self.id, waiting=waiting)

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

    def failed_starts(self) -> list[FailedStart]:
        """Containers that their restart policies would have run, and whose last start failed."""
        with _asking():
            down = self._api.containers(all=True, filters={"status": ["created", "exited"]})
        found = []
        for summary in down:
            with _asking(), suppress(NotFound):  # it may be removed at this moment
                found.append(model.failed_start(self._api.inspect_container(summary["Id"])))
        return [one for one in found if one is not None]

    def start(self, container: str) -> None:
        """Start a container."""
        with _asking():
            self._api.start(container)

    def changes(self) -> Any:
        """What changes containers and networks from now on: an iterator with a `close()` for another thread.

        Health checks and other commands inside containers (`exec_*`) change nothing and are not among it.
        """
        with _asking():
            return self._api.events(filters={"type": ["container", "network"], "event": list(CHANGES)}, decode=True)

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


def _tls(target: Target) -> docker.tls.TLSConfig | bool:
    """TLS is for an engine behind a network."""
    tls = target.tls
    if tls is None or target.url.startswith(UNIX):
        return False
    pair = (tls.cert, tls.key) if tls.cert and tls.key else None
    return docker.tls.TLSConfig(client_cert=pair, ca_cert=tls.ca or None, verify=tls.verify)


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
