"""The report of a run: tables in Markdown, and pictures beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plots, stats
from bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bench.results import Metric, Outcome, Run, Value

_MILLI = 1e-3
_MICRO = 1e-6
_INTRO = """\
Each cell is the median of its samples, and in brackets the 99th percentile and the spread (the distance of the
quartiles). Shares are given as hits of samples, and in brackets the interval that holds the true share with
{confidence:.0%} confidence (Wilson). Subjects were sampled in turn, in the same run; a ratio is a subject's median
to that of {reference}'s.
"""


def write(run: Run, folder: Path) -> None:
    """results.json, report.md and the pictures, into that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(run.model_dump_json() + "\n")
    (folder / "report.md").write_text("\n".join(_report(run, folder)) + "\n")


def _report(run: Run, folder: Path) -> Iterable[str]:
    red = [outcome.name for outcome in run.outcomes if outcome.red]
    yield f"# arpipam, measured{' (quick)' if run.quick else ''}"
    yield ""
    yield f"Taken {run.started}, {run.seconds / 60:.1f} minutes, seed {run.seed}. " + (
        f"**Red: {', '.join(red)}.**" if red else "All checks hold."
    )
    if run.fault:
        yield f"\n**Faults were put in on purpose: {run.fault}.**"
    yield ""
    yield from _table(["machine", ""], [[key, value] for key, value in run.machine.items()])
    yield ""
    yield "Versions: " + ", ".join(f"{name} {number}" for name, number in run.versions.items()) + "."
    yield ""
    yield _INTRO.format(confidence=stats.CONFIDENCE, reference="arpipam")
    for outcome in run.outcomes:
        yield from _scenario(outcome, folder)


def _scenario(outcome: Outcome, folder: Path) -> Iterable[str]:
    yield f"## {outcome.name}: {outcome.title}"
    yield ""
    yield outcome.about
    yield ""
    for finding in outcome.findings:
        yield f"- {'**RED** ' if finding.red else ''}{finding.text}"
    yield ""
    for plot in SCENARIOS[outcome.name].plots:
        if plots.draw(outcome, plot, folder):
            yield f"![{plot.title}]({outcome.name}-{plot.name}.svg)"
            yield ""
    for metric in outcome.metrics:
        if metric.shown:
            yield from _metric(outcome, metric)
    for note in outcome.notes:
        yield f"*Left out: {note}*"
        yield ""


def _metric(outcome: Outcome, metric: Metric) -> Iterable[str]:
    subjects = [name for name in outcome.subjects() if outcome.values(metric.name, name)]
    cases = [case for case in outcome.cases() if any(outcome.values(metric.name, name, case) for name in subjects)]
    if not cases:
        return
    keys = list(dict.fromkeys(key for case in cases for key in case))
    rows = [
        [str(case.get(key, "")) for key in keys] + [_cell(outcome, metric, name, case) for name in subjects]
        for case in cases
    ]
    yield f"**{metric.name}**" + (f", {metric.unit}" if metric.unit and metric.unit != "s" else "")
    yield ""
    yield from _table([*keys, *subjects], rows)
    yield ""


def _cell(outcome: Outcome, metric: Metric, subject: str, case: dict[str, Value]) -> str:
    samples = outcome.values(metric.name, subject, case)
    if metric.share:
        if not samples:
            return ""
        found = stats.share(samples)
        return f"{found.hits} of {found.samples} ({found.low:.2%} to {found.high:.2%})"
    whole = stats.summary(samples)
    if whole is None:
        return ""
    text = f"{_shown(whole.median, metric)} ({_shown(whole.p99, metric)}, ±{_shown(whole.spread, metric)})"
    reference = stats.summary(outcome.values(metric.name, outcome.reference, case))
    if subject != outcome.reference and reference is not None and reference.median > 0:
        text += f" {_number(whole.median / reference.median)}x"
    return text


def _shown(value: float, metric: Metric) -> str:
    if metric.unit != "s":
        return _number(value)
    if 0 < abs(value) < _MILLI:
        return f"{value / _MICRO:.0f} µs"
    if 0 < abs(value) < 1:
        return f"{value / _MILLI:.3g} ms"
    return f"{value:.3g} s"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits are enough


def _table(head: list[str], rows: Iterable[list[str]]) -> Iterable[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
