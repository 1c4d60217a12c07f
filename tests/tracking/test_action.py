"""The steps of the action: which arguments it gives, what it writes, and which exit codes fail."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / ".github" / "actions" / "track" / "track.sh"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="an unpacked sdist has no .github")
ACTION = SCRIPT.with_name("action.yml")
STEPS = yaml.safe_load(ACTION.read_text())["runs"]["steps"] if ACTION.is_file() else []


def run(
    folder: Path,
    code: int,
    cases: str = "",
    base: str = "origin/main",
    writes: str = 'echo table > "$2"',
    **variables: str,
) -> tuple[int, list[str], str, str]:
    """Run the script with a stand-in for `cab`; return its exit code, the stand-in's arguments, summary, outputs."""
    stand_in, summary, output = folder / "cab", folder / "summary", folder / "output"
    stand_in.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$@" > {folder}/arguments\n'
        f'while [ "$1" != --comment ]; do shift; done\n{writes}\nexit {code}\n'
    )
    stand_in.chmod(0o755)
    summary.touch()
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


def commented(folder: Path, earlier: str, listed: bool = True, posts: bool = True, **variables: str) -> list[str]:
    """Run the step that comments with a stand-in for `gh`; return the stand-in's calls, without what it was given."""
    stand_in, calls = folder / "gh", folder / "calls"
    calls.unlink(missing_ok=True)
    stand_in.write_text(
        f'#!/bin/bash\necho "$*" >> {calls}\n'
        f'if [ "$2" = --paginate ]; then printf "{earlier}"; exit {0 if listed else 1}; fi\n'
        f"cat > {folder}/body\nexit {0 if posts else 1}\n"
    )
    stand_in.chmod(0o755)
    environment = {
        "GH_TOKEN": "token", "PULL_REQUEST": "7", "GITHUB_REPOSITORY": "a/b", "PATH": f"{folder}:/usr/bin:/bin",
        "GITHUB_WORKFLOW": "track", "GITHUB_JOB": "track", "CASES": "", "COMMENT": str(folder / "track.md"),
        **variables,
    }  # fmt: skip
    (script,) = [step["run"] for step in STEPS if "GH_TOKEN" in step["env"]]
    done = subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script], env=environment)
    assert done.returncode == 0, "whether a comment is accepted is no verdict"
    return calls.read_text().splitlines() if calls.exists() else []


def test_a_pull_request_has_one_comment_which_later_runs_replace(tmp_path: Path) -> None:
    (tmp_path / "track.md").write_text("table\n")
    listed, posted = commented(tmp_path, "")
    assert listed.startswith("api --paginate repos/a/b/issues/7/comments --jq")
    assert posted == "api --method POST repos/a/b/issues/7/comments -F body=@-"
    assert re.fullmatch(r"<!-- cab track [0-9a-f]{16} -->\ntable\n", (tmp_path / "body").read_text())
    *_, replaced = commented(tmp_path, "11\\n12\\n")
    assert replaced == "api --method PATCH repos/a/b/issues/comments/12 -F body=@-"


@pytest.mark.parametrize("other", [{"GITHUB_WORKFLOW": "track gpu"}, {"GITHUB_JOB": 'a" --> b'}, {"CASES": "batch=4"}])
def test_another_workflow_job_or_list_of_cases_has_a_comment_of_its_own(tmp_path: Path, other: dict[str, str]) -> None:
    (tmp_path / "track.md").write_text("table\n")
    asked = []
    for variables in ({}, other, other):
        listed, _ = commented(tmp_path, "", **variables)
        marker, _, _ = (tmp_path / "body").read_text().partition("\n")
        assert f'startswith("{marker}")' in listed and marker.count("-->") == 1
        asked.append(marker)
    assert asked[0] != asked[1] == asked[2]


def test_where_the_comments_cannot_be_listed_none_is_posted_and_a_refused_one_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "track.md").write_text("table\n")
    assert len(commented(tmp_path, "", listed=False)) == 1
    assert len(commented(tmp_path, "11\\n", listed=False)) == 1
    assert len(commented(tmp_path, "", posts=False)) == 2


def test_a_comparison_that_writes_no_comment_has_none_of_an_earlier_use(tmp_path: Path) -> None:
    (tmp_path / "track.md").write_text("the verdict of an earlier use\n")
    returned, _, summary, output = run(tmp_path, 2, writes="")
    assert returned == 2 and summary == "" and f"comment={tmp_path}/track.md" in output
    assert commented(tmp_path, "11\\n") == []


def test_what_is_measured_sees_no_token_and_cannot_set_the_environment_of_a_later_step(tmp_path: Path) -> None:
    secrets = dict.fromkeys(("GH_TOKEN", "GITHUB_TOKEN", "GITHUB_ENV", "GITHUB_PATH"), str(tmp_path / "secret"))
    run(tmp_path, 0, writes=f"env > {tmp_path}/seen", **secrets)
    seen = {line.partition("=")[0] for line in (tmp_path / "seen").read_text().splitlines()}
    assert "CASES" in seen and not {*secrets, "GITHUB_OUTPUT"} & seen
    measuring, posting = STEPS
    assert "inputs.token" not in str(measuring) and "cab" not in re.sub("cab track", "", posting["run"])
    assert "GITHUB_ACTION_PATH" not in posting["run"], (
        "a file of the checkout may have been changed by what was measured"
    )
