"""The commands. An error that the user can correct is one message and exit code 2; most commands import no torch."""

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cab.cli import app
from typer.testing import CliRunner

from cab.store.entry import Entry
from cab.store.store import Store

SLOW_IMPORTS = ("torch", "pandas", "hydra", "plotly", "numpy", "scipy")


def cab(*arguments: str) -> tuple[int, str]:
    """Run a command in this process; return its exit code and its output."""
    result = CliRunner().invoke(app, list(arguments), prog_name="cab")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], ()),
        (["run", "--help"], ()),
        (["list"], ()),
        (["list", "mechanisms"], ()),
        (["show", "mechanism=softmax"], ()),
        (["run", "mechanism=softmax", "task=speed", "--dry-run"], ("hydra",)),
        (["doctor"], ()),
    ],
    ids=" ".join,
)
def test_what_measures_nothing_imports_nothing_heavy(
    arguments: list[str], allowed: tuple[str, ...], elsewhere: Path
) -> None:
    banned = [name for name in SLOW_IMPORTS if name not in allowed]
    code = (
        "import sys\nfrom cab.cli import app\n"
        f"try:\n    app({arguments!r}, prog_name='cab')\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"imported = [name for name in {banned} if name in sys.modules]\nassert not imported, imported\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=elsewhere)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "mechanism=sofmax", "task=speed"], "unknown mechanism 'sofmax'; did you mean 'softmax'?"),
        (["run", "mechanism=softmax"], "which task? Give task=NAME"),
        (["run", "mechanism=softmax", "task=speed", "seq_len=0"], "seq_len=0: expected a whole number"),
        (["run", "mechanism=softmax", "task=speed", "batch=-1"], "batch=-1: expected a whole number"),
        (["run", "mechanism=softmax", "task=speed", "--retry", "failed"], "unknown status in --retry 'failed'"),
        (["run", "mechanism=./none.py:X", "task=speed"], "there is no file"),
        (["run", "mechanism=softmax", "task=lra_text", "pattern=CS", "--dry-run"], "lra_text has no slot for CS"),
        (["show", "mechanism=agnet"], "did you mean 'agent'?"),
        (["show", "agnet"], "Did you mean agent"),
        (["list", "mechanism"], "did you mean 'mechanisms'?"),
        (["check"], "which mechanism? Give names, or --all"),
        (["check", "sofmax"], "did you mean 'softmax'?"),
        (["report"], "there are no results in"),
        (["data", "get", "speed"], "needs no data"),
        (["data", "get", "lra_txt"], "did you mean 'lra_text'?"),
        (["data", "get", "lra_text", "--layout", "release"], "unknown option of cab data get lra_text '--layout'"),
        (["data", "get", "lra_pathx", "--image", "20"], "did you mean '--images'? Accepted: --difficulty, --folder"),
        (["data", "get", "lra_pathx", "--images", "many"], "--images=many: a whole number is needed"),
        (["data", "get", "lra_pathx", "--images"], "--images needs a value"),
        (["data", "get", "lra_pathx", "--size=33"], "unknown size '33'"),
        (["data", "get", "lra_image", "--source", "mnist"], "unknown source 'mnist'"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_a_mistake_is_answered_with_one_message_and_code_2(arguments: list[str], message: str, elsewhere: Path) -> None:
    code, output = cab(*arguments)
    assert code == 2 and message in output.replace("\n", " ") and "Traceback" not in output, output
    assert not (elsewhere / "results" / "cases").exists() or not list((elsewhere / "results" / "cases").iterdir())


def test_list_and_show_name_what_there_is(elsewhere: Path) -> None:
    code, output = cab("list")
    assert code == 0 and all(name in output for name in ("softmax", "linear", "none", "lra_text", "speed", "latency"))
    code, output = cab("show", "mechanism=linear")
    assert code == 0 and "mechanism.chunk" in output and "arXiv 2006.16236" in output


def test_the_version_is_printed() -> None:
    from cab import __version__

    assert cab("--version") == (0, f"cab {__version__}\n")


def test_a_run_ends_with_a_table_and_a_report_with_files(elsewhere: Path) -> None:
    grid = ["mechanism=none,linear", "task=speed", "seq_len=16,32", "batch=1", "threads=1", "meters=[memory,flops]"]
    code, output = cab("run", *grid)
    assert code == 0 and "cases: 4 ok" in output, output
    code, output = cab("report")
    assert code == 0 and "linear" in output
    report = elsewhere / "results" / "report"
    files = ["efficiency.csv", "growth.csv", "index.html", "results.csv", "results.parquet", "utilisation.csv"]
    assert sorted(path.name for path in report.iterdir()) == files
    code, output = cab("run", *grid, "--dry-run")
    assert code == 0 and "measurements done already: 8" in output


def test_a_report_names_what_it_set_aside_and_is_written_whoever_reads_on(elsewhere: Path) -> None:
    cab("run", "mechanism=none", "task=speed", "seq_len=16,32", "batch=1", "threads=1", "meters=[flops]")
    next((elsewhere / "results" / "cases").glob("??/*.json")).write_text("{")
    code, output = cab("report")
    assert code == 0 and "a damaged results file was set aside" in output
    command = f"{sys.executable} -c 'from cab.cli import app; app()'"
    shell = f"{command} report --results results --out piped | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=elsewhere)
    assert result.returncode == 0 and (elsewhere / "piped" / "index.html").is_file(), result.stderr


def test_a_failed_case_ends_the_run_with_code_1(elsewhere: Path) -> None:
    grid = ["task=speed", "mechanism=softmax", "seq_len=16384", "memory_limit=100MiB", "meters=[memory]", "batch=1"]
    code, output = cab("run", *grid, "heads=1", "dim=4", "threads=1")
    assert code == 1 and "oom" in output


def test_data_are_made_as_the_options_say(elsewhere: Path) -> None:
    code, output = cab("data", "get", "lra_pathfinder", "--folder", "d", "--images", "20", "--size=64")
    assert code == 0, output
    assert len(list((elsewhere / "d" / "pathfinder64" / "curv_contour_length_14" / "imgs" / "0").iterdir())) == 20


def test_a_full_disk_ends_a_run_with_one_message_and_the_same_command_goes_on(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ["mechanism=none", "task=speed", "seq_len=16,32", "batch=1", "threads=1", "meters=[flops]"]
    write, written = Store.write, []

    def until_full(store: Store, entry: Entry, *held: Any) -> bool:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device", "results/cases/x")
        written.append(entry)
        return write(store, entry, *held)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", until_full)
        code, output = cab("run", *grid)
    assert code == 1 and "Traceback" not in output, output
    assert "No space left on device (results/cases/x); what is finished is kept" in output
    code, output = cab("run", *grid)
    assert code == 0 and "1 of 2 cases are done already" in output and "cases: 2 ok" in output, output
