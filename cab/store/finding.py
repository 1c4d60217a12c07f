"""Which cases of a store a short id means."""

from pathlib import Path

from cab.errors import UsageError
from cab.store.store import Store

ID_LENGTH = 16  # characters of a case id
_CANDIDATES = 5  # that an ambiguous id is answered with


def case_of(store: Store, text: str) -> str:
    """Return the case id that begins with `text`, as in `3fa9c1`.

    `UsageError` where none does or several do.
    """
    given = text.lower()
    ids = {path.stem.partition("-")[0] for path in _files(store, given)}
    if not given or not ids:
        raise UsageError(f"no case of {store.folder} has an id that begins with '{text}'; see cab results list")
    if len(ids) > 1:
        named = ", ".join(sorted(ids)[:_CANDIDATES]) + (", ..." if len(ids) > _CANDIDATES else "")
        raise UsageError(f"'{text}' begins {len(ids)} case ids: {named}; give more characters")
    return ids.pop()


def files_of(store: Store, case_id: str) -> list[str]:
    """Name the files of a case, every meter and all history."""
    return sorted(path.stem for path in _files(store, f"{case_id}-"))


def _files(store: Store, prefix: str) -> list[Path]:
    store.finish_merges()
    if not prefix.replace("-", "").isalnum():  # no pattern of file names
        return []
    folder = f"{prefix[:2]:?<2}"
    return [path for path in (store.folder / "cases").glob(f"{folder}/{prefix}*.json") if path.is_file()]
