"""The two sides of a comparison: which interpreter with which sources, and what of the case is different there."""

import fcntl
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from shutil import rmtree
from typing import Any

from cab.errors import UsageError
from cab.paths import PACKAGE, cache

SOURCES = ("cab", "mechanisms", "tasks", "conf", "cli.py", "pyproject.toml", "constraints.txt")
INSTALLED = Path(__file__).with_name("installed.py")
FINGERPRINT_SECONDS = 60.0  # most that an interpreter may take to say what it has installed
CHANGES = ("backend", "mechanism")  # what `--against KEY=NAME` may replace in every case
_SETTINGS = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "", "OMP_NUM_THREADS": "", "MKL_NUM_THREADS": ""}
# NumPy's own threads: none is used for what is measured, and a process that has several cannot fork
_SETTINGS["OPENBLAS_NUM_THREADS"] = "1"


class NoData(Exception):
    """A side cannot be measured; `str` of it says why."""


@dataclass(frozen=True)
class Side:
    """An interpreter, the sources that it imports `cab` from, and changes of the case."""

    label: str  # what a user reads
    identity: str  # what the measurements depend on: equal identities are the same code
    python: str = sys.executable
    sources: str | None = None  # a folder with `cab/`; None for what the interpreter has installed
    changes: dict[str, str] = field(default_factory=dict)
    unbuilt: str = ""  # why it could not be built: every case then has no data

    def environment(self, side_cache: Path) -> dict[str, str]:
        """Return the variables of a worker; the allocator is pinned, and compiled code is kept apart by side."""
        settings = {name: value for name, value in os.environ.items() if name not in _SETTINGS and name != "PYTHONPATH"}
        settings |= {name: value for name, value in _SETTINGS.items() if value}
        # as cab.instruments.allocator pins it; a revision may not have that module
        settings |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**62)}
        settings |= {"TORCHINDUCTOR_CACHE_DIR": str(side_cache / "inductor"), "CAB_CACHE": str(side_cache / "cab")}
        return settings | ({"PYTHONPATH": self.sources} if self.sources else {})


def side_of(text: str, repository: Path, same_environment: bool = False) -> Side:
    """Return the side that a user names: an interpreter, a folder or a git revision, in this order.

    `repository` is a folder of the checkout that the revision is of; the others need none.
    `same_environment` runs a revision in this interpreter, whatever its lock says. `UsageError` where it is nothing of
    these, `NoData` where its environment cannot be made, or where it is no Python with `cab`.
    """
    path = Path(text).expanduser()
    if path.is_file() and os.access(path, os.X_OK):
        return interpreter_side(text, path.absolute())
    if path.is_dir():
        return folder_side(path)
    repository = repository_of(repository)
    commit = full_commit(text, repository)
    sources = checkout(repository, commit)
    python = sys.executable if same_environment else python_for(sources, repository)
    label = commit[:12] if commit.startswith(text) else f"{text} ({commit[:12]})"
    return Side(label, f"commit {commit}, {python}", python, str(sources))


def folder_side(folder: Path) -> Side:
    """Return a side with a copy of a folder's sources as they are now, so that edits during the run change nothing."""
    if not (folder / "cab" / "__init__.py").is_file():
        raise UsageError(f"{folder}: a folder must hold a checkout of cab, with cab/__init__.py")
    files = sorted(path for name in SOURCES for path in _files(folder / name))
    contents = {path.relative_to(folder): path.read_bytes() for path in files}
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name} {len(content)} ".encode() + content)
    identity = digest.hexdigest()[:16]
    destination = cache() / "track" / "sources" / f"folder-{identity}"
    if not destination.is_dir():
        with _whole(destination) as partial:
            for name, content in contents.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_bytes(content)
    return Side(f"{folder} as it is", f"sources {identity}", sources=str(destination))


