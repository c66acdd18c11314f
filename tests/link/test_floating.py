"""A bridge whose MAC changes with its ports, and the command that ends that."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.link_spaces import NEEDS_ROOT, Space

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

from arpipam.link import floating

pytestmark = NEEDS_ROOT

SAY = "from arpipam.link.socket import Link; print(Link('br0').fix_mac())"


def said(space: Space) -> str:
    """What a process says that sees the /sys of the namespace."""
    script = f'mount -t sysfs none /sys; exec {sys.executable} -c "{SAY}"'
    command = ["nsenter", f"--net=/run/netns/{space.name}", "unshare", "-m", "sh", "-ec", script]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_bridge_that_takes_the_macs_of_its_ports(here: Space) -> None:
    here.ip("link add br0 type bridge", "link set br0 up")
    fix = said(here)
    assert fix.startswith("ip link set br0 address ")
    here.ip(fix.removeprefix("ip "))
    assert said(here) == ""
    low, high = "00:00:00:00:00:07", fix.rpartition(" ")[2]
    here.ip(f"link add low address {low} type veth peer name wol", "link set low master br0", "link set low up")
    shown = subprocess.run(["ip", "-n", here.name, "link", "show", "br0"], check=True, capture_output=True, text=True)
    assert high in shown.stdout


def test_a_bridge_with_a_mac_of_its_own(here: Space) -> None:
    here.ip("link add br0 address 02:00:00:00:00:01 type bridge", "link set br0 up")
    assert said(here) == ""


def test_where_sys_shows_another_namespace_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mac, text = bytes.fromhex("020000000001"), "02:00:00:00:00:01"
    place = tmp_path / "br0"
    place.mkdir()
    monkeypatch.setattr(floating, "SYSFS", tmp_path)
    assert floating.remedy("br0", 7, mac) == ""
    for name, value in (("ifindex", "7"), ("address", text), ("addr_assign_type", "1")):
        (place / name).write_text(value + "\n")
    assert floating.remedy("br0", 7, mac) == f"ip link set br0 address {text}"
    assert floating.remedy("br0", 8, mac) == ""
    assert floating.remedy("br0", 7, bytes(6)) == ""
