"""1 797 real handwritten digits of 8 × 8 pixels, shipped with minidl: no download, no network."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from minidl.data.dataset import Dataset
from minidl.data.errors import DataError
from minidl.data.registry import Parts, register
from minidl.files import folder

__all__ = ["digits"]

SHA256 = "b3996b2d5562a06ee958845967e751ef00c857aaaade28e557be47f483a0f0ad"
FULL = 16  # a pixel counts the set points of a 4 × 4 block of the original bitmap
MEAN, STD = 0.305164, 0.376397  # of the 1 200 training images, in units of FULL


@register("digits")
def digits(root: Path | None = None) -> Parts:
    """Handwritten digits of 8 × 8 pixels, 1 200 for training and 597 for the test, uint8 (N, 1, 8, 8), 0 … 16.

    The split is fixed and stratified; its indices lie in the file and are printed in ``datasets/digits.md``.

    Args:
        root: folder with ``digits.npz``; left out, the copy that comes with minidl.

    Raises:
        DataError: the file is missing or is not the published one.

    Source: E. Alpaydin and C. Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI, CC BY 4.0.
    """
    content = _published((root or folder("datasets")) / "digits.npz")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        whole = Dataset(file["images"][:, None], file["labels"], full=FULL)
        return Parts(whole.subset(file["train"]), whole.subset(file["test"]), [MEAN], [STD])


def _published(path: Path) -> bytes:
    """The bytes of the file, if they are the ones that the card describes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); reinstall minidl or pass root=…") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise DataError(
            f"{path}: SHA-256 is {found[:12]}…, expected {SHA256[:12]}… ({len(content)} bytes): the file was changed "
            "or cut short. Restore it with `git checkout datasets/digits.npz`, or reinstall minidl"
        )
    return content
