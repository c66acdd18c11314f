"""The commands that use the agent: status, watch and stations, as they are printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.agent.client.client import AgentClient
from launcher.agent.contract import Event
from launcher.commands import agent as cli
from launcher.commands.options import execute
from tests.support.agent_client import EVENTS, LEASE, NETWORK, STATION, STATUS, FakeAgent


@dataclass(frozen=True)
class Shown:
    status: int
    out: list[str]
    err: list[str]


def shown(*words: object, **environment: str) -> Shown:
    code = "import click; from launcher.commands import agent as cli; from launcher.commands.options import execute\n"
    code += "import sys\n"
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


def test_status_says_what_failed_since_when_and_why(agent: FakeAgent) -> None:
    engine = {"part": "engine", "since": 1700000000.0, "reason": "no"}
    ready = {"part": "ready addresses", "since": 1700000060.0, "reason": "the disk is full"}
    up = asdict(NETWORK) | {"state": "up"}
    agent.views["status"] |= {"networks": [up | {"failures": [ready]}], "failures": [engine]}
    done = shown("agent", "status", "--socket", agent.path)
    assert done.status == 1
    assert len(done.out) == 1  # programs read the table alone
    assert done.err == [
        "failed since 2023-11-15T03:43:20+05:30: engine: no",
        "failed since 2023-11-15T03:44:20+05:30: br0: ready addresses: the disk is full",
    ]
    agent.views["status"]["networks"] = [up]
    assert shown("agent", "status", "--socket", agent.path).status == 1


def test_status_in_json(agent: FakeAgent) -> None:
    said = shown("agent", "status", "--json", "--socket", agent.path)
    assert said.status == 1
    [line] = said.out
    assert json.loads(line) == json.loads(json.dumps(asdict(STATUS)))


def test_status_on_a_terminal(agent: FakeAgent, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "150")
    cli._show(AgentClient(agent.path).status())
    text = capsys.readouterr().out
    first = f"arpipam 0.1.0, process 4711, since {cli.moment(STATUS.started)}; Docker engine: 27.1"
    assert text.splitlines()[:2] == [first, "fabric: /etc/fabric.toml as host1 on br0"]
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
    code = "from launcher.commands import agent as cli; from launcher.commands.options import execute\n"
    code += "import sys\n"
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

    def run(config: Path | None, **said: object) -> None:
        called.append((config, {key: value for key, value in said.items() if value not in {None, ()}}))

    monkeypatch.setitem(sys.modules, "launcher.agent.main", SimpleNamespace(run=run))
    assert execute(cli.agent, "arpipam", []) == 0
    words = ["--config", "/c", "--socket", "/s", "--state-dir", "/d", "--metrics", "127.0.0.1:9475"]
    fabric = ["--fabric", "/f", "--host", "h1", "--witness", "10.0.0.9", "--witness", "10.1.0.9"]
    assert execute(cli.agent, "arpipam", [*words, *fabric]) == 0
    for name, value in {"FABRIC": "/f", "HOST": "h1", "WITNESS": "10.0.0.9 10.1.0.9"}.items():
        monkeypatch.setenv(f"ARPIPAM_{name}", value)
    assert execute(cli.agent, "arpipam", []) == 0
    declared = {
        "fabric": Path("/f"),
        "host": "h1",
        "witness": (IPv4Address("10.0.0.9"), IPv4Address("10.1.0.9")),
    }
    usual = {"socket": Path("/s"), "state_dir": Path("/d"), "metrics": "127.0.0.1:9475"}
    assert called == [(None, {}), (Path("/c"), usual | declared), (None, declared)]
