"""One process at a time: a lock that the operating system gives back when its holder dies."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from minidl.data.errors import DataError

__all__ = ["locked"]

HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # what systems answer when another process has the lock

if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _give_back(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _take(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _give_back(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def locked(path: Path, patience: float = 3600.0) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; wait for it as long as another process holds it.

    The file stays behind, empty: deleting it would let two processes hold "the same" lock.

    Args:
        path: the lock file, made if need be.
        patience: seconds to wait.

    Raises:
        DataError: the lock did not become free in time.
        OSError: the file cannot be made, or its disk knows no locks (some network drives).
    """
    with open(path, "ab") as file:
        deadline = time.monotonic() + patience
        while not _taken(file):
            if time.monotonic() > deadline:
                raise DataError(f"{path}: another process has held this lock for {patience:g} s; is it stuck?")
            time.sleep(0.05)
        try:
            yield
        finally:
            _give_back(file)


def _taken(file: IO[bytes]) -> bool:
    try:
        _take(file)
    except OSError as error:
        if error.errno not in HELD:
            raise
        return False
    return True
