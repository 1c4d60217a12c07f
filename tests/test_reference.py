"""Reference measurements: every row has a status, and its environment stands beside it."""

import json
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent.parent / "results" / "reference" / "efficiency-cpu"


def test_every_row_has_a_status_and_a_known_environment() -> None:
    rows = pd.read_parquet(FOLDER / "results.parquet")
    assert set(rows["status"]) <= {"ok", "unsupported"} and (rows["reason"][rows["status"] != "ok"] != "").all()
    measured = rows[(rows["status"] == "ok") & rows["environment_id"].ne("")]
    known = json.loads((FOLDER / "environment.json").read_text())["environments"]
    assert set(measured["environment_id"].dropna()) <= set(known) and (rows["commit"].str.len() == 12).all()
