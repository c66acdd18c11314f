"""The options that commands share: where a default comes from, and what the environment says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from launcher.commands import options as options_module
from launcher.commands.options import execute, shared_options

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.options import Options

FABRIC = """
[fabric]
bridge = "lan0"
subnet = "172.16.42.0/24"
tunnel = "vxlan"

[[host]]
name = "host1"
address = "172.16.42.1/24"
underlay = "192.168.122.1"
"""


def options(*words: str) -> Options:
    """What a command with the shared options is given."""
    seen: list[Options] = []

    @click.command()
    @shared_options
    def command(options: Options) -> None:
        seen.append(options)

    assert execute(command, "arpipam", words) == 0
    return seen[0]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(options_module, "DEFAULT_FABRIC", tmp_path / "none.toml")
    file = tmp_path / "fabric.toml"
    file.write_text(FABRIC)
    return file


def test_the_fabric_file_of_the_environment_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (options().interface, options().declared) == ("docker0", None)
    monkeypatch.setenv("ARPIPAM_FABRIC", str(file))
    read = options()
    assert read.interface == "lan0"
    assert read.declared is not None
    assert [host.name for host in read.declared.hosts] == ["host1"]


def test_another_interface_than_the_fabrics_bridge_has_no_declared_network(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARPIPAM_FABRIC", str(file))
    read = options("-I", "eth9")
    assert (read.interface, read.declared) == ("eth9", None)


def test_the_usual_fabric_file_is_read_where_there_is_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options_module, "DEFAULT_FABRIC", file)
    assert options().interface == "lan0"


def test_a_fabric_file_that_is_named_but_is_not_there(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARPIPAM_FABRIC", f"{file}-of-nobody")

    @click.command()
    @shared_options
    def command(options: Options) -> None:  # noqa: ARG001 - not reached
        raise AssertionError

    assert execute(command, "arpipam", []) == 2
    assert capsys.readouterr().err.startswith(f"arpipam: {file}-of-nobody: No such file or directory; ")
