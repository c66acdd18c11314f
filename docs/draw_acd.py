"""Draws docs/acd.md from the table and the decisions of the protocol: `python docs/draw_acd.py > docs/acd.md`."""  # noqa: INP001 - a script

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from arpipam.protocol.acd import TRANSITIONS, AcdState
from arpipam.protocol.policy import Policy, decide

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = """\
# One address: the RFC 5227 state machine

This file is drawn from `arpipam.protocol.acd.TRANSITIONS` and `arpipam.protocol.policy.decide` by
`python docs/draw_acd.py > docs/acd.md`; do not edit it. An input that a state's row does not list is a fault of the
caller: it raises `IllegalTransition` and changes nothing.
"""

NOTES = """\
- *waiting* lasts up to PROBE_WAIT, *probing* until PROBE_NUM probes have left and the witnesses say that there were
  enough rounds, *settling* ANNOUNCE_WAIT after the last round, or as long as the slowest witness needs (RFC 5227,
  2.1.1).
- *probe due* is a round: an ordinary request from the interface's own address, and in the third round and the last two
  also the probe under the MAC that will own the address. Some DHCP clients delete their address at a second probe, so
  a station gets that only if it was silent to all the requests between. The timings of a fixed number of probes have
  both in every round; where the interface has no address there are probes only.
- *a station uses it*: a request or reply with the address as its sender, from another MAC. *A station probes for it*: a
  request for it with sender 0.0.0.0 to everybody, from a MAC that is none of this host's (2.1.1); one to a single
  station is that station's affair, as when a switch asks whether it is still there. Any other request for the address
  is no conflict: *a station asks for it*, and while the address is ours it is answered (2.3).
- *free* is not reserved: the caller claims the address at once, or lets it go.
- *announcing*: ANNOUNCE_NUM announcements, ANNOUNCE_INTERVAL apart (2.3). The address is answered for from the
  first one on. That one is said as a reply to everybody too: a station that asked before, and so got no answer, may
  listen for replies alone, as `busybox udhcpc -a` does for 2 s after its only question.
- *guarding*: the owner, for example a container, answers for the address itself (*its owner answers*), under the MAC
  that we announced; when it is gone we answer again. *Ours since before*: the claim of a process that ended.
"""

DECISIONS = """\
## Decisions

Where another station uses an address that we hold, the policy of the claim decides (2.4), unless it is known which of
two claims is older. *Again*: a second conflict within DEFEND_INTERVAL of our last defence, which is one announcement.

An announcement says, in the padding of its frame, since when its sender has the address. Where two claims meet, as
after a cut link is whole again, so both sides know which claim is older; ties go to the lower MAC. The date is bounded,
not proven: one before the first release of the program (2026), in the future, or more than ten years before our own
claim counts as not said, but within these bounds a station can lie. *Its owner is gone* leads to *lost* where an older
claim was met in the last minute.
"""

EVENTS = """\
## Events

`Acd.events()` returns what has happened since the last call: `Ready` (no station answered), `Used`, `Contended`,
`Announced`, `Conflict` (one for each frame, with the decision), `Defended` (the announcement has left) and `Lost`. The
queue is bounded; a flood of conflicts that nobody reads is counted in `dropped_events`.
"""

INVARIANTS = """\
## Invariants

`tests/protocol/test_acd_machine.py` holds the machine to these in any order of packets that arrive or are lost, time,
full transmit queues and calls (`ARPIPAM_STEPS=100000` for as many steps; it prints the seed that takes them again):

- No frame has the address as its sender before `claim` or `adopt`, and `claim` is legal only after PROBE_NUM
  probes have left and the listening has ended.
- From then on each question of another host is answered in *announcing* and *defending*, and none in *guarding*.
- From *in use*, *contended*, *lost* and *released* nothing is sent, and nothing is due.
- Defences leave at least DEFEND_INTERVAL apart.
- Each foreign frame from an address that we hold is one `Conflict`; `Ready`, `Used`, `Contended` and `Lost` are told
  once, exactly where the machine reaches that state.
- Our own frames that come back change nothing, and a call that is not legal raises and changes nothing.
- The frames and the events that wait are bounded.
"""


def exits(state: AcdState) -> Iterator[tuple[str, AcdState]]:
    """What happens in a state, with the decision where there is one, and the next state."""
    for what, after in TRANSITIONS[state].items():
        if isinstance(after, AcdState):
            yield what, after
        else:
            yield from ((f"{what}: {decision}", decided) for decision, decided in after.items())


def diagram() -> Iterator[str]:
    """Draw the machine as mermaid does; what happens between the same two states shares an arrow."""
    yield "stateDiagram-v2"
    for state in AcdState:
        yield f'    state "{state}" as {state.name}'
    yield f"    [*] --> {AcdState.WAITING.name}"
    for state in TRANSITIONS:
        arrows: dict[AcdState, list[str]] = {}
        for what, after in exits(state):
            arrows.setdefault(after, []).append(what.replace(":", ","))
        for after, inputs in arrows.items():
            yield f"    {state.name} --> {after.name}: {', '.join(inputs)}"
    for state in ends():
        yield f"    {state.name} --> [*]"


def table() -> Iterator[str]:
    """All transitions, by state."""
    yield "| state | what happens | next state |"
    yield "|---|---|---|"
    for state in TRANSITIONS:
        for what, after in exits(state):
            yield f"| {state} | {what} | {'(stays)' if after is state else after} |"


def decisions() -> Iterator[str]:
    """What `decide` says, by policy."""
    yield "| policy | not known which is older | again | ours is older | the other is older | ... while *guarding* |"
    yield "|---|---|---|---|---|---|"
    for policy in Policy:
        cases = [
            decide(policy, older=older, recently_defended=recently, guarding=guarding)
            for older, recently, guarding in (
                (None, False, False),
                (None, True, False),
                (True, False, False),
                (False, False, False),
                (False, False, True),
            )
        ]
        yield f"| `{policy}` | {' | '.join(cases)} |"


def ends() -> list[AcdState]:
    """States that nothing leads on from."""
    return [state for state in AcdState if not TRANSITIONS[state]]


def main() -> None:
    """Write the page."""
    final = ", ".join(f"*{state}*" for state in ends())
    last = f"- Nothing leads on from {final}.\n"
    machine = [HEAD, "```mermaid", *diagram(), "```\n", *table(), "", NOTES + last]
    parts = [*machine, DECISIONS, *decisions(), "", EVENTS, INVARIANTS]
    sys.stdout.write("\n".join(parts).rstrip() + "\n")


if __name__ == "__main__":
    main()
