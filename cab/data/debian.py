"""Files out of Debian packages, fetched by apt, which verifies them; nothing is installed."""

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from cab.errors import UsageError


@contextmanager
def packages(names: Sequence[str]) -> Iterator[dict[str, tuple[str, Path]]]:
    """Download packages into a folder that lives as long as the context: name -> version, file."""
    apt = shutil.which("apt-get")
    if apt is None or shutil.which("dpkg-deb") is None:
        raise UsageError(f"the packages {', '.join(names)} are Debian's: apt-get and dpkg-deb are needed, and not here")
    with TemporaryDirectory(prefix="cab-") as folder:
        done = subprocess.run([apt, "download", *names], cwd=folder, capture_output=True, text=True)
        found = {}
        for file in Path(folder).glob("*.deb"):
            name, version, _ = file.name.split("_")  # apt escapes a version's colon
            found[name] = (version.replace("%3a", ":"), file)
        missing = [name for name in names if name not in found]
        if missing or done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["it said nothing"]
            raise UsageError(
                f"apt-get download {' '.join(names)} failed ({said[0]}). `apt-get update`, as root, brings apt's list "
                "of packages up to date."
            )
        yield found


def files(package: Path, under: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the regular files of a package below the folder `under`, in its order."""
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True)
    if done.returncode:
        raise UsageError(f"{package.name} cannot be unpacked: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isfile() and name.startswith(under):
                content = tar.extractfile(member)
                assert content is not None
                yield name.removeprefix(under), content.read()
