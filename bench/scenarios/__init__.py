"""The scenarios by name; a new one is a module here and a line below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.scenarios.agent import Agent
from bench.scenarios.concurrent import Concurrent
from bench.scenarios.fabric import Fabric
from bench.scenarios.false_free import FalseFree
from bench.scenarios.first_free import FirstFree
from bench.scenarios.handover import HandOver
from bench.scenarios.launch import StartLatency
from bench.scenarios.lease_load import LeaseLoad
from bench.scenarios.scale import Scale
from bench.scenarios.sweep import Sweep

if TYPE_CHECKING:
    from bench.harness import Scenario

SCENARIOS: dict[str, type[Scenario[Any]]] = {
    scenario.name: scenario
    for scenario in (
        FirstFree,
        Sweep,
        StartLatency,
        Concurrent,
        FalseFree,
        HandOver,
        Fabric,
        Agent,
        LeaseLoad,
        Scale,
    )
}
