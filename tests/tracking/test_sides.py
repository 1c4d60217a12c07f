"""Sides: what a user may name, and that the user's tree stays as it is."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cab.errors import UsageError
from cab.tracking import sides
from cab.tracking.requested import requested_sides
from cab.tracking.sides import (
    NoData,
    changed,
    checkout,
    commits_between,
    folder_side,
    merge_base,
    python_for,
    repository_of,
    side_of,
)

PYPROJECT = "[project]\nname = 'x'\ndependencies = [{}]\n"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path, content: str, lock: str = "") -> str:
    (folder / "cab").mkdir(exist_ok=True)
    (folder / "cab" / "__init__.py").write_text(content)
    (folder / "pyproject.toml").write_text(PYPROJECT.format(lock))
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", content)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    commit(folder, "one = 1")
    commit(folder, "two = 2")
    return folder


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_revision_is_unpacked_and_neither_tree_nor_git_folder_is_written(repository: Path) -> None:
    (repository / "cab" / "__init__.py").write_text("dirty = 1")
    before = listing(repository)
    side = side_of("HEAD~1", repository)
    assert side.sources is not None and side.python == sys.executable
    assert (Path(side.sources) / "cab" / "__init__.py").read_text() == "one = 1"
    assert listing(repository) == before


def test_a_commit_is_unpacked_once(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    first = checkout(repository, head)
    made = listing(first)
    assert checkout(repository, head) == first and listing(first) == made
    assert not list(first.parent.glob(".*")), "nothing unfinished is left"


def test_a_detached_head_is_a_revision_like_others(repository: Path) -> None:
    git(repository, "checkout", "-q", "--detach", "HEAD~1")
    side = side_of("HEAD", repository)
    assert side.sources and "one = 1" in (Path(side.sources) / "cab" / "__init__.py").read_text()


def test_a_folder_is_measured_as_it_was_when_the_run_began(repository: Path) -> None:
    side = folder_side(repository)
    (repository / "cab" / "__init__.py").write_text("edited = 1")
    later = folder_side(repository)
    assert side.sources and (Path(side.sources) / "cab" / "__init__.py").read_text() == "two = 2"
    assert later.identity != side.identity


def test_an_interpreter_uses_what_it_has_installed(repository: Path) -> None:
    side = side_of(sys.executable, repository)
    assert side.python == sys.executable and side.sources is None


def virtual_environment(folder: Path) -> tuple[Path, Path]:
    """Make one with a `cab` and a torch that is a version alone; return its Python, and where its packages are."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "cab").mkdir()
    (packages / "cab" / "__init__.py").write_text("one = 1")
    (packages / "torch-1.0.dist-info").mkdir()
    (packages / "torch-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
    return folder / "bin" / "python", packages


def test_two_virtual_environments_are_two_sides_and_one_that_is_changed_is_another(tmp_path: Path) -> None:
    (first, packages), (second, _) = (virtual_environment(tmp_path / name) for name in "ab")
    assert first.resolve() == second.resolve(), "both lead to the same Python"
    seen = [side_of(str(python), tmp_path).identity for python in (first, second, first)]
    assert seen[0] == seen[2] != seen[1]
    (packages / "cab" / "__init__.py").write_text("two = 2")
    seen.append(side_of(str(first), tmp_path).identity)
    (packages / "torch-1.0.dist-info").rename(packages / "torch-1.1.dist-info")
    metadata = packages / "torch-1.1.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    seen.append(side_of(str(first), tmp_path).identity)
    assert len(set(seen)) == 4


def test_a_wheel_that_is_upgraded_is_another_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python, packages = virtual_environment(tmp_path / "a")
    monkeypatch.setattr(sides, "PACKAGE", packages / "cab")
    monkeypatch.setattr(sys, "executable", str(python))
    before = sides.installed_side()
    (packages / "cab" / "__init__.py").write_text("two = 2")
    assert before.sources is None and sides.installed_side().identity != before.identity


def test_a_program_that_is_no_python_with_cab_has_no_data(tmp_path: Path) -> None:
    python, packages = virtual_environment(tmp_path / "a")
    (packages / "cab" / "__init__.py").unlink()
    with pytest.raises(NoData, match="does not say what it has installed: it has no cab installed"):
        side_of(str(python), tmp_path)
    program = tmp_path / "program"
    program.write_text("no script")
    program.chmod(0o755)
    with pytest.raises(NoData, match="does not answer as a Python"):
        side_of(str(program), tmp_path)


def test_what_is_nothing_of_these_is_one_message(repository: Path, tmp_path: Path) -> None:
    for text in ("nosuch", "--upload-pack=x", ""):
        with pytest.raises(UsageError, match="is no git revision"):
            side_of(text, repository) if text else side_of("nosuch2", repository)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"with cab/__init__.py"):
        side_of(str(tmp_path / "empty"), repository)


