"""Work in a process of its own inside a namespace: what is loaded already need not be loaded again.

A fault that was put into this process is in its children too.
"""

from __future__ import annotations

import gc
import multiprocessing
import resource
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from multiprocessing.connection import Connection

    from arpipam.lab import Namespace

_FORK = multiprocessing.get_context("fork")
PATIENCE = 300.0
_END = "end of work"


class Done(NamedTuple):
    """What a piece of work gave back, and what it cost."""

    result: Any
    seconds: float
    cpu: float
    """Seconds of all processors, children included."""


class Worker:
    """A process that runs a generator: up to its first `yield` to get ready, and one step further at each `step`.

    What it yields is sent back; what is passed to `step` is what `yield` gives it.
    """

    def __init__(self, namespace: Namespace, work: Callable[..., Generator[Any, Any, None]], *words: Any) -> None:
        self._pipe, there = _FORK.Pipe()
        self._process = _FORK.Process(target=_serve, args=(there, namespace, work, words))
        self._process.start()
        there.close()

    def answer(self) -> Any:
        """Wait for what it yields next."""
        if not self._pipe.poll(PATIENCE):
            raise TimeoutError(f"a worker gave no answer within {PATIENCE:.0f} s")
        try:
            good, value = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a worker ended by itself, exit code {self._process.exitcode}") from None
        if not good:
            raise RuntimeError(value)
        return value

    def tell(self, what: Any = None) -> None:
        """Let it go on; `answer` waits for it."""
        self._pipe.send(what)

    def step(self, what: Any = None) -> Any:
        """Both."""
        self.tell(what)
        return self.answer()

    def close(self) -> None:
        """End it: its generator is closed. A word says so, since other children have this end of the pipe open too."""
        with suppress(OSError):
            self._pipe.send(_END)
        self._process.join(PATIENCE)
        self._pipe.close()
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(
    pipe: Connection, namespace: Namespace, work: Callable[..., Generator[Any, Any, None]], words: tuple[Any, ...]
) -> None:
    # What the harness has loaded and measured so far is not the subject's to go through (gc, "freeze").
    gc.freeze()
    with namespace.inside():
        running = work(*words)
        try:
            value = next(running)
            while True:
                pipe.send((True, value))
                word = pipe.recv()
                if isinstance(word, str) and word == _END:
                    break
                value = running.send(word)
        except (EOFError, StopIteration, BrokenPipeError):
            pass
        except Exception:  # noqa: BLE001 - whoever waits for the answer has to hear of it
            pipe.send((False, traceback.format_exc(limit=-3)))
        finally:
            running.close()


def call(namespace: Namespace, function: Callable[..., Any], *words: Any) -> Done:
    """Run a function in there; the time of the function itself, without the start of its process."""
    with Worker(namespace, _once, function, *words) as worker:
        answer = worker.answer()
    assert isinstance(answer, Done)  # noqa: S101 - what `_once` yields
    return answer


def _once(function: Callable[..., Any], *words: Any) -> Generator[Done, None, None]:
    started, before = time.perf_counter(), _cpu()
    result = function(*words)
    yield Done(result, time.perf_counter() - started, _cpu() - before)


def _cpu() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)
