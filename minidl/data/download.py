"""Downloads that end with the right file or with none: mirrors, time-outs, resuming, checksums, atomic arrival."""

from __future__ import annotations

import errno
import hashlib
import http.client
import math
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidl.data.errors import DataError
from minidl.data.lock import locked
from minidl.text import progress

__all__ = ["RemoteFile", "Unreachable", "checksum_fault", "fetch", "writing"]

BLOCK = 1 << 16
TIMEOUT = 20.0  # seconds without a block of 64 KiB
PAUSES = (0.0, 1.0, 3.0)  # seconds before each round through the mirrors
TRY_LATER = (408, 416, 425, 429)  # the client errors that another attempt may cure
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class RemoteFile:
    """A published file: its name, size in bytes, checksums, and the folders on the web that hold it.

    ``md5`` is the one its authors (or the libraries that have used it for years) publish.
    """

    name: str
    size: int
    md5: str
    sha256: str
    mirrors: tuple[str, ...] = ()


class Unreachable(DataError):
    """No mirror gave the file."""


class _Failed(Exception):
    """One attempt at one mirror failed; ``final``: asking that mirror again would be no use."""

    def __init__(self, reason: str, final: bool) -> None:
        super().__init__(reason)
        self.final = final


def fetch(file: RemoteFile, folder: Path, timeout: float = TIMEOUT, pauses: tuple[float, ...] = PAUSES) -> Path:
    """The path of ``file`` in ``folder``, downloaded if it is not there yet.

    Bytes arrive in ``NAME.part``, which the next attempt (or the next process) resumes. Only a complete file with
    the right checksums gets the name ``NAME``, in one step. A lock lets one process at a time do this.

    Args:
        file: what to download.
        folder: where to; made if need be.
        timeout: seconds a server may take for 64 KiB.
        pauses: seconds to wait before each round through the mirrors; as many rounds as there are pauses.

    Raises:
        Unreachable: no mirror gave the file; the text says for each one why.
        DataError: the disk is full, the folder cannot be written to, or a file of this name is there and is not
            the published one.
    """
    target = folder / file.name
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{file.name}.lock"):
            if target.exists():
                fault = checksum_fault(target, file)
                if fault:
                    raise DataError(f"{target}: {fault}. Delete it, and it will be downloaded again")
                return target
            partial = folder / f"{file.name}.part"
            _room_for(file, partial)
            _from_a_mirror(file, partial, timeout, pauses)
            os.replace(partial, target)
    return target


def checksum_fault(path: Path, file: RemoteFile) -> str | None:
    """What shows that ``path`` is not the published ``file``, or None if it is: size, MD5 and SHA-256 agree."""
    size = path.stat().st_size
    if size != file.size:
        return f"{size} bytes, expected {file.size}"
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with open(path, "rb") as content:
        while block := content.read(1 << 20):
            md5.update(block)
            sha256.update(block)
    for name, found, expected in (("MD5", md5, file.md5), ("SHA-256", sha256, file.sha256)):
        if found.hexdigest() != expected:
            return f"{name} is {found.hexdigest()}, expected {expected}"
    return None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into a ``DataError`` that names the folder and the cure."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            cure = "free some space, or pass root=… (or set MINIDL_DATA) to a folder on another disk"
            raise DataError(f"{folder}: no space left for the download ({error.strerror}); {cure}") from error
        cure = "pass root=… or set MINIDL_DATA to a folder you may write to"
        raise DataError(f"{folder}: cannot be written to ({error.strerror or error}); {cure}") from error


def _room_for(file: RemoteFile, partial: Path) -> None:
    """Refuse what will not fit; what an earlier attempt left in ``partial`` takes no new room."""
    free = shutil.disk_usage(partial.parent).free
    missing = file.size - _length(partial)
    if free < missing:
        raise OSError(errno.ENOSPC, f"{file.name} needs {missing / 1e6:.1f} MB, {free / 1e6:.1f} MB are free")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _from_a_mirror(file: RemoteFile, partial: Path, timeout: float, pauses: tuple[float, ...]) -> None:
    """Fill ``partial`` with the right bytes, or say for each mirror why it did not work."""
    reasons: dict[str, str] = {}
    mirrors = list(file.mirrors)
    for pause in pauses:
        time.sleep(pause if mirrors else 0)
        for mirror in tuple(mirrors):
            try:
                return _attempt(file, mirror + file.name, partial, timeout)
            except _Failed as failure:
                reasons[mirror] = str(failure)
                if failure.final:
                    mirrors.remove(mirror)
    told = "".join(f"\n  {mirror}{file.name}: {reason}" for mirror, reason in reasons.items())
    raise Unreachable(f"{file.name} ({file.size / 1e6:.1f} MB) could not be downloaded:{told}")


