"""Reference results: every row is measured or says why it is unsupported, and every mechanism and pattern is there."""

from pathlib import Path

import pandas as pd
import pytest

from cab.plugins.cards import Card
from cab.plugins.registry import cards_of
from cab.store import bundle

REFERENCE = Path(__file__).parent.parent / "results" / "reference"
BUNDLES = sorted(path.parent for path in REFERENCE.glob("*/results.parquet"))


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_every_row_has_a_status_and_a_known_environment(folder: Path) -> None:
    rows, environments = bundle.read(folder)  # which verifies the checksums
    assert set(rows["status"]) <= {"ok", "unsupported"} and (rows["reason"][rows["status"] != "ok"] != "").all()
    measured = rows[(rows["status"] == "ok") & rows["environment_id"].ne("")]
    assert set(measured["environment_id"].dropna()) <= set(environments["environment_id"])
    assert (rows["commit"].str.len() == 12).all()


def test_the_costs_of_every_shipped_mechanism_are_there_in_each_of_its_patterns() -> None:
    rows = pd.read_parquet(REFERENCE / "efficiency-cpu" / "results.parquet", columns=["mechanism", "pattern", "status"])
    measured = set(rows[rows["status"] == "ok"][["mechanism", "pattern"]].itertuples(index=False, name=None))
    cards = [
        card for card in cards_of("mechanism").values() if isinstance(card, Card) and card.facts["patterns"] != "inner"
    ]
    assert {(card.name, pattern) for card in cards for pattern in card.facts["patterns"]} - measured == set()
