"""Data sets in files: found where they lie, read in their official formats, refused clearly when they are damaged."""

import gzip
import inspect
import os
import shutil
import struct

import numpy as np
import pytest

from minidl import data
from minidl.data.fileset import FileSet
from minidl.data.idx import read_idx
from minidl.data.places import download_place, places
from minidl.data.registry import entry
from minidl.data.sets import cifar10
from minidl.data.sets.mnist import MNIST
from minidl.files import user_cache

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # known to everyone who has counted
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def idx(array):
    """An array of bytes in the IDX format."""
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(folder, train=12, test=5, packed=True):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", train), ("t10k", test)):
        files = {
            f"{prefix}-images-idx3-ubyte": rng.integers(0, 256, (count, 28, 28)),
            f"{prefix}-labels-idx1-ubyte": np.arange(count) % 10,
        }
        for name, array in files.items():
            content = idx(array)
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(content) if packed else content)


def write_cifar(folder, records=4):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        content = rng.integers(0, 256, (records, 3073), dtype=np.uint8)
        content[:, 0] %= 10
        (folder / name).write_bytes(content.tobytes())


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Neither $MINIDL_DATA nor the user's cache hold anything."""
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setattr("minidl.files.user_cache", lambda: tmp_path / "cache")
    return tmp_path


def real(name):
    """Skip the test unless $MINIDL_DATA holds the real set."""
    if not os.environ.get("MINIDL_DATA") or entry(name).files.find() is None:
        pytest.skip(f"needs MINIDL_DATA with {name}")


def test_a_set_is_here_where_load_would_find_it_and_nothing_is_downloaded(home, monkeypatch):
    monkeypatch.setattr("minidl.data.fileset.fetch", lambda *_: pytest.fail("a download began"))
    assert data.is_here("digits") and data.is_here("spirals") and not data.is_here("mnist")
    write_mnist(home / "cache" / "mnist")
    write_mnist(home / "own" / "mnist")
    assert data.is_here("mnist") and data.is_here("mnist", root=home / "own")
    with pytest.raises(ValueError, match="mnist"):
        data.is_here("mnits")


def test_the_real_mnist_has_60000_and_10000_images_with_the_known_label_histograms():
    real("mnist")
    split = data.load("mnist")
    assert split.train.counts().tolist() == MNIST_TRAIN
    assert split.test.counts().tolist() == MNIST_TEST
    assert split.train.shape == (1, 28, 28) and split.train.raw.dtype == np.uint8


def test_the_published_mean_and_std_of_mnist_are_those_of_the_training_images():
    real("mnist")
    raw = data.load("mnist").train.raw
    assert raw.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert raw.std() / 255 == pytest.approx(0.3081, abs=5e-5)


def test_a_validation_part_of_the_real_mnist_is_stratified():
    real("mnist")
    split = data.load("mnist", val=5000)
    assert [len(split.train), len(split.val), len(split.test)] == [55000, 5000, 10000]
    assert (np.abs(split.val.counts() - np.array(MNIST_TRAIN) / 12) < 1).all()


def test_the_real_cifar10_files_give_all_their_records_in_three_channels():
    real("cifar10")
    split = data.load("cifar10")
    folder = entry("cifar10").files.find() / "cifar-10-batches-bin"
    sizes = [(folder / f"data_batch_{i}.bin").stat().st_size // 3073 for i in range(1, 6)]
    assert len(split.train) == sum(sizes)
    assert len(split.test) == (folder / "test_batch.bin").stat().st_size // 3073
    assert split.train[:5][0].shape == (5, 3, 32, 32)
    assert split.train.counts().min() > 0 and split.test.counts().min() > 0


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("folder", ["", "mnist", "MNIST/raw"])
def test_mnist_is_found_in_root_packed_or_unpacked(folder, packed, home):
    write_mnist(home / "here" / folder, packed=packed)
    split = data.load("mnist", root=home / "here")
    assert [len(split.train), len(split.test)] == [12, 5]


def test_images_and_labels_are_read_as_they_were_written(home):
    write_mnist(home)
    split = data.load("mnist", root=home, normalize=False)
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28))
    np.testing.assert_allclose(split.train.x[:, 0], images / 255, atol=1e-7)
    assert split.train.y.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_the_published_mean_and_std_standardize_mnist_whatever_its_own_are(home):
    write_mnist(home)
    x, raw = data.load("mnist", root=home).test.x, data.load("mnist", root=home).test.raw
    np.testing.assert_allclose(x, (raw / 255 - 0.1307) / 0.3081, atol=1e-5)


def test_root_comes_first_then_minidl_data_then_the_cache(home, monkeypatch):
    for number, place in enumerate(("cache", "shared", "root"), 1):
        write_mnist(home / place / "mnist", train=10 * number)
        monkeypatch.setenv("MINIDL_DATA", str(home / "shared") if number > 1 else "")
        assert len(data.load("mnist", root=home / "root").train) == 10 * number


