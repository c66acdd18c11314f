"""arpipam-run and docker's ways to name an engine: each is honoured, and an engine on other links is refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Lab
from launcher.lab.agents import AgentOn
from tests.support.launchers import RUN, one_line

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from arpipam.lab import Host

FREE = "172.16.42.9"


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts with engines, each on a wire of its own with the same subnet."""
    with Lab() as lab:
        wires = lab.wire(), lab.wire()
        found = [lab.host(f"h{n}", wire, "172.16.42.1/24", bridge="lan0", engine=True) for n, wire in enumerate(wires)]
        lab.start()
        for number, wire in enumerate(wires):
            lab.station(f"printer{number}", wire, "172.16.42.3/24")
        yield found[0], found[1]


def url_of(host: Host) -> str:
    assert host.engine is not None
    return host.engine.env["DOCKER_HOST"]


@pytest.fixture
def folder(hosts: tuple[Host, Host], tmp_path: Path) -> Path:
    """docker's folder, in which both engines have a context."""
    folder = tmp_path / "docker"
    for name, host in zip(("near", "far"), hosts, strict=True):
        words = ["context", "create", name, "--docker", f"host={url_of(host)}"]
        clean(hosts[0], folder, "docker", *words)
    return folder


def clean(host: Host, folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it with none of the lab's own DOCKER_ variables but these."""
    unset = [
        word for name in os.environ.keys() | {"DOCKER_HOST"} if name.startswith("DOCKER_") for word in ("-u", name)
    ]
    said = [f"{name}={value}" for name, value in env.items()]
    return host.command("env", *unset, f"DOCKER_CONFIG={folder}", *said, *words, timeout=60)


def launch(host: Host, folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    state = folder.parent / "state"
    return clean(
        host,
        folder,
        RUN,
        "-I",
        "lan0",
        *words,
        "busybox",
        "sh",
        "-c",
        "ip -4 -o a show eth0",
        **env,
        ARPIPAM_STATE_DIR=str(state),
    )


@pytest.mark.parametrize("way", ["DOCKER_HOST", "DOCKER_CONTEXT", "current context", "-c", "--context", "-H"])
def test_every_way_leads_to_the_engine_that_is_named(way: str, hosts: tuple[Host, Host], folder: Path) -> None:
    here, far = hosts
    for name, host in (("near", here), ("far", far)):
        words = {"-c": ["-c", name], "--context": ["--context", name], "-H": ["-H", url_of(host)]}.get(way, [])
        env = {"DOCKER_HOST": {"DOCKER_HOST": url_of(host)}, "DOCKER_CONTEXT": {"DOCKER_CONTEXT": name}}.get(way, {})
        if way == "current context":
            assert clean(here, folder, "docker", "context", "use", name).returncode == 0
        done = launch(here, folder, *words, "--ip", FREE, "--rm", **env)
        if host is here:
            assert done.returncode == 0, done.stderr
            assert f"{FREE}/24" in done.stdout
        else:
            assert done.returncode == 125
            line = one_line(done)
            assert f"the engine at {url_of(far)} is in another network namespace" in line
            assert "unix:///var/run/docker.sock" in line
    assert far.docker("ps", "-aq").stdout == ""
    assert "arpipam" not in far.docker("network", "ls").stdout


def test_both_said_is_bad_usage(hosts: tuple[Host, Host], folder: Path) -> None:
    done = launch(hosts[0], folder, "-H", url_of(hosts[0]), "-c", "near")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_context_that_is_not_there_is_bad_input(hosts: tuple[Host, Host], folder: Path) -> None:
    done = launch(hosts[0], folder, "--context", "gone")
    assert done.returncode == 2
    assert "docker context 'gone' is not there" in one_line(done)


def test_an_engine_by_tcp_must_be_seen_here(hosts: tuple[Host, Host], folder: Path) -> None:
    here = hosts[0]
    assert here.engine is not None
    here.engine.end()
    here.namespace.ip(["link set lo up"])
    here.engine.start("-H", "tcp://127.0.0.1:2375")
    client = "/usr/bin/docker"  # of the engine's age: a newer one sets no MAC at this engine but by its socket
    (folder / "bin").mkdir()
    (folder / "bin/docker").symlink_to(client)
    path = f"{folder}/bin:{os.environ['PATH']}"
    done = launch(here, folder, "--ip", FREE, "--rm", DOCKER_HOST="tcp://127.0.0.1:2375", PATH=path)
    assert done.returncode == 0, done.stderr
    assert f"{FREE}/24" in done.stdout


def test_the_agent_follows_no_engine_elsewhere(hosts: tuple[Host, Host]) -> None:
    here, far = hosts
    with AgentOn(here, fabric=False) as agent:
        agent.wait(lambda: agent.client.status().engine.startswith(("1", "2")))
        agent.kill()
        text = agent.file.read_text()
        agent.file.write_text(text.replace(url_of(here), url_of(far)))
        agent.start()
        agent.wait(lambda: agent.client.status().failures)
        status = agent.client.status()
        [failure] = status.failures
        assert failure.reason == status.engine
        assert f"the engine at {url_of(far)} is in another network namespace" in failure.reason
