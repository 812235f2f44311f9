"""What every data set promises: three parts, standardized float32, a test part that nothing depends on."""

import numpy as np
import pytest

from minidl import data
from minidl.data.dataset import moments
from minidl.data.registry import entry
from minidl.data.split import hold_out, quotas

#: Every set that is generated or comes with minidl, but the one whose images take seconds (test_data_shapes.py).
SMALL = [name for name in data.names() if entry(name).files is None and name != "shapes"]
POINTS = [name for name in SMALL if name != "digits"]


def images(n=60, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 2, 4, 5), dtype=np.uint8), np.arange(n) % classes


@pytest.mark.parametrize("name", SMALL)
def test_parts_are_standardized_float32_with_int64_labels(name):
    split = data.load(name, val=0.25)
    for part in (split.train, split.val, split.test):
        x, y = part[:10]
        assert (x.dtype, y.dtype, len(x), len(y)) == (np.float32, np.int64, 10, 10)
        assert set(y) <= set(range(len(part.classes)))
        assert part.x.dtype == np.float32 and np.isfinite(part.x).all()


@pytest.mark.parametrize("name", SMALL)
def test_training_data_have_mean_0_and_standard_deviation_1_per_channel_or_feature(name):
    x = data.load(name).train.x.astype(np.float64)
    axes = (0, *range(2, x.ndim))
    np.testing.assert_allclose(x.mean(axis=axes), 0, atol=2e-6)
    np.testing.assert_allclose(x.std(axis=axes), 1, atol=2e-6)


@pytest.mark.parametrize("name", SMALL)
def test_the_same_seed_gives_the_same_data_and_the_global_generator_is_left_alone(name):
    before = np.random.get_state()[1].copy()
    a, b = (data.load(name, val=0.1, seed=5) for _ in range(2))
    np.testing.assert_array_equal(a.val.x, b.val.x)
    np.testing.assert_array_equal(a.train.x, b.train.x)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("name", SMALL)
def test_validation_data_leave_the_training_part_and_nothing_else_changes(name):
    with_val, without = data.load(name, val=0.2, seed=1), data.load(name, seed=1)
    both = np.concatenate([with_val.train.x, with_val.val.x]).reshape(len(without.train), -1)
    order = np.lexsort(both.T)
    plain = without.train.x.reshape(len(both), -1)
    np.testing.assert_array_equal(both[order], plain[np.lexsort(plain.T)])
    np.testing.assert_array_equal(with_val.test.x, without.test.x)


def test_without_val_the_validation_part_is_empty_but_has_the_right_shape():
    val = data.load("digits").val
    assert len(val) == 0 and val.x.shape == (0, 1, 8, 8) and val.y.shape == (0,)


def test_a_validation_fraction_is_stratified_within_one_image_per_class():
    train, val = (getattr(data.load("digits", val=0.25), part).counts() for part in ("train", "val"))
    assert val.sum() == 300
    assert (np.abs(val - (train + val) * 0.25) < 1).all()


def test_another_seed_holds_out_other_images():
    a, b = data.load("digits", val=100, seed=0).val, data.load("digits", val=100, seed=1).val
    assert len(a) == len(b) == 100
    assert not np.array_equal(a.x, b.x)


def test_test_images_and_labels_have_no_influence_on_anything_else():
    x, y = images()
    other_x, other_y = images(seed=9)
    a = data.from_arrays(x, y, test=(x[:30], y[:30]), val=0.2)
    b = data.from_arrays(x, y, test=(other_x[:30], other_y[:30][::-1]), val=0.2)
    assert not np.array_equal(a.test.x, b.test.x)
    for part in ("train", "val"):
        np.testing.assert_array_equal(getattr(a, part).x, getattr(b, part).x)
        np.testing.assert_array_equal(getattr(a, part).y, getattr(b, part).y)
    np.testing.assert_array_equal(a.mean, b.mean)


@pytest.mark.parametrize("name", POINTS)
def test_more_test_points_change_no_training_point(name):
    np.testing.assert_array_equal(data.load(name, test=6).train.x, data.load(name, test=600).train.x)


