"""What is shipped with the agent: the example of its file, and systemd's units."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from launcher.agent.config import file as config
from launcher.agent.config.file import Config, NetworkSettings, parse
from launcher.agent.config.keys import AgentSettings, DeclaredNetwork

PACKAGING = Path(__file__).parents[2] / "packaging"


def test_the_example_says_nothing_but_knows_every_key() -> None:
    text = (PACKAGING / "agent.toml").read_text()
    assert parse(text, "agent.toml") == Config()
    said: dict[str, Any] = tomllib.loads(re.sub(r"^#(?=[a-z_]+ = |\[)", "", text, flags=re.MULTILINE))
    parse(re.sub(r"^#(?=[a-z_]+ = |\[)", "", text, flags=re.MULTILINE), "agent.toml")
    for table, model in (("agent", AgentSettings), ("network", NetworkSettings)):
        assert set(said[table]) == {field.alias or name for name, field in model.model_fields.items()}
    assert said["networks"][0].keys() <= DeclaredNetwork.model_fields.keys()
    assert f"({', '.join(config.OPTIONS)})" in " ".join(text.replace("#", " ").split())


def test_the_example_shows_the_defaults() -> None:
    text = (PACKAGING / "agent.toml").read_text()
    shown = parse(re.sub(r"^#(?=[a-z_]+ = )", "", text.partition("#[[networks]]")[0], flags=re.MULTILINE), "agent.toml")
    examples = {"metrics", "fabric", "host", "docker", "hook", "ranges", "exclude", "witnesses", "interface"}
    for table, default in ((shown.agent, AgentSettings()), (shown.network, NetworkSettings())):
        differ = {name for name in type(table).model_fields if getattr(table, name) != getattr(default, name)}
        assert differ == examples & type(table).model_fields.keys()


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(PACKAGING / name)
    return parser


def test_the_units_start_before_the_engine_and_do_not_stop_with_it() -> None:
    service, socket = unit("arpipam-agent.service"), unit("arpipam-agent.socket")
    assert service["Unit"]["Before"] == socket["Unit"]["Before"] == "docker.service"
    assert not {"PartOf", "BindsTo", "Wants", "StopPropagatedFrom"} & set(service["Unit"])
    assert (
        service["Unit"]["Requires"] == service["Unit"]["After"] == service["Install"]["Also"] == "arpipam-agent.socket"
    )
    assert (service["Service"]["Restart"], service["Unit"]["StartLimitIntervalSec"]) == ("always", "0")
    assert Path(socket["Socket"]["ListenStream"]) == AgentSettings().socket
    assert Path("/var/lib", service["Service"]["StateDirectory"]) == AgentSettings().state_dir
    assert socket["Socket"]["SocketMode"] == "0600"


def test_the_service_has_no_more_power_than_it_needs() -> None:
    service = unit("arpipam-agent.service")["Service"]
    assert set(service["CapabilityBoundingSet"].split()) == {"CAP_NET_RAW", "CAP_NET_ADMIN"}
    assert "AmbientCapabilities" not in service
    families = {"AF_UNIX", "AF_INET", "AF_INET6", "AF_PACKET", "AF_NETLINK"}
    assert set(service["RestrictAddressFamilies"].split()) == families
    # Without it a refused call kills the agent.
    assert (service["SystemCallFilter"], service["SystemCallErrorNumber"]) == ("@system-service", "EPERM")
    assert service["ProtectSystem"] == "strict"
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictNamespaces", "ProtectKernelTunables"):
        assert service[key] == "yes"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    names = ("arpipam-agent.service", "arpipam-agent.socket")
    for name in names:
        text = (PACKAGING / name).read_text().replace("/usr/local/bin/arpipam", "/bin/true")
        (tmp_path / name).write_text(text)
    words = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in names)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "arpipam-agent" in line]
    assert (done.returncode, ours) == (0, [])
