"""The rendered shapes: are they what their labels say?"""

import numpy as np
import pytest

from minidl import data
from minidl.data.sets import shapes


def masks(kind, count=300, seed=0):
    return shapes._objects(np.full(count, kind), np.random.default_rng(seed))


def test_images_are_uint8_of_32_by_32_in_nine_classes_of_equal_size():
    split = data.load("shapes", train=90, test=18)
    assert split.train.raw.shape == (90, 1, 32, 32) and split.train.raw.dtype == np.uint8
    assert split.train.counts().tolist() == [10] * 9
    assert split.classes[:4] == ("triangle", "parallelogram", "ellipse", "triangle + triangle")


def test_the_same_seed_renders_the_same_images_and_another_does_not():
    a, b, c = (data.load("shapes", train=30, test=9, seed=s).train.raw for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def levels_inside(image):
    """The grey levels of pixels whose eight neighbours look the same: pixels on an edge are mixtures."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3)).reshape(-1, 9)
    return set(windows[(windows == windows[:, :1]).all(axis=1), 0])


def test_a_single_shape_has_one_grey_level_beside_the_background_and_a_pair_two():
    train = data.load("shapes", train=180, test=9).train
    levels = np.array([len(levels_inside(image)) for image in train.raw[:, 0]])
    assert (levels[train.y < 3] == 2).mean() > 0.95 and levels[train.y < 3].max() == 2
    assert (levels[train.y >= 3] == 3).mean() > 0.9 and levels.max() == 3


def test_the_fill_of_the_bounding_ellipse_tells_the_three_kinds_apart():
    """Area over the area of the ellipse with the same second moments: an affine invariant of the shape.

    For a disc it is 1; for a square side² / (4π · side² / 12) = 3/π; for a triangle 1 / (4π · √(1/432 …)) = 3√3/(2π).
    """
    expected = {0: 3 * np.sqrt(3) / (2 * np.pi), 1: 3 / np.pi, 2: 1.0}
    for kind, value in expected.items():
        ratios = []
        for mask in masks(kind):
            if mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any():
                continue  # cut off by the border
            points = np.argwhere(mask).astype(float)
            ratios.append(len(points) / (4 * np.pi * np.sqrt(np.linalg.det(np.cov(points.T)))))
        assert len(ratios) > 50
        assert np.mean(ratios) == pytest.approx(value, rel=0.01)


def test_areas_lie_within_their_limits():
    area = np.concatenate([masks(kind).mean(axis=(1, 2)) for kind in range(3)])
    assert area.max() < 0.2 * 1.05 and np.quantile(area, 0.9) > 0.15


def test_the_front_object_hides_at_most_half_of_the_other():
    rng = np.random.default_rng(0)
    front = masks(1)
    back = shapes._visible_objects(np.full(300, 2), front, rng)
    assert ((back & front).sum(axis=(1, 2)) / back.sum(axis=(1, 2))).max() <= 0.5


def test_grey_levels_keep_their_distance():
    levels = np.sort(shapes._grey_levels(1000, np.random.default_rng(0)), axis=1)
    assert np.diff(levels, axis=1).min() >= 0.2 - 1e-9
    assert levels.min() >= 0 and levels.max() <= 1


@pytest.mark.parametrize("options", [{"train": 0}, {"test": 1.5}])
def test_a_count_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match="expected a whole number"):
        data.load("shapes", **options)
