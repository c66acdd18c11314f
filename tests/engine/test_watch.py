"""The following of an engine: what its news may not do, and what moves may not take."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from launcher.engine.engine import Engine
from launcher.engine.errors import ElsewhereError, EngineError
from launcher.engine.model import EngineView
from launcher.engine.watch import MOVERS, EngineWatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONG = 30.0


class News:
    """A stream of events that ends when it is closed."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def __iter__(self) -> News:
        return self

    def __next__(self) -> Any:
        self._closed.wait()
        raise StopIteration

    def close(self) -> None:
        self._closed.set()


class FakeEngine:
    """An engine whose answers the test gives."""

    def __init__(self, view: Callable[[], EngineView], move: Callable[[], None] = lambda: None) -> None:
        self.view, self._move = view, move

    def changes(self) -> News:
        return News()

    def move(self, *_: str) -> None:
        self._move()

    def close(self) -> None: ...


def watching(engine: FakeEngine, seen: Callable[[EngineView], None] = lambda _: None) -> EngineWatch:
    def lost(why: str) -> None:
        raise AssertionError(why)

    return EngineWatch("", interval=lambda: 0.0, seen=seen, lost=lost, engine=cast("Any", lambda _: engine))


def test_one_that_never_ran_can_be_stopped() -> None:
    watching(FakeEngine(lambda: EngineView(0.0, "", ()))).stop()


@pytest.mark.parametrize("error", [ValueError("10.0.0.1/24 has host bits set"), SystemExit(1)])
def test_what_ends_the_thread_is_raised_and_it_runs_again(error: BaseException) -> None:
    errors = [error]
    seen = asyncio.Event()

    def view() -> EngineView:
        if errors:
            raise errors.pop()
        return EngineView(0.0, "20.10", ())

    async def test() -> None:
        loop = asyncio.get_running_loop()

        def tell(_: EngineView) -> None:
            loop.call_soon_threadsafe(seen.set)

        watch = watching(FakeEngine(view), tell)
        with pytest.raises((ValueError, RuntimeError), match=r"host bits|SystemExit"):
            await watch.run()
        again = asyncio.create_task(watch.run())
        async with asyncio.timeout(LONG):
            await seen.wait()
        await asyncio.to_thread(watch.stop)
        await again

    asyncio.run(test())


def test_an_engine_that_is_away_is_told_and_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.engine.watch.RETRY", 0.0)
    told: list[str] = []
    views: list[EngineView] = []
    enough = threading.Event()

    def view() -> EngineView:
        if len(told) < 2:
            raise EngineError(f"away {len(told)}")
        return EngineView(0.0, "20.10", ())

    def seen(one: EngineView) -> None:
        views.append(one)
        enough.set()

    async def test() -> None:
        watch = EngineWatch(
            "", interval=lambda: 0.0, seen=seen, lost=told.append, engine=cast("Any", lambda _: FakeEngine(view))
        )
        running = asyncio.create_task(watch.run())
        assert await asyncio.to_thread(enough.wait, LONG)
        await asyncio.to_thread(watch.stop)
        await running

    asyncio.run(test())
    assert told == ["away 0", "away 1"]


def test_an_engine_elsewhere_is_no_matter_of_waiting() -> None:
    told: list[str] = []

    def nobody(_: str) -> Any:
        raise ElsewhereError("the engine is elsewhere")

    async def test() -> None:
        watch = EngineWatch("", interval=lambda: 0.0, seen=lambda _: None, lost=told.append, engine=nobody)
        with pytest.raises(ElsewhereError):
            await asyncio.wait_for(watch.run(), LONG)
        assert told == ["the engine is elsewhere"]
        watch.stop()

    asyncio.run(test())


def test_moves_are_few_at_a_time_and_leave_the_threads_of_answers_alone() -> None:
    """Each move makes the engine ask the agent, whose answers need the event loop's own threads."""
    go_on, lock = threading.Event(), threading.Lock()
    under_way, most = 0, 0

    def move() -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        assert go_on.wait(LONG)  # as the engine, which waits for our answer
        with lock:
            under_way -= 1

    async def test() -> None:
        watch = watching(FakeEngine(lambda: EngineView(0.0, "", ()), move))
        moves = [asyncio.create_task(watch.move(f"c{number}", "lan")) for number in range(64)]
        await asyncio.sleep(0)
        async with asyncio.timeout(LONG):
            await asyncio.to_thread(go_on.set)  # an answer
            await asyncio.gather(*moves)
        watch.stop()

    asyncio.run(test())
    assert most <= MOVERS


class Api:
    """Keeps how it was asked for events."""

    def events(self, **options: Any) -> Any:
        return options


def test_health_checks_are_no_news() -> None:
    engine = object.__new__(Engine)
    engine._api = Api()
    filters = engine.changes()["filters"]
    assert filters["type"] == ["container", "network"]
    assert {"start", "die", "destroy", "rename", "connect", "disconnect"} <= set(filters["event"])
    assert not [action for action in filters["event"] if action.startswith(("exec", "health"))]


@pytest.mark.parametrize(
    ("url", "tls"),
    [
        ("tcp://127.0.0.1:2376", True),
        ("unix:///run/docker.sock", False),
    ],
)
def test_a_named_engine_keeps_the_tls_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, *, tls: bool
) -> None:
    asked: list[Any] = []

    class Client:
        api = None

        def __init__(self, url: str, *, tls: Any, **_: Any) -> None:
            asked.append((url, tls and (tls.cert, tls.ca_cert, tls.verify)))

    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").touch()
    monkeypatch.setattr("docker.DockerClient", Client)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    Engine(url)
    files = ((f"{tmp_path}/cert.pem", f"{tmp_path}/key.pem"), f"{tmp_path}/ca.pem", True)
    assert asked == [(url, files if tls else False)]
