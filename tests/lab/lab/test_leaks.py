"""A run of tests leaves nothing of its labs on the machine, whether its tests pass or fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.traces import traces

ROOT = Path(__file__).parents[3]
TEST = """
from pathlib import Path
from tests.lab.conftest import engine_age, lab


def test_it(lab):
    with open(Path(__file__).parent / "labs", "w") as labs:
        labs.write(lab.id)
    host = lab.host("host", lab.wire(), "172.16.42.1/24", engine=True)
    lab.start()
    host.spawn("sleep", "1000")
    host.docker("run", "--detach", "--network", "none", "busybox", "sleep", "1000")
    {end}
"""


@pytest.mark.engine
@pytest.mark.parametrize(
    ("end", "status"),
    [("pass", 0), ("assert not lab", 1), ("raise SystemExit(3)", 1), ("raise KeyboardInterrupt", 2)],
    ids=["it passes", "it fails", "it exits", "it is interrupted"],
)
def test_whichever_way_a_test_ends_nothing_is_left_of_its_lab(tmp_path: Path, end: str, status: int) -> None:
    (tmp_path / "test_one.py").write_text(TEST.format(end=end))
    words = ["-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path / "test_one.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert traces((tmp_path / "labs").read_text()) == {}
