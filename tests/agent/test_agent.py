"""The agent between its edges: a part may fail, a reload may be refused, and nothing else fails with it."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from arpipam.errors import InputError, LeaseError, LinkError
from arpipam.leases.sqlite import SqliteLeaseStore
from launcher.agent import supervise
from launcher.agent.agent import LEASES, MEMORY, METRICS, Agent
from launcher.agent.comparison import PART as COMPARISON
from launcher.agent.config.file import parse
from launcher.agent.config.keys import NetworkSettings
from launcher.agent.contract import AddressKind, AddressRequest, ClaimRequest, PoolRequest
from launcher.agent.edges import Edges
from launcher.agent.following import ENGINE
from launcher.agent.pools import DockerPool, PoolStore
from launcher.engine.model import EngineView

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from launcher.agent.config.file import Config

LAN = DockerPool("br0", IPv4Network("172.16.42.0/24"))
BACK = DockerPool("br1", IPv4Network("10.8.0.0/24"))
FABRIC = """
[fabric]
subnet = "172.16.42.0/24"
bridge = "br0"

[[host]]
name = "h1"
address = "172.16.42.1/24"
underlay = "10.0.0.1"
"""
OTHER_HOST = """
[[host]]
name = "h2"
address = "172.16.42.2/24"
underlay = "10.0.0.2"
"""


class NoLink:
    """An allocator whose interface is not there."""

    def __init__(self, interface: str, **_: Any) -> None:
        self._interface = interface

    def __enter__(self) -> None:
        raise LinkError(f"{self._interface} is not there")


class Follower:
    """Follows an engine that never has news, unless the test tells some."""

    def __init__(self, _: str, *, interval: Any, seen: Any, lost: Any) -> None:
        self.interval, self.seen, self.lost = interval, seen, lost
        self.errors: list[Exception] = []
        self.runs = 0

    async def run(self) -> None:
        self.runs += 1
        if self.errors:
            raise self.errors.pop()
        await asyncio.Event().wait()

    def stop(self) -> None: ...

    def look(self) -> None: ...

    async def move(self, container: str, network: str) -> None: ...


class Made:
    """An agent's edges, and the follower that was made of them."""

    def __init__(self, **others: Any) -> None:
        self.followers: list[Follower] = []
        self.edges = replace(Edges(allocator=NoLink, follower=self._follow), **others)  # type: ignore[arg-type]

    def _follow(self, url: str, **options: Any) -> Follower:
        self.followers.append(Follower(url, **options))
        return self.followers[-1]

    @property
    def follower(self) -> Follower:
        return self.followers[-1]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr("launcher.agent.agent.OPENING", 0.0)


def config(tmp_path: Path, text: str = "", **agent: str) -> Config:
    said = {"state_dir": str(tmp_path / "state"), "fabric": "none"} | agent
    lines = [f'{key} = "{value}"' for key, value in said.items()]
    return parse("\n".join(["[agent]", *lines, text]), "agent.toml")


def remember(tmp_path: Path, *pools: DockerPool) -> None:
    store = PoolStore(tmp_path / "state" / "pools.db")
    for pool in pools:
        store.request(pool)
    store.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(limited())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - under the limit of `run`
        await asyncio.sleep(0)


def failed(agent: Agent) -> dict[str, str]:
    return {failure.part: failure.reason for failure in agent.status().failures}


WRONG = pytest.mark.parametrize(
    ("fabric", "complaint"),
    [
        (None, "No such file"),
        ("[fabric\n", "line"),
        (FABRIC.replace('"h1"', '"hx"'), "h1"),
        ("[fabric]\n", "subnet"),
    ],
)


@WRONG
def test_an_agent_whose_fabric_file_is_wrong_does_not_start(tmp_path: Path, fabric: str | None, complaint: str) -> None:
    file = tmp_path / "fabric.toml"
    if fabric is not None:
        file.write_text(fabric)

    async def test() -> None:
        agent = Agent(config(tmp_path, fabric=str(file), host="h1"), edges=Made().edges)
        try:
            with pytest.raises(InputError, match=complaint):
                await agent.start()
        finally:
            await agent.stop()

    run(test)


