"""Execute the notebooks of docs/notebooks, keep what they show, and make a page of the site of each.

    python docs/scripts/notebooks.py                  # all of them, some minutes
    python docs/scripts/notebooks.py over-lengths     # one
    python docs/scripts/notebooks.py --pages          # the pages alone, of the outputs that are kept

It needs the extra `notebooks`; the pages alone need nothing. A notebook is written by hand, in Jupyter or any editor;
this script fills in its outputs. The metadata `alt` of a cell says in words what its picture shows.
`tests/docs/test_notebooks.py` holds each page to its notebook, and executes them.
"""

import base64
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "notebooks"
HOME = "/home/you"  # what stands for the folder of whoever executed them
TIMEOUT = 900.0  # seconds a cell
# what stays of an output, the first that there is; widgets and what goes to standard error are of the moment
KEPT = ("image/png", "text/html", "text/plain")
Notebook = dict[str, Any]


def read(name: str) -> Notebook:
    """Return a notebook as its file has it."""
    notebook: Notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    return notebook


def names() -> list[str]:
    """Name the notebooks."""
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def executed(notebook: Notebook, folder: Path) -> Notebook:
    """Return a notebook with the outputs that its cells have in `folder`, where a user would work.

    `nbclient.exceptions.CellExecutionError` where a cell raises.
    """
    import nbclient
    import nbformat

    places = {name: str(folder / ".jupyter" / name) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR")}
    cab = {"CAB_CACHE": str(folder / ".cache"), "COLUMNS": "120"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # for `!cab`
    kept = {name: value for name, value in os.environ.items() if name not in ("CAB_RESULTS", "CAB_DATA", "FORCE_COLOR")}
    work = folder / "work"
    for made in (work, *places.values()):
        Path(made).mkdir(parents=True)
    copy = nbformat.reads(json.dumps(notebook), as_version=4)
    client = nbclient.NotebookClient(
        copy, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(work)}}
    )
    client.execute(env={**kept, **places, **cab, "PATH": path})
    done: Notebook = json.loads(nbformat.writes(copy))
    count = 0
    for cell in done["cells"]:
        cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key == "alt"}
        if cell["cell_type"] == "code":
            count += 1
            cell["execution_count"] = count
            cell["outputs"] = _merged([kept for each in cell["outputs"] if (kept := _lasting(each, work)) is not None])
    names = {"display_name": "Python 3", "language": "python", "name": "python3"}
    done["metadata"] = {"kernelspec": names, "language_info": {"name": "python"}}
    return done


def _lasting(output: dict[str, Any], work: Path) -> dict[str, Any] | None:
    """Return what of an output is kept: no widget, no standard error, no count, no path of this machine."""

    def text(value: Any) -> list[str]:
        whole = "".join(value).replace(str(work), HOME).replace(str(ROOT), f"{HOME}/cab")
        return re.sub(r"\x1b\[[0-9;]*m", "", whole).splitlines(keepends=True)

    if output["output_type"] == "stream":
        return {**output, "text": text(output["text"])} if output["name"] == "stdout" else None
    data = output.get("data", {})
    if not data or any("widget" in kind for kind in data):
        return None
    kept = {kind: data[kind] if kind == "image/png" else text(data[kind]) for kind in KEPT if kind in data}
    if "image/png" not in kept and not "".join(kept["text/plain"]).strip():  # rich ends a bar with nothing
        return None
    plain = {"output_type": "display_data", "metadata": {}, "data": kept}
    return {**plain, "output_type": "execute_result", "execution_count": None} if "execution_count" in output else plain


def _merged(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join what was printed in pieces, wherever the kernel has cut it."""
    merged: list[dict[str, Any]] = []
    for output in outputs:
        if merged and "text" in output and "text" in merged[-1]:
            merged[-1]["text"] += output["text"]
        else:
            merged.append(output)
    return merged


def page(name: str, notebook: Notebook) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as a page of Markdown, and file -> content of its pictures."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                file = f"{name}-{len(pictures) + 1}.png"
                pictures[file] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![{cell['metadata'].get('alt', 'a plot')}]({file})")
            else:
                text = "".join(output["text"] if "text" in output else data["text/plain"])
                lines = [line.rstrip() for line in text.strip("\n").splitlines()]
                parts.append("\n".join(["```text", *lines, "```"]))
    title, *rest = parts
    made = f"Executed by `docs/scripts/notebooks.py`, as [a notebook]({name}.ipynb). Your numbers will differ."
    heading, _, opening = title.partition("\n")
    return "\n\n".join([heading, made, *filter(None, [opening.strip("\n")]), *rest]) + "\n", pictures


def write(name: str, notebook: Notebook) -> None:
    """Write a notebook, its page and the page's pictures."""
    (FOLDER / f"{name}.ipynb").write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    text, pictures = page(name, notebook)
    (FOLDER / f"{name}.md").write_text(text)
    for old in FOLDER.glob(f"{name}-*.png"):
        if old.name not in pictures:
            old.unlink()
    for file, content in pictures.items():
        (FOLDER / file).write_bytes(content)


def main() -> None:
    """Execute and write the notebooks that are named, or all; with --pages write the pages alone."""
    chosen = [word for word in sys.argv[1:] if word != "--pages"] or names()
    for name in chosen:
        notebook = read(name)
        if "--pages" not in sys.argv:
            with tempfile.TemporaryDirectory() as folder:
                notebook = executed(notebook, Path(folder).resolve())
        write(name, notebook)


if __name__ == "__main__":
    main()
