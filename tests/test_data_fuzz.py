"""More than 2 000 damaged files: each is read after all, or refused by a DataError that names it. Nothing else."""

import gzip
import io
import shutil
import struct
import warnings

import numpy as np
import pytest
from PIL import Image
from test_data_files import idx, write_cifar, write_mnist

from minidl import data
from minidl.data.photos import opened
from minidl.files import folder as shipped

IDX_CASES, CIFAR_CASES, PHOTO_CASES, DIGITS_CASES = 900, 250, 900, 60


def test_there_are_enough_cases():
    assert IDX_CASES + CIFAR_CASES + PHOTO_CASES + DIGITS_CASES >= 2000


def attempt(read, path):
    """True if the file was read, False if it was refused by name."""
    try:
        read()
    except data.DataError as error:
        assert path.name in str(error) and len(str(error)) > len(str(path)) + 10
        return False
    return True


def flipped(content, rng, most=8):
    """Some bytes changed."""
    damaged = bytearray(content)
    for _ in range(rng.integers(1, most + 1)):
        damaged[rng.integers(len(damaged))] = rng.integers(256)
    return bytes(damaged)


def shortened(content, rng):
    return content[: rng.integers(len(content))]


def lengthened(content, rng):
    return content + rng.bytes(int(rng.integers(1, 100)))


def with_another_header(content, rng):
    """One field of an IDX header replaced by a number that damage or malice might put there."""
    field = 4 * int(rng.integers(4))
    number = int(rng.choice([0, 1, 27, 29, 2049, 2051, 2**16, 2**31 - 1, 2**31, 2**32 - 1, rng.integers(2**32)]))
    return content[:field] + struct.pack(">I", number) + content[field + 4 :]


def spliced(content, rng):
    """A piece of the file in another place."""
    a, b, c = np.sort(rng.integers(len(content), size=3))
    return content[:a] + content[b:c] + content[a:]


def test_damaged_idx_files_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    write_mnist(tmp_path)
    names = sorted(path.name for path in tmp_path.glob("*.gz"))
    originals = {name: (tmp_path / name).read_bytes() for name in names}
    damages = (flipped, shortened, lengthened, with_another_header, spliced)
    read = 0
    for case in range(IDX_CASES):
        rng = np.random.default_rng(case)
        path, damage = tmp_path / names[case % 4], damages[case // 4 % 5]
        packed = originals[path.name]
        if damage is with_another_header or rng.random() < 0.5:  # damage inside of an intact gzip file, or to it
            path.write_bytes(gzip.compress(damage(gzip.decompress(packed), rng), 1))
        else:
            path.write_bytes(damage(packed, rng))
        read += attempt(lambda: data.load("mnist", root=tmp_path), path)
        path.write_bytes(packed)
    assert read < IDX_CASES / 3  # other pixels, or other labels within the range: no reader could know


def test_damaged_cifar10_files_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    write_cifar(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    original = path.read_bytes()
    for case in range(CIFAR_CASES):
        rng = np.random.default_rng(case)
        damage = (flipped, shortened, lengthened, spliced, lambda content, rng: rng.bytes(len(content)))[case % 5]
        path.write_bytes(damage(original, rng))
        attempt(lambda: data.load("cifar10", root=tmp_path), path)


def encoded(file_format, mode, **options):
    out = io.BytesIO()
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    coarse.resize((64, 48), Image.Resampling.BICUBIC).convert(mode).save(out, file_format, **options)
    return out.getvalue()


PHOTOGRAPHS = [
    encoded("JPEG", "RGB"),
    encoded("JPEG", "L"),
    encoded("JPEG", "CMYK"),
    encoded("JPEG", "RGB", progressive=True),
    encoded("PNG", "RGB"),  # under the name of a JPEG
    encoded("PNG", "RGBA"),
]


def test_damaged_photographs_are_refused_by_name(tmp_path):
    path = tmp_path / "n01440764_1.JPEG"
    damages = (flipped, shortened, lengthened, spliced)
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on damaged metadata
        for case in range(PHOTO_CASES):
            rng = np.random.default_rng(case)
            path.write_bytes(damages[case % 4](PHOTOGRAPHS[case // 4 % 6], rng))
            refused += not attempt(lambda: opened(path).load(), path)
    assert refused > PHOTO_CASES / 4


def test_any_change_of_the_shipped_digits_is_refused_by_name(tmp_path):
    path = tmp_path / "digits.npz"
    shutil.copy(shipped("datasets") / "digits.npz", path)
    original = path.read_bytes()
    for case in range(DIGITS_CASES):
        damaged = (flipped, shortened, lengthened)[case % 3](original, np.random.default_rng(case))
        path.write_bytes(damaged)
        assert attempt(lambda: data.load("digits", root=tmp_path), path) == (damaged == original)


@pytest.mark.parametrize("count", [0, 1, 2**20])
def test_an_idx_file_that_promises_much_and_holds_little_takes_no_memory(count, tmp_path, monkeypatch):
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">4I", 2051, 2**32 - 1 - count, 28, 28) + idx(np.zeros((1, 28)))[12:]))
    assert not attempt(lambda: data.load("mnist", root=tmp_path), path)
