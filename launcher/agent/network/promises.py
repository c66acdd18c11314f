"""Addresses of one network that are somebody's already, though nobody uses them yet: searches pass them over."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from ipaddress import IPv4Address


class Promises:
    """Those of one network. Whether an address is among them may be asked from any thread."""

    def __init__(self) -> None:
        self.kept: frozenset[IPv4Address] = frozenset()
        """Those that containers have, or will have when they start, as the engine was seen last."""
        self._numbers: frozenset[int] = frozenset()
        self._named: Counter[int] = Counter()
        """Those that somebody asks for by name at this moment."""

    def learn(self, kept: Iterable[IPv4Address]) -> None:
        """The engine's containers have these, or will have them."""
        self.kept = frozenset(kept)
        self._numbers = frozenset(map(int, self.kept))

    @contextmanager
    def named(self, address: IPv4Address) -> Iterator[None]:
        """Somebody asks for the address by name, as long as the context lasts."""
        self._named[int(address)] += 1
        try:
            yield
        finally:
            self._named[int(address)] -= 1

    def __contains__(self, address: object) -> bool:
        return address in self._numbers or (isinstance(address, int) and self._named[address] > 0)
