"""The agent takes clocks, threads and randomness from its edges: other edges give it another time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import launcher.agent

ROOT = Path(launcher.agent.__file__).parent
OUTSIDE = {"client", "server", "edges.py"}
"""Those who ask the agent, its socket, and the edges themselves."""
INSIDE = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in OUTSIDE]
BEYOND = re.compile(
    r"^\s*(?:import|from) (?:time|random|secrets)\b|\bto_thread\b|\brun_in_executor\b|\bThread\b"
    r"|\bdatetime\.(?:now|today|utcnow)\b",
    re.MULTILINE,
)


def test_no_module_reaches_beyond_the_edges() -> None:
    found = {str(path.relative_to(ROOT)): BEYOND.findall(path.read_text()) for path in INSIDE}
    assert not {path: what for path, what in found.items() if what}


def test_all_rooms_of_the_agent_are_read() -> None:
    assert {"agent.py", "conflicts.py", "memory.py", "ready.py", "sightings.py"} <= {path.name for path in INSIDE}


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "    from time import monotonic",
        "import random",
        "await asyncio.to_thread(store.close)",
        "threading.Thread(target=run).start()",
        "at = datetime.now(UTC)",
    ],
)
def test_what_would_reach_beyond_them(line: str) -> None:
    assert BEYOND.search(f"x = 1\n{line}\n")
