"""The Python examples of README and the documentation run as they stand, on a host of a lab."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from arpipam.lab import Lab

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    pytest.param(example, id=f"{page.name}-{number}")
    for page in PAGES
    for number, example in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL), 1
    )
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(lab: Lab, tmp_path: Path, example: str) -> None:
    """Nothing is changed but the folder of the leases, which would be this machine's."""
    here = re.sub(r'Allocator\("docker0"', f'Allocator("docker0", state_dir="{tmp_path}"', example)
    words = [sys.executable, "-W", "error", "-c", here]
    if "Lab()" in here:  # makes its own hosts
        done = subprocess.run(words, check=False, capture_output=True, text=True)
    else:
        wire = lab.wire()
        host = lab.host("host", wire, "172.16.42.1/24")
        lab.start()
        lab.station("gateway", wire, "172.16.42.2/24")
        done = host.command(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
