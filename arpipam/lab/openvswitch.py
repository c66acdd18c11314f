"""An Open vSwitch of its own for a host of the lab, with the userspace datapath, and tunnels to the other hosts."""

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
        self._database = f"unix:{directory}/db.sock"
        self._env = os.environ | {name: str(directory) for name in ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR")}

    def start(self) -> None:
        """Start both daemons and wait until they answer."""
        folder = self.directory
        folder.mkdir(parents=True)
        sh("ovsdb-tool", "create", f"{folder}/conf.db", _SCHEMA)
        self._spawn("ovsdb-server", f"{folder}/conf.db", f"--remote=p{self._database}")
        self._wait_for(folder / "db.sock")
        self.vsctl("--no-wait", "init")
        self._spawn("ovs-vswitchd", self._database, "--disable-system")
        self.vsctl("show")

    def connect(self, nic: str, own: str, *, bridge: str, kind: str, peers: dict[str, str], mtu: int) -> None:
        """br-phy takes over the underlay NIC and address, br0 is a port of the Linux bridge and holds the tunnels.

        Tunnel ports are protected (split horizon): of a full mesh without it, one broadcast makes a storm.
        """
        words = ["add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=netdev"]
        words += ["--", "add-port", "br-phy", nic]
        words += ["--", "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"]
        for number, (_, remote) in enumerate(sorted(peers.items())):
            port = f"{kind}{number}"
            words += ["--", "add-port", "br0", port, "--", "set", "interface", port, f"type={kind}"]
            words += [f"options:remote_ip={remote}", "--", "set", "port", port, "protected=true"]
        self.vsctl(*words)
        self._namespace.ip(
            [
                f"addr add {own} dev br-phy",
                "link set br-phy up",
                f"link set br0 mtu {mtu}",
                f"link set br0 master {bridge}",
                "link set br0 up",
            ]
        )

    def vsctl(self, *words: str) -> str:
        """Run ovs-vsctl against this host's database."""
        return self._namespace.run("ovs-vsctl", f"--db={self._database}", "--timeout=20", *words, env=self._env)

    def _spawn(self, program: str, *words: str) -> None:
        control = f"--unixctl={self.directory}/{program}.ctl"
        quiet = ["-vconsole:off", f"--log-file={self.directory}/{program}.log"]
        self._namespace.daemon([program, *words, control, *quiet], self.directory / f"{program}.out", env=self._env)

    def _wait_for(self, path: Path) -> None:
        until = time.monotonic() + _PATIENCE
        while not path.exists():
            if time.monotonic() > until:
                raise RuntimeError(f"{path} did not appear")
            time.sleep(0.02)
