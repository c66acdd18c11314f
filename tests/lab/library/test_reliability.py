"""How often a used address is called free, counted on real links that lose frames, beside the common tool's count."""

from __future__ import annotations

import itertools
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from arpipam import Allocator, PoolExhaustedError, UnknownError, Verdict
from arpipam.lab import Lab
from arpipam.protocol import arp
from arpipam.protocol.witnesses import MOST_WITNESSES
from tests.support.profile import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from arpipam.lab import Host, Wire

T = TypeVar("T")

CROWD = IPv4Network("10.50.128.0/17")
"""Half of the /16 that all are in; one kernel answers for each address of it."""
WITNESSES = ["10.50.0.2", "10.50.0.3"]
PROBES, BATCH, SAMPLE = count("PROBES", day=4000, night=10_000), 500, 200
FAST = 200_000
"""Frames per second: more than this machine sends."""
_numbers = itertools.count()


@pytest.fixture(scope="module")
def half_full() -> Iterator[tuple[Host, Wire]]:
    """A host on a wire with a crowd and two witnesses."""
    with Lab() as lab:
        wire = lab.wire()
        host = lab.host("host", wire, "10.50.0.1/16")
        lab.start()
        lab.station("crowd", wire, crowd=str(CROWD))
        for number, witness in enumerate(WITNESSES):
            lab.station(f"witness{number}", wire, f"{witness}/16")
        yield host, wire


@pytest.fixture
def lossless(half_full: tuple[Host, Wire]) -> Iterator[tuple[Host, Wire]]:
    """The same, whose losses end with the test."""
    yield half_full
    half_full[1].loss = 0


