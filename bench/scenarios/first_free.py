"""How long until the first free address is found, however full and large the network is."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from arpipam import Allocator
from arpipam.lab import Lab
from arpipam.protocol.first_free import LARGEST_WINDOW, WINDOW
from arpipam.protocol.timing import RATE
from bench import peers
from bench.harness import Case, Plot, Scenario, Stopwatch, nothing
from bench.network import Used, room, used_network
from bench.results import Metric, Remark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from arpipam.protocol.first_free import FirstFree as FirstFreeSearch
    from bench.harness import Taken, Values
    from bench.results import Outcome

ONE_LEFT = "one left"
OCCUPANCY = ("0 %", "50 %", "90 %", "99 %", ONE_LEFT)
LIMIT = 15.0
"""Seconds after which a peer is stopped; its time counts as that."""
LARGE = 16
"""Prefix of a subnet that takes 13 s to ask at the default pace."""
ARTICLE, CAREFUL = "arping -D -c 1 -w 1", "arping -D -c 3"
RFC = "arpipam, rfc5227"
LONGEST_LISTENING = 0.1
"""Seconds, after a window of the survey."""
BURST = RATE * 0.01
"""Frames that leave at once before the pace holds them back: those of a hundredth of a second."""
AIM_RATIO, AIM_OVERHEAD = 10.0, 0.020


class FirstFree(Scenario[None]):
    """From the call to the claimed address."""

    name = "first-free"
    title = "time to the first free address"
    about = """
        A network whose lowest addresses are used; the subject has to find the first one that is free. arpipam claims it
        (announced, defended, on disk) with its link open; of its time, `probing` is what the timing prescribes for the
        address that was found, `survey` is the listening after each window of questions and the pace of the frames, and
        `rest` is everything else. The article's way is one `arping -D` after the other, in one shell, and makes no
        claim.
        """
    metrics = (
        Metric(name="seconds"),
        Metric(name="probing"),
        Metric(name="survey"),
        Metric(name="rest"),
        Metric(name="stopped", unit="", share=True, shown=False),
    )
    plots = (
        Plot(
            "time",
            "seconds",
            "in use",
            "Until the first free address is found",
            panel="subnet",
            log_y=True,
            limit=LIMIT,
        ),
    )

    def world(self) -> AbstractContextManager[None]:
        """Each case has a lab of its own."""
        return nothing()

    def cases(self) -> Iterable[Case]:
        """Sizes and occupancies."""
        if self.quick:
            yield Case({"subnet": "/28", "in use": "50 %"}, 2, {RFC: 0, ARTICLE: 1, CAREFUL: 1})
            yield Case({"subnet": "/24", "in use": "90 %"}, 2, {RFC: 0, ARTICLE: 1, CAREFUL: 0})
            return
        turns = {28: 7, 24: 11, 20: 5, 16: 2}
        for length, most in turns.items():
            for occupancy in OCCUPANCY if length > LARGE else OCCUPANCY[::2]:
                small = length >= 24  # noqa: PLR2004 - where the peers need less than half a minute
                fewer = {RFC: 2 if length == 24 else 0, ARTICLE: 3 if small else 1, CAREFUL: 1 if small else 0}  # noqa: PLR2004
                if length == LARGE:
                    fewer["arpipam, lan"] = 1
                yield Case({"subnet": f"/{length}", "in use": occupancy}, most, fewer)

    @contextmanager
    def subjects(self, world: None, case: Case) -> Iterator[Mapping[str, Callable[[int], Taken]]]:  # noqa: ARG002
        """The timings of arpipam, and the article's Option 1."""
        subnet = IPv4Network(f"10.50.0.0{case.vary['subnet']}")
        occupancy = str(case.vary["in use"])
        most = room(subnet)
        count = most - 1 if occupancy == ONE_LEFT else round(most * int(occupancy.partition(" ")[0]) / 100)
        with Lab() as lab, ExitStack() as stack:
            network = used_network(lab, subnet, min(count, most - 1))

            def ours(timing: str) -> Callable[[int], Values]:
                options: dict[str, Any] = {"witnesses": [network.witness], "timing": timing}
                options["state_dir"] = network.host.directory / f"state-{timing}"
                with network.host.namespace.inside():
                    allocator = stack.enter_context(Allocator(network.host.bridge, **options))
                return lambda seed: claim(allocator, network, seed)

            def theirs(times: int, wait: int | None) -> Callable[[int], Values]:
                return lambda _: article(network, subnet, times, wait)

            yield {
                "arpipam": ours("adaptive"),
                "arpipam, lan": ours("lan"),
                ARTICLE: theirs(1, 1),
                CAREFUL: theirs(3, None),
                RFC: ours("rfc5227"),
            }

    def check(self, outcome: Outcome) -> Iterable[Remark]:
        """Aims are told, not enforced: they are times of one machine. A wrong address raises where it is found."""
        pick: dict[str, Any] = {"subnet": "/24", "in use": "90 %"}
        ours, theirs = (sorted(outcome.values("seconds", name, **pick)) for name in ("arpipam", ARTICLE))
        if ours and theirs:
            ratio = theirs[len(theirs) // 2] / ours[len(ours) // 2]
            met = "met" if ratio >= AIM_RATIO else "MISSED"
            yield Remark(
                red=False, text=f"a /24 at 90 %: {ratio:.1f}x faster than the article (aim {AIM_RATIO:g}x: {met})"
            )
        rest = sorted(outcome.values("rest", "arpipam", subnet="/24"))
        if rest:
            middle = rest[len(rest) // 2]
            met = "met" if middle < AIM_OVERHEAD else "MISSED"
            yield Remark(
                red=False,
                text=f"a /24: {middle * 1000:.1f} ms beside the listening (aim {AIM_OVERHEAD * 1000:.0f} ms: {met})",
            )


class Drawn(random.Random):
    """Remembers the waiting times that it drew: what a fixed timing prescribes."""

    seconds = 0.0

    def uniform(self, a: float, b: float) -> float:
        """Draw one."""
        drawn = super().uniform(a, b)
        self.seconds += drawn
        return drawn


def claim(allocator: Allocator, network: Used, seed: int) -> Values:
    """Claim the first free address, and give it back."""
    rng = allocator._rng = Drawn(seed)  # noqa: SLF001 - to know what was drawn
    with Stopwatch() as watch:
        job = allocator.start_claim("bench", None, None)
        held = job.future.result()
    found = held.address
    # What was released has to be off the wire, and our own announcement out, before the next one asks.
    held.release(quarantine=0)
    if found != network.first_free:
        raise RuntimeError(f"{found} was claimed, and {network.first_free} is the first free address")
    search: FirstFreeSearch = job.search  # type: ignore[attr-defined] # the task of a claim without an address
    probing = prescribed(search, rng)
    survey = surveyed(held.found.probed, min(search.witnesses.gap(), LONGEST_LISTENING))
    time.sleep(0.01)
    return {
        "seconds": watch.seconds,
        "probing": probing,
        "survey": survey,
        "rest": watch.seconds - probing - survey,
    }


def prescribed(search: FirstFreeSearch, rng: Drawn) -> float:
    """How long the timing wants the found address to be listened to."""
    assert search.found is not None  # noqa: S101 - it was claimed
    timing, witnesses = search.parameters.timing, search.witnesses
    if timing.probe_num is not None:
        return rng.seconds + timing.announce_wait
    return (search.found.acd.rounds - 1) * witnesses.gap() + witnesses.settle()


def surveyed(probed: int, listening: float) -> float:
    """How long it takes to ask for so many addresses at the default pace, and to listen after each window."""
    seconds, size = 0.0, WINDOW
    while probed > 0:
        asked = min(probed, size)
        seconds += max(0.0, asked - BURST) / RATE + listening
        probed -= asked
        size = min(2 * size, LARGEST_WINDOW)
    return seconds


def article(network: Used, subnet: IPv4Network, times: int, wait: int | None) -> Values:
    """One `arping -D` after the other."""
    candidates = (str(address) for address in subnet.hosts() if address > subnet[2])
    found, seconds = peers.arping_first(
        network.host.namespace, network.host.bridge, candidates, count=times, wait=wait, limit=LIMIT
    )
    if found is not None and found != str(network.first_free):
        raise RuntimeError(f"{found} was called free, and {network.first_free} is the first free address")
    return {"seconds": seconds, "stopped": float(found is None)}
