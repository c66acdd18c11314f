"""Removes a lab: its processes, namespaces, mounts, control groups and files, however the lab ended."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

from arpipam.lab.namespace import DAEMONS, sh

ROOT = Path(os.environ.get("ARPIPAM_LAB", "/run/arpipam-lab"))
PREFIX = "aplab-"
_NETNS = Path("/run/netns")
_GROUP = "arpipam-lab-"
_PATIENCE = 20.0


def owner_of(pid: int) -> str:
    """A process as pid and start time, since a pid alone may be another's by now (proc(5), field 22 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{pid} {fields[19]}"


def is_alive(owner: str) -> bool:
    """Whether that process still runs."""
    try:
        return owner_of(int(owner.split(maxsplit=1)[0])) == owner
    except (OSError, ValueError, IndexError):
        return False


def spaces(lab: str) -> list[Path]:
    """The namespaces of a lab."""
    return list(_NETNS.glob(f"{PREFIX}{lab}-*")) if _NETNS.exists() else []


def remove(lab: str) -> None:
    """Remove everything of the lab with this id; what is gone already is no fault."""
    namespaces = spaces(lab)
    _kill(namespaces)
    for space in namespaces:
        with suppress(RuntimeError):
            sh("ip", "netns", "del", space.name)
    _remove_groups(lab)
    until = time.monotonic() + _PATIENCE
    while (ROOT / lab).exists():
        rmtree(ROOT / lab, ignore_errors=time.monotonic() < until)
    with suppress(OSError):
        ROOT.rmdir()


def clean() -> list[str]:
    """Remove all labs whose owner is gone; gives back their ids."""
    labs = {path.name for path in ROOT.glob("*")} if ROOT.exists() else set()
    if _NETNS.exists():
        labs |= {path.name.removeprefix(PREFIX).partition("-")[0] for path in _NETNS.glob(f"{PREFIX}*")}
    labs |= {path.name.removeprefix(_GROUP).partition("-")[0] for path in _groups("*")}
    dead = []
    for lab in sorted(labs):
        try:
            if is_alive((ROOT / lab / "owner").read_text()):
                continue
        except OSError:  # it may be about to be written
            if Path(f"/proc/{lab.partition('x')[0]}").exists():
                continue
        remove(lab)
        dead.append(lab)
    return dead


def _kill(namespaces: list[Path]) -> None:
    """Kill whatever runs in these namespaces, and all that it started: containers are in namespaces of their own."""
    inodes = {space.stat().st_ino for space in namespaces}
    until = time.monotonic() + _PATIENCE
    while victims := _family(inodes):
        if time.monotonic() > until:
            raise RuntimeError(f"processes {sorted(victims)} do not end")
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        DAEMONS[:] = [process for process in DAEMONS if process.poll() is None]
        for pid in victims:
            with suppress(ChildProcessError):  # ours are reaped here, others by their parents
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)


def _family(inodes: set[int]) -> set[int]:
    parents: dict[int, int] = {}
    members: set[int] = set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z" or int(path.name) == os.getpid():
                continue
            parents[int(path.name)] = int(fields[1])
            if (path / "ns/net").stat().st_ino in inodes:
                members.add(int(path.name))
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in members} - members
        members |= more
        grown = bool(more)
    return members


def _groups(lab: str) -> list[Path]:
    """The control groups of a lab's containers: below each controller, or in the one tree."""
    root = Path("/sys/fs/cgroup")
    return [*root.glob(f"{_GROUP}{lab}-*"), *root.glob(f"*/{_GROUP}{lab}-*")]


def _remove_groups(lab: str) -> None:
    for base in _groups(lab):
        for folder, _, _ in sorted(os.walk(base), reverse=True):
            with suppress(OSError):
                Path(folder).rmdir()
