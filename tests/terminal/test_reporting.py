"""`cab report` in the terminal, on results without a store."""

import gc
import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from cab.cli import app
from rich.console import Console
from typer.testing import CliRunner

from cab.errors import UsageError
from cab.store import bundle
from cab.terminal.reporting import Request, print_request, read, reference
from tests.analysis.example_rows import case_rows, table_of

LENGTHS, PATTERNS = (256, 512, 1024), ("NS", "CS", "NC", "CC")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make results of 25 mechanisms in four patterns at three lengths."""
    cases = []
    for pattern in PATTERNS:
        for n in LENGTHS:
            for i in range(25):
                seconds = (i + 1) * n / 1e6 if i else n * n / 1e8
                name = f"m{i:02}" if i else "softmax"
                metrics = {"latency": (seconds, seconds * 0.9, seconds * 1.1), "peak_allocated": 1e6 * (i + 1)}
                cases.append(case_rows(metrics, mechanism=name, pattern=pattern, n=n, m=n))
    folder = tmp_path / "results"
    folder.mkdir()
    table_of(*cases).to_parquet(folder / bundle.ROWS)
    return folder


def printed(folder: Path, *words: str, width: int = 120, **request: object) -> str:
    """Print a request and return the text."""
    filters, folders = read(list(words), folder)
    out = io.StringIO()
    print_request(Request(filters, folders, **request), Console(file=out, width=width), folder / "report")  # type: ignore[arg-type]
    return out.getvalue()


def test_by_default_it_is_a_summary_of_at_most_40_lines(folder: Path) -> None:
    lines = printed(folder).splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 120
    text = "\n".join(lines)
    assert all(f" {pattern} " in text for pattern in PATTERNS) and "1,024" in text and "wins from n" in text
    assert (folder / "report" / "index.html").is_file()


@pytest.mark.parametrize(
    ("width", "omitted"),
    [(120, ""), (70, "without failed, wins from n,"), (56, "without failed, wins from n, × softmax,")],
)
def test_a_narrow_terminal_leaves_whole_columns_out_and_says_which(folder: Path, width: int, omitted: str) -> None:
    lines = printed(folder, width=width).splitlines()
    text, first = "\n".join(lines), next(line for line in lines if " CC " in line)
    assert max(map(len, lines)) <= width and "…" not in first and "m01" in first and "±10%" in first
    assert omitted in text and ("without" in text) == bool(omitted)


def test_a_comparison_of_lines_that_name_their_backend_says_their_names(folder: Path) -> None:
    rows = [case_rows({"latency": 1.0}, mechanism="softmax", backend=name) for name in ("eager", "sdpa")]
    rows += [case_rows({"accuracy": 0.5}, mechanism="softmax", n=64, m=64, **{"pass": "train"})]
    table_of(*rows, case_rows({"latency": 1.0}, mechanism="linear")).to_parquet(folder / bundle.ROWS)
    with pytest.raises(UsageError, match="softmax eager, softmax sdpa"):
        printed(folder, compare=("softmax", "linear"))


def test_the_summary_says_how_its_first_board_is_asked_for(folder: Path) -> None:
    cases = [
        case_rows({"latency": (i, 0.9 * i, 1.1 * i)}, mechanism=f"m{i}", pattern="CC", n=512, m=512, **{"pass": name})
        for i in range(1, 30)
        for name in ("forward", "forward_backward")
    ]
    table_of(*cases).to_parquet(folder / bundle.ROWS)
    assert "one board: pattern=CC seq_len=512 pass=forward;" in printed(folder, "pattern=CC", "seq_len=512")


def test_garbage_is_collected_again_afterwards(folder: Path) -> None:
    assert gc.isenabled()
    printed(folder, "pattern=CC", "seq_len=512")
    assert gc.isenabled()
    with pytest.raises(UsageError):
        printed(folder, compare=("m01", "m99x"))
    assert gc.isenabled()


def test_full_prints_every_line_and_filters_write_nothing(folder: Path) -> None:
    assert "m24" in printed(folder, "pattern=CC", "seq_len=512", full=True)
    assert not (folder / "report").exists()


def test_one_board_is_printed_whole(folder: Path) -> None:
    text = printed(folder, "pattern=CC", "seq_len=512")
    assert "m24" in text and len(text.splitlines()) <= 48


def test_a_limit_and_another_order(folder: Path) -> None:
    text = printed(folder, "pattern=CC", "seq_len=512", limits=["peak_allocated=5MB"], sort="peak_allocated")
    assert "m04" in text and "m05" not in text and text.index("softmax") < text.index("m01")


def test_the_columns_of_one_board_within_a_limit_are_those_that_are_named(folder: Path) -> None:
    words = (
        "pattern=CC seq_len=512 --max peak_allocated=64MiB --sort latency --columns latency,longest_n,efficiency_length"
    )
    done = CliRunner().invoke(app, ["report", *words.split(), "--results", str(folder)])
    lines = done.output.splitlines()
    assert done.exit_code == 0 and len(lines) <= 40
    assert ["1", "m01", "1.02", "±10%", "≥1,024", "≤256"] in [line.split() for line in lines]
    done = CliRunner().invoke(app, ["report", "--columns", "longest", "--results", str(folder)])
    assert done.exit_code == 2 and "longest_n, peak_allocated, rank_by_flops" in done.output


def test_one_against_another(folder: Path) -> None:
    text = printed(folder, compare=("m01", "m20"))
    assert "12 better, 0 worse, 0 not told apart of 12 cases" in " ".join(text.split())


def test_another_store_stands_beside_and_is_marked(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    cases = [case_rows({"latency": 1e-5}, mechanism=name, pattern="CC", n=512, m=512) for name in ("softmax", "mean")]
    table_of(*cases).to_parquet(other / bundle.ROWS)
    text = printed(folder, "pattern=CC", "seq_len=512", beside=other, full=True)
    assert "softmax [other]" in text
    assert "mean [other] control" in text  # of another store too
    assert "cab run mechanism=mean backend=eager" in text


def test_the_reference_is_read_without_results_of_ones_own(tmp_path: Path) -> None:
    assert reference()
    done = CliRunner().invoke(app, ["report", "--reference", "pattern=CC", "seq_len=2048", "--format", "csv"])
    assert done.exit_code == 0 and "efficient" in done.output


def test_what_is_asked_wrongly_is_said(folder: Path) -> None:
    for words, message in (
        (["pattern=CX"], "the results have"),
        (["--sort", "latenci"], "did you mean 'latency'"),
        (["--format", "xml"], "unknown format"),
        (["--max", "latency=1GB"], "not in bytes"),
        (["--compare", "m01", "m99x"], "unknown mechanism"),
        (["--compare", "m01", "m02", "--format", "csv"], "leave out --format"),
        (["--compare", "m01", "m02", "--value", "latency", "--rows", "n"], "leave out --value, --rows"),
        (["--compare", "m01", "m02", "--columns", "latency"], "leave out --columns"),
        ([str(folder / "nothing")], "there are no results"),
    ):
        done = CliRunner().invoke(app, ["report", *words, "--results", str(folder)])
        assert done.exit_code == 2 and message in done.output, done.output


@pytest.mark.parametrize(
    "words",
    [["pattern=CC"], ["--format", "csv"], ["--compare", "a", "b"], ["--value", "latency"], ["--sort", "latency"]],
)
def test_what_is_asked_of_an_empty_store_says_what_to_do(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    done = CliRunner().invoke(app, ["report", *words, "--results", str(tmp_path)])
    assert done.exit_code == 2 and "no results yet: run" in done.output


@pytest.mark.parametrize("command", [["report", "task=speed"], ["report", "--format", "csv"], ["pick", "pattern=CS"]])
def test_a_half_written_file_is_named_whatever_is_asked(command: list[str], tmp_path: Path) -> None:
    case = tmp_path / "cases" / "ab" / "abcd-key.json"
    case.parent.mkdir(parents=True)
    case.write_text('{"schema": 1, "case": {')
    done = CliRunner().invoke(app, [*command, "--results", str(tmp_path)])
    assert "a damaged results file was set aside" in done.output and (tmp_path / "damaged" / case.name).is_file()


@pytest.mark.parametrize("pivot", [{}, {"value": "latency"}], ids=["boards", "pivot"])
def test_parquet_is_not_written_to_a_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pivot: dict[str, str]
) -> None:
    written = io.BytesIO()
    terminal = SimpleNamespace(isatty=lambda: True, buffer=written)
    monkeypatch.setattr("sys.stdout", terminal)
    with pytest.raises(UsageError, match="redirect the output"):
        printed(folder, "pattern=CC", format="parquet", **pivot)
    assert written.getvalue() == b""
