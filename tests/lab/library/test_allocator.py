"""The library on real links: what is free, what is not, and when that cannot be said."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest

from arpipam import (
    AddressInUseError,
    Allocator,
    InputError,
    PoolExhaustedError,
    UnknownError,
    Verdict,
)
from tests.support.lans import FREE, LONG, OWN, PRINTER, Lan, Opener, fresh

if TYPE_CHECKING:
    from pathlib import Path

    from arpipam.lab import Lab


def test_a_fixed_timing_probes_three_times(lan: Lan, opened: Opener) -> None:
    [one] = opened(lan, timing="lan", witnesses=[PRINTER]).probe([FREE])
    assert (one.verdict, one.probes) == (Verdict.FREE, 3)


def test_finds_the_first_address_that_nobody_has(lan: Lan, opened: Opener) -> None:
    found = opened(lan).find()
    assert (str(found.address), found.prefix, found.in_use) == (FREE, 24, 1)
    assert found.probed >= 2
    assert found.miss_probability is not None
    assert 0 < found.miss_probability <= 1e-6


def test_gives_a_verdict_on_each_address_once(lan: Lan, opened: Opener) -> None:
    verdicts = opened(lan).probe([PRINTER, FREE, IPv4Address(PRINTER)])
    assert [(str(one.address), one.verdict) for one in verdicts] == [(PRINTER, Verdict.IN_USE), (FREE, Verdict.FREE)]
    assert verdicts[0].mac == lan.printer.mac


def test_scans_for_every_station_and_tells_of_each_at_once(lan: Lan, opened: Opener) -> None:
    heard: list[str] = []
    stations = opened(lan, ranges=["172.16.42.1-172.16.42.20"]).scan(lambda station: heard.append(str(station.address)))
    assert [(str(station.address), station.mac) for station in stations] == [(PRINTER, lan.printer.mac)]
    assert heard == [PRINTER]


def test_a_scan_lists_witness_and_gateway_too(lan: Lan, opened: Opener) -> None:
    allocator = opened(lan, ranges=["172.16.42.1-172.16.42.9"], witnesses=[PRINTER], gateway=PRINTER)
    assert [str(station.address) for station in allocator.scan()] == [PRINTER]


@pytest.mark.parametrize("behaviour", [{"slow": 0.08}, {"deaf": 2}, {"shifting": True}], ids=str)
def test_a_station_that_answers_badly_is_never_called_free(lan: Lan, opened: Opener, behaviour: dict[str, Any]) -> None:
    first, second, third = (f"172.16.42.{200 + fresh()}" for _ in range(3))  # deaf to what each of them hears
    # A network is as slow as its witnesses are, and so is this one's.
    witness = f"172.16.42.{200 + fresh()}"
    bad = lan.lab.station(f"bad{fresh()}", lan.wire, *(f"{at}/24" for at in (first, second, third)), **behaviour)
    slow = {"slow": behaviour["slow"]} if "slow" in behaviour else {}
    helper = lan.lab.station(f"helper{fresh()}", lan.wire, f"{witness}/24", **slow)
    try:
        allocator = opened(lan, witnesses=[witness], ranges=[second])
        [one] = allocator.probe([first])
        assert one.verdict is Verdict.IN_USE
        with pytest.raises(PoolExhaustedError):
            allocator.find()
        with pytest.raises(AddressInUseError, match=f"{third} is in use by"):
            opened(lan, witnesses=[witness]).claim("web", third)
        assert opened.leases() == {}
    finally:
        bad.close()
        helper.close()


def test_a_third_of_the_frames_lost_makes_no_used_address_free(own_lan: Lan, opened: Opener) -> None:
    gateway = own_lan.lab.station("gateway", own_lan.wire, "172.16.42.254/24")
    own_lan.wire.loss = 30
    allocator = opened(own_lan, witnesses=["172.16.42.254"], ranges=["172.16.42.2-172.16.42.3"], budget=LONG)
    used, free = allocator.probe([PRINTER, FREE])
    assert (used.verdict, used.mac) == (Verdict.IN_USE, own_lan.printer.mac)
    assert free.verdict is Verdict.FREE
    assert free.probes > 8  # a witness that loses half of its answers makes it look longer
    assert free.miss_probability is not None
    assert free.miss_probability <= 1e-6
    claim = allocator.claim("web")
    own_lan.wire.loss = 0
    assert own_lan.wire.who_has(str(claim.address)) == {claim.mac}
    assert own_lan.wire.who_has("172.16.42.254") == {gateway.mac}


def test_a_link_that_loses_too_much_is_unknown(own_lan: Lan, opened: Opener) -> None:
    own_lan.wire.loss = 30
    allocator = opened(own_lan, witnesses=[PRINTER], miss_probability=1e-300, budget=0.3)
    [one] = allocator.probe([FREE])
    assert one.verdict is Verdict.UNKNOWN
    assert one.reason


def test_nothing_is_free_while_the_witness_is_silent(own_lan: Lan, opened: Opener) -> None:
    allocator = opened(own_lan, witnesses=[PRINTER], budget=1.0)  # 0.3 s would be enough where nothing else runs
    own_lan.wire.cut(own_lan.printer)
    with pytest.raises(UnknownError, match=f"no answer from witness {PRINTER}"):
        allocator.find()
    with pytest.raises(UnknownError, match=f"no answer from witness {PRINTER}"):
        allocator.claim("web", FREE)
    assert opened.leases() == {}
    own_lan.wire.heal()
    assert str(allocator.find().address) == FREE


def test_silence_counts_only_for_who_says_that_nobody_else_is_there(own_lan: Lan, opened: Opener) -> None:
    own_lan.wire.cut(own_lan.printer)
    with pytest.raises(UnknownError, match="no station answered"):
        opened(own_lan).find()
    found = opened(own_lan, alone=True).find()
    assert (str(found.address), found.miss_probability) == (FREE, None)


def test_a_bridge_without_another_end_needs_no_witness(laboratory: Lab, opened: Opener) -> None:
    host = laboratory.host(f"host{fresh()}", None, f"{OWN}/24")
    laboratory.start()
    claim = opened(host).claim("web")
    assert str(claim.address) == FREE
    assert claim.found.miss_probability is None


def test_a_part_of_the_interfaces_network_may_start_with_a_station(own_lan: Lan, opened: Opener) -> None:
    own_lan.lab.station("middle", own_lan.wire, "172.16.42.128/24")
    allocator = opened(own_lan, subnet="172.16.42.128/25", witnesses=["172.16.42.128"])
    assert str(allocator.find().address) == "172.16.42.129"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"interface": "none0"}, "no interface 'none0'"),
        ({"subnet": "172.16.42.1/24"}, "host bits set"),
        ({"witnesses": ["printer"]}, "witness 'printer' is not an IPv4 address"),
        ({"witnesses": [OWN]}, "this host's own address"),
        ({"miss_probability": 0}, "miss probability"),
        ({"rate": 0}, "must be above 0"),
        ({"timing": "fast"}, "timing 'fast'"),
        ({"order": "last"}, "order 'last'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_says_what_makes_no_sense(lan: Lan, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    known: dict[str, Any] = {"interface": "docker0", "state_dir": tmp_path} | options
    with lan.host.namespace.inside(), pytest.raises(InputError, match=said) as caught:  # noqa: SIM117 - one block raises
        with Allocator(**known):
            pass
    assert "\n" not in str(caught.value)
