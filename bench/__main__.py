"""`python -m bench`: run scenarios and write results.json, report.md and the plots."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from bench import faults, harness, report
from bench.results import Run, machine, versions
from bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from bench.results import Outcome

_RED = 1
_SEED = 5227


@click.command()
@click.argument("names", metavar="[SCENARIO]...", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option("--quick", is_flag=True, help="Few samples and few cases: two minutes in all.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-out"),
    show_default=True,
    help="Where to.",
)
@click.option("--seed", type=int, default=_SEED, show_default=True, help="Of everything that is drawn.")
@click.option("--fault", type=click.Choice(list(faults.FAULTS)), multiple=True, hidden=True)
def main(names: tuple[str, ...], *, quick: bool, out: Path, seed: int, fault: tuple[str, ...]) -> None:
    """Measure arpipam beside others. Exit status 1 where a check of a scenario fails."""
    console = Console(stderr=True)
    with ExitStack() as stack:
        for name in fault:
            stack.enter_context(faults.FAULTS[name]())
        run = Run(
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            quick=quick,
            seed=seed,
            machine=machine(),
            versions=versions(),
            fault=" ".join(fault),
        )
        started = time.monotonic()
        for name in names or SCENARIOS:
            run.outcomes.append(measure(name, run, console))
            run.seconds = time.monotonic() - started
            report.write(run, out)  # after each scenario: a run that is interrupted has what it measured
    for outcome in run.outcomes:
        for finding in outcome.findings:
            console.print(f"{'[red]RED[/]' if finding.red else 'ok'} {outcome.name}: {finding.text}", highlight=False)
    console.print(f"{out / 'report.md'}: {run.seconds:.0f} s in all")
    sys.exit(_RED if run.red else 0)


def measure(name: str, run: Run, console: Console) -> Outcome:
    """One scenario of a run."""
    with console.status(name) as status:
        scenario = SCENARIOS[name](quick=run.quick)
        outcome = harness.run(scenario, run.seed, lambda text: status.update(f"{name}: {text}"))
    console.print(f"{name}: {outcome.seconds:.0f} s", highlight=False)
    return outcome


if __name__ == "__main__":
    main()
