"""Judges what was noted: each row of the report has to be zero, but for duplicates that a cut made."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from launcher.lab.soak.acts import ASKS
from launcher.lab.soak.plan import HOSTS, NAMED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from launcher.lab.soak.acts import Done
    from launcher.lab.soak.journal import Duplicate, Journal
    from launcher.lab.soak.observers import Container, Look, Seen
    from launcher.lab.soak.world import Trouble

ENDING = {"stop", "restart", "remove"}
"""Acts that end a container."""
DEAF = {"cut", "cable", "agent killed", "agent ended", "agent stopped"}
"""Faults while which somebody is not heard, or not answered for: a cut, as the report says."""
BEGINS = 3.0
"""Seconds after a cut within which whoever comes back has been heard by all."""
ENDS = 20.0
"""Seconds after a cut within which its duplicates have ended."""
AFTER = 15.0
"""Seconds after a fault in which Docker may still be refused for it."""
SILENT = 1.0
"""Seconds for which an address in use may stay unanswered, seen from its own host."""
KEPT_SILENT = 5.0
"""The same for an address of a stopped container, for which the agent answers, after whatever happened to it."""
_BETWEEN = 4.0
"""Seconds between two looks at an engine, in which nothing can be said of its containers."""
_ABSENT = re.compile(r"Cannot connect to the Docker daemon|error during connect|EOF|connection refused|reset by peer")
_TAKEN = re.compile(r"in use|belongs to|being claimed|promised|quarantine|already", re.IGNORECASE)


@dataclass
class Evidence:
    """All that was noted, in seconds since the soak began."""

    journal: Journal
    seen: Seen
    troubles: Sequence[Trouble]
    done: Sequence[Done]


@dataclass
class Report:
    """What came of it."""

    given: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    by_cuts: list[str] = field(default_factory=list)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    """By row of the table, what must not be."""

    def add(self, row: str, lines: Iterable[str] = ()) -> None:
        """A row, with what must not be."""
        self.wrong.setdefault(row, []).extend(lines)

    @property
    def is_clean(self) -> bool:
        """Whether all is as it should be."""
        return not any(self.wrong.values())


def judge(evidence: Evidence) -> Report:
    """The report, but for what is only seen after the end: leases that are left."""
    report = Report()
    asked = [done for done in evidence.done if done.step.what in ASKS]
    report.given = sum(not done.failed for done in asked)
    report.refused = Counter(done.reason for done in asked if done.failed)
    report.add("refused without a cause", (_line(done) for done in asked if done.failed and not _just(evidence, done)))
    report.add("duplicates")
    report.add("stations harmed")
    excused: list[tuple[str, float]] = []
    for duplicate in evidence.journal.duplicates():
        cause = next((trouble for trouble in evidence.troubles if _made(trouble, duplicate)), None)
        text = (
            f"{duplicate.address}: {' and '.join(sorted(duplicate.macs))}, {duplicate.lasted:.2f} s, "
            f"from {duplicate.since:.1f} s to {duplicate.until:.1f} s"
        )
        if cause is None:
            report.add("duplicates", [text])
        else:
            report.by_cuts.append(f"{text} ({cause})")
            excused.append((duplicate.address, duplicate.until))
    for at, station, address in evidence.seen.harmed:  # of two owners that a cut made, the younger one has to go
        if not any(address == theirs and until - ENDS < at < until + ENDS for theirs, until in excused):
            report.add("stations harmed", [f"{station} has lost {address} at {at:.1f} s"])
    report.add("host routes lost", (f"{host}: {line} at {at:.1f} s" for at, host, line in evidence.seen.routes))
    report.add("answers missing", _missing(evidence))
    return report


def _made(trouble: Trouble, duplicate: Duplicate) -> bool:
    """Whether that fault made a duplicate, which has ended with it."""
    if trouble.what not in DEAF or trouble.until is None:
        return False
    return trouble.since <= duplicate.since <= trouble.until + BEGINS and duplicate.until <= trouble.until + ENDS


def _line(done: Done) -> str:
    return f"{done.step.where} {done.step.what} {done.step.name} at {done.since:.1f} s: {done.failed}"


# Refusals.


def _just(evidence: Evidence, done: Done) -> bool:
    """Whether Docker had to be refused: a fault that explains it, or an address that somebody has."""
    if any(_explains(trouble, done) for trouble in evidence.troubles):
        return True
    address = _wanted(evidence.seen, done)
    return bool(address and _TAKEN.search(done.failed) and _is_taken(evidence, address, done))


def _explains(trouble: Trouble, done: Done) -> bool:
    near = trouble.since <= done.until and (trouble.until is None or done.since <= trouble.until + AFTER)
    here = trouble.host == done.step.where and trouble.what != "port"
    return near and (here or trouble.what in {"cut", "cable", "flood"} or bool(_ABSENT.search(done.failed)))


def _wanted(seen: Seen, done: Done) -> str:
    """The address that the container asks for by --ip."""
    if done.step.what == "compose up":
        return NAMED[HOSTS.index(done.step.where)]
    if done.step.address:
        return done.step.address
    looks = (look.containers.get(done.step.name) for look in reversed(seen.looks[done.step.where]))
    return next((container.named for container in looks if container is not None), "")


def _is_taken(evidence: Evidence, address: str, done: Done) -> bool:
    since, until = done.since - AFTER, done.until
    return bool(evidence.journal.owners(address, since, until)) or any(
        address in {container.named, container.address}
        for looks in evidence.seen.looks.values()
        for look in looks
        if since <= look.until and look.since <= until + _BETWEEN
        for container in look.containers.values()
    )


# Answers.


def _missing(evidence: Evidence) -> Iterator[str]:
    """Times in which nobody answered for a container's address beside its own host."""
    for host, looks in evidence.seen.looks.items():
        for container, since, until in _lives(looks, "running"):
            for start, stop in evidence.journal.silences(container.address, container.mac, host, since, until):
                if stop - start > SILENT and not _was_ending(evidence, host, container.name, start, stop):
                    yield f"{container.address} of {container.name} on {host}: {_time(start, stop)}"
        for container, since, until in _lives(looks, "exited"):
            if container.named:
                yield from _kept(evidence, host, container, since, until)


