"""The end of a task without a result: the caller hears of the error once nothing half done is left."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from arpipam.errors import LeaseError, LinkError
from arpipam.link.task import Task

if TYPE_CHECKING:
    import pytest

    from arpipam.link.task import Machine

GONE = LinkError("gone")


class Undoing(Task[None]):
    """A task that has something to undo, on another thread."""

    def __init__(self) -> None:
        super().__init__(cast("Machine", None))
        self.undone: Future[None] = Future()

    def abandon(self) -> Future[None]:
        return self.undone


def test_the_error_comes_when_all_is_undone() -> None:
    task = Undoing()
    task.fail(GONE)
    assert not task.future.done()
    task.undone.set_result(None)
    assert task.future.exception(0) is GONE


def test_what_cannot_be_undone_is_logged_and_the_first_error_told(caplog: pytest.LogCaptureFixture) -> None:
    task = Undoing()
    task.fail(GONE)
    task.undone.set_exception(LeaseError("the disk is full"))
    assert task.future.exception(0) is GONE
    assert "the disk is full" in caplog.text


def test_a_task_that_cannot_even_begin_to_undo_tells_its_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> None:
        raise RuntimeError("no thread")

    monkeypatch.setattr(Undoing, "abandon", broken)
    task = Undoing()
    task.fail(GONE)
    assert task.future.exception(0) is GONE
    assert "no thread" in caplog.text