def interpreter_side(label: str, python: Path) -> Side:
    """Return a side with what an interpreter has installed now; `NoData` where it has no `cab`.

    The path alone would not do as its identity: what is behind it changes with every `pip install`, and all virtual
    environments of one Python lead to the same file.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # as a worker has none
    try:
        done = subprocess.run(
            [python, "-P", str(INSTALLED)], capture_output=True, text=True, timeout=FINGERPRINT_SECONDS, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoData(f"{python} does not answer as a Python: {error}") from None
    found = done.stdout.strip()
    if done.returncode or not found:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise NoData(f"{python} does not say what it has installed: {said[-1][:300]}")
    return Side(label, f"python {python}, {found}", python=str(python))


def installed_side() -> Side:
    """Return this installation: of a checkout a copy of its files, else what the interpreter has."""
    root = PACKAGE.parent
    is_checkout = (root / "pyproject.toml").is_file()
    return folder_side(root) if is_checkout else interpreter_side("installed", Path(sys.executable))


def changed(side: Side, assignment: str) -> Side:
    """Return a side with another backend or mechanism in every case, as `backend=sdpa`."""
    key, _, value = assignment.partition("=")
    if key not in CHANGES or not value:
        raise UsageError(f"--against {assignment}: give {' or '.join(f'{key}=NAME' for key in CHANGES)}")
    return Side(assignment, f"{side.identity}, {assignment}", side.python, side.sources, {key: value})


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts]


def _git(repository: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, timeout=120)
    except FileNotFoundError:
        raise UsageError("git is not installed: name two folders or two interpreters instead of revisions") from None
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, arguments, stderr=done.stderr)
    return done.stdout


def repository_of(folder: Path) -> Path:
    """Return the root of the checkout that a folder is in; `UsageError` where it is in none."""
    try:
        return Path(_git(folder, "rev-parse", "--show-toplevel").decode().strip())
    except subprocess.CalledProcessError:
        raise UsageError(
            f"{folder} is in no git checkout: revisions need one; or name folders or interpreters"
        ) from None


def full_commit(text: str, repository: Path) -> str:
    """Return the full name of a revision's commit; `UsageError` where there is none."""
    try:
        # --end-of-options: a revision may not be read as an option
        found = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
        return found.decode().strip()
    except subprocess.CalledProcessError:
        pass
    hint = "this clone is shallow: git fetch --unshallow" if _is_shallow(repository) else "git fetch may bring it"
    raise UsageError(
        f"'{text}' is no git revision of {repository}, no folder and no interpreter ({hint}). Accepted: a revision, as "
        "HEAD~1, a folder with cab/, or the path of a Python"
    )


def _is_shallow(repository: Path) -> bool:
    return _git(repository, "rev-parse", "--is-shallow-repository").decode().strip() == "true"


def commit_time(commit: str, repository: Path) -> float:
    """Return when a commit was made, in seconds since 1970."""
    return float(_git(repository, "log", "-1", "--format=%ct", commit).decode())


def default_branch(repository: Path) -> str:
    """Return the branch that changes are made against; `UsageError` where none of the usual names is there."""
    for name in ("origin/HEAD", "origin/main", "origin/master", "main", "master"):
        try:
            full_commit(name, repository)
            return name
        except UsageError:
            continue
    raise UsageError("compare with what? Give BASE, as HEAD~1: there is neither main nor master here to start from")


def merge_base(repository: Path, one: str, other: str) -> str:
    """Return the commit that two revisions have in common; `UsageError` where there is none."""
    try:
        return (
            _git(repository, "merge-base", full_commit(one, repository), full_commit(other, repository))
            .decode()
            .strip()
        )
    except subprocess.CalledProcessError:
        hint = "this clone is shallow: git fetch --unshallow" if _is_shallow(repository) else "name a commit as BASE"
        raise UsageError(f"{one} and {other} have no commit in common here ({hint})") from None


