"""PyTorch's ``nn.init`` beside minidl's schemes: where both have one, the same law; where they differ, just so.

Laws are compared by two samples of 30 000 weights: Kolmogorov-Smirnov, D √(N/2) < 2.55 (false alarms 4.5e-6 each), and
variances within 5 standard errors of their difference. Seeds are fixed.
"""

import math

import numpy as np
import pytest
from oracle import torch

from minidl import init, nn

pytestmark = pytest.mark.oracle
t = torch.nn
SHAPE = (200, 150)
KS_GATE, GATE = 2.55, 5.0


def ours(scheme, shape=SHAPE, fans=None, seed=0):
    taps = math.prod(shape[2:])
    fan_in, fan_out = fans or (shape[1] * taps, shape[0] * taps)
    rng = np.random.default_rng(seed)
    return scheme(shape, fan_in=fan_in, fan_out=fan_out, rng=rng, dtype=np.float32).astype(np.float64)


def theirs(fill, shape=SHAPE, **settings):
    return fill(torch.empty(shape), generator=torch.Generator().manual_seed(0), **settings).numpy().astype(np.float64)


def same_law(a, b):
    """Whether two samples may come from one law."""
    a, b = np.sort(a.ravel()), np.sort(b.ravel())
    points = np.concatenate([a, b])
    distance = abs(np.searchsorted(a, points, "right") / a.size - np.searchsorted(b, points, "right") / b.size).max()
    effective = a.size * b.size / (a.size + b.size)
    variance_ratio = (a**2).mean() / (b**2).mean()
    return distance * math.sqrt(effective) < KS_GATE and abs(variance_ratio - 1) < GATE * math.sqrt(2 / effective)


