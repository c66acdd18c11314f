"""A host of the lab: a namespace with a bridge, and if asked an engine and an Open vSwitch of its own."""

from __future__ import annotations

import os
import subprocess
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Any

from arpipam.lab.engine import Engine
from arpipam.lab.openvswitch import OpenVSwitch

if TYPE_CHECKING:
    from pathlib import Path

    from arpipam.lab.namespace import Namespace
    from arpipam.lab.wire import Wire

UPLINK = "uplink"
MTU = 1450
"""Of bridges and containers over a tunnel, GRE or VXLAN."""


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
        engine: bool = False,
        client: str | None = None,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.directory = directory
        self.interface = IPv4Interface(address)
        self.address = str(self.interface.ip)
        self.bridge = bridge
        self.engine = Engine(namespace, directory, client) if engine else None
        self.openvswitch: OpenVSwitch | None = None
        self._wire: Wire | None = None
        self._underlay: tuple[Wire, str] | None = None
        self._tunnel = ""
        self._machines = 0

    @property
    def env(self) -> dict[str, str]:
        """The environment in which the tools of this host run."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "ARPIPAM_"))}
        env |= {"ARPIPAM_STATE_DIR": str(self.directory / "state"), "ARPIPAM_INTERFACE": self.bridge}
        if self.engine is not None:
            env |= self.engine.env
        return env

    def join(self, wire: Wire) -> None:
        """The bridge gets a port on this wire."""
        self._wire = wire

    def plug(self, other: Namespace, interface: str) -> None:
        """Plug a machine into the bridge, as a virtual machine on this host would be: `interface` is its end."""
        port = f"m{self._machines}"
        self._machines += 1
        mtu = MTU if self._underlay else 1500
        self.namespace.ip(
            [
                f"link add {port} mtu {mtu} type veth peer name {interface} netns {other.name}",
                f"link set {port} master {self.bridge} up",
            ]
        )
        other.ip([f"link set {interface} mtu {mtu} up"])

    def tunnel(self, underlay: Wire, underlay_address: str, kind: str) -> None:
        """The bridge reaches the other hosts by Open vSwitch and tunnels over this wire."""
        self._underlay = underlay, underlay_address
        self._tunnel = kind

    def start(self, peers: dict[str, str]) -> None:
        """Start the engine, then make the bridge (an engine without a bridge of its own removes docker0 as it starts).

        `peers`: name and underlay address of each other host.
        """
        if self.engine is not None:
            self.engine.start()
        mtu = MTU if self._underlay else 1500
        lines = [
            f"link add {self.bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {self.bridge} mtu {mtu} up",
            f"addr add {self.interface} dev {self.bridge}",
        ]
        if self._wire is not None:
            self._wire.plug(self.namespace, UPLINK)
            lines.append(f"link set {UPLINK} master {self.bridge}")
        self.namespace.ip(lines)
        if self._underlay is not None:
            underlay, own = self._underlay
            underlay.plug(self.namespace, UPLINK)
            self.openvswitch = OpenVSwitch(self.namespace, self.directory / "ovs")
            self.openvswitch.start()
            self.openvswitch.connect(UPLINK, own, bridge=self.bridge, kind=self._tunnel, peers=peers, mtu=MTU)

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