def _was_ending(evidence: Evidence, host: str, name: str, since: float, until: float) -> bool:
    """Whether Docker was about to end it: an engine shows it as running until its address is taken back."""
    return any(
        done.step.where == host
        and done.since <= until
        and since <= done.until
        and (done.step.what.startswith("compose") or (done.step.what in ENDING and done.step.name == name))
        for done in evidence.done
    )


def _kept(evidence: Evidence, host: str, container: Container, since: float, until: float) -> Iterator[str]:
    """The address of a stopped container with --ip is the agent's to answer for, unless something ails it."""
    ailing = [trouble for trouble in evidence.troubles if trouble.host == host and trouble.what != "port"]
    for start, stop in _silent(evidence.journal, container.named, host, since, until):
        ill = any(one.since <= stop and (one.until is None or start <= one.until + AFTER) for one in ailing)
        if stop - start > KEPT_SILENT and not ill:
            yield f"{container.named} of the stopped {container.name} on {host}: {_time(start, stop)}"


def _silent(journal: Journal, address: str, host: str, since: float, until: float) -> Iterator[tuple[float, float]]:
    """When nobody at all answered."""
    macs = journal.owners(address, since, until)
    if not macs:
        yield from journal.silences(address, "", host, since, until)
    elif len(macs) == 1:
        yield from journal.silences(address, next(iter(macs)), host, since, until)


def _lives(looks: Sequence[Look], state: str) -> Iterator[tuple[Container, float, float]]:
    """Times in which an engine showed the same container, look after look, in that state."""
    open_ones: dict[str, tuple[Container, float, float]] = {}
    for earlier, later in pairwise(looks):
        still: dict[str, tuple[Container, float, float]] = {}
        if later.since - earlier.until <= _BETWEEN:
            for name, container in later.containers.items():
                if container.state == state and earlier.containers.get(name) == container:
                    since = open_ones[name][1] if name in open_ones else earlier.until
                    still[name] = (container, since, later.since)
        yield from (life for name, life in open_ones.items() if name not in still)
        open_ones = still
    yield from open_ones.values()


def _time(since: float, until: float) -> str:
    return f"{until - since:.2f} s from {since:.1f} s on"
