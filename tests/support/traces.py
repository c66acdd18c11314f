"""What a lab has left on this machine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from arpipam.lab import cleanup


def traces(lab: str) -> dict[str, list[str]]:
    """All that there is of a lab on this machine, by its kind."""
    marks = [f"{cleanup.ROOT}/{lab}", f"{cleanup.PREFIX}{lab}-", f"arpipam-lab-{lab}-"]
    found: dict[str, list[str]] = {"files": [], "namespaces": [], "groups": [], "processes": [], "mounts": []}
    found["files"] += [str(path) for path in cleanup.ROOT.glob(lab)]
    found["namespaces"] += [path.name for path in Path("/run/netns").glob(f"{cleanup.PREFIX}{lab}-*")]
    found["groups"] += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/arpipam-lab-{lab}-*")]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if "Z" in (process / "stat").read_text().rpartition(")")[2].split()[:1]:
                continue
            said = "".join((process / name).read_text(errors="replace") for name in ("cmdline", "environ", "cgroup"))
            if any(mark in said for mark in marks):
                found["processes"].append(f"{process.name} {(process / 'comm').read_text().strip()}")
            mounts = (process / "mountinfo").read_text(errors="replace").splitlines()
            found["mounts"] += [line for line in mounts if any(mark in line for mark in marks)]
    return {kind: names for kind, names in found.items() if names}
