"""Where things lie: the plug-ins' folders, the user's cache, and the host-wide folder for locks."""

import os
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).parent


def beside(name: str) -> Path:
    """Return `mechanisms`, `tasks`, `conf` or `results`: inside the package in a wheel, beside it in a checkout."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def cache() -> Path:
    """Return the user's cache of what can be made again at any time: `CAB_CACHE`, or the platform's place."""
    given = os.environ.get("CAB_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cab"


def runtime() -> Path:
    """Return the folder for locks that hold for the whole host; it exists."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(given) / "cab" if given else Path(tempfile.gettempdir()) / f"cab-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `path` so that no reader and no kill ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
