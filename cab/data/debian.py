"""Files from Debian packages: apt downloads and verifies the packages, and nothing is installed."""

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
    """Download packages into a temporary folder: name -> (version, file), valid within the context."""
    apt = shutil.which("apt-get")
    if apt is None or shutil.which("dpkg-deb") is None:
        raise UsageError(
            f"the packages {', '.join(names)} are Debian's: apt-get and dpkg-deb are needed, and are not installed"
        )
    with TemporaryDirectory(prefix="cab-") as folder:
        process = subprocess.run([apt, "download", *names], cwd=folder, capture_output=True, text=True)
        downloaded = {}
        for file in Path(folder).glob("*.deb"):
            name, version, _ = file.name.split("_")
            downloaded[name] = (version.replace("%3a", ":"), file)  # apt escapes the colon in a file's name
        missing = [name for name in names if name not in downloaded]
        if missing or process.returncode:
            errors = [line for line in process.stderr.splitlines() if line.startswith("E:")] or ["it printed no error"]
            raise UsageError(
                f"apt-get download {' '.join(names)} failed ({errors[0]}). Run `apt-get update` as root: "
                "it updates apt's list of packages."
            )
        yield downloaded


def files(package: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name below `folder` and the content of each regular file of a package in that folder."""
    process = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True)
    if process.returncode:
        raise UsageError(f"{package.name} cannot be unpacked: {process.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(process.stdout)) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isfile() and name.startswith(folder):
                content = tar.extractfile(member)
                assert content is not None
                yield name.removeprefix(folder), content.read()
