"""`python -m launcher.lab.soak`: the soak, and its report. The exit status is 1 if anything is not as it has to be."""

from __future__ import annotations

import random
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from arpipam.errors import ArpipamError
from arpipam.lab.until import until
from launcher.lab.soak.acts import Acts
from launcher.lab.soak.judge import Evidence, Report, judge
from launcher.lab.soak.observers import Observers, ask
from launcher.lab.soak.plan import plan
from launcher.lab.soak.referee import Referee
from launcher.lab.soak.world import World, made

if TYPE_CHECKING:
    from launcher.lab.agents import AgentOn
    from launcher.lab.soak.plan import Step

WHOLE = 60.0
"""Seconds within which everything is whole again after the last fault."""
LEFT = 100.0
"""Seconds after which a lease that no container has is a leak: one that Docker asked for, and died, has a minute."""
console = Console(width=max(140, Console().width), emoji=False, highlight=False)


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.1), default=10.0, show_default=True)
@click.option("--seed", type=int, help="What happens, and when. Default: drawn, and printed.")
@click.option("--engine", default="", help="The engines' version, such as 26.1. Default: this machine's own.")
@click.option("--plan", "only_plan", is_flag=True, help="Print the plan and do nothing.")
@click.option("--out", type=click.Path(path_type=Path), help="A folder for the plan, the journal and all logs.")
def main(minutes: float, seed: int | None, engine: str, only_plan: bool, out: Path | None) -> None:  # noqa: FBT001 - click's
    """Three hosts under containers that come and go, while everything around them fails."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    steps = plan(seed, minutes * 60)
    if only_plan:
        console.print("\n".join(map(str, steps)), soft_wrap=True)
        return
    console.print(f"soak: seed {seed}, {minutes:g} min, {len(steps)} steps")
    report = soak(steps, engine, out)
    show(report, seed)
    sys.exit(0 if report.is_clean else 1)


def soak(steps: list[Step], engine: str = "", out: Path | None = None) -> Report:
    """Do it all; what came of it."""
    with made(engine) as world:
        try:
            return _soak(world, steps, out)
        finally:
            if out is not None:
                _keep(world, out)


def _soak(world: World, steps: list[Step], out: Path | None) -> Report:
    acts = Acts(world, steps, lambda line: console.print(line, soft_wrap=True))
    observers = Observers(world)
    posts = {name: (station, own) for name, (station, own) in world.posts.items()}
    with observers, Referee(posts, world.addresses, world.began) as referee:
        acts.perform()
        acts.finish()
        late = _whole(world, referee)
        time.sleep(2)  # a last look by the observers
    report = judge(Evidence(referee.journal, observers.seen, world.troubles, acts.done))
    report.add("not whole again", late)
    report.add("not done", (f"{type(error).__name__}: {error}" for error in acts.broken))
    report.add("leases lost", (line for name in world.agents for line in _lost(world, name)))
    report.add("leases leaked", (line for agent in world.agents.values() for line in _leaked(agent)))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "plan").write_text("\n".join(map(str, steps)) + "\n")
        (out / "journal").write_text("\n".join(referee.journal.lines()) + "\n")
        (out / "troubles").write_text("\n".join(map(str, world.troubles)) + "\n")
    return report


def _whole(world: World, referee: Referee) -> list[str]:
    """Wait until every network is up and no address has two owners; what is not so in time."""

    def ill() -> list[str]:
        lines = []
        for name, agent in world.agents.items():
            try:
                status = agent.client.status()
            except ArpipamError as error:
                lines.append(f"{name}: {error}")
                continue
            lines += [
                f"{name}: {network.state}: {network.reason}" for network in status.networks if network.state != "up"
            ]
            lines += [f"{name}: {failure.part}: {failure.reason}" for failure in status.failures]
            lines += [] if status.networks else [f"{name}: no network"]
        now = world.now()
        spells = {address: spells[-1] for address, spells in referee.journal.spells.items() if spells}
        return lines + [
            f"{address}: {' and '.join(sorted(spell.owners))}"
            for address, spell in spells.items()
            if len(spell.owners) > 1 and now - spell.until < 1
        ]

    with suppress(TimeoutError):
        until(lambda: not ill(), deadline=WHOLE, pause=0.5)
        return []
    return ill()


def _lost(world: World, name: str) -> list[str]:
    """Containers that run without a lease."""
    engine, agent = world.host(name).engine, world.agents[name]

    def lost() -> list[str]:
        assert engine is not None  # noqa: S101 - for mypy: each host of the soak has one
        running = {one.address: one for one in ask(engine.socket).values() if one.state == "running" and one.address}
        leases = {lease.address: lease.mac for lease in agent.client.leases() if lease.state == "bound"}
        return [f"{name}: {a} of {c.name}" for a, c in running.items() if leases.get(a) != c.mac]

    with suppress(TimeoutError):
        until(lambda: not lost(), deadline=WHOLE, pause=0.5)
        return []
    return lost()


def _leaked(agent: AgentOn) -> list[str]:
    """Leases that are left when all containers are gone."""

    def left() -> list[str]:
        leases = [lease for lease in agent.client.leases() if lease.owner != "ready" and lease.state != "quarantined"]
        return [f"{agent.host.name}: {lease.address} of {lease.owner}, {lease.state}" for lease in leases]

    agent.clear()
    with suppress(TimeoutError):
        until(lambda: not left(), deadline=LEFT, pause=0.5)
        return []
    return left()


def show(report: Report, seed: int) -> None:
    """The table."""
    table = Table("what", "how many", "which", show_lines=True)
    table.add_row("addresses given out", str(report.given), "")
    table.add_row(
        "refused", str(report.refused.total()), "\n".join(f"{n} {said}" for said, n in report.refused.most_common())
    )
    table.add_row("duplicates that a cut made", str(len(report.by_cuts)), "\n".join(report.by_cuts))
    for row, lines in report.wrong.items():
        table.add_row(f"[red]{row}[/]" if lines else row, str(len(lines)), "\n".join(lines))
    console.print(table)
    console.print("all as it has to be" if report.is_clean else f"[red]wrong[/]: replay it with --seed {seed}")


def _keep(world: World, out: Path) -> None:
    """The logs, which would go with the lab."""
    out.mkdir(parents=True, exist_ok=True)
    for log in world.own_logs():
        with suppress(OSError):
            shutil.copy(log, out / f"{log.parent.name}-{log.name}")


if __name__ == "__main__":
    main()
