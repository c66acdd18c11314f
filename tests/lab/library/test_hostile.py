"""Floods and malformed frames on a real link: no crash, no wrong verdict, and a claim that stands and answers."""

from __future__ import annotations

import errno
import json
import multiprocessing
import re
import socket
import struct
import subprocess
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from arpipam import Allocator, ArpipamError, ClaimState, UnknownError, Verdict
from arpipam.lab import Host, Lab, Wire
from arpipam.link.task import Run
from arpipam.protocol import arp
from tests.support.everything import Everything
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection

    from arpipam.claim import Claim
    from arpipam.lab.capture import Capture
    from arpipam.lab.stations import LabStation

OWN, WITNESS, PRINTER = (f"172.16.42.{n}" for n in (1, 2, 3))
GIVEN = "172.16.42.50"
USED, FREE = [WITNESS, PRINTER], ["172.16.42.60", "172.16.42.61"]  # a flood is about 172.16.42.200 to .254
FEW = "172.16.42.1-172.16.42.99"
LONG = 30.0
"""Seconds after which a condition that was waited for will not come any more."""
SECONDS, RATE = 3.0, 100_000
MOST_GROWTH = 100_000
"""Kilobytes."""
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Lan:
    """A host, a witness and a printer on a wire, and somebody who means no good."""

    lab: Lab
    wire: Wire
    host: Host
    printer: LabStation
    enemy: LabStation


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with Lab() as lab:
        wire = lab.wire()
        host = lab.host("host", wire, f"{OWN}/24")
        lab.start()
        lab.station("witness", wire, f"{WITNESS}/24")
        printer = lab.station("printer", wire, f"{PRINTER}/24")
        yield Lan(lab, wire, host, printer, lab.station("enemy", wire))


# A flood.


@dataclass
class Report:
    """What a process under a flood has come to know."""

    verdicts: Counter[tuple[str, Verdict]]
    found: Counter[str]
    errors: Counter[str]
    scans: list[set[str]]
    growth: int
    state: ClaimState


def peak() -> int:
    """The most memory that this process has had, in kilobytes."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])


def work(pipe: Connection, host: Host, state: Path) -> None:
    """Hold a claim and look, round after round, until told to stop; then a last time, when the flood is over."""
    with host.namespace.inside(), Allocator(host.bridge, state_dir=state, witnesses=[WITNESS], ranges=[FEW]) as mine:
        claim = mine.claim("web", GIVEN)
        before = look(mine, claim)
        memory = peak()
        pipe.send((claim.mac, before))
        during = Report(Counter(), Counter(), Counter(), [], 0, claim.state)
        while not pipe.poll():
            look(mine, claim, during)
        pipe.recv()
        during.growth = peak() - memory
        pipe.send(during)
        pipe.recv()
        pipe.send(look(mine, claim))
        pipe.recv()


def look(allocator: Allocator, claim: Claim, report: Report | None = None) -> Report:
    """Do everything once."""
    report = report or Report(Counter(), Counter(), Counter(), [], 0, claim.state)

    def probe() -> None:
        report.verdicts.update((str(one.address), one.verdict) for one in allocator.probe([*USED, *FREE]))

    def find() -> None:
        report.found[str(allocator.find().address)] += 1

    def scan() -> None:
        report.scans.append({str(station.address) for station in allocator.scan()})

    for method in (probe, find, scan):
        try:
            method()
        except UnknownError as error:
            report.errors[str(error)] += 1
    report.state = claim.state
    return report


@contextmanager
def working(lan: Lan, state: Path) -> Iterator[tuple[str, Report, Connection]]:
    """Somebody works in a process of its own: the MAC of its claim, what it saw of a quiet link, how to speak to it."""
    here, there = _FORK.Pipe()
    process = _FORK.Process(target=work, args=(there, lan.host, state))
    process.start()
    there.close()
    try:
        yield (*receive(here), here)
        here.send("end")
        process.join(LONG)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        here.close()


def receive(pipe: Connection) -> Any:
    assert pipe.poll(2 * LONG), "the process does not answer"
    return pipe.recv()


def heard_by(lan: Lan) -> int:
    """Frames that have come to the host's bridge."""
    [bridge] = json.loads(lan.host.namespace.run("ip", "-j", "-s", "link", "show", lan.host.bridge))
    return int(bridge["stats64"]["rx"]["packets"])