def _attempt(file: RemoteFile, url: str, partial: Path, timeout: float) -> None:
    """One request for what is missing, then the check of the whole."""
    have = _length(partial)
    if have > file.size:
        partial.unlink()
        have = 0
    if have < file.size:
        _receive(file, url, partial, have, timeout)
    size = partial.stat().st_size
    if size < file.size:
        raise _Failed(f"the connection ended after {size} of {file.size} bytes", final=False)
    fault = checksum_fault(partial, file)
    if fault:
        page = _looks_like_a_page(partial)
        partial.unlink()
        # A beginning from elsewhere may be the culprit: this mirror deserves a fresh start.
        raise _Failed(f"sent a web page instead of the file ({fault})" if page else fault, final=have == 0)


def _receive(file: RemoteFile, url: str, partial: Path, have: int, timeout: float) -> None:
    """Append the bytes from ``have`` on to ``partial``, or all of them if the server does not resume."""
    headers = {"User-Agent": "minidl"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with _network_faults():
            response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except _Failed as failure:
        if getattr(failure.__cause__, "code", None) == 416:  # the beginning we hold fits no file there
            partial.unlink(missing_ok=True)
        raise
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        missing = file.size - have if resumed else file.size
        _refuse_other_content(response, missing)
        blocks = progress(_blocks(response, missing, timeout), math.ceil(missing / BLOCK), file.name)
        _store(blocks, partial, "ab" if resumed else "wb")


@contextmanager
def _network_faults() -> Iterator[None]:
    """Turn what the network raises into the reason of a failed attempt."""
    try:
        yield
    except urllib.error.HTTPError as error:
        final = 400 <= error.code < 500 and error.code not in TRY_LATER
        raise _Failed(f"HTTP {error.code} {_printable(error.reason)}", final) from error
    except urllib.error.URLError as error:
        raise _Failed(f"not reached ({error.reason})", final=False) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: redirected to no address
        reason = _printable(error) or type(error).__name__
        raise _Failed(f"the connection broke ({reason})", final=False) from error


def _printable(words: object) -> str:
    """One short line: a server may send anything in place of words, and any amount of it."""
    line = "".join(c if c.isprintable() else " " for c in str(words))
    return line if len(line) <= 100 else f"{line[:100]}…"


def _refuse_other_content(response: Any, missing: int) -> None:
    """An error page and a file of another size show in the headers, before a byte is stored."""
    if response.headers.get_content_type() == "text/html":
        raise _Failed("sent a web page instead of the file (a login or error page?)", final=True)
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) != missing:
        raise _Failed(f"announces {announced} bytes, expected {missing}", final=True)


def _blocks(response: Any, missing: int, timeout: float) -> Iterator[bytes]:
    """The body in blocks of 64 KiB; too many bytes, or too slow a trickle of them, end it."""
    block, received, deadline = bytearray(), 0, time.monotonic() + timeout
    while chunk := _chunk(response):
        received += len(chunk)
        if received > missing:
            raise _Failed(f"sends more than the expected {missing} bytes", final=True)
        block += chunk
        if len(block) >= BLOCK:  # a chunk is no larger than that: there is no second one to give
            yield bytes(block[:BLOCK])
            del block[:BLOCK]
            deadline = time.monotonic() + timeout
        elif time.monotonic() > deadline:
            raise _Failed(f"too slow: less than {BLOCK >> 10} KiB in {timeout:g} s", final=False)
    if block:
        yield bytes(block)


def _chunk(response: Any) -> bytes:
    with _network_faults():
        chunk: bytes = response.read1(BLOCK)
    return chunk


def _store(blocks: Iterator[bytes], partial: Path, mode: str) -> None:
    """Write the blocks. A full disk gets its space back; any other end keeps what has come for the next attempt."""
    try:
        with open(partial, mode) as out:
            for block in blocks:
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _looks_like_a_page(path: Path) -> bool:
    with open(path, "rb") as content:
        return content.read(64).lstrip().startswith(b"<")
