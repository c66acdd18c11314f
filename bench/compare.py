"""`python -m bench.compare OLD NEW`: what got better or worse between two runs, beyond the noise.

A median differs where the two intervals of confidence do not meet, and the medians are further apart than the wider
spread and than a twentieth: the samples of one run say nothing of what differs from run to run (where the kernel put
things, what else the machine did). Where a run has one or two samples there is no spread, and nothing is said. A share
differs where its two intervals do not meet.

The machine itself may be slower in one of the runs: then its peers are slower too. A time of arpipam that grew no more
than some time of a peer in the same scenario (in the same run, where the scenario has no peer) is called `slower
machine`, and not `worse`. Exit status 1 where something of arpipam got worse.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if __package__ in {None, ""}:  # started as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.table import Table

from bench import stats
from bench.results import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.results import Metric, Outcome, Run

_WIDTH = 140
_DRIFT = 0.05
"""Of a median, between two runs of the same."""
_LEAST = 3
"""Samples that have a spread."""
_OURS = ("arpipam", "agent")
SLOWER_MACHINE = "slower machine"


class Difference(NamedTuple):
    """One figure of both runs."""

    scenario: str
    case: str
    metric: str
    subject: str
    old: float
    new: float
    is_time: bool
    verdict: str
    """`better`, `worse`, `slower machine`, `different` (where neither is better), or `same`."""

    @property
    def growth(self) -> float:
        """The new figure over the old one."""
        return self.new / self.old if self.old else 1.0

    @property
    def is_ours(self) -> bool:
        """Whether it is arpipam that was measured."""
        return self.subject.startswith(_OURS)


def changes(old: Run, new: Run) -> list[Difference]:
    """Every figure that both runs have."""
    before = {outcome.name: outcome for outcome in old.outcomes}
    found = [
        change
        for outcome in new.outcomes
        if outcome.name in before
        for change in _outcome(before[outcome.name], outcome)
    ]
    peers = [change for change in found if change.is_time and not change.is_ours]
    return [_by_pace(change, peers) for change in found]


def _by_pace(change: Difference, peers: list[Difference]) -> Difference:
    """The same, with what the machine's own pace explains taken for that."""
    beside = [peer for peer in peers if peer.scenario == change.scenario] or peers
    most = max((peer.growth for peer in beside), default=1.0)
    if change.verdict == "worse" and change.is_ours and change.is_time and change.growth <= most:
        return change._replace(verdict=SLOWER_MACHINE)
    return change


def _outcome(old: Outcome, new: Outcome) -> Iterator[Difference]:
    known = {metric.name for metric in old.metrics}
    for metric in new.metrics:
        if metric.name not in known:
            continue
        for case in new.cases():
            for subject in new.subjects():
                pair = old.values(metric.name, subject, case), new.values(metric.name, subject, case)
                if all(pair):
                    is_time = metric.unit == "s" and not metric.share
                    told = ", ".join(f"{key} {value}" for key, value in case.items())
                    yield _judge(
                        Difference(new.name, told, metric.name, subject, 0.0, 0.0, is_time, "same"), metric, pair
                    )


def _judge(change: Difference, metric: Metric, pair: tuple[list[float], list[float]]) -> Difference:
    old, new = pair
    if metric.share:
        one, other = stats.share(old), stats.share(new)
        was, now = one.share, other.share
        apart = one.high < other.low or other.high < one.low
    else:
        first, second = stats.summary(old), stats.summary(new)
        assert first is not None and second is not None  # noqa: S101, PT018 - both have samples
        was, now = first.median, second.median
        apart = first.sure_high < second.sure_low or second.sure_high < first.sure_low
        apart = apart and abs(now - was) > max(first.spread, second.spread, _DRIFT * max(was, now))
        apart = apart and min(first.samples, second.samples) >= _LEAST
    if not apart:
        verdict = "same"
    elif metric.better == "neither":
        verdict = "different"
    else:
        verdict = "better" if (now < was) == (metric.better == "less") else "worse"
    return change._replace(old=was, new=now, verdict=verdict)


def main(words: list[str]) -> int:
    """Print what changed."""
    if len(words) != 2 or words[0].startswith("-"):  # noqa: PLR2004 - two runs
        print("usage: python -m bench.compare OLD NEW (each a results.json, or the folder of one)", file=sys.stderr)
        return 2
    old, new = (load(Path(word)) for word in words)
    found = changes(old, new)
    moved = [change for change in found if change.verdict != "same"]
    table = Table("scenario", "case", "figure", "subject", "old", "new", "", title="beyond the noise")
    for change in sorted(moved, key=lambda change: (change.verdict != "worse", change.scenario)):
        table.add_row(*change[:4], f"{change.old:.4g}", f"{change.new:.4g}", change.verdict)
    console = Console(width=_WIDTH)
    if moved:
        console.print(table)
    console.print(f"{len(found)} figures in both, {len(found) - len(moved)} the same within the noise")
    if old.machine.get("processors") != new.machine.get("processors"):
        console.print("The machines differ: only ratios within a run can be compared.")
    return int(any(change.verdict == "worse" and change.is_ours for change in moved))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
