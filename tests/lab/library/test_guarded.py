"""The timing for switch ports that allow few ARP packets: half a minute of real time."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from arpipam import Allocator
from tests.support.until import LONG

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.link_spaces import Space


def test_on_a_guarded_port_all_is_the_same_only_slower(here: Space, there: Space, wire: None, tmp_path: Path) -> None:
    """Dynamic ARP inspection shuts a port down at more than 15 ARP packets in a second."""
    del wire
    ours: list[float] = []
    with here.entered():
        allocator = Allocator("near", timing="guarded", ranges=["10.7.0.9-10.7.0.14"], budget=1.0, state_dir=tmp_path)
        allocator.__enter__()
    with contextlib.closing(there.socket("far", 0x0806)) as far:
        far.settimeout(0)
        task = allocator.start_claim("web", None, None)
        ends = time.monotonic() + LONG
        while not task.future.done() and time.monotonic() < ends:
            with contextlib.suppress(BlockingIOError):
                while far.recv(99):
                    ours.append(time.monotonic())
            time.sleep(0.01)
        claim = task.future.result(LONG)
    assert claim.found.miss_probability is not None
    assert claim.found.miss_probability <= 1e-6
    assert claim.found.elapsed > 3  # longer than the budget
    assert len(ours) > 30
    assert all(later - first > 1 for first, later in zip(ours, ours[15:], strict=False))
    allocator.__exit__(None, None, None)
