"""The layers: which package may import which. The text beside it is docs/architecture.md.

Every import counts, also one inside a function or under TYPE_CHECKING: a reader follows it either way.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
TREES = ("arpipam", "launcher", "bench", "tests")
LONGEST_FILE = 430  # lines: what a reader takes in at one sitting

LAYERS = (  # from the lowest up; a module belongs to the package with the longest name that fits it
    "arpipam.errors",
    "arpipam.protocol arpipam.leases arpipam.link",
    "arpipam",  # its face: allocator, aio, claim, options, results
    "arpipam.fabric",
    "arpipam.lab",
    "launcher launcher.agent.contract",  # launcher: its defaults, options, console and signals
    "launcher.engine",
    "launcher.agent.client launcher.agent.config",
    "launcher.agent launcher.run",  # launcher.agent: its journal, memory, metrics, log and pools
    "launcher.agent.server launcher.agent.network",
    (
        "launcher.agent.comparison launcher.agent.conflicts launcher.agent.refused launcher.agent.report "
        "launcher.agent.subnets"
    ),
    "launcher.agent.following",
    "launcher.agent.agent",
    "launcher.agent.main",
    "launcher.commands",
    "launcher.lab",
    "bench",
    "tests",
)
"""A module imports from its own package and from lower layers. Packages on one layer stay apart."""

EXCEPTIONS = {
    "arpipam.link": {"arpipam.protocol.arp", "arpipam.protocol.interest"},
}
"""The exceptions on one layer: the link reads packets, and asks the predicate which of them anybody wants."""


def modules() -> dict[str, Path]:
    """Every module of the trees by its name."""
    found = {}
    for tree in TREES:
        for path in (ROOT / tree).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def read(path: Path) -> set[str]:
    """What a file imports: modules of ours by their full name, others as they are written."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; name the whole module"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found


@cache  # not at import: each worker of a test run collects all files, and one runs this one
def imports() -> dict[str, set[str]]:
    """What each module imports."""
    return {module: read(path) for module, path in MODULES.items()}


def ours() -> dict[str, set[str]]:
    """What it imports of ours."""
    return {module: imported & MODULES.keys() for module, imported in imports().items()}


LAYER = {package: number for number, packages in enumerate(LAYERS) for package in packages.split()}


def package_of(module: str) -> str:
    return max((one for one in LAYER if f"{module}.".startswith(f"{one}.")), key=len)


def is_allowed(module: str, imported: str) -> bool:
    own, other = package_of(module), package_of(imported)
    return own == other or LAYER[other] < LAYER[own] or imported in EXCEPTIONS.get(own, ())


def wrong_ways() -> set[tuple[str, str]]:
    return {(module, one) for module, imported in ours().items() for one in imported if not is_allowed(module, one)}


def is_test(module: str) -> bool:
    return module.startswith("tests.") and module.rpartition(".")[2].startswith(("test_", "conftest"))


def test_every_import_points_down() -> None:
    assert not sorted(f"{module} -> {imported}" for module, imported in wrong_ways())


def test_no_circle() -> None:
    try:
        TopologicalSorter(ours()).prepare()
    except CycleError as error:
        raise AssertionError(" <- ".join(error.args[1])) from None


def test_no_test_imports_another() -> None:
    among_tests = {(module, one) for module, known in ours().items() for one in known if is_test(one)}
    assert not sorted(f"{module} -> {imported}" for module, imported in among_tests)


def test_docker_is_known_in_the_launcher_alone() -> None:
    outside = {module: imported for module, imported in imports().items() if module.startswith(("arpipam", "bench"))}
    knowing = (module for module, imported in outside.items() for one in imported if one.partition(".")[0] == "docker")
    assert not sorted(knowing)


def test_no_file_is_too_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES.values()}
    assert not sorted(f"{n}: {lines}" for n, lines in lengths.items() if lines > LONGEST_FILE)


def test_every_package_is_there() -> None:
    assert {package for package in LAYER if package != "tests"} <= MODULES.keys()


LEASE_WRITERS = re.compile(r"\b_?(?:store|leases)\.(?:reserve|record|hand_out|set_owner|release|bind|forget|reap)\(")
"""Calls that change a lease on disk."""


def test_one_file_of_the_agent_writes_leases() -> None:
    agent = {module: path for module, path in MODULES.items() if module.startswith("launcher.agent.")}
    writers = {module for module, path in agent.items() if LEASE_WRITERS.search(path.read_text())}
    assert writers == {"launcher.agent.network.holdings"}
