"""What Prometheus gets: the agent's state at a scrape, and what was counted since it started."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from typing import TYPE_CHECKING

import aiohttp
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from arpipam.errors import InputError
from arpipam.protocol.outcome import Verdict
from launcher.agent.config.file import MetricsEndpoint
from launcher.agent.contract import NetworkView, Status
from launcher.agent.metrics import Metrics

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

LAN = NetworkView(
    pool="lan", interface="docker0", subnet="172.16.42.0/24", state="up", reason="", silent=(), left=200, ready=3,
    wanted=4, leases=17, policy="defend", round_trip=0.004, loss=0.25, dropped=9,
)  # fmt: skip
CUT = NetworkView(
    pool="far", interface="br1", subnet="10.0.0.0/8", state="partitioned", reason="host2 is silent",
    silent=("host2", "host3"), left=5, ready=2, wanted=2, leases=0, policy="move",
)  # fmt: skip


def status(*networks: NetworkView) -> Status:
    return Status(version="1.2", pid=1, started=0.0, engine="20.10", networks=networks)


def samples(metrics: Metrics) -> list[Sample]:
    text = generate_latest(metrics.registry).decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return next((found.value for found in samples(metrics) if (found.name, found.labels) == (name, labels)), None)


def test_the_state_of_each_network() -> None:
    metrics = Metrics(lambda: status(LAN, CUT))
    lan, cut = {"interface": "docker0", "subnet": "172.16.42.0/24"}, {"interface": "br1", "subnet": "10.0.0.0/8"}
    expected = {
        "network_up": (1, 0),
        "network_partitioned": (0, 1),
        "silent_stations": (0, 2),
        "leases": (17, 0),
        "pool_left": (200, 5),
        "ready": (3, 2),
        "ready_wanted": (4, 2),
        "witness_round_trip_seconds": (0.004, None),
        "witness_loss_ratio": (0.25, None),
        "dropped_frames_total": (9, 0),
    }
    found = {
        name: (value(metrics, f"arpipam_{name}", **lan), value(metrics, f"arpipam_{name}", **cut)) for name in expected
    }
    assert found == expected
    assert value(metrics, "arpipam_build_info", version="1.2") == 1


def test_every_scrape_asks_anew() -> None:
    networks: list[NetworkView] = []
    metrics = Metrics(lambda: status(*networks))
    labels = {"interface": "docker0", "subnet": "172.16.42.0/24"}
    assert value(metrics, "arpipam_leases", **labels) is None
    networks.append(LAN)
    assert value(metrics, "arpipam_leases", **labels) == 17


def test_nothing_is_asked_before_the_first_scrape() -> None:
    Metrics(lambda: pytest.fail("the agent is not ready for that"))


def test_time_to_claim_by_where_the_address_came_from() -> None:
    metrics = Metrics(status)
    assert value(metrics, "arpipam_claim_seconds_count", how="search") == 0
    metrics.claimed("ready", 0.0009)
    metrics.claimed("ready", 0.004)
    metrics.claimed("given", 7.0)
    assert value(metrics, "arpipam_claim_seconds_count", how="ready") == 2
    assert value(metrics, "arpipam_claim_seconds_sum", how="ready") == pytest.approx(0.0049)
    assert value(metrics, "arpipam_claim_seconds_bucket", how="ready", le="0.001") == 1
    assert value(metrics, "arpipam_claim_seconds_bucket", how="ready", le="0.002") == 1
    assert value(metrics, "arpipam_claim_seconds_bucket", how="ready", le="0.01") == 2
    assert value(metrics, "arpipam_claim_seconds_bucket", how="given", le="10.0") == 1


def test_verdicts_and_conflicts_are_counted() -> None:
    metrics = Metrics(status)
    assert value(metrics, "arpipam_verdicts_total", verdict="unknown") == 0
    metrics.judged(Verdict.IN_USE)
    metrics.judged(Verdict.IN_USE)
    metrics.judged(Verdict.FREE)
    metrics.conflict("docker0")
    assert value(metrics, "arpipam_verdicts_total", verdict="in_use") == 2
    assert value(metrics, "arpipam_verdicts_total", verdict="free") == 1
    assert value(metrics, "arpipam_conflicts_total", interface="docker0") == 1


def test_names_and_help_follow_prometheus_s_conventions() -> None:
    metrics = Metrics(lambda: status(LAN, CUT))
    metrics.conflict("docker0")
    text = generate_latest(metrics.registry).decode()
    for family in text_string_to_metric_families(text):
        if family.name.startswith("process_") or family.name.endswith("_created"):
            continue
        assert re.fullmatch(r"arpipam(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
        assert not re.search(r"_(ms|milliseconds|percent|count|gauge|histogram)$", family.name)
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total")
    assert len({family.name for family in text_string_to_metric_families(text)}) > 10


def test_memory_and_descriptors_are_there() -> None:
    metrics = Metrics(status)
    assert (value(metrics, "process_open_fds") or 0) > 0
    assert (value(metrics, "process_resident_memory_bytes") or 0) > 0


def test_two_agents_in_one_process_do_not_meet() -> None:
    first, second = Metrics(status), Metrics(status)
    first.conflict("docker0")
    assert value(second, "arpipam_conflicts_total", interface="docker0") is None


# Over HTTP.


def free_port(family: socket.AddressFamily = socket.AF_INET) -> int:
    with socket.socket(family) as taken:
        taken.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def fetched(endpoint: MetricsEndpoint, path: str = "/metrics", **headers: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{endpoint}{path}", headers=headers) as answer:
        return answer.status, answer.headers["Content-Type"], await answer.text()


def test_the_figures_are_served_and_the_server_leaves_nothing_behind() -> None:
    endpoint = MetricsEndpoint("127.0.0.1", free_port())
    asked_in: list[threading.Thread] = []

    def asked() -> Status:
        asked_in.append(threading.current_thread())
        return status(LAN)

    async def scrape() -> None:
        threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
        metrics = Metrics(asked)
        close = await metrics.serve(endpoint)
        code, kind, text = await fetched(endpoint)
        assert code == 200
        assert kind.startswith("text/plain; version=")
        assert 'arpipam_leases{interface="docker0",subnet="172.16.42.0/24"} 17.0' in text
        code, kind, text = await fetched(endpoint, Accept="application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        assert text.endswith("# EOF\n")
        assert (await fetched(endpoint, "/"))[0] == 404
        await close()
        assert set(threading.enumerate()) == threads
        assert asyncio.all_tasks() == tasks
        with pytest.raises(aiohttp.ClientConnectionError):
            await fetched(endpoint)
        again = await metrics.serve(endpoint)  # as at a reload
        assert (await fetched(endpoint))[0] == 200
        await again()

    asyncio.run(scrape())
    assert set(asked_in) == {threading.current_thread()}


def test_a_scraper_that_keeps_its_connection_does_not_hold_the_server_up() -> None:
    endpoint = MetricsEndpoint("127.0.0.1", free_port())

    async def scrape() -> float:
        close = await Metrics(status).serve(endpoint)
        reader, writer = await asyncio.open_connection(endpoint.address, endpoint.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        loop = asyncio.get_running_loop()
        before = loop.time()
        await close()
        took = loop.time() - before
        writer.close()
        return took

    assert asyncio.run(scrape()) < 5


def test_the_figures_are_served_by_ipv6() -> None:
    try:
        endpoint = MetricsEndpoint("::1", free_port(socket.AF_INET6))
    except OSError:
        pytest.skip("no IPv6 here")

    async def scrape() -> int:
        close = await Metrics(status).serve(endpoint)
        code, _, _ = await fetched(endpoint)
        await close()
        return code

    assert asyncio.run(scrape()) == 200


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1", r"^metrics 127\.0\.0\.1:\d+: the port is taken; choose another, or end the program that has it$"),
        ("192.0.2.1", r"^metrics 192\.0\.2\.1:\d+: no interface of this host has the address; choose one that it has"),
    ],
)
def test_an_address_that_cannot_be_had_is_one_clear_line(address: str, said: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = MetricsEndpoint(address, taken.getsockname()[1])
        with pytest.raises(InputError, match=said):
            asyncio.run(Metrics(status).serve(endpoint))
