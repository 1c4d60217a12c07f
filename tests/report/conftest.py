"""A headless browser for the page's script, where this machine has one."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cab.analysis.results import Results
from cab.report import Evidence, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start Chromium; skip where it or playwright is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: the page's script is not run")
    if CHROMIUM is None:
        pytest.skip("no chromium: the page's script is not run")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that writes the page of some results and opens it at an address; errors on it fail the test."""
    errors: list[str] = []

    def opened(
        results: Results,
        address: str = "",
        width: int = 1400,
        height: int = 900,
        scripts: bool = True,
        evidence: Evidence | None = None,
    ) -> Any:
        path = tmp_path / "page.html"
        write_page(results, path, evidence)
        page = browser.new_page(viewport={"width": width, "height": height}, java_script_enabled=scripts)
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(f"a dialog: {dialog.message}"))
        page.goto(f"{path.as_uri()}#{address}")
        if scripts:
            page.wait_for_selector("html[data-ready]", timeout=30_000)
        return page

    yield opened
    assert not errors
