"""The mathematics of wide networks against closed forms, published numbers, adaptive quadrature and simulation."""

import math

import numpy as np
import pytest

from minidl import meanfield, nn
from minidl.meanfield import ACTIVATIONS, gaussian_mean, gaussian_moments
from minidl.meanfield.law import Law

ROOT2 = math.sqrt(2)


def nameless(name):
    """The activation as a function that has no closed form here."""
    return lambda z: ACTIVATIONS[name](z)


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
    by_name, by_quotient = gaussian_moments(name, q), gaussian_moments(nameless(name), q)
    assert by_name.mean == pytest.approx(by_quotient.mean, rel=1e-12, abs=1e-12)
    assert by_name.square == pytest.approx(by_quotient.square, rel=1e-12)
    assert by_name.slope_square == pytest.approx(by_quotient.slope_square, rel=1e-8)


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


@pytest.mark.parametrize("f", [math.tanh, lambda x: x.relu(), lambda x, slope: slope * x, nn.CReLU()])
def test_a_function_that_cannot_take_an_array_is_refused_and_its_error_is_shown(f):
    with pytest.raises(TypeError, match=r"np\.tanh does, math\.tanh does not.*it raised \w+: "):
        gaussian_moments(f)


def test_a_class_of_activations_is_refused_and_an_instance_is_what_its_name_says():
    with pytest.raises(TypeError, match=r"Tanh is a class; .*: Tanh\(\)"):
        gaussian_moments(nn.Tanh)
    assert gaussian_moments(nn.Tanh()).square == pytest.approx(gaussian_moments("tanh").square, rel=1e-9)


@pytest.mark.parametrize("q", ["1", None, [1.0]])
def test_a_variance_must_be_a_number(q):
    with pytest.raises(TypeError, match="q is the variance"):
        gaussian_moments("tanh", q)


@pytest.mark.parametrize("q", [-1.0, math.nan, math.inf])
def test_a_variance_must_be_finite_and_not_negative(q):
    with pytest.raises(ValueError, match="q is the variance"):
        gaussian_moments("tanh", q)


# --------------------------------------------------------------------------------------------------- integration


@pytest.mark.parametrize("q", [1e-8, 1e-3, 1.0, 1e2, 1e4, 1e8])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "erf", "linear"])
def test_the_integral_is_the_closed_form_at_every_size(name, q):
    exact, numeric = gaussian_moments(name, q), gaussian_moments(nameless(name), q)
    assert numeric.mean == pytest.approx(exact.mean, rel=1e-12, abs=1e-12 * math.sqrt(q))
    assert numeric.square == pytest.approx(exact.square, rel=1e-12)
    assert numeric.slope_square == pytest.approx(exact.slope_square, rel=1e-8)  # a difference quotient


@pytest.mark.parametrize("q", [1e2, 1e4, 1e8])
def test_far_out_tanh_is_a_sign_whose_corner_is_not_missed(q):
    """``1 - tanh²`` is 2 δ(z) and ``(1 - tanh²)²`` is (4/3) δ(z), both to first order in 1/q."""
    density = 1 / math.sqrt(2 * math.pi * q)
    moments = gaussian_moments("tanh", q)
    assert 1 - moments.square == pytest.approx(2 * density, rel=1 / q)
    assert moments.slope_square == pytest.approx(4 / 3 * density, rel=1 / q)


@pytest.mark.parametrize("at", [-1.7, 0.0, 0.3, 1.0])
def test_a_jump_and_a_kink_anywhere_are_integrated_to_the_last_digits(at):
    above = 0.5 * math.erfc(at / ROOT2)
    density = math.exp(-0.5 * at * at) / math.sqrt(2 * math.pi)
    assert gaussian_mean(lambda z: (z > at).astype(float)) == pytest.approx(above, rel=1e-12)
    assert gaussian_mean(lambda z: np.maximum(z - at, 0)) == pytest.approx(density - at * above, rel=1e-12)


