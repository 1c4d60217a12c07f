"""In a notebook the progress is a bar that is drawn anew in its place, and what is not ok stands below the cell."""

from pathlib import Path
from typing import Any

import pytest

CELL = """
from rich.console import Console
from cab.planning.plan import plan
from cab.terminal.progress import Display
request = ["mechanism=none,linear", "task=speed", "seq_len=16", "batch=1", "meters=[memory,flops]"]
measurements = list(plan(request).measurements)
display = Display(Console(stderr=True))
display.start(measurements, measurements, 4)
display.doing("linear: flops")
display.step(measurements[0], 1, 0)
display.done(measurements[0], "ok", "")
display.done(measurements[1], "oom", "8 GiB")
display._bar.refresh()
"""


def executed(cell: str) -> tuple[str, str]:
    """Execute a cell; return the text of its widgets and what it displays beside them."""
    reason = "needs the extra `notebooks`"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    for name in ("ipykernel", "ipywidgets"):
        pytest.importorskip(name, reason=reason)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    client = nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3")
    client.execute()
    widgets = [output for state in client.widget_state.values() for output in state.get("outputs", [])]
    return _text(widgets), _text(notebook.cells[0].outputs)


def _text(outputs: list[dict[str, Any]]) -> str:
    texts = [str(output.get("data", {}).get("text/html", output.get("text", ""))) for output in outputs]
    return "\n".join(texts)


@pytest.fixture(autouse=True)
def _own_folders(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(elsewhere / name))


@pytest.mark.filterwarnings("default")  # Jupyter's own
def test_a_notebook_shows_a_bar_and_below_it_what_is_not_ok() -> None:
    bar, below = executed(CELL)
    assert "linear: flops" in bar and "1/2 cases" in bar and "1/4" in bar
    assert "oom" in below and "8 GiB" in below and " ok" not in below


@pytest.mark.filterwarnings("default")
def test_without_widgets_a_notebook_has_lines_as_a_log_has() -> None:
    hidden = "import sys, importlib.util as util\nfind = util.find_spec\n"
    hidden += "util.find_spec = lambda name, *more: None if name == 'ipywidgets' else find(name, *more)\n"
    bar, below = executed(hidden + CELL.replace("display._bar.refresh()\n", ""))
    assert bar == "" and "ok" in below and "oom" in below
