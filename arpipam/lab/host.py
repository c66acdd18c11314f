"""A host of the lab: a namespace with a bridge, and if asked an engine and an Open vSwitch of its own."""

from __future__ import annotations

import json
import os
import subprocess
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Any

from arpipam.fabric import Site, load
from arpipam.lab.engine import LabEngine
from arpipam.lab.openvswitch import OpenVSwitch

if TYPE_CHECKING:
    from pathlib import Path

    from arpipam.lab.namespace import Namespace
    from arpipam.lab.wire import Wire

UPLINK = "uplink"


class Host:
    """One machine on the network. `name` is its short name, `address` its own on the bridge."""

    def __init__(
        self,
        name: str,
        namespace: Namespace,
        directory: Path,
        *,
        address: str,
        bridge: str,
        engine: bool | str = False,
        client: str | None = None,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.directory = directory
        self.interface = IPv4Interface(address)
        self.address = str(self.interface.ip)
        self.bridge = bridge
        version = engine if isinstance(engine, str) else ""
        self.engine = None if engine is False else LabEngine(namespace, directory, client, version)
        self.openvswitch: OpenVSwitch | None = None
        self.fabric_file = directory / "fabric.toml"
        self.mtu = 1500
        """Of the bridge and what is on it; less where tunnels take their share."""
        self._wire: Wire | None = None
        self._underlay_address = ""
        self._machines = 0

    @property
    def env(self) -> dict[str, str]:
        """The environment in which the tools of this host run."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "ARPIPAM_"))}
        env |= {"ARPIPAM_STATE_DIR": str(self.directory / "state"), "ARPIPAM_INTERFACE": self.bridge}
        if self.engine is not None:
            env |= self.engine.env
        if self.openvswitch is not None:
            env |= self.openvswitch.env
        return env

    def join(self, wire: Wire) -> None:
        """The bridge gets a port on this wire."""
        self._wire = wire

    def plug(self, other: Namespace, interface: str) -> None:
        """Plug a machine into the bridge, as a virtual machine on this host would be: `interface` is its end."""
        port = f"m{self._machines}"
        self._machines += 1
        self.namespace.ip(
            [
                f"link add {port} mtu {self.mtu} type veth peer name {interface} netns {other.name}",
                f"link set {port} master {self.bridge} up",
            ]
        )
        other.ip([f"link set {interface} mtu {self.mtu} up"])

    def tunnel(self, underlay: Wire, underlay_address: str, *, openvswitch: bool) -> None:
        """The bridge reaches the other hosts by tunnels over this wire."""
        self._wire = underlay
        self._underlay_address = underlay_address
        if openvswitch:
            self.openvswitch = OpenVSwitch(self.namespace, self.directory / "ovs")

    def start(self, declared: dict[str, Any], *, up: bool = True) -> None:
        """Start the engine and Open vSwitch, then bring the declared fabric `up`, or leave that to the caller.

        In this order, since an engine without a bridge of its own removes docker0 as it starts.
        """
        if self.engine is not None:
            self.engine.start()
        if self._wire is not None:
            self._wire.plug(self.namespace, UPLINK)
        if self._underlay_address:
            self.namespace.ip([f"addr add {self._underlay_address} dev {UPLINK}"])
        if self.openvswitch is not None:
            self.openvswitch.start()
        self.fabric_file.write_text(toml(declared))
        if up:
            with self.namespace.inside():
                self.mtu = self.site().up().mtu

    def site(self) -> Site:
        """This host in its fabric. To be used `inside` its namespace."""
        ovsdb = None if self.openvswitch is None else self.openvswitch.database
        return Site(load(self.fabric_file), self.directory / "state", name=self.name, ovsdb=ovsdb)

    def docker(self, *words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the docker client on this host; its output is text."""
        if self.engine is None:
            raise RuntimeError(f"{self.name} has no engine")
        return self.command(self.engine.client, *words, check=check, **options)

    def command(self, *words: str, check: bool = False, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run any command on this host, with its environment; its output is text."""
        env = self.env | options.pop("env", {})
        done = subprocess.run(
            self.namespace.enter(*words), check=False, text=True, capture_output=True, env=env, **options
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(words)}: exit {done.returncode}: {done.stderr.strip()}")
        return done

    def spawn(self, *words: str, **options: Any) -> subprocess.Popen[Any]:
        """Start any command on this host."""
        env = self.env | options.pop("env", {})
        return subprocess.Popen(self.namespace.enter(*words), env=env, **options)


def toml(declared: dict[str, Any]) -> str:
    """A fabric file of these keys; `hosts` is a list of hosts."""

    def lines(table: dict[str, Any]) -> list[str]:
        return [f"{key} = {json.dumps(value)}" for key, value in table.items()]

    hosts = [line for host in declared["hosts"] for line in ("", "[[host]]", *lines(host))]
    return "\n".join(["[fabric]", *lines({k: v for k, v in declared.items() if k != "hosts"}), *hosts, ""])
