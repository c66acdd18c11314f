"""A claim of the library that is held while its link cannot be heard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from arpipam import UnknownError
from arpipam.allocator import Allocator
from arpipam.lab.host import UPLINK
from arpipam.lab.until import until
from arpipam.protocol.outcome import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from arpipam.claim import Conflict
    from arpipam.lab import Host, Lab
    from arpipam.lab.stations import LabStation

PRINTER = "172.16.42.3"


@pytest.fixture
def lan(lab: Lab) -> tuple[Host, LabStation]:
    """A host on a wire, with a container of its own, and a printer."""
    wire = lab.wire()
    host = lab.host("host1", wire, "172.16.42.1/24", bridge="lan0")
    lab.start()
    lab.station("container", host, "172.16.42.4/24")
    return host, lab.station("printer", wire, f"{PRINTER}/24")


@pytest.fixture
def allocator(lan: tuple[Host, LabStation], tmp_path: Path) -> Iterator[Allocator]:
    with lan[0].namespace.inside(), Allocator("lan0", state_dir=tmp_path) as opened:
        yield opened


def unplug(host: Host, allocator: Allocator) -> None:
    host.namespace.ip([f"link set {UPLINK} down"])
    until(lambda: allocator.loop.hearing.whole_since is None, "no carrier")


def plug_in(host: Host, allocator: Allocator) -> None:
    host.namespace.ip([f"link set {UPLINK} up"])
    until(lambda: allocator.loop.hearing.whole_since is not None, "a carrier")


def test_a_container_of_this_host_shows_nothing_while_no_way_leads_out(
    lan: tuple[Host, LabStation], allocator: Allocator
) -> None:
    host, _ = lan
    assert str(allocator.find().address) == "172.16.42.2"
    unplug(host, allocator)
    with pytest.raises(UnknownError, match=r"lan0: no port that leads beyond this host \(uplink\) has a carrier"):
        allocator.variant().find()
    probed = {str(one.address): one for one in allocator.variant().probe([PRINTER, "172.16.42.4"])}
    assert probed[PRINTER].verdict is Verdict.UNKNOWN
    assert "has a carrier" in probed[PRINTER].reason
    assert probed["172.16.42.4"].verdict is Verdict.IN_USE
    assert allocator.variant(alone=True).find()
    plug_in(host, allocator)
    # the wire's end of the cable may need a moment more
    until(lambda: allocator.variant().probe([PRINTER])[0].verdict is Verdict.IN_USE, "the printer")


def test_a_claim_that_nobody_took_is_as_good_as_before(lan: tuple[Host, LabStation], allocator: Allocator) -> None:
    host, _ = lan
    with allocator.claim("web") as claim:
        assert not claim.needs_check
        unplug(host, allocator)
        assert claim.needs_check
        assert allocator.variant().check(claim).verdict is Verdict.UNKNOWN
        plug_in(host, allocator)
        assert claim.needs_check
        until(lambda: allocator.variant().check(claim).verdict is Verdict.FREE, "its own address")
        assert not claim.needs_check


def test_a_claim_hears_of_a_station_that_took_its_address_meanwhile(
    lan: tuple[Host, LabStation], allocator: Allocator
) -> None:
    host, printer = lan
    met: list[Conflict] = []
    with allocator.claim("web") as claim:
        claim.on_conflict(met.append)
        unplug(host, allocator)
        printer.namespace.ip([f"addr add {claim.address}/24 dev eth0"])
        plug_in(host, allocator)
        until(lambda: met, "the conflict", 2.0)
        assert met[0].other == printer.mac
        assert allocator.variant().check(claim).verdict is Verdict.IN_USE
