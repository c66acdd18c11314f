"""What the command line and arpipam-run say to the agent: its own API, over its socket.

Nothing that takes time to load is loaded before somebody speaks to an agent.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

from arpipam.errors import AddressInUseError, ArpipamError, InputError, PoolExhaustedError, UnknownError
from launcher.agent.contract import Event, Failure, LeaseView, NetworkView, StationView, Status
from launcher.defaults import DEFAULT_SOCKET
from launcher.engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from requests import Response

    from launcher.agent.client.remote_claim import RemoteClaim

_HOST = "http://agent"
"""Of every URL: the socket says who is meant."""
_ANSWER = 30.0
"""Seconds for which an answer is waited for that takes the agent no time."""
_OK = 200
_SHOWN = 200
"""Characters of an answer that makes no sense which an error repeats."""
_NOBODY = (errno.ENOENT, errno.ECONNREFUSED)


class NoAgentError(ArpipamError):
    """No agent answers at the socket, or it ended."""


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


View = TypeVar("View", bound=_Dataclass)


class Wish(_Dataclass, Protocol):
    """What a claim is wanted for: a dataclass, which goes to the agent as it is."""

    @property
    def interface(self) -> str:
        """The link."""

    @property
    def owner(self) -> str:
        """Whose the address is to be."""

    @property
    def address(self) -> str | None:
        """The address, where it must be that one."""


def running(path: Path = DEFAULT_SOCKET) -> bool:
    """Whether somebody listens at the socket whom we may ask. Takes no time and raises nothing."""
    with socket.socket(socket.AF_UNIX) as knock:
        knock.settimeout(0)
        try:
            knock.connect(os.fspath(path))
        except BlockingIOError:  # many are waiting to be let in
            return True
        except (OSError, ValueError):
            return False
    return True


class AgentClient:
    """The agent at a socket. What it refuses is raised as its own error, in its own words.

    Raises NoAgentError where none answers. Usable from any thread; to be closed, or used as a context manager.
    """

    def __init__(self, path: Path = DEFAULT_SOCKET) -> None:
        import requests  # noqa: PLC0415 - takes 0.1 s that whoever only asks `running` need not wait for
        from docker.transport import UnixHTTPAdapter  # noqa: PLC0415

        self.path = path
        self._session = requests.Session()
        self._session.trust_env = False  # proxies and passwords for the internet are not for a socket
        # A connection that is kept may be closed by the agent at the moment at which it is used again.
        self._session.headers["Connection"] = "close"
        self._session.mount(_HOST, UnixHTTPAdapter(f"http+unix://{path.absolute()}"))

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
        """What happens from now on; with `recent`, what happened of late comes first."""
        return Events(self, self.ask("GET", f"/arpipam/events?recent={int(recent)}", stream=True))

    def claim(self, wish: Wish) -> RemoteClaim:
        """An address that the agent claims for us. Takes as long as it takes to find one."""
        from launcher.agent.client.remote_claim import RemoteClaim  # noqa: PLC0415 - as above

        in_use = PoolExhaustedError if wish.address is None else AddressInUseError
        response = self.ask("POST", "/arpipam/claims", dataclasses.asdict(wish), stream=True, in_use=in_use)
        return RemoteClaim(self, Lines(self, response), wish.interface, wish.owner)

    def ask(
        self,
        method: str,
        where: str,
        body: dict[str, Any] | None = None,
        *,
        stream: bool = False,
        in_use: type[ArpipamError] = AddressInUseError,
    ) -> Response:
        """Return the answer, once it has begun, if it is a good one; `in_use` is what the exit status 1 means here."""
        from requests import RequestException  # noqa: PLC0415 - as above

        self._knock()
        try:
            response = self._session.request(
                method, _HOST + where, json=body, stream=stream, timeout=(None, None if stream else _ANSWER)
            )
            if response.status_code != _OK:
                with response:
                    raise _refusal(self.path, response, in_use)
        except RequestException as error:
            raise self._trouble(error) from None
        return response

    def _json(self, where: str, kind: type) -> Any:
        response = self.ask("GET", where)
        with suppress(ValueError):
            said = response.json()
            if isinstance(said, kind):
                return said
        raise self.stranger(response.text)

    def _made(self, view: type[View], said: Any) -> View:
        """One of the views; what only a newer agent knows of is left out."""
        try:
            values = {name: said[name] for name in view.__dataclass_fields__ if name in said}
            return view(**{name: tuple(x) if isinstance(x, list) else x for name, x in values.items()})
        except TypeError:
            raise self.stranger(json.dumps(said, default=str)) from None

    def _with_failures(self, said: Any) -> dict[str, Any]:
        if not isinstance(said, dict):
            raise self.stranger(json.dumps(said, default=str))
        return said | {"failures": [self._made(Failure, failure) for failure in said.get("failures") or ()]}

    def stranger(self, said: str) -> UnknownError:
        """Return the error that says that whoever answers there is no agent that we understand."""
        shown = " ".join(said[:_SHOWN].split())
        return UnknownError(f"what answers at {self.path} is no agent of this version of arpipam: {shown}")

    def _trouble(self, error: Exception) -> NoAgentError:
        """Return what an error of requests means."""
        from requests import ReadTimeout  # noqa: PLC0415 - as above

        if isinstance(error, ReadTimeout):
            return NoAgentError(f"the agent at {self.path} has not answered for {_ANSWER:.0f} s; see its log")
        return NoAgentError(f"the agent at {self.path} gave no answer: {error}; see its log")

    def _knock(self) -> None:
        """Raise NoAgentError where nobody listens (after which the adapter would leave a socket behind)."""
        with socket.socket(socket.AF_UNIX) as knock:
            try:
                knock.connect(os.fspath(self.path))
            except OSError as error:
                if error.errno in _NOBODY:
                    raise NoAgentError(f"no agent answers at {self.path}; start it: arpipam agent") from None
                reason = error.strerror or error
                hint = "; run as root" if isinstance(error, PermissionError) else ""
                raise NoAgentError(f"the agent's socket {self.path}: {reason}{hint}") from None

    def close(self) -> None:
        """Let go of what was kept for the next question."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Lines:
    """An answer that goes on: one JSON object a line. It ends when the agent ends it, or somebody calls `close`.

    Raises NoAgentError when the agent ends without a word.
    """

    def __init__(self, client: AgentClient, response: Response) -> None:
        self._client = client
        self._response = response
        self._lines = response.iter_lines()
        # The same connection a second time: to be inherited by a child, and to wake whoever reads from the first.
        self._connection = socket.socket(fileno=os.dup(response.raw.fileno()))
        self._reading = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        """The connection; it lives as long as any process has it open."""
        return self._connection.fileno()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        from requests import RequestException  # noqa: PLC0415 - as above

        with self._reading:
            try:
                line = b""
                while not line and not self._closed:
                    line = next(self._lines)
            except RequestException:
                if not self._closed:
                    raise NoAgentError(f"the agent at {self._client.path} ended; see its log") from None
            if self._closed:
                raise StopIteration
            return self._object(line)

    def _object(self, line: bytes) -> dict[str, Any]:
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise self._client.stranger(line.decode(errors="replace"))
        return said

    def close(self) -> None:
        """End it, for all who have the connection, whoever waits for the next line; from any thread."""
        self._closed = True
        with suppress(OSError):  # the other side was quicker, or it is closed already
            self._connection.shutdown(socket.SHUT_RDWR)
        with self._reading:
            self._response.close()
            self._connection.close()


class Events:
    """Events as they happen, until `close`, which any thread may call, or until the agent ends."""

    def __init__(self, client: AgentClient, response: Response) -> None:
        self._client = client
        self._lines = Lines(client, response)

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


def _refusal(path: Path, response: Response, in_use: type[ArpipamError]) -> ArpipamError:
    """The agent's own error."""
    kinds: dict[int, type[ArpipamError]] = {
        1: in_use,
        InputError.exit_status: InputError,
        UnknownError.exit_status: UnknownError,
        EngineError.exit_status: EngineError,
    }
    try:
        said = response.json()
        kind = kinds.get(said["exit_status"], UnknownError)
        return kind(str(said["error"]))
    except (ValueError, TypeError, KeyError):
        text = " ".join(response.text[:_SHOWN].split())
        return UnknownError(f"what answers at {path} is no agent of this version of arpipam: {text}")
