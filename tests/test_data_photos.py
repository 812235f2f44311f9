"""ImageNet's folders: found, streamed, decoded alike whatever the threads, refused clearly when damaged."""

import os
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidl import data
from minidl.data.photos import Photos, centre_view, opened, random_view
from minidl.data.sets.imagenet import class_names

GOLDFISH, TENCH, SHARK = "n01443537", "n01440764", "n01484850"


def photo(path, size=(300, 260), mode="RGB", seed=0, **options):
    """A smooth random photograph, so that resampling differs little between methods."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": 1, "RGB": 3, "CMYK": 4, "RGBA": 4}[mode]
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, channels), dtype=np.uint8)
    image = Image.fromarray(coarse.squeeze(), mode) if channels == 1 else Image.fromarray(coarse, mode)
    image.resize(size, Image.Resampling.BICUBIC).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Three classes of 4, 3 and 1 training photographs, and a hold-out of one each."""
    for wnid, count in ((TENCH, 4), (GOLDFISH, 3), (SHARK, 1)):
        for i in range(count):
            photo(tmp_path / "train" / wnid / f"{wnid}_{i}.JPEG", seed=i + 10 * count)
        photo(tmp_path / "val" / wnid / "ILSVRC2012_val_1.JPEG", seed=99 + count)
    return tmp_path


def test_the_real_photographs_all_stream_as_3_224_224_grey_ones_included():
    if not os.environ.get("MINIDL_DATA") or data.registry.entry("imagenet").files.find() is None:
        pytest.skip("needs MINIDL_DATA with imagenet")
    train = data.load("imagenet").train
    files = sum(len(list(folder.iterdir())) for folder in train.folder.iterdir())
    batches = list(data.DataLoader(train, 16))
    assert sum(len(y) for _, y in batches) == files == len(train)
    assert all(x.shape[1:] == (3, 224, 224) and x.dtype == np.float32 and np.isfinite(x).all() for x, _ in batches)
    grey = [i for i in range(len(train)) if Image.open(train.folder / train.files[i]).mode == "L"]
    x, _ = train.standardized([0, 0, 0], [1, 1, 1])[grey]
    np.testing.assert_array_equal(x[:, 0], x[:, 1])


def test_train_val_and_test_come_from_train_and_val_folders(folder):
    with pytest.warns(UserWarning, match="1 classes have a single example, which stays in train"):
        split = data.load("imagenet", root=folder, val=2)
    assert [len(split.train), len(split.val), len(split.test)] == [6, 2, 3]
    assert split.train.counts().tolist() == [3, 2, 1] and split.val.counts().tolist() == [1, 1, 0]
    assert not set(split.train.files) & set(split.val.files)


def test_classes_are_numbered_by_wnid_and_named(folder):
    split = data.load("imagenet", root=folder)
    assert split.classes == ("tench", "goldfish", "great white shark")
    assert split.train.files[-1] == f"{SHARK}/{SHARK}_0.JPEG" and split.train.y[-1] == 2


def test_the_thousand_class_names_are_sorted_by_wnid():
    names = class_names()
    assert len(names) == 1000 and list(names) == sorted(names)
    assert names["n02123045"] == "tabby" and names["n15075141"] == "toilet tissue"


