"""What all networks of the agent share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from ipaddress import IPv4Address
    from typing import Any

    from arpipam.leases.sqlite import SqliteLeaseStore
    from launcher.agent.comparison import Ledger
    from launcher.agent.config.file import Config
    from launcher.agent.config.keys import NetworkSettings
    from launcher.agent.contract import Event
    from launcher.agent.memory import Stations
    from launcher.agent.metrics import Metrics
    from launcher.agent.pools import DockerPool


@dataclass
class Tools:
    """The agent, as its networks see it."""

    config: Config
    leases: SqliteLeaseStore
    metrics: Metrics
    tell: Callable[[Event], None]
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    """Do something beside, to its end."""
    stations: Callable[[str], Stations]
    """The memory of an interface."""
    declared: Callable[[DockerPool, NetworkSettings], tuple[Mapping[IPv4Address, str], tuple[str, ...]]]
    """Who must answer on the pool's link, with names, and which addresses stay reserved; for a thread."""
    ledger: Ledger = field(init=False)
    """What is known of the containers."""
