"""The changes that make a host what the file declares, each as a value: shown in a plan, applied, recorded, undone.

A step says all that is needed to do it, so that the record of what has to be undone survives this process.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MARK = "arpipam"
"""The key in external_ids of what we made in Open vSwitch."""
GROUP = 0x6172
"""The group of the links that we made (ip-link(8), group), set as they are made."""


@dataclass(frozen=True)
class Step:
    """One change. `key` says what it is about: of several changes of one thing, the first one's undoing counts."""

    @property
    def key(self) -> str:
        """What is changed."""
        raise NotImplementedError

    @property
    def text(self) -> str:
        """A line of the plan, as of a diff: + makes, - removes, ~ changes."""
        raise NotImplementedError

    @property
    def lack(self) -> str:
        """What is wrong as long as this is not done."""
        key, _, new = self.text[2:].rpartition(" -> ")
        if self.text[0] == "~" and key:
            what, _, old = key.rpartition(": ")
            return f"{what} is {old}, should be {new}"
        return f"{self.key} {'is missing' if self.text[0] == '+' else 'should not be there'}"


@dataclass(frozen=True)
class AddLink(Step):
    """Make a link; `parameters` are pyroute2's names for those of its kind."""

    name: str
    kind: str
    parameters: dict[str, Any]

    @property
    def key(self) -> str:
        """The link."""
        return f"link {self.name}"

    @property
    def text(self) -> str:
        """Name, kind and parameters."""
        more = " ".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"+ link {self.name}: {self.kind} {more}".rstrip()


@dataclass(frozen=True)
class DelLink(Step):
    """Remove a link that we made; one of that name without our mark stays."""

    name: str

    @property
    def key(self) -> str:
        """The link."""
        return f"link {self.name}"

    @property
    def text(self) -> str:
        """The name."""
        return f"- link {self.name}"


@dataclass(frozen=True)
class SetLink(Step):
    """Set one property of a link: mtu, up, master ("" for none), isolated, stp, offload; `old` is what it was."""

    name: str
    what: str
    value: Any
    old: Any = None

    @property
    def key(self) -> str:
        """The property."""
        return f"link {self.name} {self.what}"

    @property
    def text(self) -> str:
        """Old and new."""
        return f"~ link {self.name} {self.what}: {_shown(self.old)} -> {_shown(self.value)}"


@dataclass(frozen=True)
class Address(Step):
    """Add an address with prefix to a link, or remove it."""

    name: str
    address: str
    present: bool
    broadcast: str | None = None

    @property
    def key(self) -> str:
        """The address on the link."""
        return f"address {self.address} on {self.name}"

    @property
    def text(self) -> str:
        """The address and where."""
        return f"{'+' if self.present else '-'} {self.key}"


@dataclass(frozen=True)
class Route(Step):
    """Lead a route over a link, in place of the same route over another; `attributes` as pyroute2 has them."""

    name: str
    attributes: dict[str, Any]

    @property
    def key(self) -> str:
        """Where the route leads to."""
        return f"route {self.destination} metric {self.attributes.get('priority', 0)}"

    @property
    def destination(self) -> str:
        """The route's prefix."""
        length = self.attributes.get("dst_len", 0)
        return f"{self.attributes['dst']}/{length}" if self.attributes.get("dst") else "default"

    @property
    def text(self) -> str:
        """The route and its link."""
        via = f" via {self.attributes['gateway']}" if self.attributes.get("gateway") else ""
        return f"~ route {self.destination}{via}: over {self.name}"


@dataclass(frozen=True)
class Replica(Step):
    """Send a copy of each broadcast frame to a peer, or no longer (head-end replication, bridge(8) fdb append)."""

    name: str
    remote: str
    present: bool

    @property
    def key(self) -> str:
        """The peer."""
        return f"peer {self.remote} of {self.name}"

    @property
    def text(self) -> str:
        """The peer."""
        return f"{'+' if self.present else '-'} {self.key}"


@dataclass(frozen=True)
class OvsBridge(Step):
    """Make an Open vSwitch bridge, or remove it."""

    name: str
    datapath: str
    present: bool
    hwaddr: str = ""

    @property
    def key(self) -> str:
        """The bridge."""
        return f"ovs bridge {self.name}"

    @property
    def text(self) -> str:
        """The bridge."""
        return f"{'+' if self.present else '-'} {self.key}: datapath {self.datapath}"


@dataclass(frozen=True)
class OvsPort(Step):
    """Make a port of an Open vSwitch bridge, with one interface of the same name; or remove it."""

    bridge: str
    name: str
    present: bool
    kind: str = ""
    options: dict[str, str] | None = None
    protected: bool = False
    bfd: dict[str, str] | None = None

    @property
    def key(self) -> str:
        """The port."""
        return f"ovs port {self.name}"

    @property
    def text(self) -> str:
        """The port and what it leads to."""
        if not self.present:
            return f"- {self.key} of {self.bridge}"
        options = " ".join(f"{key}={value}" for key, value in (self.options or {}).items())
        return f"+ {self.key} of {self.bridge}: {self.kind or 'system'} {options}".rstrip() + (
            " protected" if self.protected else ""
        )


@dataclass(frozen=True)
class OvsSet(Step):
    """Set a column of the Bridge, Port or Interface of that name."""

    table: str
    name: str
    column: str
    value: Any
    old: Any = None

    @property
    def key(self) -> str:
        """The column."""
        return f"ovs {self.table} {self.name} {self.column}"

    @property
    def text(self) -> str:
        """Old and new."""
        return f"~ {self.key}: {_shown(self.old)} -> {_shown(self.value)}"


OVS = (OvsBridge, OvsPort, OvsSet)
_KINDS: dict[str, type[Step]] = {
    kind.__name__: kind for kind in (AddLink, DelLink, SetLink, Address, Route, Replica, OvsBridge, OvsPort, OvsSet)
}


@dataclass(frozen=True)
class Change:
    """A step and what undoes it."""

    do: Step
    undo: Step


def to_json(step: Step) -> dict[str, Any]:
    """The step for a file."""
    return {"step": type(step).__name__, **asdict(step)}


def from_json(data: dict[str, Any]) -> Step:
    """The step that `to_json` wrote; KeyError or TypeError where it is none."""
    fields = dict(data)
    return _KINDS[fields.pop("step")](**fields)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items()) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in (None, "") else str(value)
