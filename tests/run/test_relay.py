"""The relay between a docker client and an engine, tried with plain sockets at both ends."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from launcher.run.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAC = "02:00:00:00:00:01"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "engine"))
        listener.listen()
        listener.settimeout(10)
        yield listener


@pytest.fixture
def relay(engine: socket.socket) -> Iterator[Relay]:
    with Relay(engine.getsockname(), MAC) as relay:
        yield relay


def dial(relay: Relay) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    try:
        client.connect("\0" + relay.url.removeprefix("unix://@"))
    except OSError:
        client.close()
        raise
    return client


def read_all(end: socket.socket) -> bytes:
    return b"".join(iter(lambda: end.recv(65536), b""))


@contextmanager
def speaking(end: socket.socket, words: bytes) -> Iterator[None]:
    """Say the words and then no more, at the same time."""

    def speak() -> None:
        end.sendall(words)
        end.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=speak)
    thread.start()
    yield
    thread.join()


def exchange(engine: socket.socket, relay: Relay, request: bytes, answer: bytes = b"") -> tuple[bytes, bytes]:
    """What the engine gets and what the client gets."""
    with dial(relay) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        accepted, _ = engine.accept()
        with accepted:
            accepted.settimeout(10)
            got = read_all(accepted)
            accepted.sendall(answer)
        return got, read_all(client)


def create(body: dict[str, object], path: str = "/v1.41/containers/create?name=web") -> bytes:
    text = json.dumps(body).encode()
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(text)) + text


@pytest.mark.parametrize(
    "path", ["/v1.41/containers/create?name=web", "/containers/create", "/v1.41/containers/create"]
)
def test_the_request_that_creates_gains_the_mac(engine: socket.socket, relay: Relay, path: str) -> None:
    got, answered = exchange(engine, relay, create({"Image": "busybox"}, path), b"HTTP/1.1 201 Created\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert json.loads(body) == {"Image": "busybox", "MacAddress": MAC}
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert head.startswith(f"POST {path} HTTP/1.1\r\n".encode())
    assert answered == b"HTTP/1.1 201 Created\r\n\r\n"


def test_a_mac_that_the_client_sends_stays(engine: socket.socket, relay: Relay) -> None:
    got, _ = exchange(engine, relay, create({"MacAddress": "02:00:00:00:00:99"}))
    assert json.loads(got.partition(b"\r\n\r\n")[2]) == {"MacAddress": "02:00:00:00:00:99"}


def test_a_body_that_comes_in_pieces(engine: socket.socket, relay: Relay) -> None:
    request = create({"Image": "busybox", "Env": ["a=" + "x" * 200_000]})
    got, _ = exchange(engine, relay, request)
    assert json.loads(got.partition(b"\r\n\r\n")[2])["MacAddress"] == MAC


@pytest.mark.parametrize(
    "request_", [b"POST /v1.41/containers/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"garbage"]
)
def test_what_cannot_be_understood_reaches_no_engine(engine: socket.socket, relay: Relay, request_: bytes) -> None:
    with dial(relay) as client:
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
    engine.setblocking(False)  # noqa: FBT003 - the library's own signature
    with pytest.raises(BlockingIOError):
        engine.accept()


def test_any_other_request_is_one_to_a_connection(engine: socket.socket, relay: Relay) -> None:
    got, _ = exchange(engine, relay, b"GET /containers/create HTTP/1.1\r\nHost: x\r\n\r\nbody")
    assert got == b"GET /containers/create HTTP/1.1\r\nConnection: close\r\nHost: x\r\n\r\nbody"


def test_a_stream_goes_both_ways_and_each_ends_for_itself(engine: socket.socket, relay: Relay) -> None:
    request = b"POST /v1.41/containers/1/attach HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    sent = bytes(range(256)) * 4096
    with dial(relay) as client:
        client.sendall(request)
        accepted, _ = engine.accept()
        with accepted:
            accepted.settimeout(10)
            assert accepted.recv(65536) == request  # as it was
            accepted.sendall(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
            assert client.recv(65536) == b"HTTP/1.1 101 UPGRADED\r\n\r\n"
            with speaking(client, sent):
                assert read_all(accepted) == sent  # the client has nothing more to say …
            with speaking(accepted, sent):
                assert read_all(client) == sent  # … but the container had


def test_an_engine_that_hangs_up_ends_the_client(engine: socket.socket, relay: Relay) -> None:
    with dial(relay) as client:
        client.sendall(b"GET /events HTTP/1.1\r\n\r\n")
        engine.accept()[0].close()
        assert read_all(client) == b""


def test_an_engine_that_is_gone_ends_the_client(engine: socket.socket, relay: Relay) -> None:
    engine.close()
    with dial(relay) as client:
        client.sendall(b"GET /events HTTP/1.1\r\n\r\n")
        assert read_all(client) == b""


def test_another_user_reaches_no_engine(engine: socket.socket, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.run.relay.os.geteuid", lambda: 65534)  # to us, the client is somebody else
    with dial(relay) as client, suppress(ConnectionError):
        client.sendall(b"GET /info HTTP/1.1\r\n\r\n")
        assert read_all(client) == b""
    engine.setblocking(False)  # noqa: FBT003 - the library's own signature
    with pytest.raises(BlockingIOError):
        engine.accept()


def test_nothing_listens_when_it_is_over(engine: socket.socket) -> None:
    with Relay(engine.getsockname(), MAC) as relay:
        pass
    with pytest.raises(ConnectionRefusedError):
        dial(relay)