def test_a_steep_activation_is_integrated_like_any_other():
    steep = gaussian_mean(lambda z: np.tanh(1e5 * (z - 0.3)))
    assert steep == pytest.approx(-math.erf(0.3 / ROOT2), abs=1e-9)


# --------------------------------------------------------------------------------------- the maps, and where they lead

CORRELATIONS = [-1.0, -0.7, -1e-3, 0.0, 0.3, 0.9, 0.99, 0.999, 1 - 1e-6, 1 - 1e-10]


@pytest.mark.parametrize("c", CORRELATIONS)
@pytest.mark.parametrize("q", [1e-4, 1.0, 300.0, 1e6])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "erf"])
def test_the_double_integral_is_the_closed_form_also_next_to_one(name, q, c):
    exact, numeric = (meanfield.half_difference(f, q, 1 - c) for f in (name, nameless(name)))
    assert numeric == pytest.approx(exact, rel=2e-10)


@pytest.mark.parametrize("c", [-0.9, -0.3, 0.0, 0.5, 0.95, 1.0])
def test_the_correlation_maps_are_the_arc_cosine_and_the_arc_sine_kernel(c):
    relu = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
    assert meanfield.correlation_map("relu", c, 3.0, ROOT2) == pytest.approx(relu, abs=1e-14)
    q, sigma_w, sigma_b = 0.7, 1.3, 0.2
    kernel = [2 / math.pi * math.asin(2 * q * x / (1 + 2 * q)) for x in (c, 1.0)]
    erf = (sigma_w**2 * kernel[0] + sigma_b**2) / (sigma_w**2 * kernel[1] + sigma_b**2)
    assert meanfield.correlation_map("erf", c, q, sigma_w, sigma_b) == pytest.approx(erf, abs=1e-13)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "gelu", "selu", "hard_tanh", "softsign"])
@pytest.mark.parametrize("c", [-0.6, 0.4, 0.97])
def test_the_correlation_of_any_activation_is_its_series_in_hermite_polynomials(name, c):
    """``E φ(u) φ(v) = Σ a_k² c^k``, ``a_k = E φ(ξ) He_k(ξ)/√k!`` (Mehler): no double integral."""
    xi = np.linspace(-12, 12, 48_001)
    weight = np.exp(-0.5 * xi**2)
    phi = np.asarray(ACTIVATIONS[name](xi)) * weight / weight.sum()
    series, before, now = 0.0, np.zeros_like(xi), np.ones_like(xi)
    for k in range(120):
        series += float(phi @ now) ** 2 * c**k
        before, now = now, (xi * now - math.sqrt(k) * before) / math.sqrt(k + 1)
    square = gaussian_moments(name).square
    assert square - meanfield.half_difference(name, 1.0, 1 - c) == pytest.approx(series, abs=3e-5)


@pytest.mark.parametrize(("f", "q"), [("tanh", 1.2), ("sigmoid", 0.3), ("gelu", 2.0), ("hard_tanh", 1.0)])
def test_next_to_one_the_correlation_map_has_the_slope_chi(f, q):
    apart, sigma_w = 1e-7, 1.4
    q_next = meanfield.variance_map(f, q, sigma_w)
    slope = meanfield.distance_map(f, apart, q, sigma_w) * q_next / (apart * q)
    assert slope == pytest.approx(meanfield.chi(f, q, sigma_w), rel=1e-3)


TANH = [  # σ_w, q*, χ, 1/|ln χ|, std(h), share of |h| > 0.97 and > 0.99
    (1 / math.sqrt(3), 0.0, 1 / 3, 0.91, 0.0, 0.0, 0.0),
    (0.9, 0.0, 0.81, 4.75, 0.0, 0.0, 0.0),
    (1.05, 0.05325, 1.00288, 348, 0.2198, 0.0, 0.0),
    (1.1, 0.11275, 1.01019, 98.6, 0.3053, 0.0, 0.0),
    (1.3, 0.40898, 1.06437, 16.0, 0.4919, 0.0011, 0.0),
    (ROOT2, 0.61796, 1.1055, 9.97, 0.5559, None, None),
    (1.5925, 0.99991, 1.17779, 6.11, 0.6279, 0.0364, 0.0081),
    (5 / 3, 1.17848, 1.20983, 5.25, 0.6513, 0.0539, 0.0148),
    (2.0, 2.12147, 1.36267, 3.23, 0.7283, 0.151, 0.069),
    (3.0, 6.30539, 1.85986, 1.61, 0.8370, 0.405, 0.292),
    (4.0, 12.5006, 2.37680, 1.16, 0.8839, 0.554, 0.454),
]


