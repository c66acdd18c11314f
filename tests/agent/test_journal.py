"""The journal: every kind of event is known, and each has its reader and its log level."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from structlog.testing import capture_logs

from launcher.agent.contract import Event, EventKind
from launcher.agent.flood import Flood
from launcher.agent.journal import MOST_EVENTS, Journal

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2] / "launcher" / "agent"


def told_kinds() -> Iterator[str]:
    """Every kind that the agent's code names as text where it tells something."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "tell":
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.value


def test_every_kind_that_is_told_is_listed() -> None:
    assert set(told_kinds()) <= set(EventKind)


def test_readers_get_what_happens_and_first_the_recent() -> None:
    async def test() -> list[str]:
        journal = Journal(lambda: 5.0)
        journal.add(EventKind.LINK_DOWN, "br0", text="gone")
        reader = journal.events(recent=True)
        first = await anext(reader)
        journal.add(EventKind.LINK_UP, "br0")
        second = await anext(reader)
        await reader.aclose()  # type: ignore[attr-defined]
        assert not journal._readers
        assert first == Event(5.0, "link down", "br0", text="gone")
        return [first.kind, second.kind]

    assert asyncio.run(test()) == ["link down", "link up"]


def test_a_reader_that_is_too_far_behind_is_ended() -> None:
    async def test() -> int:
        journal = Journal(lambda: 5.0)
        reader = journal.events()
        waiting = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0)
        for _ in range(2 * MOST_EVENTS + 2):
            journal.add(EventKind.CLAIMED)
        await waiting
        return 1 + len([event async for event in reader])

    assert asyncio.run(test()) == 2 * MOST_EVENTS


def test_each_kind_is_logged_once_with_its_level() -> None:
    structlog.reset_defaults()
    journal = Journal(lambda: 5.0)
    with capture_logs() as lines:
        for kind in (EventKind.HANDED_OUT, EventKind.LINK_UP, EventKind.CONFLICT):
            journal.add(kind, "br0", address="10.0.0.1")
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("handed out", "debug"),
        ("link up", "info"),
        ("conflict", "warning"),
    ]


def test_a_flood_is_counted_by_key_and_in_all() -> None:
    flood = Flood(10.0, 2, 5)
    admitted = [key for key in [*"aaaabbbb", *map(str, range(10))] if flood.admits(key, 0.0)]
    assert admitted == ["a", "a", "b", "b", "0"]
    assert flood.is_counting
    taken = flood.take()
    assert sum(taken.values()) == 13
    assert (taken["a"], taken["b"], taken[None]) == (2, 2, 6)  # not told apart any more
    assert not flood.is_counting
    assert flood.admits("a", 10.0)
