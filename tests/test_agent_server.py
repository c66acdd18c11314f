"""The agent's socket, with real connections; the agent behind it gives what the test says."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, ClientTimeout, UnixConnector

from arpipam.claim import QUARANTINE, ClaimState
from arpipam.errors import AddressInUseError, InputError, LeaseError, LinkError, PoolExhaustedError, UnknownError
from launcher.agent import answers, claim_api, server, stream
from launcher.agent.listen import PathSocket, passed_fds
from launcher.agent.server import Server
from launcher.agent.views import Event, LeaseView, NetworkView, StationView, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from launcher.agent.docker_ipam import AddressRequest, PoolRequest
    from launcher.agent.lent import ClaimWish

MAC = "02:42:24:df:a3:04"
POOL = "docker0/10.1.0.0/24"
ADDRESS = {"PoolID": POOL, "Address": "", "Options": {"com.docker.network.endpoint.macaddress": MAC}}
WISH = {"interface": "docker0", "owner": "web-1"}
VIEW = NetworkView(POOL, "docker0", "10.1.0.0/24", "up", "", (), 200, 4, 4, 1, "defend")
LEASE = LeaseView("docker0", "10.1.0.11", 24, MAC, "web-1", "bound", "c1", 1.0, "container", "")
TIMEOUT = ClientTimeout(total=20)


class FakeClaim:
    def __init__(self, lease_id: int) -> None:
        self.address = IPv4Address("10.1.0.20")
        self.prefix = 24
        self.mac = MAC
        self.lease_id = lease_id
        self.state = ClaimState.ANNOUNCING
        self.elapsed = 0.25
        self.conflict: str | None = None
        self.failure: Exception | None = None
        self.done: list[Any] = []
        self.binding = asyncio.Event()
        self.binding.set()
        self.error: Exception | None = None
        self._listeners: list[Callable[[ClaimState], None]] = []

    def on_change(self, listener: Callable[[ClaimState], None]) -> None:
        self._listeners.append(listener)

    def become(self, state: ClaimState) -> None:
        self.state = state
        for listener in self._listeners:
            listener(state)

    async def bind(self, container: str) -> None:
        await self.binding.wait()
        self._note("bind", container)

    async def announce(self) -> None:
        self._note("announce")

    async def handed_over(self) -> None:
        self._note("handed over")

    async def release(self, quarantine: float) -> None:
        self._note("release", quarantine)
        self.become(ClaimState.RELEASED)

    def _note(self, *what: Any) -> None:
        self.done.append(what)
        if self.error is not None:
            raise self.error


class FakeAgent:
    """`pause` holds requests of addresses and claims up until it is set."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.given_back: list[Any] = []
        self.cancelled = 0
        self.most = 0
        self.now = 0
        self.pause = asyncio.Event()
        self.pause.set()
        self.error: Exception | None = None
        self.claims: list[FakeClaim] = []
        self.news: list[asyncio.Queue[Event]] = []
        self.past = [Event(1.0, "claimed", address="10.1.0.11")]

    def was_cancelled(self, times: int) -> bool:
        return self.cancelled == times

    async def _wait(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.pause.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1
        if self.error is not None:
            raise self.error

    async def activate(self) -> None:
        self.asked.append("activate")

    async def request_pool(self, request: PoolRequest) -> tuple[str, IPv4Network]:
        self.asked.append(request)
        return POOL, request.subnet

    async def release_pool(self, pool: str) -> None:
        self.asked.append(pool)

    async def request_address(self, request: AddressRequest) -> IPv4Interface:
        self.asked.append(request)
        await self._wait()
        return IPv4Interface("10.1.0.11/24")

    async def release_address(self, pool: str, address: IPv4Address) -> None:
        self.given_back.append((pool, str(address)))

    def status(self) -> Status:
        return Status("0.1.0", 7, 1.0, "Docker 20.10", (VIEW,))

    def leases(self) -> list[LeaseView]:
        if self.error is not None:
            raise self.error
        return [LEASE]

    def stations(self) -> list[StationView]:
        return [StationView("docker0", "10.1.0.1", MAC, 1.0, 2.0)]

    async def events(self, *, recent: bool = False) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self.news.append(queue)
        try:
            for event in self.past if recent else ():
                yield event
            while True:
                yield await queue.get()
        finally:
            self.news.remove(queue)

    async def claim(self, wish: ClaimWish) -> FakeClaim:
        self.asked.append(wish)
        await self._wait()
        self.claims.append(FakeClaim(len(self.claims) + 1))
        return self.claims[-1]


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[tuple[FakeAgent, ClientSession]]:
    """A server at the path, and a client; its stop takes no more than a second, whatever goes on."""
    agent = FakeAgent()
    served = Server(agent, path)
    await served.start()
    try:
        async with calling(path) as client:
            yield agent, client
            await stopped(served)
    finally:
        await served.stop()


@asynccontextmanager
async def calling(path: Path) -> AsyncIterator[ClientSession]:
    async with ClientSession(
        "http://agent", connector=UnixConnector(str(path), limit=0), timeout=TIMEOUT, skip_auto_headers=["Content-Type"]
    ) as client:
        yield client


async def stopped(served: Server) -> None:
    began = time.monotonic()
    await served.stop()
    assert time.monotonic() - began < 1.0


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - whatever a test waits for
            await asyncio.sleep(0.005)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test, debug=False)


