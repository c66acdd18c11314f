"""The programs that the harness drives: nothing of them is left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench import peers

if TYPE_CHECKING:
    from arpipam.lab import Lab


def running(words: str) -> list[str]:
    """The processes whose command has these words in it."""
    return [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if words in path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    ]


def test_a_program_that_changes_its_user_ends_with_its_verdict(lab: Lab) -> None:
    """As dhcpcd does: the signal that its parent's death is to send (PR_SET_PDEATHSIG) is cleared by that."""
    changed = ["setpriv", "--reuid=65534", "--clear-groups", "sh", "-c", "echo it is free; exec sleep 4711.25"]
    said = peers._watch(lab.namespace("alone"), [*peers._UNSHARE, *changed], free="is free", used="is used")
    assert said.free
    assert running("sleep 4711.25") == []
