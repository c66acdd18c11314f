"""arpipam-run where it cannot work: one line that says why, docker's own exit status or ours, and nothing is left."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arpipam.lab import Host, Lab
from arpipam.leases.lease import LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = pytest.mark.engine

RUN = str(Path(sys.executable).parent / "arpipam-run")
FOREIGN = ["172.16.42.2", "172.16.42.3"]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]


@pytest.fixture(scope="module")
def laboratory() -> Iterator[Host]:
    with Lab() as lab:
        wire = lab.wire()
        host = lab.host("host", wire, "172.16.42.1/24", engine=True)
        lab.start()
        lab.station("foreign", wire, *(f"{address}/24" for address in FOREIGN))
        yield host


@pytest.fixture
def host(laboratory: Host) -> Iterator[Host]:
    """Without containers when the test ends, whatever went wrong in it."""
    yield laboratory
    if containers := laboratory.docker("ps", "-aq").stdout.split():
        laboratory.docker("rm", "--force", *containers)


def assert_one_line(done: subprocess.CompletedProcess[str], status: int, *said: str) -> None:
    assert done.stderr.startswith("arpipam-run: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    assert "Traceback" not in done.stderr
    assert [word for word in said if word not in done.stderr] == []
    assert (done.returncode, done.stdout) == (status, "")


def assert_nothing_left(host: Host, state: Path) -> None:
    """No container, and no address that is held or kept back for anybody."""
    assert host.docker("ps", "-aq").stdout == ""
    if (state / "leases.db").exists():
        with SqliteLeaseStore(state / "leases.db") as store:
            assert store.leases(states=(LeaseState.CLAIMED, LeaseState.BOUND, LeaseState.QUARANTINED)) == []


ENGINES = {
    "no socket": ("unix://{folder}/none.sock", "No such file or directory"),
    "nobody listens": ("unix://{folder}/plain", "Connection refused"),
    "no server": ("tcp://127.0.0.1:1", "Connection refused"),
    "no address": ("nonsense", "nonsense"),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_without_an_engine_nothing_is_claimed(engine: str, host: Host, tmp_path: Path) -> None:
    url, why = ENGINES[engine]
    (tmp_path / "plain").touch()
    env = {"DOCKER_HOST": url.format(folder=tmp_path), "ARPIPAM_STATE_DIR": str(tmp_path / "state")}
    done = host.command(RUN, "busybox", "true", env=env)
    assert_one_line(done, 125, "cannot reach the Docker engine", why, "is it running")
    left = tmp_path / "state" / "leases.db"
    if left.exists():
        with SqliteLeaseStore(left) as store:
            assert store.leases(states=(LeaseState.CLAIMED, LeaseState.BOUND)) == []


def test_an_engine_that_has_ended_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with Lab() as lab:
        host = lab.host("host", lab.wire(), "172.16.42.1/24", engine=True)
        lab.start()
        assert host.engine is not None
        host.engine.end()
        done = host.command(RUN, "--alone", "busybox", "true", env={"ARPIPAM_STATE_DIR": str(tmp_path / "state")})
    assert_one_line(done, 125, "cannot reach the Docker engine", "is it running")
    assert not (tmp_path / "state" / "leases.db").exists()


def test_who_is_not_root_is_told_so(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.engine is not None
    state = tmp_path / "state"
    before = host.engine.socket.stat().st_mode
    host.engine.socket.chmod(0o666)  # it is the frames that are not allowed, not the engine
    monkeypatch.chdir("/")
    try:
        done = host.command(*NOBODY, RUN, "busybox", "true", env={"ARPIPAM_STATE_DIR": str(state)})
    finally:
        host.engine.socket.chmod(before)
    assert_one_line(done, 3, "docker0", "raw frames are not permitted", "run as root or with CAP_NET_RAW")
    assert_nothing_left(host, state)


def test_who_may_not_speak_to_the_engine_is_told_so(host: Host, tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = host.command(*NOBODY, RUN, "busybox", "true", env={"ARPIPAM_STATE_DIR": str(state)})
    assert_one_line(done, 125, "cannot reach the Docker engine", "Permission denied")
    assert_nothing_left(host, state)


def test_who_may_not_read_the_leases_is_told_so(host: Host) -> None:
    state = host.directory / "private"  # in a folder that all may look into
    state.mkdir(mode=0o700)
    done = host.command(*NOBODY, RUN, "busybox", "true", env={"ARPIPAM_STATE_DIR": str(state)})
    assert_one_line(done, 2, str(state), "not readable")
    assert_nothing_left(host, state)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--range", f"172.16.42.1-{FOREIGN[-1]}"], 1, ["no free address left", "2 in use", "widen the range"]),
        (["--range", "172.16.42.4", "--exclude", "172.16.42.4"], 2, ["172.16.42.0/24"]),
        (["--interface", "eth9"], 2, ["no interface 'eth9' here", "docker0"]),
        (["--interface", "uplink"], 2, ["uplink is a port of docker0", "use the bridge"]),
        (["--interface", "lo"], 3, ["lo carries no ARP"]),
        (["--ip", "172.16.42.7/25"], 2, ["172.16.42.7/25", "172.16.42.0/24"]),
        (["--ip", "172.16.42.7/33"], 2, ["172.16.42.7/33", "is not an address"]),
        (["--ip", "172.16.42.7/"], 2, ["172.16.42.7/", "is not an address"]),
        (["--ip", "172.16.42"], 2, ["172.16.42", "is not an address"]),
        (["--gateway", "172.16.43.1"], 2, ["--gateway 172.16.43.1", "172.16.42.0/24"]),
        (["--miss-probability", "2"], 2, ["miss"]),
        (["--rate", "0"], 2, ["rate"]),
        (["--rate", "many"], 2, ["many"]),
        (["--timing", "fast"], 2, ["fast"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_or_has_no_room_is_one_line(
    words: list[str], status: int, said: list[str], host: Host, tmp_path: Path
) -> None:
    done = host.command(RUN, *words, "busybox", "true", env={"ARPIPAM_STATE_DIR": str(tmp_path / "state")})
    assert_one_line(done, status, *said)
    assert_nothing_left(host, tmp_path / "state")


def test_no_image_is_one_line(host: Host, tmp_path: Path) -> None:
    done = host.command(RUN, "--json", env={"ARPIPAM_STATE_DIR": str(tmp_path / "state")})
    assert_one_line(done, 2, "no image is named")
    assert_nothing_left(host, tmp_path / "state")


def test_a_missing_image_is_dockers_to_say_and_leaves_nothing(host: Host, tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = host.command(RUN, "busybox:none", "true", env={"ARPIPAM_STATE_DIR": str(state)})
    assert done.returncode == 125
    assert "busybox:none" in done.stderr
    assert "arpipam-run" not in done.stderr
    assert (state / "leases.db").exists()  # an address was claimed for it
    assert_nothing_left(host, state)


def test_an_interface_that_is_down_is_one_line(host: Host, tmp_path: Path) -> None:
    host.namespace.ip(["link add down0 type bridge", "addr add 172.16.43.1/24 dev down0"])
    try:
        done = host.command(RUN, "-I", "down0", "busybox", "true", env={"ARPIPAM_STATE_DIR": str(tmp_path / "state")})
    finally:
        host.namespace.ip(["link delete down0"])
    assert_one_line(done, 3, "down0 is down; bring it up")
    assert_nothing_left(host, tmp_path / "state")
