"""What a run leaves behind: every sample, and what it was taken on. `results.json` is these models."""

from __future__ import annotations

import gzip
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from shutil import which
from typing import Literal

from pydantic import BaseModel

FORMAT = 1
Value = str | int | float
_LIBRARIES = ("arpipam", "scapy", "pyroute2", "docker", "matplotlib", "numpy")
_PROGRAMS = {
    "arping": ("arping", "-V"),
    "arp-scan": ("arp-scan", "--version"),
    "dhcpcd": ("dhcpcd", "--version"),
    "avahi-autoipd": ("avahi-autoipd", "--version"),
    "busybox": ("busybox", "--help"),
    "docker": ("docker", "--version"),
    "dockerd": ("dockerd", "--version"),
    "Open vSwitch": ("ovs-vswitchd", "--version"),
    "gcc": ("gcc", "--version"),
}


class Metric(BaseModel, frozen=True):
    """Something that is measured: seconds, frames, or a share (each sample 0 or 1)."""

    name: str
    unit: Literal["s", "frames", "%", "MiB", ""] = "s"
    share: bool = False
    better: Literal["less", "more", "neither"] = "less"
    shown: bool = True
    """Whether the report has a table of it."""


class Sample(BaseModel, frozen=True):
    """One measurement of one subject."""

    vary: dict[str, Value]
    subject: str
    turn: int
    seed: int
    values: dict[str, float]
    error: str = ""


class Remark(BaseModel, frozen=True):
    """What a scenario's own check says of its samples; a red one fails the run."""

    red: bool
    text: str


class Outcome(BaseModel):
    """One scenario of a run."""

    name: str
    title: str
    about: str
    metrics: list[Metric]
    reference: str
    """The subject that the others stand beside."""
    notes: list[str] = []
    """What was left out, and why."""
    seconds: float = 0.0
    samples: list[Sample] = []
    findings: list[Remark] = []

    def cases(self) -> list[dict[str, Value]]:
        """What varied, in the order in which it was run."""
        return list({repr(sample.vary): sample.vary for sample in self.samples}.values())

    def subjects(self) -> list[str]:
        """Who took part, the reference first."""
        names = dict.fromkeys(sample.subject for sample in self.samples)
        return sorted(names, key=lambda name: name != self.reference)

    def values(self, metric: str, subject: str, vary: dict[str, Value] | None = None, **some: Value) -> list[float]:
        """The samples of a metric: those of one case, or of all whose case has `some` of these values."""
        return [
            sample.values[metric]
            for sample in self.samples
            if sample.subject == subject
            and metric in sample.values
            and (vary is None or sample.vary == vary)
            and all(sample.vary.get(key) == value for key, value in some.items())
        ]

    @property
    def red(self) -> bool:
        """Whether a check failed."""
        return any(finding.red for finding in self.findings)


class Run(BaseModel):
    """All of a run."""

    format: int = FORMAT
    started: str
    seconds: float = 0.0
    quick: bool
    seed: int
    fault: str = ""
    machine: dict[str, str]
    versions: dict[str, str]
    outcomes: list[Outcome] = []

    @property
    def red(self) -> bool:
        """Whether a check of any scenario failed."""
        return any(outcome.red for outcome in self.outcomes)


def load(path: Path) -> Run:
    """Read a run back: `path` is a results.json, one that gzip has packed, or the folder of either."""
    if path.is_dir():
        plain = path / "results.json"
        path = plain if plain.exists() else path / "results.json.gz"
    data = path.read_bytes()
    return Run.model_validate_json(gzip.decompress(data) if path.suffix == ".gz" else data)


def machine() -> dict[str, str]:
    """The machine, by what matters to these figures."""
    processors = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "processors": f"{len(os.sched_getaffinity(0))} x {processors[0] if processors else platform.machine()}",
        "memory": f"{int(memory[1]) / 2**20:.1f} GiB" if memory else "unknown",
        "kernel": platform.release(),
        "load at the start": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def versions() -> dict[str, str]:
    """Of everything that takes part and is installed."""
    found = {"Python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}
    for name, words in _PROGRAMS.items():
        if which(words[0]):
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            lines = (done.stdout + done.stderr).strip().splitlines()
            number = re.search(r"\d+(\.\d+)+|s?20\d{6}", lines[0]) if lines else None
            found[name] = number[0] if number else "installed"
    return found | {"interpreter": sys.implementation.name}