@pytest.mark.parametrize(("sigma_w", "q", "chi", "xi", "std", "far", "farther"), TANH)
def test_tanh_in_depth_has_the_published_fixed_points(sigma_w, q, chi, xi, std, far, farther):
    found = meanfield.depth_scales("tanh", sigma_w)
    assert found.q_star == pytest.approx(q, abs=6e-5 if q > 10 else 6e-6)
    assert found.chi == pytest.approx(chi, abs=6e-6 if abs(chi - 1.1055) > 1e-4 else 6e-5)
    assert found.xi_c == pytest.approx(xi, rel=6e-3)
    assert math.sqrt(gaussian_moments("tanh", found.q_star).square) == pytest.approx(std, abs=6e-5)
    for limit, share in ((0.97, far), (0.99, farther)):
        if share is not None:
            beyond = gaussian_mean(lambda z, limit=limit: (np.abs(np.tanh(z)) > limit).astype(float), found.q_star)
            assert beyond == pytest.approx(share, abs=6e-5 if sigma_w < 1.9 else 6e-4)


def test_with_variance_one_tanh_is_at_the_edge_of_chaos():
    found = meanfield.depth_scales("tanh", 1.0)
    assert (found.q_star, found.xi_c) == (0.0, math.inf) and found.chi == pytest.approx(1, abs=1e-12)
    q, seen = 1.0, {}
    for layer in range(1, 101):
        seen[layer] = q
        q = meanfield.variance_map("tanh", q, 1.0)
    std = {layer: math.sqrt(gaussian_moments("tanh", q).square) for layer, q in seen.items()}
    expected = {1: 0.628, 2: 0.486, 5: 0.322, 10: 0.228, 20: 0.161, 50: 0.101, 100: 0.071}
    assert {layer: round(std[layer], 3) for layer in expected} == expected
    assert [round(2 * layer * seen[layer], 3) for layer in (10, 50, 100)] == [1.160, 1.043, 1.024]


SIGMOID = [  # σ_w, q*, χ, rms of the unit
    (1 / math.sqrt(3), 0.0850, 0.0200, 0.505),
    (1.0, 0.2647, 0.0557, 0.5145),
    (ROOT2, 0.5553, 0.1010, 0.527),
    (4.0, 5.855, 0.399, 0.605),
    (4.7226, 8.539, 0.474, 0.619),
    (16.0, 118.8, 1.554, None),
]


@pytest.mark.parametrize(("sigma_w", "q", "chi", "rms"), SIGMOID)
def test_sigmoid_in_depth_has_the_published_fixed_points(sigma_w, q, chi, rms):
    found = meanfield.depth_scales("sigmoid", sigma_w)
    assert found.q_star == pytest.approx(q, rel=5e-4)
    assert found.chi == pytest.approx(chi, abs=6e-5 if chi < 0.2 else 6e-4)
    if rms is not None:
        assert math.sqrt(gaussian_moments("sigmoid", found.q_star).square) == pytest.approx(rms, abs=6e-4)


def test_wide_weights_saturate_four_of_five_sigmoids():
    q = meanfield.fixed_point("sigmoid", 16.0)
    assert gaussian_mean(lambda z: (np.abs(z) > math.log(19)).astype(float), q) == pytest.approx(0.79, abs=0.005)


