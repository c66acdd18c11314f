"""A thread that writes leases for one that must not wait: a commit waits for the disk, and for other processes."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)


class LeaseWriter:
    """Calls of a lease store, one after the other, on a thread of its own that starts with the first."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "arpipam leases")

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call it after all that were asked for before."""
        return self._pool.submit(function, *args, **kwargs)

    def post(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """The same where nobody waits for it: what it raises is logged."""
        self.call(function, *args, **kwargs).add_done_callback(_tell)

    def close(self) -> None:
        """Return once all calls are done."""
        self._pool.shutdown()


def _tell(future: Future[object]) -> None:
    if (error := future.exception()) is not None:
        _log.error("a lease could not be written: %s", error)
