"""Claims by the client of the agent: told, followed, inherited, and what is left when the agent dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.claim_state import ClaimState
from arpipam.errors import UnknownError
from arpipam.leases.lease import LeaseState
from launcher.agent.client.client import AgentClient
from launcher.agent.client.connection import NoAgentError
from launcher.run.handover import HandOver
from tests.support.agent_client import ABORT, FIRST, PATIENCE, FakeAgent, eventually, mute, wanted

if TYPE_CHECKING:
    from launcher.agent.client.remote_claim import RemoteClaim


def test_a_claim_is_what_the_agent_says(agent: FakeAgent, claim: RemoteClaim) -> None:
    assert (claim.address, claim.prefix, claim.mac) == (IPv4Address("172.16.42.7"), 24, "02:00:00:00:00:07")
    assert claim.state is ClaimState.ANNOUNCING
    assert claim.found.elapsed == claim.elapsed == 0.0125
    assert (claim.lease.id, claim.lease.address, claim.lease.interface) == (7, claim.address, "br0")
    assert (claim.lease.owner, claim.lease.state) == ("web", LeaseState.CLAIMED)
    [(what, body)] = agent.asked
    assert (what, body["interface"], body["owner"], body["address"], body["exclude"]) == (
        "claim",
        "br0",
        "web",
        None,
        [],
    )


def test_its_state_follows_the_agent_s(agent: FakeAgent, claim: RemoteClaim) -> None:
    heard: list[ClaimState] = []
    claim.on_change(heard.append)
    told = ["announcing", "defending", "guarded", "defending", "guarded", "handed over"]
    for state in told:
        agent.say({"state": state})
    eventually(lambda: claim.state is ClaimState.HANDED_OVER)
    assert heard == told[1:]


def test_a_conflict_is_passed_on(agent: FakeAgent, claim: RemoteClaim) -> None:
    agent.say({"state": "conflict", "conflict": "02:00:00:00:00:99"})
    assert not claim.wait_handed_over(PATIENCE)
    assert claim.state is ClaimState.CONFLICT
    assert claim.conflict == "02:00:00:00:00:99"
    agent.say(ABORT)
    claim.close()
    assert claim.state is ClaimState.CONFLICT


def test_a_lost_link_is_passed_on(agent: FakeAgent, claim: RemoteClaim) -> None:
    agent.say({"state": "link lost", "failure": "br0 is gone"})
    assert not claim.wait_handed_over(PATIENCE)
    assert claim.state is ClaimState.LINK_LOST
    agent.say(ABORT)
    eventually(lambda: not claim._reader.is_alive())
    assert str(claim.failure) == "br0 is gone"


@pytest.mark.parametrize("state", ["guarded", "handed over"])
def test_waiting_for_the_owner(agent: FakeAgent, claim: RemoteClaim, state: str) -> None:
    start = time.monotonic()
    assert not claim.wait_handed_over(0.1)
    assert time.monotonic() - start >= 0.1
    threading.Timer(0.1, agent.say, [{"state": state}]).start()
    assert claim.wait_handed_over(PATIENCE)
    assert time.monotonic() - start < PATIENCE / 2


def test_what_it_is_told_reaches_the_agent(agent: FakeAgent, claim: RemoteClaim) -> None:
    heard: list[ClaimState] = []
    claim.on_change(heard.append)
    claim.bind("c7@engine")
    assert (claim.lease.state, claim.lease.container) == (LeaseState.BOUND, "c7@engine")
    claim.announce()
    claim.hand_over()
    claim.release(quarantine=0.0)
    claim.release()
    assert agent.asked[1:] == [
        ("7/bind", {"container": "c7@engine"}),
        ("7/announce", {}),
        ("7/hand_over", {}),
        ("7/release", {"quarantine": 0.0}),
    ]
    assert heard == [ClaimState.HANDED_OVER, ClaimState.RELEASED]


def test_what_was_under_way_does_not_undo_a_hand_over(agent: FakeAgent, claim: RemoteClaim) -> None:
    claim.hand_over()
    heard: list[ClaimState] = []
    claim.on_change(heard.append)
    for state in ("defending", "guarded", "conflict", "defending"):
        agent.say({"state": state})
    agent.say(None)
    eventually(lambda: not claim._reader.is_alive())
    assert heard == [ClaimState.CONFLICT]


def test_a_refusal_is_raised_and_changes_nothing(agent: FakeAgent, claim: RemoteClaim) -> None:
    agent.refusal = (409, {"error": "lease 7 is no more", "exit_status": 3})
    for call in (claim.announce, claim.hand_over, claim.release, lambda: claim.bind("c7")):
        with pytest.raises(UnknownError, match="lease 7 is no more"):
            call()
    assert claim.state is ClaimState.ANNOUNCING
    assert claim.lease.state is LeaseState.CLAIMED
    agent.say(ABORT)
    eventually(lambda: claim.state is ClaimState.LINK_LOST)


def test_it_ends_with_the_block(agent: FakeAgent, client: AgentClient) -> None:
    with client.claim(wanted()) as claim:
        heard: list[ClaimState] = []
        claim.on_change(heard.append)
    assert agent.asked[1:] == [("7/release", {"quarantine": 60.0})]
    assert heard == [ClaimState.RELEASED]
    assert agent.closed.wait(PATIENCE)
    assert not claim._reader.is_alive()


@pytest.mark.parametrize("end", ["bind", "hand_over"])
def test_it_outlives_the_block_once_it_belongs_to_a_container(agent: FakeAgent, client: AgentClient, end: str) -> None:
    with client.claim(wanted()) as claim:
        heard: list[ClaimState] = []
        claim.bind("c7") if end == "bind" else claim.hand_over()
        claim.on_change(heard.append)
    assert [what for what, _ in agent.asked[1:]] == [f"7/{end}"]
    assert heard == []  # least of all that it is lost
    assert agent.closed.wait(PATIENCE)


def test_an_agent_that_ends_the_stream_of_a_released_claim_is_not_lost(agent: FakeAgent, claim: RemoteClaim) -> None:
    heard: list[ClaimState] = []
    claim.on_change(heard.append)
    ended = []

    async def end_first() -> None:
        agent.say(None)
        await asyncio.to_thread(claim._reader.join)
        ended.append(claim.state)

    agent.before_answer = end_first  # type: ignore[method-assign]
    claim.release()
    assert ended == [ClaimState.ANNOUNCING]  # the stream was over before the release was known to be
    assert heard == [ClaimState.RELEASED]
    assert claim.failure is None


@pytest.mark.parametrize("last", [ABORT, None, {"what": "?"}, {"state": "asleep"}, {"state": []}, b"}\n", b"[]\n"])
def test_an_agent_that_dies(agent: FakeAgent, claim: RemoteClaim, last: object) -> None:
    heard: list[ClaimState] = []
    claim.on_change(heard.append)
    agent.say(last)
    assert not claim.wait_handed_over(PATIENCE)
    assert heard == [ClaimState.LINK_LOST]
    assert isinstance(claim.failure, NoAgentError)
    assert str(claim.failure).endswith("; nobody defends 172.16.42.7 until an agent is back")
    asked = len(agent.asked)
    claim.announce()
    claim.bind("c7")
    claim.hand_over()
    claim.release()
    assert claim.state is ClaimState.LINK_LOST
    assert claim.lease.state is LeaseState.CLAIMED
    assert len(agent.asked) == asked


@pytest.mark.parametrize("state", ["guarded", "handed over"])
def test_an_owner_that_answers_for_itself_needs_no_agent(agent: FakeAgent, claim: RemoteClaim, state: str) -> None:
    agent.say({"state": state})
    agent.say(ABORT)
    eventually(lambda: claim.failure is not None)
    assert claim.state == state
    assert claim.wait_handed_over(0)


def test_an_agent_that_is_gone_when_it_is_told_something(agent: FakeAgent, claim: RemoteClaim) -> None:
    agent.path.unlink()
    claim.bind("c7")
    assert claim.state is ClaimState.LINK_LOST
    assert str(claim.failure) == (
        f"no agent answers at {agent.path}; start it: arpipam agent; nobody defends 172.16.42.7 until an agent is back"
    )


@pytest.mark.parametrize(
    "first",
    [
        {},
        FIRST | {"address": "172.16.42"},
        FIRST | {"state": "asleep"},
        FIRST | {"lease": None},
        FIRST | {"elapsed_ms": "1"},
    ],
)
def test_a_claim_that_makes_no_sense(agent: FakeAgent, client: AgentClient, first: dict[str, Any]) -> None:
    agent.first = first
    with pytest.raises(UnknownError, match="is no agent of this version"):
        client.claim(wanted())
    assert agent.closed.wait(PATIENCE)  # so that the agent releases it


def test_an_agent_that_ends_before_it_has_an_address(tmp_path: Path) -> None:
    word = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    path = tmp_path / "mute"
    with mute(path, word), pytest.raises(NoAgentError, match="before it had an address"):
        AgentClient(path).claim(wanted())


HOLDER = """
import subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from launcher.agent.client.client import AgentClient
from tests.support.agent_client import wanted
claim = AgentClient(Path({path!r})).claim(wanted())
child = subprocess.Popen(["sleep", "60"], pass_fds=[claim.holder_fd])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_it_lives_as_long_as_a_child_that_inherited_it(agent: FakeAgent) -> None:
    code = HOLDER.format(root=str(Path(__file__).parents[3]), path=str(agent.path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        holder.kill()
    try:
        assert not agent.closed.wait(0.5)
    finally:
        os.kill(child, signal.SIGKILL)
    assert agent.closed.wait(PATIENCE)


def test_it_ends_with_a_process_that_is_killed(agent: FakeAgent) -> None:
    code = HOLDER.format(root=str(Path(__file__).parents[3]), path=str(agent.path)).replace(
        "pass_fds=[claim.holder_fd]", ""
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        holder.kill()
    try:
        assert agent.closed.wait(PATIENCE)
    finally:
        os.kill(child, signal.SIGKILL)


def test_no_signal_goes_to_its_thread(claim: RemoteClaim) -> None:
    status = Path(f"/proc/self/task/{claim._reader.native_id}/status").read_text()
    blocked = int(next(line for line in status.splitlines() if line.startswith("SigBlk:")).split()[1], 16)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGTSTP):
        assert blocked & (1 << (number - 1))


def test_a_launch_with_it_leaves_no_descriptor_behind(agent: FakeAgent, client: AgentClient) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with client.claim(wanted()):
        pass
    assert agent.closed.wait(PATIENCE)
    time.sleep(0.1)
    before = descriptors()
    for _ in range(10):
        with client.claim(wanted()) as claim:
            claim.announce()
    eventually(lambda: descriptors() <= before)


class FakeEngine:
    """Its container is created, then started."""

    def events(self, lease: int) -> Any:
        assert lease == 7
        happened = [{"Action": "create", "Actor": {"ID": "c7"}}, {"Action": "start"}]
        return (event for event in happened)

    def reference(self, container: str) -> str:
        return f"{container}@engine"

    def reads_input(self, _: str) -> bool:
        return False


def test_a_container_takes_it_over(agent: FakeAgent, claim: RemoteClaim) -> None:
    hand_over = HandOver(FakeEngine(), claim, audible=True)  # type: ignore[arg-type]
    hand_over.start()
    eventually(lambda: len(agent.asked) == 3)
    assert not hand_over.done.is_set()
    agent.say({"state": "guarded"})
    assert hand_over.done.wait(PATIENCE)
    hand_over.join()
    assert [what for what, _ in agent.asked[1:]] == ["7/bind", "7/announce", "7/hand_over"]
    assert claim.state is ClaimState.HANDED_OVER


def test_a_container_is_not_waited_for_when_the_agent_dies(agent: FakeAgent, claim: RemoteClaim) -> None:
    hand_over = HandOver(FakeEngine(), claim, audible=True)  # type: ignore[arg-type]
    hand_over.start()
    eventually(lambda: len(agent.asked) == 3)
    agent.say(ABORT)
    hand_over.join(PATIENCE)
    assert not hand_over.is_alive()
    assert not hand_over.done.is_set()
    assert hand_over.error is None
