"""What the tests of the agent's socket share: an agent that gives what the test says, a server of it, and clients."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Any

from aiohttp import ClientSession, ClientTimeout, UnixConnector

from arpipam.claim_state import ClaimState
from arpipam.leases.lease import Lease, LeaseState
from launcher.agent.contract import Event, Failure, LeaseView, NetworkView, StationView, Status
from launcher.agent.server.server import Server
from tests.support.until import LONG

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from launcher.agent.contract import AddressRequest, ClaimRequest, PoolRequest

MAC = "02:42:24:df:a3:04"
POOL = "docker0/10.1.0.0/24"
ADDRESS = {"PoolID": POOL, "Address": "", "Options": {"com.docker.network.endpoint.macaddress": MAC}}
WISH = {"interface": "docker0", "owner": "web-1"}
VIEW = NetworkView(
    POOL,
    "docker0",
    "10.1.0.0/24",
    "up",
    "",
    (),
    200,
    4,
    4,
    1,
    "defend",
    failures=(Failure("ready addresses", 5.0, "full"),),
)
LEASE = LeaseView("docker0", "10.1.0.11", 24, MAC, "web-1", "bound", "c1", 1.0, "container", "")
LENT = Lease(1, "docker0", IPv4Address("10.1.0.20"), 24, MAC, "web-1", LeaseState.CLAIMED, "", 1.0, 1.0, 0.0)
TIMEOUT = ClientTimeout(total=20)


class FakeClaim:
    def __init__(self, lease_id: int) -> None:
        self.address = IPv4Address("10.1.0.20")
        self.prefix = 24
        self.mac = MAC
        self.lease = replace(LENT, id=lease_id)
        self.state = ClaimState.ANNOUNCING
        self.conflict: str | None = None
        self.failure: Exception | None = None
        self.done: list[Any] = []
        self.binding = asyncio.Event()
        self.binding.set()
        self.error: BaseException | None = None
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

    def announce(self) -> None:
        self._note("announce")

    def hand_over(self) -> None:
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

    async def claim(self, wanted: ClaimRequest) -> Any:
        self.asked.append(wanted)
        await self._wait()
        self.claims.append(FakeClaim(len(self.claims) + 1))
        return self.claims[-1]

    async def bind(self, claim: Any, container: str) -> None:
        await claim.bind(container)

    def announce(self, claim: Any) -> None:
        claim.announce()

    def hand_over(self, claim: Any) -> None:
        claim.hand_over()

    async def release(self, claim: Any, quarantine: float) -> None:
        await claim.release(quarantine)


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
    async with asyncio.timeout(LONG):  # the web server's own limit is twice as long
        await served.stop()


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
