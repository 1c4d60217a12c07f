"""Downloads that resume after an interruption, are verified, and appear in their folder only when complete."""

import fcntl
import gzip
import hashlib
import io
import logging
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cab.errors import UsageError

PARTIAL = ".part"  # suffix of an unfinished download or folder
MOST_BYTES = 4 << 30  # that an archive may unpack to; the largest one here has 3.8e9
_CHUNK = 1 << 16  # bytes that a broken connection loses at most
_BLOCK = 4096  # bytes that the smallest file takes of a disk


def download(url: str, known_hash: str, folder: Path) -> Path:
    """Return the verified file of that URL in `folder`; download it, or the rest of it, if it is not there.

    `known_hash` is "sha256:..." or "md5:...". A file with another hash is downloaded again. Call it in `folder_lock`.
    """
    import pooch  # takes 0.1 s to import, and most runs download nothing
    from requests.exceptions import ConnectionError as BadConnection
    from requests.exceptions import ProxyError, RequestException, SSLError

    name = url.rsplit("/", 1)[-1]
    partial = folder / (name + PARTIAL)
    try:
        logger = pooch.get_logger()
        level, _ = logger.level, logger.setLevel(logging.ERROR)
        try:
            pooch.retrieve(url, known_hash, fname=name, path=folder, downloader=_resuming_downloader(partial))
        finally:
            logger.setLevel(level)
    except RequestException as error:
        reason = _first_line(error)
        if isinstance(error, BadConnection) and not isinstance(error, SSLError | ProxyError):  # its words are a page
            reason = f"the connection to {urlsplit(url).netloc} failed or broke"
        raise UsageError(
            f"{url} cannot be downloaded ({reason}). Run the same command again to go on where it "
            f"stopped, or put {name} into {folder} yourself: it is verified there."
        ) from None
    except ValueError as error:
        # pooch has deleted its copy of the wrong file; a partial file of it would never become the right one
        partial.unlink(missing_ok=True)
        raise UsageError(f"{url} is not the expected file: {_first_line(error)}. Run the same command again.") from None
    except OSError as error:
        raise UsageError(f"{folder} cannot take the download of {name}: {_first_line(error)}") from None
    return folder / name


def interrupted_download(folder: Path, name: str) -> str | None:
    """Describe what an interrupted download of `name` left in `folder`; None where it left nothing."""
    partial = folder / (name + PARTIAL)
    size = partial.stat().st_size if partial.is_file() else 0
    return f"{partial} ({size:,} bytes of an interrupted download)" if size else None


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Make `folder`, and hold its lock, so that one process at a time downloads into it.

    Another process waits for the lock. The kernel frees it when the process that holds it dies.
    """
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
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes `target` at the end, or is deleted if an exception is raised."""
    temporary = target.with_name(f".{target.name}{PARTIAL}")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unpack(archive: Path, folder: Path, new_name: Callable[[str], str | None], most: int = MOST_BYTES) -> None:
    """Unpack a tar archive's files into `folder`, each under its `new_name`; those of name None are left out.

    `UsageError` where the archive is damaged, and before it takes more than `most` bytes: what is left out counts, and
    every member as a block of the disk at least.
    """
    size = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                size += max(member.size, _BLOCK)
                if size > most:
                    raise UsageError(f"{archive} holds more than {most:,} bytes, and is no data set that cab knows")
                if member.isfile() and (name := new_name(member.name)) is not None:
                    tar.extract(member.replace(name=name), folder, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UsageError(f"{archive} cannot be unpacked into {folder.parent}: {_first_line(error)}") from None


def gunzip(content: bytes, most: int = MOST_BYTES) -> bytes:
    """Return what was compressed by gzip; `ValueError` where it is damaged, or has more than `most` bytes."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            plain = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"it is no gzip file: {_first_line(error)}") from None
    if len(plain) > most:
        raise ValueError(f"it holds more than {most:,} bytes")
    return plain


def read_verified(file: Path, sha256: str) -> bytes:
    """Return the content of a file that was brought earlier; `UsageError` where it is not the known one."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error}. Move {file.parent} away, and get it again.") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UsageError(f"{file} is truncated or damaged. Move {file.parent} away, and get it again.")
    return content


def _resuming_downloader(partial: Path) -> Callable[..., None]:
    """Return a downloader for pooch that appends to the file `partial` and asks the server for the rest of it."""

    def fetch(url: str, output_file: str, pooch: object) -> None:
        import requests

        size = partial.stat().st_size if partial.is_file() else 0
        # without compression on the way: the hash is that of the plain file, and a range is a range of it
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
        with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
            if answer.status_code != 416:  # 416: the range is empty, so the file is complete
                answer.raise_for_status()
                with partial.open("ab" if answer.status_code == 206 else "wb") as file:
                    file.writelines(answer.iter_content(_CHUNK))
        shutil.move(partial, output_file)

    return fetch


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
