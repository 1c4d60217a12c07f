"""Downloads that are resumed where they stopped, verified, and moved into place whole."""

import fcntl
import logging
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cab.errors import UsageError

PART = ".part"  # what an unfinished download is called
_CHUNK = 1 << 16  # what a broken connection costs at most


def download(url: str, known_hash: str, folder: Path) -> Path:
    """Return the verified file of that name in `folder`, downloading what is missing of it.

    `known_hash` is "sha256:..." or "md5:...". A file whose hash differs is downloaded again. Call it `alone`.
    """
    import pooch  # costs 0.1 s, and most runs download nothing
    from requests.exceptions import RequestException

    name = url.rsplit("/", 1)[-1]
    part = folder / (name + PART)
    try:
        logger = pooch.get_logger()
        level, _ = logger.level, logger.setLevel(logging.ERROR)
        try:
            pooch.retrieve(url, known_hash, fname=name, path=folder, downloader=_resumed(part))
        finally:
            logger.setLevel(level)
    except RequestException as error:
        raise UsageError(
            f"{url} cannot be downloaded ({_first_line(error)}). Run the same command again to go on where it "
            f"stopped, or put {name} into {folder} yourself: it is verified there."
        ) from None
    except ValueError as error:
        # pooch has deleted its copy; ours would be resumed from, and never come right
        part.unlink(missing_ok=True)
        raise UsageError(f"{url} is not the expected file: {_first_line(error)}. Run the same command again.") from None
    except OSError as error:
        raise UsageError(f"{folder} cannot take the download of {name}: {_first_line(error)}") from None
    return folder / name


def unfinished(folder: Path, name: str) -> str | None:
    """Describe what an interrupted download of `name` left in `folder`, or None."""
    part = folder / (name + PART)
    size = part.stat().st_size if part.is_file() else 0
    return f"{part} ({size:,} bytes of an interrupted download)" if size else None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold `folder` for one download; another process that wants it waits. Freed by the kernel at death."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".cab-download.lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}. Choose another data folder.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def placed(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target` to fill; it takes the name `target` at the end, or vanishes on failure."""
    beside = target.with_name(f".{target.name}{PART}")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
    beside.mkdir(parents=True)
    try:
        yield beside
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def unpack(archive: Path, folder: Path, place: Callable[[str], str | None]) -> None:
    """Unpack the files of a tar archive to where `place` puts their names (None: left out) in `folder`."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and (name := place(member.name)) is not None:
                    tar.extract(member.replace(name=name), folder, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UsageError(f"{archive} cannot be unpacked into {folder.parent}: {_first_line(error)}") from None


def _resumed(part: Path) -> Callable[..., None]:
    """Return a pooch downloader that keeps what came in `part` and asks for the rest."""

    def fetch(url: str, output_file: str, pooch: object) -> None:
        import requests

        have = part.stat().st_size if part.is_file() else 0
        # the file as it lies there: what is unpacked on the way has another hash, and cannot be resumed
        ask = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=ask, stream=True, timeout=30) as answer:
            if answer.status_code != 416:  # 416: nothing is left to ask for
                answer.raise_for_status()
                with part.open("ab" if answer.status_code == 206 else "wb") as file:
                    file.writelines(answer.iter_content(_CHUNK))
        shutil.move(part, output_file)

    return fetch


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
