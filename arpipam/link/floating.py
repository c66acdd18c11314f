"""Whether a bridge's MAC floats: one that nobody has set is the lowest of its ports', and changes with them."""

from __future__ import annotations

from pathlib import Path

from arpipam.protocol import arp

SYSFS = Path("/sys/class/net")
_SET = 3
"""NET_ADDR_SET (linux/netdevice.h)."""


def remedy(bridge: str, index: int, mac: bytes) -> str:
    """The command that fixes the MAC of a bridge; empty where it does not float, or where that cannot be told."""
    place = SYSFS / bridge
    try:
        here = int((place / "ifindex").read_text()), (place / "address").read_text().strip()
        assigned = int((place / "addr_assign_type").read_text())
    except (OSError, ValueError):
        return ""
    if here != (index, arp.mac_text(mac)):  # /sys may show another network namespace than ours
        return ""
    return "" if assigned == _SET else f"ip link set {bridge} address {arp.mac_text(mac)}"
