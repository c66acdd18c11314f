"""The documentation says what is there: the diagram, the examples, the options."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import arpipam
import arpipam.lab
from arpipam.claim_state import ClaimState
from launcher.commands.arpipam import arpipam as tool
from launcher.commands.run import command as run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PACKAGES = {"arpipam": set(arpipam.__all__), "arpipam.lab": set(arpipam.lab.__all__)}
OWN = ("probe", "find", "scan", "claim", "leases")  # the commands that the README describes by itself
BUILT_IN = {"--help", "--version"}  # click's own: --help is no parameter of a command
OF_OTHERS = {
    *("--ip-range", "--ipam-driver", "--mac-address", "--name", "--rm", "--subnet"),
    *("--no-deps", "--require-hashes"),
}
"""Options of docker and pip that the README names."""


def test_the_state_machine_is_drawn_from_its_table() -> None:
    drawn = subprocess.run([sys.executable, "docs/draw_acd.py"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert (ROOT / "docs/acd.md").read_text() == drawn.stdout, "run: python docs/draw_acd.py > docs/acd.md"


def test_every_path_of_the_architecture_exists() -> None:
    paths = set(re.findall(r"`([\w.-]+/[\w./-]+)`", (ROOT / "docs/architecture.md").read_text()))
    assert len(paths) > 20
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_there_are_examples() -> None:
    assert any("async with" in example for example in EXAMPLES)
    assert any("with arpipam.Allocator" in example for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_compile_and_use_only_what_is_exported(example: str) -> None:
    unknown = set()
    for node in ast.walk(ast.parse(example)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("arpipam"):
            assert node.module in PACKAGES
            unknown |= {alias.name for alias in node.names} - PACKAGES[node.module]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "arpipam":
            unknown |= {node.attr} - PACKAGES["arpipam"]
    assert not unknown
    compile(example, "README.md", "exec")


def test_errors_are_listed_with_their_exit_status() -> None:
    listed = dict(re.findall(r"^\| `(\w+Error)`[^|]*\| (\d+) \|", README, re.MULTILINE))
    errors = {getattr(arpipam, name) for name in arpipam.__all__ if name.endswith("Error")} - {arpipam.ArpipamError}
    assert listed == {error.__name__: str(error.exit_status) for error in errors}


def test_claim_states_are_listed() -> None:
    for state in ClaimState:
        assert f"`{state}`" in README


def long_options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts if name.startswith("--")}


def options_of(program: click.Command) -> set[str]:
    """What a program has, with that of its commands."""
    commands = list(program.commands.values()) if isinstance(program, click.Group) else []
    return long_options(program).union(*map(options_of, commands))


def table(heading: str) -> set[str]:
    """The options in the first table after that text."""
    _, _, rest = README.partition(heading)
    rows = re.search(r"(?:^\|.*\n)+", rest, re.MULTILINE)
    assert rows is not None
    first_cells = (row.split("|")[1] for row in rows[0].splitlines())
    return {option for cell in first_cells for option in re.findall(r"--[a-z][a-z-]*", cell)}


def test_shared_options_are_listed() -> None:
    for name in OWN:
        assert table("### Options") == long_options(tool.commands[name]), name


def test_options_of_the_launcher_are_listed() -> None:
    assert table("## Containers: arpipam-run") | table("### Options") == long_options(run)


def test_every_option_that_is_named_exists() -> None:
    known = options_of(tool) | options_of(run) | BUILT_IN | OF_OTHERS
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README)) <= known


def test_every_command_is_listed() -> None:
    listed = set(re.findall(r"^\| `arpipam ([a-z]+)", README, re.MULTILINE))
    assert listed | {"fabric"} >= set(tool.commands)
    assert listed <= set(tool.commands)


def test_environment_variables_that_are_named_exist() -> None:
    known = {str(parameter.envvar) for parameter in [*tool.commands["probe"].params, *run.params] if parameter.envvar}
    assert set(re.findall(r"ARPIPAM_[A-Z_]*[A-Z]", README)) <= known


def test_exit_statuses_are_listed() -> None:
    rows = set(re.findall(r"^\| (\d+) \|", README.partition("### Exit status")[2], re.MULTILINE))
    errors = {str(getattr(arpipam, name).exit_status) for name in arpipam.__all__ if name.endswith("Error")}
    assert rows == errors | {"0", "125", "130"}
