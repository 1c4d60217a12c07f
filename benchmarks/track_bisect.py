"""Plant a slowdown of 8 % in one of this repository's operations, and let `cab track` catch and bisect it.

    python benchmarks/track_bisect.py [--share 0.08] [--readme 10] [--results FOLDER]

Makes a git repository of this checkout's sources in the folder of results: a commit that touches README, one with the
slowdown in `elu_plus_one`, another README. The slowdown only waits, so that no count shows it; how long is measured
first. Then it compares both ends, bisects them, and compares the commit of README alone `--readme` times on three
cases, each time with pairs of its own. Every pair is kept, and a cut run goes on. Exits with 1 unless the commit is
named, and where a case of the commit of README comes out `slower`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

from rich.console import Console

from cab.paths import PACKAGE, cache, write_whole
from cab.tracking.cases import tracked_cases
from cab.tracking.compare import Settings, compare
from cab.tracking.lockstep import measure_pair
from cab.tracking.rendering import print_comparison
from cab.tracking.searching import search_and_print
from cab.tracking.sides import SOURCES, installed_side, side_of
from cab.tracking.verdicts import Minimum

CASE = ["mechanism=linear", "pattern=NS", "seq_len=1024", "batch=1"]
README_CASES = ["mechanism=linear,softmax,local", *CASE[1:]]
CALLS = 2  # of the operation in a pass: of q and of k
FILE, LINE = "cab/ops/feature_maps.py", "    out = x.clamp(min=0).add_(1)\n"
WAIT = (
    "    import time\n\n    end = time.perf_counter() + {seconds}\n    while time.perf_counter() < end:\n        pass\n"
)


def git(root: Path, *arguments: str) -> str:
    """Run git with a fixed author and date, so that the same sources give the same commits."""
    fixed = {f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in _AUTHOR.items()}
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **fixed})
    return done.stdout.strip()


_AUTHOR = {"NAME": "cab", "EMAIL": "cab@example.org", "DATE": "2026-01-01T00:00:00+00:00"}


def repository(root: Path, seconds: float) -> dict[str, str]:
    """Make the repository where there is none; return the message of each commit -> its name."""
    if not (root / "commits.json").is_file():
        shutil.rmtree(root, ignore_errors=True)  # killed while it was made
        root.mkdir(parents=True)
        git(root, "init", "-q")
        for name in SOURCES:
            source = PACKAGE.parent / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, root / name)
        commits = {}
        for message in ("the project", "README", "a slower operation", "README again"):
            if message.startswith("README"):
                with open(root / "README.md", "a") as file:
                    file.write("more\n")
            if message == "a slower operation":
                text = (root / FILE).read_text()
                assert LINE in text, f"{FILE} has changed: choose another line"
                (root / FILE).write_text(text.replace(LINE, WAIT.format(seconds=seconds) + LINE))
            git(root, "add", ".")
            git(root, "commit", "-q", "-m", message)
            commits[message] = git(root, "rev-parse", "HEAD")
        write_whole(root / "commits.json", json.dumps(commits))
    known: dict[str, str] = json.loads((root / "commits.json").read_text())
    return known


def main() -> int:
    """Parse, plant, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.08)
    parser.add_argument("--readme", type=int, default=10)
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    out, (case,) = Console(width=120), tracked_cases(CASE)
    folder = (options.results / "benchmark-track" / f"bisect-{options.share:g}").absolute()
    if not (folder / "seconds.json").is_file():
        side, caches = installed_side(), cache() / "track" / "compiled"
        pairs = [measure_pair(side, side, case.question, caches, False) for _ in range(5)]  # seconds drift
        write_whole(folder / "seconds.json", json.dumps(median(median(pair["base"]) for pair in pairs)))
    seconds = options.share * json.loads((folder / "seconds.json").read_text()) / CALLS
    commits = repository(folder / "repository", seconds)
    os.chdir(folder / "repository")

    def progress(line: str) -> None:
        print(line, file=sys.stderr)

    first, last, readme = commits["the project"], commits["README again"], commits["README"]
    sides = [side_of(commit, Path.cwd(), True) for commit in (first, last, readme)]
    print_comparison(compare(sides[0], sides[1], [case], Settings(), folder, progress), out)
    found = search_and_print((first, last), CASE, Minimum(), True, folder, out, progress, keep=True)
    wrong, of_readme = 0, tracked_cases(README_CASES)
    for number in range(options.readme):
        done = compare(sides[0], sides[2], of_readme, Settings(), folder / f"readme-{number}", progress)
        said = [each.verdict for each in done.verdicts.values()]
        wrong += "slower" in said
        out.print(f"README alone, {number + 1}: {', '.join(said)}{' (unproven)' if done.flagged else ''}")
    return 0 if found.commits == (commits["a slower operation"],) and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
