"""How much of what a machine can do at most a timing used."""

import json

import pytest

from cab.analysis.utilisation import utilisation
from tests.analysis.timed_rows import HERE, rows


def test_utilisation_is_of_the_needed_operations_and_the_roofline_of_what_takes_longer() -> None:
    peak = {HERE: {"matmul": {"float32": 100.0}, "copy": 10.0, "time": "2026"}}
    timed = rows(latency=2.0, flops_needed=50.0, flops_counted=90.0, bytes_needed=4.0)
    (line,) = utilisation(timed, peak).to_dict("records")
    assert (line["utilisation"], line["roofline"], line["bound"], line["rate"]) == (0.25, 0.25, "compute", 25.0)
    (line,) = utilisation(rows(latency=2.0, flops_counted=50.0, bytes_needed=10.0), peak).to_dict("records")
    assert (line["utilisation"], line["roofline"], line["bound"]) == (0.25, 0.5, "memory")
    assert line["peak_time"] == "2026"


def test_a_training_step_is_held_to_the_products_of_its_precision() -> None:
    peak = {HERE: {"matmul": {"float32": 100.0, "bfloat16": 1000.0}, "copy": 1e9, "time": "2026"}}
    step = rows(latency=1.0, flops_counted=50.0, bytes_needed=1.0).assign(**{"pass": "train"})

    def used(precision: str, device: str) -> float:
        settings = json.dumps({"training": {"precision": precision}})
        return float(utilisation(step.assign(settings=settings, device=device), peak)["utilisation"].iloc[0])

    assert (used("auto", "cpu"), used("float32", "cuda")) == (0.5, 0.5)
    assert (used("auto", "cuda"), used("bfloat16", "cpu")) == (0.05, 0.05)


@pytest.mark.parametrize(
    "changes", [{"environment_id": "elsewhere"}, {"dtype": "bfloat16"}, {"status": "oom"}], ids=lambda c: next(iter(c))
)
def test_without_a_peak_of_the_same_environment_and_dtype_there_is_no_utilisation(changes: dict[str, str]) -> None:
    peak = {HERE: {"matmul": {"float32": 100.0}, "copy": 10.0, "time": "2026"}}
    assert utilisation(rows(latency=2.0, flops_needed=50.0, bytes_needed=4.0).assign(**changes), peak).empty
