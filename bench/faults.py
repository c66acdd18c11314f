"""Faults that are put in on purpose, to see whether the harness finds them. Children of this process have them too."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

from arpipam.protocol.acd import Acd, Input
from arpipam.protocol.probing import Probing
from arpipam.protocol.search import Search
from arpipam.protocol.witnesses import SearchWitnesses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from arpipam.protocol.arp import ArpPacket


@contextmanager
def one_probe() -> Iterator[None]:
    """A single round is enough, whatever the witnesses say."""
    with (
        patch("arpipam.protocol.acd.PROBE_NUM", 1),
        patch.object(SearchWitnesses, "enough", lambda _, rounds, __, hoped=0: rounds >= 1),  # noqa: ARG005 - as it is
    ):
        yield


@contextmanager
def no_witness() -> Iterator[None]:
    """Silence counts as if nobody else were on the link."""
    with (
        patch.object(SearchWitnesses, "alone", property(lambda _: True)),
        patch.object(SearchWitnesses, "silent", lambda _: []),
        patch.object(Probing, "doubt", lambda _: ""),
        patch.object(Search, "_unwitnessed", lambda _: False),
    ):
        yield


@contextmanager
def no_defence() -> Iterator[None]:
    """What is claimed is neither answered for nor defended."""
    asked = Acd._asked  # noqa: SLF001 - a fault is put in where it hurts

    def deaf(self: Acd, packet: ArpPacket) -> None:
        if self.state.value in {"announcing", "defending"}:
            self._step(Input.ASKED)
        else:
            asked(self, packet)

    with patch.object(Acd, "_asked", deaf):
        yield


FAULTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "one-probe": one_probe,
    "no-witness": no_witness,
    "no-defence": no_defence,
}
