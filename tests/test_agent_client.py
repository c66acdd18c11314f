"""The client of the agent, and the commands that use it, against a small server that speaks the agent's API."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from arpipam.claim import ClaimState
from arpipam.errors import AddressInUseError, InputError, PoolExhaustedError, UnknownError
from arpipam.leases import State
from launcher.agent import cli
from launcher.agent.client import AgentClient, NoAgentError, running
from launcher.agent.views import Event, LeaseView, NetworkView, StationView, Status
from launcher.errors import EngineError
from launcher.handover import HandOver
from launcher.options import execute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from launcher.agent.remote import RemoteClaim

PATIENCE = 10.0
NETWORK = NetworkView(
    pool="br0:172.16.42.0/24",
    interface="br0",
    subnet="172.16.42.0/24",
    state="partitioned",
    reason="host2 is silent",
    silent=("host2",),
    left=200,
    ready=3,
    wanted=4,
    leases=12,
    policy="defend",
    round_trip=0.0005,
)
STATUS = Status("0.1.0", 4711, 1_700_000_000.5, "27.1", (NETWORK,))
LEASE = LeaseView("br0", "172.16.42.7", 24, "02:00:00:00:00:07", "web", "bound", "c7", 1_700_000_000.0, "container", "")
STATION = StationView("br0", "172.16.42.9", "02:00:00:00:00:09", 1_700_000_000.0, 1_700_000_100.25)
EVENTS = (
    Event(1_700_000_000.0, "partition", "br0", text="host2 is silent"),
    Event(1_700_000_001.125, "conflict", "br0", "172.16.42.7", other="02:00:00:00:00:99", text="172.16.42.7 is used"),
)
FIRST = {
    "lease": 7,
    "address": "172.16.42.7",
    "prefix": 24,
    "mac": "02:00:00:00:00:07",
    "state": "announcing",
    "elapsed_ms": 12.5,
}


@dataclass(frozen=True)
class ClaimWish:
    interface: str = "br0"
    owner: str = "web"
    address: str | None = None
    exclude: tuple[str, ...] = ()


@dataclass
class FakeAgent:
    """Answers as the agent would; what it says is for the test to choose."""

    path: Path
    first: dict[str, Any] = field(default_factory=lambda: dict(FIRST))
    refusal: tuple[int, Any] | None = None
    asked: list[tuple[str, Any]] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    """The connection of a claim is at its end."""
    views: dict[str, Any] = field(default_factory=dict)
    lines: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    headers: dict[str, str] = field(default_factory=dict)
    """Of the last question."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def say(self, line: Any) -> None:
        """One more line on the stream; None: its end; ABORT: an end in the middle."""
        self.loop.call_soon_threadsafe(self.lines.put_nowait, line)

    async def before_answer(self) -> None:
        """Hold the answer to what a claim is told back; a test may put something here."""

    async def view(self, request: web.Request) -> web.Response:
        self.headers = dict(request.headers)
        if self.refusal is not None:
            return self._refused()
        return web.json_response(self.views[request.path.rpartition("/")[2]])

    async def events(self, request: web.Request) -> web.StreamResponse:
        recent = EVENTS if request.query["recent"] == "1" else ()
        return await self._stream(request, [asdict(event) for event in recent])

    async def claim(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(("claim", await request.json()))
        if self.refusal is not None:
            return self._refused()
        try:
            return await self._stream(request, [self.first])
        finally:
            self.closed.set()

    async def act(self, request: web.Request) -> web.Response:
        self.asked.append((request.path.removeprefix("/arpipam/claims/"), await request.json()))
        await self.before_answer()
        return self._refused() if self.refusal is not None else web.json_response({})

    def _refused(self) -> web.Response:
        assert self.refusal is not None
        status, body = self.refusal
        return web.Response(status=status, text=body if isinstance(body, str) else json.dumps(body))

    async def _stream(self, request: web.Request, lines: list[Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(json.dumps(line).encode() + b"\n")
        while request.transport is not None and not request.transport.is_closing():
            try:
                line = await asyncio.wait_for(self.lines.get(), 0.02)
            except TimeoutError:
                continue
            if line is None:
                break
            if line is ABORT:
                request.transport.abort()
                break
            await response.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        return response

    def serve(self, ready: threading.Event, ending: asyncio.Event) -> None:
        """Until `ending`, on this thread."""

        async def run() -> None:
            app = web.Application()
            app.router.add_get("/arpipam/events", self.events)
            app.router.add_get("/arpipam/{view}", self.view)
            app.router.add_post("/arpipam/claims", self.claim)
            app.router.add_post("/arpipam/claims/{id}/{what}", self.act)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.UnixSite(runner, str(self.path)).start()
            ready.set()
            await ending.wait()
            await turns()  # whoever knocked last is let in: a server that ends then would forget to close that
            await runner.cleanup()
            await turns()

        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(run())
        self.loop.close()


ABORT = object()


async def turns() -> None:
    """Let the event loop do what is due."""
    for _ in range(5):
        await asyncio.sleep(0.01)


@contextmanager
def serving(path: Path) -> Iterator[FakeAgent]:
    agent = FakeAgent(path)
    agent.views = {"status": asdict(STATUS), "leases": [asdict(LEASE)], "stations": [asdict(STATION)]}
    ready, ending = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=agent.serve, args=(ready, ending))
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield agent
    finally:
        agent.loop.call_soon_threadsafe(ending.set)
        thread.join()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    with serving(tmp_path / "agent.sock") as agent:
        yield agent


@pytest.fixture
def client(agent: FakeAgent) -> Iterator[AgentClient]:
    with AgentClient(agent.path) as client:
        yield client


@pytest.fixture
def claim(client: AgentClient) -> Iterator[RemoteClaim]:
    claim = client.claim(ClaimWish())
    yield claim
    claim.close()


def eventually(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


# Whether there is one.


def test_an_agent_is_known_to_run(agent: FakeAgent) -> None:
    assert running(agent.path)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        running(agent.path)
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3


def test_nobody_is_known_not_to_run(tmp_path: Path) -> None:
    assert not running(tmp_path / "nothing")
    (tmp_path / "file").touch()
    assert not running(tmp_path / "file")
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "left over"))
    assert not running(tmp_path / "left over")
    assert not running(tmp_path / ("long" * 40))


def test_an_agent_with_a_full_backlog_runs(tmp_path: Path) -> None:
    path = tmp_path / "busy"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        waiting = []
        try:
            with suppress(BlockingIOError):
                while True:
                    waiting.append(socket.socket(socket.AF_UNIX))
                    waiting[-1].setblocking(False)  # noqa: FBT003 - the library's own signature
                    waiting[-1].connect(str(path))
            assert running(path)
        finally:
            for one in waiting:
                one.close()


def test_asking_whether_it_runs_loads_nothing_that_takes_time() -> None:
    heavy = "{'requests', 'docker', 'scapy', 'aiohttp', 'pydantic', 'rich'}"
    code = f"import sys, launcher.agent.client, launcher.agent.cli; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


# What it tells of itself.


def test_views(client: AgentClient) -> None:
    assert client.status() == STATUS
    assert client.leases() == [LEASE]
    assert client.stations() == [STATION]


def test_what_only_a_newer_agent_knows_of_is_left_out(agent: FakeAgent, client: AgentClient) -> None:
    agent.views["stations"] = [asdict(STATION) | {"vendor": "?"}]
    assert client.stations() == [STATION]


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ("status", []),
        ("status", {"version": "0.1.0"}),
        ("status", asdict(STATUS) | {"networks": [{}]}),
        ("status", asdict(STATUS) | {"networks": [7]}),
        ("leases", {"error": "?"}),
        ("leases", [["br0"]]),
        ("stations", None),
        ("stations", 7),
    ],
)
def test_an_answer_that_makes_no_sense(agent: FakeAgent, client: AgentClient, view: str, said: object) -> None:
    agent.views[view] = said
    with pytest.raises(UnknownError, match="is no agent of this version of arpipam: ") as caught:
        getattr(client, view)()
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_meant_for_the_internet_is_not_for_a_socket(
    agent: FakeAgent, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = agent.path.parent / "netrc"
    secrets.write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(secrets))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert client.status() == STATUS
    assert "Authorization" not in agent.headers


