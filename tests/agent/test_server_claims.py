"""Claims of other programs by the agent's socket, from the request to the release."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.claim_state import ClaimState
from arpipam.errors import AddressInUseError, InputError, LeaseError, LinkError, PoolExhaustedError, UnknownError
from arpipam.leases.lease import QUARANTINE
from launcher.agent.server import claims
from tests.support.agent_server import MAC, WISH, line, refusal, run, serving
from tests.support.until import until_async

if TYPE_CHECKING:
    from pathlib import Path


def test_a_claim_from_its_request_to_its_hand_over(tmp_path: Path) -> None:
    full = {
        "subnet": "10.1.0.0/24",
        "address": "10.1.0.20",
        "mac": "02-42-24-DF-A3-04",
        "exclude": ["10.1.0.1-10.1.0.9"],
        "ranges": ["10.1.0.0-10.1.0.99"],
        "witnesses": ["10.1.0.1"],
        "order": "sticky",
        "timing": "lan",
        "alone": True,
        "miss_probability": 1e-9,
    }

    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client), client.post("/arpipam/claims", json=WISH | full) as said:
            assert said.status == 200
            first = await line(said)
            assert first.pop("elapsed_ms") >= 0
            assert first == {
                "lease": 1,
                "address": "10.1.0.20",
                "prefix": 24,
                "mac": MAC,
                "state": "announcing",
            }
            [wanted], [claim] = agent.asked, agent.claims
            assert (wanted.mac, wanted.order, wanted.exclude) == (MAC, "sticky", ("10.1.0.1-10.1.0.9",))
            for what, body in (
                ("bind", {"container": "c1"}),
                ("announce", {}),
                ("hand_over", None),  # no body at all will do
                ("release", {"quarantine": 5}),
            ):
                async with client.post(f"/arpipam/claims/1/{what}", json=body) as response:
                    assert (response.status, await response.json()) == (200, {})
                if what == "announce":
                    claim.become(ClaimState.DEFENDING)
                    assert await line(said) == {"state": "defending"}
            assert claim.done == [("bind", "c1"), ("announce",), ("handed over",), ("release", 5)]
            assert await line(said) == {"state": "released"}
            assert (await refusal(client, "POST", "/arpipam/claims/1/announce", 404))[1] == 2
        assert len(claim.done) == 4

    run(test())


@pytest.mark.parametrize("released", [True, False])
def test_a_claim_without_a_caller(tmp_path: Path, *, released: bool) -> None:
    """Bound it stays, else it is released."""

    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            async with client.post("/arpipam/claims", json=WISH) as said:
                await line(said)
                if not released:
                    async with client.post("/arpipam/claims/1/bind", json={"container": "c1"}) as response:
                        assert response.status == 200
            [claim] = agent.claims
            if released:
                await until_async(lambda: claim.done)
            await asyncio.sleep(0.05)
            assert claim.done == [("release", QUARANTINE)] if released else [("bind", "c1")]
            assert (await refusal(client, "POST", "/arpipam/claims/1/announce", 404))[1] == 2

    run(test())


def test_a_caller_that_hangs_up_in_the_midst_of_its_bind(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            async with client.post("/arpipam/claims", json=WISH) as said:
                await line(said)
                [claim] = agent.claims
                claim.binding.clear()
                task = asyncio.create_task(client.post("/arpipam/claims/1/bind", json={"container": "c1"}))
                await asyncio.sleep(0.05)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await asyncio.sleep(0.05)
            assert claim.done == []
            claim.binding.set()
            await until_async(lambda: claim.done)
            await asyncio.sleep(0.05)
            assert claim.done == [("bind", "c1")]  # begun, so done, and then it stays

    run(test())


def test_a_caller_that_hangs_up_while_an_address_is_looked_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            agent.pause.clear()
            task = asyncio.create_task(client.post("/arpipam/claims", json=WISH))
            await until_async(lambda: agent.now)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await until_async(lambda: agent.cancelled)
            assert agent.claims == []

    run(test())


def test_what_becomes_of_a_claim_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client), client.post("/arpipam/claims", json=WISH) as said:
            await line(said)
            [claim] = agent.claims
            claim.conflict = "02:00:00:00:00:01"
            claim.become(ClaimState.CONFLICT)
            assert await line(said) == {"state": "conflict", "conflict": "02:00:00:00:00:01"}
            claim.conflict, claim.failure = None, LinkError("docker0\nis down")
            claim.become(ClaimState.LINK_LOST)
            assert await line(said) == {"state": "link lost", "failure": "docker0 is down"}

    run(test())


@pytest.mark.parametrize(
    ("error", "status", "exit_status"),
    [
        (InputError("no such interface"), 400, 2),
        (AddressInUseError("in use"), 409, 1),
        (PoolExhaustedError("nothing left"), 409, 1),
        (UnknownError("host2 is silent"), 500, 3),
    ],
)
def test_a_claim_that_is_refused(tmp_path: Path, error: Exception, status: int, exit_status: int) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            agent.error = error
            said = await refusal(client, "POST", "/arpipam/claims", status, json=WISH)
            assert said == (str(error), exit_status)

    run(test())


@pytest.mark.parametrize(
    ("error", "told"),
    [(LeaseError("disk full"), "disk full"), (SystemExit(3), "arpipam: /arpipam/claims/1/bind failed")],
)
def test_an_act_that_is_refused_leaves_the_claim(tmp_path: Path, error: BaseException, told: str) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            async with client.post("/arpipam/claims", json=WISH) as said:
                await line(said)
                [claim] = agent.claims
                claim.error = error
                text, status = await refusal(client, "POST", "/arpipam/claims/1/bind", 500, json={"container": "c1"})
                assert (text.startswith(told), status) == (True, 3)
                claim.error = None
            await until_async(lambda: len(claim.done) == 2)
            assert claim.done[1] == ("release", QUARANTINE)

    run(test())


@pytest.mark.parametrize("error", [LeaseError("disk full"), RuntimeError("secret"), SystemExit(3)])
def test_a_release_that_fails_is_logged(tmp_path: Path, error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            async with client.post("/arpipam/claims", json=WISH) as said:
                await line(said)
                agent.claims[0].error = error
            await until_async(lambda: agent.claims[0].done)

    run(test())
    assert "10.1.0.20, whose caller is gone, is not released" in caplog.text
    assert str(error) in caplog.text


def test_claims_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "MOST_CLAIMS", 1)

    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            async with client.post("/arpipam/claims", json=WISH) as said:
                await line(said)
                assert (await refusal(client, "POST", "/arpipam/claims", 503, json=WISH))[1] == 3
            await until_async(lambda: agent.claims[0].done)
            async with client.post("/arpipam/claims", json=WISH) as said:
                assert (await line(said))["lease"] == 2

    run(test())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "interface: Field required; owner: Field required"),
        (b"[]", "the request's body: Input should be an object"),
        (b"{", "the request's body: Invalid JSON"),
        (b"[" * 60000, "the request's body"),
        (b'{"interface": "docker0", "owner": "a\\nb"}', "owner 'a\\nb'"),
        (WISH | {"novelty": 1}, "novelty: unknown key; is the agent older"),
        (WISH | {"interface": "../etc"}, "interface '../etc'"),
        (WISH | {"interface": "x" * 60000}, "interface 'xxx"),
        (WISH | {"owner": ""}, "owner ''"),
        (WISH | {"address": "10.1.0.300"}, "address: Octet 300"),
        (WISH | {"address": 7}, "address 7"),
        (WISH | {"subnet": "10.1.0.7/24"}, "subnet: 10.1.0.7/24 has host bits set"),
        (WISH | {"mac": "01:00:00:00:00:00"}, "mac: MAC address '01:00:00:00:00:00' belongs to no single station"),
        (WISH | {"ranges": ["; rm"]}, "ranges.0 '; rm'"),
        (WISH | {"witnesses": ["x"] * 300}, "witnesses"),
        (WISH | {"order": "last"}, "order 'last'"),
        (WISH | {"alone": "yes"}, "alone 'yes'"),
        (WISH | {"miss_probability": 1}, "miss_probability 1"),
    ],
)
def test_a_request_that_makes_no_sense(tmp_path: Path, body: bytes | dict[str, Any], said: str) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            text, exit_status = await refusal(client, "POST", "/arpipam/claims", 400, data=data)
            assert said in text
            assert (exit_status, agent.asked, len(text) <= 1000) == (2, [], True)

    run(test())


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("bind", {}),
        ("bind", {"container": 7}),
        ("bind", {"container": "c" * 300}),
        ("release", {"quarantine": -1}),
        ("release", {"quarantine": "5"}),
        ("release", {"quarantine": 1e300}),
        ("announce", {"container": "c1"}),
    ],
)
def test_an_act_that_makes_no_sense(tmp_path: Path, what: str, body: dict[str, Any]) -> None:
    async def test() -> None:
        async with serving(tmp_path / "s") as (agent, client), client.post("/arpipam/claims", json=WISH) as said:
            await line(said)
            assert (await refusal(client, "POST", f"/arpipam/claims/1/{what}", 400, json=body))[1] == 2
            assert agent.claims[0].done == []

    run(test())
