"""The client of the agent: whether there is one, what it tells of itself, and its events."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from arpipam.errors import AddressInUseError, InputError, PoolExhaustedError, UnknownError
from launcher.agent.client.client import AgentClient
from launcher.agent.client.connection import NoAgentError, running
from launcher.agent.contract import Event
from launcher.engine.errors import EngineError
from tests.support.agent_client import ABORT, EVENTS, LEASE, STATION, STATUS, FakeAgent, mute, wanted

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
    heavy = "{'http', 'requests', 'docker', 'scapy', 'aiohttp', 'pydantic', 'rich'}"
    code = f"import sys, launcher.agent.client.client, launcher.commands.agent; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


def test_asking_an_agent_loads_neither_docker_s_client_nor_packets(agent: FakeAgent) -> None:
    heavy = "{'requests', 'urllib3', 'docker', 'scapy', 'pyroute2', 'aiohttp', 'pydantic', 'rich'}"
    code = "import sys; from pathlib import Path; from launcher.agent.client.client import AgentClient\n"
    code += "from launcher.agent.client.remote_claim import RemoteClaim\n"  # what a claim needs
    code += f"AgentClient(Path(sys.argv[1])).status(); print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code, agent.path], capture_output=True, text=True, check=True)
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
    for call in (client.status, lambda: client.claim(wanted("172.16.42.7"))):
        with pytest.raises(kind, match=text) as caught:
            call()
        assert type(caught.value) is kind


def test_nothing_free_is_not_an_address_in_use(agent: FakeAgent, client: AgentClient) -> None:
    agent.refusal = (409, {"error": "br0: nothing is free", "exit_status": 1})
    with pytest.raises(PoolExhaustedError):
        client.claim(wanted())


def test_without_an_agent(tmp_path: Path) -> None:
    with pytest.raises(NoAgentError) as caught:
        AgentClient(tmp_path / "nobody").status()
    assert str(caught.value) == f"no agent answers at {tmp_path}/nobody; start it: arpipam agent"
    assert caught.value.exit_status == 3


def test_a_socket_that_is_not_for_us(agent: FakeAgent) -> None:
    if os.geteuid() != 0:
        pytest.skip("root becomes nobody for this")
    agent.path.parent.chmod(0o755)
    agent.path.chmod(0o600)
    code = "import http.client, os, sys; from pathlib import Path\n"
    code += "from launcher.agent.client.connection import Connection, running\n"
    code += "path = Path(sys.argv[1]); os.chdir(path.parent); os.setuid(65534); path = Path(path.name)\n"
    code += "print(running(path), end=' ')\n"
    code += "try:\n Connection(path).ask('GET', '/')\nexcept Exception as error:\n print(error)"
    shown = subprocess.run([sys.executable, "-c", code, agent.path], capture_output=True, text=True, check=True)
    assert shown.stdout == "False the agent's socket agent.sock: Permission denied; run as root\n"


def test_with_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    with pytest.raises(NoAgentError, match="path too long"):
        AgentClient(tmp_path / ("long" * 40)).status()


def test_a_relative_path(agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(agent.path.parent)
    assert AgentClient(Path(agent.path.name)).status() == STATUS


def test_one_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.agent.client.connection.ANSWER", 0.1)
    path = tmp_path / "mute"
    with mute(path, None), pytest.raises(NoAgentError, match="has not answered"):
        AgentClient(path).status()


@pytest.mark.parametrize("word", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"])
def test_one_that_ends_before_it_answered(tmp_path: Path, word: bytes) -> None:
    path = tmp_path / "mute"
    with mute(path, word), pytest.raises(NoAgentError, match="no answer") as caught:
        AgentClient(path).status()
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