@pytest.mark.parametrize(
    ("refusal", "kind", "text"),
    [
        ((409, {"error": "br0: nothing is free", "exit_status": 1}), AddressInUseError, "^br0: nothing is free$"),
        ((400, {"error": "no such interface", "exit_status": 2}), InputError, "^no such interface$"),
        ((503, {"error": "host2 is silent", "exit_status": 3}), UnknownError, "^host2 is silent$"),
        ((503, {"error": "no engine", "exit_status": 125}), EngineError, "^no engine$"),
        ((503, {"error": "what", "exit_status": 77}), UnknownError, "^what$"),
        (
            (404, "404: Not Found\nreally"),
            UnknownError,
            "is no agent of this version of arpipam: 404: Not Found really",
        ),
        ((500, "[]"), UnknownError, "is no agent of this version of arpipam"),
        ((500, {"error": "x", "exit_status": []}), UnknownError, "is no agent of this version of arpipam"),
    ],
)
def test_errors_are_the_agent_s_own(
    agent: FakeAgent, client: AgentClient, refusal: tuple[int, Any], kind: type[Exception], text: str
) -> None:
    agent.refusal = refusal
    for call in (client.status, lambda: client.claim(ClaimWish(address="172.16.42.7"))):
        with pytest.raises(kind, match=text) as caught:
            call()
        assert type(caught.value) is kind


