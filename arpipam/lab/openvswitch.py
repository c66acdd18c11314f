"""An Open vSwitch of its own for a host of the lab, with the userspace datapath."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from arpipam.lab.namespace import sh

if TYPE_CHECKING:
    from pathlib import Path

    from arpipam.lab.namespace import Namespace

_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_PATIENCE = 30.0


class OpenVSwitch:
    """ovsdb-server and ovs-vswitchd of one host; `vsctl` talks to them."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.directory = directory
        self._namespace = namespace
        self.database = f"unix:{directory}/db.sock"
        self.env = {name: str(directory) for name in ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR")}

    def start(self) -> None:
        """Start both daemons and wait until they answer."""
        folder = self.directory
        folder.mkdir(parents=True)
        sh("ovsdb-tool", "create", f"{folder}/conf.db", _SCHEMA)
        self._spawn("ovsdb-server", f"{folder}/conf.db", f"--remote=p{self.database}")
        self._wait_for(folder / "db.sock")
        self.vsctl("--no-wait", "init")
        self._spawn("ovs-vswitchd", self.database, "--disable-system")
        self.vsctl("show")

    def vsctl(self, *words: str) -> str:
        """Run ovs-vsctl against this host's database, which need not listen yet."""
        return self._namespace.run(
            "ovs-vsctl", f"--db={self.database}", "--timeout=20", "--retry", *words, env=os.environ | self.env
        )

    def _spawn(self, program: str, *words: str) -> None:
        quiet = ["-vconsole:off", "--log-file", "--pidfile"]
        self._namespace.daemon([program, *words, *quiet], self.directory / f"{program}.out", env=os.environ | self.env)

    def _wait_for(self, path: Path) -> None:
        until = time.monotonic() + _PATIENCE
        while not path.exists():
            if time.monotonic() > until:
                raise RuntimeError(f"{path} did not appear")
            time.sleep(0.02)
