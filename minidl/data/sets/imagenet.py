"""ImageNet (ILSVRC 2012) in its folder layout: ``train/<wnid>/*.JPEG`` and ``val/<wnid>/*.JPEG``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minidl.data.check import checked_count
from minidl.data.errors import DataError
from minidl.data.fileset import Check, FileSet
from minidl.data.registry import Parts, register
from minidl.data.seeds import stream
from minidl.data.split import hold_out
from minidl.files import folder as shipped

if TYPE_CHECKING:
    from minidl.data.photos import Photos

__all__ = ["imagenet"]

ENDINGS = (".jpeg", ".jpg", ".png")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the training photographs, as everyone uses them


def _complete(folder: Path) -> bool:
    return (folder / "train").is_dir()


def _verify(folder: Path) -> Iterator[Check]:
    """Decode every photograph; what is unusual and yet readable is told as well."""
    from PIL import Image

    from minidl.data.photos import opened

    for part in ("train", "val"):
        for path in sorted((folder / part).glob("*/*")):
            if not _is_photograph(path):
                continue
            name = str(path.relative_to(folder))
            try:
                opened(path)
                with Image.open(path) as image:
                    yield Check(name, True, _unusual(path, str(image.format), image.mode))
            except DataError as error:
                yield Check(name, False, str(error))


def _is_photograph(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")  # nor a hidden one, as macOS leaves them


def _unusual(path: Path, file_format: str, mode: str) -> str:
    expected = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    said = [] if file_format == expected else [f"a {file_format} under the name of a {expected}"]
    said += [] if mode == "RGB" else [f"{mode} colours, read as RGB"]
    return ", ".join(said)


FILES = FileSet(
    "imagenet",
    ("imagenet", "imagenet-sample", "ILSVRC/Data/CLS-LOC", "ILSVRC2012"),
    _complete,
    _verify,
    by_hand="the folders train/<wnid>/*.JPEG and val/<wnid>/*.JPEG of ILSVRC 2012, which image-net.org gives to "
    "registered researchers; it may not be downloaded from elsewhere",
)


@register("imagenet", FILES)
def imagenet(
    root: Path | None = None,
    seed: int = 0,
    classes: int | str | Sequence[str] | None = None,
    per_class: int | None = None,
    test: float = 0,
    workers: int | None = None,
) -> Parts:
    """Photographs of 1 000 kinds of things, streamed as (3, 224, 224); see ``minidl.data.photos.Photos``.

    ``val/`` is the labelled hold-out of the challenge and becomes ``.test``; ``.val`` is split off ``train/`` like
    that of any other set. Without ``val/`` the test part is empty, unless ``test`` splits one off.

    Args:
        root: the folder with ``train/``, or a folder ``imagenet`` or ``imagenet-sample`` with it lies in.
        seed: names the draws of ``per_class`` and ``test``.
        classes: only these: the first so many, or a wnid or class name, or a list of them.
        per_class: at most so many photographs of each class, drawn by ``seed``, in either part.
        test: fraction or count of the training photographs for a test part, where there is no ``val/``.
        workers: threads that decode; None: one for each processor.

    Raises:
        DataError: no such folder, or a class without photographs.
        ValueError: unknown classes, a name of two of them, a count below 1, or ``test`` although there is a ``val/``.

    Source: O. Russakovsky et al. 2015, "ImageNet large scale visual recognition challenge".
    """
    if per_class is not None:
        checked_count("per_class", per_class)
    if workers is not None:
        checked_count("workers", workers)
    folder = FILES.get(root)
    wnids = _chosen(_class_folders(folder / "train"), classes)
    train = _photos(folder / "train", wnids, per_class, seed, workers)
    train.augment = True
    if not (folder / "val").is_dir():
        return Parts(*hold_out(train, test, seed, "test"), MEAN, STD)
    if test:
        raise ValueError(f"test={test}: {folder / 'val'} is the test part already; leave test= out")
    return Parts(train, _photos(folder / "val", wnids, per_class, seed, workers), MEAN, STD)


def _class_folders(folder: Path) -> list[str]:
    """The names of the class folders, sorted: their order gives the class numbers."""
    try:
        found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error
    if not found:
        raise DataError(f"{folder}: has no class folders; expected {folder.name}/<wnid>/*.JPEG")
    return found


def _chosen(wnids: list[str], classes: int | str | Sequence[str] | None) -> list[str]:
    """The wnids that ``classes`` asks for, in the order of the folder."""
    if classes is None:
        return wnids
    if isinstance(classes, str):
        classes = [classes]
    if not isinstance(classes, Sequence):
        if checked_count("classes", classes) > len(wnids):
            raise ValueError(f"classes={classes}: this folder has {len(wnids)} classes")
        return wnids[:classes]
    if len(classes) == 0:
        raise ValueError("classes is empty: leave it out for all classes, or name some")
    names = class_names()
    return sorted({_meant(wanted, wnids, names) for wanted in classes})


def _meant(wanted: str, wnids: list[str], names: dict[str, str]) -> str:
    """The wnid of a wnid or class name. Two names have two wnids each: "crane" is a bird and a machine."""
    found = [wnid for wnid in wnids if wanted in (wnid, names.get(wnid))]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"class {wanted!r} is the name of {' and of '.join(found)}; pass the wnid that you mean")
    known = {*wnids, *(names[wnid] for wnid in wnids if wnid in names)}
    near = " or ".join(map(repr, get_close_matches(str(wanted), sorted(known))))  # all of them would fill pages
    hint = f"did you mean {near}?" if near else "pass wnids or names of datasets/imagenet_classes.txt"
    raise ValueError(f"unknown class {wanted!r}; {hint} ({len(wnids)} classes are in this folder)")


def class_names() -> dict[str, str]:
    """wnid → class name, for the 1 000 classes of the challenge (``datasets/imagenet_classes.txt``)."""
    lines = (shipped("datasets") / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return dict((line[:9], line[10:]) for line in lines)


def _photos(folder: Path, wnids: list[str], per_class: int | None, seed: int, workers: int | None) -> Photos:
    """The photographs of these classes in one part's folder."""
    from minidl.data.photos import Photos

    files: list[str] = []
    counts = []
    for number, wnid in enumerate(wnids):
        found = _files(folder / wnid)
        if per_class is not None and per_class < len(found):
            drawn = stream(seed, f"per_class {folder.name}", number).permutation(len(found))[:per_class]
            found = [found[i] for i in np.sort(drawn)]
        files += [f"{wnid}/{name}" for name in found]
        counts.append(len(found))
    names = class_names()
    labels = np.repeat(np.arange(len(wnids)), counts)
    return Photos(folder, files, labels, tuple(names.get(wnid, wnid) for wnid in wnids), workers=workers)


def _files(folder: Path) -> list[str]:
    """The photographs in a class folder, sorted."""
    try:
        names = [path.name for path in folder.iterdir() if _is_photograph(path)]
    except OSError as error:
        layout = f"expected {folder.parent.name}/<wnid>/*.JPEG for every class of train/"
        raise DataError(f"{folder}: cannot be read ({error.strerror or error}); {layout}") from error
    if not names:
        raise DataError(f"{folder}: a class without photographs (*.JPEG)")
    return sorted(names)
