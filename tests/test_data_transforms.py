"""Batch transforms against Pillow, plain loops and theory."""

import numpy as np
import pytest
from PIL import Image

from minidl import data
from minidl.data.transforms import chain, normalize, pad, random_crop, random_flip, resize


def rng(seed=0):
    return np.random.default_rng(seed)


def batch(n=7, channels=3, height=12, width=10, dtype=np.float32):
    return rng().integers(0, 256, (n, channels, height, width)).astype(dtype)


def test_normalize_subtracts_and_divides_by_channel_in_float32():
    x = batch(dtype=np.uint8)
    y = normalize([1, 2, 3], [4, 5, 6])(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y[:, 2], (x[:, 2].astype(float) - 3) / 6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pad_puts_a_frame_round_every_image(dtype):
    x = batch(dtype=dtype)
    y = pad(2, value=7)(x)
    assert y.shape == (7, 3, 16, 14) and y.dtype == dtype
    np.testing.assert_array_equal(y[:, :, 2:-2, 2:-2], x)
    assert (y[:, :, :2] == 7).all() and (y[..., -2:] == 7).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_random_crop_is_a_window_of_the_padded_image(dtype):
    x = batch(dtype=dtype)
    y = random_crop(8, padding=1)(x, rng(1))
    assert y.shape == (7, 3, 8, 8) and y.dtype == dtype
    framed = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for image, crop in zip(framed, y, strict=True):
        windows = [image[:, r : r + 8, c : c + 8] for r in range(7) for c in range(5)]
        assert sum(np.array_equal(window, crop) for window in windows) == 1


def test_all_places_of_a_crop_are_equally_likely():
    x = np.broadcast_to(np.arange(9, dtype=np.float32).reshape(3, 3), (9000, 1, 3, 3))
    corner = random_crop(2)(x, rng())[:, 0, 0, 0]
    counts = np.array([np.sum(corner == value) for value in (0, 1, 3, 4)])
    # chi-square with 3 degrees of freedom, false alarm 1e-4 at 21.1 (one fixed seed)
    assert counts.sum() == 9000 and ((counts - 2250) ** 2 / 2250).sum() < 21.1


def test_a_flip_mirrors_left_to_right_and_leaves_the_batch_it_was_given():
    x = batch()
    before = x.copy()
    y = random_flip(0.5)(x, rng())
    mirrored = [np.array_equal(a, b[:, :, ::-1]) for a, b in zip(y, x, strict=True)]
    same = [np.array_equal(a, b) for a, b in zip(y, x, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True)) and any(mirrored) and any(same)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(("probability", "expected"), [(0, 0), (1, 500), (0.2, 100)])
def test_flips_come_with_their_probability(probability, expected):
    x = np.tile(np.array([0, 1], np.float32), (500, 1, 1, 1))
    flips = int(random_flip(probability)(x, rng())[:, 0, 0, 0].sum())
    assert abs(flips - expected) <= 4 * np.sqrt(500 * probability * (1 - probability))  # false alarm 6e-5


@pytest.mark.parametrize("size", [(24, 20), (12, 10), (5, 7), (3, 15), (1, 1)])
def test_resize_is_the_antialiased_bilinear_of_pillow(size):
    x = batch(n=2)
    y = resize(size)(x)
    assert y.shape == (2, 3, *size) and y.dtype == np.float32
    for image, resized in zip(x.reshape(-1, 12, 10), y.reshape(-1, *size), strict=True):
        pillow = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_allclose(resized, np.asarray(pillow), atol=2e-3)


def test_resize_takes_uint8_and_one_number_for_a_square():
    assert resize(6)(batch(dtype=np.uint8)).shape == (7, 3, 6, 6)


def test_a_chain_applies_one_after_the_other_with_one_generator():
    x = batch()
    both = chain(random_flip(), random_crop(8))(x, rng(3))
    generator = rng(3)
    np.testing.assert_array_equal(both, random_crop(8)(random_flip()(x, generator), generator))


def test_the_usual_augmentation_runs_in_a_loader_and_repeats_by_seed():
    split = data.load("digits")
    augment = chain(random_crop(8, padding=1), random_flip())
    a, b = (data.DataLoader(split.train, 100, seed=s, transform=augment) for s in (0, 0))
    for (x, _), (x2, _) in zip(a, b, strict=True):
        assert x.shape[1:] == (1, 8, 8) and x.dtype == np.float32
        np.testing.assert_array_equal(x, x2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pad(-1), "pixels=-1: expected a whole number ≥ 0"),
        (lambda: random_crop(0), "size=0: expected a whole number ≥ 1"),
        (lambda: random_flip(1.5), "a probability lies between 0 and 1"),
        (lambda: resize((4, 0)), "width=0"),
        (lambda: random_crop(15)(batch(), rng()), r"random_crop\(15\): the images have 12 × 10 pixels"),
        (
            lambda: random_flip()(batch()[0], rng()),
            r"expected a batch of images \(N, C, H, W\), got shape \(3, 12, 10\)",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