def owners(station: LabStation, address: str) -> set[str]:
    """The MACs that answer a plain tool for an address, while anything else is going on."""
    words = ["arping", "-f", "-w", str(int(LONG)), "-I", "eth0", address]
    done = subprocess.run(station.namespace.enter(*words), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {mac.lower() for mac in re.findall(rf"from {re.escape(address)} \[([0-9A-F:]+)\]", done.stdout)}


@pytest.mark.parametrize("kind", ["arp", "garbage", "mixed"])
def test_under_a_flood_no_verdict_is_wrong_and_the_claim_answers(
    lan: Lan,
    kind: str,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with working(lan, tmp_path) as (mac, before, pipe):
        quiet = {(address, Verdict.IN_USE) for address in USED} | {(address, Verdict.FREE) for address in FREE}
        assert set(before.verdicts) == quiet
        assert before.scans == [{*USED}]
        arrived, asked = -heard_by(lan), 0
        flood = lan.enemy.flood(SECONDS, RATE, kind)
        while flood.poll() is None:
            assert owners(lan.printer, GIVEN) == {mac}
            asked += 1
        sent = int(flood.communicate()[0])
        arrived += heard_by(lan)
        pipe.send("stop")
        during: Report = receive(pipe)
        pipe.send("again")
        after: Report = receive(pipe)
        assert owners(lan.printer, GIVEN) == {mac}
    figures = {
        "sent": sent,
        "arrived": arrived,
        "asked": asked,
        "growth_kb": during.growth,
        "unknown": during.errors.total(),
    }
    for name, value in figures.items():
        record_property(name, value)
    with capsys.disabled():
        print(f"\nflood of {kind}: {figures}, verdicts {dict(Counter(v for _, v in during.verdicts.elements()))}")  # noqa: T201
    wrong = {(address, Verdict.FREE) for address in USED} | {(address, Verdict.IN_USE) for address in FREE}
    assert not wrong & set(during.verdicts)
    assert not {*USED, GIVEN, OWN} & set(during.found)
    assert [scan for scan in during.scans if not {*USED} <= scan] == []
    assert during.state is ClaimState.DEFENDING
    assert during.growth < MOST_GROWTH
    assert asked > 0
    assert arrived > sent // 2 > 0  # it did reach the host
    # When it is over, everything is as before, at once.
    assert (after.verdicts, after.found, after.scans) == (before.verdicts, before.found, before.scans)
    assert (after.errors, after.state) == (Counter(), ClaimState.DEFENDING)


# Malformed frames.


@dataclass
class Stand:
    """A claim on the wire, and the enemy with a raw socket and ears."""

    allocator: Allocator
    claim: Claim
    everything: Everything
    enemy: socket.socket
    local: socket.socket
    """Of another program on this host."""
    capture: Capture
    asked: int = 0

    @property
    def refused(self) -> Counter[arp.Refusal]:
        """What was no packet, by reason."""
        return self.allocator.loop.refused

    def offer(self, frames: Iterable[bytes], *, by: socket.socket | None = None) -> list[bytes]:
        """Send these; those that the kernel took (it sends no frame without a whole Ethernet header)."""
        taken, left = [], []
        for frame in frames:
            try:
                (by or self.enemy).send(frame)
            except OSError as error:
                left.append((len(frame), error.errno))
            else:
                taken.append(frame)
        assert [why for why in left if why[0] > HEADER or why[1] != errno.EINVAL] == []
        return taken

    def answers(self) -> None:
        """Return when the claim has answered a question that is asked now, after all that was sent before."""
        self.asked += 1
        asker = b"\x02\xbb" + self.asked.to_bytes(4, "big")
        self.enemy.send(arp.request(asker, number("172.16.42.99"), number(GIVEN)))
        answer = arp.ArpPacket(
            arp.REPLY,
            arp.mac_bytes(self.claim.mac),
            number(GIVEN),
            asker,
            number("172.16.42.99"),
            arp.mac_bytes(self.claim.mac),
            asker,
        )
        until(lambda: any(packet == answer for _, packet in self.capture.read()))
        assert self.claim.state in (ClaimState.ANNOUNCING, ClaimState.DEFENDING)
        assert self.claim.failure is None


@pytest.fixture(scope="module", params=[True, False], ids=["all of it heard", "only what is of interest"])
def stand(lan: Lan, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    state = tmp_path_factory.mktemp("state")
    everything = Everything()
    with lan.host.namespace.inside():
        allocator = Allocator(lan.host.bridge, state_dir=state, witnesses=[WITNESS])
        allocator.__enter__()
    try:
        claim = allocator.claim("web", GIVEN)
        job = allocator.loop.run(Run(everything)) if request.param else None
        with lan.enemy.namespace.inside():
            enemy = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with lan.host.namespace.inside():
            local = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        enemy.bind(("eth0", 0))
        local.bind((lan.host.bridge, 0))
        with enemy, local, lan.wire.capture() as capture:
            stand = Stand(allocator, claim, everything, enemy, local, capture)
            if job is not None:  # until it runs, the kernel keeps back what is of no interest
                unasked = arp.request(b"\x02" + bytes(5), number(FREE[0]), number(FREE[1]))
                until(lambda: stand.offer([unasked]) and everything.packets)
            yield stand
        if job is not None:
            everything.done = True
            allocator.loop.call(lambda: None).result()
            job.future.result(LONG)
        claim.release(quarantine=0)
    finally:
        allocator.__exit__(None, None, None)


def number(address: IPv4Address | str) -> int:
    return int(IPv4Address(address))


HEADER = 14
STRANGER = bytes.fromhex("02eeeeeeeeee")
QUESTION = arp.request(STRANGER, number("172.16.42.98"), number(GIVEN))
THEFT = arp.announcement(STRANGER, number(GIVEN))
"""Two of these would take the address, if only they were well-formed."""


def changed(frame: bytes, at: int, field: bytes) -> bytes:
    return frame[:at] + field + frame[at + len(field) :]


def tagged(frame: bytes, kind: int, tag: int) -> bytes:
    return frame[:12] + struct.pack("!HH", kind, tag) + frame[12:]


MALFORMED = {
    arp.Refusal.HARDWARE: [changed(THEFT, 14, struct.pack("!H", kind)) for kind in (0, 2, 6, 15, 32, 256, 65535)],
    arp.Refusal.PROTOCOL: [changed(THEFT, 16, struct.pack("!H", kind)) for kind in (0, 8, 0x0806, 0x86DD, 65535)],
    arp.Refusal.LENGTH: [
        changed(THEFT, 18, bytes(lengths)) for lengths in ((0, 0), (4, 6), (6, 0), (0, 4), (6, 16), (8, 4), (255, 255))
    ],
    arp.Refusal.OPERATION: [changed(THEFT, 20, struct.pack("!H", kind)) for kind in (0, 3, 4, 8, 9, 256, 512, 65535)],
}
TAGGED = [tagged(THEFT, kind, 7) for kind in (0x8100, 0x88A8, 0x9100)]


def test_frames_cut_at_any_length_leave_the_claim_as_it_is(stand: Stand) -> None:
    before = stand.refused[arp.Refusal.SHORT]
    cut = [frame[:length] for length in range(arp.FRAME_LENGTH) for frame in (QUESTION, THEFT)]
    for by in (stand.enemy, stand.local):
        assert {len(frame) for frame in stand.offer(cut, by=by)} >= set(range(HEADER + 1, arp.FRAME_LENGTH))
    stand.answers()
    if stand.allocator.loop._audience._interest is None:
        # A bridge itself passes on no ARP without the 8 bytes that say what kind it is.
        least = 2 * (arp.FRAME_LENGTH - HEADER - 8) + 2 * (arp.FRAME_LENGTH - HEADER - 1)
        assert stand.refused[arp.Refusal.SHORT] - before >= least
    assert [packet for packet in stand.everything.packets if packet.sender_mac == STRANGER] == []


@pytest.mark.parametrize("refusal", MALFORMED, ids=str)
def test_frames_with_a_wrong_field_leave_the_claim_as_it_is(stand: Stand, refusal: arp.Refusal) -> None:
    before = stand.refused[refusal]
    assert stand.offer(MALFORMED[refusal] * 2) == MALFORMED[refusal] * 2
    stand.answers()
    heard = stand.refused[refusal] - before
    # The kernel compares addresses alone: these are from and for the claimed one, and so come through to us.
    assert heard == 2 * len(MALFORMED[refusal])


def test_frames_of_another_vlan_leave_the_claim_as_it_is(stand: Stand) -> None:
    before = stand.refused.total()
    assert stand.offer(TAGGED * 2) == TAGGED * 2
    stand.answers()
    assert stand.refused.total() == before  # the kernel kept them back
    assert [packet for packet in stand.everything.packets if packet.sender_mac == STRANGER] == []


def harmless(frame: bytes) -> bool:
    """Whether it is no claim of the address that is well-formed: that would rightly be a conflict."""
    packet = arp.dissect(frame)
    return isinstance(packet, arp.Refusal) or packet.sender_ip != number(GIVEN)


# Bytes; bytes behind an Ethernet header that says ARP; ARP whose fields may be anything, and may be about the claim.
ADDRESSES = st.sampled_from([socket.inet_aton(GIVEN), socket.inet_aton(OWN), bytes(4)]) | st.binary(
    min_size=4, max_size=4
)
MACS = st.sampled_from([STRANGER, bytes(6), arp.BROADCAST]) | st.binary(min_size=6, max_size=6)
FRAMES = st.one_of(
    st.binary(min_size=HEADER + 1, max_size=200),
    st.binary(min_size=1, max_size=100).map(lambda body: arp.BROADCAST + STRANGER + b"\x08\x06" + body),
    st.builds(
        lambda kind, sender, at, target, to, more: THEFT[:14] + kind + sender + at + target + to + more,
        st.just(THEFT[14:22]) | st.binary(min_size=8, max_size=8),
        MACS,
        ADDRESSES,
        MACS,
        ADDRESSES,
        st.binary(max_size=60),
    ),
).filter(harmless)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
@given(frames=st.lists(FRAMES, min_size=1, max_size=60))
@example(frames=[frame for frames in MALFORMED.values() for frame in frames] + TAGGED)
def test_any_bytes_leave_the_claim_as_it_is(stand: Stand, frames: list[bytes]) -> None:
    stand.offer(frames)
    stand.answers()


def test_after_all_that_it_still_finds_and_claims(stand: Stand) -> None:
    [printer, given_] = stand.allocator.probe([PRINTER, GIVEN])
    assert (printer.verdict, given_.verdict, given_.mac) == (Verdict.IN_USE, Verdict.IN_USE, stand.claim.mac)
    with pytest.raises(ArpipamError, match=f"{PRINTER} is in use"):
        stand.allocator.claim("web", PRINTER)
    with stand.allocator.claim("db", FREE[0]) as another:
        stand.answers()
        another.release(quarantine=0)
