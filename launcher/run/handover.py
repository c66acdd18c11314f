"""From the claim to the container: binds the lease when the container exists, lets go when it answers for itself."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from arpipam.claim_state import ClaimState
from arpipam.errors import ArpipamError

if TYPE_CHECKING:
    from arpipam.claim import Claim
    from launcher.agent.client.remote_claim import RemoteClaim
    from launcher.engine.engine import Engine

HELD = (ClaimState.ANNOUNCING, ClaimState.DEFENDING)
LOOK_EVERY = 0.25  # s between looks at whether we should still wait for the container's answer


class HandOver(threading.Thread):
    """Follows one container, found by the label of its lease, while `docker run` does its work.

    To be started before `docker run`. `done` is set when the container answers for itself; where that is not
    `audible`, when it runs (a macvlan parent and its children never hear each other). Until then we defend the claim.
    """

    def __init__(self, engine: Engine, claim: Claim | RemoteClaim, *, audible: bool) -> None:
        super().__init__(name="arpipam hand-over", daemon=True)
        self.done = threading.Event()
        self.container: str | None = None
        self.reads_input: bool | None = None
        """Whether the container was started with its input open; None while that is not known."""
        self.error: ArpipamError | None = None
        """Why it gave up: the lease store or the engine failed."""
        self._engine = engine
        self._claim = claim
        self._audible = audible
        self._ending = threading.Event()
        self._events = engine.events(claim.lease.id)

    def run(self) -> None:
        """Follow the engine's events. They end when `stop` closes them, or with the engine."""
        try:
            self._follow()
        except ArpipamError as error:
            self.error = error

    def _follow(self) -> None:
        for event in self._events:
            if event["Action"] == "create":
                self.container = event["Actor"]["ID"]
                self._claim.bind(self._engine.reference(self.container))
                self.reads_input = self._engine.reads_input(self.container)
            elif event["Action"] == "start":
                self._claim.announce()
                self._wait_for_answer()
                return

    def stop(self) -> None:
        """End, whatever is still awaited."""
        self._ending.set()
        self._events.close()
        self.join()

    def _wait_for_answer(self) -> None:
        while self._audible and not self._claim.wait_handed_over(LOOK_EVERY):
            if self._ending.is_set() or self._claim.state not in HELD:
                return
        self._claim.hand_over()
        self.done.set()