def test_nothing_free_is_not_an_address_in_use(agent: FakeAgent, client: AgentClient) -> None:
    agent.refusal = (409, {"error": "br0: nothing is free", "exit_status": 1})
    with pytest.raises(PoolExhaustedError):
        client.claim(ClaimWish())


def test_without_an_agent(tmp_path: Path) -> None:
    with AgentClient(tmp_path / "nobody") as client, pytest.raises(NoAgentError) as caught:
        client.status()
    assert str(caught.value) == f"no agent answers at {tmp_path}/nobody; start it: arpipam agent"
    assert caught.value.exit_status == 3


def test_a_socket_that_is_not_for_us(agent: FakeAgent) -> None:
    if os.geteuid() != 0:
        pytest.skip("root becomes nobody for this")
    agent.path.parent.chmod(0o755)
    agent.path.chmod(0o600)
    code = "import os, sys; from pathlib import Path; from launcher.agent.client import AgentClient, running\n"
    code += "path = Path(sys.argv[1]); client = AgentClient(path); os.chdir(path.parent); os.setuid(65534)\n"
    code += "client.path = Path(path.name)\n"
    code += "try:\n print(running(client.path), end=' '); client.status()\nexcept Exception as error:\n print(error)"
    shown = subprocess.run([sys.executable, "-c", code, agent.path], capture_output=True, text=True, check=True)
    assert shown.stdout == "False the agent's socket agent.sock: Permission denied; run as root\n"


def test_with_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    with AgentClient(tmp_path / ("long" * 40)) as client, pytest.raises(NoAgentError, match="path too long"):
        client.status()


