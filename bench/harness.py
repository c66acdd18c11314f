"""Takes the samples of a scenario in turn.

A scenario is a small class: `cases` says what varies, `world` builds what all cases share, `subjects` gives those who
take part in one case, each as a function from a seed to values. Everything else, turns, seeds, records, checks and the
report, happens here and in report.py.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeVar

from bench.results import Outcome, Remark, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from bench.results import Metric, Value

World = TypeVar("World")
Values = dict[str, float]
Taken = Values | list[Values]
"""One sample, or several that were taken in one go."""


@dataclass(frozen=True)
class Case:
    """One point of what varies, and how often each subject is sampled there."""

    vary: dict[str, Value]
    turns: int
    fewer: Mapping[str, int] = field(default_factory=dict)
    """Subjects that are sampled less often, since each sample takes them long."""


class Plot(NamedTuple):
    """A picture of a metric over what varies.

    `x` is on the axis (several keys with commas between stand there together), and each value of `panel` has a panel.
    Where there is one case, each subject has a bar.
    """

    name: str
    metric: str
    x: str
    title: str
    panel: str = ""
    only: Mapping[str, Value] = {}
    """Cases that are shown, where not all are."""
    log_x: bool = False
    log_y: bool = False
    bound: str = ""
    """Another metric that is drawn as a dashed line: what is stated, beside what was seen."""
    x_label: str = ""
    """What `x` is, where its name does not say it."""
    limit: float = 0.0
    """A dotted line: who takes longer is stopped there, and counts as that."""


class Scenario(ABC, Generic[World]):
    """What a file in bench/scenarios/ declares."""

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    plots: ClassVar[tuple[Plot, ...]] = ()
    reference: ClassVar[str] = "arpipam"

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.notes: list[str] = []

    @abstractmethod
    def cases(self) -> Iterable[Case]:
        """What varies."""

    @abstractmethod
    def world(self) -> AbstractContextManager[World]:
        """What all cases share, say a lab."""

    @abstractmethod
    def subjects(self, world: World, case: Case) -> AbstractContextManager[Mapping[str, Callable[[int], Taken]]]:
        """Who takes part in this case. Each is called with a seed at every turn, and gives back what it measured."""

    def check(self, outcome: Outcome) -> Iterable[Remark]:  # noqa: ARG002 - most have something to check
        """Judge the samples."""
        return ()


class Stopwatch:
    """Seconds that the body of a `with` took."""

    seconds = 0.0

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started


def run(scenario: Scenario[Any], seed: int, told: Callable[[str], None] = lambda _: None) -> Outcome:
    """Take all samples of a scenario: A B A B, each pair under the same seed, and judge them."""
    outcome = Outcome(
        name=scenario.name,
        title=scenario.title,
        about=" ".join(scenario.about.split()),
        metrics=list(scenario.metrics),
        reference=scenario.reference,
    )
    started = time.monotonic()
    with scenario.world() as world:
        for case in scenario.cases():
            told(", ".join(f"{key} {value}" for key, value in case.vary.items()))
            with scenario.subjects(world, case) as subjects:
                outcome.samples += _turns(scenario.name, case, subjects, seed)
    outcome.findings = [
        Remark(red=True, text=f"{sample.subject} at {sample.vary}: {sample.error}")
        for sample in outcome.samples
        if sample.error
    ]
    outcome.findings += scenario.check(outcome)
    outcome.notes = list(dict.fromkeys(scenario.notes))
    outcome.seconds = time.monotonic() - started
    return outcome


def _turns(scenario: str, case: Case, subjects: Mapping[str, Callable[[int], Taken]], base: int) -> Iterator[Sample]:
    for turn in range(case.turns):
        seed = random.Random(f"{base} {scenario} {sorted(case.vary.items())} {turn}").getrandbits(31)
        for name, take in subjects.items():
            if turn >= case.fewer.get(name, case.turns):
                continue
            taken: Taken = {}
            error = ""
            try:
                taken = take(seed)
            except Exception as problem:  # noqa: BLE001 - a subject that fails is a result too, and a red one
                error = f"{type(problem).__name__}: {problem}"
            for values in taken if isinstance(taken, list) else [taken]:
                yield Sample(vary=case.vary, subject=name, turn=turn, seed=seed, values=values, error=error)


@contextmanager
def nothing() -> Iterator[None]:
    """A world without anything in it."""
    with nullcontext():
        yield
