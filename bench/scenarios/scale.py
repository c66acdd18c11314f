"""How it grows: thousands of hosts on one link, in virtual time."""

from __future__ import annotations

import gc
import multiprocessing
import os
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from bench import stats
from bench.crowd import Plan, article, claims
from bench.harness import Case, Plot, Scenario, Stopwatch, nothing
from bench.results import Metric, Remark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from bench.harness import Taken, Values
    from bench.results import Outcome, Value

BURST, STEADY, CUT, BIG = "all at once", "over time", "cut, then healed", "many"
ARTICLE = "arping -D -c 1 -w 1"
WORKERS = min(2, len(os.sched_getaffinity(0)))
COLLECT = (50_000, 20, 100)
"""The collector's thresholds (gc.set_threshold)."""
MOST_BY_HAND = {BURST: 1000, STEADY: 100, CUT: 100}
"""Hosts that play the article's way: all of them look at the same addresses, so the work grows as their square."""
SENSIBLE = 1000.0
"""ARP frames a second: each of them wakes every station of a flat link."""
AIM_SECONDS, AIM_CLAIMS, AIM_HOSTS = 60.0, 50_000, 1_000


class Scale(Scenario[None]):
    """The same acd.py and search.py as on a real link."""

    name = "scale"
    title = "thousands of hosts on one link (virtual time)"
    about = f"""
        Simulated hosts with one witness on one link; times are the link's own clock, so they depend on the seed alone.
        `{BURST}`: every host wants one address at the same moment, of four times as many. `{STEADY}`: each host claims
        ten at random moments, one a second and ten hosts. `{CUT}`: half of the hosts are cut off from the witness for
        20 s, claim meanwhile, and try again once a second. `{BIG}`: {AIM_CLAIMS:,} claims by {AIM_HOSTS:,} hosts, on
        {WORKERS} links side by side, one on each processor. The article's way is played by a station that sends one
        probe and listens for a second, by up to {MOST_BY_HAND[BURST]:,} hosts. `wall` is what the
        simulation took on this machine.
        """
    metrics = (
        Metric(name="time to claim"),
        Metric(name="last claim"),
        Metric(name="frames per claim", unit="frames"),
        Metric(name="contentions", unit=""),
        Metric(name="duplicates", unit=""),
        Metric(name="wall"),
        Metric(name="without", unit="", shown=False),
        Metric(name="claims", unit="", shown=False, better="neither"),
    )
    plots = (
        Plot(
            "time",
            "last claim",
            "hosts",
            "Until the last of all has an address",
            only={"how": BURST},
            panel="loss",
            log_x=True,
            log_y=True,
        ),
        Plot(
            "frames",
            "frames per claim",
            "hosts",
            "Frames on the link for each claim",
            only={"how": BURST},
            panel="loss",
            log_x=True,
            log_y=True,
        ),
        Plot(
            "contentions",
            "contentions",
            "hosts",
            "Contentions for each claim",
            only={"how": BURST},
            panel="loss",
            log_x=True,
        ),
    )

    def cases(self) -> Iterable[Case]:
        """Hosts, loss, delay, how they come."""
        if self.quick:
            for hosts in (10, 100, 300):
                yield self._case(BURST, hosts, 1)
            yield self._case(CUT, 20, 1)
            return
        for loss in (0, 10, 30):
            for hosts in (10, 100, 1000, *((3000, 10_000) if not loss else ())):
                yield self._case(BURST, hosts, 3 if hosts < 1000 else 1, loss=loss)  # noqa: PLR2004 - they take long
        for delay in (10, 100):
            yield self._case(BURST, 100, 3, delay=delay)
        for hosts in (10, 100, 1000):
            yield self._case(STEADY, hosts, 2)
        yield self._case(CUT, 100, 2)
        yield self._case(BIG, AIM_HOSTS, 1)

    @staticmethod
    def _case(how: str, hosts: int, turns: int, *, loss: int = 0, delay: int = 0) -> Case:
        vary: dict[str, Value] = {"how": how, "hosts": hosts, "loss": f"{loss} %", "delay": f"{delay} ms"}
        return Case(vary, turns, {ARTICLE: 0 if how == BIG or hosts > MOST_BY_HAND[how] else 1})

    def world(self) -> AbstractContextManager[None]:
        """All of it is in virtual links."""
        return nothing()

    @contextmanager
    def subjects(self, world: None, case: Case) -> Iterator[Mapping[str, Callable[[int], Taken]]]:  # noqa: ARG002
        """Both arpipam and the article's way, on as many links as there are processors."""
        plan = self.plan(case)
        yield {"arpipam": partial(side_by_side, claims, plan), ARTICLE: partial(side_by_side, article, plan)}

    @staticmethod
    def plan(case: Case) -> Plan:
        """What happens on each link of a case."""
        how, hosts = str(case.vary["how"]), int(case.vary["hosts"])
        loss = int(str(case.vary["loss"]).split()[0]) / 100
        delay = int(str(case.vary["delay"]).split()[0]) / 1000 or 0.0002
        if how == BIG:
            share = AIM_CLAIMS // AIM_HOSTS // WORKERS
            return Plan(hosts, share, per_second=50.0)
        if how == STEADY:
            return Plan(hosts, 10, per_second=hosts / 10)
        if how == CUT:
            return Plan(hosts, 3, per_second=hosts / 5, cut=20.0)
        return Plan(hosts, 1, loss=loss, delay=delay)

    def check(self, outcome: Outcome) -> Iterable[Remark]:
        """No duplicates; how it grows, and where that stops being sensible."""
        twice = sum(outcome.values("duplicates", "arpipam"))
        yield Remark(
            red=twice > 0,
            text=f"{twice:.0f} duplicates of arpipam's in {sum(outcome.values('claims', 'arpipam')):,.0f} claims",
        )
        without = sum(outcome.values("without", "arpipam"))
        yield Remark(red=without > 0, text=f"{without:.0f} claims without an address")
        for metric in ("last claim", "frames per claim"):
            yield from self._growth(outcome, metric)
        big = outcome.values("wall", "arpipam", how=BIG)
        if big:
            met = "met" if big[0] < AIM_SECONDS else "MISSED"
            yield Remark(
                red=False,
                text=f"{AIM_CLAIMS:,} claims by {AIM_HOSTS:,} hosts in {big[0]:.0f} s (aim {AIM_SECONDS:.0f} s: {met})",
            )

    @staticmethod
    def _growth(outcome: Outcome, metric: str) -> Iterable[Remark]:
        pairs = [
            (float(sample.vary["hosts"]), sample.values[metric])
            for sample in outcome.samples
            if sample.subject == "arpipam"
            and sample.vary["how"] == BURST
            and sample.vary["loss"] == "0 %"
            and sample.vary["delay"] == "0 ms"
            and metric in sample.values
        ]
        fitted = stats.power([x for x, _ in pairs], [y for _, y in pairs])
        if fitted is None:
            return
        text = f"{metric} grows as hosts^{fitted.exponent:.2f} ({fitted.low:.2f} to {fitted.high:.2f})"
        if metric == "frames per claim":
            # All want an address at the same moment: hosts * frames each, in the time that the last of them takes.
            most = SENSIBLE / max(1.0, fitted.factor)
            text += (
                f"; one flat link stops being sensible where its claims send more than {SENSIBLE:g} frames a second, "
                f"each of which wakes every station: about {most:.0f} claims a second"
            )
        yield Remark(red=False, text=text)


def side_by_side(play: Callable[[Plan, int], Values], plan: Plan, seed: int) -> list[Values]:
    """One link for each processor, under seeds of their own."""
    # Hundreds of thousands of objects that stay: to look through all of them again and again takes a fifth of the time.
    pool = multiprocessing.get_context("fork").Pool(WORKERS, gc.set_threshold, COLLECT)
    with Stopwatch() as watch, pool:
        values = pool.starmap(play, [(plan, seed + number) for number in range(WORKERS)])
    return [one | {"wall": watch.seconds} for one in values]
