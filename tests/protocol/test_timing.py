"""The constants of probing, against the figures of RFC 5227."""

from __future__ import annotations

import dataclasses

import pytest

from arpipam.errors import InputError
from arpipam.protocol.timing import ADAPTIVE, LAN, PROFILES, RFC5227, Timing, profile


def probing(timing: Timing) -> tuple[float, float]:
    """Shortest and longest time from the start to the verdict."""
    assert timing.probe_num is not None
    between = timing.probe_num - 1
    shortest = between * timing.probe_min + timing.announce_wait
    return shortest, timing.probe_wait + between * timing.probe_max + timing.announce_wait


def test_the_standards_own_constants_are_those_of_section_1_1() -> None:
    assert dataclasses.asdict(RFC5227) == {
        "name": "rfc5227",
        "probe_wait": 1,
        "probe_num": 3,
        "probe_min": 1,
        "probe_max": 2,
        "announce_wait": 2,
        "announce_num": 2,
        "announce_interval": 2,
        "max_conflicts": 10,
        "rate_limit_interval": 60,
        "defend_interval": 10,
        "rate": None,
    }


def test_the_standard_takes_from_four_to_seven_seconds() -> None:
    assert probing(RFC5227) == (4, 7)


def test_lan_is_fixed_at_about_three_tenths_of_a_second() -> None:
    shortest, longest = probing(LAN)
    assert shortest == pytest.approx(0.3, abs=0.05)
    assert longest == pytest.approx(0.3, abs=0.05)
    assert LAN.probe_num == RFC5227.probe_num


@pytest.mark.parametrize("timing", PROFILES.values(), ids=PROFILES)
def test_a_quick_profile_defends_as_the_standard_does(timing: Timing) -> None:
    assert timing.announce_num == RFC5227.announce_num
    assert timing.max_conflicts == RFC5227.max_conflicts
    assert timing.defend_interval == RFC5227.defend_interval
    assert 0 <= timing.probe_min <= timing.probe_max


def test_adaptive_leaves_the_number_of_probes_to_the_evidence() -> None:
    assert ADAPTIVE.probe_num is None


@pytest.mark.parametrize("timing", [ADAPTIVE, LAN, RFC5227], ids=lambda timing: timing.name)
def test_each_profile_is_found_by_its_name(timing: Timing) -> None:
    assert profile(timing.name) is timing


@pytest.mark.parametrize("name", ["", "LAN", "fast"])
def test_another_name_is_refused_in_one_line_that_names_the_profiles(name: str) -> None:
    with pytest.raises(InputError) as caught:
        profile(name)
    assert str(caught.value) == f"timing {name!r}: choose one of adaptive, lan, rfc5227, guarded"
