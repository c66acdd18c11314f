"""HTTP over the agent's socket: one question a connection, and answers that go on line by line."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections import deque
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from arpipam.errors import AddressInUseError, ArpipamError, InputError, UnknownError
from launcher.defaults import DEFAULT_SOCKET
from launcher.engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPConnection, HTTPResponse
    from pathlib import Path

ANSWER = 30.0
"""Seconds for which an answer is waited for that takes the agent no time."""
_OK = 200
_SHOWN = 200
"""Characters that an error repeats of an answer that makes no sense."""
_NOBODY = (errno.ENOENT, errno.ECONNREFUSED)


class NoAgentError(ArpipamError):
    """No agent answers at the socket, or it ended."""


def running(path: Path = DEFAULT_SOCKET) -> bool:
    """Whether an agent listens at the socket that we may ask. Takes no time and raises nothing."""
    with socket.socket(socket.AF_UNIX) as knock:
        knock.settimeout(0)
        try:
            knock.connect(os.fspath(path))
        except BlockingIOError:  # many are waiting to be let in
            return True
        except (OSError, ValueError):
            return False
    return True


class Connection:
    """The way to the agent at a socket. What the agent refuses is raised as its own error, in its own words.

    Each question has a connection of its own, because the agent may close one that is kept just when it is used again.
    Usable from any thread. Raises NoAgentError where no agent answers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, method: str, where: str, body: dict[str, Any] | None = None) -> str:
        """Return the whole answer; the agent has `ANSWER` seconds for each part of it."""
        with self._trouble_named(), closing(self._open()) as http:
            http.sock.settimeout(ANSWER)
            with self._answer(http, method, where, body, AddressInUseError) as answer:
                return answer.read().decode(errors="replace")

    def follow(
        self,
        method: str,
        where: str,
        body: dict[str, Any] | None = None,
        *,
        in_use: type[ArpipamError] = AddressInUseError,
    ) -> Lines:
        """Return an answer that goes on, once it has begun; `in_use` is what the exit status 1 means here."""
        http = self._open()
        held = http.sock.dup()
        try:
            with self._trouble_named():
                return Lines(self, held, http, self._answer(http, method, where, body, in_use))
        except BaseException:
            http.close()
            held.close()
            raise

    def stranger(self, said: str) -> UnknownError:
        """Return the error for an answer that no agent of ours gives."""
        shown = " ".join(said[:_SHOWN].split())
        return UnknownError(f"what answers at {self.path} is no agent of this version of arpipam: {shown}")

    def _open(self) -> HTTPConnection:
        from http.client import HTTPConnection  # noqa: PLC0415 - takes time that `running` need not

        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.connect(os.fspath(self.path))
        except OSError as error:
            connected.close()
            if error.errno in _NOBODY:
                raise NoAgentError(f"no agent answers at {self.path}; start it: arpipam agent") from None
            hint = "; run as root" if isinstance(error, PermissionError) else ""
            raise NoAgentError(f"the agent's socket {self.path}: {error.strerror or error}{hint}") from None
        http = HTTPConnection("agent")  # of every URL: the socket tells which agent is meant
        http.sock = connected
        return http

    def _answer(
        self, http: HTTPConnection, method: str, where: str, body: dict[str, Any] | None, in_use: type[ArpipamError]
    ) -> HTTPResponse:
        """Return the answer as soon as it begins, if it is a good one."""
        headers = {"Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        http.request(method, where, None if body is None else json.dumps(body).encode(), headers)
        answer = http.getresponse()
        if answer.status != _OK:
            with answer:
                raise self._refusal(answer.read().decode(errors="replace"), in_use)
        return answer

    def _refusal(self, said: str, in_use: type[ArpipamError]) -> ArpipamError:
        """The agent's own error."""
        kinds = {kind.exit_status: kind for kind in (InputError, UnknownError, EngineError)} | {1: in_use}
        try:
            values = json.loads(said)
            return kinds.get(values["exit_status"], UnknownError)(str(values["error"]))
        except (ValueError, TypeError, KeyError):
            return self.stranger(said)

    @contextmanager
    def _trouble_named(self) -> Iterator[None]:
        """Raise NoAgentError for whatever keeps the answer from us."""
        from http.client import HTTPException  # noqa: PLC0415 - as above

        try:
            yield
        except TimeoutError:
            raise NoAgentError(f"the agent at {self.path} has not answered for {ANSWER:.0f} s; see its log") from None
        except (OSError, HTTPException) as error:
            reason = " ".join(str(error).split())
            raise NoAgentError(f"the agent at {self.path} gave no answer: {reason}; see its log") from None


class Lines:
    """An answer that goes on: one JSON object a line. It ends when the agent ends it, or at `close`.

    Raises NoAgentError when the agent breaks off.
    """

    def __init__(self, connection: Connection, held: socket.socket, http: HTTPConnection, answer: HTTPResponse) -> None:
        self._connection = connection
        # The same connection a second time: a child can inherit it, and it wakes a thread that reads from the first.
        self._held = held
        self._http = http
        self._answer = answer
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._reading = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        """The connection; it lives as long as any process has it open."""
        return self._held.fileno()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        with self._reading:
            line = self._next()
        if not line:
            raise StopIteration
        return self._object(line)

    def _next(self) -> bytes:
        """The next line that is not empty; empty at the end."""
        from http.client import HTTPException  # noqa: PLC0415 - as above

        while not self._closed:
            while self._lines:
                if line := self._lines.popleft().strip():
                    return line
            try:
                piece = self._answer.read1()  # not readline(), to which an answer that breaks off is one that ends
            except (OSError, HTTPException):
                if self._closed:
                    break
                raise NoAgentError(f"the agent at {self._connection.path} ended; see its log") from None
            if not piece:
                line, self._rest = self._rest, b""
                return b"" if self._closed else line
            *lines, self._rest = (self._rest + piece).split(b"\n")
            self._lines.extend(lines)
        return b""

    def _object(self, line: bytes) -> dict[str, Any]:
        with suppress(ValueError):
            said = json.loads(line)
            if isinstance(said, dict):
                return said
        raise self._connection.stranger(line.decode(errors="replace"))

    def close(self) -> None:
        """End it for each process that has the connection, and for a thread that waits for the next line."""
        self._closed = True
        with suppress(OSError):  # the other side was quicker, or it is closed already
            self._held.shutdown(socket.SHUT_RDWR)
        with self._reading:
            self._answer.close()
            self._http.close()
            self._held.close()
