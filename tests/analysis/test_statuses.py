"""How the cases ended."""

from cab.analysis.statuses import Failure, failures
from tests.analysis.example_rows import case_rows, table_of


def test_failures_are_grouped_by_reason_worst_first() -> None:
    out_of_memory = case_rows({"latency": ("oom", "x"), "flops": 1.0})
    wrong = case_rows({"latency": ("wrong", "y")}, mechanism="linear")
    assert failures(table_of(out_of_memory, wrong)) == [
        Failure("wrong", "y", 1, ["linear"]),
        Failure("oom", "x", 1, ["softmax"]),
    ]
