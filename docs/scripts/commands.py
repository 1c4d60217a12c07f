"""Make docs/commands.md: run every command in an empty folder, and write down what it prints.

    python docs/scripts/commands.py            # one to two minutes
    python docs/scripts/commands.py --quick    # seconds: only what needs no torch, as after a new plug-in

`tests/docs/test_commands.py` runs the commands again and compares all but numbers and paths.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "commands.md"
CAB = Path(sys.executable).parent / "cab"
HOME = "/home/you"  # what stands on the page for the folders of whoever made it
MISTAKE = '''\
"""Causal attention whose mask is off by one: each query sees one key of the future."""

import torch

from cab import Mechanism


class OffByOne(Mechanism):
    """Softmax attention."""

    patterns = {"CS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        scores = q @ k.mT * self.slot.dim**-0.5
        future = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(2)
        scores = scores.masked_fill(future, torch.finfo(scores.dtype).min)
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None, None, :], torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ v
'''


@dataclass(frozen=True)
class Shown:
    """A command, and what is said before it."""

    command: str
    about: str = ""
    torch: bool = False  # whether it runs plug-ins, which takes seconds
    code: int = 0  # how it exits
    lines: int | None = None  # how many of them are shown, where there are more with each plug-in


PARTS: dict[str, list[Shown]] = {
    "cab": [
        Shown("cab --help"),
    ],
    "cab run": [
        Shown(
            "cab run mechanism=softmax,linear task=speed pattern=CS seq_len=256,1024 threads=1 --dry-run",
            "What would be run:",
        ),
        Shown(
            "cab run mechanism=softmax,linear task=speed pattern=CS seq_len=256,1024 threads=1",
            "The run. Progress goes to standard error and is not shown here.",
            torch=True,
        ),
        Shown(
            "cab run mechanism=softmax,linear task=speed pattern=CS seq_len=256,1024 threads=1 --dry-run --estimate",
            "Afterwards nothing is left to do. What it would take to do it again:",
            torch=True,
        ),
        Shown(
            "cab run mechanism=softmax,none task=parity 'meters=[quality]' training.steps=20 training.evaluate=20 "
            "training.validate=64 training.test=200",
            "A training, cut short here; read every score against the floors:",
            torch=True,
        ),
        Shown(
            "cab run mechanism=softmax,nystrom task=speed pattern=CS seq_len=64 threads=1 'meters=[flops]'",
            "A pattern that a mechanism refuses is a row, too:",
            torch=True,
        ),
        Shown("cab run mechanism=sofmax task=speed", "A mistake is one line, and exit code 2:", code=2),
        Shown("cab run --help"),
    ],
    "cab report": [
        Shown("cab report", "Every leaderboard of the store, here of the runs above:", torch=True),
    ],
    "cab results": [
        Shown("cab results list task=speed", "What the store holds, of the runs above:", torch=True),
        Shown("cab results diff results results seq_len=256", "Two stores, here one and the same:", torch=True),
        Shown("cab results remove mechanism=nystrom --yes", "Without `--yes` it asks:", torch=True),
        Shown("cab results --help", "All of it is on the page of [the store](store.md#from-the-command-line)."),
    ],
    "cab list": [
        Shown("cab list mechanisms", "All of them are in [mechanisms](mechanisms.md).", lines=8),
        Shown("cab list tasks"),
        Shown("cab list meters"),
        Shown("cab list grids"),
    ],
    "cab show": [
        Shown("cab show mechanism=agent"),
        Shown("cab show task=parity"),
        Shown("cab show meter=parameters"),
        Shown("cab show grid=diagnostics"),
    ],
    "cab check": [
        Shown("cab check none", torch=True),
        Shown(
            "cab check ./off_by_one.py:OffByOne",
            f'A file of yours, whose mask is off by one:\n\n```python title="off_by_one.py"\n{MISTAKE}```\n\n'
            "Exit code 1:",
            torch=True,
            code=1,
        ),
    ],
    "cab plot": [
        Shown(
            "cab plot mask mechanism=local pattern=CS mechanism.window=8",
            "The picture is in the [tutorial](tutorial.md#1-which-mechanisms-can-do-it).",
            torch=True,
        ),
    ],
    "cab data": [
        Shown("cab data list", torch=True),
        Shown("cab data get lra_listops --layout release", "Tasks have options of their own:", torch=True),
        Shown("cab data get parity", torch=True, code=2),
    ],
    "cab doctor": [
        Shown("cab doctor", "`cab doctor --peak` measures what the machine can do at most, in some minutes."),
    ],
}

HEAD = """# Commands

Made by `python docs/scripts/commands.py`, which runs each command in an empty folder; a test runs them again and
compares all but numbers and paths. Where nothing else is said, a command exits with 0.
"""


def run(shown: Shown, folder: Path) -> str:
    """Run a command in `folder` and return what it prints: standard output, or its one message."""
    home = {"CAB_CACHE": str(folder / ".cache" / "cab"), "CAB_LOCK_FOLDER": str(folder / ".locks")}
    kept = {name: value for name, value in os.environ.items() if name not in ("CAB_RESULTS", "CAB_DATA", "FORCE_COLOR")}
    words = shlex.split(shown.command)
    done = subprocess.run(
        [CAB, *words[1:]], cwd=folder, env={**kept, **home, "COLUMNS": "120"}, capture_output=True, text=True
    )
    if done.returncode != shown.code:
        raise SystemExit(f"{shown.command}: exit code {done.returncode}, not {shown.code}\n{done.stdout}{done.stderr}")
    printed = done.stdout or done.stderr.splitlines()[-1]
    if shown.code == 2:
        printed = re.sub(r"(Accepted: ).*", r"\1…", printed)
    lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
    if shown.lines is not None:
        lines = [*lines[: shown.lines], "…"]
    return "\n".join(lines).replace(str(folder), HOME).replace(str(ROOT), f"{HOME}/cab")


def run_all(folder: Path, torch: bool = True) -> dict[str, str]:
    """Return command -> what it prints; without `torch`, of those that answer at once."""
    (folder / ".runtime").mkdir()
    (folder / "off_by_one.py").write_text(MISTAKE)
    return {shown.command: run(shown, folder) for part in PARTS.values() for shown in part if torch or not shown.torch}


def page(printed: dict[str, str]) -> str:
    """Write the page."""
    lines = [HEAD]
    for title, part in PARTS.items():
        lines.append(f"## {title}\n")
        for shown in part:
            lines += [f"{shown.about}\n"] * bool(shown.about)
            lines += ["```console", f"$ {shown.command}", printed[shown.command], "```\n"]
    return "\n".join(lines).rstrip("\n") + "\n"


def parse(text: str) -> dict[str, str]:
    """Return command -> what a page says that it prints."""
    found = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return {command: answer.rstrip("\n") for command, answer in found}


def main() -> None:
    """Run the commands and write the page; with --quick keep what is on it of those that take longer."""
    quick = sys.argv[1:] == ["--quick"]
    kept = parse(PAGE.read_text()) if quick else {}
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page(kept | run_all(Path(folder).resolve(), torch=not quick)))


if __name__ == "__main__":
    main()
