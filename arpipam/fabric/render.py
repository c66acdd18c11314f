"""The fabric as a picture: hosts, bridges, tunnels and, as seen from this host, their state."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from arpipam.fabric.check import Condition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from arpipam.fabric.check import Finding
    from arpipam.fabric.config import DeclaredHost, Fabric

_COLOURS = {
    Condition.OK: "#2e8b57",
    Condition.WARNING: "#d98e04",
    Condition.FAULT: "#c0392b",
    Condition.UNKNOWN: "#888888",
}
_DECLARED = "#bbbbbb"
"""Of what this host cannot see: tunnels between two others."""
_BOX = 150, 58
_LEAST_RADIUS = 190
_SPACE = 62
"""Of the circle for each host."""


def _worst(conditions: Iterable[Condition]) -> Condition:
    order = [Condition.OK, Condition.UNKNOWN, Condition.WARNING, Condition.FAULT]
    return max(conditions, key=order.index, default=Condition.UNKNOWN)


class Picture:
    """Drawn from the file and the findings of a check on this host."""

    def __init__(self, fabric: Fabric, local: DeclaredHost, findings: Iterable[Finding]) -> None:
        self._fabric = fabric
        self._local = local
        found = list(findings)
        self._tunnels = {
            peer.name: _worst(
                f.condition for f in found if f.subject in {f"tunnel to {peer.name}", f"peer {peer.name}"}
            )
            for peer in fabric.peers(local)
        }
        own = {f"bridge {fabric.bridge}", f"Open vSwitch bridge {fabric.ovs_bridge}"}
        self._own = _worst(f.condition for f in found if f.subject in own)

    def dot(self) -> str:
        """For Graphviz."""
        lines = ["graph fabric {", "  layout=circo; node [shape=box, fontname=sans]; edge [fontname=sans];"]
        for host in self._fabric.hosts:
            label = "\\n".join(self._labels(host))
            lines.append(f'  "{host.name}" [label="{label}", color="{self._host_colour(host)}"];')
        for one, other in combinations(self._fabric.hosts, 2):
            colour, style = self._edge(one, other)
            label = self._fabric.tunnel or ""
            lines.append(f'  "{one.name}" -- "{other.name}" [label="{label}", color="{colour}", style="{style}"];')
        return "\n".join([*lines, "}"])

    def svg(self) -> str:
        """For a browser."""
        hosts = self._fabric.hosts
        radius = max(_LEAST_RADIUS, len(hosts) * _SPACE / 2) if len(hosts) > 1 else 0
        width, height = 2 * radius + _BOX[0] + 40, 2 * radius + _BOX[1] + 40
        root = ET.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "viewBox": f"0 0 {width:g} {height:g}",
                "width": f"{width:g}",
                "height": f"{height:g}",
                "font-family": "sans-serif",
                "font-size": "11",
            },
        )
        places = {}
        for number, host in enumerate(hosts):
            angle = 2 * math.pi * number / len(hosts) - math.pi / 2
            places[host.name] = width / 2 + radius * math.cos(angle), height / 2 + radius * math.sin(angle)
        for one, other in combinations(hosts, 2):
            colour, style = self._edge(one, other)
            (x1, y1), (x2, y2) = places[one.name], places[other.name]
            line = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}", "stroke": colour}
            line["stroke-width"] = "2" if self._local in (one, other) else "1"
            if style != "solid":
                line["stroke-dasharray"] = "6 4"
            title = ET.SubElement(ET.SubElement(root, "line", line), "title")
            title.text = f"{self._fabric.tunnel or 'link'}: {one.name} - {other.name}"
        for host in hosts:
            self._box(root, host, places[host.name])
        ET.indent(root)
        return ET.tostring(root, encoding="unicode")

    def _box(self, root: ET.Element, host: DeclaredHost, place: tuple[float, float]) -> None:
        x, y = place[0] - _BOX[0] / 2, place[1] - _BOX[1] / 2
        box = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": str(_BOX[0]), "height": str(_BOX[1]), "rx": "6"}
        ET.SubElement(root, "rect", box | {"fill": "white", "stroke": self._host_colour(host), "stroke-width": "2"})
        for number, text in enumerate(self._labels(host)):
            style = {"x": f"{place[0]:.1f}", "y": f"{y + 17 + 15 * number:.1f}", "text-anchor": "middle"}
            ET.SubElement(root, "text", style | ({"font-weight": "bold"} if number == 0 else {})).text = text

    def _labels(self, host: DeclaredHost) -> list[str]:
        fabric = self._fabric
        bridges = f"{fabric.bridge} + {fabric.ovs_bridge}" if fabric.ovs_bridge else fabric.bridge
        below = str(host.underlay) if host.underlay is not None else fabric.nic or ""
        name = f"{host.name} (absent)" if host.absent else host.name
        return [name, f"{host.address} on {bridges}", below]

    def _host_colour(self, host: DeclaredHost) -> str:
        if host.absent:
            return _DECLARED
        return _COLOURS[self._own if host == self._local else self._tunnels[host.name]]

    def _edge(self, one: DeclaredHost, other: DeclaredHost) -> tuple[str, str]:
        if one.absent or other.absent:
            return _DECLARED, "dotted"
        if self._local not in (one, other):
            return _DECLARED, "solid"
        condition = self._tunnels[other.name if one == self._local else one.name]
        return _COLOURS[condition], "solid" if condition is Condition.OK else "dashed"
