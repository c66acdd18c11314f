"""The agent as systemd runs it: two units, two capabilities, engines and agents that start in any order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.vm.machines import declare, on_both

if TYPE_CHECKING:
    from tests.vm.machine import Machine

SUBNET = "172.16.42.0/24"
CREATE = [
    *("docker", "network", "create", "-d", "bridge", "--ipam-driver", "arpipam", "--subnet", SUBNET),
    *("-o", "com.docker.network.bridge.name=br-lan", "lan"),
]


def status(machine: Machine) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(machine.run("arpipam", "agent", "status", "--json", check=False).stdout)
    return said


def start(machine: Machine) -> str:
    """A container on the network; its address."""
    words = ["docker", "run", "-d", "--name", "web", "--restart", "always", "--network", "lan"]
    machine.run(*words, "busybox", "sleep", "9999")
    return machine.run("docker", "inspect", "-f", "{{.NetworkSettings.Networks.lan.IPAddress}}", "web").stdout.strip()


def test_the_units_serve_docker_through_restarts_and_a_reboot(machines: list[Machine]) -> None:
    declare(machines, "gre", bridge="br-lan")
    on_both(machines, lambda machine: machine.run("systemctl", "enable", "--now", "arpipam-fabric.service").stdout)
    enable = ["systemctl", "enable", "--now", "arpipam-agent.socket", "arpipam-agent.service"]
    on_both(machines, lambda machine: machine.run(*enable).stdout)
    on_both(machines, lambda machine: machine.run(*CREATE).stdout)
    first, second = machines
    addresses = on_both(machines, start)
    assert len(set(addresses)) == 2
    first.run("docker", "exec", "web", "ping", "-c", "3", addresses[1])

    pid = first.run("systemctl", "show", "-P", "MainPID", "arpipam-agent").stdout.strip()
    capabilities = first.run("grep", "CapBnd", f"/proc/{pid}/status").stdout.split()[1]
    assert int(capabilities, 16) == (1 << 12) | (1 << 13)  # CAP_NET_ADMIN, CAP_NET_RAW (capability.h)

    first.run("systemctl", "kill", "-s", "KILL", "arpipam-agent")  # it comes back by itself, with all its leases
    first.run("sh", "-c", "until systemctl is-active -q arpipam-agent; do sleep 0.2; done")
    first.run("sh", "-c", f"until arpipam leases | grep -q '{addresses[0]}.*bound'; do sleep 0.5; done")
    first.run("systemctl", "reload", "arpipam-agent")

    second.reboot()  # the engine starts its container again by itself, and asks the agent for an address
    second.run("sh", "-c", "until docker exec web true 2>/dev/null; do sleep 1; done")
    inspect = ["docker", "inspect", "-f", "{{.NetworkSettings.Networks.lan.IPAddress}}", "web"]
    address = second.run(*inspect).stdout.strip()
    assert address not in {"", addresses[0]}
    first.run("sh", "-c", f"until docker exec web ping -c 1 -W 2 {address}; do sleep 1; done")
    assert [network["state"] for network in status(second)["networks"]] == ["up"]

    for machine in machines:
        machine.run("docker", "rm", "--force", "web")
        machine.run("docker", "network", "rm", "lan")
        machine.run("systemctl", "disable", "--now", "arpipam-agent.socket", "arpipam-agent.service", "arpipam-fabric")
        machine.run("arpipam", "fabric", "down")