SAME = {
    "normal": (init.normal(std=0.3), t.init.normal_, {"std": 0.3}),
    "uniform": (init.uniform(-0.2, 0.4), t.init.uniform_, {"a": -0.2, "b": 0.4}),
    "glorot_normal": (init.glorot_normal(5 / 3), t.init.xavier_normal_, {"gain": 5 / 3}),
    "glorot_uniform": (init.glorot_uniform(), t.init.xavier_uniform_, {}),
    "he_normal": (init.he_normal(), t.init.kaiming_normal_, {"nonlinearity": "relu"}),
    "he_normal, fan_out": (
        init.he_normal("fan_out"),
        t.init.kaiming_normal_,
        {"mode": "fan_out", "nonlinearity": "relu"},
    ),
    "he_uniform, leaky": (init.he_uniform(negative_slope=0.3), t.init.kaiming_uniform_, {"a": 0.3}),
    "lecun_normal": (init.lecun_normal(), t.init.kaiming_normal_, {"nonlinearity": "linear"}),
    "torch_default": (init.torch_default(), t.init.kaiming_uniform_, {"a": math.sqrt(5)}),
    "orthogonal": (init.orthogonal(1.3), t.init.orthogonal_, {"gain": 1.3}),
    # cut at ±2σ: PyTorch wants the bounds as numbers, and restores nothing
    "truncated_normal": (
        init.truncated_normal(std=0.3, correct=False),
        t.init.trunc_normal_,
        {"std": 0.3, "a": -0.6, "b": 0.6},
    ),
    "keras_2_0_9": (
        init.keras_2_0_9(),
        t.init.trunc_normal_,
        {"std": math.sqrt(2 / 150), "a": -2 * math.sqrt(2 / 150), "b": 2 * math.sqrt(2 / 150)},
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_a_scheme_that_both_have_follows_one_law(name):
    scheme, fill, settings = SAME[name]
    assert same_law(ours(scheme), theirs(fill, **settings))


@pytest.mark.parametrize("name", SAME)
def test_a_variance_off_by_a_tenth_would_be_seen(name):
    scheme, fill, settings = SAME[name]
    assert not same_law(math.sqrt(1.1) * ours(scheme), theirs(fill, **settings))


@pytest.mark.parametrize("shape", [(12, 5, 3, 3), (8, 4, 1, 5), (7, 3)])
def test_the_identity_is_pytorchs_eye_and_dirac(shape):
    fill = t.init.eye_ if len(shape) == 2 else t.init.dirac_
    np.testing.assert_array_equal(ours(init.identity(), shape), fill(torch.empty(shape)).numpy())


def test_the_identity_of_a_grouped_convolution_is_pytorchs_dirac_with_the_groups_said():
    shape = (12, 2, 3, 3)
    mine = init.identity()(shape, fan_in=None, fan_out=None, rng=np.random.default_rng(0), groups=3)
    np.testing.assert_array_equal(mine, t.init.dirac_(torch.empty(shape), groups=3).numpy())


def test_both_read_a_convolution_as_the_same_matrix_when_it_is_orthogonal():
    shape = (9, 4, 3, 3)
    for w in (ours(init.orthogonal(), shape), theirs(t.init.orthogonal_, shape)):
        np.testing.assert_allclose(w.reshape(9, -1) @ w.reshape(9, -1).T, np.eye(9), atol=1e-5)


@pytest.mark.parametrize(
    ("mine", "layer"),
    [
        (lambda: nn.Linear(150, 200, init="torch_default", bias_init="torch_default"), lambda: t.Linear(150, 200)),
        (
            lambda: nn.Conv2d(12, 100, 5, groups=2, init="torch_default", bias_init="torch_default"),
            lambda: t.Conv2d(12, 100, 5, groups=2),
        ),
    ],
    ids=["dense", "grouped convolution"],
)
def test_torchs_default_is_what_pytorchs_layers_have_weight_and_bias(mine, layer):
    torch.manual_seed(0)
    model, twins = mine(), [layer() for _ in range(30)]
    init.apply(model, seed=0)
    assert same_law(model.weight.numpy().astype(float), np.stack([x.weight.detach().numpy() for x in twins]))
    drawn = []
    for seed in range(30):
        init.apply(model, seed=seed)
        drawn.append(model.bias.numpy().astype(float))
    assert same_law(np.stack(drawn), np.stack([x.bias.detach().numpy() for x in twins]))


def their_fans(layer):
    return t.init._calculate_fan_in_and_fan_out(layer.weight)


def test_the_fans_of_a_dense_layer_and_of_a_convolution_are_pytorchs():
    assert init.dense_fans(7, 4) == their_fans(t.Linear(7, 4))
    for kernel in (3, (5, 2)):
        assert init.conv_fans(6, 10, kernel) == their_fans(t.Conv2d(6, 10, kernel))


# ------------------------------------------------------------------------------------------------- the differences


def test_the_fans_of_grouped_and_transposed_convolutions_are_not_pytorchs():
    """It reads them off the shape: fan_out of all groups together, and a transposed layer's the wrong way round."""
    assert their_fans(t.Conv2d(6, 12, 3, groups=3)) == (18, 3 * 36)
    assert init.conv_fans(6, 12, 3, groups=3) == (18, 36)
    assert their_fans(t.ConvTranspose2d(6, 12, 4, stride=2)) == (12 * 16, 6 * 16)
    assert init.conv_transpose_fans(6, 12, 4, stride=2) == (6 * 4, 12 * 16)


def test_pytorchs_orthogonal_takes_all_groups_for_one_matrix():
    """A depthwise 3×3 layer of 60 channels: orthonormal columns, so that a filter has length √(9/60) and not 1."""
    other = theirs(t.init.orthogonal_, (60, 1, 3, 3)).reshape(60, 9)
    np.testing.assert_allclose(other.T @ other, np.eye(9), atol=1e-5)
    layer = nn.Conv2d(60, 60, 3, groups=60, init="orthogonal")
    np.testing.assert_allclose((layer.weight.numpy() ** 2).sum((1, 2, 3)), 1, rtol=1e-5)


def test_pytorchs_bounds_of_a_truncation_are_absolute_so_that_its_default_never_cuts():
    """The usual std = 0.02 with the default a = -2, b = 2 cuts at 100 standard deviations. Ours cuts at 2."""
    uncut = theirs(t.init.trunc_normal_, std=0.02)
    assert abs(uncut).max() > 0.06
    assert same_law(uncut, ours(init.normal(std=0.02)))
    assert abs(ours(init.truncated_normal(std=0.02, correct=False))).max() <= 0.04


def test_pytorchs_tanh_and_selu_gains_are_no_moments_of_them():
    assert t.init.calculate_gain("tanh") == 5 / 3 != pytest.approx(init.gain("tanh"), abs=0.05)
    assert t.init.calculate_gain("selu") == 3 / 4 != pytest.approx(init.gain("selu"), abs=0.2)
    assert init.gain("selu") == pytest.approx(1)
    assert t.init.calculate_gain("sigmoid") == 1 != pytest.approx(init.gain("sigmoid"), abs=0.8)


def test_pytorchs_he_takes_leaky_relu_for_granted_and_its_layers_sqrt_five():
    """``kaiming_uniform_`` alone has a = 0, gain √2; ``Linear`` calls it with a = √5: limit 1/√n, a sixth of He's."""
    he = theirs(t.init.kaiming_uniform_)
    assert same_law(he, ours(init.he_uniform()))
    torch.manual_seed(0)
    layer = t.Linear(150, 200).weight.detach().numpy()
    assert (layer**2).mean() / (he**2).mean() == pytest.approx(1 / 6, rel=0.03)
    assert abs(layer).max() <= 1 / math.sqrt(150)


def test_pytorch_does_not_divide_the_fan_out_of_a_grouped_convolution_by_its_groups():
    """A depthwise layer with 40 channels gets a fortieth of the variance that keeps its gradient."""
    shape, fans = (40, 1, 5, 5), init.conv_fans(40, 40, 5, groups=40)
    mine = ours(init.he_normal("fan_out"), shape, fans)
    other = theirs(t.init.kaiming_normal_, shape, mode="fan_out", nonlinearity="relu")
    assert (mine**2).mean() / (other**2).mean() == pytest.approx(40, rel=0.3)


def test_pytorch_reads_the_fan_in_of_a_transposed_convolution_off_its_outputs():
    """Limit 1/√(C_out k²) in PyTorch; an output sums C_in k²/s² terms."""
    torch.manual_seed(0)
    other = abs(t.ConvTranspose2d(40, 24, 5, stride=2).weight.detach().numpy()).max()
    mine = abs(ours(init.torch_default(), (40, 24, 5, 5), init.conv_transpose_fans(40, 24, 5, stride=2))).max()
    assert other == pytest.approx(1 / math.sqrt(24 * 25), rel=1e-3)
    assert mine == pytest.approx(1 / math.sqrt(40 * 25 / 4), rel=1e-3)


def test_pytorchs_sparse_thins_out_columns_and_ours_rows():
    """An input loses a share of its units there; a unit has a fixed number of inputs here."""
    other = t.init.sparse_(torch.empty(200, 150), sparsity=0.9).numpy()
    assert set((other != 0).sum(0)) == {20} and len(set((other != 0).sum(1))) > 1
    mine = ours(init.sparse(20))
    assert set((mine != 0).sum(1)) == {20} and len(set((mine != 0).sum(0))) > 1
    assert other[other != 0].std() == pytest.approx(0.01, rel=0.05)


def test_pytorchs_normal_is_whole_where_keras_and_jax_cut():
    beyond = [(abs(w) > 2 * math.sqrt(2 / 150)).mean() for w in (ours(init.he_normal()), ours(init.keras_2_0_9()))]
    assert beyond[0] == pytest.approx(0.0455, rel=0.1) and beyond[1] == 0
    assert (abs(theirs(t.init.kaiming_normal_)) > 2 * math.sqrt(2 / 150)).mean() == pytest.approx(0.0455, rel=0.1)


def test_pytorch_refuses_a_dimension_without_fans_and_minidl_asks_for_them():
    with pytest.raises(ValueError, match="fewer than 2 dimensions"):
        t.init.kaiming_normal_(torch.empty(5))
    with pytest.raises(ValueError, match="fan_in must be a positive number, got None"):
        init.he_normal()((5,), fan_in=None, fan_out=None, rng=np.random.default_rng(0))
    assert ours(init.he_normal(), (5,), (3, 5)).shape == (5,)