def test_a_relative_path(agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(agent.path.parent)
    with AgentClient(Path(agent.path.name)) as client:
        assert client.status() == STATUS


@contextmanager
def mute(path: Path, word: bytes | None) -> Iterator[None]:
    """Somebody who says only that, then ends the connection; None: who says nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        if word is None:
            yield
            return

        def answer() -> None:
            asked = b""
            while not asked:  # the first only knocks
                connection, _ = listener.accept()
                with connection:
                    asked = connection.recv(65536)
                    if asked:
                        connection.sendall(word)

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join()


def test_one_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.agent.client._ANSWER", 0.1)
    path = tmp_path / "mute"
    with mute(path, None), AgentClient(path) as client, pytest.raises(NoAgentError, match="has not answered"):
        client.status()


@pytest.mark.parametrize("word", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"])
def test_one_that_ends_before_it_answered(tmp_path: Path, word: bytes) -> None:
    path = tmp_path / "mute"
    with mute(path, word), AgentClient(path) as client, pytest.raises(NoAgentError, match="no answer") as caught:
        client.status()
    assert len(str(caught.value).splitlines()) == 1


# Events.


def test_events_come_as_they_happen(agent: FakeAgent, client: AgentClient) -> None:
    with client.events() as events:
        following = iter(events)
        for event in EVENTS:
            agent.say(asdict(event))
            assert next(following) == event  # before the next is said


def test_recent_events_come_first(agent: FakeAgent, client: AgentClient) -> None:
    with client.events(recent=True) as events:
        following = iter(events)
        assert (next(following), next(following)) == EVENTS
        agent.say(asdict(EVENTS[0]))
        assert next(following) == EVENTS[0]


def test_many_events_at_once(agent: FakeAgent, client: AgentClient) -> None:
    said = [Event(float(number), "claimed", text="ü" * (number % 100)) for number in range(1000)]
    agent.say(b"\n".join(json.dumps(asdict(event), ensure_ascii=False).encode() for event in said) + b"\n\n")
    agent.say(None)
    with client.events() as events:
        assert list(events) == said


def test_another_thread_ends_the_events(client: AgentClient) -> None:
    events = client.events()
    timer = threading.Timer(0.1, events.close)
    timer.start()
    assert list(events) == []
    timer.join()
    events.close()


def test_events_of_an_agent_that_dies(agent: FakeAgent, client: AgentClient) -> None:
    with client.events() as events:
        agent.say(asdict(EVENTS[0]))
        agent.say(ABORT)
        following = iter(events)
        assert next(following) == EVENTS[0]
        with pytest.raises(NoAgentError, match=r"agent\.sock ended; see its log"):
            next(following)


@pytest.mark.parametrize("line", [b"what?\n", b"[]\n", b"{}\n", b"\xff\n"])
def test_an_event_that_makes_no_sense(agent: FakeAgent, client: AgentClient, line: bytes) -> None:
    agent.say(line)
    with client.events() as events, pytest.raises(UnknownError, match="is no agent of this version"):
        next(iter(events))


# Claims.


def test_a_claim_is_what_the_agent_says(agent: FakeAgent, claim: RemoteClaim) -> None:
    assert (claim.address, claim.prefix, claim.mac) == (IPv4Address("172.16.42.7"), 24, "02:00:00:00:00:07")
    assert claim.state is ClaimState.ANNOUNCING
    assert claim.found.elapsed == claim.elapsed == 0.0125
    assert (claim.lease.id, claim.lease.address, claim.lease.interface) == (7, claim.address, "br0")
    assert (claim.lease.owner, claim.lease.state) == ("web", State.CLAIMED)
    assert agent.asked == [("claim", {"interface": "br0", "owner": "web", "address": None, "exclude": []})]


def test_its_state_follows_the_agent_s(agent: FakeAgent, claim: RemoteClaim) -> None:
    heard: list[ClaimState] = []
    claim.on_change(heard.append)
    told = ["announcing", "defending", "guarded", "defending", "guarded", "handed over"]
    for state in told:
        agent.say({"state": state})
    eventually(lambda: claim.state is ClaimState.HANDED_OVER)
    assert heard == told[1:]


def test_a_conflict_is_passed_on(agent: FakeAgent, claim: RemoteClaim) -> None:
    agent.say({"state": "conflict", "conflict": "02:00:00:00:00:99"})
    assert not claim.wait_handed_over(PATIENCE)
    assert claim.state is ClaimState.CONFLICT
    assert claim.conflict == "02:00:00:00:00:99"
    agent.say(ABORT)
    claim.close()
    assert claim.state is ClaimState.CONFLICT


def test_a_lost_link_is_passed_on(agent: FakeAgent, claim: RemoteClaim) -> None:
    agent.say({"state": "link lost", "failure": "br0 is gone"})
    assert not claim.wait_handed_over(PATIENCE)
    assert claim.state is ClaimState.LINK_LOST
    agent.say(ABORT)
    eventually(lambda: not claim._reader.is_alive())
    assert str(claim.failure) == "br0 is gone"


@pytest.mark.parametrize("state", ["guarded", "handed over"])
def test_waiting_for_the_owner(agent: FakeAgent, claim: RemoteClaim, state: str) -> None:
    start = time.monotonic()
    assert not claim.wait_handed_over(0.1)
    assert time.monotonic() - start >= 0.1
    threading.Timer(0.1, agent.say, [{"state": state}]).start()
    assert claim.wait_handed_over(PATIENCE)
    assert time.monotonic() - start < PATIENCE / 2


def test_what_it_is_told_reaches_the_agent(agent: FakeAgent, claim: RemoteClaim) -> None:
    heard: list[ClaimState] = []
    claim.on_change(heard.append)
    claim.bind("c7@engine")
    assert (claim.lease.state, claim.lease.container) == (State.BOUND, "c7@engine")
    claim.announce()
    claim.handed_over()
    claim.release(quarantine=0.0)
    claim.release()
    assert agent.asked[1:] == [
        ("7/bind", {"container": "c7@engine"}),
        ("7/announce", {}),
        ("7/handed_over", {}),
        ("7/release", {"quarantine": 0.0}),
    ]
    assert heard == [ClaimState.HANDED_OVER, ClaimState.RELEASED]


def test_what_was_under_way_does_not_undo_a_hand_over(agent: FakeAgent, claim: RemoteClaim) -> None:
    claim.handed_over()
    heard: list[ClaimState] = []
    claim.on_change(heard.append)
    for state in ("defending", "guarded", "conflict", "defending"):
        agent.say({"state": state})
    agent.say(None)
    eventually(lambda: not claim._reader.is_alive())
    assert heard == [ClaimState.CONFLICT]


def test_a_refusal_is_raised_and_changes_nothing(agent: FakeAgent, claim: RemoteClaim) -> None:
    agent.refusal = (409, {"error": "lease 7 is no more", "exit_status": 3})
    for call in (claim.announce, claim.handed_over, claim.release, lambda: claim.bind("c7")):
        with pytest.raises(UnknownError, match="lease 7 is no more"):
            call()
    assert claim.state is ClaimState.ANNOUNCING
    assert claim.lease.state is State.CLAIMED
    agent.say(ABORT)
    eventually(lambda: claim.state is ClaimState.LINK_LOST)


def test_it_ends_with_the_block(agent: FakeAgent, client: AgentClient) -> None:
    with client.claim(ClaimWish()) as claim:
        heard: list[ClaimState] = []
        claim.on_change(heard.append)
    assert agent.asked[1:] == [("7/release", {"quarantine": 60.0})]
    assert heard == [ClaimState.RELEASED]
    assert agent.closed.wait(PATIENCE)
    assert not claim._reader.is_alive()


@pytest.mark.parametrize("end", ["bind", "handed_over"])
def test_it_outlives_the_block_once_it_belongs_to_a_container(agent: FakeAgent, client: AgentClient, end: str) -> None:
    with client.claim(ClaimWish()) as claim:
        heard: list[ClaimState] = []
        claim.bind("c7") if end == "bind" else claim.handed_over()
        claim.on_change(heard.append)
    assert [what for what, _ in agent.asked[1:]] == [f"7/{end}"]
    assert heard == []  # least of all that it is lost
    assert agent.closed.wait(PATIENCE)


def test_an_agent_that_ends_the_stream_of_a_released_claim_is_not_lost(agent: FakeAgent, claim: RemoteClaim) -> None:
    heard: list[ClaimState] = []
    claim.on_change(heard.append)
    ended = []

    async def end_first() -> None:
        agent.say(None)
        await asyncio.to_thread(claim._reader.join)
        ended.append(claim.state)

    agent.before_answer = end_first  # type: ignore[method-assign]
    claim.release()
    assert ended == [ClaimState.ANNOUNCING]  # the stream was over before the release was known to be
    assert heard == [ClaimState.RELEASED]
    assert claim.failure is None


@pytest.mark.parametrize("last", [ABORT, None, {"what": "?"}, {"state": "asleep"}, {"state": []}, b"}\n", b"[]\n"])
def test_an_agent_that_dies(agent: FakeAgent, claim: RemoteClaim, last: object) -> None:
    heard: list[ClaimState] = []
    claim.on_change(heard.append)
    agent.say(last)
    assert not claim.wait_handed_over(PATIENCE)
    assert heard == [ClaimState.LINK_LOST]
    assert isinstance(claim.failure, NoAgentError)
    assert str(claim.failure).endswith("; nobody defends 172.16.42.7 until an agent is back")
    asked = len(agent.asked)
    claim.announce()
    claim.bind("c7")
    claim.handed_over()
    claim.release()
    assert claim.state is ClaimState.LINK_LOST
    assert claim.lease.state is State.CLAIMED
    assert len(agent.asked) == asked


@pytest.mark.parametrize("state", ["guarded", "handed over"])
def test_an_owner_that_answers_for_itself_needs_no_agent(agent: FakeAgent, claim: RemoteClaim, state: str) -> None:
    agent.say({"state": state})
    agent.say(ABORT)
    eventually(lambda: claim.failure is not None)
    assert claim.state == state
    assert claim.wait_handed_over(0)


def test_an_agent_that_is_gone_when_it_is_told_something(agent: FakeAgent, claim: RemoteClaim) -> None:
    agent.path.unlink()
    claim.bind("c7")
    assert claim.state is ClaimState.LINK_LOST
    assert str(claim.failure) == (
        f"no agent answers at {agent.path}; start it: arpipam agent; nobody defends 172.16.42.7 until an agent is back"
    )


@pytest.mark.parametrize(
    "first",
    [
        {},
        FIRST | {"address": "172.16.42"},
        FIRST | {"state": "asleep"},
        FIRST | {"lease": None},
        FIRST | {"elapsed_ms": "1"},
    ],
)
def test_a_claim_that_makes_no_sense(agent: FakeAgent, client: AgentClient, first: dict[str, Any]) -> None:
    agent.first = first
    with pytest.raises(UnknownError, match="is no agent of this version"):
        client.claim(ClaimWish())
    assert agent.closed.wait(PATIENCE)  # so that the agent releases it


def test_an_agent_that_ends_before_it_has_an_address(tmp_path: Path) -> None:
    word = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    path = tmp_path / "mute"
    with mute(path, word), AgentClient(path) as client, pytest.raises(NoAgentError, match="before it had an address"):
        client.claim(ClaimWish())


HOLDER = """
import subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from launcher.agent.client import AgentClient
from test_agent_client import ClaimWish
claim = AgentClient(Path({path!r})).claim(ClaimWish())
child = subprocess.Popen(["sleep", "60"], pass_fds=[claim.holder_fd])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_it_lives_as_long_as_a_child_that_inherited_it(agent: FakeAgent) -> None:
    code = HOLDER.format(tests=str(Path(__file__).parent), path=str(agent.path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        holder.kill()
    try:
        assert not agent.closed.wait(0.5)
    finally:
        os.kill(child, signal.SIGKILL)
    assert agent.closed.wait(PATIENCE)


def test_it_ends_with_a_process_that_is_killed(agent: FakeAgent) -> None:
    code = HOLDER.format(tests=str(Path(__file__).parent), path=str(agent.path)).replace(
        "pass_fds=[claim.holder_fd]", ""
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        holder.kill()
    try:
        assert agent.closed.wait(PATIENCE)
    finally:
        os.kill(child, signal.SIGKILL)


def test_no_signal_goes_to_its_thread(claim: RemoteClaim) -> None:
    status = Path(f"/proc/self/task/{claim._reader.native_id}/status").read_text()
    blocked = int(next(line for line in status.splitlines() if line.startswith("SigBlk:")).split()[1], 16)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGTSTP):
        assert blocked & (1 << (number - 1))


def test_a_launch_with_it_leaves_no_descriptor_behind(agent: FakeAgent, client: AgentClient) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with client.claim(ClaimWish()):
        pass
    assert agent.closed.wait(PATIENCE)
    time.sleep(0.1)
    before = descriptors()
    for _ in range(10):
        with client.claim(ClaimWish()) as claim:
            claim.announce()
    eventually(lambda: descriptors() <= before)


class FakeEngine:
    """Its container is created, then started."""

    def events(self, lease: int) -> Any:
        assert lease == 7
        happened = [{"Action": "create", "Actor": {"ID": "c7"}}, {"Action": "start"}]
        return (event for event in happened)

    def reference(self, container: str) -> str:
        return f"{container}@engine"

    def reads_input(self, _: str) -> bool:
        return False


def test_a_container_takes_it_over(agent: FakeAgent, claim: RemoteClaim) -> None:
    hand_over = HandOver(FakeEngine(), claim, audible=True)  # type: ignore[arg-type]
    hand_over.start()
    eventually(lambda: len(agent.asked) == 3)
    assert not hand_over.done.is_set()
    agent.say({"state": "guarded"})
    assert hand_over.done.wait(PATIENCE)
    hand_over.join()
    assert [what for what, _ in agent.asked[1:]] == ["7/bind", "7/announce", "7/handed_over"]
    assert claim.state is ClaimState.HANDED_OVER


def test_a_container_is_not_waited_for_when_the_agent_dies(agent: FakeAgent, claim: RemoteClaim) -> None:
    hand_over = HandOver(FakeEngine(), claim, audible=True)  # type: ignore[arg-type]
    hand_over.start()
    eventually(lambda: len(agent.asked) == 3)
    agent.say(ABORT)
    hand_over.join(PATIENCE)
    assert not hand_over.is_alive()
    assert not hand_over.done.is_set()
    assert hand_over.error is None


# The commands.


@dataclass(frozen=True)
class Shown:
    status: int
    out: list[str]
    err: list[str]


def shown(*words: object, **environment: str) -> Shown:
    code = "import click; from launcher.agent import cli; from launcher.options import execute; import sys\n"
    code += "root = click.Group('arpipam', commands=[cli.agent, cli.watch, cli.stations])\n"
    code += "sys.exit(execute(root, 'arpipam'))"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TZ": "Asia/Kolkata"} | environment,
        timeout=60,
    )
    return Shown(done.returncode, done.stdout.splitlines(), done.stderr.splitlines())


def test_status_in_a_pipe(agent: FakeAgent) -> None:
    line = "br0\t172.16.42.0/24\tpartitioned\t3\t4\t200\t12\tdefend\thost2\thost2 is silent"
    for words in (["agent", "status", "--socket", agent.path], ["agent", "--socket", agent.path, "status"]):
        assert shown(*words) == Shown(1, [line], [])
    agent.views["status"]["networks"] = [asdict(NETWORK) | {"state": "up"}]
    assert shown("agent", "status", ARPIPAM_SOCKET=str(agent.path)).status == 0


def test_status_in_json(agent: FakeAgent) -> None:
    said = shown("agent", "status", "--json", "--socket", agent.path)
    assert said.status == 1
    [line] = said.out
    assert json.loads(line) == json.loads(json.dumps(asdict(STATUS)))


def test_status_on_a_terminal(agent: FakeAgent, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "150")
    with AgentClient(agent.path) as client:
        cli._show(client.status())
    text = capsys.readouterr().out
    assert text.startswith(f"arpipam 0.1.0, process 4711, since {cli.moment(STATUS.started)}; Docker engine: 27.1\n")
    assert "\t" not in text
    for word in ("silent", "br0", "172.16.42.0/24", "partitioned", "host2 is silent"):
        assert word in text


def test_stations_and_leases(agent: FakeAgent, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown("stations", "--socket", agent.path).out == [
        "br0\t172.16.42.9\t02:00:00:00:00:09\t2023-11-15T03:43:20+05:30\t2023-11-15T03:45:00+05:30"
    ]
    [line] = shown("stations", "--json", "--socket", agent.path).out
    assert json.loads(line) == asdict(STATION)
    assert cli.agent_leases(agent.path, as_json=False) == 0
    assert capsys.readouterr().out == (
        "br0\t172.16.42.7\t24\t02:00:00:00:00:07\tweb\tbound\tc7\tcontainer\t-\t" + cli.moment(LEASE.created) + "\n"
    )
    assert cli.agent_leases(agent.path, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == asdict(LEASE)


def test_watch_until_the_agent_ends(agent: FakeAgent) -> None:
    agent.say(None)
    assert shown("watch", "--recent", "--socket", agent.path) == Shown(
        3,
        [
            "2023-11-15T03:43:20.000+05:30\tpartition\tbr0\t-\t-\t-\t-\thost2 is silent",
            "2023-11-15T03:43:21.125+05:30\tconflict\tbr0\t172.16.42.7\t-\t02:00:00:00:00:99\t-\t172.16.42.7 is used",
        ],
        [f"arpipam: the agent at {agent.path} ended"],
    )
    agent.say(None)
    assert shown("watch", "--socket", agent.path).out == []


def test_watch_in_json_until_interrupted(agent: FakeAgent) -> None:
    words = ["watch", "--recent", "--json", "--socket", str(agent.path)]
    code = "from launcher.agent import cli; from launcher.options import execute; import sys\n"
    code += "sys.exit(execute(cli.watch, 'arpipam', sys.argv[2:]))"
    with subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        for event in EVENTS:
            assert json.loads(watching.stdout.readline()) == asdict(event)  # at once, though it goes on
        watching.send_signal(signal.SIGINT)
    assert watching.returncode == 130


def test_an_event_for_a_person() -> None:
    at = cli.moment(EVENTS[1].at, "milliseconds")
    assert cli._line(EVENTS[1]) == f"{at}  conflict     br0         172.16.42.7 is used"
    bare = Event(0.0, "released", "br0", "172.16.42.7", "02:00:00:00:00:07")
    assert cli._line(bare).endswith("  released     br0         172.16.42.7 02:00:00:00:00:07")
    assert cli.moment(1e300) == "1e+300"


@pytest.mark.parametrize("words", [("agent", "status"), ("watch",), ("stations",)])
def test_commands_without_an_agent(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = tmp_path / "nobody"
    said = f"arpipam: no agent answers at {path}; start it: arpipam agent"
    assert shown(*words, "--socket", path) == Shown(3, [], [said])


def test_options_of_the_agent_itself_are_not_for_its_commands(agent: FakeAgent) -> None:
    said = shown("agent", "--state-dir", agent.path.parent, "status", "--socket", agent.path)
    assert said.status == 2
    assert "--state-dir is for the agent itself, not for its commands" in said.err[0]
    assert shown("agent", "status", "--socket", agent.path, ARPIPAM_STATE_DIR=str(agent.path.parent)).status == 1


def test_the_agent_is_run_with_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def run(*given: object) -> None:
        called.append(given)

    monkeypatch.setitem(sys.modules, "launcher.agent.main", SimpleNamespace(run=run))
    assert execute(cli.agent, "arpipam", []) == 0
    words = ["--config", "/c", "--socket", "/s", "--state-dir", "/d", "--metrics", "127.0.0.1:9475"]
    assert execute(cli.agent, "arpipam", words) == 0
    assert called == [(None, None, None, None), (Path("/c"), Path("/s"), Path("/d"), "127.0.0.1:9475")]
