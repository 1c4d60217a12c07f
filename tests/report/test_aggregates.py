"""The aggregate in the terminal."""

import io

from rich.console import Console

from cab.analysis.results import Results
from cab.report.aggregates import cabs_boards, print_aggregates
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


def test_beside_a_task_of_cab_stand_cabs_own_boards() -> None:
    scores = {"none": 0.0, "softmax": 1.0, "local": 0.5}
    text = " ".join(printed({"cab_x": scores, "b": scores}).split())
    assert "CAB, NS: local +0.98, cosformer +0.47, long_short +0.27" in text and "CAB, CC" not in text
    assert "depends on who is among them" in text
    assert "CAB," not in printed({"a": scores, "b": scores})


def test_cabs_boards_are_in_the_order_of_its_index() -> None:
    boards = cabs_boards()
    assert {pattern for pattern, *_ in boards} == {"NS", "CS", "NC", "CC"}
    for pattern in ("NS", "CS", "NC", "CC"):
        own = [(rank, index) for of, rank, _, index in boards if of == pattern]
        assert [rank for rank, _ in own] == list(range(1, len(own) + 1))
        assert [index for _, index in own] == sorted((index for _, index in own), reverse=True)
