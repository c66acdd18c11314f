"""The link on real interfaces at work: what is heard, how it waits, and what it says when it fails."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from arpipam.errors import InputError, LinkError
from arpipam.link.socket import MOST_AT_ONCE
from arpipam.protocol import arp
from tests.support.link_spaces import FOREIGN, LONG, NEEDS_ROOT, OWN_NAMESPACE, Space, hear, number, probe, tagged

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = NEEDS_ROOT


def batched(frames: list[bytes]) -> Iterator[list[bytes]]:
    for at in range(0, len(frames), MOST_AT_ONCE):
        yield frames[at : at + MOST_AT_ONCE]


# What is heard.


@pytest.mark.usefixtures("bridged")
def test_a_probe_under_a_foreign_mac_gets_its_answer(here: Space) -> None:
    with here.open("br0") as br0:
        assert br0.send([probe("10.7.0.2")])
        end = time.monotonic() + LONG
        answers: list[arp.ArpPacket | arp.Refusal] = []
        while not answers and time.monotonic() < end:
            br0.wait(0.1)
            answers = [arp.dissect(frame) for frame in br0.receive()]
    [answer] = answers
    assert isinstance(answer, arp.ArpPacket)
    assert (answer.operation, answer.sender_ip, answer.destination) == (arp.REPLY, number("10.7.0.2"), FOREIGN)


@pytest.mark.usefixtures("bridged")
def test_hears_other_programs_of_this_host_but_never_itself(here: Space) -> None:
    with here.open("br0") as br0, here.open("br0") as another:
        assert br0.send([probe("10.7.0.8")])
        assert another.send([probe("10.7.0.9")])
        assert hear(br0, until=probe("10.7.0.9")) == [probe("10.7.0.9")]
        assert hear(another, until=probe("10.7.0.8")) == [probe("10.7.0.8")]


@pytest.mark.usefixtures("wire")
def test_hears_arp_without_a_vlan_alone(here: Space, there: Space) -> None:
    priority = tagged(probe("10.7.0.11"), 5 << 13)
    unheard = [
        FOREIGN + FOREIGN + b"\x08\x00" + bytes(40),
        arp.BROADCAST + FOREIGN + b"\x08\x06"[::-1] + bytes(40),
        arp.BROADCAST + FOREIGN + b"\x00\x10" + bytes(16),
        tagged(probe("10.7.0.12"), 7),
        tagged(probe("10.7.0.13"), 5 << 13 | 4094),
    ]
    with there.open("far"), here.open("near") as near, there.socket("far") as far, here.socket("near") as local:
        for sock in (far, local):  # what arrives, and what another program of this host sends
            for frame in [*unheard, probe("10.7.0.10")]:
                sock.send(frame)
            assert hear(near, until=probe("10.7.0.10")) == [probe("10.7.0.10")]
        far.send(priority)
        assert hear(near, until=probe("10.7.0.11")) == [probe("10.7.0.11")]  # VLAN 0 is no VLAN


@pytest.mark.usefixtures("wire")
def test_nothing_gets_past_the_filter_while_the_link_opens(here: Space, there: Space) -> None:
    stop = threading.Event()

    def flood(sock: socket.socket) -> None:
        while not stop.is_set():
            sock.send(FOREIGN + FOREIGN + b"\x08\x00" + bytes(40))

    with there.socket("far") as far:
        thread = threading.Thread(target=flood, args=(far,))
        thread.start()
        try:
            for _ in range(20):
                with here.open("near") as near:
                    assert near.receive() == []
        finally:
            stop.set()
            thread.join()


@pytest.mark.usefixtures("wire")
def test_counts_what_the_kernel_dropped(here: Space, there: Space) -> None:
    frames = [arp.probe(FOREIGN, address) for address in range(2000)]
    with here.open("near") as near, there.open("far") as far:
        near._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        assert sum(far.send(some) for some in batched(frames)) == len(frames)
        heard = near.receive()
        assert 0 < len(heard) < len(frames)
        assert near.drops() == len(frames) - len(heard)
        assert near.drops() == 0
        assert far.send([probe()])
        assert hear(near, until=probe()) == [probe()]
        assert near.drops() == 0


@pytest.mark.usefixtures("wire")
def test_a_sweep_of_65536_arrives_whole(here: Space, there: Space) -> None:
    frames = [arp.probe(FOREIGN, address) for address in range(65536)]
    with here.open("near") as near, there.open("far") as far:
        assert sum(near.send(some) for some in batched(frames)) == len(frames)
        heard: list[bytes] = []
        while batch := far.receive(1000):
            assert len(batch) <= 1000
            heard += batch
        assert [frame for frame in heard if frame[6:12] == FOREIGN] == frames
        assert far.drops() == 0


# Waiting.


@pytest.mark.usefixtures("wire")
def test_waits_for_a_frame_a_byte_or_the_time(here: Space, there: Space) -> None:
    first, second = os.pipe(), os.pipe()
    with here.open("near") as near, there.open("far") as far:
        for timeout in (0.0, -1.0, 0.02):
            near.wait(timeout)  # below 0 is long past, and not for ever
        assert near.receive() == []
        assert far.send([probe()])
        near.wait(None)
        assert near.receive() == [probe()]
        for read, write in (first, second, first):
            os.write(write, b"!")
            near.wait(None, read)
            os.read(read, 1)
        os.write(first[1], b"!")
        near.wait(0.02, second[0])  # the one that it was woken by before does not count any more
        started = near.now()
        near.wait(0.05, second[0])
        assert near.now() - started >= 0.05
    for fd in (*first, *second):
        os.close(fd)


@pytest.mark.usefixtures("wire")
def test_a_signal_does_not_end_the_wait(here: Space, there: Space) -> None:
    seen = 0
    with here.open("near") as near, there.open("far") as far:

        def handle(*_: object) -> None:
            nonlocal seen
            seen += 1
            if seen == 5:
                far.send([probe()])

        before = signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        try:
            near.wait(LONG)
            frames = near.receive()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert frames == [probe()]
    assert seen >= 5


# Trouble at work.


@pytest.mark.usefixtures("wire")
def test_a_frame_without_room_is_not_sent_and_the_link_goes_on(here: Space, there: Space) -> None:
    here.run("tc", "qdisc", "add", "dev", "near", "root", "tbf", "rate", "8bit", "burst", "100", "limit", "100")
    with here.open("near") as near, there.socket("far", 0x0806) as far:
        frames = [arp.probe(FOREIGN, address) for address in range(20)]
        assert 0 < near.send(frames) < len(frames)
        assert near.send(frames) == 0
        here.run("tc", "qdisc", "del", "dev", "near", "root")
        assert near.send([probe()])
        far.recv(128)


@pytest.mark.usefixtures("wire")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("link set near down", "near is down; bring it up: ip link set near up"),
        ("link del near", "near is gone"),
        ("link set near netns {there}", "near is gone"),
    ],
)
def test_a_link_that_goes_away(here: Space, there: Space, command: str, said: str) -> None:
    with here.open("near") as near, here.open("near") as another:
        here.ip(command.format(there=there.name))
        near.wait(LONG)
        with pytest.raises(LinkError, match=said):
            near.receive()
        with pytest.raises(LinkError, match=said):
            another.send([probe()])
        with pytest.raises(LinkError, match=said):
            near.send([probe()])


@pytest.mark.usefixtures("bridged")
def test_leaves_nothing_behind(here: Space) -> None:
    def promiscuous() -> int:
        with here.entered(), IPRoute() as ipr:
            return int(ipr.get_links(ifname="br0")[0].get("promiscuity"))

    def ours() -> tuple[set[str], int, int]:
        files = {fd.name for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
        return files, threading.active_count(), OWN_NAMESPACE.stat().st_ino

    before = ours()
    with here.open("br0") as br0, here.entered():
        assert promiscuous() == 1
        inside = OWN_NAMESPACE.stat().st_ino
        assert br0.plainly_alone()
        assert OWN_NAMESPACE.stat().st_ino == inside
    br0.close()
    with pytest.raises(InputError):
        here.open("none")
    here.ip("link set br0 down")
    with pytest.raises(LinkError):
        here.open("br0")
    assert promiscuous() == 0
    assert ours() == before
