"""What is looked at by the agent's socket: its views, its errors, and its events."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientError

from arpipam.errors import LeaseError
from arpipam.leases.lease import QUARANTINE
from launcher.agent.contract import Event
from launcher.agent.server import server, stream
from launcher.agent.server.server import Server
from tests.support.agent_server import (
    ADDRESS,
    MAC,
    WISH,
    FakeAgent,
    calling,
    docker,
    line,
    refusal,
    run,
    serving,
    stopped,
)
from tests.support.until import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


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


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), asyncio.CancelledError(), ConnectionResetError(), RecursionError(), SystemExit(3)]
)
def test_a_request_that_fails_ends_no_other(tmp_path: Path, error: Any) -> None:
    """Whatever it fails by, also one that is none of ours, as what it waited for was cancelled."""

    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            for _ in range(3):
                agent.error = error
                with suppress(ClientError):
                    async with client.post("/IpamDriver.RequestAddress", json=ADDRESS) as response:
                        assert response.status >= 500
                with suppress(ClientError):
                    async with client.get("/arpipam/leases") as response:
                        assert response.status >= 500
                agent.error = None
                async with client.get("/arpipam/leases") as response:
                    assert response.status == 200
                assert (await docker(client, "IpamDriver.RequestAddress", ADDRESS))[0] == 200

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
                await until_async(lambda: len(agent.news) == 2)
                for queue in agent.news:
                    queue.put_nowait(Event(2.0, "conflict", other=MAC))
                assert (await line(late))["other"] == MAC
                assert (await line(new))["kind"] == "conflict"
            await until_async(lambda: not agent.news)  # who is gone is not written to

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
                await until_async(lambda: agent.news)
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
            await until_async(lambda: agent.news)
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
                await until_async(lambda: agent.news)
                assert (await refusal(client, "GET", "/arpipam/events", 503))[1] == 3
            await until_async(lambda: not agent.news)
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