def test_outside_of_a_checkout_revisions_need_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="in no git checkout"):
        repository_of(tmp_path)


def test_a_shallow_clone_says_how_to_deepen_it(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{repository}", "shallow")
    with pytest.raises(UsageError, match="git fetch --unshallow"):
        side_of("HEAD~1", tmp_path / "shallow")


def test_a_way_that_a_shallow_clone_cuts_off_is_not_searched(repository: Path, tmp_path: Path) -> None:
    first, second = git(repository, "rev-list", "--reverse", "HEAD").split()
    git(repository, "checkout", "-q", "-b", "side")
    commit(repository, "three = 3")
    commit(repository, "four = 4")
    git(repository, "checkout", "-q", "-")
    commit(repository, "five = 5")
    git(repository, "merge", "-q", "-s", "ours", "--no-edit", "side")
    last = commit(repository, "six = 6")

    def clone(depth: int) -> Path:
        folder = tmp_path / f"depth{depth}"
        git(tmp_path, "clone", "-q", f"--depth={depth}", f"file://{repository}", folder.name)
        git(folder, "fetch", "-q", f"--depth={depth}", "origin", first)  # GOOD is there, what is between is not
        return folder

    # 2: nothing on the way is there. 4: one of the branches is there, the other one is cut off
    for depth, good in ((2, first), (4, second)):
        with pytest.raises(UsageError, match=f"leads from {good} to {last} is here: .*git fetch --unshallow"):
            commits_between(clone(depth), good, last)
    whole = clone(5)
    assert len(commits_between(whole, second, last)[1]) == 5 and commits_between(whole, last, second)[1] == {}


def test_revisions_without_a_common_commit_have_no_merge_base(repository: Path) -> None:
    git(repository, "checkout", "-q", "--orphan", "other")
    commit(repository, "three = 3")
    with pytest.raises(UsageError, match=r"no commit in common here \(name a commit as BASE\)"):
        merge_base(repository, "main", "other")
    assert merge_base(repository, "main", "main~1") == git(repository, "rev-parse", "main~1")


def test_a_revision_without_the_package_has_no_data(repository: Path) -> None:
    git(repository, "rm", "-qr", "cab")
    git(repository, "commit", "-qm", "gone")
    with pytest.raises(NoData, match="has no cab/__init__.py"):
        side_of("HEAD", repository)


def test_the_environment_is_this_one_where_the_lock_is_the_same(repository: Path) -> None:
    (repository / "pyproject.toml").write_text(PYPROJECT.format("") + "[tool.x]\nother = 1\n")
    assert python_for(checkout(repository, git(repository, "rev-parse", "HEAD")), repository) == sys.executable


def test_environments_are_kept_by_their_lock(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[list[str]] = []

    def build(command: list[str]) -> None:
        built.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)

    monkeypatch.setattr(sides, "_build", build)
    first = side_of(commit(repository, "three = 3", lock="'other>=1'"), repository.parent / "repository")
    count = len(built)
    git(repository, "checkout", "-q", "HEAD~1")  # the working tree has the older lock now
    locked = git(repository, "rev-parse", "main")
    with_lock = [python_for(checkout(repository, locked), repository) for _ in range(2)]
    assert first.python == sys.executable and count == 0
    assert with_lock[0] == with_lock[1] != sys.executable
    assert len(built) == 2 and built[1][-1] == "other>=1", "a venv and its dependencies, once"


def with_other_lock(repository: Path, constraints: str = "") -> Path:
    """Return the sources of a commit with a lock of its own; the checkout has the one of before."""
    if constraints:
        (repository / "constraints.txt").write_text(constraints)
    locked = commit(repository, "three = 3", lock="'other>=1'")
    git(repository, "checkout", "-q", "HEAD~1")
    return checkout(repository, locked)


def test_of_two_runs_one_builds_an_environment_and_the_other_waits(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAB_CACHE", str(repository.parent / "cache"))
    sources, built, second = with_other_lock(repository), list[list[str]](), list[threading.Thread]()

    def build(command: list[str]) -> None:
        built.append(command)
        if "venv" in command:
            Path(command[-1], "bin").mkdir(parents=True)
            return
        second.append(threading.Thread(target=python_for, args=(sources, repository)))
        second[0].start()
        second[0].join(0.5)
        Path(command[0]).write_text("what the first one installs")

    monkeypatch.setattr(sides, "_build", build)
    python = Path(python_for(sources, repository))
    second[0].join(60)
    assert len(built) == 2 and python.read_text() == "what the first one installs"


@pytest.mark.parametrize("end", ["", "  # the newest", '; python_version >= "3.11"', ';python_version=="3.11"'])
def test_pins_with_markers_and_notes_are_understood(
    repository: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv("CAB_CACHE", str(repository.parent / "cache"))
    sources, built = with_other_lock(repository, f"numpy==1.26.4{end}\ntorch==2.0{end}\n"), list[list[str]]()

    def build(command: list[str]) -> None:
        built.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)

    monkeypatch.setattr(sides, "_build", build)
    python_for(sources, repository)
    assert built[1][-1] == f"torch==2.0{end.partition('#')[0].rstrip()}"


def test_an_environment_that_does_not_build_has_no_data(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(NoData, match="cannot be built: .*no such thing"):
        sides._build([sys.executable, "-c", "import sys; sys.exit('no such thing')"])


def test_of_a_conflict_of_versions_the_packages_are_named(repository: Path) -> None:
    said = (
        "ERROR: Cannot install torch==99.0 because of conflicts\n\nhelp\nERROR: ResolutionImpossible: for help visit x"
    )
    with pytest.raises(NoData, match=r"cannot be built: ERROR: Cannot install torch==99\.0 because of conflicts$"):
        sides._build([sys.executable, "-c", f"import sys; sys.exit({said!r})"])


def test_against_changes_one_thing_of_every_case(repository: Path) -> None:
    side = folder_side(repository)
    assert changed(side, "backend=sdpa").changes == {"backend": "sdpa"}
    for text in ("seq_len=4", "backend", "backend="):
        with pytest.raises(UsageError, match="give backend=NAME or mechanism=NAME"):
            changed(side, text)


def test_compare_takes_a_base_or_what_it_is_against() -> None:
    with pytest.raises(UsageError, match="one of the two"):
        requested_sides("HEAD", None, "backend=sdpa", True)


def test_without_a_base_it_is_where_head_left_the_default_branch(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    left = git(repository, "rev-parse", "main")
    git(repository, "checkout", "-q", "-b", "change")
    commit(repository, "four = 4")
    git(repository, "checkout", "-q", "main")
    commit(repository, "five = 5")
    git(repository, "checkout", "-q", "--detach", "change")
    for base in (None, "main..."):
        side, head = requested_sides(base, None, None, True)
        assert side.identity.startswith(f"commit {left}") and "as it is" in head.label
    # a revision is taken as it is named
    assert requested_sides("main", None, None, True)[0].identity != side.identity
    git(repository, "branch", "-q", "-D", "main")
    with pytest.raises(UsageError, match="neither main nor master"):
        requested_sides(None, None, None, True)


def test_the_head_is_the_checkout_that_the_user_is_in(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "cab" / "__init__.py").write_text("dirty = 1")
    monkeypatch.chdir(repository / "cab")
    base, head = requested_sides("HEAD", None, None, False)
    assert base.sources and "two = 2" in (Path(base.sources) / "cab" / "__init__.py").read_text()
    assert head.sources and "dirty = 1" in (Path(head.sources) / "cab" / "__init__.py").read_text()
    _, second = requested_sides("HEAD", "HEAD~1", None, False)
    assert second.sources and "one = 1" in (Path(second.sources) / "cab" / "__init__.py").read_text()


def test_a_worker_has_no_setting_of_the_user_that_would_change_its_speed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/elsewhere", "/other"]))
    side = folder_side(repository)
    environment = side.environment(tmp_path)
    assert "OMP_NUM_THREADS" not in environment and environment["PYTHONPATH"] == side.sources