def test_largest_remainders_get_the_places_left_and_ties_go_to_the_smaller_class():
    assert quotas(np.array([10, 10, 10]), 10).tolist() == [4, 3, 3]
    assert quotas(np.array([6, 3, 1]), 5).tolist() == [3, 2, 0]  # shares 3, 1.5, 0.5: the tie goes to class 1


def test_a_class_with_one_example_keeps_it_for_training_and_that_is_said():
    dataset = data.Dataset(images(5)[0], [0, 0, 0, 1, 2])
    with pytest.warns(UserWarning, match="2 of 4 examples were drawn; 2 classes have a single example"):
        rest, held = hold_out(dataset, 4, seed=0)
    assert rest.counts().tolist() == [1, 1, 1] and held.counts().tolist() == [2, 0, 0]


def test_an_index_gives_one_example_a_slice_a_list_or_a_mask_a_batch():
    part = data.load("digits").train
    x, y = part[3]
    assert x.shape == (1, 8, 8) and y == part.y[3]
    mask = np.zeros(len(part), dtype=bool)
    mask[[2, 5]] = True
    for index in ([2, 5], (2, 5), np.array([2, 5]), mask, slice(2, 6, 3)):
        np.testing.assert_array_equal(part[index][0], part.x[[2, 5]])
        np.testing.assert_array_equal(part[index][1], part.y[[2, 5]])
    np.testing.assert_array_equal(part[-1][0], part.x[-1])
    with pytest.raises(IndexError):
        part[1200]


def test_no_index_gives_no_example():
    x, y = data.load("digits").train[[]]
    assert x.shape == (0, 1, 8, 8) and x.dtype == np.float32 and y.shape == (0,)


def test_iterating_over_a_part_gives_its_examples_in_order():
    part = data.load("moons", train=20).train
    pairs = list(part)
    np.testing.assert_array_equal(np.stack([x for x, _ in pairs]), part.x)
    assert [y for _, y in pairs] == part.y.tolist()


def test_standardization_matches_the_formula_in_float64():
    x, y = images()
    split = data.from_arrays(x, y, test=(x, y))
    exact = x / 255
    exact = (exact - exact.mean(axis=(0, 2, 3), keepdims=True)) / exact.std(axis=(0, 2, 3), keepdims=True)
    np.testing.assert_allclose(split.train.x, exact, atol=1e-6)


def test_a_large_mean_does_not_cost_the_digits_of_a_small_spread():
    x = (1e4 + np.random.default_rng(0).normal(size=(500, 3))).astype(np.float32)
    split = data.from_arrays(x, np.arange(500) % 2, test=(x[:2], [0, 1]))
    exact = (x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)) / x.std(axis=0, dtype=np.float64)
    np.testing.assert_allclose(split.train.x, exact, atol=1e-3)


def test_a_constant_feature_is_read_as_zero_not_as_nan():
    x = np.ones((10, 2), np.float32)
    x[:, 1] = np.arange(10)
    split = data.from_arrays(x, np.arange(10) % 2, test=2)
    assert (split.train.x[:, 0] == 0).all()


def test_moments_over_blocks_equal_numpy_over_everything():
    x = np.random.default_rng(0).normal(size=(2500, 3)).astype(np.float32)
    mean, std = moments(data.Dataset(x, np.zeros(2500, int)))
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(std, x.std(axis=0, dtype=np.float64), rtol=1e-12)


def test_class_names_come_with_the_parts():
    x, y = images()
    split = data.from_arrays(x, y, classes=("cat", "dog", "elk"))
    assert split.classes == split.test.classes == ("cat", "dog", "elk")


