"""What crosses the agent's socket, and what the server of that socket asks the agent for.

Times are seconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address, IPv4Network

    from arpipam.claim import Claim


@dataclass(frozen=True)
class Failure:
    """A part of the agent that does not work; it is restarted."""

    part: str
    """What it is, for example `ready addresses`."""
    since: float
    """When it failed first, in a row of failures."""
    reason: str
    """Its last error, in one line."""


@dataclass(frozen=True)
class NetworkView:
    """One network of the agent: a pool on a link."""

    pool: str
    """Docker's PoolID, or the interface where Docker has no pool on it."""
    interface: str
    subnet: str
    state: str
    """`up`, `partitioned` (a station that must answer is silent: nothing is searched), `mismatch` (the engine has made
    something else than was meant: nothing is handed out) or `down` (no link, or none that leads beyond this host)."""
    reason: str
    """Why it is not up, in one line."""
    silent: tuple[str, ...]
    """The declared hosts and named witnesses that do not answer."""
    left: int
    """Addresses that nobody is known to use."""
    ready: int
    """Addresses that are claimed and wait to be handed out."""
    wanted: int
    """How many of those there should be."""
    leases: int
    """Addresses handed out."""
    policy: str
    round_trip: float | None = None
    """Of the witnesses, smoothed, seconds."""
    loss: float | None = None
    """Share of the questions to the witnesses that stayed unanswered, of late."""
    dropped: int = 0
    """Frames that the kernel dropped before they were read."""
    failures: tuple[Failure, ...] = ()
    """Parts of the network that do not work."""
    required: tuple[str, ...] = ()
    """Who must answer: declared hosts and named witnesses."""
    dhcp: tuple[str, ...] = ()
    """What each DHCP server was seen to give out, in one line each."""
    dhcp_warnings: tuple[str, ...] = ()
    """Those whose addresses are in the pool, and what to do, in one line each."""
    dhcp_malformed: int = 0
    """DHCP frames that were malformed."""


@dataclass(frozen=True)
class LeaseView:
    """One lease of this host."""

    interface: str
    address: str
    prefix: int
    mac: str
    owner: str
    state: str
    """`ready`, `claimed`, `bound`, `quarantined`."""
    container: str
    created: float
    guarded: str
    """Who answers for it: `agent`, `container`, or `nobody` (the link is down, or it is in quarantine)."""
    conflict: str
    """The MAC of another station that uses the address too; empty where there is none."""


@dataclass(frozen=True)
class StationView:
    """Somebody who was seen on a link."""

    interface: str
    address: str
    mac: str
    first: float
    last: float


class EventKind(StrEnum):
    """Every kind of event, and what it means."""

    CONFLICT = "conflict"
    """Another station uses an address of ours."""
    MOVED = "moved"
    """A container got another address, since another station uses its former one."""
    MOVE_FAILED = "move failed"
    """A container keeps an address that another station uses too."""
    HOOK_FAILED = "hook failed"
    """The hook was not run, was killed, ended with an error, or was left out for some conflicts."""
    MISMATCH = "mismatch"
    """The engine has made another network than was meant: nothing is handed out on it."""
    PARTITION = "partition"
    """A station that must answer is silent: nothing is searched on that network."""
    HEALED = "healed"
    """All stations that must answer do so again."""
    LINK_DOWN = "link down"
    """A link cannot be used, or nobody beyond this host can be heard on it."""
    FLOATING_MAC = "floating mac"
    """The MAC of a bridge changes with its ports."""
    GAP = "gap"
    """A link could not be heard for a while; ready addresses are probed again."""
    LINK_UP = "link up"
    """A link is open, and all its leases are defended; or others can be heard on it again."""
    CLAIMED = "claimed"
    """An address is ours, for arpipam-run or to be kept ready."""
    HANDED_OUT = "handed out"
    """Docker was given an address."""
    HANDED_OVER = "handed over"
    """A container answers for its address itself."""
    TAKEN_OVER = "taken over"
    """A container has stopped; the agent answers for its address."""
    RELEASED = "released"
    """An address is ours no more."""
    SAME_MAC = "same MAC"
    """Two containers of this host have the same MAC on one link, which cannot tell them apart."""
    REFUSED = "refused"
    """Docker asked for an address and got none."""
    STARTED = "started"
    """A container that was refused while its engine started is started now."""
    START_FAILED = "start failed"
    """Such a container could not be started, once more."""
    LEAKED = "leaked"
    """Docker never released an address that no container has; the agent did."""
    ADOPTED = "adopted"
    """A container has an address of ours that was not recorded."""
    EXHAUSTED = "exhausted"
    """No address can be claimed ahead of need."""
    DHCP = "dhcp"
    """A DHCP server gives out addresses of the pool."""
    ENGINE_LOST = "engine lost"
    """The Docker engine cannot be reached."""
    ENGINE_FOUND = "engine found"
    """The Docker engine answers, or answers with another version."""
    ENGINE_UNREADABLE = "engine unreadable"
    """The engine has a network or container whose description cannot be read; the others are followed."""
    FAILED = "failed"
    """A part of the agent does not work; it is restarted."""
    WORKS_AGAIN = "works again"
    """A part that failed works again."""


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    at: float
    kind: str
    """One of EventKind's values."""
    interface: str = ""
    address: str = ""
    mac: str = ""
    other: str = ""
    """The MAC of the other station of a conflict."""
    owner: str = ""
    text: str = ""
    """For a person, in one line."""


