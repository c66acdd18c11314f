"""What is refused while an engine starts is started later: that alone, once the network is whole, at most 3 times."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from launcher.agent import refused
from launcher.agent.refused import TRIES, RefusedStarts
from launcher.engine.errors import EngineError
from launcher.engine.model import FailedStart
from tests.support.networks import opened, seen, soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from arpipam.leases.sqlite import SqliteLeaseStore
    from tests.support.networks import Bench

WHY = "br0, 10.0.0.0/24: no answer from host2, so nothing is searched"
ERROR = f"failed to create endpoint web on network lan: IpamDriver.RequestAddress: {WHY}"
WEB, DB = FailedStart("1", "web", ERROR, "2026-01-01"), FailedStart("2", "db", "no such image", "2026-01-01")


class Engine:
    """The engine behind the follower."""

    def __init__(self, *failed: FailedStart) -> None:
        self.failed = list(failed)
        self.asked: list[str] = []
        self.errors: list[Exception] = []

    async def failed_starts(self) -> list[FailedStart]:
        return list(self.failed)

    async def start(self, container: str) -> None:
        self.asked.append(container)
        if self.errors:
            raise self.errors.pop()
        self.failed = [one for one in self.failed if one.id != container]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused, "LOOK", 0.0)
    monkeypatch.setattr(refused, "PAUSES", (0.0, 0.0))


def on_a_network(
    store: SqliteLeaseStore, engine: Engine, test: Callable[[Bench, RefusedStarts], Awaitable[None]], **agent: Any
) -> None:
    async def once() -> None:
        async with opened(store) as made:
            made.tools.config.agent = SimpleNamespace(
                **{"quarantine": 60.0, "remember": 0.0, "start_refused": True} | agent
            )
            starts = RefusedStarts(made.tools, engine)  # type: ignore[arg-type]
            running = asyncio.create_task(starts.run())
            try:
                await test(made, starts)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    asyncio.run(once())


async def rounds() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def now(made: Bench) -> float:
    return float(made.tools.edges.monotonic())


def test_it_is_started_once_the_engine_answers_and_the_network_is_whole(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(WEB, DB)

    async def test(made: Bench, starts: RefusedStarts) -> None:
        silent = {"10.0.0.2": "host2"}
        monkeypatch.setattr(made.network.witnesses, "silent", lambda: silent)
        made.containers.engine_started(now(made))
        starts.refused(made.network, f"{WHY}\n")
        await rounds()
        assert not engine.asked
        made.containers.view = seen(at=now(made))
        await rounds()
        assert not engine.asked
        silent.clear()
        await soon(lambda: not starts._waiting, "the start")
        await rounds()
        assert engine.asked == ["1"]
        [event] = [event for event in made.events if event.kind == "started"]
        assert (event.owner, event.interface) == ("web", "br0")
        assert WHY in event.text

    on_a_network(store, engine, test)


def test_what_is_refused_to_anybody_else_is_not_started(store: SqliteLeaseStore) -> None:
    engine = Engine(WEB)

    async def test(made: Bench, starts: RefusedStarts) -> None:
        starts.refused(made.network, WHY)  # the engine has not said that it starts
        await rounds()
        made.containers.engine_started(now(made))
        made.containers.view = seen(at=now(made))
        starts.refused(made.network, WHY)  # it answers everybody again
        await rounds()
        assert not engine.asked

    on_a_network(store, engine, test)


def test_where_it_is_switched_off_nothing_is_started(store: SqliteLeaseStore) -> None:
    engine = Engine(WEB)

    async def test(made: Bench, starts: RefusedStarts) -> None:
        made.containers.engine_started(now(made))
        starts.refused(made.network, WHY)
        made.containers.view = seen(at=now(made))
        await rounds()
        assert not engine.asked

    on_a_network(store, engine, test, start_refused=False)


def test_after_three_tries_it_is_left_to_people(store: SqliteLeaseStore) -> None:
    engine = Engine(WEB)
    engine.errors = [EngineError(f"the Docker engine refuses: {number}") for number in range(9)]

    async def test(made: Bench, starts: RefusedStarts) -> None:
        made.containers.engine_started(now(made))
        starts.refused(made.network, WHY)
        made.containers.view = seen(at=now(made))
        await soon(lambda: made.kinds().count("start failed") == TRIES, "three tries")
        await rounds()
        assert engine.asked == ["1"] * TRIES
        texts = [event.text for event in made.events if event.kind == "start failed"]
        assert [text.rpartition("; ")[2] for text in texts] == ["it is tried again"] * 2 + ["start it by hand"]

    on_a_network(store, engine, test)


def test_one_that_ran_meanwhile_or_is_gone_or_is_not_to_run_any_more_is_left_alone(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(WEB, FailedStart("3", "gone", ERROR, "2026-01-01"))

    async def test(made: Bench, starts: RefusedStarts) -> None:
        silent = {"10.0.0.2": "host2"}
        monkeypatch.setattr(made.network.witnesses, "silent", lambda: silent)
        made.containers.engine_started(now(made))
        starts.refused(made.network, WHY)
        made.containers.view = seen(at=now(made))
        await soon(lambda: len(starts._waiting) == 2, "both")
        engine.failed = [FailedStart("1", "web", ERROR, "2026-02-02")]
        silent.clear()
        await soon(lambda: not starts._waiting, "the end of it")
        assert not engine.asked

    on_a_network(store, engine, test)


def test_an_engine_that_starts_once_more_asks_for_all_of_them_itself(
    store: SqliteLeaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(WEB)

    async def test(made: Bench, starts: RefusedStarts) -> None:
        silent = {"10.0.0.2": "host2"}
        monkeypatch.setattr(made.network.witnesses, "silent", lambda: silent)
        made.containers.engine_started(now(made))
        starts.refused(made.network, WHY)
        made.containers.view = seen(at=now(made))
        await soon(lambda: starts._waiting, "it")
        starts.engine_started([made.network])
        silent.clear()
        await rounds()
        assert not engine.asked

    on_a_network(store, engine, test)
