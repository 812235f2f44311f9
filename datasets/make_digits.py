"""Makes ``digits.npz`` from the copy of the UCI digits that scikit-learn bundles.

Run it with scikit-learn installed: ``python datasets/make_digits.py``. The bytes are the same each time; the last
line printed is the SHA-256 that ``minidl/data/sets/digits.py`` expects.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TRAIN = 1_200
SEED = 0


def shares(counts: np.ndarray, take: int) -> np.ndarray:
    """Largest-remainder share of ``take`` places: ties go to the smaller class."""
    share, remainder = np.divmod(take * counts, counts.sum())
    share[np.argsort(-remainder, kind="stable")[: take - share.sum()]] += 1
    return share


def drawn(labels: np.ndarray) -> np.ndarray:
    """Indices of the training images: class by class, the first of a permutation of that class."""
    rng = np.random.default_rng(SEED)
    quota = shares(np.bincount(labels), TRAIN)
    chosen = [rng.permutation(np.flatnonzero(labels == k))[: quota[k]] for k in range(10)]
    return np.sort(np.concatenate(chosen))


def packed(arrays: dict[str, np.ndarray]) -> bytes:
    """An .npz archive without compression, dates or platform marks: the same bytes everywhere."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
            archive.writestr(entry, buffer.getvalue())
    return out.getvalue()


def main() -> None:
    source = load_digits()
    images, labels = source.images.astype(np.uint8), source.target.astype(np.uint8)
    train = drawn(labels)
    test = np.setdiff1d(np.arange(len(labels)), train)
    content = packed({"images": images, "labels": labels, "train": train.astype("<u2"), "test": test.astype("<u2")})
    path = Path(__file__).with_name("digits.npz")
    path.write_bytes(content)
    pixels = images[train] / 16
    print(f"{path.name}: {len(content)} bytes, {len(train)} + {len(test)} images")
    print(f"train mean {pixels.mean():.6f}, std {pixels.std():.6f} (values in [0, 1])")
    print(f"train {np.bincount(labels[train])}, test {np.bincount(labels[test])}")
    print(hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    main()