def in_batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`size` of them at a time."""
    return (items[at : at + size] for at in range(0, len(items), size))


def opened(host: Host, state: Path, **options: Any) -> Allocator:
    """An allocator on the host; not entered yet."""
    return Allocator(host.bridge, state_dir=state, **options)


def called_free_by_arping(host: Host, addresses: Sequence[IPv4Address]) -> int:
    """How many of them arping calls free after one question (RFC 5227 by `-D`), many at a time."""

    def calls_free(address: IPv4Address) -> bool:
        words = ["arping", "-D", "-q", "-c", "1", "-w", "1", "-I", host.bridge, str(address)]
        done = subprocess.run(host.namespace.enter(*words), check=False, capture_output=True, text=True)
        assert done.returncode in {0, 1}, done.stderr
        assert not done.stderr
        return done.returncode == 0

    with ThreadPoolExecutor(50) as pool:
        return sum(pool.map(calls_free, addresses))


@pytest.mark.parametrize("loss", [0, 10, 30])
def test_no_used_address_of_thousands_is_called_free(
    loss: int,
    lossless: tuple[Host, Wire],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    host, wire = lossless
    used = [CROWD[number] for number in range(PROBES)]
    wire.loss = loss
    verdicts: Counter[Verdict] = Counter()
    free: list[IPv4Address] = []
    with host.namespace.inside(), opened(host, tmp_path, witnesses=WITNESSES, rate=FAST) as allocator:
        for batch in in_batches(used, BATCH):
            probed = allocator.probe(batch)
            verdicts.update(one.verdict for one in probed)
            free += [one.address for one in probed if one.verdict is Verdict.FREE]
    fooled = called_free_by_arping(host, used[:SAMPLE])
    counts = {str(verdict): verdicts[verdict] for verdict in Verdict}
    for name, value in {"loss_percent": loss, **counts, "arping_free": fooled, "arping_asked": SAMPLE}.items():
        record_property(name, value)
    with capsys.disabled():
        ours = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        print(f"\n{loss} % lost each way: {PROBES} used: {ours}; arping -D: {fooled} of {SAMPLE} free")  # noqa: T201
    assert verdicts.total() == PROBES
    assert free == []
    assert verdicts[Verdict.CONTENDED] == 0
    assert verdicts[Verdict.IN_USE] > PROBES // 2  # the looking is no mere shrug
    if loss:
        assert fooled > 0  # the loss is real: one question is not enough


def test_a_scan_of_a_half_full_16_misses_none_and_invents_none(lossless: tuple[Host, Wire], tmp_path: Path) -> None:
    host, _ = lossless
    with host.namespace.inside(), opened(host, tmp_path, rate=FAST) as allocator:
        stations = allocator.scan()
    broadcast = {host.interface.network.broadcast_address}  # nobody can have it, so nobody asks for it
    assert {station.address for station in stations} == {*CROWD, *map(IPv4Address, WITNESSES)} - broadcast
    assert len(stations) == CROWD.num_addresses + 1
    assert len({station.mac for station in stations}) == 3


def test_of_a_24_with_250_used_the_first_free_one_alone_is_probed(lab: Lab, tmp_path: Path) -> None:
    """All others are asked by ordinary requests, and nothing else has to be waited for."""
    network, witness, free = IPv4Network("172.16.42.0/24"), "172.16.42.254", [77, 200, 201]
    used = [f"{address}/24" for number, address in enumerate(network) if number not in {0, 1, *free, 255}]
    assert len(used) == 250
    wire = lab.wire()
    host = lab.host("host", wire, f"{network[1]}/24")
    lab.start()
    for number, share in enumerate(in_batches(used, 50)):
        lab.station(f"station{number}", wire, *share)
    with wire.capture() as capture, host.namespace.inside():
        with opened(host, tmp_path, order="first", witnesses=[witness]) as allocator:
            found = allocator.find()
        capture.read()
    assert found.address == network[77]
    probed = {IPv4Address(packet.target_ip) for _, packet in capture.packets if packet.is_probe}
    assert probed == {network[77]}
    asked = Counter(IPv4Address(packet.target_ip) for _, packet in capture.packets if packet.operation == arp.REQUEST)
    often = {address for address, times in asked.items() if times > 3}  # in the rounds beside it
    assert {network[77], network[0], IPv4Address(witness)} <= often
    assert len(often) <= 3 + MOST_WITNESSES


@pytest.fixture(scope="module")
def lan() -> Iterator[tuple[Lab, Host, Wire]]:
    """A host and a quick witness, 172.16.42.3."""
    with Lab() as lab:
        wire = lab.wire()
        host = lab.host("host", wire, "172.16.42.1/24")
        lab.start()
        lab.station("witness", wire, "172.16.42.3/24")
        yield lab, host, wire


@pytest.mark.parametrize(
    "behaviour", [{"slow": 0.08}, {"deaf": 2}, {"slow": 0.08, "deaf": 2}, {"shifting": True}], ids=str
)
def test_stations_that_answer_badly_are_never_called_free(
    lan: tuple[Lab, Host, Wire], behaviour: dict[str, Any], tmp_path: Path
) -> None:
    """Each address is asked for once only, by a search or a probe, since who is deaf at first hears well later."""
    lab, host, wire = lan
    hosts = [IPv4Address(f"172.16.42.{number}") for number in range(50, 150)]
    bad = lab.station(f"bad{next(_numbers)}", wire, *(f"{address}/24" for address in hosts), **behaviour)
    few = f"{hosts[90]}-{hosts[99]}"
    try:
        with (
            host.namespace.inside(),
            opened(host, tmp_path, witnesses=["172.16.42.3"], ranges=[few]) as allocator,
        ):
            verdicts = Counter(one.verdict for batch in in_batches(hosts[:90], 30) for one in allocator.probe(batch))
            with pytest.raises(PoolExhaustedError, match="10 in use"):
                allocator.find()
    finally:
        bad.close()
    assert verdicts == {Verdict.IN_USE: 90}


def test_who_answers_for_everything_makes_everything_unknown(lan: tuple[Lab, Host, Wire], tmp_path: Path) -> None:
    lab, host, wire = lan
    proxy = lab.station(f"proxy{next(_numbers)}", wire, "172.16.42.4/24", everything=True)
    try:
        with host.namespace.inside(), opened(host, tmp_path, witnesses=["172.16.42.3"]) as allocator:
            verdicts = allocator.probe([f"172.16.42.{number}" for number in range(4, 24)])
            with pytest.raises(UnknownError, match=f"{proxy.mac} answers for every address"):
                allocator.find()
            with pytest.raises(UnknownError, match=f"{proxy.mac} answers for every address"):
                allocator.claim("web")
    finally:
        proxy.close()
    assert {one.verdict for one in verdicts} == {Verdict.UNKNOWN}
    assert [one.reason for one in verdicts if proxy.mac not in one.reason] == []
    with host.namespace.inside(), opened(host, tmp_path, witnesses=["172.16.42.3"]) as allocator:
        assert str(allocator.find().address) == "172.16.42.2"  # it was the proxy alone
