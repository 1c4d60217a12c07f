"""Bisections of git repositories: with stand-ins for the processes, and for real on copies of this checkout."""

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from math import log
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from cab.errors import UsageError
from cab.tracking import searching
from cab.tracking.bisect import Culprits, step_verdict
from cab.tracking.lockstep import measure_pair
from cab.tracking.searching import search_and_print
from cab.tracking.sides import SOURCES, NoData, Side
from cab.tracking.verdicts import CONFIRM_PAIRS, Minimum
from cab.tracking.worker import REFERENCE_KERNEL

ROOT = Path(__file__).parents[2]
CASE = ["mechanism=linear", "pattern=NS", "seq_len=256", "batch=1"]
SPREAD = Random(0)  # of pairs
README, BROKEN = "README.md", "raise ImportError('half a commit')\n"
Edit = Callable[[Path], None]


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def committed(root: Path, edits: Mapping[str, Edit]) -> dict[str, str]:
    """Make a commit of each edit; return its message -> its name."""
    git(root, "init", "-q")
    names = {}
    for message, edit in edits.items():
        edit(root)
        git(root, "add", ".")
        git(root, "commit", "-q", "-m", message)
        names[message] = git(root, "rev-parse", "HEAD")
    return names


def appended(file: str, text: str) -> Edit:
    def edit(root: Path) -> None:
        (root / file).parent.mkdir(exist_ok=True)
        with open(root / file, "a") as out:
            out.write(text)

    return edit


def replaced(file: str, old: str, new: str) -> Edit:
    def edit(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new))

    return edit


