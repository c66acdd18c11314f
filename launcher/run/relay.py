"""Between a new docker client and an old engine: hands the client's words on, and adds the container's MAC.

A client since 25.0 refuses `--mac-address` where the engine's API is older than 1.44, though every engine can set it.
So it is pointed at a socket of ours. Each byte goes through as it comes, in both directions, also where a request turns
into a stream of its own; only the body of the one request that creates the container gains a field.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_PIECE = 65536
_LONGEST_HEAD = 1 << 20
_CREATES = re.compile(rb"POST (/v[0-9.]+)?/containers/create[ ?]")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_UPGRADES = re.compile(rb"\r\nconnection: *upgrade\r\n", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"


class Relay:
    """A socket to give to the client in DOCKER_HOST (`url`), as long as the context lasts.

    `engine` is the path of the engine's socket. Ours has no path, so that nothing is left behind however we end; only
    processes of our own user get through.
    """

    def __init__(self, engine: str, mac: str) -> None:
        self._engine = engine
        self._mac = mac
        name = f"arpipam-{secrets.token_hex(16)}"
        self.url = f"unix://@{name}"  # the client's way to write an abstract address, unix(7)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind("\0" + name)
        self._listener.listen()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() alone does not
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Serve a connection: one request, since the engine is asked to close after each that becomes no stream."""
        with client, socket.socket(socket.AF_UNIX) as engine, suppress(OSError):
            if _user_of(client) != os.geteuid():
                return
            request = _head(client)
            if request is None:
                return
            if _CREATES.match(request):
                changed = self._with_mac(client, request)
                if changed is None:
                    return
                request = changed
            elif not _UPGRADES.search(request):
                request = _closing(request)
            engine.connect(self._engine)
            engine.sendall(request)
            upward = threading.Thread(target=_pump, args=(client, engine), daemon=True)
            upward.start()
            _pump(engine, client)
            upward.join()

    def _with_mac(self, client: socket.socket, request: bytes) -> bytes | None:
        """The whole request with the MAC in it; None when it is not in the form that clients send."""
        head, _, body = request.partition(_END_OF_HEAD)
        length = _LENGTH.search(head + b"\r\n")
        if length is None:
            return None
        while len(body) < int(length[1]):
            piece = client.recv(_PIECE)
            if not piece:
                return None
            body += piece
        wanted = json.loads(body)
        wanted.setdefault("MacAddress", self._mac)  # the place for it before API 1.44
        body = json.dumps(wanted).encode()
        head = _LENGTH.sub(b"\r\nContent-Length: %d\r\n" % len(body), head + b"\r\n")
        return _closing(head + b"\r\n" + body)


def _head(client: socket.socket) -> bytes | None:
    """Read until the request's head is whole; what comes after it may be there too."""
    request = b""
    while _END_OF_HEAD not in request:
        piece = client.recv(_PIECE)
        if not piece or len(request) > _LONGEST_HEAD:
            return None
        request += piece
    return request


def _closing(request: bytes) -> bytes:
    """Ask the engine to close the connection after the answer, so that the client makes one for each request."""
    line, _, rest = request.partition(b"\r\n")
    return line + b"\r\nConnection: close\r\n" + rest


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Move bytes until there are no more, then say so to the other side, which may still have something to say."""
    with suppress(OSError):
        while piece := source.recv(_PIECE):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
        return
    for side in (source, sink):  # one side broke: nothing more can pass either way
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


def _user_of(peer: socket.socket) -> int:
    """The user of the process at the other end (unix(7), SO_PEERCRED)."""
    _, user, _ = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)
