"""Files from Debian packages, with an apt-get that copies packages from a folder."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cab.data import debian
from cab.errors import UsageError

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an apt-get into the path that downloads the packages in the returned folder."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is needed to make a package")
    archive, programs, root = tmp_path / "archive", tmp_path / "bin", tmp_path / "root"
    for folder in (archive, programs, root / "DEBIAN", root / "usr" / "share" / "x"):
        folder.mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: x\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x\n"
    )
    (root / "usr" / "share" / "x" / "file").write_bytes(CONTENT)
    (root / "usr" / "share" / "other").write_bytes(b"other")
    package = archive / "x_1%3a2.0-1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, package], check=True, capture_output=True)
    program = programs / "apt-get"
    program.write_text(f'#!/bin/sh\nshift\ncp {archive}/$1_*.deb . || {{ echo "E: no package $1" >&2; exit 100; }}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return archive


def test_a_package_s_files_come_with_its_version_and_nothing_is_left(apt: Path) -> None:
    with debian.packages(["x"]) as packages:
        version, file = packages["x"]
        assert version == "1:2.0-1" and list(debian.files(file, "usr/share/x/")) == [("file", CONTENT)]
    assert not file.parent.exists()


def test_a_package_that_apt_does_not_know_or_that_is_damaged_is_told(apt: Path) -> None:
    with pytest.raises(UsageError, match=r"apt-get download y failed \(E: no package y\).*`apt-get update`"):
        with debian.packages(["y"]):
            pass
    package = next(apt.iterdir())
    package.write_bytes(package.read_bytes()[:-200])
    with (
        debian.packages(["x"]) as packages,
        pytest.raises(UsageError, match=r"x_1%3a2\.0-1_all\.deb cannot be unpacked"),
    ):
        list(debian.files(packages["x"][1], "usr"))
