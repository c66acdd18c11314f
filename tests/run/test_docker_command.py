"""Docker's options that decide about the address, told from the command's own words with the client's help."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from arpipam.errors import InputError
from arpipam.lab import CLIENTS
from launcher.run.docker_command import refuse_ours

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=CLIENTS, autouse=True, ids=lambda path: path.replace("/", "-").strip("-"))
def client(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker` is one of this machine's clients."""
    (tmp_path / "docker").symlink_to(request.param)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-d", "--ip", "172.16.42.9", "busybox"], "--ip"),
        (["-it", "-v", "/a:/b", "--net=host", "busybox"], "--network"),
        (["--rm", "--network", "host", "busybox"], "--network"),
        (["-e", "A=b", "--init", "--mac-address=02:00:00:00:00:01", "busybox"], "--mac"),
        (["-itv", "/a:/b", "--ip=172.16.42.9", "busybox"], "--ip"),
    ],
)
def test_an_address_among_dockers_options_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=f"arpipam-run {said} "):
        refuse_ours(words)


@pytest.mark.parametrize(
    "words",
    [
        ["-d", "busybox", "tool", "--ip", "172.16.42.9"],
        ["-itv", "/a:/b", "busybox", "--network", "x"],
        ["-eA=b", "--rm", "busybox", "--mac-address", "x"],
        ["--name", "--ip", "busybox"],
        ["--", "busybox", "--ip", "x"],
        ["busybox"],
    ],
)
def test_the_words_of_the_containers_command_are_its_own(words: list[str]) -> None:
    refuse_ours(words)
