"""What has to be undone, on disk before it is done.

A file of steps, each of which takes back one of ours. `up` adds to it before it changes anything, so whenever it is
killed, `down` finds all that there may be to take back. Of several changes of one thing the first one's undoing stays:
it leads back to what was there before the first `up`.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from arpipam.errors import LeaseError
from arpipam.fabric.steps import Step, from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Journal:
    """The steps that undo what was done, oldest first. Raises LeaseError where the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._steps: dict[str, Step] = {}
        try:
            if path.exists():
                for line in path.read_text().splitlines():
                    step = from_json(json.loads(line))
                    self._steps[step.key] = step
        except OSError as error:
            raise _unusable(path, error) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise LeaseError(
                f"fabric journal {path} is damaged; move it away, and remove by hand what `arpipam fabric plan` does "
                "not know"
            ) from None

    @property
    def steps(self) -> list[Step]:
        """All of them."""
        return list(self._steps.values())

    def add(self, steps: Sequence[Step]) -> list[Step]:
        """Record what will have to be undone; on disk when this returns. Those that are new."""
        new = []
        for step in steps:
            if step.key not in self._steps:
                self._steps[step.key] = step
                new.append(step)
        if new:
            self._write()
        return new

    def drop(self, steps: Sequence[Step]) -> None:
        """These have been undone."""
        for step in steps:
            self._steps.pop(step.key, None)
        self._write()

    def _write(self) -> None:
        try:
            if not self._steps:
                self.path.unlink(missing_ok=True)
                return
            fresh = self.path.with_suffix(".new")
            with fresh.open("w") as file:
                file.writelines(json.dumps(to_json(step)) + "\n" for step in self._steps.values())
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except OSError as error:
            raise _unusable(self.path, error) from None


def _unusable(path: Path, error: OSError) -> LeaseError:
    return LeaseError(
        f"fabric journal {path}: {error.strerror}; run as root, or choose another folder with --state-dir"
    )


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Only one process at a time changes this host's fabric; the others wait."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise _unusable(path, error) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
