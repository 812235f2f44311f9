"""Orthogonal weights: orthonormal to rounding, and uniform among all such matrices."""

import math

import numpy as np
import pytest
from conftest import fetch, tensor

from minidl import init

SHAPES = [(6, 6), (31, 7), (7, 31), (1, 9), (9, 1), (16, 5, 3, 3), (40, 3, 5, 2), (6, 4, 1, 1)]
PRECISION = {np.float16: 4e-3, np.float32: 1e-6, np.float64: 1e-13}


def draw(shape, seed=0, dtype=np.float64, gain=1.0):
    """Weights as a model on the device under test gets them: drawn on the host, then copied."""
    rng = np.random.default_rng(seed)
    return fetch(tensor(init.orthogonal(gain)(shape, fan_in=None, fan_out=None, rng=rng, dtype=dtype)))


@pytest.mark.parametrize("gain", [1.0, math.sqrt(2), 0.1])
@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_shorter_side_is_orthonormal_times_the_gain(shape, dtype, gain):
    values = draw(shape, dtype=dtype, gain=gain)
    assert values.shape == shape
    assert values.dtype == dtype
    assert values.flags.c_contiguous
    matrix = values.reshape(shape[0], -1).astype(np.float64)
    gram = matrix @ matrix.T if shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=gain**2 * PRECISION[dtype])


def test_a_large_float32_matrix_has_all_singular_values_at_the_gain():
    singular_values = np.linalg.svd(draw((256, 300), dtype=np.float32, gain=2.0).astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(singular_values, 2.0, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (8, 3, 2, 2)])
def test_every_entry_has_variance_gain_squared_over_the_longer_side(shape):
    """600 draws, each entry's mean square within 5 standard errors (at most √(2/600) of it)."""
    draws = np.array([draw(shape, seed, gain=3.0) for seed in range(600)])
    longer = max(shape[0], math.prod(shape[1:]))
    expected = 3.0**2 / longer
    assert abs((draws**2).mean(0) / expected - 1).max() < 5 * math.sqrt(2 / 600)
    assert abs(draws.mean(0)).max() < 5 * math.sqrt(expected / 600)


def factorized_without_sign_fix(seed, n):
    """The mutant: the Q of a QR factorization as LAPACK leaves it."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def sphere_distance(matrices):
    """KS distance of the first entry from U[-1, 1]: what a uniform direction in three dimensions has (Archimedes)."""
    x = np.sort([matrix[0, 0] for matrix in matrices])
    theory, steps = (x + 1) / 2, np.arange(x.size + 1) / x.size
    return max((theory - steps[:-1]).max(), (steps[1:] - theory).max()) * math.sqrt(x.size)


def test_the_first_entry_is_that_of_a_uniform_direction():
    """False-alarm rate of the gate 2.55: 4.5e-6."""
    assert sphere_distance([draw((3, 3), seed) for seed in range(1000)]) < 2.55
    assert sphere_distance([factorized_without_sign_fix(seed, 3) for seed in range(1000)]) > 2.55


def test_the_mean_of_the_diagonal_over_200_draws_is_zero():
    """The trace of a uniform orthogonal matrix has mean 0 and variance 1; gate of 5 standard errors."""
    traces = [np.trace(draw((8, 8), seed)) for seed in range(200)]
    assert abs(np.mean(traces)) < 5 / math.sqrt(200)
    mutants = [np.trace(factorized_without_sign_fix(seed, 8)) for seed in range(200)]
    assert abs(np.mean(mutants)) > 5 / math.sqrt(200)


def test_half_of_the_matrices_are_reflections():
    """Sum of 1000 signs of the determinant, gate of 5 standard errors."""
    determinants = [np.linalg.det(draw((4, 4), seed)) for seed in range(1000)]
    assert abs(np.sum(determinants)) < 5 * math.sqrt(1000)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_a_shape_without_rows_and_columns_is_refused(shape):
    with pytest.raises(ValueError, match="has no rows and columns"):
        draw(shape)
