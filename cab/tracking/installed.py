"""What a Python has installed, as a fingerprint. It runs as a script, in the Python that is asked, and imports none of
it: that takes a tenth of a second, and torch alone would take more than one.
"""

import hashlib
import importlib.util
import platform
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

PARTS = ("cab", "mechanisms", "tasks", "conf")  # of a checkout that is installed as it stands; a wheel has all in `cab`


def fingerprint() -> str:
    """Digest the versions of Python and of all packages, and the files of `cab`.

    The version of `cab` would not do: that of a checkout stays while its files change.
    """
    spec = importlib.util.find_spec("cab")
    if spec is None or spec.origin is None:
        raise SystemExit("it has no cab installed")
    package = Path(spec.origin).parent
    is_checkout = (package.parent / "pyproject.toml").is_file()
    versions = sorted(f"{each.metadata['Name']} {each.version}" for each in distributions())
    digest = hashlib.sha256(f"{platform.python_version()} {versions}".encode())
    for file in _files([package.parent / name for name in PARTS] if is_checkout else [package]):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(package.parent)} {len(content)} ".encode() + content)
    return digest.hexdigest()[:16]


def _files(folders: Iterable[Path]) -> list[Path]:
    found = (path for folder in folders for path in folder.rglob("*"))
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


if __name__ == "__main__":
    print(fingerprint())