async def docker(client: ClientSession, method: str, arguments: Any = None) -> tuple[int, dict[str, Any]]:
    """As an engine asks: no Content-Type, and no body where there are no arguments."""
    data = None if arguments is None else json.dumps(arguments).encode()
    async with client.post(f"/{method}", data=data) as response:
        assert response.content_type == "application/vnd.docker.plugins.v1.1+json"
        return response.status, await response.json(content_type=None)


def refused(answer: tuple[int, dict[str, Any]], status: int) -> str:
    assert answer[0] == status
    assert answer[1]["Err"] == answer[1]["Error"]
    return one_line(answer[1]["Err"])


def one_line(text: str) -> str:
    assert text.splitlines() == [text]
    return text


async def refusal(client: ClientSession, method: str, path: str, status: int, **more: Any) -> tuple[str, int]:
    """The one line and the exit status of an error of the agent's own API."""
    async with client.request(method, path, **more) as response:
        assert response.status == status, await response.text()
        said = await response.json()
    assert set(said) == {"error", "exit_status"}
    return one_line(said["error"]), said["exit_status"]


async def line(response: Any) -> Any:
    read = await asyncio.wait_for(response.content.readline(), 10)
    return json.loads(read) if read else None


# Docker's part.


def test_what_an_engine_sends_is_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            assert await docker(client, "Plugin.Activate") == (200, {"Implements": ["IpamDriver"]})
            status, capabilities = await docker(client, "IpamDriver.GetCapabilities")
            assert (status, capabilities["RequiresMACAddress"]) == (200, True)
            assert (await docker(client, "IpamDriver.GetDefaultAddressSpaces"))[0] == 200
            pool = {"AddressSpace": "arpipam-local", "Pool": "10.1.0.0/24", "SubPool": "", "Options": {}, "V6": False}
            assert (await docker(client, "IpamDriver.RequestPool", pool))[1]["PoolID"] == POOL
            assert await docker(client, "IpamDriver.RequestAddress", ADDRESS) == (
                200,
                {"Address": "10.1.0.11/24", "Data": {}},
            )
            assert await docker(client, "IpamDriver.ReleaseAddress", {"PoolID": POOL, "Address": "10.1.0.11"}) == (
                200,
                {},
            )
            assert await docker(client, "IpamDriver.ReleasePool", {"PoolID": POOL}) == (200, {})
            assert agent.given_back == [(POOL, "10.1.0.11")]

    run(test())


def test_errors_for_an_engine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            for error, status in ((AddressInUseError("is in\nuse"), 400), (UnknownError("host2 is silent"), 500)):
                agent.error = error
                got = await docker(client, "IpamDriver.RequestAddress", ADDRESS)
                assert refused(got, status) == " ".join(str(error).split())
            agent.error = RuntimeError("secret")
            assert "RuntimeError" in refused(await docker(client, "IpamDriver.RequestAddress", ADDRESS), 500)
            # An engine that tries again after its connection broke has no body left.
            assert "without its body" in refused(await docker(client, "IpamDriver.RequestAddress"), 400)
            assert "no method" in refused(await docker(client, "NetworkDriver.Join", {}), 404)
            large = refused(await docker(client, "IpamDriver.RequestPool", {"Pool": "1" * 70000}), 413)
            assert large == "the request's body is larger than 65536 bytes"
            assert "Method Not Allowed" in await wrong_method(client)

    run(test())
    assert "secret" in caplog.text


