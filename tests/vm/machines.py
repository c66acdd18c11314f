"""What tests do with both virtual machines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vm.machine import Machine

FABRIC = """
[fabric]
bridge = "{bridge}"
ovs_bridge = "br0"
tunnel = "{tunnel}"
subnet = "172.16.42.0/24"
datapath = "system"

[[host]]
name = "host1"
underlay = "192.168.122.1"
address = "172.16.42.1/24"

[[host]]
name = "host2"
underlay = "192.168.122.2"
address = "172.16.42.2/24"
"""


def on_both(machines: list[Machine], function: Callable[[Machine], str]) -> list[str]:
    """At the same moment."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, machines))


def declare(machines: list[Machine], tunnel: str, bridge: str = "docker0") -> None:
    for machine in machines:
        machine.run("mkdir", "-p", "/etc/arpipam")
        machine.run("tee", "/etc/arpipam/fabric.toml", stdin=FABRIC.format(tunnel=tunnel, bridge=bridge).encode())