@pytest.fixture
def checkout(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAB_CACHE", str(elsewhere / "cache"))
    root = elsewhere / "checkout"
    root.mkdir()
    monkeypatch.chdir(root)
    return root


def search(root: Path, good: str, bad: str, **settings: Any) -> tuple[Culprits, str]:
    out = Console(record=True, width=200, file=StringIO())
    lines = list[str]()
    results = root.parent / "results"
    settings = {"keep": True, **settings}
    found = search_and_print((good, bad), CASE, Minimum(), True, results, out, lines.append, **settings)
    return found, out.export_text() + "\n".join(lines)


def simulated(base: Side, head: Side, case: Mapping[str, Any], caches: Path, first: bool) -> dict[str, Any]:
    """Answer as processes would: `slow` in `cab/speed` is 10 % of time, `work` one more operation, `broken` no data."""
    texts = [(Path(side.sources or "") / "cab" / "speed").read_text() for side in (base, head)]
    if "broken" in texts[1]:
        raise NoData("head: it does not import")
    spread = SPREAD.uniform(-0.002, 0.002)
    counts = [{"operations": 30.0 + text.count("work")} for text in texts]
    ratio = log(1 + 0.1 * (texts[1].count("slow") - texts[0].count("slow"))) + spread
    ratio = spread if case["mechanism"] == REFERENCE_KERNEL else ratio
    seconds = {"base": [0.001], "head": [0.001], "log_ratio": ratio}
    return {**seconds, "counts": dict(zip(("base", "head"), counts, strict=True))} if first else seconds


def small_project(root: Path) -> None:
    for file, text in (("cab/__init__.py", ""), ("cab/speed", "x\n"), ("pyproject.toml", "[project]\nname='x'\n")):
        appended(file, text)(root)


SIMULATED: dict[str, Edit] = {"first": small_project, "README": appended(README, "a")}


@pytest.mark.parametrize("word", ("slow", "work"))
def test_the_culprit_is_named_by_time_or_by_a_count(checkout: Path, word: str) -> None:
    names = committed(
        checkout,
        {
            **SIMULATED,
            "culprit": appended("cab/speed", word),
            "later": appended(README, "b"),
            "last": appended(README, "c"),
        },
    )
    found, text = search(checkout, names["first"], names["last"], measure=simulated)
    assert found.commits == (names["culprit"],) and found.good == names["README"]
    assert f"{names['culprit']} culprit" in text
    pairs = list((checkout.parent / "results").rglob("pairs/*.json"))
    if word == "work":  # one pair a step, and nothing else
        assert "operations 30 -> 31" in text and len(pairs) <= 5
    else:
        assert len(pairs) > 5


def test_a_step_that_does_not_decide_adds_its_pairs_to_the_earlier_ones(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def undecided_at_first(log_ratios: Sequence[float], bad_change: float) -> str:
        counts.append(len(log_ratios))
        return step_verdict(log_ratios, bad_change) if len(log_ratios) > CONFIRM_PAIRS else "unstable"

    monkeypatch.setattr(searching, "step_verdict", undecided_at_first)
    names = committed(checkout, {**SIMULATED, "culprit": appended("cab/speed", "slow"), "last": appended(README, "b")})
    found, _ = search(checkout, names["first"], names["last"], measure=simulated)
    assert found.commits == (names["culprit"],)
    assert counts and counts == [CONFIRM_PAIRS, 2 * CONFIRM_PAIRS] * (len(counts) // 2)


def test_a_commit_without_data_that_hides_the_culprit_gives_a_range(checkout: Path) -> None:
    edits = {
        **SIMULATED,
        "broken": appended("cab/speed", "broken work"),
        "mended": replaced("cab/speed", "broken", ""),
        "last": appended(README, "b"),
    }
    names = committed(checkout, edits)
    found, text = search(checkout, names["first"], names["last"], measure=simulated)
    assert found.commits == (names["broken"], names["mended"]) and found.skipped == (names["broken"],)
    assert "one of these made it slower" in text and "skipped" in text


def test_ends_that_are_alike_or_broken_are_one_message(checkout: Path) -> None:
    names = committed(checkout, {**SIMULATED, "broken": appended("cab/speed", "broken")})
    with pytest.raises(UsageError, match="ends do not reproduce"):
        search(checkout, names["first"], names["README"], measure=simulated)
    with pytest.raises(UsageError, match="ends cannot be compared: head: it does not import"):
        search(checkout, names["first"], names["broken"], measure=simulated)
    with pytest.raises(UsageError, match="GOOD must be an ancestor of BAD"):
        search(checkout, names["README"], names["first"], measure=simulated)


def test_of_merged_branches_the_commit_is_named(checkout: Path) -> None:
    names = committed(checkout, {"first": small_project})
    git(checkout, "branch", "-q", "other")
    names |= committed(checkout, {f"a{i}": appended(README, str(i)) for i in range(3)})
    git(checkout, "checkout", "-q", "other")
    names |= committed(
        checkout, {"b0": appended("b", "0"), "culprit": appended("cab/speed", "work"), "b2": appended("b", "2")}
    )
    git(checkout, "checkout", "-q", "-")
    git(checkout, "merge", "-q", "--no-ff", "-m", "merge", "other")
    names |= committed(checkout, {"last": appended(README, "last")})
    found, _ = search(checkout, names["first"], names["last"], measure=simulated)
    assert found.commits == (names["culprit"],)


def test_a_small_growth_of_a_count_is_not_blamed_for_a_large_one(checkout: Path) -> None:
    small, large = appended("cab/speed", "work"), appended("cab/speed", "work" * 30)
    edits = {**SIMULATED, "small": small, "between": appended(README, "b"), "large": large, "last": appended("c", "c")}
    names = committed(checkout, edits)
    found, text = search(checkout, names["first"], names["last"], measure=simulated)
    assert found.commits == (names["large"],) and "operations 30 -> 61" in text


def test_the_count_that_grew_most_decides(checkout: Path) -> None:
    def measure(base: Side, head: Side, *arguments: Any) -> dict[str, Any]:
        pair = simulated(base, head, *arguments)
        text = (Path(head.sources or "") / "cab" / "speed").read_text()
        moved = {"base": 100.0, "head": 100.0 + text.count("move")}
        return pair | {"counts": {name: {"bytes moved": moved[name], **pair["counts"][name]} for name in moved}}

    moving, working = appended("cab/speed", "move"), appended("cab/speed", "work" * 30)
    edits = {**SIMULATED, "moving": moving, "working": working, "last": appended(README, "b")}
    names = committed(checkout, edits)
    found, text = search(checkout, names["first"], names["last"], measure=measure)
    assert found.commits == (names["working"],) and "bytes moved" not in text


def test_a_finished_search_is_measured_anew_and_a_killed_one_goes_on(checkout: Path) -> None:
    names = committed(checkout, {**SIMULATED, "culprit": appended("cab/speed", "work"), "last": appended(README, "b")})
    calls, killed_at = list[int](), 3

    def measure(*arguments: Any) -> dict[str, Any]:
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        calls.append(0)
        return simulated(*arguments)

    settings = {"measure": measure, "keep": False}
    with pytest.raises(KeyboardInterrupt):
        search(checkout, names["first"], names["last"], **settings)
    killed_at = -1
    search(checkout, names["first"], names["last"], **settings)
    once = len(calls)
    search(checkout, names["first"], names["last"], **settings)
    assert len(calls) == 2 * once
    # ends that do not reproduce are an answer too
    for _ in range(2):
        calls.clear()
        with pytest.raises(UsageError, match="ends do not reproduce"):
            search(checkout, names["first"], names["README"], **settings)
        assert calls


# for real ------------------------------------------------------------------------------------------------------------
MAP = "cab/ops/feature_maps.py"
RETURN = "    out = x.clamp(min=0).add_(1)\n"


def project(root: Path) -> None:
    """Write this project's sources."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, root / name)


def planted(slowdown: str) -> dict[str, Edit]:
    """Six commits; the fourth has the slowdown in one operation, the third does not import."""
    return {
        "project": project,
        "README": appended(README, "a"),
        "broken": appended("cab/__init__.py", BROKEN),
        "mended": replaced("cab/__init__.py", BROKEN, ""),
        "culprit": replaced(MAP, RETURN, slowdown + RETURN),
        "README again": appended(README, "b"),
        "last": appended(README, "c"),
    }


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_copy_too_many_in_one_operation_is_found_by_counts(checkout: Path) -> None:
    names = committed(checkout, planted("    x = x.clone()\n"))
    found, text = search(checkout, names["project"], names["last"], measure=measure_pair)
    assert found.commits == (names["culprit"],) and "decided by a count" in text
    assert len(list((checkout.parent / "results").rglob("pairs/*.json"))) <= 6


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_slowdown_without_counts_is_found_by_time(checkout: Path) -> None:
    # four times as slow, so that other load on the machine does not decide this test
    spin = (
        "    import time\n    end = time.perf_counter() + 0.004\n    while time.perf_counter() < end:\n        pass\n"
    )
    names = committed(checkout, planted(spin))
    found, text = search(checkout, names["project"], names["last"], measure=measure_pair)
    assert found.commits == (names["culprit"],) and "decided by a count" not in text