@dataclass(frozen=True)
class Status:
    """The agent as a whole."""

    version: str
    pid: int
    started: float
    engine: str
    """The engine's version, or why it cannot be reached."""
    networks: tuple[NetworkView, ...] = ()
    failures: tuple[Failure, ...] = ()
    """Parts of the agent, beside its networks, that do not work."""
    fabric: str = ""
    """The fabric file that is honoured and the witnesses named beside it; empty where there is none."""


@dataclass(frozen=True)
class ClaimRequest:
    """The address that arpipam-run asks for; None and empty: as the agent's settings for that network say."""

    interface: str
    owner: str
    subnet: str | None = None
    address: str | None = None
    mac: str | None = None
    exclude: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()
    order: str | None = None
    timing: str | None = None
    alone: bool = False
    miss_probability: float | None = None

    def options(self, usual: Mapping[str, Any]) -> dict[str, Any]:
        """The allocator's options that differ from the `usual` ones of the network."""
        said: dict[str, Any] = {}
        if self.ranges or self.address is not None:
            said["ranges"] = self.ranges
        if self.exclude:
            said["exclude"] = (*usual["exclude"], *self.exclude)
        for name in ("order", "timing", "miss_probability"):
            if getattr(self, name) is not None:
                said[name] = getattr(self, name)
        if self.alone:
            said |= {"alone": True, "witnesses": self.witnesses}
        elif self.witnesses:
            said["witnesses"] = (*usual["witnesses"], *self.witnesses)
        return said


class AddressKind(StrEnum):
    """Whom an address is for."""

    GATEWAY = "gateway"
    """Of the network: given by the user, as it was last time, or to be found where there is no address."""
    GIVEN = "given"
    """An auxiliary address, or a container's when the engine starts and tells what it has: in use, and rightly so."""
    ENDPOINT = "endpoint"
    """A container's that starts now: to be found, or with `--ip` to be looked at."""


@dataclass(frozen=True)
class PoolRequest:
    """A network asks for its pool: at its creation, and again whenever the engine starts."""

    subnet: IPv4Network
    ranges: IPv4Network | None
    """Docker's --ip-range: where addresses for containers are taken from."""
    options: Mapping[str, str]
    """Docker's --ipam-opt."""


@dataclass(frozen=True)
class AddressRequest:
    """An address is asked for."""

    pool: str
    kind: AddressKind
    address: IPv4Address | None
    """The one that it has to be; there always where it is GIVEN."""
    mac: str | None
    """The MAC that will own it, aa:bb:cc:dd:ee:ff; there always where it is an ENDPOINT."""


class ClaimServer(Protocol):
    """Claims for other programs. All raise ArpipamError, in one line, where they refuse; for the event loop."""

    async def claim(self, wanted: ClaimRequest) -> Claim:
        """Claim an address; cancelled when nobody waits for it any more."""

    async def bind(self, claim: Claim, container: str) -> None:
        """The lease is the container's from now on."""

    def announce(self, claim: Claim) -> None:
        """Announce again: the owner is up."""

    def hand_over(self, claim: Claim) -> None:
        """The owner answers for itself."""

    async def release(self, claim: Claim, quarantine: float) -> None:
        """Release the address; it goes to its last owner only for so many seconds."""
