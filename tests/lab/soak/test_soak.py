"""A short soak with a fixed seed; at night three longer ones. `python -m launcher.lab.soak` replays one that failed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.profile import NIGHT

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = (1, 2, 3) if NIGHT else (1,)
MINUTES = "2" if NIGHT else "0.35"

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_soak_finds_nothing_wrong(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", "launcher.lab.soak", "--minutes", MINUTES, "--seed", str(seed), "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *words], check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with capsys.disabled():
        print(done.stdout[-6000:])  # noqa: T201 - the table
    assert done.returncode == 0, done.stdout
