"""Generated points: do they have the geometry that their formulas say?"""

import numpy as np
import pytest
from test_data_contract import POINTS

from minidl import data


def test_clusters_are_ten_of_equal_size_in_64_dimensions():
    split = data.load("clusters")
    assert split.train.x.shape == (4096, 64) and len(split.test) == 1024
    assert set(split.train.counts()) == {409, 410}


def test_points_scatter_round_their_centre_with_the_asked_standard_deviation():
    train = data.load("clusters", noise=0.5, normalize=False).train
    within = [train.x[train.y == k].std(axis=0) for k in range(10)]
    # 640 estimates of 0.5 from 409 points each: their mean is within 1 % with probability > 1 - 1e-9
    assert np.mean(within) == pytest.approx(0.5, rel=0.01)


def test_the_nearest_centre_is_right_for_nearly_all_points():
    split = data.load("clusters")
    centres = np.stack([split.train.x[split.train.y == k].mean(axis=0) for k in range(10)])
    distance = ((split.test.x[:, None] - centres) ** 2).sum(axis=2)
    assert (distance.argmin(axis=1) == split.test.y).mean() > 0.995


def test_noiseless_spirals_lie_on_their_arms():
    train = data.load("spirals", classes=4, turns=1.0, noise=0.0, normalize=False).train
    radius = np.hypot(*train.x.T)
    angle = np.arctan2(train.x[:, 1], train.x[:, 0])
    off = angle - 2 * np.pi * (train.y / 4 + radius)
    np.testing.assert_allclose(np.exp(1j * off), 1, atol=1e-4)


def test_noiseless_moons_are_two_half_circles_of_radius_one():
    train = data.load("moons", noise=0.0, normalize=False).train
    centres = np.array([[0.0, 0.0], [1.0, 0.5]])[train.y]
    np.testing.assert_allclose(np.hypot(*(train.x - centres).T), 1, atol=1e-6)
    assert (train.x[train.y == 0, 1] >= -1e-6).all() and (train.x[train.y == 1, 1] <= 0.5 + 1e-6).all()


def test_another_seed_gives_other_points():
    for name in POINTS:
        assert not np.array_equal(data.load(name, seed=0).train.x, data.load(name, seed=1).train.x)


@pytest.mark.parametrize("options", [{"classes": 1}, {"train": 0}, {"test": 2.5}, {"dims": -1}])
def test_a_count_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match="expected a whole number"):
        data.load("clusters", **options)


@pytest.mark.parametrize("name", POINTS)
def test_training_and_test_points_are_independent_draws(name):
    split = data.load(name, train=60, test=60, normalize=False)
    assert not set(split.train.x[:, 0]) & set(split.test.x[:, 0])
