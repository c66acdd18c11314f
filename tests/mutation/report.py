"""What a mutation run found: a line for each module, and the survivors that the list does not know."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

LEAST_KILLED = 0.95
LISTED = Path(__file__).with_name("survivors.toml")


class Change(NamedTuple):
    """One mutant, by what it changes: mutmut's numbers move with each line that is added above."""

    function: str
    change: str


class Mutant(NamedTuple):
    """A mutant and its fate: killed, timeout, survived, no tests or not checked."""

    module: str
    change: Change | None
    status: str


def change_in(diff: str) -> str:
    """The changed lines of a unified diff as `before -> after`."""
    lines = diff.splitlines()[2:]
    before = " ".join(line[1:].strip() for line in lines if line.startswith("-"))
    after = " ".join(line[1:].strip() for line in lines if line.startswith("+"))
    return f"{before} -> {after}"


def read_listed(path: Path = LISTED) -> dict[Change, str]:
    """The survivors that are known to be harmless, and why."""
    groups = tomllib.loads(path.read_text("utf-8"))["harmless"]
    return {Change(function, change): group["why"] for group in groups for function, change in group["changes"]}


def summary(mutants: list[Mutant]) -> list[str]:
    """A line for each module, and one for all."""
    modules = sorted({mutant.module for mutant in mutants})
    counts = {name: Counter(mutant.status for mutant in mutants if mutant.module == name) for name in modules}
    counts["all"] = Counter(mutant.status for mutant in mutants)
    lines = [f"{'module':36} {'mutants':>7} {'killed':>7} {'lived':>7} {'not run':>7} {'share':>8}"]
    for name, count in counts.items():
        skipped = count["not checked"]
        killed = _killed(count)
        tried = count.total() - skipped
        share = f"{killed / tried:8.1%}" if tried else "        -"
        lines.append(f"{name:36} {count.total():7} {killed:7} {tried - killed:7} {skipped:7} {share}")
    return lines


def problems(mutants: list[Mutant], listed: dict[Change, str]) -> list[str]:
    """Why the run fails; empty where it passes."""
    count = Counter(mutant.status for mutant in mutants)
    tried = count.total() - count["not checked"]
    found = [
        f"not listed: {mutant.change.function}\n    {mutant.change.change}"
        for mutant in mutants
        if mutant.change is not None and mutant.change not in listed
    ]
    if not tried:
        return ["no mutant was tried"]
    if _killed(count) < LEAST_KILLED * tried:
        found.append(f"{_killed(count)} of {tried} killed: fewer than {LEAST_KILLED:.0%}")
    return found


def _killed(count: Counter[str]) -> int:
    """A mutant that never ends is noticed too."""
    return count["killed"] + count["timeout"]
