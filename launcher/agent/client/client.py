"""What the command line and arpipam-run ask the agent: its own API, over its socket."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

from arpipam.errors import AddressInUseError, PoolExhaustedError
from launcher.agent.client.connection import Connection
from launcher.agent.contract import Event, Failure, LeaseView, NetworkView, StationView, Status
from launcher.defaults import DEFAULT_SOCKET

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from launcher.agent.client.connection import Lines
    from launcher.agent.client.remote_claim import RemoteClaim
    from launcher.agent.contract import ClaimRequest


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


View = TypeVar("View", bound=_Dataclass)


class AgentClient:
    """The agent at a socket. What it refuses is raised as its own error, in its own words.

    Raises NoAgentError where no agent answers. Usable from any thread. Nothing is kept open between two questions.
    """

    def __init__(self, path: Path = DEFAULT_SOCKET) -> None:
        self._connection = Connection(path)

    @property
    def path(self) -> Path:
        """The socket."""
        return self._connection.path

    def status(self) -> Status:
        """The agent as a whole."""
        said = self._json("/arpipam/status", dict)
        networks = [self._made(NetworkView, self._with_failures(network)) for network in said.get("networks") or ()]
        return self._made(Status, self._with_failures(said) | {"networks": networks})

    def leases(self) -> list[LeaseView]:
        """The leases of this host."""
        return [self._made(LeaseView, lease) for lease in self._json("/arpipam/leases", list)]

    def stations(self) -> list[StationView]:
        """Who was seen on the links."""
        return [self._made(StationView, station) for station in self._json("/arpipam/stations", list)]

    def events(self, *, recent: bool = False) -> Events:
        """What happens from now on; with `recent`, earlier events come first."""
        return Events(self, self._connection.follow("GET", f"/arpipam/events?recent={int(recent)}"))

    def claim(self, wanted: ClaimRequest) -> RemoteClaim:
        """An address that the agent claims for us. Takes as long as it takes to find one."""
        from launcher.agent.client.remote_claim import RemoteClaim  # noqa: PLC0415 - takes time that views need not

        in_use = PoolExhaustedError if wanted.address is None else AddressInUseError
        lines = self._connection.follow("POST", "/arpipam/claims", dataclasses.asdict(wanted), in_use=in_use)
        return RemoteClaim(self._connection, lines, wanted.interface, wanted.owner)

    def _json(self, where: str, kind: type) -> Any:
        answer = self._connection.ask("GET", where)
        with suppress(ValueError):
            said = json.loads(answer)
            if isinstance(said, kind):
                return said
        raise self._connection.stranger(answer)

    def _made(self, view: type[View], said: Any) -> View:
        """One of the views; what only a newer agent knows of is left out."""
        try:
            values = {name: said[name] for name in view.__dataclass_fields__ if name in said}
            return view(**{name: tuple(x) if isinstance(x, list) else x for name, x in values.items()})
        except TypeError:
            raise self._connection.stranger(json.dumps(said, default=str)) from None

    def _with_failures(self, said: Any) -> dict[str, Any]:
        if not isinstance(said, dict):
            raise self._connection.stranger(json.dumps(said, default=str))
        return said | {"failures": [self._made(Failure, failure) for failure in said.get("failures") or ()]}


class Events:
    """Events as they happen, until `close`, which any thread may call, or until the agent ends."""

    def __init__(self, client: AgentClient, lines: Lines) -> None:
        self._client = client
        self._lines = lines

    def __iter__(self) -> Iterator[Event]:
        for said in self._lines:
            yield self._client._made(Event, said)  # noqa: SLF001 - its own

    def close(self) -> None:
        """End the iteration."""
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
