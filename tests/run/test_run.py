"""arpipam-run without an engine: the command line, its parts, and its lines of complaint."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.commands.options import execute
from launcher.commands.run import command, split
from launcher.engine.errors import EngineError
from launcher.engine.target import USUAL, Target
from launcher.run import docker_command
from launcher.run.docker_command import DockerCommand
from launcher.run.launch import RunRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.options import Options

OURS = [
    ["-I", "br0"],
    ["-Ibr0"],
    ["--interface", "br0"],
    ["--interface=br0"],
    ["--alone"],
    ["--json"],
    ["--range", "172.16.42.10-172.16.42.20"],
    ["--exclude=172.16.42.3"],
    ["--ip", "172.16.42.7/24"],
    ["--network", "lan"],
    ["--witness", "172.16.42.1", "--witness", "172.16.42.2"],
]
THEIRS = [
    ["busybox"],
    ["-it", "busybox", "sh"],
    ["--rm", "--json", "busybox"],  # what follows docker's first word is docker's, whatever it looks like
    ["-d", "-I", "br9", "busybox"],
    ["--", "busybox"],
    ["-", "-I"],
    ["--ipc=host", "busybox"],
    ["--interfaces", "x"],
    [""],
]


@pytest.mark.parametrize("theirs", THEIRS)
@pytest.mark.parametrize("ours", OURS)
def test_the_line_is_parted_at_the_first_word_that_is_not_ours(ours: list[str], theirs: list[str]) -> None:
    assert split(command.params, ours + theirs) == (ours, theirs)


@given(
    st.lists(st.sampled_from(OURS)),
    st.text().filter(lambda word: not word.startswith("-")),
    st.lists(st.text() | st.sampled_from([word for words in OURS for word in words])),
)
def test_dockers_words_are_never_touched(ours: list[list[str]], first: str, rest: list[str]) -> None:
    flat = [word for words in ours for word in words]
    assert split(command.params, [*flat, first, *rest]) == (flat, [first, *rest])


class Started:
    """Stands where Launch is, and keeps what it was given."""

    def __init__(self) -> None:
        self.options: Options
        self.request: RunRequest

    def __call__(self, options: Options, request: RunRequest) -> Started:
        self.options, self.request = options, request
        return self

    def run(self) -> int:
        return 42


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    started = Started()
    monkeypatch.setattr("launcher.run.launch.Launch", started)
    return started


def run(*words: str) -> int:
    return execute(command, "arpipam-run", words)


def test_the_command_line_is_understood(started: Started) -> None:
    line = "-I br0 --ip 172.16.42.7/24 --gateway 172.16.42.1 --network lan --alone -it --rm busybox sh -c --json"
    assert run(*line.split()) == 42  # and the exit status is the container's
    assert started.options.interface == "br0"
    assert started.options.alone
    assert not started.options.json
    words = ("-it", "--rm", "busybox", "sh", "-c", "--json")
    assert started.request == RunRequest(words, IPv4Address("172.16.42.7"), 24, IPv4Address("172.16.42.1"), "lan")


def test_without_options_it_is_docker0_and_any_address(started: Started) -> None:
    run("busybox")
    assert started.options.interface == "docker0"
    assert started.request == RunRequest(("busybox",))


def test_an_address_without_a_prefix(started: Started) -> None:
    run("--ip", "172.16.42.7", "busybox")
    assert (started.request.address, started.request.prefix) == (IPv4Address("172.16.42.7"), None)


def test_each_option_is_in_the_environment_too(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "INTERFACE": "br1",
        "RANGE": "172.16.42.10-172.16.42.20 172.16.42.30-172.16.42.40",
        "WITNESS": "172.16.42.1 172.16.42.2",
        "ORDER": "sticky",
        "TIMING": "lan",
        "RATE": "100",
        "MISS_PROBABILITY": "0.001",
        "STATE_DIR": "/elsewhere",
        "IP": "172.16.42.7/24",
        "GATEWAY": "172.16.42.1",
        "NETWORK": "lan",
        "JSON": "1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(f"ARPIPAM_{name}", value)
    run("busybox")
    options = started.options
    assert options.ranges == ("172.16.42.10-172.16.42.20", "172.16.42.30-172.16.42.40")
    assert options.witnesses == (IPv4Address("172.16.42.1"), IPv4Address("172.16.42.2"))
    assert (options.order, options.timing, options.rate, options.miss_probability) == ("sticky", "lan", 100, 0.001)
    assert (options.interface, options.state_dir, options.json) == ("br1", Path("/elsewhere"), True)
    request = RunRequest(("busybox",), IPv4Address("172.16.42.7"), 24, IPv4Address("172.16.42.1"), "lan")
    assert started.request == request
    run("-I", "br2", "busybox")
    assert started.options.interface == "br2"  # the command line stands before the environment


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no image is named"),
        (["--alone", "-I", "br0"], "no image is named"),
        (["-I"], "requires an argument"),
        (["--ip", "172.16.42", "busybox"], "172.16.42.7/24"),
        (["--ip", "172.16.42.7/33", "busybox"], "172.16.42.7/24"),
        (["--gateway", "gw", "busybox"], "is not an IPv4 address"),
        (["--order", "best", "busybox"], "'first', 'random', 'sticky'"),
        (["--miss-probability", "1", "busybox"], "not in the range"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("arpipam-run: ")
    assert output.err.count("\n") == 1
    assert said in output.err


def test_help_names_dockers_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "[DOCKER RUN OPTIONS] IMAGE [COMMAND]..." in " ".join(capsys.readouterr().out.split())


def test_no_engine_is_one_line_and_dockers_own_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.setenv("ARPIPAM_STATE_DIR", str(tmp_path / "state"))
    assert run("busybox") == 125
    line = f"arpipam-run: cannot reach the Docker engine at unix://{tmp_path}/docker.sock: No such file or directory"
    assert capsys.readouterr().err == f"{line}; is it running?\n"
    assert not list(tmp_path.iterdir())  # nothing was even begun


def test_no_such_interface_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "docker.sock"))
        engine.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
        assert run("-I", "nowhere0", "busybox") == 2
    error = capsys.readouterr().err
    assert error.startswith("arpipam-run: ")
    assert "nowhere0" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "owner"),
    [
        (["--name", "web", "busybox"], "web"),
        (["-d", "--name=web", "busybox"], "web"),
        (["busybox", "--name"], None),
        (["-e", "PASSWORD=secret", "busybox"], None),
    ],
)
def test_the_owner_is_the_containers_name_or_a_digest_that_tells_nothing(words: list[str], owner: str | None) -> None:
    request = RunRequest(tuple(words))
    if owner is not None:
        assert request.owner == owner
    else:
        assert request.owner == RunRequest(tuple(words)).owner
        assert request.owner != RunRequest((*words, "more")).owner
        assert not any(word in request.owner for word in ["secret", "busybox"])


class Engine:
    """Of the engine, only its age."""

    def __init__(self, *, takes_mac_per_endpoint: bool) -> None:
        self.takes_mac_per_endpoint = takes_mac_per_endpoint


@pytest.mark.parametrize(
    "ages", [(20, "old", "told"), (20, "new", "told"), (28, "new", "told"), (28, "old", "relayed")]
)
def test_docker_learns_the_mac_whatever_its_age(ages: tuple[int, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    client, engine, way = ages
    seen: list[tuple[list[str], str, list[int]]] = []

    def run_child(words: Sequence[str], environment: dict[str, str], *, keep_open: list[int]) -> int:
        seen.append((list(words), environment["DOCKER_HOST"], keep_open))
        return 3

    monkeypatch.setattr(docker_command, "run_child", run_child)
    monkeypatch.setattr(docker_command, "_version", lambda: client)
    docker = DockerCommand(USUAL)
    docker.learn(Engine(takes_mac_per_endpoint=engine == "new"))  # type: ignore[arg-type] # a stand-in
    ours = ["--network", "lan", "--ip", "172.16.42.7"]
    assert docker.run(ours, "02:00:00:00:00:01", ["-it", "busybox", "--ip"], keep_open=[5]) == 3
    [(words, host, keep_open)] = seen
    mac = [] if way == "relayed" else ["--mac-address", "02:00:00:00:00:01"]
    assert words == ["docker", "run", *mac, *ours, "-it", "busybox", "--ip"]
    assert host.startswith("unix://@arpipam-") if way == "relayed" else host == "unix:///var/run/docker.sock"
    assert keep_open == [5]


def test_a_new_client_far_from_an_old_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_command, "_version", lambda: 28)
    with pytest.raises(EngineError, match="unix://"):
        DockerCommand(Target("tcp://127.0.0.1:2375")).learn(Engine(takes_mac_per_endpoint=False))  # type: ignore[arg-type] # a stand-in


@pytest.mark.parametrize(("said", "version"), [("Docker version 28.2.2, build e6534b4", 28), ("podman version 4.3", 0)])
def test_the_clients_version(said: str, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker").write_text(f"#!/bin/sh\necho '{said}'\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert docker_command._version() == version


def test_a_missing_client_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="is it installed"):
        docker_command._version()