def test_witnesses_of_the_command_line_must_answer_where_their_subnet_is(tmp_path: Path) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text(FABRIC.replace("\n\n", '\ntunnel = "vxlan"\n\n', 1) + OTHER_HOST)

    async def test() -> None:
        said = config(tmp_path, "[network]\nready = 0", fabric=str(file), host="h1")
        witnesses = (IPv4Address("10.8.0.9"), IPv4Address("172.16.42.9"))
        agent = Agent(said.override(witness=witnesses), edges=Made().edges)
        declared = agent.tools.declared
        settings = NetworkSettings(witness=(IPv4Address("10.8.0.7"),))
        assert agent.status().fabric == f"{file} as h1; witnesses 10.8.0.9, 172.16.42.9"
        await agent.start()
        try:
            assert agent.status().fabric == f"{file} as h1 on br0; witnesses 10.8.0.9, 172.16.42.9"
            back = await asyncio.to_thread(declared.of, BACK, settings)
            assert list(map(str, back.required)) == ["10.8.0.7", "10.8.0.9"]
            lan = await asyncio.to_thread(declared.of, LAN, NetworkSettings())
            assert {str(address): name for address, name in lan.required.items()} == {
                "172.16.42.9": "",
                "172.16.42.2": "h2",
            }
            await agent.reload(config(tmp_path, "[network]\nready = 0"))
            assert agent.status().fabric == ""
        finally:
            await agent.stop()

    run(test)


@WRONG
def test_a_reload_with_a_wrong_fabric_file_changes_nothing(tmp_path: Path, fabric: str | None, complaint: str) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text(FABRIC)
    remember(tmp_path, LAN, BACK)

    async def test() -> None:
        agent = Agent(config(tmp_path, fabric=str(file), host="h1"), edges=Made().edges)
        await agent.start()
        try:
            before = agent.tools.config, agent.tools.declared
            networks = {network.pool.id: network.settings for network in agent._networks()}
            if fabric is None:
                file.unlink()
            else:
                file.write_text(fabric)
            new = config(tmp_path, "quarantine = 7\n[network]\nready = 9", fabric=str(file), host="h1")
            with pytest.raises(InputError, match=complaint):
                await agent.reload(new)
            assert (agent.tools.config, agent.tools.declared) == before
            assert {network.pool.id: network.settings for network in agent._networks()} == networks
            # A link that comes back meanwhile is opened by what held before, too.
            said = await asyncio.to_thread(agent.tools.declared.of, LAN, networks[LAN.id])
            assert said.required == {}
            file.write_text(FABRIC)
            await agent.reload(new)
            assert {network.settings.ready for network in agent._networks()} == {9}
        finally:
            await agent.stop()

    run(test)


def test_a_network_that_cannot_take_new_settings_keeps_the_old_ones_and_shows_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(tmp_path, LAN, BACK)

    async def test() -> None:
        agent = Agent(config(tmp_path), edges=Made().edges)
        await agent.start()
        lan, back = agent._networks()

        async def broken(_: Any) -> None:
            raise RuntimeError("no")

        with monkeypatch.context() as patched:
            patched.setattr(lan, "configure", broken)
            await agent.reload(config(tmp_path, "[network]\nready = 9"))
        assert (lan.settings.ready, back.settings.ready) == (4, 9)
        assert failed(agent) == {f"settings of {LAN.id}": "RuntimeError: no"}
        await agent.reload(config(tmp_path, "[network]\nready = 8"))
        assert (lan.settings.ready, back.settings.ready, failed(agent)) == (8, 8, {})
        await agent.stop()

    run(test)


def test_settings_that_do_not_fit_one_network_stop_no_other_and_are_shown(tmp_path: Path) -> None:
    remember(tmp_path, LAN, BACK)

    async def test() -> None:
        agent = Agent(config(tmp_path, '[network]\nrange = ["172.16.42.10-172.16.42.20"]'), edges=Made().edges)
        await agent.start()
        assert {network.pool.id for network in agent._networks()} == {LAN.id, BACK.id}
        assert list(failed(agent)) == [f"settings of {BACK.id}"]
        assert agent._network(BACK.id).settings.ready == 0
        await agent.stop()

    run(test)


def test_nothing_is_given_out_where_the_settings_are_wrong(tmp_path: Path) -> None:
    """Neither to Docker nor to arpipam-run; what is held there is defended."""
    remember(tmp_path, BACK)
    edges = Made(facts=lambda _: SimpleNamespace(prefixes=())).edges

    async def test() -> None:
        agent = Agent(config(tmp_path, '[network]\nrange = ["172.16.42.10-172.16.42.20"]'), edges=edges)
        await agent.start()
        with pytest.raises(InputError, match="range") as by_docker:
            await agent.request_address(AddressRequest(BACK.id, AddressKind.GATEWAY, None, None))
        with pytest.raises(InputError) as by_run:
            await agent.claim(ClaimRequest(BACK.interface, "web", subnet=str(BACK.subnet)))
        assert str(by_run.value) == str(by_docker.value)
        await agent.stop()

    run(test)


