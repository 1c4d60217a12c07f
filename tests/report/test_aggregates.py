"""The aggregate in the terminal."""

import io

from rich.console import Console

from cab.analysis.results import Results
from cab.report.aggregates import print_aggregates
from tests.analysis.example_rows import environments, table_of, training_rows


def printed(tasks: dict[str, dict[str, float]]) -> str:
    """Print the aggregate of task -> mechanism -> accuracy."""
    rows = [training_rows(m, (x, x - 0.01, x + 0.01), task=task) for task, of in tasks.items() for m, x in of.items()]
    out = io.StringIO()
    print_aggregates(Results(table_of(*rows), environments()), Console(file=out, width=120))
    return out.getvalue()


def test_two_tasks_are_averaged_and_what_is_missing_is_named() -> None:
    text = printed(
        {"a": {"none": 0.0, "softmax": 1.0, "x": 0.5, "y": 0.9}, "b": {"none": 0.0, "softmax": 0.5, "x": 0.4}}
    )
    lines = {line.split()[1]: line.split() for line in text.splitlines() if "0." in line or "1.00" in line}
    assert lines["x"][:3] == ["2", "x", "0.65"] and lines["softmax"][:3] == ["1", "softmax", "1.00"]
    (y,) = [line for line in text.splitlines() if line.strip().startswith("y ")]
    assert y.split()[-1] == "b"


def test_one_task_has_no_aggregate() -> None:
    assert printed({"a": {"none": 0.0, "softmax": 1.0}}) == ""
