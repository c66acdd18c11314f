"""What lies around the agent and is given to it where it is made: files, links, the engine, clocks, threads, the hook.

The defaults are the real ones. A simulation gives others, and all that is inside runs unchanged.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

from arpipam.allocator import Allocator
from arpipam.leases.sqlite import SqliteLeaseStore
from arpipam.link import netlink
from arpipam.link.dhcp_socket import DhcpSocket, received
from launcher.agent.hooks import run_hook
from launcher.agent.memory import StationStore
from launcher.agent.pools import PoolStore
from launcher.engine.watch import EngineWatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from ipaddress import IPv4Network
    from pathlib import Path

    from arpipam.leases.lease import LeaseStore
    from launcher.engine.model import EngineView, FailedStart

P = ParamSpec("P")
T = TypeVar("T")


class Follower(Protocol):
    """Follows an engine; see EngineWatch."""

    async def run(self) -> None:
        """Follow until cancelled or stopped."""

    def stop(self) -> None:
        """End; waits."""

    def look(self) -> None:
        """Look again soon."""

    async def move(self, container: str, network: str) -> None:
        """Give a running container another address."""

    async def failed_starts(self) -> list[FailedStart]:
        """Containers that should run and could not be started."""

    async def start(self, container: str) -> None:
        """Start a container."""


class MakesFollower(Protocol):
    """What makes one."""

    def __call__(
        self,
        url: str,
        *,
        interval: Callable[[], float],
        seen: Callable[[EngineView], None],
        lost: Callable[[str], None],
    ) -> Follower:
        """`seen` and `lost` may be called from any thread."""


class RunsInThread(Protocol):
    """What runs a function that waits, elsewhere than on the event loop."""

    def __call__(self, function: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> Awaitable[T]:
        """Its result."""


@dataclass(frozen=True)
class Edges:
    """The real ones by default."""

    lease_store: Callable[[Path], LeaseStore] = SqliteLeaseStore
    pool_store: Callable[[Path], PoolStore] = PoolStore
    station_store: Callable[[Path, Callable[[], float]], StationStore] = StationStore
    """Told of the file and of `now`."""
    allocator: Callable[..., Allocator] = Allocator
    """Opens a link. What is drawn by lot is drawn there: a simulation makes allocators with a seed."""
    facts: Callable[[str], netlink.Facts] = netlink.facts
    """What the kernel says of an interface; waits."""
    hear_dhcp: Callable[[str], DhcpSocket] = DhcpSocket
    """Hears DHCP on an interface; OSError where it cannot."""
    received: Callable[[str], int] = received
    """The frames that an interface has received so far."""
    on_subnet: Callable[[IPv4Network], list[str]] = netlink.on_subnet
    """The interfaces that have an address in a subnet; waits."""
    follower: MakesFollower = EngineWatch
    run_hook: Callable[[Path, bytes], Awaitable[None]] = run_hook
    in_thread: RunsInThread = asyncio.to_thread
    monotonic: Callable[[], float] = time.monotonic
    """Seconds that only go forward."""
    now: Callable[[], float] = time.time
    """Seconds since 1970."""
