"""The Gaussian moments against closed forms, which the code does not use."""

import math

import numpy as np
import pytest

from minidl.meanfield import ACTIVATIONS, gaussian_mean, gaussian_moments

SIZES = [1e-6, 0.1, 1.0, 10.0, 100.0]


@pytest.mark.parametrize("q", SIZES)
def test_relu_keeps_half_of_the_second_moment_and_half_of_the_gradient(q):
    moments = gaussian_moments("relu", q)
    assert moments.mean == pytest.approx(math.sqrt(q / (2 * math.pi)), rel=1e-6)
    assert moments.square == pytest.approx(q / 2, rel=1e-10)
    assert moments.slope_square == pytest.approx(1 / 2, rel=1e-10)
    assert moments.variance == pytest.approx(q * (1 / 2 - 1 / (2 * math.pi)), rel=1e-6)


@pytest.mark.parametrize("q", SIZES)
def test_a_relu_nobody_knows_by_name_has_the_same_moments(q):
    moments = gaussian_moments(lambda x: x * (x > 0), q)
    assert moments.square == pytest.approx(q / 2, rel=1e-10)
    assert moments.slope_square == pytest.approx(1 / 2, rel=1e-9)


@pytest.mark.parametrize("q", SIZES)
@pytest.mark.parametrize("slope", [0.01, 0.2, 1.0, -1.0])
def test_leaky_relu_keeps_half_of_one_plus_slope_squared(q, slope):
    moments = gaussian_moments("leaky_relu", q, negative_slope=slope)
    assert moments.square == pytest.approx(q * (1 + slope**2) / 2, rel=1e-10)
    assert moments.slope_square == pytest.approx((1 + slope**2) / 2, rel=1e-10)


@pytest.mark.parametrize("q", SIZES)
def test_erf_follows_its_closed_form_at_every_size_of_the_input(q):
    moments = gaussian_moments("erf", q)
    assert moments.mean == pytest.approx(0, abs=1e-12)
    assert moments.square == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-11)
    assert moments.slope_square == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-8)


def test_selu_has_its_fixed_point_and_lets_the_gradient_grow():
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    lower_tail = math.exp(2) * 0.5 * math.erfc(math.sqrt(2))  # E exp(2x) over x < 0
    moments = gaussian_moments("selu")
    assert moments.mean == pytest.approx(0, abs=1e-7)
    assert moments.square == pytest.approx(1, abs=1e-6)
    assert moments.slope_square == pytest.approx(scale**2 * (0.5 + alpha**2 * lower_tail), rel=1e-6)


def test_gelu_follows_its_closed_forms():
    moments = gaussian_moments("gelu")
    assert moments.mean == pytest.approx(1 / (2 * math.sqrt(math.pi)), rel=1e-12)
    assert moments.square == pytest.approx(1 / 3 + 1 / (2 * math.pi * math.sqrt(3)), rel=1e-12)


def test_hard_tanh_passes_the_gradient_of_the_inputs_within_one_sigma():
    assert gaussian_moments("hard_tanh").slope_square == pytest.approx(math.erf(1 / math.sqrt(2)), abs=1e-6)


def test_sigmoid_is_the_slope_of_softplus():
    assert gaussian_moments("softplus", 3.0).slope_square == pytest.approx(gaussian_moments("sigmoid", 3.0).square)


def test_sigmoid_is_a_tanh_of_half_the_input():
    tanh, sigmoid = gaussian_moments("tanh", 1.0), gaussian_moments("sigmoid", 4.0)
    assert sigmoid.square == pytest.approx((1 + tanh.square) / 4, rel=1e-12)
    assert sigmoid.slope_square == pytest.approx(tanh.slope_square / 16, rel=1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("q", [0.3, 1.0, 7.0])
def test_the_analytic_slope_of_every_name_agrees_with_its_difference_quotient(name, q):
    by_name, by_quotient = gaussian_moments(name, q), gaussian_moments(ACTIVATIONS[name], q)
    assert by_name.slope_square == pytest.approx(by_quotient.slope_square, rel=1e-6)


@pytest.mark.parametrize("q", [1.0, 400.0])
def test_moments_agree_with_adaptive_quadrature(q):
    integrate = pytest.importorskip("scipy.integrate")

    def exact(f):
        def density(x):
            return f(math.sqrt(q) * x) * math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)

        return integrate.quad(density, -12, 12, points=[-1, 0, 1], epsabs=1e-11, limit=400)[0]

    moments = gaussian_moments("tanh", q)
    assert moments.square == pytest.approx(exact(lambda z: math.tanh(z) ** 2), rel=1e-9)
    assert moments.slope_square == pytest.approx(exact(lambda z: (1 - math.tanh(z) ** 2) ** 2), rel=1e-7)


def test_the_average_of_a_polynomial_is_its_gaussian_moment():
    assert gaussian_mean(lambda z: z**4, q=2.0) == pytest.approx(3 * 2.0**2, rel=1e-12)


def test_without_variance_only_the_value_and_slope_at_zero_remain():
    moments = gaussian_moments("sigmoid", 0.0)
    assert moments.mean == pytest.approx(1 / 2)
    assert moments.slope_square == pytest.approx(1 / 16)


def test_an_activation_may_return_a_tensor():
    class Boxed:
        def __init__(self, values):
            self.values = values

        def numpy(self):
            return self.values

    assert gaussian_moments(lambda x: Boxed(np.tanh(x))).square == pytest.approx(gaussian_moments("tanh").square)


def test_an_unknown_activation_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'sigmoid'"):
        gaussian_moments("sigmoidd")


def test_something_that_is_no_activation_is_refused():
    with pytest.raises(TypeError, match="a name or a function of an array, got int"):
        gaussian_moments(3)


def test_an_unknown_parameter_names_the_accepted_ones():
    with pytest.raises(TypeError, match="no parameter 'slope'; it accepts: negative_slope"):
        gaussian_moments("leaky_relu", slope=0.1)


def test_an_activation_that_overflows_is_refused_with_the_place():
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match="'reciprocal' gives inf at 0"):
        gaussian_moments(np.reciprocal)


def test_a_function_that_is_not_elementwise_is_refused():
    with pytest.raises(ValueError, match="must be elementwise"):
        gaussian_moments(lambda x: x.sum())


@pytest.mark.parametrize("q", [-1.0, math.nan, math.inf])
def test_a_variance_must_be_finite_and_not_negative(q):
    with pytest.raises(ValueError, match="q is the variance"):
        gaussian_moments("tanh", q)