def test_arrays_of_ones_own_split_into_disjoint_stratified_parts():
    x, y = images()
    split = data.from_arrays(x, y, test=0.2, val=12, seed=3)
    assert [len(split.train), len(split.val), len(split.test)] == [36, 12, 12]
    assert split.test.counts().tolist() == split.val.counts().tolist() == [4, 4, 4]
    raw = np.concatenate([split.train.raw, split.val.raw, split.test.raw]).reshape(60, -1)
    assert len(np.unique(raw, axis=0)) == 60


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (np.zeros((3, 1, 2, 2)), [0, 1, 1], TypeError, r'type float64.*x\.astype\("float32"\)'),
        (np.zeros((3, 1, 2, 2), np.int64), [0, 1, 1], TypeError, r'type int64.*x\.astype\("uint8"\)'),
        (np.zeros((3, 1, 2, 2), bool), [0, 1, 1], TypeError, "type bool, expected uint8 or float32"),
        (np.zeros((3, 2, 2), np.uint8), [0, 1, 1], ValueError, r"shape \(3, 2, 2\).*x\[:, None\]"),
        (np.zeros(3, np.uint8), [0, 1, 1], ValueError, r"shape \(3,\); expected images \(N, C, H, W\)"),
        (np.zeros((3, 0), np.uint8), [0, 1, 1], ValueError, "without any value"),
        (np.zeros((3, 2), np.uint8), [0, 1], ValueError, "3 images but 2 labels"),
        (np.zeros((3, 2), np.uint8), [0.0, 1.0, 1.0], TypeError, r"labels have type float64.*int64"),
        (np.zeros((3, 2), np.uint8), ["a", "b", "b"], TypeError, "labels have type <U1, expected whole numbers"),
        (np.zeros((3, 2), np.uint8), [0, -1, 1], ValueError, r"label -1 at position 1 is outside 0 … 1"),
        (np.zeros((3, 2), np.uint8), np.eye(3, dtype=int), ValueError, "one class number an example, not one-hot"),
        ([[1, 2], [3]], [0, 1], ValueError, "inhomogeneous"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_the_cure(x, y, error, message):
    with pytest.raises(error, match=message):
        data.Dataset(x, y)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_in_images_are_refused_with_their_place(value):
    x = np.zeros((3, 1, 2, 2), np.float32)
    x[1, 0, 1, 0] = value
    with pytest.raises(ValueError, match=r"1 values that are NaN or infinite, the first at \(1, 0, 1, 0\)"):
        data.Dataset(x, [0, 1, 1])


def test_a_label_beyond_the_class_names_is_refused():
    with pytest.raises(ValueError, match=r"label 2 at position 2 is outside 0 … 1 \(20 of 60 labels are\)"):
        data.Dataset(*images(), classes=["cat", "dog"])


@pytest.mark.parametrize(
    ("val", "error", "message"),
    [
        (-0.1, ValueError, "must lie between 0 and 1"),
        (1.0, ValueError, "must lie between 0 and 1"),
        (float("nan"), ValueError, "must lie between 0 and 1"),
        (-3, ValueError, "at least 0"),
        (1200, ValueError, "leave some of the 1200 examples"),
        (1e-6, ValueError, "less than one example"),
        ("0.1", TypeError, "not a number"),
        (True, TypeError, "not a number"),
    ],
)
def test_a_validation_amount_out_of_range_is_refused(val, error, message):
    with pytest.raises(error, match=message):
        data.load("digits", val=val)


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (0.5, TypeError), (None, TypeError), (True, TypeError)])
def test_a_seed_must_be_a_whole_number_from_zero(seed, error):
    with pytest.raises(error, match="seed"):
        data.load("digits", seed=seed)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown data set 'digit'; did you mean 'digits'"):
        data.load("digit")


def test_an_unknown_option_names_those_there_are():
    with pytest.raises(ValueError, match=r"unknown option.*'noize'; did you mean 'noise'"):
        data.load("spirals", noize=0.1)
    with pytest.raises(ValueError, match="unknown option of the data set 'digits'"):
        data.load("digits", noise=0.1)


def test_test_examples_of_another_shape_are_refused():
    x, y = images()
    with pytest.raises(ValueError, match=r"shape \(2, 4, 5\), test examples \(2, 4, 4\)"):
        data.from_arrays(x, y, test=(x[..., :4], y))


def test_a_set_is_added_by_one_registered_function():
    @data.register("two points")
    def two_points():
        part = data.Dataset(np.array([[0.0], [2.0]], np.float32), [0, 1])
        return data.Parts(part, part)

    try:
        assert data.load("two points").train.x.tolist() == [[-1.0], [1.0]]
    finally:
        from minidl.data import registry

        del registry._SETS["two points"]
