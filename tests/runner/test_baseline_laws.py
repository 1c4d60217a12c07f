"""The laws of a baseline come before a time that is a multiple of its time."""

from pathlib import Path

from cab.runner.fork_client import ForkClient
from tests.runner.example_runs import ATTEND, measure, users_file


def test_a_broken_baseline_gives_no_ratio_and_costs_no_other_meter(server: ForkClient, elsewhere: Path) -> None:
    pooled = f"{ATTEND}    return v.mean(2, keepdim=True).expand_as(v).contiguous()\n\nreference = attend\n"
    name = users_file(elsewhere, pooled, "{'CS': 'native'}")
    overrides = ["mechanism=softmax", "pattern=CS", "seq_len=32", "meters=[latency_ratio,parameters]"]
    metrics, _ = measure(server, [*overrides, f"baseline={name}"], elsewhere)
    ratio = metrics["latency_ratio"]["latency_ratio"]
    assert ratio.status == "wrong" and ratio.value is None and ratio.reason.startswith(f"baseline {name}: law ")
    assert metrics["parameters"]["parameters"].status == "ok"