EDGE = [  # of tanh: q*, σ_w², σ_b²
    (0.01, 1.01971, 1.258e-6),
    (0.05, 1.09363, 1.283e-4),
    (0.1, 1.17757, 8.323e-4),
    (0.2, 1.32641, 4.776e-3),
    (0.3, 1.45800, 0.012390),
    (0.5, 1.68798, 0.038041),
    (1.0, 2.15330, 0.150965),
    (2.0, 2.86116, 0.512265),
    (3.0, 3.42446, 0.981491),
    (5.0, 4.33604, 2.1016),
]


@pytest.mark.parametrize(("q", "weight_variance", "bias_variance"), EDGE)
def test_the_edge_of_chaos_of_tanh_goes_through_the_published_points(q, weight_variance, bias_variance):
    moments = gaussian_moments("tanh", q)
    assert 1 / moments.slope_square == pytest.approx(weight_variance, abs=6e-6)
    exact = q - moments.square / moments.slope_square
    assert exact == pytest.approx(bias_variance, rel=5e-4)
    point = meanfield.critical_point("tanh", math.sqrt(exact))
    assert point.q == pytest.approx(q, rel=1e-6)
    found = meanfield.depth_scales("tanh", point.sigma_w, math.sqrt(exact))
    assert (found.q_star, found.chi) == (pytest.approx(q, rel=1e-6), pytest.approx(1, rel=1e-6))


@pytest.mark.parametrize(
    ("bias_variance", "weight_variance"),
    [(0.0025, 1.26009), (0.01, 1.42421), (0.05, 1.76095), (0.1, 1.98607), (0.25, 2.40149), (1.0, 3.44321)],
)
def test_the_edge_of_chaos_of_tanh_by_its_biases(bias_variance, weight_variance):
    point = meanfield.critical_point("tanh", math.sqrt(bias_variance))
    assert point.sigma_w**2 == pytest.approx(weight_variance, abs=6e-6)


def test_sigmoid_has_an_edge_of_chaos_far_out():
    point = meanfield.critical_point("sigmoid")
    assert point == (pytest.approx(10.149, abs=1e-3), pytest.approx(45.62, abs=0.01))
    assert meanfield.variance_map("sigmoid", point.q, point.sigma_w) == pytest.approx(point.q, rel=1e-9)
    assert meanfield.chi("sigmoid", point.q, point.sigma_w) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(
    ("f", "sigma_w", "sigma_b", "start", "expected"),
    [
        ("relu", ROOT2, 0.0, 1.0, 1.0),
        ("relu", ROOT2, 0.0, 7.0, 7.0),
        ("relu", 1.0, 0.0, 1.0, 0.0),
        ("relu", 2.0, 0.0, 1.0, math.inf),
        ("relu", 1.0, 1.0, 1.0, 2.0),
        ("linear", 0.5, 1.0, 1.0, 4 / 3),
        ("tanh", 0.5, 0.0, 1e6, 0.0),
    ],
)
def test_the_variance_goes_where_a_straight_line_says(f, sigma_w, sigma_b, start, expected):
    assert meanfield.fixed_point(f, sigma_w, sigma_b, start) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("start", [1e-13, 1e40])
def test_a_variance_that_starts_very_small_or_very_large_is_followed_from_there(start):
    assert meanfield.fixed_point("relu", 1.0, 1.0, start) == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize(("f", "q"), [("tanh", 0.4), ("gelu", 2.0), ("selu", 1.0), ("sigmoid", 30.0), ("relu", 5.0)])
def test_the_slope_of_the_variance_map_is_its_difference_quotient(f, q):
    step = 1e-4 * q
    quotient = (meanfield.variance_map(f, q + step, 1.3) - meanfield.variance_map(f, q - step, 1.3)) / (2 * step)
    assert meanfield.variance_slope(f, q, 1.3) == pytest.approx(quotient, rel=1e-6)


