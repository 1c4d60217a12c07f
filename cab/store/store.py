"""The store: a folder with one file for each case and meter, the JSON of a `cab.store.entry.Entry`.

A file is written whole, by rename.
"""

import errno
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

from cab.errors import UsageError
from cab.paths import write_whole
from cab.store import claims
from cab.store.entry import Entry

COPIED = ".merged-"  # how the folder begins that holds what a merge has copied completely


@dataclass
class Store:
    """A results folder. Damaged files are set aside and listed in `damaged`, never dropped."""

    folder: Path
    damaged: list[Path] = field(default_factory=list)

    def open_for_writing(self) -> "Store":
        """Make sure that results can be kept, and that work is claimed as other hosts do, before anything is measured.

        `UsageError` where not.
        """
        try:
            for name in ("cases", "locks"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
                with TemporaryFile(dir=self.folder / name):  # each folder may have permissions of its own
                    pass
            claims.agree(self.folder / "locks")
        except OSError as error:
            raise UsageError(
                f"the results folder {self.folder.absolute()} cannot be written: {error.strerror}; "
                "choose another with --results DIR"
            ) from error
        self.finish_merges()
        return self

    def finish_merges(self) -> None:
        """Move what a merge has copied here completely into its place; see `cab.store.merging`.

        The merge itself calls this, or, where it was killed, whoever reads the store next. Several processes may.
        """
        for copies in self.folder.glob(f"{COPIED}*"):
            try:
                for name in os.listdir(copies):
                    if name.endswith(".json"):
                        self._take_copy(copies / name)
            except OSError as error:
                # another process has finished it; it is a file; who may only read leaves it to who may write
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
            with suppress(OSError):
                copies.rmdir()

    def _take_copy(self, copy: Path) -> None:
        """Move a copy into its place, unless a run has kept a later answer there since the merge began."""
        copied, present = self.load(copy), self.load(self.path(copy.stem))
        if copied is None:  # another process has moved it
            return
        with suppress(FileNotFoundError):
            if present is not None and (present.asked or present.time) > (copied.asked or copied.time):
                copy.unlink()
                return
            self.path(copy.stem).parent.mkdir(parents=True, exist_ok=True)
            copy.replace(self.path(copy.stem))

    def path(self, file: str) -> Path:
        """Return where the file of a measurement (`<case id>-<key>`) lies."""
        return self.folder.joinpath("cases", file[:2], f"{file}.json")  # once for each case of a run: no three steps

    def checkpoint(self, file: str) -> Path:
        """Return where a training keeps its state, in a folder of its own, which goes when the training has ended."""
        return (self.folder / "checkpoints" / file / "training.safetensors").absolute()

    def read(self, file: str) -> Entry | None:
        """Return an entry, or None where there is none (or only a damaged one, which is set aside)."""
        return self.load(self.path(file))

    def write(self, entry: Entry, held: Callable[[], bool] = lambda: True) -> bool:
        """Keep an entry, replacing an older one of the same case and key.

        `ValueError` or `TypeError` where JSON cannot hold it, `OSError` where it cannot be written.

        `held` is asked when all is written but the name: where it says that the claim on the entry is lost, nothing is
        kept and False is returned.
        """
        path = self.path(entry.file)
        nameless = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            write_whole(nameless, entry.to_text())
            if held():
                nameless.replace(path)
                return True
        finally:
            nameless.unlink(missing_ok=True)
        return False

    def entries(self) -> Iterator[tuple[Path, Entry]]:
        """Yield every entry that can be read, with its file."""
        self.finish_merges()
        for path in sorted((self.folder / "cases").glob("??/*.json")):
            if (entry := self.load(path)) is not None:
                yield path, entry

    def load(self, path: Path) -> Entry | None:
        """Return the entry of one file, or None where there is none; a damaged file is set aside.

        `UsageError` for one of another schema, and for one that cannot be read: it may be sound.
        """
        try:
            entry = Entry.from_json(json.loads(_content(path)))
            if path.stem != entry.file:
                raise ValueError(f"{path.name} holds {entry.file}")
        except FileNotFoundError:
            return None
        except UsageError as error:  # whole, so it stays where it is
            raise UsageError(f"{path}: {error}") from error
        except (IsADirectoryError, ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            self.set_aside(path)
            return None
        except OSError as error:  # no permission, too many open files, a disk that fails or is away
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        return entry

    def set_aside(self, path: Path) -> None:
        """Move a damaged file out of the way and list it in `damaged`."""
        aside = self.folder / "damaged" / path.name
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            path.replace(aside)
        except OSError:
            aside = path  # in a folder that cannot be written it stays, and is listed all the same
        self.damaged.append(aside)


def _content(path: Path) -> bytes:
    """Return what a file holds; on NFS one that was replaced while it was opened is asked for once more."""
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
    return path.read_bytes()


def now() -> str:
    """Return the time as rows state it: UTC, in seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
