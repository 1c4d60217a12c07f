"""What a comparison has measured so far, in a folder: a file a pair, written whole, so that a killed run goes on."""

import json
from pathlib import Path
from typing import Any

from cab.errors import UsageError
from cab.paths import write_whole


class State:
    """The pairs of one comparison, by case id and number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pair(self, case_id: str, number: int) -> dict[str, Any] | None:
        """Return a pair that has been measured; None where it has not, or where its file is damaged."""
        try:
            pair: dict[str, Any] = json.loads(self._path(case_id, number).read_text())
        except (OSError, ValueError):
            return None
        return pair

    def keep(self, case_id: str, number: int, pair: dict[str, Any]) -> None:
        """Keep a pair; `UsageError` where the disk is full or the folder cannot be written."""
        try:
            write_whole(self._path(case_id, number), json.dumps(pair))
        except OSError as error:
            raise UsageError(
                f"{self.folder}: {error.strerror}; the pairs so far are kept, and the same command goes on from there"
            ) from None

    def forget(self, case_id: str) -> None:
        """Remove the pairs of a case, so that they are measured anew."""
        for path in (self.folder / "pairs").glob(f"{case_id}-*.json"):
            path.unlink(missing_ok=True)

    def _path(self, case_id: str, number: int) -> Path:
        return self.folder / "pairs" / f"{case_id}-{number:02}.json"
