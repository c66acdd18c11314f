"""A network and a container as engine 20.10 describes them."""

from __future__ import annotations

from typing import Any

LAN: dict[str, Any] = {
    "Name": "lan",
    "Id": 64 * "2",
    "Driver": "bridge",
    "IPAM": {"Driver": "arpipam", "Options": None, "Config": [{"Subnet": "172.16.42.0/24"}]},
    "Options": {"com.docker.network.bridge.name": "br0"},
}
WEB: dict[str, Any] = {
    "Id": 64 * "c",
    "Names": ["/web"],
    "State": "running",
    "Labels": {},
    "NetworkSettings": {"Networks": {"lan": {"IPAddress": "172.16.42.7", "MacAddress": "02:42:ac:10:2a:07"}}},
}
