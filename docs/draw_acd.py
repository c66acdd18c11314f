"""Draws docs/acd.md from the table in arpipam/acd.py: `python docs/draw_acd.py > docs/acd.md`."""  # noqa: INP001 - a script

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from arpipam.protocol.acd import TRANSITIONS, Policy, State

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = """\
# One address: the RFC 5227 state machine

This file is drawn from `arpipam.protocol.acd.TRANSITIONS` by `python docs/draw_acd.py > docs/acd.md`; do not edit
it. What is not in the table is a fault of the caller: it raises `IllegalTransition` and changes nothing.
"""

NOTES = """\
- *waiting* lasts up to PROBE_WAIT, *probing* until PROBE_NUM probes have left or the witnesses say that there were
  enough, *settling* ANNOUNCE_WAIT after the last probe, or as long as the slowest witness needs (RFC 5227, 2.1.1).
- *a station uses it*: a request or reply with the address as its sender, from another MAC. *A station probes for it*: a
  request for it with sender 0.0.0.0, from a MAC that is none of this host's (2.1.1). Any other request for the address
  is no conflict: *a station asks for it*, and while the address is ours it is answered (2.3).
- *free* is nobody's: the caller claims the address, or lets it go.
- *announcing*: ANNOUNCE_NUM announcements, ANNOUNCE_INTERVAL apart (2.3). The address is answered for from the
  first one on.
- *guarding*: the owner, a container say, answers for the address itself (*its owner answers*), under the MAC that we
  announced; when it is gone we answer again. *Ours since before*: the claim of a process that ended.
- An announcement says, in the padding of its frame, since when its sender has the address. Where two claims meet, as
  after a cut link is whole again, both sides so know the elder one (of two from the same microsecond, that of the lower
  MAC): it is defended whatever the policy, the younger one is *given up*, or *noted* where its owner uses the address.
- Any other conflict while the address is ours is *defended*, *given up* or *noted* as the policy says (2.4):
"""

POLICIES = {
    Policy.NEVER: "(a) given up at once",
    Policy.ONCE: "(b) defended by one announcement, given up at the second conflict within DEFEND_INTERVAL",
    Policy.ALWAYS: "(c) defended for ever, by at most one announcement in DEFEND_INTERVAL",
    Policy.REPORT: "noted, and left to whoever is told",
}


def diagram() -> Iterator[str]:
    """Draw the machine as mermaid does; what happens between the same two states shares an arrow."""
    yield "stateDiagram-v2"
    for state in State:
        yield f'    state "{state}" as {state.name}'
    yield f"    [*] --> {State.WAITING.name}"
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, what), after in TRANSITIONS.items():
        arrows.setdefault((state, after), []).append(what)
    for (state, after), inputs in arrows.items():
        yield f"    {state.name} --> {after.name}: {', '.join(inputs)}"
    for state in ends():
        yield f"    {state.name} --> [*]"


def table() -> Iterator[str]:
    """All transitions, by state."""
    yield "| state | what happens | next state |"
    yield "|---|---|---|"
    order = list(State)
    for (state, what), after in sorted(TRANSITIONS.items(), key=lambda entry: order.index(entry[0][0])):
        yield f"| {state} | {what} | {'(stays)' if after is state else after} |"


def ends() -> list[State]:
    """States that nothing leads on from."""
    left = {state for state, _ in TRANSITIONS}
    return [state for state in State if state not in left]


def main() -> None:
    """Write the page."""
    policies = "\n".join(f"  - `{policy}`: {POLICIES[policy]}" for policy in Policy)
    final = ", ".join(f"*{state}*" for state in ends())
    last = f"- Nothing leads on from {final}."
    parts = [HEAD, "```mermaid", *diagram(), "```\n", *table(), "", NOTES + policies, last]
    sys.stdout.write("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
