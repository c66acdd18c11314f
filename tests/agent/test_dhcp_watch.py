"""What a network makes of DHCP frames on its link."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from launcher.agent.edges import Edges
from launcher.agent.network import dhcp
from launcher.agent.network.dhcp import DhcpWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from arpipam.protocol.pool import Pool

SUBNET = IPv4Network("172.16.42.0/24")
SERVER = "172.16.42.2"


def offer(address: str, server: str = SERVER) -> bytes:
    options = [("message-type", "offer"), ("server_id", server), "end"]
    body = BOOTP(op=2, yiaddr=address) / DHCP(options=options)
    return bytes(Ether(dst="ff:ff:ff:ff:ff:ff") / IP(src=server) / UDP(sport=67, dport=68) / body)


class Bench:
    """A watch, what it told, and what it had let go."""

    def __init__(self, *, keeps_out: bool = False, **edges: Any) -> None:
        self.told: list[dict[str, str]] = []
        self.let_go: list[Pool] = []
        self.usual: dict[str, Any] = {"ranges": ("172.16.42.10-172.16.42.99",), "exclude": ()}
        self.keeps_out = keeps_out
        self.now = 0.0
        self.watch = DhcpWatch(
            SUBNET,
            usual=lambda: self.usual,
            keeps_out=lambda: self.keeps_out,
            let_go=self.let_go.append,
            tell=lambda kind, **said: self.told.append({"kind": kind, **said}),
            edges=Edges(monotonic=lambda: self.now, **edges),
        )

    def hear(self, *addresses: str, server: str = SERVER) -> None:
        for address in addresses:
            self.watch.frame(offer(address, server))


def test_a_server_outside_of_the_pool_is_shown_and_nothing_more() -> None:
    bench = Bench()
    bench.hear("172.16.42.200", "172.16.42.120")
    assert list(map(str, bench.watch.servers)) == ["172.16.42.2 gives out 172.16.42.120-172.16.42.200"]
    assert (bench.watch.warnings(), bench.told, bench.watch.excluded()) == ((), [], ())


def test_a_server_that_gives_out_an_address_of_the_pool_is_warned_of_once_an_hour() -> None:
    bench = Bench()
    bench.hear("172.16.42.10", "172.16.42.30", "172.16.42.20")
    [warning] = bench.watch.warnings()
    assert warning == (
        "DHCP server 172.16.42.2 gives out 172.16.42.10-172.16.42.30, and 172.16.42.30 is in this pool: take a pool "
        'outside of its range, for example with --ip-range, or keep out of what it gives out with exclude = "dhcp"'
    )
    assert [(said["kind"], said["address"]) for said in bench.told] == [("dhcp", "172.16.42.10")]
    bench.now = dhcp.TELL_AGAIN + 1
    bench.hear("172.16.42.20")  # nothing new
    assert len(bench.told) == 1
    bench.hear("172.16.42.31")
    assert len(bench.told) == 2


def test_what_is_excluded_anyway_is_not_warned_of() -> None:
    bench = Bench()
    bench.usual["exclude"] = ("172.16.42.10-172.16.42.50",)
    bench.hear("172.16.42.10")
    assert bench.watch.warnings() == ()


def test_a_pool_without_addresses_is_not_warned_of() -> None:
    bench = Bench()
    bench.usual["exclude"] = ("172.16.42.0/24",)
    bench.hear("172.16.42.10")
    assert bench.watch.warnings() == ()


def test_where_dhcp_is_excluded_all_between_the_lowest_and_the_highest_is_kept_out_of_and_let_go() -> None:
    bench = Bench(keeps_out=True)
    bench.hear("172.16.42.10", "172.16.42.12")
    assert bench.watch.excluded() == ("172.16.42.10-172.16.42.12",)
    assert [int(IPv4Address("172.16.42.11")) in pool for pool in bench.let_go] == [False, True]
    assert bench.watch.warnings() == ()
    [said] = bench.told
    assert said["text"].endswith("; none of these is given out here")


def test_dhcp_may_be_excluded_later() -> None:
    bench = Bench()
    bench.hear("172.16.42.10")
    bench.watch.keep_out()
    assert bench.let_go == []
    bench.keeps_out = True
    bench.watch.keep_out()
    assert len(bench.let_go) == 1


def test_another_subnet_is_none_of_ours() -> None:
    bench = Bench()
    bench.hear("10.0.0.10")
    assert bench.watch.servers == []


def test_servers_without_end_take_no_memory_without_end() -> None:
    bench = Bench()
    for number in range(1000):
        bench.hear("172.16.42.10", server=f"10.0.{number // 256}.{number % 256}")
    assert [str(server.address) for server in bench.watch.servers] == [f"10.0.3.{n}" for n in range(224, 232)]


def test_malformed_frames_are_counted_and_others_are_not() -> None:
    bench = Bench()
    frames = [offer("172.16.42.10")[:200], os.urandom(10), bytes(100)]
    for frame in frames:
        bench.watch.frame(frame)
    assert bench.watch.malformed == 2
    rng = random.Random(1)
    for _ in range(2000):
        hostile = bytearray(offer("172.16.42.10"))
        for _ in range(8):
            hostile[rng.randrange(14, len(hostile))] = rng.randrange(256)
        bench.watch.frame(bytes(hostile))
    assert len(bench.watch.servers) <= dhcp.MOST_SERVERS


class Frames:
    """A socket with frames; something to read wakes it."""

    def __init__(self, _: str) -> None:
        self.waiting: list[bytes] = []
        self._read, self._write = os.pipe()
        self.closed = False

    def put(self, *frames: bytes) -> None:
        self.waiting += frames
        os.write(self._write, b"!")

    def fileno(self) -> int:
        return self._read

    def receive(self, most: int) -> list[bytes]:
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        if not self.waiting:
            os.read(self._read, 100)
        return taken

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)
        self.closed = True


@asynccontextmanager
async def open_bench() -> AsyncIterator[tuple[Bench, Frames]]:
    sockets: list[Frames] = []

    def make(interface: str) -> Frames:
        sockets.append(Frames(interface))
        return sockets[-1]

    bench = Bench(hear_dhcp=make)
    bench.watch.open("br0")
    yield bench, sockets[-1]
    bench.watch.close()
    assert all(sock.closed for sock in sockets)


async def soon(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - whatever a test waits for
            await asyncio.sleep(0.005)


def test_what_arrives_is_read_until_the_link_is_gone() -> None:
    async def main() -> None:
        async with open_bench() as (bench, sock):
            sock.put(offer("172.16.42.10"))
            await soon(lambda: bench.watch.servers)
            bench.watch.open("br0")  # it is back
            assert sock.closed

    asyncio.run(main())


def test_of_a_flood_so_many_are_read_in_a_second() -> None:
    async def main() -> None:
        async with open_bench() as (bench, sock):
            sock.put(*[offer("172.16.42.10")] * (dhcp.MOST_FRAMES + 10))
            await soon(lambda: len(sock.waiting) == 10)
            await asyncio.sleep(0.2)
            assert len(sock.waiting) == 10
            bench.now = 1.5
            await soon(lambda: not sock.waiting)

    asyncio.run(main())


def test_a_link_that_is_too_busy_is_heard_again_when_it_is_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dhcp, "LOOK", 0.01)
    sockets: list[Frames] = []
    frames = [0]

    def make(interface: str) -> Frames:
        sockets.append(Frames(interface))
        return sockets[-1]

    async def main() -> None:
        bench = Bench(hear_dhcp=make, received=lambda _: frames[0])
        bench.watch.open("br0")
        await asyncio.sleep(0.05)
        assert [sock.closed for sock in sockets] == [False]
        frames[0] += int(2 * dhcp.BUSY * dhcp.LOOK)
        await soon(lambda: sockets[0].closed)
        await soon(lambda: len(sockets) > 1)
        assert not sockets[-1].closed
        bench.watch.close()
        assert all(sock.closed for sock in sockets)

    asyncio.run(main())


def test_an_interface_that_is_gone_is_no_fault_of_dhcp() -> None:
    def gone(_: str) -> Any:
        raise OSError

    async def main() -> None:
        bench = Bench(hear_dhcp=gone)
        bench.watch.open("br0")
        bench.watch.close()

    asyncio.run(main())