def test_the_places_are_those_of_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path))
    assert places() == [tmp_path, user_cache()]
    assert download_place() == tmp_path
    assert download_place(tmp_path / "root") == tmp_path / "root"


def test_the_label_file_of_the_sibling_set_is_noticed():
    real("mnist")
    with pytest.raises(data.DataError, match=r"train-labels-idx1-ubyte\.gz: this is the file of the sibling set"):
        data.load("fashion-mnist", root=MNIST.find())


def test_cifar10_planes_are_red_green_blue_by_rows(home):
    write_cifar(home / "cifar-10-batches-bin")
    split = data.load("cifar10", root=home, normalize=False)
    content = (home / "cifar-10-batches-bin" / "test_batch.bin").read_bytes()
    assert len(split.train) == 20
    for channel, row, column in [(0, 0, 0), (1, 2, 3), (2, 31, 31)]:
        byte = content[3073 + 1 + 1024 * channel + 32 * row + column]
        assert split.test[1][0][channel, row, column] == pytest.approx(byte / 255)


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin", "cifar-10/cifar-10-batches-bin"])
def test_unpacked_cifar10_is_accepted_by_its_structure(folder, home):
    write_cifar(home / folder)
    assert len(data.load("cifar10", root=home).test) == 4


def test_nothing_of_cifar10_is_read_through_pickle():
    assert "pickle" not in inspect.getsource(cifar10).replace("(no pickle)", "")


def put(folder, name, content):
    (folder / f"{name}.gz").write_bytes(gzip.compress(content))


IMAGES, LABELS = np.zeros((12, 28, 28)), np.zeros(12)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"\0\0\x0d\x03" + idx(IMAGES)[4:], "magic number is 3331, expected 2051"),
        ("train-images-idx3-ubyte", idx(LABELS), r"magic number is 2049, expected 2051"),
        ("train-images-idx3-ubyte", idx(np.zeros((12, 14, 56))), r"items of shape \(14, 56\), expected \(28, 28\)"),
        ("train-images-idx3-ubyte", idx(IMAGES)[:-1], "promises 9408 bytes of content, the file has only 9407"),
        ("train-images-idx3-ubyte", idx(IMAGES) + b"x", "promises 9408 bytes of content, the file has more"),
        ("train-images-idx3-ubyte", b"", "0 bytes are too few for an IDX header of 16"),
        ("train-images-idx3-ubyte", struct.pack(">4I", 2051, 2**32 - 1, 28, 28), "the file has only 0"),
        ("train-images-idx3-ubyte", idx(np.zeros((0, 28, 28))), "holds no items"),
        ("train-labels-idx1-ubyte", idx(np.full(12, 10)), "label 10 is outside 0 … 9"),
        ("train-labels-idx1-ubyte", idx(np.zeros(11)), "11 labels, but train-images-idx3-ubyte.gz has 12 images"),
    ],
)
def test_a_malformed_idx_file_is_named_with_the_reason(name, content, message, home):
    write_mnist(home)
    put(home, name, content)
    with pytest.raises(data.DataError, match=f"{name}.gz: .*({message})"):
        data.load("mnist", root=home)


@pytest.mark.parametrize(
    "content",
    [b"no gzip at all", gzip.compress(idx(IMAGES), mtime=0)[:-20], gzip.compress(b"", mtime=0)[:5]],
    ids=["no gzip", "cut short", "cut in its head"],
)
def test_a_damaged_gzip_file_is_named_with_the_reason(content, home):
    write_mnist(home)
    (home / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(data.DataError, match=r"train-images-idx3-ubyte\.gz: cannot be read \(.+\); damaged"):
        data.load("mnist", root=home)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(3072), "3072 bytes are not a whole number of records of 3073 bytes"),
        (b"", "0 bytes are not a whole number"),
        (bytes(3073) + b"\x0a" + bytes(3072), "record 1 has the label 10, outside 0 … 9"),
    ],
)
def test_a_malformed_cifar10_file_is_named_with_the_reason(content, message, home):
    write_cifar(home)
    (home / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(data.DataError, match=rf"data_batch_3\.bin: {message}"):
        data.load("cifar10", root=home)


def test_a_folder_that_may_not_be_looked_into_is_named(home):
    def closed(folder):
        raise PermissionError(13, "Permission denied")

    files = FileSet("pets", ("pets",), closed, lambda folder: iter(()))
    with pytest.raises(data.DataError, match=r"pets: cannot be looked into \(Permission denied\)"):
        files.find(home)


def test_a_file_that_cannot_be_read_is_named(home):
    write_mnist(home)
    shutil.rmtree(home / "cache", ignore_errors=True)
    path = home / "t10k-images-idx3-ubyte.gz"
    path.unlink()
    path.symlink_to(home / "loop")
    (home / "loop").symlink_to(path)
    with pytest.raises(data.DataError, match=r"t10k-images-idx3-ubyte\.gz: cannot be read"):
        read_idx(path, (28, 28))