def test_a_network_knows_what_docker_says_of_its_pool_now(tmp_path: Path) -> None:
    async def test() -> None:
        agent = Agent(config(tmp_path), edges=Made(facts=lambda _: None).edges)
        await agent.start()
        wanted = PoolRequest(LAN.subnet, None, {"interface": LAN.interface})
        for _ in range(2):
            await agent.request_pool(wanted)
        [network] = agent._networks()
        assert network.pool.count == 2
        await agent.release_pool(LAN.id)
        assert network.pool.count == 1
        await agent.activate()
        assert network.pool.count == 0
        await agent.stop()

    run(test)


def test_what_failed_in_a_network_is_in_its_view(tmp_path: Path) -> None:
    remember(tmp_path, LAN, BACK)

    async def test() -> None:
        agent = Agent(config(tmp_path), edges=Made().edges)
        await agent.start()
        lan, _ = agent._networks()
        lan.supervisor.failed("ready addresses", LeaseError("full"))
        views = {view.pool: [failure.reason for failure in view.failures] for view in agent.status().networks}
        assert views == {LAN.id: ["full"], BACK.id: []}
        await agent.stop()

    run(test)


def test_a_failed_start_ends_in_its_own_reason(tmp_path: Path) -> None:
    class Broken(SqliteLeaseStore):
        def leases(self, *_: Any, **__: Any) -> Any:
            raise LeaseError("the disk is gone")

    async def test() -> None:
        agent = Agent(config(tmp_path), edges=replace(Edges(), lease_store=Broken))  # with the real EngineWatch
        try:
            with pytest.raises(LeaseError, match="the disk is gone"):
                await agent.start()
        finally:
            await agent.stop()

    run(test)


def test_a_part_that_cannot_end_keeps_no_other_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        made = Made()
        agent = Agent(config(tmp_path), edges=made.edges)
        await agent.start()
        closed: list[str] = []

        def broken() -> None:
            raise LeaseError("full")

        monkeypatch.setattr(made.follower, "stop", broken)
        monkeypatch.setattr(agent._memory, "close", broken)
        monkeypatch.setattr(agent.tools.leases, "close", lambda: closed.append("leases"))
        await agent.stop()
        assert closed == ["leases"]
        assert failed(agent) == {ENGINE: "full", MEMORY: "full"}
        assert LEASES not in failed(agent)

    run(test)


def test_the_following_of_the_engine_is_restarted_and_shown_until_it_works(tmp_path: Path) -> None:
    async def test() -> None:
        made = Made()
        agent = Agent(config(tmp_path), edges=made.edges)
        made.follower.errors = [ValueError("10.0.0.1/24 has host bits set")]
        await agent.start()
        await until(lambda: made.follower.runs == 2)
        assert failed(agent) == {ENGINE: "ValueError: 10.0.0.1/24 has host bits set"}
        made.follower.seen(EngineView(1.0, "20.10", (), ("network 'x': ValueError: y",)))
        await until(lambda: not failed(agent))
        made.follower.seen(EngineView(2.0, "20.10", (), ("network 'x': ValueError: y",)))
        await asyncio.sleep(0.01)
        kinds = [event.kind for event in agent._journal._events]
        assert kinds == ["failed", "works again", "engine found", "engine unreadable"]  # told once
        await agent.stop()

    run(test)


def test_a_comparison_that_fails_is_shown_and_the_next_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        made = Made()
        agent = Agent(config(tmp_path), edges=made.edges)
        await agent.start()

        async def broken(_: EngineView) -> None:
            raise LeaseError("full")

        with monkeypatch.context() as patched:
            patched.setattr(agent._following._comparison, "compare", broken)
            made.follower.seen(EngineView(1.0, "20.10", ()))
            await until(lambda: failed(agent) == {COMPARISON: "full"})
        made.follower.seen(EngineView(2.0, "20.10", ()))
        await until(lambda: not failed(agent))
        await agent.stop()

    run(test)


def test_metrics_that_cannot_be_served_end_nothing_and_come_once_they_can(tmp_path: Path) -> None:
    async def test() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            agent = Agent(config(tmp_path, metrics=f"127.0.0.1:{port}"), edges=Made().edges)
            await agent.start()
            await until(lambda: failed(agent))
            assert list(failed(agent)) == [METRICS]
        await until(lambda: not failed(agent))
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await agent.stop()

    run(test)


def test_without_the_file_of_the_stations_the_agent_works_and_shows_it(tmp_path: Path) -> None:
    (tmp_path / "state" / "stations.db").mkdir(parents=True)

    async def test() -> None:
        agent = Agent(config(tmp_path), edges=Made().edges)
        await agent.start()
        assert list(failed(agent)) == [MEMORY]
        await agent.stop()

    run(test)
