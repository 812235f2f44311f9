"""Schemes with structure, schemes solved for, advice, coherence and spectra: each against a fact that it must have.

Statistical gates are 5 standard errors (one false alarm in 1.7 million), with fixed seeds.
"""

import itertools
import math

import numpy as np
import pytest
from conftest import fetch

from minidl import init, meanfield, nn, ops
from minidl.tensor import Tensor, grad

GATE = 5.0
ROUNDING = 3e-6  # of a fast convolution of values up to 3 in float32


def draw(scheme, shape, seed=0, dtype=np.float64, fans=None, **options):
    """Weights of a dense layer or a convolution without groups, unless ``fans`` and ``options`` say otherwise."""
    taps = math.prod(shape[2:])
    fan_in, fan_out = fans or (shape[1] * taps, shape[0] * taps)
    rng = np.random.default_rng(seed)
    return scheme(shape, fan_in=fan_in, fan_out=fan_out, rng=rng, dtype=dtype, **options)


def images(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


# --------------------------------------------------------------------------------------------------------- identity


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
def test_a_dense_identity_repeats_the_inputs_there_are(shape):
    x = np.arange(1.0, shape[1] + 1)
    y = draw(init.identity(gain=2.0), shape) @ x
    both = min(shape)
    np.testing.assert_array_equal(y, [*(2 * x[:both]), *np.zeros(shape[0] - both)])


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kernel", [1, 3, (5, 3)])
def test_a_dirac_convolution_repeats_the_image_whatever_its_groups(groups, kernel):
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    layer = nn.Conv2d(6, 6, kernel, padding=tuple(k // 2 for k in size), groups=groups, init="dirac")
    x = images(2, 6, 7, 8)
    np.testing.assert_allclose(fetch(layer(x)), fetch(x), atol=ROUNDING)


def test_a_dirac_convolution_with_more_outputs_repeats_each_groups_channels_at_its_own_place():
    layer = nn.Conv2d(4, 10, 3, padding=1, groups=2, init="identity")
    x = images(1, 4, 5, 5)
    y = fetch(layer(x))
    np.testing.assert_allclose(y[:, [0, 1, 5, 6]], fetch(x), atol=ROUNDING)
    assert not y[:, [2, 3, 4, 7, 8, 9]].any()


def test_a_transposed_convolution_gets_the_identity_of_its_channels():
    layer = nn.ConvTranspose2d(3, 3, 3, padding=1, init="identity")
    x = images(1, 3, 5, 5)
    np.testing.assert_allclose(fetch(layer(x)), fetch(x), atol=ROUNDING)


@pytest.mark.parametrize("name", ["identity", "delta_orthogonal", "identity_hadamard", "orthogonal"])
def test_every_group_has_a_matrix_of_its_own(name):
    w = draw(init.get(name), (4, 2, 1, 1), groups=2)[:, :, 0, 0]
    for half in (w[:2], w[2:]):
        np.testing.assert_allclose(half @ half.T, np.eye(2), atol=1e-12)


@pytest.mark.parametrize("groups", [2, 0, -1, 1.5, True, "2", None])
def test_groups_that_do_not_divide_the_first_axis_are_refused(groups):
    with pytest.raises(ValueError, match="identity: groups=.* must divide the first axis of shape"):
        draw(init.identity(), (5, 2, 3, 3), groups=groups)


GROUPED = {
    "convolution": lambda **how: nn.Conv2d(12, 12, 3, padding=1, groups=4, bias=False, padding_mode="circular", **how),
    "depthwise": lambda **how: nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False, padding_mode="circular", **how),
    "transposed": lambda **how: nn.ConvTranspose2d(12, 12, 2, stride=2, groups=4, bias=False, **how),
    "weight-normalized": lambda **how: nn.WeightNorm(GROUPED["convolution"](**how)),
}


@pytest.mark.parametrize("kind", GROUPED)
@pytest.mark.parametrize("name", ["identity", "delta_orthogonal", "identity_hadamard"])
def test_a_grouped_layer_tells_its_groups_and_keeps_every_length(name, kind):
    """However it is drawn: when it is built, and by ``init.apply``."""
    built, applied = GROUPED[kind](init=name), GROUPED[kind]()
    init.apply(applied, name, seed=0)
    x = images(2, 12, 5, 5)
    for layer in (built, applied):
        assert np.linalg.norm(fetch(layer(x))) == pytest.approx(np.linalg.norm(fetch(x)), rel=1e-5)


@pytest.mark.parametrize("name", ["orthogonal", "looks_linear"])
def test_an_orthogonal_depthwise_layer_keeps_the_second_moment_of_its_channels(name):
    """Read as one matrix of 60 rows and 9 columns it would keep 9/60 of it."""
    layer = nn.Conv2d(60, 60, 3, padding=1, groups=60, bias=False, padding_mode="circular", init=name)
    np.testing.assert_allclose((fetch(layer.weight) ** 2).sum((1, 2, 3)), 1, rtol=1e-5)


def test_an_initializer_of_a_students_own_is_not_told_of_groups():
    def mine(shape, *, fan_in, fan_out, rng, dtype=np.float32):
        return np.full(shape, fan_in, dtype)

    assert (fetch(nn.Conv2d(4, 4, 3, groups=2, init=mine).weight) == 18).all()


STRUCTURED = [
    "orthogonal",
    "delta_orthogonal",
    "looks_linear",
    "identity",
    "identity_hadamard",
    "sparse",
    "correlated_normal",
    "shared_draw",
]


@pytest.mark.parametrize("name", STRUCTURED)
@pytest.mark.parametrize("shape", [(), (5,)])
def test_a_scheme_that_needs_rows_and_columns_refuses_a_vector(name, shape):
    with pytest.raises(ValueError, match=f"{name}: shape .* has no rows and columns"):
        init.get(name)(shape, fan_in=3, fan_out=2, rng=np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------------- prior bias


def test_a_prior_bias_answers_with_the_frequencies_of_the_classes_and_starts_at_their_entropy():
    counts = np.array([500, 300, 150, 50])
    shares = counts / 1000
    head = nn.Linear(8, 4, init="zeros", bias_init=init.prior_bias(counts)).to("float64")
    scores = head(Tensor(np.random.default_rng(0).standard_normal((1000, 8))))
    np.testing.assert_allclose(fetch(ops.softmax(scores))[0], shares, rtol=1e-6)
    np.testing.assert_allclose(np.exp(fetch(head.bias)), shares, rtol=1e-6)  # counts or shares: the same bias
    labels = np.repeat(np.arange(4), counts)
    entropy = -(shares * np.log(shares)).sum()
    assert float(ops.cross_entropy(scores, Tensor(labels))) == pytest.approx(entropy, rel=1e-6)


def test_a_prior_bias_of_one_probability_is_what_sigmoid_makes_it_of():
    b = draw(init.prior_bias(0.01), (3,), fans=(8, 3))
    np.testing.assert_allclose(1 / (1 + np.exp(-b)), 0.01, rtol=1e-12)
    assert b[0] == pytest.approx(-4.595, abs=1e-3)  # Lin et al. 2017


def test_a_prior_bias_for_another_number_of_units_is_refused():
    with pytest.raises(ValueError, match=r"bias: prior_bias: 3 classes have a bias of shape \(3,\), not \(4,\)"):
        init.apply(nn.Linear(8, 4, bias_init="zeros"), {"bias": init.prior_bias([1, 1, 2])})


# ------------------------------------------------------------------------------------------- sparse, alike, shared


@pytest.mark.parametrize(("connections", "expected"), [(15, 15), (1, 1), (500, 97), (0.25, 25), (0.001, 1)])
def test_a_sparse_unit_sees_just_so_many_inputs(connections, expected):
    w = draw(init.sparse(connections), (251, 97))
    assert ((w != 0).sum(1) == expected).all()


def test_the_inputs_a_sparse_unit_sees_are_chosen_evenly():
    """Chi-squared of the 97 columns' counts: mean 96 · (1 - 15/97), standard deviation about √(2 · 96)."""
    counts = (draw(init.sparse(), (5000, 97)) != 0).sum(0)
    expected = 5000 * 15 / 97
    assert abs(((counts - expected) ** 2 / expected).sum() - 96 * (1 - 15 / 97)) < GATE * math.sqrt(2 * 96)


def test_the_weights_of_a_sparse_unit_are_normal_and_centred():
    w = draw(init.sparse(std=0.3), (3000, 64, 3, 3))
    values = w[w != 0] / 0.3
    assert abs(values.mean()) < GATE / math.sqrt(values.size)
    assert abs((values**2).mean() - 1) < GATE * math.sqrt(2 / values.size)
    assert abs((values**4).mean() - 3) < GATE * math.sqrt(96 / values.size)


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.9])
def test_correlated_units_have_the_correlation_asked_for_and_hes_variance(rho):
    """Both are means over independent columns: rows x, y of unit variance have E xy = ρ, Var xy = 1 + ρ²."""
    n = 40_000
    w = draw(init.correlated_normal(rho), (3, n)) / math.sqrt(2 / n)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs((w[i] * w[j]).mean() - rho) < GATE * math.sqrt((1 + rho**2) / n)
        assert abs((w[i] ** 2).mean() - 1) < GATE * math.sqrt(2 / n)


def test_fully_correlated_units_and_units_that_share_a_draw_are_copies_of_one():
    for scheme in (init.correlated_normal(rho=1.0), init.shared_draw()):
        w = draw(scheme, (20, 5, 3, 3))
        assert (w == w[0]).all()
        assert np.unique(w[0]).size == w[0].size
        assert abs((w[0] ** 2).mean() * 45 / 2 - 1) < GATE * math.sqrt(2 / 45)


def test_layers_that_share_a_draw_are_equal_whatever_their_own_streams_are():
    scheme = init.shared_draw("layers")
    first, second = draw(scheme, (64, 64), seed=1), draw(scheme, (64, 64), seed=2)
    np.testing.assert_array_equal(first, second)
    assert (first != draw(init.shared_draw("layers", seed=5), (64, 64))).all()
    assert abs((first**2).mean() * 64 / 2 - 1) < GATE * math.sqrt(2 / first.size)
    assert init.coherence(first) == pytest.approx(math.sqrt(2 / (math.pi * 64)), rel=0.1)


# ---------------------------------------------------------------------------------------------------- delta-orthogonal


def norms_through_convolutions(scheme, layers=200, channels=12):
    """‖x‖ after so many circular convolutions, relative to the start, in float32."""
    x = images(2, channels, 6, 6)
    start = np.linalg.norm(fetch(x))
    model = nn.Sequential(
        *(nn.Conv2d(channels, channels, 3, padding=1, bias=False, padding_mode="circular") for _ in range(layers))
    )
    init.apply(model, scheme, seed=0)
    return np.linalg.norm(fetch(model(x))) / start


def test_delta_orthogonal_keeps_norms_through_200_circular_convolutions():
    assert abs(norms_through_convolutions("delta_orthogonal") - 1) < 1e-4


def test_a_convolution_that_is_orthogonal_as_a_matrix_alone_does_not():
    assert abs(norms_through_convolutions("orthogonal", layers=50) - 1) > 0.05


@pytest.mark.parametrize(("name", "isometric"), [("delta_orthogonal", True), ("orthogonal", False)])
def test_as_an_operator_delta_orthogonal_alone_has_all_singular_values_at_its_gain(name, isometric):
    values = init.singular_values(draw(init.get(name, gain=1.5), (10, 7, 3, 3)), image=(6, 5))
    assert values.shape == (6 * 5 * 7,)
    assert (abs(values - 1.5).max() < 1e-12) == isometric


def test_delta_orthogonal_with_fewer_outputs_has_orthonormal_rows():
    w = draw(init.delta_orthogonal(), (5, 9, 3, 3))
    np.testing.assert_allclose(w[:, :, 1, 1] @ w[:, :, 1, 1].T, np.eye(5), atol=1e-12)
    assert np.count_nonzero(w) == 45


def test_delta_orthogonal_of_a_grouped_convolution_keeps_norms():
    layer = nn.Conv2d(6, 12, 3, padding=1, groups=3, bias=False, padding_mode="circular", init="delta_orthogonal")
    x = images(1, 6, 5, 5)
    assert np.linalg.norm(fetch(layer(x))) == pytest.approx(np.linalg.norm(fetch(x)), rel=1e-6)


def test_semi_orthogonal_is_orthogonal_under_another_name():
    assert init.semi_orthogonal is init.orthogonal
    wide_to_narrow, narrow_to_wide = draw(init.orthogonal(), (20, 60)), draw(init.orthogonal(), (60, 20))
    x = np.random.default_rng(1).standard_normal((60, 4000))
    assert ((wide_to_narrow @ x) ** 2).mean() == pytest.approx(1, rel=0.03)  # the unit's second moment is kept
    np.testing.assert_allclose(np.linalg.norm(narrow_to_wide @ x[:20], axis=0), np.linalg.norm(x[:20], axis=0))


# -------------------------------------------------------------------------------------------------------- looks-linear


def crelu_network(scheme):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.CReLU(),
        nn.Conv2d(16, 6, 3, padding=1, bias=False),
        nn.CReLU(),
        nn.Flatten(),
        nn.Linear(12 * 16, 50, bias=False),
        nn.CReLU(),
        nn.Linear(100, 50, bias=False),
        nn.CReLU(),
        nn.Linear(100, 10, bias=False),
    )
    init.apply(model, scheme, seed=0)
    return lambda x: fetch(model(Tensor(x)))


