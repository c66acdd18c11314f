"""A Linux router answers for what lies behind it, up to 0.8 s late: what it routes is not called free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from arpipam import Allocator, SearchOptions
from arpipam.errors import PoolExhaustedError
from arpipam.lab.daemons import ProxyRouter
from arpipam.protocol.outcome import Verdict
from tests.support.profile import count
from tests.support.referee import Referee

if TYPE_CHECKING:
    from pathlib import Path

    from arpipam.lab import Lab

TRIES = count("TRIES", day=1, night=20)
OWN, WITNESS, ROUTED = "172.16.42.3", "172.16.42.2", "172.16.42.128/26"


@pytest.mark.parametrize("delay", [0.8, 0.0])
def test_what_a_router_answers_for_is_in_use(lab: Lab, delay: float, tmp_path: Path) -> None:
    wire = lab.wire()
    host = lab.host("host1", wire, "172.16.42.1/24", bridge="lan0")
    lab.start()
    lab.station("witness", wire, f"{WITNESS}/24")
    station = lab.station("router", wire)
    router = lab.run(ProxyRouter, station, f"{OWN}/24", [ROUTED], delay=delay)
    router.wait()
    with Referee([station]) as referee:
        for number in range(TRIES):
            for timing in ("adaptive", "lan"):
                options = SearchOptions(
                    witnesses=[WITNESS], timing=timing, ranges=["172.16.42.129-172.16.42.190"], order="random"
                )
                state_dir = tmp_path / f"{timing}{number}"
                with host.namespace.inside(), Allocator("lan0", options=options, state_dir=state_dir) as allocator:
                    with pytest.raises(PoolExhaustedError, match="is it a proxy"):
                        allocator.find()
                    probed = allocator.probe([OWN, *(f"172.16.42.{n}" for n in range(130, 140))])
                    assert {each.verdict for each in probed} == {Verdict.IN_USE}
        assert not referee.lost(station)
