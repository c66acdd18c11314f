"""What all networks of the agent share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from arpipam.leases.lease import LeaseStore
    from launcher.agent.config.file import Config
    from launcher.agent.declared import Declared
    from launcher.agent.edges import Edges
    from launcher.agent.journal import Journal
    from launcher.agent.memory import Memory
    from launcher.agent.metrics import Metrics
    from launcher.agent.network.containers import Containers
    from launcher.agent.pools import PoolStore


@dataclass
class Tools:
    """The agent, as its networks see it."""

    config: Config
    leases: LeaseStore
    pools: PoolStore
    metrics: Metrics
    journal: Journal
    memory: Memory
    declared: Declared
    edges: Edges
    containers: Containers
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    """Do something beside, to its end."""
    is_container: Callable[[str], bool]
    """Whether a container of this host has the MAC, on whatever network."""
