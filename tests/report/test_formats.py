"""Boards in the formats of other tools."""

import csv
import io
import json
from xml.etree import ElementTree

import pandas as pd
import pytest

from cab.errors import UsageError
from cab.report.formats import formatted
from tests.analysis.example_rows import board_of, case_rows

NAME = "a|b<i>&_$\n=1"
BOARD = board_of(
    case_rows({"latency": (0.5, 0.45, 0.52), "flops": 2e9}, mechanism=NAME), case_rows({"latency": 1.0, "flops": 1e9})
)


def test_markdown_and_html_and_latex_escape_names() -> None:
    markdown, html, tex = (formatted([BOARD], name).decode() for name in ("md", "html", "tex"))
    assert r"| 1 | a\|b\<i\>&\_$ =1 | 500 ±10% | 2.00 |" in markdown and len(markdown.splitlines()) == 4
    assert "a|b&lt;i&gt;&amp;_$\n=1" in html and "<i>" not in html
    assert r"1 & a$|$b$<$i$>$\&\_\$ =1 & 500 $\pm$10\% & 2.00 \\" in tex


def test_csv_json_and_parquet_hold_full_precision_in_the_units_of_the_rows() -> None:
    csv = pd.read_csv(io.BytesIO(formatted([BOARD], "csv")))
    parquet = pd.read_parquet(io.BytesIO(formatted([BOARD], "parquet")))
    records = json.loads(formatted([BOARD], "json"))
    for frame in (csv, parquet, pd.DataFrame(records)):
        assert list(frame["latency"]) == [0.5, 1.0] and list(frame["latency_high"])[0] == 0.52
        assert list(frame["mechanism"]) == [NAME, "softmax"]


def test_csv_and_json_name_each_rows_cases_and_the_command_that_repeats_it() -> None:
    rows = [case_rows({"latency": 1.0}, mechanism="agent", params={"agents": 8}, seed=seed) for seed in (0, 1)]
    board = board_of(*rows)
    csv = pd.read_csv(io.BytesIO(formatted([board], "csv")))
    for record in (csv.to_dict("records")[0], json.loads(formatted([board], "json"))[0]):
        assert record["case_ids"].split(",") == [rows[0][0]["case_id"], rows[1][0]["case_id"]]
        assert record["command"].startswith("cab run mechanism=agent mechanism.agents=8 backend=eager task=speed")
        assert record["command"].endswith(" seed=0,1")


def test_columns_are_chosen_in_their_order() -> None:
    assert "| FLOPs (GFLOP) | latency (ms) |" in formatted([BOARD], "md", ["flops", "latency"]).decode()
    with pytest.raises(UsageError, match="did you mean 'latency'"):
        formatted([BOARD], "md", ["latenci"])
    with pytest.raises(UsageError, match="unknown format"):
        formatted([BOARD], "xml")


def test_a_badge_names_the_best_and_escapes_it() -> None:
    text = formatted([BOARD], "badge").decode()
    root = ElementTree.fromstring(text)
    assert root.attrib["aria-label"].startswith("speed NS n=512: a|b<i>&_$") and text.count("<i>") == 0


def test_no_cell_of_a_csv_is_a_formula() -> None:
    cases = [case_rows({"latency": 1.0}, mechanism=name) for name in ("=HYPERLINK(1)", "@sum", "linear")]
    text = formatted([board_of(*cases)], "csv").decode()
    names = [record["mechanism"] for record in csv.DictReader(io.StringIO(text))]
    assert sorted(names) == ["'=HYPERLINK(1)", "'@sum", "linear"]
