"""What `cab.run` and `cab run` share: rows of what was asked, previews, and messages before anything is paid."""

import subprocess
import sys
from pathlib import Path

import pytest

import cab
from cab.errors import UsageError
from cab.planning.plan import plan
from cab.plugins import registry
from cab.runner.entries import new_entry, with_outcome
from cab.runner.fork_client import ForkClient
from cab.runner.outcomes import Outcome
from cab.runner.run import execute, preview
from cab.store.store import Store
from cab.terminal.progress import Silent
from tests.runner.example_runs import FAST, carry_out


def test_a_results_folder_that_cannot_be_written_is_named(elsewhere: Path) -> None:
    (elsewhere / "results").write_text("a file")
    with pytest.raises(UsageError, match="results folder .* cannot be written"):
        execute([*FAST, "mechanism=none"], Silent())


def test_cases_that_are_refused_alone_are_rows_where_others_are_done_already(elsewhere: Path) -> None:
    asked = [*FAST, "mechanism=linformer", "mechanism.rank=32", "meters=[parameters]"]
    cab.run([*asked, "seq_len=64"], results="results", progress=False)
    rows = cab.run([*asked, "seq_len=64,16"], results="results", progress=False)
    assert dict(zip(rows["n"], rows.status, strict=True)) == {64: "ok", 16: "unsupported"}


def test_a_preview_measures_nothing_and_counts_what_is_done(server: ForkClient, lawful: None, elsewhere: Path) -> None:
    overrides = [*FAST, "mechanism=softmax,none", "seq_len=16", "meters=[flops]"]
    assert (preview(overrides).done, len(preview(overrides).plan.cases)) == (0, 2)
    assert not (elsewhere / "results").exists()
    carry_out(server, ["mechanism=none", "seq_len=16", "meters=[flops]"], elsewhere)
    assert preview(overrides, elsewhere / "results").done == 1


def test_a_preview_counts_what_a_run_would_measure_anew(elsewhere: Path) -> None:
    asked = [*FAST, "mechanism=none", "seq_len=16", "meters=[memory]"]
    (limited,) = plan([*asked, "memory_limit=1MiB"]).measurements
    store = Store(elsewhere / "results").open_for_writing()

    def previewed(status: str, limit: str, again: bool = False) -> tuple[int, float]:
        outcome = Outcome(status, "why", again=again)
        store.write(with_outcome(new_entry(limited, "earlier", "c"), limited, outcome, {}))
        seen = preview([*asked, f"memory_limit={limit}"], elsewhere / "results", estimates=True)
        return seen.done, seen.estimates[0].seconds or 0.0

    assert previewed("oom", "1MiB") == (1, 0.0)
    done, seconds = previewed("oom", "2MiB")
    assert done == 0 and seconds > 0, "under a raised limit it is tried again"
    done, seconds = previewed("error", "1MiB", again=True)
    assert done == 0 and seconds > 0, "its source changed while it was measured"


def test_the_library_gives_tables_and_modules(elsewhere: Path) -> None:
    for _ in range(2):  # a second call finds no function shadowed by a submodule
        rows = cab.run([*FAST, "mechanism=none", "seq_len=16", "meters=[flops]"], progress=False)
        assert set(rows["metric"]) == set(registry.card("meter", "flops").facts["metrics"])
        assert set(rows.status) == {"ok"}
        assert len(cab.load()) == len(rows)
        softmax = cab.mechanism("softmax", pattern="CS", heads=4, dim=8, max_len=64)
        assert type(softmax).__name__ == "Softmax"
    with pytest.raises(UsageError, match="did you mean 'softmax'"):
        cab.mechanism("sofmax", pattern="CS", heads=4, dim=8, max_len=64)
    with pytest.raises(UsageError, match="unknown hyper-parameter"):
        cab.mechanism("linear", pattern="CS", heads=4, dim=8, max_len=64, chunks=3)
    with pytest.raises(UsageError, match="there are no results in"):
        cab.load("nowhere")


def test_cab_run_needs_no_main_guard(elsewhere: Path) -> None:
    overrides = [*FAST, "mechanism=none", "seq_len=16", "meters=[parameters]"]
    script = f"import cab\nrows = cab.run({overrides}, progress=False)\nprint('ran', len(rows))\n"
    (elsewhere / "script.py").write_text(script)
    # a module of the user's working folder that has the name of one of ours must not stand in for it
    (elsewhere / "mechanisms.py").write_text("raise SystemExit('a foreign file was imported')\n")
    script_run = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=elsewhere)
    assert script_run.stdout == "ran 2\n", script_run.stderr


def test_a_preview_prints_the_job_of_laws_that_are_not_known_to_hold_first(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAB_CACHE", str(elsewhere / "cache"))
    asked = [*FAST, "mechanism=none,mean", "seq_len=16", "meters=[memory]", "engine=slurm", "bundle_minutes=0.01"]
    laws, timings = preview(asked).scripts
    assert "--array=1\n" in laws and "--exclusive" not in laws
    assert "--array=2,3\n" in timings and "--exclusive" in timings


def test_a_preview_prints_what_sbatch_would_get_for_what_is_left(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    asked = [*FAST, "mechanism=none", "seq_len=16", "meters=[memory,flops]", "engine=slurm", "slurm.partition=long"]
    counts, timings = sorted(preview(asked).scripts, key=lambda script: "--exclusive" in script)
    assert "--exclusive" in timings and "--exclusive" not in counts
    assert all("#SBATCH --partition=long" in script for script in (counts, timings))
    assert not (elsewhere / "results").exists()
    carry_out(server, ["mechanism=none", "seq_len=16", "meters=[memory]"], elsewhere)
    assert preview(asked, elsewhere / "results").scripts == [counts.replace("--array=2", "--array=1")], (
        "what is finished is taken out"
    )
