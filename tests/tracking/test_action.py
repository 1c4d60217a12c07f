"""The script of the action: which arguments it gives, what it writes, and which exit codes fail."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".github" / "actions" / "track" / "track.sh"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="an unpacked sdist has no .github")


def run(folder: Path, code: int, cases: str = "", base: str = "origin/main") -> tuple[int, list[str], str, str]:
    """Run the script with a stand-in for `cab`; return its exit code, the stand-in's arguments, summary, outputs."""
    stand_in, summary, output = folder / "cab", folder / "summary", folder / "output"
    stand_in.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$@" > {folder}/arguments\n'
        f'while [ "$1" != --comment ]; do shift; done\necho table > "$2"\nexit {code}\n'
    )
    stand_in.chmod(0o755)
    environment = {
        "PATH": "/usr/bin:/bin", "CAB": str(stand_in), "BASE": base, "CASES": cases, "RUNNER_TEMP": str(folder),
        "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output),
    }  # fmt: skip
    done = subprocess.run([SCRIPT], env=environment)
    return done.returncode, (folder / "arguments").read_text().splitlines(), summary.read_text(), output.read_text()


@pytest.mark.parametrize("code, fails", [(0, 0), (1, 1), (2, 2), (3, 0), (4, 0)])
def test_only_a_regression_and_a_wrong_request_fail(tmp_path: Path, code: int, fails: int) -> None:
    returned, _, summary, output = run(tmp_path, code)
    assert returned == fails and summary == "table\n" and f"exit-code={code}" in output


def test_cases_are_arguments_of_their_own_and_nothing_is_run_from_a_name(tmp_path: Path) -> None:
    _, arguments, _, _ = run(tmp_path, 0, "mechanism=linear\npattern=CS", base="x; touch owned $(touch owned)")
    assert arguments[:3] == ["track", "compare", "x; touch owned $(touch owned)..."]
    assert arguments[-4:] == ["--case", "mechanism=linear", "--case", "pattern=CS"]
    assert not list(tmp_path.glob("**/owned")) and not Path("owned").exists()
