"""CIFAR-10: 50 000 + 10 000 colour photographs of 32 × 32 pixels, in the official binary form (no pickle)."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minidl.data.dataset import Dataset
from minidl.data.download import RemoteFile
from minidl.data.errors import DataError
from minidl.data.fileset import Check, FileSet
from minidl.data.registry import Parts, register

__all__ = ["cifar10"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32
RECORD = 1 + PIXELS  # a label, then the red, the green and the blue plane, row by row
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = "test_batch.bin"
FOLDER = "cifar-10-batches-bin"
SUMS = "SHA256SUMS"  # what we unpacked from a verified archive, for `minidl data verify`
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the 50 000 training images

ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    170052171,
    "c32a1d4ab5d03f1284b67883e8d87530",  # published on the author's page
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",  # published by TensorFlow Datasets
    mirrors=(
        "https://www.cs.toronto.edu/~kriz/",  # the author; TensorFlow Datasets
        "https://cave.cs.toronto.edu/kriz/",  # the author's page as it redirects today
        "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",  # MindSpore
    ),
)


def _complete(folder: Path) -> bool:
    return all((_inside(folder) / name).is_file() for name in (*TRAIN, TEST))


def _inside(folder: Path) -> Path:
    """The folder with the batches: the official one inside ``folder``, or ``folder`` itself."""
    return folder / FOLDER if (folder / FOLDER).is_dir() else folder


def _unpack(folder: Path) -> None:
    """Unpack the verified archive, all files or none: they appear under their folder's name in one step."""
    target, draft = folder / FOLDER, folder / f"{FOLDER}.part"
    shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
    draft.mkdir()
    try:
        _extract(folder / ARCHIVE.name, draft)
        _set_aside(target)
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # a full disk gets its space back
    (folder / ARCHIVE.name).unlink()


def _set_aside(folder: Path) -> None:
    """Make way where an archive was unpacked by hand, and not to its end."""
    if folder.exists():
        aside = folder.with_name(f"{folder.name}.incomplete")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)


def _extract(archive: Path, folder: Path) -> None:
    """Write the six batches, found by their names alone: no path in the archive leads out of ``folder``."""
    sums = []
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = Path(member.name).name
                if name in (*TRAIN, TEST) and (source := tar.extractfile(member)):
                    content = source.read()
                    (folder / name).write_bytes(content)
                    sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(
            f"{archive}: cannot be unpacked ({error}); delete it, and it will be downloaded again"
        ) from error
    (folder / SUMS).write_text("".join(sums), encoding="ascii")


def _verify(folder: Path) -> Iterator[Check]:
    """Batches that minidl unpacked by their checksums, others by their structure."""
    inside = _inside(folder)
    try:
        sums = _sums(inside / SUMS)
    except DataError as error:
        yield Check(SUMS, False, str(error))
        sums = {}
    for name in (*TRAIN, TEST):
        try:
            count = len(_records(inside / name))
        except DataError as error:
            yield Check(name, False, str(error))
            continue
        digest = hashlib.sha256((inside / name).read_bytes()).hexdigest()
        if digest != sums.get(name, digest):
            yield Check(name, False, f"SHA-256 is {digest}, was {sums[name]} when it was unpacked")
        else:
            origin = (
                "as unpacked from the published archive" if sums else "not unpacked by minidl, so without a checksum"
            )
            yield Check(name, True, f"readable, {count} records; {origin}")


def _sums(path: Path) -> dict[str, str]:
    """File name → SHA-256, as written when the archive was unpacked; nothing if it was not minidl that unpacked it."""
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        return {name: digest for digest, name in (line.split() for line in lines)}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a list of checksums and file names; delete it to do without") from error


FILES = FileSet(
    "cifar10",
    ("cifar-10", "cifar10", "CIFAR10", FOLDER),
    _complete,
    _verify,
    downloads=(ARCHIVE,),
    unpack=_unpack,
    by_hand=f"{ARCHIVE.name} (the binary version), or its unpacked folder {FOLDER}",
)


@register("cifar10", FILES)
def cifar10(root: Path | None = None) -> Parts:
    """Colour photographs of ten kinds of things, uint8 (N, 3, 32, 32): all records that the files hold.

    Args:
        root: the folder ``cifar-10-batches-bin``, or a folder it lies in.

    Raises:
        DataError: a file is missing or malformed, or the download failed.

    Source: A. Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    inside = _inside(FILES.get(root))
    train = np.concatenate([_records(inside / name) for name in TRAIN])
    return Parts(_dataset(train), _dataset(_records(inside / TEST)), MEAN, STD)


def _records(path: Path) -> NDArray[np.uint8]:
    """The records of one file, uint8 (N, 3073)."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) == 0 or len(content) % RECORD:
        raise DataError(f"{path}: {len(content)} bytes are not a whole number of records of {RECORD} bytes; cut short?")
    records = content.reshape(-1, RECORD)
    wrong = np.flatnonzero(records[:, 0] >= len(CLASSES))
    if len(wrong):
        raise DataError(
            f"{path}: record {wrong[0]} has the label {records[wrong[0], 0]}, outside 0 … {len(CLASSES) - 1}"
        )
    return records


def _dataset(records: NDArray[np.uint8]) -> Dataset:
    return Dataset(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0], CLASSES)
