"""The docs' notebooks: their pages show what they show, with no trace of a machine; executed again they still run."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "notebooks"
STALE = "run: python docs/scripts/notebooks.py --pages"


def script() -> ModuleType:
    """Load the script that executes the notebooks and makes the pages."""
    spec = importlib.util.spec_from_file_location("notebooks_script", ROOT / "docs" / "scripts" / "notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = script()
NAMES = SCRIPT.names()


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds(notebook: dict[str, Any]) -> list[list[str]]:
    """Return what each cell shows: text, a table, a picture."""
    return [
        ["text" if "text" in each else max(each["data"], key=list(SCRIPT.KEPT).index) for each in cell["outputs"]]
        for cell in code_cells(notebook)
    ]


def test_there_are_three() -> None:
    assert NAMES == ["adding-a-mechanism", "first-run", "over-lengths"]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_and_its_pictures_are_those_of_the_notebook(name: str) -> None:
    text, pictures = SCRIPT.page(name, SCRIPT.read(name))
    assert (FOLDER / f"{name}.md").read_text() == text, STALE
    kept = {path.name: path.read_bytes() for path in FOLDER.glob(f"{name}-*.png")}
    assert kept == pictures, STALE
    assert all(len(content) < 100_000 for content in pictures.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_was_executed_in_order_and_none_failed(name: str) -> None:
    cells = code_cells(SCRIPT.read(name))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    shown = [output for cell in cells for output in cell["outputs"]]
    assert shown and all(output["output_type"] != "error" for output in shown)
    assert not re.search(r"Traceback|Error:| error: ", json.dumps(shown))


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_a_machine_and_no_widget_is_kept(name: str) -> None:
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert len(text) < 200_000 and "widget" not in text
    pictures = re.sub(r'"image/png": (\[.*?\]|".*?")', "", text, flags=re.DOTALL)
    assert not re.search(r"/(tmp|root|var|Users|opt|mnt)/|/home/(?!you\b)|\\u001b", pictures)


def test_the_mechanism_is_the_one_of_the_readme() -> None:
    (cell,) = [
        source
        for each in code_cells(SCRIPT.read("adding-a-mechanism"))
        if (source := "".join(each["source"])).startswith("%%writefile my_attention.py\n")
    ]
    assert cell.removeprefix("%%writefile my_attention.py\n") in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        ({"output_type": "stream", "name": "stderr", "text": "WARNING"}, None),
        ({"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": {}}}, None),
        ({"output_type": "display_data", "data": {"text/plain": "\n", "text/html": "<pre></pre>"}}, None),
        (
            {"output_type": "stream", "name": "stdout", "text": "\x1b[31min /x/checkout/a.py\x1b[0m"},
            {"output_type": "stream", "name": "stdout", "text": ["in /home/you/a.py"]},
        ),
    ],
    ids=["standard error", "widget", "nothing", "path"],
)
def test_what_is_of_the_moment_or_the_machine_is_left_out(output: dict[str, Any], kept: dict[str, Any] | None) -> None:
    assert SCRIPT._lasting(output, Path("/x/checkout")) == kept


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("default")  # Jupyter's own
@pytest.mark.parametrize("name", NAMES)
def test_executed_again_it_shows_the_same_kinds_of_output(name: str, tmp_path: Path) -> None:
    for module in ("nbclient", "nbformat", "ipykernel", "ipywidgets", "matplotlib"):
        pytest.importorskip(module, reason="needs the extra `notebooks`")
    notebook = SCRIPT.read(name)
    again = SCRIPT.executed(notebook, tmp_path)
    assert kinds(again) == kinds(notebook)
    assert [cell["source"] for cell in again["cells"]] == [cell["source"] for cell in notebook["cells"]]
    assert not re.search(r"Traceback|Error:| error: ", json.dumps([cell["outputs"] for cell in code_cells(again)]))
