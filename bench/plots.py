"""Pictures of a scenario: a line for each subject, the quartiles (of shares: the interval) around it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from bench import stats

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.harness import Plot
    from bench.results import Metric, Outcome, Value

_WIDE, _HIGH = 4.6, 3.4
"""Inches, of one panel without the legend."""
_COLUMNS, _ROW = 2, 0.2
"""Of the legend, for each panel; inches."""
_DPI = 120
_COLOURS = mpl.colormaps["tab10"]
mpl.rcParams["svg.hashsalt"] = "arpipam"  # the same samples make the same file
mpl.rcParams["svg.fonttype"] = "none"


def draw(outcome: Outcome, plot: Plot, folder: Path) -> bool:
    """Draw one picture as SCENARIO-NAME.png and .svg; whether there was anything to draw."""
    figure = picture(outcome, plot)
    if figure is None:
        return False
    base = folder / f"{outcome.name}-{plot.name}"
    figure.savefig(base.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(base.with_suffix(".png"), dpi=_DPI)
    return True


def picture(outcome: Outcome, plot: Plot) -> Figure | None:
    """One picture; None where there is nothing to draw."""
    metric = _metric(outcome, plot)
    cases = [
        case
        for case in outcome.cases()
        if _x(case, plot) is not None and all(case.get(key) == value for key, value in plot.only.items())
    ]
    subjects = [name for name in outcome.subjects() if any(outcome.values(plot.metric, name, case) for case in cases)]
    if not cases or not subjects:
        return None
    if len(cases) == 1:
        return _bars(outcome, plot, cases[0], subjects)
    panels: list[Value | None] = list(dict.fromkeys(case[plot.panel] for case in cases)) if plot.panel else [None]
    columns = _COLUMNS * len(panels)
    figure = Figure(
        figsize=(_WIDE * len(panels), _HIGH + _ROW * (2 + len(subjects) // columns)),
        layout="constrained",
    )
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for panel, ax in zip(panels, axes, strict=True):
        chosen = [case for case in cases if panel is None or case[plot.panel] == panel]
        for number, name in enumerate(subjects):
            _line(ax, outcome, plot, chosen, name=name, number=number)
        _dress(ax, plot, metric, chosen)
        if panel is not None:
            ax.set_title(f"{plot.panel} {panel}", fontsize=10)
    if not plot.log_y and not metric.share:
        axes[0].set_ylim(bottom=0)  # of all panels, when all are drawn: it ends their scaling
    axes[0].set_ylabel(_named(metric))
    figure.suptitle(plot.title, fontsize=11)
    shown = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(shown.values()),
        list(shown),
        loc="outside lower center",
        ncols=min(columns, len(shown)),
        fontsize=8,
        frameon=False,
    )
    return figure


def _bars(outcome: Outcome, plot: Plot, case: dict[str, Value], subjects: Sequence[str]) -> Figure:
    """A bar for each subject, where nothing varies."""
    metric = _metric(outcome, plot)
    figure = Figure(figsize=(_WIDE + 1, 1.2 + 0.4 * len(subjects)), layout="constrained")
    ax = figure.subplots()
    for number, name in enumerate(subjects):
        middle, below, above = _around(metric, outcome.values(plot.metric, name, case))
        colour = _COLOURS(number % _COLOURS.N)
        ax.barh(number, middle, xerr=[[below], [above]], color=colour, height=0.6, capsize=2)
    ax.set_yticks(range(len(subjects)), subjects, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel(_named(metric))
    _plain(ax)
    figure.suptitle(plot.title, fontsize=11)
    return figure


def _metric(outcome: Outcome, plot: Plot) -> Metric:
    return next(metric for metric in outcome.metrics if metric.name == plot.metric)


def _named(metric: Metric) -> str:
    unit = "share" if metric.share else metric.unit
    return f"{metric.name} ({unit})" if unit else metric.name


def _around(metric: Metric, samples: Sequence[float]) -> tuple[float, float, float]:
    """The middle of at least one sample, and how far it is to both ends of the error bar."""
    if metric.share:
        found = stats.share(samples)
        middle, low, high = found.share, found.low, found.high
    else:
        whole = stats.summary(samples)
        assert whole is not None  # noqa: S101 - there are samples
        middle, low, high = whole.median, whole.low, whole.high
    return middle, max(0.0, middle - low), max(0.0, high - middle)


def _plain(ax: Axes) -> None:
    ax.grid(visible=True, alpha=0.3)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _line(ax: Axes, outcome: Outcome, plot: Plot, cases: Sequence[dict[str, Value]], *, name: str, number: int) -> None:
    metric = _metric(outcome, plot)
    places, middles, lows, highs, bounds = [], [], [], [], []
    numeric = _numeric(cases, plot)
    for place, case in enumerate(cases):
        samples = outcome.values(plot.metric, name, case)
        if not samples:
            continue
        places.append(float(_x(case, plot) or 0) if numeric else float(place))
        middle, below, above = _around(metric, samples)
        middles.append(middle)
        lows.append(below)
        highs.append(above)
        stated = stats.summary(outcome.values(plot.bound, name, case)) if plot.bound else None
        bounds.append(float("nan") if stated is None else stated.median)
    if not places:
        return
    first = name == outcome.reference
    colour = _COLOURS(number % _COLOURS.N)
    ax.errorbar(
        places,
        middles,
        yerr=[lows, highs],
        label=name,
        color=colour,
        marker="o",
        markersize=5 if first else 3.5,
        linewidth=2.2 if first else 1.1,
        capsize=2,
        zorder=3 if first else 2,
    )
    if not all(map(math.isnan, bounds)):
        ax.plot(places, bounds, linestyle="--", color=colour, linewidth=1, label=f"{name}, as stated")


def _dress(ax: Axes, plot: Plot, metric: Metric, cases: Sequence[dict[str, Value]]) -> None:
    if plot.log_y:
        ax.set_yscale("symlog" if metric.share else "log", **({"linthresh": 1e-3} if metric.share else {}))
    if _numeric(cases, plot):
        if plot.log_x:
            ax.set_xscale("log")
    else:
        ax.set_xticks(range(len(cases)), [str(_x(case, plot)) for case in cases], fontsize=8)
    if plot.limit:
        ax.axhline(plot.limit, linestyle=":", color="gray", linewidth=1, label="stopped there")
    ax.set_xlabel(plot.x_label or plot.x)
    _plain(ax)


def _numeric(cases: Sequence[dict[str, Value]], plot: Plot) -> bool:
    return all(not isinstance(_x(case, plot), str) for case in cases)


def _x(case: dict[str, Value], plot: Plot) -> Value | None:
    """Where a case stands on the axis; None where it does not."""
    keys = plot.x.split(", ")
    if any(key not in case for key in keys):
        return None
    return case[plot.x] if len(keys) == 1 else ", ".join(str(case[key]) for key in keys)