def test_in_the_ordered_phase_all_inputs_become_alike_and_in_the_chaotic_none():
    assert meanfield.correlation_fixed_point("tanh", 0.9, 0.3) == 1.0
    assert meanfield.correlation_fixed_point("tanh", 2.0) == pytest.approx(0.0, abs=1e-9)
    c = meanfield.correlation_fixed_point("erf", 2.0, 0.3)
    q = meanfield.fixed_point("erf", 2.0, 0.3)
    for start in (0.0, 0.999):  # from both sides
        for _ in range(1000):
            start = meanfield.correlation_map("erf", start, q, 2.0, 0.3)
        assert 0.1 < c < 0.9 and start == pytest.approx(c, abs=1e-9)


def test_a_signal_that_explodes_has_no_correlation_it_ends_at():
    with pytest.raises(ValueError, match="relu with sigma_w = 2: the variance grows without end"):
        meanfield.correlation_fixed_point("relu", 2.0)


# ---------------------------------------------------------------------------------------------------- dead units


def relu_correlations(layers):
    c, found = 0.0, [0.0]
    for _ in range(layers):
        c = meanfield.correlation_map("relu", c, 1.0, ROOT2)
        found.append(c)
    return found


def test_under_he_inputs_become_alike_as_published():
    c = relu_correlations(1000)
    expected = {1: 0.3183, 2: 0.4937, 5: 0.7359, 10: 0.8715, 20: 0.9484, 50: 0.9879, 100: 0.9964}
    assert {layer: round(c[layer], 4) for layer in expected} == expected
    assert (1 - c[1000]) * 1000**2 == pytest.approx(9 * math.pi**2 / 2, rel=0.05)


DEAD = {  # batch: of the pre-activations of layers 2, 3, 5, 10, 20, 50, 100
    64: (0.0015, 0.0145, 0.062, 0.171, 0.286, 0.396, 0.444),
    256: (0.0001, 0.0036, 0.0305, 0.125, 0.248, 0.375, 0.432),
    1000: (0.0, 0.0009, 0.0153, 0.093, 0.217, 0.357, 0.422),
}


@pytest.mark.parametrize("batch", DEAD)
def test_under_he_as_many_units_are_dead_as_published(batch):
    c = relu_correlations(100)
    found = [meanfield.dead_fraction(c[layer - 1], batch) for layer in (2, 3, 5, 10, 20, 50, 100)]
    assert found == pytest.approx(DEAD[batch], abs=6e-4)


def test_dead_units_between_unrelated_and_equal_inputs():
    assert meanfield.dead_fraction(0.0, 5) == pytest.approx(2.0**-5, rel=1e-12)
    assert meanfield.dead_fraction(1.0, 1000) == 0.5
    assert meanfield.dead_fraction(1 - 1e-12, 1000) == pytest.approx(0.5, abs=1e-5)
    assert meanfield.dead_fraction(0.5, 2) == pytest.approx(1 / 3, rel=1e-12)  # 1/4 + asin(c)/2π
    assert meanfield.dead_fraction(0.5, 1, mean=0.7) == pytest.approx(0.5 * math.erfc(0.7 / ROOT2), rel=1e-12)


# --------------------------------------------------------------------------------------------------- finite width

ONE_LAYER = {  # width: mean and variance of ln M'/M under He
    16: (-0.17640, 0.41959),
    32: (-0.08254, 0.17750),
    64: (-0.04011, 0.08300),
    100: (-0.02542, 0.05194),
    256: (-0.009829, 0.019819),
    1024: (-0.002445, 0.004901),
}


@pytest.mark.parametrize("n", ONE_LAYER)
def test_the_growth_of_one_layer_varies_as_published(n):
    digits = 6e-6 if n < 200 else 6e-7
    assert meanfield.relu_log_moments(n) == pytest.approx(ONE_LAYER[n], abs=digits)


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_the_growth_of_one_layer_agrees_with_the_special_functions(n):
    special, stats = pytest.importorskip("scipy.special"), pytest.importorskip("scipy.stats")
    k = np.arange(1, n + 1)
    chance = stats.binom.pmf(k, n, 0.5)
    chance /= chance.sum()
    mean = math.log(2 / n) + special.digamma(k / 2) + math.log(2)
    average = chance @ mean
    variance = chance @ (special.polygamma(1, k / 2) + mean**2) - average**2
    assert meanfield.relu_log_moments(n) == pytest.approx((average, variance), rel=1e-11)


