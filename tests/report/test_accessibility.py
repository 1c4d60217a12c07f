"""axe finds nothing to complain of, in any tab, in light and in dark.

axe-core is a package of npm, and not part of this project: `npm install axe-core` here, or anywhere and
`CAB_AXE=.../node_modules/axe-core/axe.min.js`.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.example_results import with_every_tab

AXE = Path(os.environ.get("CAB_AXE") or Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js")
TABS = ("Board", "Lengths", "Trade-off", "Patterns", "Compare", "Training", "Aggregate", "Failures", "Quality",
        "Machine and methods", "Published")  # fmt: skip


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: npm install axe-core, or name its axe.min.js in CAB_AXE")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_is_content_with_every_tab(scheme: str, show: Callable[..., Any]) -> None:
    seen, violations = set(), []
    for task in ("speed", "lra_text"):
        page = show(with_every_tab(), f"task={task}")
        page.evaluate("dark => document.documentElement.classList.toggle('dark', dark)", scheme == "dark")
        page.evaluate(AXE.read_text("utf-8"))
        for tab in page.locator("[role=tab]").all_inner_texts():
            page.get_by_role("tab", name=tab, exact=True).click()
            if tab == "Board":
                page.locator("tr.line button").first.click()
            report = page.evaluate("axe.run(document)")
            assert len(report["passes"]) > 20  # it did look
            seen.add(tab)
            violations += [f"{tab}: {each['id']}: {each['nodes'][0]['html'][:200]}" for each in report["violations"]]
    assert not violations
    assert seen == set(TABS)
