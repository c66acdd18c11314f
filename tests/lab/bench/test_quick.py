"""The harness end to end on real links: the shape of what it writes, without a look at the times."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.results import load
from bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from pathlib import Path


ALONE = {"lease-load"}
"""Its check compares the slowest answers, of which a busy machine has some at any time."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.timing] if name in ALONE else []) for name in SCENARIOS]
)
def test_a_quick_run_writes_samples_tables_and_pictures(name: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [name, "--quick", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    run = load(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["format"] == run.format
    assert run.quick
    assert not run.red
    assert {"processors", "kernel", "memory"} <= run.machine.keys()
    assert {"arpipam", "Python", "arping"} <= run.versions.keys()
    [outcome] = run.outcomes
    assert outcome.name == name
    assert [sample.error for sample in outcome.samples if sample.error] == []
    assert outcome.reference in outcome.subjects()
    told = {metric.name for metric in outcome.metrics}
    for sample in outcome.samples:
        assert sample.values
        assert sample.values.keys() <= told
        assert sample.seed > 0
    report = (tmp_path / "report.md").read_text()
    for subject in outcome.subjects():
        assert subject in report
    for plot in SCENARIOS[name].plots:
        drawn = [tmp_path / f"{name}-{plot.name}.{kind}" for kind in ("png", "svg")]
        assert all(picture.exists() for picture in drawn) == (drawn[1].name in report)
    assert list(tmp_path.glob("*.svg"))
