"""The store: one file a case and meter.

A file is written whole, by rename, and holds the question, the raw samples of every process, the values made of them,
and the environment.

Schema 1 (2026-11): first version.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from cab.contracts.case import STATUSES
from cab.errors import UsageError
from cab.paths import write_whole

SCHEMA = 1
FINAL = ("wrong", "error", "timeout", "oom", "unsupported", "skipped")
_ENTRY = {
    **{"case": dict, "metrics": dict, "environment": dict, "processes": list, "schema": int},
    **dict.fromkeys(("case_id", "meter", "key", "environment_id", "run_id", "time"), str),
}
CASE_COLUMNS = "mechanism pattern task level pass batch heads dim n m dtype device backend seed scale".split()


@dataclass
class Store:
    """A results folder. Damaged files are set aside and listed in `damaged`, never dropped."""

    folder: Path
    damaged: list[Path] = field(default_factory=list)

    def open_for_writing(self) -> "Store":
        """Make sure that results can be kept, before anything is measured."""
        try:
            for name in ("cases", "locks"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / "locks" / ".writable", "")
        except OSError as error:
            raise UsageError(
                f"the results folder {self.folder.absolute()} cannot be written: {error.strerror}; "
                "choose another with --results DIR"
            ) from error
        return self

    def path(self, file: str) -> Path:
        """Return where the file of an item (`<case id>-<key>`) lies."""
        return self.folder / "cases" / file[:2] / f"{file}.json"

    def checkpoint(self, file: str) -> Path:
        """Return where an item's training keeps its state; the folder is its own, and goes when it has ended."""
        return (self.folder / "checkpoints" / file / "training.safetensors").absolute()

    def read(self, file: str) -> dict[str, Any] | None:
        """Return an entry, or None where there is none (or only a damaged one, which is set aside)."""
        return self.load(self.path(file))

    def write(self, entry: dict[str, Any]) -> None:
        """Keep an entry, replacing an older one of the same question and key."""
        write_whole(self.path(f"{entry['case_id']}-{entry['key']}"), json.dumps(entry, allow_nan=False))

    def entries(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Return every entry that can be read."""
        for path in sorted((self.folder / "cases").glob("??/*.json")):
            if (entry := self.load(path)) is not None:
                yield path, entry

    def load(self, path: Path) -> dict[str, Any] | None:
        """Return the entry of one file; a damaged file is set aside."""
        try:
            entry = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            self.set_aside(path)
            return None
        if not _is_entry(entry) or path.stem != f"{entry['case_id']}-{entry['key']}":
            self.set_aside(path)
            return None
        return entry

    def set_aside(self, path: Path) -> None:
        """Move a damaged file out of the way and list it in `damaged`."""
        aside = self.folder / "damaged" / path.name
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            path.replace(aside)
        except OSError:
            aside = path  # a folder that cannot be written: reported all the same
        self.damaged.append(aside)


def _is_entry(entry: Any) -> TypeGuard[dict[str, Any]]:
    """Whether this has the shape of an entry: what is nested in it is what tables and runs read."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), kind) for name, kind in _ENTRY.items()):
        return False
    found = entry["metrics"].values()
    asked = {*CASE_COLUMNS, "params", "task_params", "settings"} <= set(entry["case"])
    return asked and all(isinstance(metric, dict) and metric.get("status") in STATUSES for metric in found)


def now() -> str:
    """Return the time as rows state it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