async def wrong_method(client: ClientSession) -> str:
    async with client.get("/IpamDriver.RequestPool") as response:
        return refused((response.status, await response.json(content_type=None)), 405)


def test_a_hang_up_cancels_the_request(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            agent.pause.clear()
            for times in (1, 2):
                task = asyncio.create_task(docker(client, "IpamDriver.RequestAddress", ADDRESS))
                await until(lambda: agent.now)
                task.cancel()  # aiohttp's client closes the connection
                with suppress(asyncio.CancelledError):
                    await task
                await until(partial(agent.was_cancelled, times))
            assert agent.given_back == []  # that is the agent's matter: it was never answered
            agent.pause.set()
            assert (await docker(client, "IpamDriver.RequestAddress", ADDRESS))[0] == 200

    run(test())


@pytest.mark.parametrize("turns", range(8))
def test_an_address_whose_asker_is_gone_is_taken_back(tmp_path: Path, turns: int) -> None:
    """It hangs up at the very moment at which the address is there, so many turns of the loop before."""

    async def test() -> None:
        path = tmp_path / "s"
        async with serving(path) as (agent, _):

            async def too_late(request: AddressRequest) -> IPv4Interface:  # noqa: ARG001 - as the protocol has it
                connection.close()
                try:
                    for _ in range(turns):
                        await asyncio.sleep(0)
                except asyncio.CancelledError:
                    agent.cancelled += 1
                    raise
                return IPv4Interface("10.1.0.11/24")

            agent.request_address = too_late  # type: ignore[method-assign]
            body = json.dumps(ADDRESS)
            head = f"POST /IpamDriver.RequestAddress HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(path))
            connection.sendall((head + body).encode())
            await until(lambda: agent.given_back or agent.cancelled)
            await asyncio.sleep(0.05)
            assert agent.given_back == ([] if agent.cancelled else [(POOL, "10.1.0.11")])

    run(test())


def test_more_at_once_wait_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_AT_ONCE", 3)

    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            agent.pause.clear()
            tasks = [asyncio.create_task(docker(client, "IpamDriver.RequestAddress", ADDRESS)) for _ in range(10)]
            await until(lambda: agent.now == 3)
            async with client.get("/arpipam/status") as response:
                assert response.status == 200  # one looks why
            await asyncio.sleep(0.05)
            assert agent.now == 3
            agent.pause.set()
            assert [status for status, _ in await asyncio.gather(*tasks)] == [200] * 10
            assert agent.most == 3

    run(test())


def test_a_stop_answers_those_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks would be tried again without a body; an answer is shown."""
    monkeypatch.setattr(server, "MOST_AT_ONCE", 1)

    async def test() -> None:
        agent = FakeAgent()
        served = Server(agent, tmp_path / "s")
        await served.start()
        async with calling(tmp_path / "s") as client:
            agent.pause.clear()
            tasks = [asyncio.create_task(docker(client, "IpamDriver.RequestAddress", ADDRESS)) for _ in range(2)]
            await until(lambda: agent.now)
            await asyncio.sleep(0.05)
            await stopped(served)
            for answer in await asyncio.gather(*tasks):
                assert refused(answer, 503) == answers.STOPPING
            assert agent.cancelled == 1

    run(test())


def test_an_agent_that_does_not_let_go_delays_no_stop(tmp_path: Path) -> None:
    async def test() -> None:
        agent, free = FakeAgent(), asyncio.Event()

        async def stubborn(request: AddressRequest) -> IPv4Interface:  # noqa: ARG001 - as the protocol has it
            agent.now = 1
            while not free.is_set():
                with suppress(asyncio.CancelledError):
                    await free.wait()
            return IPv4Interface("10.1.0.11/24")

        agent.request_address = stubborn  # type: ignore[method-assign]
        served = Server(agent, tmp_path / "s")
        await served.start()
        async with calling(tmp_path / "s") as client:
            task = asyncio.create_task(docker(client, "IpamDriver.RequestAddress", ADDRESS))
            await until(lambda: agent.now)
            await stopped(served)
            free.set()
            with suppress(Exception):
                await task

    run(test())


# What is looked at.


def test_views(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (_, client):
            async with client.get("/arpipam/status") as response:
                status = await response.json()
            assert (status["version"], status["networks"][0]["subnet"]) == ("0.1.0", "10.1.0.0/24")
            async with client.get("/arpipam/leases") as response:
                assert [lease["address"] for lease in await response.json()] == ["10.1.0.11"]
            async with client.get("/arpipam/stations") as response:
                assert [station["mac"] for station in await response.json()] == [MAC]

    run(test())


def test_errors_of_the_agents_own_api(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            assert await refusal(client, "GET", "/arpipam/novelty", 404) == ("nothing is at /arpipam/novelty", 2)
            assert (await refusal(client, "GET", "/arpipam/claims", 405))[1] == 2
            assert (await refusal(client, "POST", "/arpipam/status", 405))[1] == 2
            assert await refusal(client, "POST", "/arpipam/claims/7/bind", 404, json={"container": "c1"}) == (
                "claim 7 is held for no caller: it was released, or its connection is closed",
                2,
            )
            assert (await refusal(client, "POST", f"/arpipam/claims/{'9' * 30}/bind", 404))[1] == 2
            assert (await refusal(client, "POST", "/arpipam/claims", 413, data=b"x" * 70000))[1] == 2
            assert (await refusal(client, "GET", "/arpipam/events?recent=yes", 400)) == (
                "recent='yes': 0 or 1 is needed",
                2,
            )
            agent.error = LeaseError("the store\nis gone")
            assert await refusal(client, "GET", "/arpipam/leases", 500) == ("the store is gone", 3)
            agent.error = RuntimeError("secret")
            text, status = await refusal(client, "GET", "/arpipam/leases", 500)
            assert ("RuntimeError" in text, "secret" in text, status) == (True, False, 3)

    run(test())
    assert "secret" in caplog.text


def test_events(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            async with client.get("/arpipam/events?recent=1") as late, client.get("/arpipam/events") as new:
                assert late.content_type == "application/x-ndjson"
                assert (await line(late))["kind"] == "claimed"
                await until(lambda: len(agent.news) == 2)
                for queue in agent.news:
                    queue.put_nowait(Event(2.0, "conflict", other=MAC))
                assert (await line(late))["other"] == MAC
                assert (await line(new))["kind"] == "conflict"
            await until(lambda: not agent.news)  # who is gone is not written to

    run(test())


def test_streams_end_properly_at_a_stop(tmp_path: Path) -> None:
    async def test() -> None:
        agent = FakeAgent()
        served = Server(agent, tmp_path / "s")
        await served.start()
        async with calling(tmp_path / "s") as client:
            async with (
                client.get("/arpipam/events?recent=1") as events,
                client.post("/arpipam/claims", json=WISH) as claim,
            ):
                assert (await line(claim))["lease"] == 1
                await stopped(served)
                assert (await line(events))["kind"] == "claimed"
                assert await line(events) is None  # an end, and no broken connection
                assert await line(claim) is None
            assert agent.claims[0].done == [("release", QUARANTINE)]
            assert agent.news == []

    run(test())


def test_a_reader_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    async def test() -> None:
        path = tmp_path / "s"
        async with serving(path) as (agent, _):
            with socket.socket(socket.AF_UNIX) as sleeper:
                sleeper.connect(str(path))
                sleeper.sendall(b"GET /arpipam/events HTTP/1.1\r\nHost: x\r\n\r\n")
                await until(lambda: agent.news)
                sent = 0
                async with asyncio.timeout(20):
                    while agent.news:
                        agent.news[0].put_nowait(Event(2.0, "conflict", text="x" * 500))
                        sent += 1
                        await asyncio.sleep(0)
                # What the kernel and the transport take in, and what may wait; not more.
                assert stream.MOST_WAITING < sent < 2 * stream.MOST_WAITING

    run(test())


def test_a_slow_reader_misses_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client), client.get("/arpipam/events") as response:
            await until(lambda: agent.news)
            for number in range(stream.MOST_WAITING - 100):
                agent.news[0].put_nowait(Event(float(number), "conflict", text="x" * 500))
            await asyncio.sleep(0.2)
            for number in range(stream.MOST_WAITING - 100):
                assert (await line(response))["at"] == number

    run(test())


def test_readers_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_READERS", 1)

    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            async with client.get("/arpipam/events"):
                await until(lambda: agent.news)
                assert (await refusal(client, "GET", "/arpipam/events", 503))[1] == 3
            await until(lambda: not agent.news)
            async with client.get("/arpipam/events?recent=1") as response:
                assert await line(response)

    run(test())


def test_events_that_break_end_the_stream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(*, recent: bool = False) -> AsyncIterator[Event]:
        yield Event(1.0, f"recent {recent}")
        raise RuntimeError("secret")

    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            agent.events = broken  # type: ignore[method-assign]
            async with client.get("/arpipam/events") as response:
                assert (await line(response))["kind"] == "recent False"
                assert await line(response) is None

    run(test())
    assert "secret" in caplog.text


# Claims of other programs.


def test_a_claim_from_its_wish_to_its_hand_over(tmp_path: Path) -> None:
    full = {
        "subnet": "10.1.0.0/24",
        "address": "10.1.0.20",
        "mac": "02-42-24-DF-A3-04",
        "exclude": ["10.1.0.1-10.1.0.9"],
        "ranges": ["10.1.0.0-10.1.0.99"],
        "witnesses": ["10.1.0.1"],
        "order": "sticky",
        "timing": "lan",
        "alone": True,
        "miss_probability": 1e-9,
    }

    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client), client.post("/arpipam/claims", json=WISH | full) as said:
            assert said.status == 200
            assert await line(said) == {
                "lease": 1,
                "address": "10.1.0.20",
                "prefix": 24,
                "mac": MAC,
                "state": "announcing",
                "elapsed_ms": 250.0,
            }
            [wish], [claim] = agent.asked, agent.claims
            assert (wish.mac, wish.order, wish.exclude) == (MAC, "sticky", ("10.1.0.1-10.1.0.9",))
            for what, body in (
                ("bind", {"container": "c1"}),
                ("announce", {}),
                ("handed_over", None),  # no body at all will do
                ("release", {"quarantine": 5}),
            ):
                async with client.post(f"/arpipam/claims/1/{what}", json=body) as response:
                    assert (response.status, await response.json()) == (200, {})
                if what == "announce":
                    claim.become(ClaimState.DEFENDING)
                    assert await line(said) == {"state": "defending"}
            assert claim.done == [("bind", "c1"), ("announce",), ("handed over",), ("release", 5)]
            assert await line(said) == {"state": "released"}
            assert (await refusal(client, "POST", "/arpipam/claims/1/announce", 404))[1] == 2
        assert len(claim.done) == 4

    run(test())


@pytest.mark.parametrize("released", [True, False])
def test_a_claim_without_a_caller(tmp_path: Path, *, released: bool) -> None:
    """Bound it stays, else it is released."""

    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            async with client.post("/arpipam/claims", json=WISH) as said:
                await line(said)
                if not released:
                    async with client.post("/arpipam/claims/1/bind", json={"container": "c1"}) as response:
                        assert response.status == 200
            [claim] = agent.claims
            if released:
                await until(lambda: claim.done)
            await asyncio.sleep(0.05)
            assert claim.done == [("release", QUARANTINE)] if released else [("bind", "c1")]
            assert (await refusal(client, "POST", "/arpipam/claims/1/announce", 404))[1] == 2

    run(test())


def test_a_caller_that_hangs_up_in_the_midst_of_its_bind(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            async with client.post("/arpipam/claims", json=WISH) as said:
                await line(said)
                [claim] = agent.claims
                claim.binding.clear()
                task = asyncio.create_task(client.post("/arpipam/claims/1/bind", json={"container": "c1"}))
                await asyncio.sleep(0.05)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await asyncio.sleep(0.05)
            assert claim.done == []
            claim.binding.set()
            await until(lambda: claim.done)
            await asyncio.sleep(0.05)
            assert claim.done == [("bind", "c1")]  # begun, so done, and then it stays

    run(test())


def test_a_caller_that_hangs_up_while_an_address_is_looked_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            agent.pause.clear()
            task = asyncio.create_task(client.post("/arpipam/claims", json=WISH))
            await until(lambda: agent.now)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await until(lambda: agent.cancelled)
            assert agent.claims == []

    run(test())


def test_what_becomes_of_a_claim_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client), client.post("/arpipam/claims", json=WISH) as said:
            await line(said)
            [claim] = agent.claims
            claim.conflict = "02:00:00:00:00:01"
            claim.become(ClaimState.CONFLICT)
            assert await line(said) == {"state": "conflict", "conflict": "02:00:00:00:00:01"}
            claim.conflict, claim.failure = None, LinkError("docker0\nis down")
            claim.become(ClaimState.LINK_LOST)
            assert await line(said) == {"state": "link lost", "failure": "docker0 is down"}

    run(test())


@pytest.mark.parametrize(
    ("error", "status", "exit_status"),
    [
        (InputError("no such interface"), 400, 2),
        (AddressInUseError("in use"), 409, 1),
        (PoolExhaustedError("nothing left"), 409, 1),
        (UnknownError("host2 is silent"), 500, 3),
    ],
)
def test_a_claim_that_is_refused(tmp_path: Path, error: Exception, status: int, exit_status: int) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            agent.error = error
            said = await refusal(client, "POST", "/arpipam/claims", status, json=WISH)
            assert said == (str(error), exit_status)

    run(test())


def test_an_act_that_is_refused_leaves_the_claim(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            async with client.post("/arpipam/claims", json=WISH) as said:
                await line(said)
                [claim] = agent.claims
                claim.error = LeaseError("disk full")
                said_no = await refusal(client, "POST", "/arpipam/claims/1/bind", 500, json={"container": "c1"})
                assert said_no == ("disk full", 3)
                claim.error = None
            await until(lambda: len(claim.done) == 2)
            assert claim.done[1] == ("release", QUARANTINE)

    run(test())


@pytest.mark.parametrize("error", [LeaseError("disk full"), RuntimeError("secret")])
def test_a_release_that_fails_is_logged(tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            async with client.post("/arpipam/claims", json=WISH) as said:
                await line(said)
                agent.claims[0].error = error
            await until(lambda: agent.claims[0].done)

    run(test())
    assert "10.1.0.20, whose caller is gone, is not released" in caplog.text
    assert str(error) in caplog.text


def test_claims_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_api, "MOST_CLAIMS", 1)

    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            async with client.post("/arpipam/claims", json=WISH) as said:
                await line(said)
                assert (await refusal(client, "POST", "/arpipam/claims", 503, json=WISH))[1] == 3
            await until(lambda: agent.claims[0].done)
            async with client.post("/arpipam/claims", json=WISH) as said:
                assert (await line(said))["lease"] == 2

    run(test())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "interface: Field required; owner: Field required"),
        (b"[]", "the request's body: Input should be an object"),
        (b"{", "the request's body: Invalid JSON"),
        (b"[" * 60000, "the request's body"),
        (b'{"interface": "docker0", "owner": "a\\nb"}', "owner 'a\\nb'"),
        (WISH | {"novelty": 1}, "novelty: unknown key; is the agent older"),
        (WISH | {"interface": "../etc"}, "interface '../etc'"),
        (WISH | {"interface": "x" * 60000}, "interface 'xxx"),
        (WISH | {"owner": ""}, "owner ''"),
        (WISH | {"address": "10.1.0.300"}, "address: Octet 300"),
        (WISH | {"address": 7}, "address 7"),
        (WISH | {"subnet": "10.1.0.7/24"}, "subnet: 10.1.0.7/24 has host bits set"),
        (WISH | {"mac": "01:00:00:00:00:00"}, "mac: MAC address '01:00:00:00:00:00' belongs to no single station"),
        (WISH | {"ranges": ["; rm"]}, "ranges.0 '; rm'"),
        (WISH | {"witnesses": ["x"] * 300}, "witnesses"),
        (WISH | {"order": "last"}, "order 'last'"),
        (WISH | {"alone": "yes"}, "alone 'yes'"),
        (WISH | {"miss_probability": 1}, "miss_probability 1"),
    ],
)
def test_a_wish_that_makes_no_sense(tmp_path: Path, body: bytes | dict[str, Any], said: str) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            text, exit_status = await refusal(client, "POST", "/arpipam/claims", 400, data=data)
            assert said in text
            assert (exit_status, agent.asked, len(text) <= 1000) == (2, [], True)

    run(test())


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("bind", {}),
        ("bind", {"container": 7}),
        ("bind", {"container": "c" * 300}),
        ("release", {"quarantine": -1}),
        ("release", {"quarantine": "5"}),
        ("release", {"quarantine": 1e300}),
        ("announce", {"container": "c1"}),
    ],
)
def test_an_act_that_makes_no_sense(tmp_path: Path, what: str, body: dict[str, Any]) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client), client.post("/arpipam/claims", json=WISH) as said:
            await line(said)
            assert (await refusal(client, "POST", f"/arpipam/claims/1/{what}", 400, json=body))[1] == 2
            assert agent.claims[0].done == []

    run(test())


# The socket.


def test_the_socket_is_roots_and_its_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "docker" / "plugins" / "arpipam.sock"
    umask = os.umask(0)

    async def test() -> None:
        async with serving(path):
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
            assert {stat.S_IMODE(folder.stat().st_mode) for folder in path.parents[:2]} == {0o700}
        assert not path.exists()

    try:
        run(test())
    finally:
        os.umask(umask)


def test_a_dead_processs_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.is_socket()

    async def test() -> None:
        async with serving(path) as (_, client):
            assert (await docker(client, "Plugin.Activate"))[0] == 200

    run(test())


def test_a_second_server_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def test() -> None:
        async with serving(path) as (_, client):
            second = Server(FakeAgent(), path)
            with pytest.raises(InputError, match=r"somebody listens on .* already: is another agent running") as caught:
                await second.start()
            one_line(str(caught.value))
            await second.stop()
            assert (await docker(client, "Plugin.Activate"))[0] == 200

    run(test())


def test_somebody_who_does_not_accept_listens_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        waiting = []
        with suppress(BlockingIOError):
            while True:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)  # noqa: FBT003 - the standard library's own
                waiting[-1].connect(str(path))
        with pytest.raises(InputError, match="somebody listens"):
            PathSocket(path)
        for one in waiting:
            one.close()


def test_the_next_ones_socket_is_left(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = PathSocket(path)
    path.unlink()
    second = PathSocket(path)
    first.remove()
    assert path.is_socket()
    second.remove()
    second.remove()
    assert not path.exists()
    first.socket.close()
    second.socket.close()


def test_where_no_socket_can_be_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for path, said in (
        (file, "is no socket; remove it"),
        (file / "s", "cannot be made: Not a directory"),
        (tmp_path / ("x" * 120), "cannot be made: AF_UNIX path too long"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            PathSocket(path)
        one_line(str(caught.value))
    assert file.read_text() == "kept"


SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-W", "error", "-c", sys.argv[2]])
"""
AGENT = """
import asyncio, os, sys
from pathlib import Path
sys.path[:0] = {path!r}
from launcher.agent.server import Server
from test_agent_server import FakeAgent
async def main():
    server = Server(FakeAgent(), Path("/nowhere/at/all"))
    await server.start()
    assert not any(name.startswith("LISTEN_") for name in os.environ)
    assert not os.get_inheritable(3)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()
asyncio.run(main())
"""


def child(listener: socket.socket, count: int = 1) -> subprocess.Popen[str]:
    """A process that is started as systemd starts one: the socket is descriptor 3."""
    root = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", SYSTEMD, str(listener.fileno()), AGENT.format(path=[str(root.parent), str(root)])],
        pass_fds=[listener.fileno()],
        env=os.environ | {"LISTEN_FDS": str(count), "LISTEN_FDNAMES": "arpipam.socket"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_socket_that_systemd_passed(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def talk() -> int:
        async with calling(path) as client:
            return (await docker(client, "Plugin.Activate"))[0]

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        for _ in range(2):  # the socket outlives the agent: who asks meanwhile waits
            with child(listener) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                assert asyncio.run(talk()) == 200
                _, errors = process.communicate("")
                assert (process.returncode, errors) == (0, "")
            assert path.is_socket()


@pytest.mark.parametrize(
    ("family", "kind", "count", "said"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, 1, "a socket of another kind"),
        (socket.AF_UNIX, socket.SOCK_DGRAM, 1, "a socket of another kind"),
        (socket.AF_UNIX, socket.SOCK_STREAM, 2, "passed 2 sockets"),
    ],
)
def test_what_systemd_should_not_pass(
    tmp_path: Path, family: socket.AddressFamily, kind: socket.SocketKind, count: int, said: str
) -> None:
    with socket.socket(family, kind) as listener:
        listener.bind(("127.0.0.1", 0) if family is socket.AF_INET else str(tmp_path / "s"))
        if kind is socket.SOCK_STREAM:
            listener.listen()
        with child(listener, count) as process:
            _, errors = process.communicate("")
    assert f"InputError: systemd passed {said.removeprefix('passed ')}" in errors


def test_what_was_passed_to_another_process_is_not_taken() -> None:
    for pid, fds, count in (("1", "1", 0), (str(os.getpid()), "x", 0), (str(os.getpid()), "1", 1), ("", "", 0)):
        environment = {"LISTEN_PID": pid, "LISTEN_FDS": fds, "LISTEN_FDNAMES": "a", "HOME": "/"}
        assert passed_fds(environment) == count
        assert environment == {"HOME": "/"}