@pytest.mark.parametrize("name", ["imagenet", "imagenet-sample"])
def test_the_folder_may_have_either_name(name, folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    (place / name).symlink_to(folder, target_is_directory=True)
    assert len(data.load("imagenet", root=place).train) == 8


def test_without_val_the_test_part_is_empty_unless_a_fraction_is_asked_for(folder):
    (folder / "val").rename(folder / "elsewhere")
    assert len(data.load("imagenet", root=folder).test) == 0
    with pytest.warns(UserWarning, match="stays in train"):
        split = data.load("imagenet", root=folder, test=0.25)
    assert len(split.test) == 2 and len(split.train) == 6


def test_a_fraction_for_the_test_beside_a_val_folder_is_refused(folder):
    with pytest.raises(ValueError, match=r"test=0.2: .*val is the test part already"):
        data.load("imagenet", root=folder, test=0.2)


def test_classes_can_be_chosen_by_number_wnid_or_name(folder):
    for two in (2, np.int64(2)):
        assert data.load("imagenet", root=folder, classes=two).classes == ("tench", "goldfish")
    assert data.load("imagenet", root=folder, classes="goldfish").classes == ("goldfish",)
    chosen = data.load("imagenet", root=folder, classes=["goldfish", SHARK])
    assert chosen.classes == ("goldfish", "great white shark")
    assert chosen.train.counts().tolist() == [3, 1] and chosen.test.counts().tolist() == [1, 1]


def test_a_name_that_two_classes_have_is_refused_and_the_wnid_is_not(folder):
    cranes = "n02012849", "n03126707"  # a bird and a machine
    for wnid in cranes:
        photo(folder / "train" / wnid / "1.JPEG")
        photo(folder / "val" / wnid / "1.JPEG")
    with pytest.raises(ValueError, match="'crane' is the name of n02012849 and of n03126707; pass the wnid"):
        data.load("imagenet", root=folder, classes="crane")
    split = data.load("imagenet", root=folder, classes=cranes[0])
    assert split.classes == ("crane",) and split.train.files == [f"{cranes[0]}/1.JPEG"]


def test_folders_without_a_class_name_are_counted_too(folder):
    for name in ("apples", "pears"):
        photo(folder / "train" / name / "1.JPEG")
    with pytest.raises(ValueError, match="did you mean 'apples'.*5 classes are in this folder"):
        data.load("imagenet", root=folder, classes="apple")


def test_a_number_per_class_limits_each_class_by_seed(folder):
    a, b = (data.load("imagenet", root=folder, per_class=2, seed=s).train for s in (0, 1))
    assert a.counts().tolist() == b.counts().tolist() == [2, 2, 1]
    assert a.files != b.files
    assert a.files == data.load("imagenet", root=folder, per_class=2, seed=0).train.files


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["goldfisch"]}, "unknown class 'goldfisch'; did you mean 'goldfish'"),
        ({"classes": ["Goldfish", 1]}, "unknown class 'Goldfish'; did you mean 'goldfish'"),
        ({"classes": [0, 1]}, "unknown class 0; pass wnids or names of .* \\(3 classes are in this folder\\)"),
        ({"classes": 4}, "classes=4: this folder has 3 classes"),
        ({"classes": 0}, "classes=0: expected a whole number ≥ 1"),
        ({"classes": 2.0}, "classes=2.0: expected a whole number ≥ 1"),
        ({"classes": []}, "classes is empty: leave it out for all classes"),
        ({"per_class": 0}, "per_class=0: expected a whole number ≥ 1"),
        ({"per_class": 2.5}, "per_class=2.5: expected a whole number ≥ 1"),
        ({"workers": -1}, "workers=-1: expected a whole number ≥ 1"),
    ],
)
def test_a_subset_that_cannot_be_is_refused(options, message, folder):
    with pytest.raises(ValueError, match=message):
        data.load("imagenet", root=folder, **options)


def test_photographs_are_standardized_with_the_published_numbers(folder):
    split, plain = data.load("imagenet", root=folder), data.load("imagenet", root=folder, normalize=False)
    x, y = split.test[:]
    raw, _ = plain.test[:]
    assert x.dtype == np.float32 and y.tolist() == [0, 1, 2]
    assert raw.min() >= 0 and raw.max() <= 1
    mean, std = (np.array(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    np.testing.assert_allclose(x, (raw - mean) / std, atol=1e-5)


def test_channels_rows_and_columns_of_a_photograph_keep_their_places(folder):
    train = data.load("imagenet", root=folder, normalize=False).train
    pixels = np.asarray(centre_view(opened(folder / "train" / train.files[0])))
    np.testing.assert_allclose(train[0][0], pixels.transpose(2, 0, 1) / 255, atol=1e-6)


def test_the_evaluation_view_is_resize_256_and_centre_crop_224():
    rng = np.random.default_rng(0)
    for width, height in ((320, 512), (400, 256), (700, 300)):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        scale = 256 / min(width, height)
        resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
        two_steps = np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype=float)
        assert np.abs(np.asarray(centre_view(image), dtype=float) - two_steps).mean() < 1.5  # grey levels of 255


def test_training_views_differ_within_the_limits_of_area_and_ratio(monkeypatch):
    image = Image.new("RGB", (500, 400))
    boxes = []
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *_, box: boxes.append(box) or self)
    for seed in range(300):
        random_view(image, np.random.default_rng(seed))
    left, top, right, bottom = np.array(boxes).T
    w, h = right - left, bottom - top
    assert (left >= 0).all() and (right <= 500 + 1e-9).all() and (top >= 0).all() and (bottom <= 400 + 1e-9).all()
    area, ratio = w * h / (500 * 400), w / h
    assert (area > 0.08 - 1e-9).all() and (area < 1 + 1e-9).all()
    assert (ratio > 3 / 4 - 1e-9).all() and (ratio < 4 / 3 + 1e-9).all()
    assert np.std(area) > 0.05 and ratio.min() < 0.85 and ratio.max() > 1.2


