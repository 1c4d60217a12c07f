"""The folders of plug-ins, of the user's cache and of host-wide locks, and the atomic writing of files."""

import os
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).parent


def beside(name: str) -> Path:
    """Return `mechanisms`, `tasks`, `conf` or `results`: inside the package in a wheel, beside it in a checkout."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def cache() -> Path:
    """Return the user's cache folder, `CAB_CACHE` or the platform's. It may be deleted at any time."""
    if folder := os.environ.get("CAB_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cab"


def runtime() -> Path:
    """Return the folder of the locks that hold for the whole host: `CAB_LOCK_FOLDER`, or the user's in `/tmp`.

    It may not be there yet. It is one folder for all processes of a user. So it follows neither XDG_RUNTIME_DIR, which
    a login has and cron has not, and which names a folder that a cluster's node lacks, nor TMPDIR.
    """
    return Path(os.environ.get("CAB_LOCK_FOLDER") or f"/tmp/cab-{os.getuid()}")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new, also where the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk names no file
            error.filename = str(path)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
