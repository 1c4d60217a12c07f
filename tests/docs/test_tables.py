"""Tables that repeat what the code says: keys, cards, laws, columns, statuses."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cab.conformance.laws import LAWS
from cab.contracts.case import STATUSES
from cab.planning.points import NESTED
from cab.plugins import registry
from cab.store.table import COLUMNS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def table(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading."""
    below = (DOCS / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in below.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


def in_code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_key_stands_with_its_default() -> None:
    def written(value: Any) -> str:
        return (
            {None: "null"}.get(value, str(value)) if not isinstance(value, list) else f"[{', '.join(map(str, value))}]"
        )

    root = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())
    nested = {group: root.pop(group) for group in NESTED}
    expected = {key: written(value) for key, value in root.items()}
    expected |= {f"{group}.{key}": written(value) for group in NESTED for key, value in nested[group].items()}
    parts = ("What is asked", "How it is measured", "The cluster", "The training")
    rows = [row for part in parts for row in table("keys.md", part)]
    shown = {in_code(key)[0]: in_code(default)[0] if in_code(default) else "???" for key, default, _ in rows}
    assert shown == expected


@pytest.mark.parametrize("kind", ["mechanism", "task", "meter"])
def test_every_field_of_the_card_stands_in_its_table(kind: str) -> None:
    facts = registry.card(kind, registry.names(kind)[0]).facts
    contract = {name for name in facts if name in _declared(kind)}
    rows = table(f"adding-a-{kind}.md", "The card")
    assert {in_code(row[0])[0] for row in rows} == contract


def _declared(kind: str) -> set[str]:
    """Return the fields of a contract's class that have a value: the card."""
    source = (ROOT / "cab" / "contracts" / f"{kind}.py").read_text()
    body = source.partition(f"\nclass {kind.capitalize()}(")[2] or source.partition(f"\nclass {kind.capitalize()}:")[2]
    fields = re.findall(r"^    (\w+): .*?= ", body.partition("    def ")[0], re.MULTILINE)
    return {name for name in fields if name not in ("aux_loss", "shown")}  # an instance's own


def test_every_law_has_its_cause_and_its_remedy() -> None:
    rows = table("adding-a-mechanism.md", "When a law is broken")
    assert [in_code(row[0])[0] for row in rows] == ["card", *LAWS]
    assert [in_code(row[0])[0] for row in rows if "°" in row[0]] == [
        name for name, law in LAWS.items() if law.exemptible
    ]
    assert all(len(row) == 4 and all(row) for row in rows)


def test_every_column_of_the_tidy_table_is_explained() -> None:
    assert sorted(name for row in table("store.md", "The tidy table") for name in in_code(row[0])) == sorted(COLUMNS)


@pytest.mark.parametrize(("page", "heading"), [("store.md", "Statuses"), ("getting-started.md", "How a case ends")])
def test_every_status_is_explained(page: str, heading: str) -> None:
    assert sorted(in_code(row[0])[0] for row in table(page, heading)) == sorted(STATUSES)


def test_cabs_tables_are_what_the_bundles_say() -> None:
    spec = importlib.util.spec_from_file_location("cab_tables", DOCS / "scripts" / "cab_tables.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (DOCS / "cab.md").read_text()
    assert script.floors_table() in page and script.scores_table() in page, (
        "run: python docs/scripts/cab_tables.py --write"
    )


def test_a_hydra_user_finds_ten_rows() -> None:
    rows = [line for line in (DOCS / "hydra.md").read_text().splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 10
