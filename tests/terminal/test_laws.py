"""What became of a mechanism's laws: the kept verdict, with the reasons of its exemptions."""

from pathlib import Path

import pytest

from cab.contracts.messages import LawsAnswer
from cab.runner import verdict_cache
from cab.terminal.laws import laws_of_rows
from tests.analysis.example_rows import case_rows, table_of

KEY = ("softmax", "{}", "CC", "eager", "float32", "cpu")


def test_the_laws_of_rows_are_the_kept_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict_cache, "key", lambda case: f"{case.mechanism} {case.pattern} {case.params}")
    monkeypatch.setattr(verdict_cache, "_path", lambda key: tmp_path / f"{key}.json")
    verdict_cache.keep("softmax CC {}", LawsAnswer([], {"window": "it has none"}, 31))
    rows = table_of(
        case_rows({"latency": 1.0}, pattern="CC"),
        case_rows({"latency": 1.0}, pattern="NS"),
        case_rows({"latency": 1.0}, mechanism="chance", grade="floor"),
    )
    texts = laws_of_rows(rows)
    assert texts[KEY] == "they hold as the mechanism is now: 31 checked, exempt from window (it has none)"
    assert len(texts) == 2 and "cab check softmax pattern=NS" in texts["softmax", "{}", "NS", "eager", "float32", "cpu"]


def test_a_mechanism_that_is_not_installed_here_is_said(tmp_path: Path) -> None:
    (text,) = laws_of_rows(table_of(case_rows({"latency": 1.0}, mechanism="nowhere"))).values()
    assert "not known here" in text
