"""MNIST and Fashion-MNIST: 60 000 + 10 000 grey images of 28 × 28 pixels, in four IDX files each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from minidl.data.dataset import Dataset
from minidl.data.download import RemoteFile, checksum_fault
from minidl.data.errors import DataError
from minidl.data.fileset import Check, FileSet
from minidl.data.idx import read_idx
from minidl.data.registry import Parts, register

__all__ = ["fashion_mnist", "mnist"]

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",  # torchvision
    "https://storage.googleapis.com/cvdf-datasets/mnist/",  # TensorFlow Datasets
    "http://yann.lecun.com/exdb/mnist/",  # the original place, often closed
)
FASHION_MIRRORS = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",  # Keras
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",  # its authors; torchvision
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",  # its authors' repository
)
# Name, size, MD5 and SHA-256 as torchvision and TensorFlow Datasets publish them.
MNIST_FILES = tuple(
    RemoteFile(*row, mirrors=MNIST_MIRRORS)
    for row in (
        (
            "train-images-idx3-ubyte.gz",
            9912422,
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            28881,
            "d53e105ee54ea40749a09fcbcd1e9432",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            1648877,
            "9fb629c4189551a2d022fa330f9573f3",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            4542,
            "ec29112dd5afa0611ce80d1b7f02629c",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    )
)
FASHION_FILES = tuple(
    RemoteFile(*row, mirrors=FASHION_MIRRORS)
    for row in (
        (
            "train-images-idx3-ubyte.gz",
            26421880,
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            29515,
            "25c81989df183df01b3e8a0aad5dffbe",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            4422102,
            "bef4ecab320f06d8554ea6380940ec79",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            5148,
            "bb300cfdad3c16e7a12a480ee83cd310",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    )
)
DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def _complete(folder: Path) -> bool:
    return all(_path(folder, file.name) is not None for file in MNIST_FILES)


def _path(folder: Path, name: str) -> Path | None:
    """The compressed file or the unpacked one, whichever is there."""
    candidates = (folder / name, folder / name.removesuffix(".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _verified(files: tuple[RemoteFile, ...], folder: Path) -> Iterator[Check]:
    """Compressed files by their checksums, unpacked ones by their structure."""
    for file in files:
        path = _path(folder, file.name)
        assert path is not None, "the folder was found to be complete"
        if path.suffix == ".gz":
            fault = checksum_fault(path, file)
            yield Check(path.name, fault is None, fault or "the published file (size, MD5, SHA-256)")
            continue
        try:
            items = read_idx(path, (28, 28) if "images" in path.name else ())
            yield Check(path.name, True, f"readable, {len(items)} items; unpacked, so without a checksum")
        except DataError as error:
            yield Check(path.name, False, str(error))


MNIST = FileSet(
    "mnist", ("mnist", "MNIST/raw", "MNIST"), _complete, partial(_verified, MNIST_FILES), downloads=MNIST_FILES
)
FASHION = FileSet(
    "fashion-mnist",
    ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion_mnist"),
    _complete,
    partial(_verified, FASHION_FILES),
    downloads=FASHION_FILES,
)


@register("mnist", MNIST)
def mnist(root: Path | None = None) -> Parts:
    """Handwritten digits of 28 × 28 pixels, 60 000 for training and 10 000 for the test, uint8 (N, 1, 28, 28).

    Args:
        root: a folder that holds the four files, or a folder ``mnist`` (or torchvision's ``MNIST/raw``) with them.

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner 1998, "Gradient-based learning applied to document recognition".
    """
    return _parts(MNIST.get(root), DIGITS, FASHION_FILES, 0.1307, 0.3081)


@register("fashion-mnist", FASHION)
def fashion_mnist(root: Path | None = None) -> Parts:
    """Photographs of clothes in the format of MNIST, ten classes, harder than the digits.

    Args:
        root: a folder that holds the four files, or a folder ``fashion-mnist`` (or torchvision's
            ``FashionMNIST/raw``) with them.

    Source: H. Xiao, K. Rasul, R. Vollgraf 2017, "Fashion-MNIST", arXiv:1708.07747.
    """
    return _parts(FASHION.get(root), CLOTHES, MNIST_FILES, 0.2860, 0.3530)


def _parts(folder: Path, classes: tuple[str, ...], others: tuple[RemoteFile, ...], mean: float, std: float) -> Parts:
    """Both parts from the four files; ``others`` are the files of the sibling set, which have the same names."""
    for file in others:
        path = folder / file.name
        if "labels" in file.name and path.is_file() and checksum_fault(path, file) is None:
            raise DataError(f"{path}: this is the file of the sibling set of the same format, not of this one")
    return Parts(_part(folder, "train", classes), _part(folder, "t10k", classes), [mean], [std])


def _part(folder: Path, prefix: str, classes: tuple[str, ...]) -> Dataset:
    images_path = _path(folder, f"{prefix}-images-idx3-ubyte.gz")
    labels_path = _path(folder, f"{prefix}-labels-idx1-ubyte.gz")
    assert images_path and labels_path, "the folder was found to be complete"
    images, labels = read_idx(images_path, (28, 28)), read_idx(labels_path, ())
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: {len(labels)} labels, but {images_path.name} has {len(images)} images")
    if labels.max() >= len(classes):
        raise DataError(f"{labels_path}: label {labels.max()} is outside 0 … {len(classes) - 1}")
    return Dataset(images[:, None], labels, classes)