def test_half_of_the_training_views_are_mirrored(monkeypatch):
    ramp = Image.fromarray(np.tile(np.arange(224, dtype=np.uint8), (224, 1))).convert("RGB")
    views = [np.asarray(random_view(ramp, np.random.default_rng(seed))) for seed in range(400)]
    mirrored = sum(int(view[0, 0, 0]) > int(view[0, -1, 0]) for view in views)
    assert 140 < mirrored < 260  # 6 standard deviations of a fair coin


def test_a_long_strip_falls_back_to_its_largest_central_square():
    strip = Image.fromarray(np.tile(np.arange(0, 250, dtype=np.uint8)[:, None], (1, 2)).repeat(8, axis=0)).convert(
        "RGB"
    )
    assert random_view(strip, np.random.default_rng(0)).size == (224, 224)


def epochs(folder, workers, seed=0, count=2):
    train = data.load("imagenet", root=folder, workers=workers).train
    loader = data.DataLoader(train, 3, shuffle=True, seed=seed)
    return [(x, y) for _ in range(count) for x, y in loader]


def test_batches_are_the_same_whatever_the_number_of_workers(folder):
    for (x, y), (x2, y2) in zip(epochs(folder, 1), epochs(folder, 5), strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)


def test_training_views_change_with_epoch_and_seed_and_a_slice_is_always_the_evaluation_view(folder):
    train = data.load("imagenet", root=folder).train
    loaders = [data.DataLoader(train, 8, seed=s) for s in (0, 1)]
    first, again = next(iter(loaders[0]))[0], next(iter(loaders[0]))[0]
    other = next(iter(loaders[1]))[0]
    assert not np.array_equal(first, again) and not np.array_equal(first, other)
    np.testing.assert_array_equal(train[:8][0], train.held_out()[:8][0])


def test_validation_and_test_photographs_are_never_varied(folder):
    with pytest.warns(UserWarning):
        split = data.load("imagenet", root=folder, val=2)
    for part in (split.val, split.test):
        x, _ = next(iter(data.DataLoader(part, len(part), seed=5)))
        np.testing.assert_array_equal(x, part[:][0])


def test_a_restored_loader_streams_the_rest_bit_for_bit(folder):
    train = data.load("imagenet", root=folder).train
    loader = data.DataLoader(train, 3, shuffle=True, seed=4)
    iterator = iter(loader)
    next(iterator)
    state, rest = loader.state_dict(), list(iterator)
    other = data.DataLoader(train, 3, shuffle=True, seed=4)
    other.load_state_dict(state)
    for (x, y), (x2, y2) in zip(rest, other, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)


def test_four_batches_at_most_are_in_memory(folder, monkeypatch):
    batches, alive = [], []
    start = Photos._start

    def counted(*arguments):
        started = start(*arguments)
        batches.append(weakref.ref(started[0]))
        alive.append(sum(batch() is not None for batch in batches))
        return started

    monkeypatch.setattr(Photos, "_start", counted)
    for _ in data.DataLoader(data.load("imagenet", root=folder).train, 1):
        pass
    assert max(alive) <= 4 and len(alive) == 8


def test_decoding_runs_at_most_two_batches_ahead(folder, monkeypatch):
    decoded = []
    monkeypatch.setattr("minidl.data.photos.opened", lambda path: decoded.append(path) or opened(path))
    iterator = iter(data.DataLoader(data.load("imagenet", root=folder, workers=1).train, 1))
    next(iterator)
    threading.Event().wait(0.5)
    assert len(decoded) <= 3
    iterator.close()


