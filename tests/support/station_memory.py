"""What the tests of the memory of stations share: times, addresses, and what is on disk."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from launcher.agent.memory import Seen, Stations

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_700_000_000.0
DAY = 86400.0
LINK = "br0"


def mac(number: int) -> bytes:
    return b"\x02\x5e" + number.to_bytes(4, "big")


def addresses(stations: Stations) -> set[int]:
    return {one.address for one in stations}


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def on_disk(path: Path) -> dict[int, Seen]:
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT address, mac, first, last FROM station WHERE interface = ?", (LINK,))
        return {row[0]: Seen(*row) for row in rows}