def test_the_growth_of_other_units_varies_by_their_fourth_moment():
    assert meanfield.log_moments("linear", 100) == pytest.approx((-0.01, 0.02), rel=1e-12)
    assert meanfield.log_moments("relu", 100, 3.0) == pytest.approx((-0.025, 0.05), rel=1e-12)


def test_the_band_of_growth_holds_nine_draws_of_ten():
    n, depth, draws = 50, 10, 2000
    rng = np.random.default_rng(0)
    on = rng.binomial(n, 0.5, (draws, depth))  # so many units are on; what they give is a χ² (exact, as in the paper)
    growth = np.prod(2 / n * rng.chisquare(on), axis=1)
    low, middle, high = meanfield.growth_band([n] * depth)
    assert np.median(growth) == pytest.approx(middle, rel=0.07)
    assert np.mean((growth > low) & (growth < high)) == pytest.approx(0.90, abs=0.02)


# ------------------------------------------------------------------------------------ normalization, sums of branches


def test_batch_normalization_lets_the_gradient_grow_by_the_published_factors():
    assert meanfield.batch_norm_growth("relu") == pytest.approx(math.pi / (math.pi - 1), rel=1e-14)
    assert meanfield.batch_norm_growth("relu") == pytest.approx(1.4669, abs=6e-5)
    assert meanfield.batch_norm_growth("linear") == 1.0
    assert meanfield.batch_norm_growth("tanh") == pytest.approx(1.18, abs=5e-3)


def test_residual_sums_grow_by_the_published_factors():
    assert meanfield.residual_growth(20) == 2**20
    assert meanfield.residual_growth(20, branch=1 / math.sqrt(20)) == pytest.approx(2.653, abs=1e-3)
    assert meanfield.residual_growth(20, branch=1 / ROOT2, shortcut=1 / ROOT2) == pytest.approx(1)
    assert meanfield.residual_growth(20, norm=True) == 21
    assert meanfield.residual_growth(20, branch=0) == 1


# --------------------------------------------------------------------------------------------------- the first loss


@pytest.mark.parametrize("s", [0.0, 1e-3, 0.1, 1.0, 5.0, 12.0, 20.0, 1e3, 1e30])
def test_the_first_loss_of_two_classes_is_a_softplus(s):
    """``ln(e^a + e^b) = a + softplus(b - a)``, and b - a has variance 2 s²."""
    exact = gaussian_moments("softplus", 2 * s * s).mean
    assert meanfield.initial_loss(s, 2) == pytest.approx(exact, rel=1e-12 if s <= 20 else 1e-8)


@pytest.mark.parametrize("s", [0.1, 0.3, 0.5, 1.0, ROOT2, 2.0, 5.0, 10.0, 20.0])
def test_the_first_loss_of_ten_classes_is_that_of_random_logits(s):
    logits = s * np.random.default_rng(0).standard_normal((200_000, 10))
    largest = logits.max(axis=1, keepdims=True)
    losses = (largest - logits.mean(axis=1, keepdims=True))[:, 0] + np.log(np.exp(logits - largest).sum(axis=1))
    error = losses.std() / math.sqrt(losses.size)
    assert meanfield.initial_loss(s, 10) == pytest.approx(losses.mean(), abs=4 * error)


def test_the_first_loss_begins_at_the_logarithm_of_the_classes_and_ends_at_the_largest_logit():
    assert meanfield.initial_loss(0.0, 10) == pytest.approx(math.log(10), rel=1e-14)
    assert meanfield.initial_loss(0.01, 10) == pytest.approx(math.log(10) + 0.5e-4 * 0.9, rel=1e-8)
    assert meanfield.initial_loss(1e3, 10) == pytest.approx(1.53875e3, rel=1e-4)  # mean of the largest of ten normals


