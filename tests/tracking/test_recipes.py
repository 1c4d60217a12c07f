"""The recipes that users copy: every command parses, every file that is named is there, the history's script keeps all.

Held: docs/recipes, the action and the project's own workflow.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from cab.cli import app

from cab.tracking.cases import device_of, tracked_cases

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "docs" / "recipes"
ACTION, WORKFLOW = (ROOT / ".github" / name for name in ("actions/track/action.yml", "workflows/track.yml"))
FILES = [*sorted(RECIPES.glob("*.yml")), *(path for path in (ACTION, WORKFLOW) if path.is_file())]
SCRIPTS = [*sorted(RECIPES.glob("*.sh")), *sorted(ACTION.parent.glob("*.sh"))]
SCRIPT_KEYS = ("run", "script", "before_script", "after_script")


def shell(node: Any) -> Iterator[str]:
    """Yield what a pipeline's file runs in a shell."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in SCRIPT_KEYS:
                yield from [value] if isinstance(value, str) else value
            else:
                yield from shell(value)
    elif isinstance(node, list):
        for item in node:
            yield from shell(item)


def tracks(text: str) -> list[list[str]]:
    """Return the words after `cab` of every `cab track ...` of a script; a variable becomes one word."""
    joined = re.sub(r"\\\n\s*", " ", text).replace('"${cases[@]}"', "--case mechanism=linear")
    joined = joined.replace('"${arguments[@]}"', "--case mechanism=linear").replace('${BASE:+"$BASE..."}', "main...")
    lines = [line.split(" || ")[0].strip() for line in joined.splitlines() if not line.strip().startswith("#")]
    lines = [line.removeprefix("${CAB:-cab}").strip() for line in lines if re.match(r"(\$\{CAB:-cab\}|cab) ", line)]
    return [shlex.split(re.sub(r"\$\{?\w+\}?", "x", line.removeprefix("cab "))) for line in lines]


def refuse_what_does_not_parse(words: list[str]) -> None:
    """Parse a command line as `cab` would; click raises for an unknown command, option or a missing argument."""
    command = typer.main.get_command(app)
    context = None
    for _ in range(2):  # cab, track
        name, words = words[0], words[1:]
        command = command.commands[name]  # type: ignore[attr-defined]
    context = command.make_context(name, words)
    assert not context.args
    if cases := context.params.get("case"):
        tracked_cases(list(cases))


def texts() -> dict[Path, str]:
    written = {path: "\n".join(shell(yaml.safe_load(path.read_text()))) for path in FILES}
    return written | {path: path.read_text() for path in SCRIPTS}


COMMANDS = [(path.name, words) for path, text in texts().items() for words in tracks(text)]


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_is_one_of_today(name: str, words: list[str]) -> None:
    refuse_what_does_not_parse(words)


