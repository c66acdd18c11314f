"""What a command or a program loads before it can begin: a search takes a third of a second, and its start less."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    *("scapy", "pyroute2", "docker", "requests", "urllib3", "aiohttp", "pydantic", "rich", "structlog", "matplotlib"),
    *("prometheus_client", "asyncio"),
}


@pytest.mark.parametrize("module", ["arpipam.allocator", "launcher.commands.arpipam", "launcher.run.launch"])
def test_nothing_is_loaded_that_a_search_has_no_use_for(module: str) -> None:
    code = f"import sys, {module}; print({HEAVY} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "set()\n"


def test_the_agent_loads_no_scapy() -> None:
    code = "import sys, launcher.agent.main; print('scapy' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "False\n"