def bend(network, shape):
    """How far ``f(2x - 3y) = 2 f(x) - 3 f(y)`` is from true, in units of the output's size."""
    x, y = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    straight = 2 * network(x) - 3 * network(y)
    return abs(network(2 * x - 3 * y) - straight).max() / abs(straight).max()


def test_a_crelu_network_that_looks_linear_is_linear():
    assert bend(crelu_network("looks_linear"), (5, 3, 4, 4)) < 1e-5
    assert bend(crelu_network("he_normal"), (5, 3, 4, 4)) > 0.1


def test_a_square_crelu_network_that_looks_linear_keeps_every_length():
    """The first layer has an even number of inputs, and is told that they are no pairs."""
    layers = [nn.Linear(32, 32, bias=False)]
    for _ in range(30):
        layers += [nn.CReLU(), nn.Linear(64, 32, bias=False)]
    model = nn.Sequential(*layers)
    init.apply(model, {"0.*": "orthogonal", "*": "looks_linear"}, seed=0)
    x = images(20, 32)
    lengths = np.linalg.norm(fetch(model(x)), axis=1) / np.linalg.norm(fetch(x), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_mirrored_outputs_make_a_plain_relu_network_linear():
    sizes = [5, 40, 40, 40, 3]
    layers = []
    for n, m in itertools.pairwise(sizes):
        layers += [nn.Linear(n, m, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    init.apply(model, init.looks_linear(mirror_outputs=True), seed=0)
    assert bend(lambda x: fetch(model(Tensor(x))), (6, 5)) < 1e-5


# -------------------------------------------------------------------------------------------------- identity-Hadamard


@pytest.mark.parametrize("shape", [(8, 3), (8, 8), (7, 3), (100, 33), (129, 128), (3, 10), (1, 1)])
def test_a_widening_hadamard_corner_has_full_rank_and_columns_of_known_length(shape):
    w = draw(init.identity_hadamard(), shape)
    assert np.linalg.matrix_rank(w) == min(shape)
    if shape[0] > shape[1]:
        size = 2 ** math.ceil(math.log2(shape[0]))
        np.testing.assert_allclose(abs(w), 1 / math.sqrt(size), rtol=1e-15)
        np.testing.assert_allclose(np.linalg.norm(w, axis=0), math.sqrt(shape[0] / size))


def test_widening_to_a_power_of_two_keeps_every_length():
    w = draw(init.identity_hadamard(), (64, 23))
    np.testing.assert_allclose(w.T @ w, np.eye(23), atol=1e-14)


@pytest.mark.parametrize("shape", [(6, 4), (4, 4), (3, 7)])
def test_the_hadamard_matrix_is_sylvesters(shape):
    """By its recursion H_2p = [[H, H], [H, -H]], which the code does not use."""
    size = 2 ** math.ceil(math.log2(shape[0]))
    h = np.ones((1, 1))
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    expected = h[: shape[0], : shape[1]] / math.sqrt(size) if shape[0] > shape[1] else np.eye(*shape)
    np.testing.assert_allclose(draw(init.identity_hadamard(), shape), expected, rtol=1e-15)


def rank_of_what_training_adds(scheme):
    """To a hidden layer 32 → 32 of a ReLU network with 4 inputs, in 20 steps of gradient descent."""
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    init.apply(model, {"4.*": "lecun_normal", "*": scheme}, seed=0)
    model.to("float64")
    rng = np.random.default_rng(1)
    x, y = Tensor(rng.standard_normal((200, 4))), Tensor(rng.integers(3, size=200))
    hidden = list(model)[2].weight
    before = fetch(hidden).copy()
    weights = [p for path, p in model.named_parameters() if path.endswith("weight")]
    for _ in range(20):
        for p, g in zip(weights, grad(ops.cross_entropy(model(x), y), weights), strict=True):
            p.data = p.data - 0.3 * g.data
    return np.linalg.matrix_rank(fetch(hidden) - before, tol=1e-9)


def test_the_identity_confines_a_hidden_layer_to_the_rank_of_the_input_and_hadamard_sets_it_free():
    assert rank_of_what_training_adds("identity") <= 4
    assert rank_of_what_training_adds("identity_hadamard") > 4


# ----------------------------------------------------------------------------------------------------- edge of chaos

# σ_b² -> σ_w² and the fixed point of tanh, from the table of the science notes
TANH_EDGE = {
    2.01e-5: 1.05000,
    0.0025: 1.26009,
    0.01: 1.42421,
    0.05: 1.76095,
    0.1: 1.98607,
    0.25: 2.40149,
    1.0: 3.44321,
}
TANH_EDGE_BY_Q = {
    0.1: (1.17757, 8.323e-4),
    0.5: (1.68798, 0.038041),
    1.0: (2.15330, 0.150965),
    3.0: (3.42446, 0.981491),
}
ERF_EDGE_BY_Q = {0.1: (0.92930, 9.364e-4), 0.5: (1.36035, 0.046550), 1.0: (1.75620, 0.184140)}


@pytest.mark.parametrize(("bias_variance", "weight_variance"), TANH_EDGE.items())
def test_the_edge_of_chaos_of_tanh_is_the_published_one(bias_variance, weight_variance):
    point = init.critical_point("tanh", math.sqrt(bias_variance))
    assert point.sigma_w**2 == pytest.approx(weight_variance, abs=6e-6)


@pytest.mark.parametrize(
    ("activation", "q", "variances"),
    [("tanh", q, v) for q, v in TANH_EDGE_BY_Q.items()] + [("erf", q, v) for q, v in ERF_EDGE_BY_Q.items()],
)
def test_the_edge_of_chaos_has_the_published_fixed_point(activation, q, variances):
    point = init.critical_point(activation, math.sqrt(variances[1]))
    assert point.q == pytest.approx(q, rel=1e-3)
    assert point.sigma_w**2 == pytest.approx(variances[0], abs=6e-5)


@pytest.mark.parametrize(
    ("activation", "weight_variance"),
    [("tanh", 1.0), ("relu", 2.0), ("erf", math.pi / 4), ("linear", 1.0), ("hard_tanh", 1.0), (np.sin, 1.0)],
)
def test_without_biases_the_edge_is_where_the_slope_at_zero_is_undone(activation, weight_variance):
    assert init.critical_point(activation) == pytest.approx((math.sqrt(weight_variance), 0.0), rel=1e-6)


def test_the_edge_of_chaos_of_sigmoid_lies_where_two_units_of_three_are_saturated():
    """σ_w = 10.15, q = 45.6, by integrals in z of their own; outside (.05, .95) a unit counts as saturated."""
    sigma_w, q = init.critical_point("sigmoid")
    z = np.linspace(-12 * math.sqrt(q), 12 * math.sqrt(q), 400_001)
    density = np.exp(-(z**2) / (2 * q)) / math.sqrt(2 * math.pi * q) * (z[1] - z[0])
    h = 1 / (1 + np.exp(-z))
    assert sigma_w**2 * density @ (h * (1 - h)) ** 2 == pytest.approx(1, abs=1e-6)  # χ₁
    assert sigma_w**2 * density @ h**2 == pytest.approx(q, rel=1e-6)
    assert (sigma_w, q) == pytest.approx((10.15, 45.6), rel=1e-3)
    assert density @ ((h < 0.05) | (h > 0.95)) == pytest.approx(2 / 3, abs=0.01)


def growth_of_a_small_difference(scheme, sigma_b, layers=12, width=700):
    """The factor per layer on the squared distance of two neighbours, after the signal has settled."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((width, 1)) * np.ones((1, 2))
    bias = init.normal(std=sigma_b)
    squares = []
    for layer in range(15 + layers):
        if layer == 15:
            x[:, 1] += 1e-4 * rng.standard_normal(width)
        w = draw(scheme, (width, width), seed=layer)
        b = bias((width, 1), fan_in=None, fan_out=None, rng=rng, dtype=np.float64)
        x = np.tanh(w @ x + b)
        squares.append(((x[:, 0] - x[:, 1]) ** 2).sum())
    return (squares[-1] / squares[-layers]) ** (1 / (layers - 1))


def test_at_the_edge_of_chaos_a_small_difference_neither_dies_out_nor_grows():
    """11 steps of width 700: one standard error of the mean factor is about √(2/(700 · 11)) = 1.6 %; gate of 4."""
    sigma_b = math.sqrt(0.05)
    assert growth_of_a_small_difference(init.edge_of_chaos("tanh", sigma_b), sigma_b) == pytest.approx(1, abs=0.065)
    assert growth_of_a_small_difference(init.lecun_normal(), sigma_b) < 0.8
    assert growth_of_a_small_difference(init.variance_scaling(3.0), sigma_b) > 1.15


def test_the_straight_line_at_zero_gives_the_known_schemes_back():
    assert repr(init.kumar()) == "kumar(activation='sigmoid'): W ~ N(0, 12.8/fan_in)"  # 3.58² = 1/((1/16)(1 + 1/4))
    for activation, scheme in (("tanh", init.lecun_normal()), ("relu", init.he_normal())):
        np.testing.assert_allclose(draw(init.kumar(activation), (9, 7)), draw(scheme, (9, 7)), rtol=1e-9)


def test_the_output_of_mup_shrinks_with_the_width_and_is_lecun_at_the_base():
    output = init.mup("output", base_width=64)
    np.testing.assert_allclose(draw(output, (10, 64)), draw(init.lecun_normal(), (10, 64)), rtol=1e-12)
    std = {n: draw(output, (2000, n)).std() for n in (64, 256)}
    assert std[64] / std[256] == pytest.approx(4, rel=0.02)  # not 2


# ------------------------------------------------------------------------------------------------------------- advice


@pytest.mark.parametrize("activation", [*meanfield.ACTIVATIONS, "crelu", np.sin])
@pytest.mark.parametrize("how", [{}, {"depth": 50}, {"residual": True}, {"norm": True}, {"norm": True, "depth": 50}])
def test_there_is_advice_for_every_activation_with_one_sentence_and_a_source(activation, how):
    advice = init.recommend(activation, **how)
    assert isinstance(advice.scheme, init.Initializer)
    assert advice.source
    assert not advice.reason.endswith(".") and ". " not in advice.reason and "\n" not in advice.reason
    assert draw(advice.scheme, (6, 4)).shape == (6, 4)
    assert str(advice) == f"{advice.scheme}: {advice.reason} [{advice.source}]"


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "selu"])
def test_the_advice_for_a_lopsided_activation_keeps_the_second_moment(activation):
    w = draw(init.recommend(activation).scheme, (400, 400))
    assert 400 * w.var() * meanfield.gaussian_moments(activation).square == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("activation", ["tanh", "erf", "softsign", "hard_tanh", "linear"])
def test_the_advice_for_an_odd_activation_keeps_a_weak_signal(activation):
    for depth in (None, 50):
        w = draw(init.recommend(activation, depth=depth).scheme, (400, 400))
        assert 400 * w.var() * meanfield.gaussian_moments(activation, 1e-8).slope_square == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("activation", "how", "scheme", "said"),
    [
        ("relu", {}, "he_normal", "0.5 of the second moment"),
        ("relu", {"depth": 50}, "orthogonal(gain=1.4142)", "flattens"),
        ("relu", {"depth": 50, "norm": True}, "he_normal", "1.47"),
        ("leaky_relu", {}, "he_normal(negative_slope=0.01)", "leaky_relu"),
        ("tanh", {}, "glorot_normal", "symmetric"),
        ("tanh", {"depth": 20}, "orthogonal", "edge of chaos"),
        ("erf", {}, "glorot_normal(gain=0.8862)", "symmetric"),
        ("selu", {"depth": 50}, "lecun_normal", "fixed point"),
        ("sigmoid", {}, "sigmoid_glorot", "take tanh"),
        ("crelu", {}, "looks_linear", "linear map"),
        ("crelu", {"residual": True}, "looks_linear", "'orthogonal'; without normalization every block"),
        ("crelu", {"norm": True}, "looks_linear", "'orthogonal'; normalization undoes"),
        ("gelu", {}, "variance_scaling(scale=2.3517)", "1.534"),
        ("relu", {"residual": True}, "he_normal", "init.fixup(model)"),
        ("relu", {"residual": True, "norm": True, "depth": 50}, "he_normal", "init.zero_gamma(model)"),
    ],
)
def test_the_advice_is(activation, how, scheme, said):
    advice = init.recommend(activation, **how)
    assert str(advice.scheme) == scheme
    assert said in advice.reason


def test_advice_is_refused_for_what_is_no_activation_and_no_depth():
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        init.recommend("rellu")
    with pytest.raises(ValueError, match="at least 1; got 0"):
        init.recommend("relu", depth=0)
    with pytest.raises(TypeError, match="an activation is a name or a function"):
        init.recommend(3)
    with pytest.raises(ValueError, match="has no forward gain"):
        init.recommend(lambda x: 0 * x)


# ------------------------------------------------------------------------------------------------ coherence, spectra


def test_the_coherence_of_three_units_is_the_mean_of_three_cosines():
    w = np.array([[1.0, 0], [0, -2], [3, 3]])
    assert init.coherence(w) == pytest.approx((0 + 2 * math.sqrt(0.5)) / 3)


@pytest.mark.parametrize("n", [64, 256, 784])
def test_independent_units_have_the_coherence_of_random_directions(n):
    """2000 units: the mean over pairs scatters by less than 1 part in 300."""
    assert init.coherence(draw(init.he_normal(), (2000, n))) == pytest.approx(math.sqrt(2 / (math.pi * n)), rel=0.01)


@pytest.mark.parametrize(("rho", "least"), [(0.25, 0.2), (0.9, 0.85)])
def test_planted_correlated_units_are_seen_by_the_coherence_and_not_by_the_variance(rho, least):
    w = draw(init.correlated_normal(rho), (300, 256))
    assert w.var() * 256 / 2 == pytest.approx(1, rel=0.2)
    assert init.coherence(w) > max(least, 1.5 * math.sqrt(2 / (math.pi * 256)))


def test_orthogonal_units_have_coherence_zero_copies_one_and_zeros_none():
    assert init.coherence(draw(init.orthogonal(), (30, 4, 3, 3))) == pytest.approx(0, abs=1e-14)
    assert init.coherence(draw(init.shared_draw(), (5, 9))) == pytest.approx(1)
    assert math.isnan(init.coherence(np.zeros((4, 4)))) and math.isnan(init.coherence(np.ones((1, 4))))
    assert init.coherence([[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]] * np.ones(2)) == pytest.approx(
        1
    )  # a zero row is no unit


def test_the_coherence_of_a_layer_is_read_from_its_parameter_and_in_parts():
    layer = nn.Linear(40, 2500)
    w = fetch(layer.weight).astype(np.float64)
    units = w / np.linalg.norm(w, axis=1, keepdims=True)
    cosines = abs(units @ units.T)[np.triu_indices(2500, 1)]
    assert init.coherence(layer.weight) == pytest.approx(cosines.mean(), rel=1e-12)


def test_singular_values_of_a_gaussian_square_have_the_published_mean_and_those_of_torchs_default_too():
    """8/(3π) = 0.8488 for variance 1/n, and 1/√3 of it: the Jacobians of Glorot & Bengio, section 4.2.1."""
    for scheme, mean, largest in ((init.lecun_normal(), 0.8488, 2.0), (init.torch_default(), 0.4901, 2 / math.sqrt(3))):
        values = init.singular_values(draw(scheme, (256, 256)))
        assert values.mean() == pytest.approx(mean, rel=0.01)
        assert values[0] == pytest.approx(largest, rel=0.03)
        assert (np.diff(values) <= 0).all()


def test_the_singular_values_of_a_convolution_are_those_of_its_matrix():
    """The matrix column by column: what the layer does to every image with a single pixel."""
    layer = nn.Conv2d(2, 3, 3, padding=1, bias=False, padding_mode="circular").to("float64")
    pixels = np.eye(2 * 4 * 5).reshape(-1, 2, 4, 5)
    matrix = fetch(layer(Tensor(pixels))).reshape(len(pixels), -1).T
    expected = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(init.singular_values(layer.weight, image=(4, 5)), expected, atol=1e-12)


def test_what_has_no_spectrum_is_refused():
    with pytest.raises(ValueError, match="at least two axes"):
        init.singular_values(np.ones(3))
    with pytest.raises(ValueError, match="at least two axes"):
        init.coherence(np.ones(3))
    with pytest.raises(ValueError, match=r"an image of 2×9 needs a weight .* got shape \(3, 2, 3, 3\)"):
        init.singular_values(np.ones((3, 2, 3, 3)), image=(2, 9))
