"""A claim that the agent holds for us, with the surface of `arpipam.claim.Claim`."""

from __future__ import annotations

import dataclasses
import threading
import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from arpipam.claim_state import ClaimState
from arpipam.errors import ArpipamError
from arpipam.leases.lease import QUARANTINE, Lease, LeaseState
from launcher.agent.client.connection import NoAgentError
from launcher.signals import signals_held

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from launcher.agent.client.connection import Connection, Lines

_ANSWERS = (ClaimState.GUARDED, ClaimState.HANDED_OVER)
_OVER = (ClaimState.CONFLICT, ClaimState.RELEASED, ClaimState.LINK_LOST)


class RemoteFound(NamedTuple):
    """What is known of the search."""

    elapsed: float
    """Seconds that the agent took."""


class RemoteClaim:
    """An address that the agent claimed, and defends until its owner answers for itself.

    The claim lives as long as any process has its connection open (`holder_fd`), or, once it is bound, as long as its
    container. When the agent ends, it is `LINK_LOST` where it was defended still, `failure` says so, and all calls are
    without effect: an agent that starts again finds the container by the label of its lease.

    As a context manager it is released at the end, unless it was bound or handed over.
    """

    def __init__(self, connection: Connection, lines: Lines, interface: str, owner: str) -> None:
        self._connection = connection
        self._lines = lines
        self._changed = threading.Condition()
        self._listeners: list[Callable[[ClaimState], None]] = []
        self._ended = False
        """The agent says no more, and is told no more."""
        self._leaving = False
        """It ends because we want it."""
        self.conflict: str | None = None
        """The MAC of the station that insists on the address."""
        self.failure: Exception | None = None
        """Why nobody defends it any more."""
        try:
            self._begin(next(lines), interface, owner)
        except BaseException as error:
            lines.close()
            if isinstance(error, StopIteration):
                raise NoAgentError(
                    f"the agent at {connection.path} ended before it had an address; see its log"
                ) from None
            raise
        self._reader = threading.Thread(target=self._read, name=f"arpipam claim {self.address}", daemon=True)
        with signals_held():
            self._reader.start()

    def _begin(self, said: dict[str, Any], interface: str, owner: str) -> None:
        try:
            self.address = IPv4Address(said["address"])
            self.prefix = int(said["prefix"])
            self.mac = str(said["mac"])
            self.state = ClaimState(said["state"])
            self.found = RemoteFound(said["elapsed_ms"] / 1000)
            number = int(said["lease"])
        except (KeyError, TypeError, ValueError):
            raise self._connection.stranger(str(said)) from None
        now = time.time()
        self.lease = Lease(
            number, interface, self.address, self.prefix, self.mac, owner, LeaseState.CLAIMED, "", now, now, 0.0
        )

    # What the agent says, on the thread that reads it.

    def _read(self) -> None:
        failure: Exception | None = None
        try:
            for said in self._lines:
                try:
                    state = ClaimState(said["state"])
                except (KeyError, ValueError):
                    failure = self._connection.stranger(str(said))
                    break
                self._told(state, said)
        except ArpipamError as error:
            failure = error
        if not self._leaving:
            self._end(failure)

    def _told(self, state: ClaimState, said: dict[str, Any]) -> None:
        if state is ClaimState.CONFLICT:
            self.conflict = said.get("conflict") or "another station"
        elif state is ClaimState.LINK_LOST:
            self.failure = ArpipamError(str(said.get("failure") or f"{self.lease.interface} is lost"))
        # What we did ourselves holds, whatever was on its way to us meanwhile.
        self._become(state, unless=_OVER if state in _OVER else (*_OVER, ClaimState.HANDED_OVER))

    def _end(self, failure: Exception | None) -> None:
        """The connection is at its end."""
        if self._ended:
            return
        self._ended = True
        why = str(failure or f"the agent at {self._connection.path} ended the claim")
        self.failure = self.failure or NoAgentError(f"{why}; nobody defends {self.address} until an agent is back")
        self._become(ClaimState.LINK_LOST, unless=(*_OVER, *_ANSWERS))

    def _become(self, state: ClaimState, *, unless: tuple[ClaimState, ...] = ()) -> None:
        with self._changed:
            if state is self.state or self.state in unless:
                return
            self.state = state
            self._changed.notify_all()
        for listener in self._listeners:
            listener(state)

    # What its holder calls, on any thread.

    @property
    def elapsed(self) -> float:
        """Seconds that the agent took."""
        return self.found.elapsed

    @property
    def holder_fd(self) -> int:
        """A file descriptor to pass on to a child: the claim is held while either lives."""
        return self._lines.fileno()

    def on_change(self, listener: Callable[[ClaimState], None]) -> None:
        """Call `listener(state)` at each change, on the thread that makes or hears of it."""
        self._listeners.append(listener)

    def announce(self) -> None:
        """The owner is up now: announce again, and ask it until it answers for itself."""
        self._tell("announce")

    def wait_handed_over(self, timeout: float) -> bool:
        """Wait until the owner answers for itself, for at most `timeout` seconds; whether it does."""
        with self._changed:
            self._changed.wait_for(lambda: self.state in (*_ANSWERS, *_OVER), timeout)
            return self.state in _ANSWERS

    def bind(self, container: str) -> None:
        """The address belongs to this container now; its lease outlives this process."""
        if self._tell("bind", {"container": container}):
            self.lease = dataclasses.replace(
                self.lease, state=LeaseState.BOUND, container=container, changed=time.time()
            )

    def hand_over(self) -> None:
        """The owner answers for itself. The lease stays."""
        if self._tell("hand_over"):
            self._become(ClaimState.HANDED_OVER, unless=_OVER)

    def release(self, quarantine: float = QUARANTINE) -> None:
        """Release the address; nobody else gets it for `quarantine` seconds."""
        if self.state is ClaimState.RELEASED:
            return
        self._leaving = True
        try:
            released = self._tell("release", {"quarantine": quarantine})
        except ArpipamError:
            self._leaving = False
            raise
        if released:
            self._become(ClaimState.RELEASED)

    def close(self) -> None:
        """End the connection, for a child that inherited it too. A claim that is not bound is released by that."""
        self._leaving = self._ended = True
        self._lines.close()
        if threading.current_thread() is not self._reader:
            self._reader.join()

    def _tell(self, what: str, values: dict[str, Any] | None = None) -> bool:
        """Whether the agent did it; False where there is none any more."""
        if self._ended:
            return False
        try:
            self._connection.ask("POST", f"/arpipam/claims/{self.lease.id}/{what}", values or {})
        except NoAgentError as error:
            self._end(error)
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.state is not ClaimState.HANDED_OVER and self.lease.state is not LeaseState.BOUND:
                self.release()
        finally:
            self.close()