def test_a_loop_that_is_left_early_ends_its_threads(folder):
    for x, _ in data.DataLoader(data.load("imagenet", root=folder, workers=3).train, 2):
        assert len(x) == 2
        break
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("photos")]


def test_there_is_no_x_of_a_streamed_part(folder):
    train = data.load("imagenet", root=folder).train
    with pytest.raises(AttributeError, match=r"streamed and have no \.x"):
        train.x  # noqa: B018
    assert not hasattr(train, "x")


def test_an_index_a_list_and_a_mask_give_the_same_photograph(folder):
    train = data.load("imagenet", root=folder).train
    x, y = train[5]
    mask = np.arange(8) == 5
    assert train[[]][0].shape == (0, 3, 224, 224)
    for index in ([5], (5,), mask, slice(5, 6), np.array([-3])):
        np.testing.assert_array_equal(train[index][0][0], x)
        assert train[index][1].tolist() == [y]


@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        ("L", "grey.JPEG", {}),
        ("CMYK", "cmyk.JPEG", {"format": "JPEG"}),
        ("RGB", "png.JPEG", {"format": "PNG"}),
        ("RGBA", "alpha.JPEG", {"format": "PNG"}),
    ],
)
def test_what_the_official_files_also_hold_is_read_as_rgb(mode, name, options, tmp_path):
    photo(tmp_path / name, mode=mode, **options)
    assert opened(tmp_path / name).mode == "RGB"


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\xff\xd8\xff\xe0" + bytes(50), b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(30)]
)
def test_a_damaged_photograph_is_named_with_the_reason(content, folder):
    (folder / "train" / SHARK / f"{SHARK}_0.JPEG").write_bytes(content)
    loader = data.DataLoader(data.load("imagenet", root=folder).train, 4)
    with pytest.raises(data.DataError, match=rf"{SHARK}_0\.JPEG: cannot be decoded \(.+\)"):
        list(loader)


def test_a_truncated_photograph_is_named_with_the_reason(folder):
    path = folder / "train" / TENCH / f"{TENCH}_0.JPEG"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(data.DataError, match=rf"{TENCH}_0\.JPEG: cannot be decoded \(.*truncated"):
        data.load("imagenet", root=folder).train[0]


def test_a_class_without_photographs_and_a_folder_without_classes_are_named(folder, tmp_path_factory):
    (folder / "train" / "n99999999").mkdir()
    with pytest.raises(data.DataError, match="n99999999: a class without photographs"):
        data.load("imagenet", root=folder)
    empty = tmp_path_factory.mktemp("empty")
    (empty / "train").mkdir()
    with pytest.raises(data.DataError, match="train: has no class folders"):
        data.load("imagenet", root=empty)


def test_a_class_missing_in_val_is_named(folder):
    (folder / "val" / SHARK).rename(folder / "gone")
    with pytest.raises(data.DataError, match=rf"val.{SHARK}: cannot be read .*; expected val/<wnid>/\*\.JPEG"):
        data.load("imagenet", root=folder)


def test_a_train_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(data.DataError, match=r"train: cannot be read \(Permission denied\)"):
        data.load("imagenet", root=folder)


def test_imagenet_that_is_nowhere_says_what_to_place_where(tmp_path, monkeypatch):
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setattr("minidl.files.user_cache", lambda: tmp_path / "cache")
    with pytest.raises(data.DataError, match=r"imagenet: not found\. Place by hand in .*train/<wnid>/\*\.JPEG"):
        data.load("imagenet", root=tmp_path)


def test_hidden_and_other_files_are_passed_over(folder):
    (folder / "train" / TENCH / ".DS_Store").write_bytes(b"x")
    (folder / "train" / TENCH / "._n.JPEG").write_bytes(b"x")
    (folder / "train" / TENCH / "notes.txt").write_bytes(b"x")
    assert isinstance(part := data.load("imagenet", root=folder).train, Photos) and len(part) == 8
    assert all(check.ok for check in data.registry.entry("imagenet").files.verify(folder))
