"""What the agent tells Prometheus. What it is asked for at a scrape comes from its status; what happens, it counts."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Literal, get_args

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from arpipam.errors import InputError
from arpipam.protocol.outcome import Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from launcher.agent.config.file import MetricsEndpoint
    from launcher.agent.contract import NetworkView, Status

How = Literal["ready", "search", "given"]
"""Where a claimed address came from: it was kept ready, it was searched for, or the user named it."""
_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds: a ready address takes about one millisecond, a search some tenths, RFC 5227's timing 4 to 7 s."""
_NETWORK = ("interface", "subnet")


class Metrics:
    """The agent's figures, in a registry of their own. `status` is called at every scrape."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        self.registry.register(_OfStatus(status))
        self._claims = Histogram(
            "arpipam_claim_seconds",
            "Time from the request for an address to its claim.",
            ["how"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._verdicts = Counter(
            "arpipam_verdicts", "Addresses that were probed, by verdict.", ["verdict"], registry=self.registry
        )
        self._conflicts = Counter(
            "arpipam_conflicts", "Other stations that used an address of ours.", ["interface"], registry=self.registry
        )
        for how in get_args(How):  # a series that is there from the start has a rate from its first event on
            self._claims.labels(how)
        for verdict in Verdict:
            self._verdicts.labels(verdict.value)

    def claimed(self, how: How, seconds: float) -> None:
        """An address was claimed; so long it took."""
        self._claims.labels(how).observe(seconds)

    def judged(self, verdict: Verdict) -> None:
        """An address was probed."""
        self._verdicts.labels(verdict.value).inc()

    def conflict(self, interface: str) -> None:
        """Another station used an address of ours."""
        self._conflicts.labels(interface).inc()

    async def run(self, endpoint: MetricsEndpoint, serving: Callable[[], None]) -> None:
        """Serve until cancelled, and call `serving()` once that has begun. Raises as `serve`."""
        close = await self.serve(endpoint)
        serving()
        try:
            await asyncio.Event().wait()
        finally:
            await close()

    async def serve(self, endpoint: MetricsEndpoint) -> Callable[[], Awaitable[None]]:
        """Serve the figures as GET /metrics; what is returned ends that.

        On this event loop, in no thread of its own: `status` is called where the agent's state changes. Raises
        InputError where the address cannot be had.
        """
        application = web.Application()
        application.router.add_get("/metrics", make_aiohttp_handler(self.registry, disable_compression=True))
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, endpoint.address, endpoint.port).start()
        except OSError as error:
            await runner.cleanup()
            raise InputError(f"metrics {endpoint}: {_why(error)}") from None
        return runner.cleanup


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is taken; choose another, or end the program that has it"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no interface of this host has the address; choose one that it has, such as 127.0.0.1"
    return os.strerror(error.errno) if error.errno else str(error)


class _OfStatus(Collector):
    """The figures that are the agent's state at this moment."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Called at every scrape."""
        status = self._status()
        build = GaugeMetricFamily("arpipam_build_info", "The agent's version; always 1.", labels=["version"])
        build.add_metric([status.version], 1)
        yield build
        for name, text, figure in _FIGURES:
            family = GaugeMetricFamily(name, text, labels=_NETWORK)
            yield _filled(family, status.networks, figure)
        dropped = CounterMetricFamily(
            "arpipam_dropped_frames", "Frames that the kernel dropped before they were read.", labels=_NETWORK
        )
        yield _filled(dropped, status.networks, lambda network: network.dropped)
        malformed = CounterMetricFamily("arpipam_dhcp_malformed", "DHCP frames that were malformed.", labels=_NETWORK)
        yield _filled(malformed, status.networks, lambda network: network.dhcp_malformed)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily,
    networks: tuple[NetworkView, ...],
    figure: Callable[[NetworkView], float | None],
) -> Metric:
    """The family with a sample for each network that has such a figure."""
    for network in networks:
        if (value := figure(network)) is not None:
            family.add_metric([network.interface, network.subnet], value)
    return family


_FIGURES: tuple[tuple[str, str, Callable[[NetworkView], float | None]], ...] = (
    ("arpipam_network_up", "1 if addresses can be searched for, else 0.", lambda it: it.state == "up"),
    (
        "arpipam_network_partitioned",
        "1 if a station that must answer is silent, else 0.",
        lambda it: it.state == "partitioned",
    ),
    ("arpipam_silent_stations", "Stations that must answer and do not.", lambda it: len(it.silent)),
    ("arpipam_leases", "Addresses that are handed out.", lambda it: it.leases),
    ("arpipam_pool_left", "Addresses that nobody is known to use.", lambda it: it.left),
    ("arpipam_ready", "Addresses that are claimed and wait to be handed out.", lambda it: it.ready),
    ("arpipam_ready_wanted", "Addresses that should be claimed and wait.", lambda it: it.wanted),
    (
        "arpipam_witness_round_trip_seconds",
        "Time from a question to a witness to its answer, smoothed.",
        lambda it: it.round_trip,
    ),
    (
        "arpipam_witness_loss_ratio",
        "Share of the questions to the witnesses that stayed unanswered, of late.",
        lambda it: it.loss,
    ),
)