def test_with_zero_weights_the_largest_class_is_predicted():
    train, test = [0] * 10 + [1] * 30 + [2] * 20, [0] * 3 + [1] * 4 + [2] * 3
    assert meanfield.zero_init_accuracy(train, test) == (0.4, (1,), 0.4, 0.4)


def test_classes_that_nearly_tie_are_all_named_with_the_range_of_their_shares():
    train, test = [0] * 100 + [1] * 98 + [2] * 101 + [3] * 90, [0] * 2 + [1] * 1 + [2] * 3 + [3] * 4
    found = meanfield.zero_init_accuracy(np.array(train), np.array(test))
    assert found.classes == (0, 1, 2) and found.accuracy == pytest.approx(0.3)
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.3))


# --------------------------------------------------------------------------------------------------------- the law


def test_the_largest_of_correlated_elements_lies_between_one_and_independent_ones():
    alone = Law.gaussian(0, 1)
    z = np.random.default_rng(0).standard_normal((200_000, 5))
    for rho in (0.3, 0.9):
        largest = (math.sqrt(rho) * z[:, :1] + math.sqrt(1 - rho) * z[:, 1:]).max(axis=1)
        law = alone.largest_of(4, rho)
        assert law.mean == pytest.approx(largest.mean(), abs=0.01)
        assert law.variance == pytest.approx(largest.var(), abs=0.012)
    assert alone.largest_of(4, 1.0).variance == pytest.approx(1, abs=1e-3)


def test_the_sum_of_two_independent_elements_has_their_law():
    relu = Law.gaussian(0, 1).changed(lambda x: np.maximum(x, 0))
    total = relu.plus(Law.gaussian(0.5, 2.0))
    assert total.mean == pytest.approx(relu.mean + 0.5, rel=1e-6)
    assert total.variance == pytest.approx(relu.variance + 2.0, rel=1e-6)
    z = np.random.default_rng(0).standard_normal((400_000, 2))
    drawn = np.maximum(np.maximum(z[:, 0], 0) + 0.5 + ROOT2 * z[:, 1], 0)
    assert total.average(lambda x: np.maximum(x, 0) ** 2) == pytest.approx((drawn**2).mean(), rel=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: meanfield.half_difference("tanh", 1.0, 2.5), "a correlation c between -1 and 1; got 2.5"),
        (lambda: meanfield.dead_fraction(1.2, 5), "got c=1.2, batch=5"),
        (lambda: meanfield.dead_fraction(0.2, 0), "batch at least 1"),
        (lambda: meanfield.relu_log_moments(0), "at least one unit; got 0"),
        (lambda: meanfield.initial_loss(math.nan, 10), "initial loss: std must be finite"),
        (lambda: meanfield.initial_loss(1.0, 0), "classes >= 1"),
        (lambda: meanfield.zero_init_accuracy([], [1]), "labels are needed to count; got 0"),
        (lambda: meanfield.zero_init_accuracy([0.5], [1]), "labels are class numbers.* got float64"),
        (lambda: meanfield.zero_init_accuracy([1], [-1]), "labels are class numbers.* from -1"),
        (lambda: meanfield.fixed_point("tanh", math.nan), "sigma_w is .* got nan"),
        (lambda: meanfield.fixed_point("tanh", 1.5, 0.1, start=0.0), "start is the variance to begin with, above 0"),
        (lambda: meanfield.chi("tanh", 1.0, -1.0), "sigma_w is .* got -1.0"),
        (lambda: meanfield.variance_slope("tanh", 1.0, -1.0), "sigma_w is .* got -1.0"),
        (lambda: meanfield.half_difference("relu", -1.0, 0.5), "q is .* got -1.0"),
        (lambda: meanfield.critical_point("tanh", math.inf), "sigma_b is .* got inf"),
        (lambda: meanfield.variance_map("tanh", 1.0, 1.0, math.inf), "sigma_b is .* got inf"),
        (lambda: meanfield.depth_scales("relu", 3.0), "the variance grows without end"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_number(call, message):
    with pytest.raises(ValueError, match=message):
        call()
