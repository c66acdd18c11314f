"""The harness without a network: what it makes of samples."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from bench import compare, crowd, harness, plots, report, stats
from bench.results import Metric, Outcome, Remark, Run, Sample, load
from bench.scenarios import SCENARIOS
from bench.scenarios.first_free import surveyed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

METRICS = [Metric(name="seconds"), Metric(name="missed", share=True)]


class Toy(harness.Scenario[list[str]]):
    """Two subjects whose samples are drawn."""

    name = "toy"
    title = "a toy"
    about = "Nothing."
    metrics = tuple(METRICS)

    def cases(self) -> Iterable[harness.Case]:
        yield harness.Case({"size": 1}, 3)
        yield harness.Case({"size": 2}, 3, {"peer": 1})

    @contextmanager
    def world(self) -> Iterator[list[str]]:
        yield []

    @contextmanager
    def subjects(self, world: list[str], case: harness.Case) -> Iterator[Mapping[str, Callable[[int], harness.Taken]]]:
        def take(name: str) -> Callable[[int], harness.Taken]:
            def taken(seed: int) -> harness.Taken:
                world.append(name)
                if name == "broken":
                    raise RuntimeError("it broke")
                return {"seconds": random.Random(seed).random() * int(case.vary["size"])}

            return taken

        yield {name: take(name) for name in ("arpipam", "peer", "broken")}

    def check(self, outcome: Outcome) -> Iterable[Remark]:
        yield Remark(red=False, text=f"{len(outcome.samples)} samples")


def test_samples_are_taken_in_turn_and_from_seeds() -> None:
    outcome = harness.run(Toy(quick=True), 7)
    order = [sample.subject for sample in outcome.samples]
    assert order == ["arpipam", "peer", "broken"] * 4 + ["arpipam", "broken"] * 2
    again = harness.run(Toy(quick=True), 7)
    assert [sample.values for sample in again.samples] == [sample.values for sample in outcome.samples]
    assert outcome.samples[0].seed == outcome.samples[1].seed != outcome.samples[3].seed
    assert outcome.samples[0].seed != harness.run(Toy(quick=True), 8).samples[0].seed


def test_a_subject_that_fails_is_red() -> None:
    outcome = harness.run(Toy(quick=True), 7)
    assert outcome.red
    assert "it broke" in outcome.findings[0].text
    assert outcome.findings[-1].text == f"{len(outcome.samples)} samples"


def test_the_summary_of_known_samples() -> None:
    found = stats.summary([float(n) for n in range(1, 102)])
    assert found is not None
    assert (found.median, found.low, found.high, found.spread) == (51, 26, 76, 50)
    assert found.p99 == pytest.approx(100)
    assert found.sure_low < 51 < found.sure_high
    assert stats.summary([]) is None


def test_wilsons_interval_against_published_figures() -> None:
    """0 of 10 and 1 of 10 at 95 %, as in Brown, Cai and DasGupta (2001), and in any table."""
    assert stats.share([0.0] * 10)[2:] == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert stats.share([1.0] + [0.0] * 9)[2:] == pytest.approx((0.0179, 0.4042), abs=1e-4)
    assert stats.share([])[2:] == (0.0, 1.0)


def test_an_exponent_is_found_again() -> None:
    xs = [10.0, 30.0, 100.0, 300.0, 1000.0]
    found = stats.power(xs, [3 * x**1.5 for x in xs])
    assert found is not None
    assert (found.factor, found.exponent) == pytest.approx((3, 1.5))
    assert stats.power([1.0, 2.0], [1.0, 2.0]) is None


def run_of(seconds: Iterable[float], missed: int = 0, of: int = 100) -> Run:
    samples = [
        Sample(vary={"size": 1}, subject="arpipam", turn=turn, seed=1, values={"seconds": value})
        for turn, value in enumerate(seconds)
    ]
    samples += [
        Sample(vary={"size": 1}, subject="arpipam", turn=turn, seed=1, values={"missed": float(turn < missed)})
        for turn in range(of)
    ]
    outcome = Outcome(name="toy", title="", about="", metrics=METRICS, reference="arpipam", samples=samples)
    return Run(started="", quick=True, seed=1, machine={"processors": "2"}, versions={}, outcomes=[outcome])


def noisy(middle: float, seed: int) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(middle, 0.1) for _ in range(30)]


def test_two_runs_of_the_same_are_the_same() -> None:
    for seed in range(20):
        found = compare.changes(run_of(noisy(1, seed)), run_of(noisy(1, seed + 1000)))
        assert {change.verdict for change in found} == {"same"}, seed


def test_what_got_better_or_worse_is_said() -> None:
    seconds, missed = compare.changes(run_of(noisy(1, 1)), run_of(noisy(1.5, 2), missed=20))
    assert (seconds.verdict, missed.verdict) == ("worse", "worse")
    seconds, missed = compare.changes(run_of(noisy(1, 1), missed=20), run_of(noisy(0.5, 2)))
    assert (seconds.verdict, missed.verdict) == ("better", "better")


def test_less_than_a_twentieth_or_two_samples_say_nothing_of_two_runs() -> None:
    for old, new, verdict in (
        ([1.0] * 9, [1.04] * 9, "same"),
        ([1.0] * 9, [1.08] * 9, "worse"),
        ([1.0] * 2, [2.0] * 2, "same"),
        ([1 + n / 200 for n in range(200)], [1.4 + n / 200 for n in range(200)], "same"),  # within the spread
    ):
        assert compare.changes(run_of(old), run_of(new))[0].verdict == verdict, (old, new)


@pytest.mark.parametrize(
    ("peer", "verdict"),
    [(1.0, "worse"), (1.3, "worse"), (1.7, compare.SLOWER_MACHINE)],
    ids=["as fast", "less", "more"],
)
def test_a_time_that_grew_less_than_a_peers_is_the_machines(peer: float, verdict: str) -> None:
    old, new = run_of(noisy(1, 1)), run_of(noisy(1.5, 2))
    for run, factor in ((old, 1.0), (new, peer)):
        samples = run.outcomes[0].samples
        samples += [
            sample.model_copy(update={"subject": "arping", "values": {"seconds": value}})
            for sample, value in zip(samples, noisy(factor, 7), strict=False)
        ]
    ours = next(change for change in compare.changes(old, new) if change.subject == "arpipam")
    assert ours.verdict == verdict


@pytest.mark.parametrize("words", [["-m", "bench.compare"], ["bench/compare.py"]])
def test_compare_runs_both_ways(words: list[str], tmp_path: Path) -> None:
    for name, run in {"old": run_of(noisy(1, 1)), "new": run_of(noisy(2, 2))}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(run.model_dump_json())
    done = subprocess.run(
        [sys.executable, *words, str(tmp_path / "old"), str(tmp_path / "new")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "worse" in done.stdout
    assert "1 the same within the noise" in done.stdout


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    run = run_of([1.0, 2.0])
    run.outcomes[0].name = "first-free"
    run.outcomes[0].samples[0].vary.update({"subnet": "/24", "in use": "0 %"})
    report.write(run, tmp_path)
    assert load(tmp_path) == run
    assert load(tmp_path / "results.json") == run
    (tmp_path / "results.json.gz").write_bytes(gzip.compress((tmp_path / "results.json").read_bytes()))
    (tmp_path / "results.json").unlink()
    assert load(tmp_path) == run


def varied(*known: tuple[int, str, str, float]) -> Outcome:
    """Of samples, each with a size, a kind, a subject and its seconds."""
    samples = [
        Sample(vary={"size": size, "kind": kind}, subject=subject, turn=turn, seed=1, values={"seconds": seconds})
        for size, kind, subject, seconds in known
        for turn in range(3)
    ]
    return Outcome(name="toy", title="", about="", metrics=METRICS, reference="arpipam", samples=samples)


def test_a_picture_shows_every_sample_and_names_every_subject_whichever_panel_it_is_in() -> None:
    outcome = varied((1, "a", "arpipam", 1), (2, "a", "arpipam", 2), (1, "b", "arpipam", 50), (2, "b", "peer", 90))
    figure = plots.picture(outcome, harness.Plot("toy", "seconds", "size", "A toy", panel="kind", limit=1.5))
    assert figure is not None
    for ax in figure.axes:
        low, high = ax.get_ylim()
        assert low == 0
        assert high > 90
    [legend] = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {"arpipam", "peer", "stopped there"}


def test_several_keys_stand_on_an_axis_together_and_one_case_has_bars() -> None:
    outcome = varied((1, "a", "arpipam", 1), (1, "b", "arpipam", 2), (1, "b", "peer", 3))
    plot = harness.Plot("toy", "seconds", "size, kind", "A toy")
    both = plots.picture(outcome, plot)
    one = plots.picture(outcome, plot._replace(only={"kind": "b"}))
    assert both is not None
    assert one is not None
    assert [label.get_text() for label in both.axes[0].get_xticklabels()] == ["1, a", "1, b"]
    assert [bar.get_extents().width > 0 for bar in one.axes[0].patches] == [True, True]
    assert plots.picture(outcome, plot._replace(x="colour")) is None


def test_the_surveys_time_is_that_of_its_windows() -> None:
    assert surveyed(32, 0.02) == pytest.approx(0.02)
    assert surveyed(32 + 64, 0.02) == pytest.approx(0.04 + 14 / 5000)


@pytest.mark.parametrize("cut", [0.0, 5.0])
def test_the_crowd_is_the_same_from_the_same_seed(cut: float) -> None:
    plan = crowd.Plan(hosts=12, claims=2, per_second=10, loss=0.1, cut=cut)
    first, second = crowd.claims(plan, 3), crowd.claims(plan, 3)
    assert first == second
    assert first != crowd.claims(plan, 4)
    assert (first["duplicates"], first["without"]) == (0, 0)


def test_many_at_once_the_articles_way_share_one_address() -> None:
    values = crowd.article(crowd.Plan(hosts=8, claims=1), 1)
    assert values["duplicates"] == 7


def test_every_scenario_says_what_it_is() -> None:
    wanted = {
        "first-free",
        "sweep",
        "launch",
        "concurrent",
        "false-free",
        "handover",
        "fabric",
        "agent",
        "lease-load",
        "scale",
    }
    assert set(SCENARIOS) == wanted
    for kind in SCENARIOS.values():
        made: Any = kind(quick=False)
        names = {metric.name for metric in made.metrics}
        assert all(plot.metric in names for plot in made.plots)
        assert list(made.cases())
