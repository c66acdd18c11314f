"""The supervisor: what fails is restarted and shown, and nothing else fails with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from arpipam.errors import LeaseError
from launcher.agent import supervise
from launcher.agent.contract import Failure
from launcher.agent.supervise import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "FIRST_PAUSE", 0.0)


def failing(times: int, error: BaseException, *, then: Callable[[], None]) -> Callable[[], Coroutine[None, None, None]]:
    """Work that fails so often and then goes on for ever."""
    left = [times]

    async def work() -> None:
        if left[0]:
            left[0] -= 1
            raise error
        then()
        await asyncio.Event().wait()

    return work


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LeaseError("lease store: the disk\nis full"), "lease store: the disk is full"),
        (RuntimeError("secret"), "RuntimeError: secret"),
        (KeyError(), "KeyError"),
        (SystemExit(3), "SystemExit: 3"),
        (asyncio.CancelledError(), "CancelledError"),  # of something that it waited for
    ],
)
def test_a_part_that_fails_is_restarted_and_shown_until_it_works(error: BaseException, told: str) -> None:
    async def test() -> None:
        times = iter([5.0, 9.0])
        failed: list[Failure] = []
        recovered: list[str] = []
        running = asyncio.Event()
        supervisor = Supervisor(lambda: next(times), lambda failure, _: failed.append(failure), recovered.append)
        task = asyncio.create_task(supervisor.run("part", failing(2, error, then=running.set)))
        async with asyncio.timeout(10):
            await running.wait()
        assert failed == [Failure("part", 5.0, told)] * 2  # the first of a row says since when
        assert supervisor.failures == (Failure("part", 5.0, told),)
        supervisor.works("part")
        supervisor.works("part")
        assert not supervisor.failures
        assert recovered == ["part"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(test())


def test_a_part_that_runs_long_enough_works_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "SETTLED", 0.0)

    async def test() -> None:
        recovered = asyncio.Event()
        supervisor = Supervisor(lambda: 1.0, on_recovery=lambda _: recovered.set())
        task = asyncio.create_task(supervisor.run("part", failing(1, ValueError("x"), then=lambda: None)))
        async with asyncio.timeout(10):
            await recovered.wait()
        assert not supervisor.failures
        task.cancel()

    asyncio.run(test())


def test_a_part_that_ends_is_not_restarted() -> None:
    async def test() -> None:
        runs: list[int] = []

        async def work() -> None:
            runs.append(1)

        await Supervisor(lambda: 1.0).run("part", work)
        assert runs == [1]

    asyncio.run(test())


def test_one_attempt_succeeds_or_fails_for_its_part_alone() -> None:
    async def test() -> None:
        async def good() -> None:
            pass

        async def bad() -> None:
            raise LeaseError("full")

        supervisor = Supervisor(lambda: 1.0)
        assert not await supervisor.attempt("one", bad)
        assert await supervisor.attempt("two", good)
        assert supervisor.failures == (Failure("one", 1.0, "full"),)
        assert await supervisor.attempt("one", good)
        assert not supervisor.failures

    asyncio.run(test())
