"""The published numbers: tidy, and each with its source."""

import pandas as pd

from cab.analysis.published import published_rows
from cab.plugins.registry import card


def test_every_number_names_its_source_and_stands_once() -> None:
    keys = set()
    for row in published_rows():
        assert all(row[name] for name in ("benchmark", "source", "mechanism", "pattern", "task", "metric", "unit")), row
        assert row["pattern"] in ("NS", "CS", "NC", "CC")
        assert 0 < float(row["value"]) < 1 or row["metric"] != "accuracy", row
        key = tuple(value for name, value in row.items() if name != "value")
        assert key not in keys, row
        keys.add(key)
    assert {row["benchmark"] for row in published_rows()} == {"LRA", "CAB"}


def test_averages_are_those_of_their_rows() -> None:
    rows = pd.DataFrame(published_rows()).astype({"value": float})
    of_paper = rows[rows["source"] == "arXiv 2011.04006, table 1"]
    scores = of_paper.pivot(index="mechanism", columns="task", values="value")
    difference = (scores.drop(columns="lra_average").mean(axis=1) - scores["lra_average"]).abs()
    assert len(scores) == 11
    # the paper's own average of sinkhorn is 0.09 points too low; the others differ by their rounding
    assert difference["sinkhorn"].round(4) == 0.0009 and difference.drop("sinkhorn").max() < 1e-4


def test_a_task_with_a_name_of_ours_has_its_metrics_and_units() -> None:
    # rows are matched exactly: a name of ours with another metric or unit would never stand beside a board
    of_ours = {(row["task"], row["metric"], row["unit"]) for row in published_rows() if row["task"].startswith("cab_")}
    assert {task for task, _, _ in of_ours} >= {
        "cab_pcc",
        "cab_sr",
        "cab_sum",
        "cab_tts_fastspeech2",
        "cab_tts_transformer",
    }
    for task, metric, unit in of_ours:
        facts = card("task", task).facts
        assert facts["metrics"][metric][0] == unit, (task, metric, unit)
    for row in published_rows():
        if row["task"].startswith("cab_"):
            assert row["pattern"] in card("task", row["task"]).facts["slots"], row
