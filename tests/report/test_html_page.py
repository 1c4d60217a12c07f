"""The page is one file. It fetches nothing, and its script runs in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cab.report import write_page
from tests.analysis.example_rows import case_rows, environments, table_of, training_rows

MARKUP = "</script><img src=x onerror=alert(1)>'\"&"


class ParsedPage(HTMLParser):
    """The tags of a page, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)


def test_the_page_is_one_file_that_fetches_nothing_and_runs_nothing_from_the_data(tmp_path: Path) -> None:
    metrics = {"latency": (1.0, 0.9, 1.1), "flops": ("error", MARKUP)}
    hostile = case_rows(metrics, mechanism=MARKUP, task=MARKUP, data_source=MARKUP)
    table = table_of(case_rows({"latency": 1.0}), hostile)
    write_page(table, environments().assign(cpu=MARKUP), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = ParsedPage(text)
    names = [name for name, _ in page.tags]
    assert "img" not in names and "link" not in names and names.count("script") == 3
    assert not any({"src", "href", "onerror", "onclick"} & set(attrs) for _, attrs in page.tags)
    assert text.count("plotly.js v") == 1
    assert "default-src 'none'" in text and "showSendToCloud: false" in text
    (plot_data,) = (script for script in page.scripts if script.startswith("{"))
    assert not set("<>&") & set(plot_data)
    assert MARKUP in {line["label"] for view in json.loads(plot_data)["views"] for line in view["series"]}


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium: the page's script is not run")
def test_the_page_draws_sorts_and_chooses_in_a_browser(tmp_path: Path) -> None:
    lengths, patterns, factors = (64, 128, 256), ("NS", "CS", "NC", "CC"), {"softmax": 3, "agent": 1, "local": 2}
    cases = [
        case_rows({"latency": (k * n / 1e6, k * n / 1.1e6, k * n / 0.9e6)}, mechanism=name, pattern=pattern, n=n, m=n)
        for n in lengths
        for pattern in patterns
        for name, k in factors.items()
    ]
    path = tmp_path / "page.html"
    write_page(table_of(*cases), environments(), path)
    clicks = """
        const select = document.querySelector('select[name=pattern]');
        select.value = 'CC';
        select.dispatchEvent(new Event('change'));
        const latency = document.querySelectorAll('article:not([hidden]) th button')[2];
        latency.click();
        latency.click();
    """
    path.write_text(path.read_text().replace("</body>", f"<script>{clicks}</script></body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    assert dom.count('class="trace scatter') == 12  # three mechanisms in four patterns
    boards = re.findall('<article class="board"([^>]*)>(.*?)</article>', dom, re.DOTALL)
    (shown,) = [board for attributes, board in boards if "hidden" not in attributes]
    assert len(boards) == 12 and "causal cross (CC) · n = 64" in shown
    # the second click reverses the order
    assert re.findall('<th scope="row" data-value="([a-z]+)"', shown) == ["softmax", "local", "agent"]
    assert 'aria-sort="descending"' in shown


def test_the_page_says_why_a_measurement_did_not_converge(tmp_path: Path) -> None:
    rows = case_rows({"latency": (1.0, 0.1, 9.0)}, converged=False, stop_reason="90 s are over")
    write_page(table_of(rows), environments(), tmp_path / "page.html")
    assert "wide interval: 90 s are over" in (tmp_path / "page.html").read_text()


def test_the_page_of_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    write_page(table_of(), environments(), tmp_path / "page.html")
    assert "cab run" in (tmp_path / "page.html").read_text()


def test_the_page_lists_the_published_numbers_of_the_tasks_that_were_measured(tmp_path: Path) -> None:
    write_page(table_of(training_rows("softmax", (0.6, 0.5, 0.7))), environments(), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<h2>Published</h2>" in text and text.count("<tr><td>LRA</td>") > 10
