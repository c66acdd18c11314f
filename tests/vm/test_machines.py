"""The fabric with the kernel's datapath, on machines with Debian's own kernel, systemd and real engines."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.vm.machines import declare, on_both

if TYPE_CHECKING:
    from tests.vm.machine import Machine

IT_IS_UP = (
    "until systemctl is-active -q arpipam-fabric && systemctl is-active -q arpipam-fabric-docker0; do sleep 0.5; done"
)
MTU = {"gre": "1462", "vxlan": "1450"}
SERVE = "head -c 10000000 /dev/urandom > /tmp/data; sha256sum < /tmp/data; exec httpd -f -p 80 -h /tmp"


def launch(machine: Machine) -> str:
    """Start a container that serves 10 MB; its address."""
    machine.run("arpipam-run", "-d", "--name", "web", "busybox", "sh", "-c", SERVE)
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return machine.run("docker", "inspect", "-f", form, "web").stdout.strip()


def assert_they_talk(machines: list[Machine], addresses: list[str]) -> None:
    """Each container pings the other, and gets its 10 MB over TCP."""
    first, second = machines
    for here, there, address in ((first, second, addresses[1]), (second, first, addresses[0])):
        here.run("docker", "exec", "web", "ping", "-c", "3", address)
        wanted = ""
        while not wanted:  # the data is made while the container already runs
            wanted = there.run("docker", "logs", "web").stdout.split(" ")[0]
        got = here.run("docker", "exec", "web", "sh", "-c", f"wget -q -O - http://{address}/data | sha256sum").stdout
        assert got.split(" ")[0] == wanted
        assert wanted != hashlib.sha256().hexdigest()


@pytest.mark.parametrize("tunnel", ["gre", "vxlan"])
def test_containers_of_two_machines_talk_through_the_kernels_datapath(machines: list[Machine], tunnel: str) -> None:
    declare(machines, tunnel)
    on_both(machines, lambda machine: machine.run("arpipam", "fabric", "up").stdout)
    for machine in machines:
        assert machine.run("ovs-vsctl", "get", "bridge", "br0", "datapath_type").stdout.strip() == "system"
        ports = machine.run("ovs-dpctl", "show").stdout
        assert f"({tunnel}" in ports  # the kernel's own port
    addresses = on_both(machines, launch)
    assert len(set(addresses)) == 2
    assert_they_talk(machines, addresses)
    for machine, address in zip(machines, addresses, strict=True):
        assert address not in {"172.16.42.1", "172.16.42.2"}
        shown = machine.run("docker", "exec", "web", "ip", "link", "show", "eth0").stdout
        assert f"mtu {MTU[tunnel]}" in shown
    if tunnel == "gre":
        checked = on_both(machines, lambda machine: machine.run("arpipam", "fabric", "check", check=False).stdout)
        assert [line for text in checked for line in text.splitlines() if line.startswith(("fault", "unknown"))] == []
    for machine in machines:
        machine.run("docker", "rm", "--force", "web")
        machine.run("docker", "network", "rm", "arpipam-docker0")


def test_the_unit_brings_the_fabric_back_after_a_reboot_and_after_restarts_and_down_takes_it_away(
    machines: list[Machine],
) -> None:
    declare(machines, "gre")
    units = ["arpipam-fabric.service", "arpipam-fabric-docker0.service"]
    on_both(machines, lambda machine: machine.run("systemctl", "enable", "--now", *units).stdout)
    first, second = machines
    second.reboot()
    second.run("sh", "-c", IT_IS_UP)
    first.run("ping", "-c", "1", "-W", "5", "172.16.42.2")
    for service in ("docker", "openvswitch-switch"):
        first.run("systemctl", "restart", service)
        first.run("sh", "-c", IT_IS_UP)
        first.run("ping", "-c", "1", "-W", "5", "172.16.42.2")
    assert first.run("arpipam", "fabric", "plan", check=False).stdout == ""
    on_both(machines, lambda machine: machine.run("arpipam", "fabric", "down").stdout)
    for machine in machines:
        links = machine.run("ip", "-o", "link").stdout
        assert "docker0" not in links
        assert "br0" not in links
