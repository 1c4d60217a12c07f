"""axe finds nothing to complain of, in any tab, in light and in dark, on a desktop and on a phone.

Its rules of WCAG A and AA and its best practices, landmarks among them. axe-core comes with axe-playwright-python (the
extra `browser`); it is run in the open page and is no part of the file.
"""

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from cab.report import write_page
from tests.analysis.example_rows import training_rows
from tests.report.example_results import results_of, with_every_tab

TABS = ("Board", "Lengths", "Trade-off", "Patterns", "Compare", "Training", "Aggregate", "Failures", "Quality",
        "Machine and methods", "Published")  # fmt: skip
SIZES = {"desktop": (1400, 900), "phone": (390, 844)}
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def axe() -> str:
    """Return the script of axe-core; skip where it is missing."""
    pytest.importorskip("axe_playwright_python", reason="no axe: pip install 'cab-bench[browser]'")
    return (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")


def complaints(page: Any, where: str) -> list[str]:
    """Run axe and return what it finds, a line each."""
    report = page.evaluate("tags => axe.run(document, { runOnly: tags })", TAGS)
    assert len(report["passes"]) > 20  # it did look
    return [f"{where}: {each['id']}: {each['nodes'][0]['html'][:200]}" for each in report["violations"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_is_content_with_every_tab(size: str, scheme: str, axe: str, show: Callable[..., Any]) -> None:
    seen: set[str] = set()
    found = []
    for task in ("speed", "lra_text"):
        page = show(with_every_tab(), f"task={task}", *SIZES[size])
        page.evaluate("dark => document.documentElement.classList.toggle('dark', dark)", scheme == "dark")
        page.evaluate(axe)
        for tab in page.locator("[role=tab]").all_inner_texts():
            if tab in seen - {"Board", "Trade-off"}:  # these two differ with the task
                continue
            page.get_by_role("tab", name=tab, exact=True).click()
            if tab == "Board":
                page.locator("tr.line button").first.click()
            seen.add(tab)
            found += complaints(page, tab)
    assert not found
    assert seen == set(TABS)


def test_axe_is_content_with_the_aggregates_of_two_patterns(axe: str, show: Callable[..., Any]) -> None:
    scores = {"none": 0.1, "softmax": 0.9, "linear": 0.5}
    cases = [
        training_rows(name, (score, score - 0.01, score + 0.01), task=task, pattern=pattern)
        for pattern in ("NS", "CS")
        for task in ("lra_text", "lra_image")
        for name, score in scores.items()
    ]
    page = show(results_of(*cases), "tab=Aggregate")
    page.evaluate(axe)
    assert page.locator("#panel [role=region]").count() == 4
    assert not complaints(page, "Aggregate")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_is_content_with_a_dialog(scheme: str, axe: str, show: Callable[..., Any]) -> None:
    page = show(with_every_tab())
    page.evaluate("dark => document.documentElement.classList.toggle('dark', dark)", scheme == "dark")
    page.evaluate(axe)
    page.get_by_role("button", name="csv", exact=True).click()
    assert not complaints(page, "dialog")


def test_axe_is_content_with_the_boards_that_are_shown_without_scripts(axe: str, browser: Any, tmp_path: Path) -> None:
    write_page(with_every_tab(), tmp_path / "page.html")
    text = re.sub(
        r"(?s)</?noscript>|<script.*?</script>|<div id='app'></div>", "", (tmp_path / "page.html").read_text()
    )
    page = browser.new_page()
    page.set_content(text)
    assert page.locator("table").count() == 6  # speed in four patterns, and two tasks
    page.evaluate(axe)
    assert not complaints(page, "without scripts")
