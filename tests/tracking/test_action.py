"""The script of the action: which arguments it gives, what it writes, and which exit codes fail."""

import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".github" / "actions" / "track" / "track.sh"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="an unpacked sdist has no .github")


def run(
    folder: Path, code: int, cases: str = "", base: str = "origin/main", **variables: str
) -> tuple[int, list[str], str, str]:
    """Run the script with a stand-in for `cab`; return its exit code, the stand-in's arguments, summary, outputs."""
    stand_in, summary, output = folder / "cab", folder / "summary", folder / "output"
    stand_in.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$@" > {folder}/arguments\n'
        f'while [ "$1" != --comment ]; do shift; done\necho table > "$2"\nexit {code}\n'
    )
    stand_in.chmod(0o755)
    environment = {
        "PATH": "/usr/bin:/bin", "CAB": str(stand_in), "BASE": base, "CASES": cases, "RUNNER_TEMP": str(folder),
        "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output), **variables,
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


def commented(folder: Path, earlier: str, token: str = "token", answers: bool = True) -> list[str]:
    """Run the script on a pull request with a stand-in for `gh`; return the calls of the stand-in."""
    stand_in, calls = folder / "gh", folder / "calls"
    stand_in.write_text(
        f'#!/bin/bash\necho "$*" >> {calls}\n[ "$2" = --paginate ] && printf "{earlier}"\nexit {0 if answers else 1}\n'
    )
    stand_in.chmod(0o755)
    variables = {"GH_TOKEN": token, "PULL_REQUEST": "7", "GITHUB_REPOSITORY": "a/b", "PATH": f"{folder}:/usr/bin:/bin"}
    returned, *_ = run(folder, 0, **variables)
    assert returned == 0, "whether a comment is accepted is no verdict"
    return calls.read_text().splitlines() if calls.exists() else []


def test_a_pull_request_has_one_comment_which_later_runs_replace(tmp_path: Path) -> None:
    listed, posted = commented(tmp_path, "")
    assert listed.startswith("api --paginate repos/a/b/issues/7/comments --jq")
    assert posted == f"api --method POST repos/a/b/issues/7/comments -F body=@{tmp_path}/track.md"
    *_, replaced = commented(tmp_path, "11\\n12\\n")
    assert replaced == f"api --method PATCH repos/a/b/issues/comments/12 -F body=@{tmp_path}/track.md"


def test_without_a_token_nothing_is_posted_and_a_refused_comment_fails_nothing(tmp_path: Path) -> None:
    assert commented(tmp_path, "", token="") == []
    assert len(commented(tmp_path, "", answers=False)) == 2


def test_comments_begin_as_the_script_looks_for_them() -> None:
    from cab.tracking.compare import Comparison
    from cab.tracking.rendering import as_comment
    from cab.tracking.sides import Side

    text = as_comment(Comparison(Side("a", "a"), Side("b", "b"), {}, {}, {}), ["cab"])
    (first_words,) = re.findall(r'startswith\("([^"]+)"\)', SCRIPT.read_text())
    assert text.startswith(first_words)
