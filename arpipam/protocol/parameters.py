"""What a search is told of its link, and what its verdicts have to meet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from arpipam.protocol import arp
from arpipam.protocol.timing import ADAPTIVE, BUDGET, MISS_PROBABILITY, RFC5227

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from arpipam.protocol.timing import Timing


@dataclass(frozen=True)
class Parameters:
    """Facts about the link and this host, and what the caller demands. Addresses are integers, times seconds."""

    own_mac: bytes
    """The interface's MAC, and ..."""
    own_address: int = 0
    """... its address in the subnet; 0 where it has none. Requests are sent from these."""
    timing: Timing = ADAPTIVE
    """RFC5227 where the interface has no address."""
    confirm: Timing | None = None
    """What was found free is probed once more by this timing before it counts."""
    miss_probability: float = MISS_PROBABILITY
    budget: float = BUDGET
    alone: bool = False
    """There is no other station: silence needs no witness."""
    witnesses: tuple[int, ...] = ()
    """Stations that must answer."""
    names: Mapping[int, str] = field(default_factory=dict)
    """What the witnesses are called, where they have names."""
    neighbours: tuple[int, ...] = ()
    """Stations that are probably there; each of them that answers is a witness."""
    canary: int | None = None
    """The network's own address, which no station should have, and ..."""
    last: int | None = None
    """... its last one; another canary is drawn from those between."""
    answered_lately: Mapping[int, bytes] = field(default_factory=dict)
    """Stations with their MACs that have answered a probe of this host a moment ago, and so are not probed now."""
    local_addresses: Collection[int] = frozenset()
    """This host's own, which do not answer on their own link."""
    local_macs: Collection[bytes] = frozenset()
    outward: Callable[[bytes], bool] = lambda _: True
    """Whether a station that has just answered is beyond this host: a container of ours is no witness."""
    closed: str = ""
    """Why nobody beyond this host can be heard; empty where somebody may be."""

    def __post_init__(self) -> None:
        """Without an address there are only probes, and a station may stand one of them: no witness can be asked often.

        So the number of probes and their pace are the standard's, not what the witnesses show.
        """
        if not self.own_address and self.timing.probe_num is None:
            object.__setattr__(self, "timing", RFC5227)
            object.__setattr__(self, "confirm", None)

    @property
    def longest_probing(self) -> float:
        """Seconds for the probing of one address: what a fixed timing takes, and the budget on top of it."""
        return self.budget + self.timing.longest

    def request(self, address: int) -> bytes:
        """The frame that asks for an address; where the interface has none of its own, it is a probe."""
        return arp.request(self.own_mac, self.own_address, address)
