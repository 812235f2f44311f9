"""The shipped digits: the file, its card, its split."""

import hashlib
import re
import shutil

import numpy as np
import pytest

from minidl import data
from minidl.files import folder

HISTOGRAM = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # the UCI page's class distribution of the test file
FILE, CARD = folder("datasets") / "digits.npz", folder("datasets") / "digits.md"


def arrays():
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


def test_the_digits_have_the_published_class_histogram_over_both_parts():
    split = data.load("digits")
    assert (split.train.counts() + split.test.counts()).tolist() == HISTOGRAM


def test_the_split_is_1200_and_597_disjoint_images_that_cover_all():
    train, test = arrays()["train"], arrays()["test"]
    assert (len(train), len(test)) == (1200, 597)
    assert sorted([*train, *test]) == list(range(1797))


def test_each_class_is_within_one_image_of_its_share_of_the_training_part():
    share = np.array(HISTOGRAM) * 1200 / 1797
    assert (np.abs(data.load("digits").train.counts() - share) < 1).all()


def test_the_card_prints_the_test_indices_that_are_in_the_file():
    block = re.search(r"```\n([\d\s]+)```", CARD.read_text(encoding="utf-8"))
    assert [int(word) for word in block[1].split()] == arrays()["test"].tolist()


def test_the_card_prints_the_checksum_and_the_class_counts():
    card = CARD.read_text(encoding="utf-8")
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() in card
    for name, part in (("train", data.load("digits").train), ("test", data.load("digits").test)):
        assert f"| {name} | {len(part)} | " + " | ".join(map(str, part.counts())) + " |" in card


def test_mean_and_standard_deviation_of_the_card_are_those_of_the_training_images():
    file, split = arrays(), data.load("digits")
    pixels = file["images"][file["train"]] / 16
    assert f"{pixels.mean():.6f}" in CARD.read_text(encoding="utf-8")
    assert f"{pixels.std():.6f}" in CARD.read_text(encoding="utf-8")
    assert split.mean == pytest.approx([pixels.mean()], abs=1e-6)
    assert split.std == pytest.approx([pixels.std()], abs=1e-6)


def test_training_images_have_mean_0_and_variance_1():
    x = data.load("digits").train.x.astype(np.float64)
    assert x.mean() == pytest.approx(0, abs=1e-5)
    assert x.var() == pytest.approx(1, abs=1e-5)


def test_without_normalization_the_images_are_their_counts_over_16():
    file, split = arrays(), data.load("digits", normalize=False)
    x = file["images"][file["test"]][:, None] / 16
    assert split.test.x.dtype == np.float32
    np.testing.assert_array_equal(split.test.x, x)


def test_images_stay_uint8_in_memory():
    assert data.load("digits", val=0.2).train.raw.dtype == np.uint8


def test_the_digits_are_those_of_scikit_learn_in_the_same_order():
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    file = arrays()
    np.testing.assert_array_equal(file["images"], bunch.images)
    np.testing.assert_array_equal(file["labels"], bunch.target)


def test_the_script_makes_the_shipped_bytes(monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    script = shutil.copy(folder("datasets") / "make_digits.py", tmp_path)
    space = {"__name__": "made", "__file__": str(script)}
    exec(compile(tmp_path.joinpath("make_digits.py").read_text(encoding="utf-8"), script, "exec"), space)
    space["main"]()
    assert (tmp_path / "digits.npz").read_bytes() == FILE.read_bytes()


def test_a_changed_file_is_refused_with_its_name_and_the_reason(tmp_path):
    content = bytearray(FILE.read_bytes())
    content[5000] ^= 1
    (tmp_path / "digits.npz").write_bytes(content)
    with pytest.raises(data.DataError, match=r"digits\.npz: SHA-256 is .* expected b3996b2d5562"):
        data.load("digits", root=tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(data.DataError, match=r"digits\.npz: cannot be read"):
        data.load("digits", root=tmp_path)


def test_a_copy_elsewhere_is_found_by_root(tmp_path):
    shutil.copy(FILE, tmp_path)
    assert len(data.load("digits", root=str(tmp_path)).train) == 1200
