"""Docker's part of the agent's socket: what an engine sends, when it hangs up, and when the agent stops."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING

import pytest

from arpipam.errors import AddressInUseError, UnknownError
from launcher.agent.server import refusals, server
from launcher.agent.server.server import Server
from tests.support.agent_server import ADDRESS, POOL, FakeAgent, calling, docker, refused, run, serving, stopped
from tests.support.until import until_async

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import ClientSession

    from launcher.agent.contract import AddressRequest


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
                await until_async(lambda: agent.now)
                task.cancel()  # aiohttp's client closes the connection
                with suppress(asyncio.CancelledError):
                    await task
                await until_async(partial(agent.was_cancelled, times))
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
            await until_async(lambda: agent.given_back or agent.cancelled)
            await asyncio.sleep(0.05)
            assert agent.given_back == ([] if agent.cancelled else [(POOL, "10.1.0.11")])

    run(test())


def test_more_at_once_wait_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_AT_ONCE", 3)

    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            agent.pause.clear()
            tasks = [asyncio.create_task(docker(client, "IpamDriver.RequestAddress", ADDRESS)) for _ in range(10)]
            await until_async(lambda: agent.now == 3)
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
            await until_async(lambda: agent.now)
            await asyncio.sleep(0.05)
            await stopped(served)
            for answer in await asyncio.gather(*tasks):
                assert refused(answer, 503) == refusals.STOPPING
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
            await until_async(lambda: agent.now)
            await stopped(served)
            free.set()
            with suppress(Exception):
                await task

    run(test())
