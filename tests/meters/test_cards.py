"""The cards of all meters."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

from cab import Meter
from cab.contracts.case import Case
from cab.meters.agreement import Agreement
from cab.meters.diagnostics import Diagnostics
from cab.meters.energy import Energy
from cab.meters.extrapolation import Extrapolation
from cab.meters.flops import Flops
from cab.meters.frontier import Frontier
from cab.meters.instructions import Instructions
from cab.meters.latency import Latency
from cab.meters.latency_ratio import LatencyRatio
from cab.meters.memory import Memory
from cab.meters.parameters import Parameters
from cab.meters.quality import Quality
from cab.meters.robustness import Robustness
from cab.plugins import registry

METERS: dict[str, type[Meter]] = {
    "agreement": Agreement,
    "diagnostics": Diagnostics,
    "extrapolation": Extrapolation,
    "latency": Latency,
    "latency_ratio": LatencyRatio,
    "memory": Memory,
    "flops": Flops,
    "parameters": Parameters,
    "quality": Quality,
    "robustness": Robustness,
    "energy": Energy,
    "instructions": Instructions,
    "frontier": Frontier,
}


def test_cards_equal_classes_and_planning_needs_no_torch(case: Case) -> None:
    assert set(registry.names("meter")) == set(METERS)
    for name, cls in METERS.items():
        facts: dict[str, Any] = registry.card("meter", name).facts
        for fact in ("version", "environment", "processes", "pinned_allocator", "method"):
            assert facts[fact] == getattr(cls, fact)
        assert {k: tuple(v) for k, v in facts["metrics"].items()} == cls.metrics
        assert cls.method and (cls().unavailable("cpu") is None or cls in (Energy, Instructions))
    for cls in (Latency, Memory):
        assert "mps" in cls().unavailable("mps") and cls().unavailable("cuda:1") is None
    code = (
        "import sys\nfrom cab.plugins import registry\nfrom cab.contracts.case import Case\n"
        f"case = Case.of({replace(case, settings={'memory_limit': 1}).question()!r})\n"
        "result = {'samples': [1.0], 'flipped': [True], 'window': 5.0, 'fails': None, 'probes': {}}\n"
        "for name in registry.names('meter'):\n"
        "    meter = registry.load('meter', name)(); meter.applies(case); meter.unavailable('cpu')\n"
        "    meter.reduce(next(iter(meter.metrics), 'accuracy'), [result] * 5)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