def test_the_commands_are_found_and_a_wrong_one_would_be_refused() -> None:
    named = {name for name, _ in COMMANDS}
    assert {"track.gitlab-ci.yml", "track-history.sh"} <= named
    assert "track.sh" in named or not ACTION.is_file()
    for wrong in (
        ["track", "compare", "--nosuch"],
        ["track", "record", "HEAD", "--history"],
        ["track", "plot", "a", "b"],
    ):
        with pytest.raises(Exception, match=r"(?i)no such option|requires an argument|unexpected extra"):
            refuse_what_does_not_parse(wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_jobs_stand_where_the_forge_looks_for_them(path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    if path == ACTION:
        assert data["runs"]["using"] == "composite" and (ACTION.parent / "track.sh").is_file()
        return
    if "gitlab" in path.name:
        jobs = {name: job for name, job in data.items() if not name.startswith(".")}
        assert jobs and all(data[job["extends"]] if "extends" in job else job["image"] for job in jobs.values())
        return
    assert data[True], "YAML reads `on` as true"
    for job in data["jobs"].values():
        assert job["timeout-minutes"] and job["runs-on"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            if step.get("uses", "").startswith("./"):
                assert (ROOT / step["uses"] / "action.yml").is_file()
                accepted = yaml.safe_load((ROOT / step["uses"] / "action.yml").read_text())["inputs"]
                assert set(step.get("with", {})) <= set(accepted)
                tracked_cases(step.get("with", {}).get("cases", "").splitlines())


def test_the_recipes_for_gpus_ask_for_one_and_never_lock_its_clock() -> None:
    github = yaml.safe_load((RECIPES / "track-gpu.github.yml").read_text())["jobs"]["track"]
    cases = next(step["with"]["cases"] for step in github["steps"] if step.get("uses", "").startswith("./"))
    gitlab = yaml.safe_load((RECIPES / "track.gitlab-ci.yml").read_text())["track-gpu"]["script"]
    (words,) = tracks("\n".join(gitlab))
    asked = [words[i + 1] for i, word in enumerate(words) if word == "--case"]
    assert asked == cases.split() and device_of(tracked_cases(asked)) == "cuda"
    assert not any("--lock" in text or "-lgc" in text for path, text in texts().items() if "gpu" in path.name)
    assert "head.repo.full_name == github.repository" in github["if"], "no code of a fork on a machine of one's own"


def test_what_changes_start_a_comparison_is_the_same_everywhere() -> None:
    gitlab = yaml.safe_load((RECIPES / "track.gitlab-ci.yml").read_text())["track"]["rules"][0]["changes"]
    if WORKFLOW.is_file():
        github = yaml.safe_load(WORKFLOW.read_text())[True]["pull_request"]["paths"]
        assert [path.removesuffix("/*") for path in gitlab] == github


def test_unproven_and_nothing_measured_are_warnings_in_gitlab() -> None:
    from cab.tracking.verdicts import NOTHING, UNPROVEN

    data = yaml.safe_load((RECIPES / "track.gitlab-ci.yml").read_text())
    assert data["track"]["extends"] == data["track-gpu"]["extends"] == ".compare"
    assert data[".compare"]["allow_failure"] == {"exit_codes": [NOTHING, UNPROVEN]}


def test_nothing_that_is_measured_has_a_token_that_may_write() -> None:
    for path in (WORKFLOW, *RECIPES.glob("*.github.yml")):
        for job in yaml.safe_load(path.read_text())["jobs"].values() if path.is_file() else ():
            checkouts = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
            assert checkouts and all(step["with"]["persist-credentials"] is False for step in checkouts)
    gitlab = yaml.safe_load((RECIPES / "track.gitlab-ci.yml").read_text())
    comment = gitlab["track-comment"]
    # no file of the change: neither its sources nor what .track installs
    assert comment["variables"] == {"GIT_STRATEGY": "none"} and comment["environment"]["name"] == "cab-comment"
    assert "extends" not in comment and "cab " not in "\n".join(comment["script"])
    users = {name for name, job in gitlab.items() if "$CAB_TOKEN" in str(job) or "${CAB_TOKEN" in str(job)}
    assert users == {"track-comment"}
    assert not any("remote add" in text or "remote set-url" in text for text in texts().values())


def test_each_comparison_of_gitlab_has_a_file_of_its_own_which_is_posted() -> None:
    gitlab = yaml.safe_load((RECIPES / "track.gitlab-ci.yml").read_text())
    posted = "\n".join(gitlab["track-comment"]["script"])
    needed = {each["job"] for each in gitlab["track-comment"]["needs"]}
    comparing = [name for name, job in gitlab.items() if job.get("extends") == ".compare"]
    files = [re.findall(r"--comment (\S+)", "\n".join(gitlab[name]["script"])) for name in comparing]
    assert needed == set(comparing) and len({file for (file,) in files}) == len(comparing)
    assert all(f" {file}" in posted and file in gitlab[".compare"]["artifacts"]["paths"] for (file,) in files)


def test_measurements_that_wait_are_not_cancelled_by_those_of_others() -> None:
    for path in (WORKFLOW, *RECIPES.glob("*.github.yml")):
        data = yaml.safe_load(path.read_text()) if path.is_file() else {}
        assert "github.ref" in data.get("concurrency", {"group": "github.ref"})["group"]
    history = yaml.safe_load((RECIPES / "track-history.github.yml").read_text())
    assert "concurrency" not in history, "all pushes to main are of one ref"
    (recording,) = [step for step in history["jobs"]["record"]["steps"] if "CAB_RESULTS" in step.get("env", {})]
    assert "runner.temp" not in recording["env"]["CAB_RESULTS"], "it is emptied with every job, and the pairs with it"


# The branch of the history

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
# stands for `cab`: a record writes a file of its own, and one that depends on all that are there, as changes do
STAND_IN = """#!/bin/bash
echo "$*" >> {calls}
[ "$2" = record ] || {{ [ "$2" = plot ] && echo page > "$3"; exit 0; }}
echo point > "$5/$3-{name}.parquet"
ls "$5" | grep parquet > "$5/changes"
{then}
"""


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class Runner:
    """A clone of a remote, and a stand-in for `cab` in it; `then` is what happens while it records."""

    def __init__(self, folder: Path, name: str, then: str = "") -> None:
        self.remote, self.calls, self.clone = folder / "remote.git", folder / f"{name}.calls", folder / name
        if not self.remote.exists():
            git(folder, "init", "-q", "--bare", "remote.git")
        git(folder, "clone", "-q", "remote.git", name)
        if not git(self.remote, "for-each-ref"):
            (self.clone / "README").write_text("a project")
            (self.clone / ".gitignore").write_text("*.parquet")
            git(self.clone, "add", ".")
            git(self.clone, "commit", "-q", "-m", "first")
            git(self.clone, "push", "-q", "origin", "HEAD:main")
        git(self.clone, "fetch", "-q")
        git(self.clone, "checkout", "-q", "-B", "main", "origin/main")
        self.cab = folder / f"{name}.cab"
        self.cab.write_text(STAND_IN.format(calls=self.calls, name=name, then=then))
        self.cab.chmod(0o755)
        self.environment = {**os.environ, "CAB": str(self.cab), "TMPDIR": str(folder)}

    @property
    def command(self) -> list[str]:
        return ["bash", str(RECIPES / "track-history.sh")]

    def run(self, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command, cwd=self.clone, env=self.environment | variables, capture_output=True, text=True, timeout=100
        )

    def kept(self) -> list[str]:
        """Return the files of the branch, without the name of the commit, which all runners recorded."""
        names = git(self.remote, "ls-tree", "--name-only", "cab-history").splitlines()
        return sorted(name.rpartition("-")[2] for name in names)


def test_the_first_run_makes_the_branch_with_the_history_alone(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "one")
    page = tmp_path / "page.html"
    done = runner.run(PAGE=str(page), CASES="mechanism=linear\npattern=CS")
    commit = git(runner.clone, "rev-parse", "HEAD")
    assert done.returncode == 0, done.stderr
    assert runner.kept() == ["changes", "one.parquet"] and page.read_text() == "page\n"
    first, *_ = runner.calls.read_text().splitlines()
    assert first.startswith(f"track record {commit} --history ")
    assert first.endswith("--case mechanism=linear --case pattern=CS")
    # the checkout is as it was
    assert (
        not git(runner.clone, "status", "--porcelain") and len(git(runner.clone, "worktree", "list").split("\n")) == 1
    )
    assert git(runner.clone, "rev-parse", "HEAD") == commit and not [p for p in tmp_path.iterdir() if "tmp." in p.name]


def test_later_runs_add_to_it_and_none_is_rewritten(tmp_path: Path) -> None:
    assert Runner(tmp_path, "one").run().returncode == 0
    second = Runner(tmp_path, "two")
    assert second.run().returncode == 0
    assert second.kept() == ["changes", "one.parquet", "two.parquet"]
    assert git(second.remote, "rev-list", "--count", "cab-history") == "2"


def test_where_another_runner_pushed_meanwhile_the_points_are_added_to_what_it_pushed(tmp_path: Path) -> None:
    faster = Runner(tmp_path, "faster")
    once = f"[ -e {tmp_path}/pushed ] || {{ touch {tmp_path}/pushed; cd {faster.clone}; CAB={faster.cab} "
    slower = Runner(tmp_path, "slower", once + f"{shlex.join(faster.command)} > /dev/null; }}")
    done = slower.run()
    assert done.returncode == 0 and "the push was refused" in done.stderr
    assert slower.kept() == ["changes", "faster.parquet", "slower.parquet"]
    changes = git(slower.remote, "show", "cab-history:changes")
    assert changes.count("parquet") == 2, "what depends on all points was computed from both runners' points"


def test_a_url_with_a_token_is_stored_nowhere_and_is_not_in_the_environment_of_what_is_measured(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "one", f"env > {tmp_path}/seen")
    (tmp_path / "s3cret@").symlink_to(tmp_path)  # //s3cret@ of a URL, which git reads as a folder here
    hook = runner.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    sleep = tmp_path / "bin" / "sleep"
    sleep.parent.mkdir()
    sleep.write_text("#!/bin/sh\n")
    sleep.chmod(0o755)
    url = f"file://{tmp_path}/s3cret@/remote.git"
    done = runner.run(REMOTE=url, PATH=f"{sleep.parent}:{os.environ['PATH']}")
    (last,) = [line for line in done.stderr.splitlines() if "in five attempts" in line]
    assert done.returncode == 1 and "s3cret" not in last and "CAB_RESULTS" in last
    assert "s3cret" not in (tmp_path / "seen").read_text() + (runner.clone / ".git" / "config").read_text()


@pytest.mark.parametrize("forge", ["github", "gitlab"])
def test_a_push_of_several_commits_records_each_and_goes_on_after_one_that_fails(tmp_path: Path, forge: str) -> None:
    runner = Runner(tmp_path, "one")
    commits = [git(runner.clone, "rev-parse", "HEAD")]
    for number in range(3):
        git(runner.clone, "commit", "-q", "--allow-empty", "-m", str(number))
        commits.append(git(runner.clone, "rev-parse", "HEAD"))
    script = runner.clone / f".{forge}" / "track-history.sh"
    script.parent.mkdir()
    script.write_text(f'echo "$1 ${{CAB_HISTORY_TOKEN:-}}" >> {tmp_path}/recorded; [ "$1" != {commits[1]} ]\n')
    if forge == "github":
        steps = yaml.safe_load((RECIPES / "track-history.github.yml").read_text())["jobs"]["record"]["steps"]
        (run,) = [step["run"] for step in steps if "track-history.sh" in step.get("run", "")]
        before, after = "BEFORE", "GITHUB_SHA"
    else:
        run = "\n".join(yaml.safe_load((RECIPES / "track.gitlab-ci.yml").read_text())["track-history"]["script"])
        before, after = "CI_COMMIT_BEFORE_SHA", "CI_COMMIT_SHA"
    for first, recorded, code in ((commits[0], commits[1:], 1), ("0" * 40, commits[3:], 0), ("", commits[3:], 0)):
        (tmp_path / "recorded").unlink(missing_ok=True)
        variables = {before: first, after: commits[3], "CAB_HISTORY_TOKEN": "s3cret", "CI_SERVER_HOST": "a"}
        environment = {**os.environ, "CI_PROJECT_PATH": "b/c", **variables}
        done = subprocess.run(["bash", "-e", "-c", run], cwd=runner.clone, env=environment)
        assert done.returncode == code
        seen = (tmp_path / "recorded").read_text().splitlines()
        assert [line.split()[0] for line in seen] == recorded
        assert forge == "github" or not any("s3cret" in line for line in seen)


def test_a_commit_that_cannot_be_measured_leaves_the_branch_as_it_was(tmp_path: Path) -> None:
    broken = Runner(tmp_path, "broken", "exit 2")
    assert broken.run().returncode == 2
    assert not git(broken.remote, "for-each-ref", "refs/heads/cab-history")
    assert broken.run(REMOTE="nosuch").returncode not in (0, 2)


def test_the_names_of_the_recipes_stand_in_the_page() -> None:
    page = (ROOT / "docs" / "tracking.md").read_text()
    assert all(f"(recipes/{path.name})" in page for path in RECIPES.iterdir())