def commits_between(repository: Path, good: str, bad: str) -> tuple[str, dict[str, list[str]]]:
    """Return the commit `good`, and those that lead from it to `bad`, each with its parents.

    Parents stand before their children, and `bad` is the last. `UsageError` where the clone is shallow and may lack
    some of them.
    """
    first, last = full_commit(good, repository), full_commit(bad, repository)
    order = ("--reverse", "--topo-order", "--ancestry-path", "--parents")
    listed = _git(repository, "rev-list", *order, f"{first}..{last}").decode().splitlines()
    if _is_shallow(repository):
        file = repository / _git(repository, "rev-parse", "--git-path", "shallow").decode().strip()
        cut = set(file.read_text().split())  # commits whose parents are not here
        if cut.intersection(_git(repository, "rev-list", f"{first}..{last}").decode().split()):
            raise UsageError(
                f"not all that leads from {good} to {bad} is here: this clone is shallow: git fetch --unshallow"
            )
    return first, {commit: parents for commit, *parents in map(str.split, listed)}


def subject_of(repository: Path, commit: str) -> str:
    """Return the first line of a commit's message."""
    return _git(repository, "log", "-1", "--format=%s", commit).decode(errors="replace").strip()


def checkout(repository: Path, commit: str) -> Path:
    """Return a folder with the sources of a commit. Neither the user's tree nor the folder .git is written to."""
    destination = cache() / "track" / "sources" / commit
    if not destination.is_dir():
        archive = _git(repository, "archive", "--format=tar", commit)
        with _whole(destination) as partial, tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(partial, filter="data")
    if not (destination / "cab" / "__init__.py").is_file():
        raise NoData(f"commit {commit[:12]} has no cab/__init__.py")
    return destination


def python_for(sources: Path, head: Path) -> str:
    """Return an interpreter with what the sources' lock asks for; this one, where `head` asks for the same.

    Environments are kept by their lock alone, so that a bisection installs torch once. `NoData` says why one cannot be
    made.
    """
    wanted = _lock(sources)
    if wanted == _lock(head):
        return sys.executable
    key = hashlib.sha256(f"{sys.version} {wanted}".encode()).hexdigest()[:16]
    folder = cache() / "track" / "environments" / key
    python, complete = folder / "bin" / "python", folder / "complete"
    dependencies, constraints = wanted
    pins = [line.strip() for line in constraints.splitlines()]
    # an unpinned one brings gigabytes of CUDA packages
    first = [line.partition("#")[0].strip() for line in pins if line.startswith("torch==")]
    limits = ["-c", str(sources / "constraints.txt")] if constraints else []
    with _alone(folder):
        if complete.is_file():
            return str(python)
        if folder.exists():  # killed while it was made
            rmtree(folder)
        _build([sys.executable, "-m", "venv", str(folder)])
        for packages in (first, list(dependencies)):
            if packages:
                _build([str(python), "-m", "pip", "install", "--quiet", *limits, *packages])
        complete.touch()
    return str(python)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder that is being made: another run waits, and finds it whole. The kernel frees it at a death."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        # pip ends a conflict of versions with a link, and names the packages before it
        named = [line for line in lines if line.startswith("ERROR: ") and "ResolutionImpossible" not in line]
        raise NoData(f"its environment cannot be built: {(named or lines)[-1]}")


def _lock(sources: Path) -> tuple[tuple[str, ...], str]:
    """Return the dependencies and the constraints of a checkout: what its environment is made of."""
    try:
        project: dict[str, Any] = tomllib.loads((sources / "pyproject.toml").read_text())["project"]
    except (OSError, ValueError, KeyError) as error:
        raise NoData(f"its pyproject.toml cannot be read: {error}") from None
    constraints = sources / "constraints.txt"
    return tuple(project.get("dependencies", ())), constraints.read_text() if constraints.is_file() else ""


class _whole:
    """A folder that appears whole or not at all."""

    def __init__(self, destination: Path) -> None:
        destination.parent.mkdir(parents=True, exist_ok=True)
        self._destination = destination
        self._partial = Path(tempfile.mkdtemp(dir=destination.parent, prefix=".partial-"))

    def __enter__(self) -> Path:
        return self._partial

    def __exit__(self, kind: object, error: object, _: object) -> None:
        if kind is None:
            try:
                self._partial.rename(self._destination)
                return
            except OSError:  # another run was faster
                if not self._destination.is_dir():
                    raise
        if isinstance(error, OSError) and error.filename is None:  # a full disk names no file
            error.filename = str(self._destination)
        rmtree(self._partial)
