"""The agent as a process: how it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from launcher.agent.client.connection import running
from tests.support.until import until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run ahead of others")
def test_it_runs_ahead_of_what_else_the_host_does(tmp_path: Path) -> None:
    file, path = tmp_path / "agent.toml", tmp_path / "agent.sock"
    file.write_text(
        f'[agent]\nsocket = "{path}"\nstate_dir = "{tmp_path}/state"\nfabric = "none"\ndocker = "unix://{tmp_path}/none"\n'
    )
    code = "from launcher.commands.arpipam import main; main()"
    with subprocess.Popen([sys.executable, "-c", code, "agent", "--config", file], stderr=subprocess.PIPE) as agent:
        until(lambda: running(path) or agent.poll() is not None, "the agent")
        nice = os.getpriority(os.PRIO_PROCESS, agent.pid)
        agent.terminate()
        _, said = agent.communicate()
    assert (nice, agent.returncode) == (-15, 0), said.decode()
