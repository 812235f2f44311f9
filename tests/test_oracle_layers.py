"""Every layer, activation and loss against PyTorch in float64: forward, gradients and second derivatives to 1e-10."""

import numpy as np
import pytest
from conftest import fetch, tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import agree, check, check_layer, torch, twins

from minidl import nn, ops
from minidl.ops.conv import pair
from minidl.ops.nonlinear import ACTIVATIONS

F = torch.nn.functional
pytestmark = pytest.mark.oracle
thorough = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def normal(*shape, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def two(low, high):
    """One number for both axes, or one for each."""
    return st.integers(low, high) | st.tuples(st.integers(low, high), st.integers(low, high))


# ------------------------------------------------------------------------------------------------- layers with weights


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(7,), (1,), (2, 3), (2, 1, 5)])
def test_linear_is_pytorchs(leading, bias):
    check_layer(nn.Linear(5, 3, bias=bias), torch.nn.Linear(5, 3, bias=bias), normal(*leading, 5))


conv_options = {
    "kernel_size": two(1, 3),
    "stride": two(1, 3),
    "dilation": two(1, 2),
    "groups": st.integers(1, 3),
    "bias": st.booleans(),
}


@thorough
@given(
    options=st.fixed_dictionaries({**conv_options, "padding": two(0, 3)}),
    mode=st.sampled_from(["zeros", "circular"]),
    per_group=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    image=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    seed=st.integers(0, 9),
)
def test_conv2d_is_pytorchs(options, mode, per_group, image, seed):
    channels = [n * options["groups"] for n in per_group]
    x = normal(2, channels[0], *image, seed=seed)
    layer = nn.Conv2d(*channels, **options, padding_mode=mode)
    check_layer(layer, torch.nn.Conv2d(*channels, **options, padding_mode=mode), x, seed)


@thorough
@given(
    options=st.fixed_dictionaries({**conv_options, "padding": two(0, 1)}),
    extra=two(0, 2),
    per_group=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    image=st.tuples(st.integers(3, 6), st.integers(3, 6)),
    seed=st.integers(0, 9),
)
def test_transposed_conv2d_is_pytorchs(options, extra, per_group, image, seed):
    (sh, sw), (eh, ew) = pair(options["stride"]), pair(extra)
    options["output_padding"] = min(eh, sh - 1), min(ew, sw - 1)  # more is refused: see the next test
    channels = [n * options["groups"] for n in per_group]
    x = normal(2, channels[0], *image, seed=seed)
    check_layer(nn.ConvTranspose2d(*channels, **options), torch.nn.ConvTranspose2d(*channels, **options), x, seed)


def test_output_padding_is_below_the_stride_where_pytorch_allows_it_below_the_dilation_too():
    """Such an output has more places than the convolution it reverses: a shape no network needs, so ours refuses it."""
    torch.nn.ConvTranspose2d(1, 1, 3, dilation=2, output_padding=1)(torch.zeros(1, 1, 3, 3))
    with pytest.raises(ValueError, match=r"output_padding \(1, 1\) must be smaller than the stride \(1, 1\)"):
        nn.ConvTranspose2d(1, 1, 3, dilation=2, output_padding=1)(tensor(np.zeros((1, 1, 3, 3), "float32")))


WEIGHT_NORMED = {
    "linear": ("Linear", (5, 4), {}, (6, 5), 0),
    "linear without bias": ("Linear", (5, 1), {"bias": False}, (6, 5), 0),
    "conv": ("Conv2d", (3, 4, (3, 2)), {"stride": 2, "padding": 1}, (2, 3, 7, 5), 0),
    "grouped conv": ("Conv2d", (4, 6, 3), {"groups": 2}, (2, 4, 5, 7), 0),
    "transposed conv": ("ConvTranspose2d", (3, 2, 3), {"stride": 2}, (2, 3, 3, 4), 1),  # units lie on axis 1
}


def weight_norms(case):
    """Ours, PyTorch's, the shape of an input, and pairs of (gain, v[, bias])."""
    kind, sizes, options, shape, axis = WEIGHT_NORMED[case]
    layer = nn.WeightNorm(getattr(nn, kind)(*sizes, **options))
    theirs = torch.nn.utils.parametrizations.weight_norm(getattr(torch.nn, kind)(*sizes, **options), dim=axis)
    stored = theirs.parametrizations.weight
    pairs = [(layer.gain, stored.original0), (layer.weight, stored.original1)]
    pairs += [] if layer.bias is None else [(layer.bias, theirs.bias)]
    return layer, theirs, shape, twins(layer, theirs, pairs=pairs)


@pytest.mark.parametrize("case", WEIGHT_NORMED)
def test_weight_norm_is_pytorchs(case):
    layer, theirs, shape, pairs = weight_norms(case)
    check(layer, theirs, normal(*shape), pairs=pairs, second=False)


@pytest.mark.parametrize("case", WEIGHT_NORMED)
def test_second_derivatives_of_weight_norm_are_those_of_the_formula_in_pytorch(case):
    """Not those of PyTorch's own weight_norm: its second derivatives treat ‖v‖ as constant (torch 2.13, CPU).

    Central differences of its first derivatives differ from them by their own size, and agree with ours to 1e-9.
    """
    layer, theirs, shape, pairs = weight_norms(case)
    axis = WEIGHT_NORMED[case][4]
    gain, v = (q for _, q in pairs[:2])
    others = [i for i in range(v.ndim) if i != axis]

    def formula(x):
        weight = v * gain / v.square().sum(dim=others, keepdim=True).sqrt()
        options = {k: value for k, value in WEIGHT_NORMED[case][2].items() if k != "bias"}
        function = getattr(F, {"Linear": "linear", "Conv2d": "conv2d"}.get(WEIGHT_NORMED[case][0], "conv_transpose2d"))
        return function(x, weight, theirs.bias, **options)

    check(layer, formula, normal(*shape), pairs=pairs)


def test_weight_norm_starts_with_pytorchs_gain():
    layer = nn.WeightNorm(nn.Conv2d(3, 4, (3, 2)).to("float64"))
    theirs = torch.nn.Conv2d(3, 4, (3, 2)).double()
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(fetch(layer.weight)))
    agree(layer.gain, torch.nn.utils.parametrizations.weight_norm(theirs).parametrizations.weight.original0)


# -------------------------------------------------------------------------------------------------------------- pooling


@thorough
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.none() | two(1, 3),
    wanted=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    image=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    seed=st.integers(0, 9),
)
def test_pooling_is_pytorchs(kernel, stride, wanted, image, seed):
    padding = tuple(min(p, k // 2) for p, k in zip(wanted, kernel, strict=True))  # more is refused by both
    x = normal(2, 3, *image, seed=seed) - 2.0  # mostly negative: zeros in the frame must not win
    for kind in ("MaxPool2d", "AvgPool2d"):
        check(getattr(nn, kind)(kernel, stride, padding), getattr(torch.nn, kind)(kernel, stride, padding), x)


def test_max_pooling_sends_a_tie_where_pytorch_sends_it():
    """To the first maximum of the window in reading order; small whole numbers are full of ties."""
    x = np.random.default_rng(0).integers(0, 3, size=(2, 3, 8, 9)).astype("float64")
    check(nn.MaxPool2d(3, 2, 1), torch.nn.MaxPool2d(3, 2, 1), x)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 1, 1, 4), (1, 2, 1, 1)])
def test_global_average_pooling_is_pytorchs(shape):
    check(nn.GlobalAvgPool2d(), lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), normal(*shape))


# ------------------------------------------------------------------------------------ normalization, dropout, structure

NORMED = [
    ("BatchNorm1d", (7, 5)),
    ("BatchNorm1d", (2, 3)),
    ("BatchNorm2d", (3, 2, 5, 4)),
    ("BatchNorm2d", (1, 3, 3, 1)),
]


def batch_norms(kind, channels, **options):
    layer, theirs = getattr(nn, kind)(channels, **options), getattr(torch.nn, kind)(channels, **options)
    return layer, theirs, twins(layer, theirs)


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1, "momentum": 0.3}])
@pytest.mark.parametrize(("kind", "shape"), NORMED)
def test_batch_norm_in_training_is_pytorchs(kind, shape, options):
    layer, theirs, pairs = batch_norms(kind, shape[1], **options)
    check(layer, theirs, normal(*shape, scale=3.0) + 1.0, pairs=pairs)


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1, "momentum": 0.3}])
@pytest.mark.parametrize(("kind", "shape"), NORMED)
def test_batch_norm_keeps_pytorchs_running_statistics_and_uses_them_in_evaluation(kind, shape, options):
    layer, theirs, pairs = batch_norms(kind, shape[1], **options)
    for seed in range(5):
        x = normal(*shape, seed=seed, scale=1.0 + seed) + seed
        layer(tensor(x))
        theirs(torch.from_numpy(x))
        agree(layer.running_mean, theirs.running_mean, what="running mean")
        agree(layer.running_var, theirs.running_var, what="running variance")
    layer.eval()
    theirs.eval()
    check(layer, theirs, normal(*shape, seed=9), pairs=pairs)
    agree(layer.running_var, theirs.running_var, what="running variance after evaluation")


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_dropout_is_pytorchs_product_with_the_same_mask(p):
    """The two libraries draw different masks: ours is read off its output and handed to PyTorch's formula."""
    layer, x = nn.Dropout(p), normal(40, 50)
    layer.after_init(np.random.default_rng(0))
    ours, theirs = tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y = layer(ours)
    mask = fetch(y) != 0
    assert abs(mask.mean() - (1 - p)) < 5 * (p * (1 - p) / mask.size) ** 0.5  # false alarm: 1 in 1.7 million
    z = theirs * torch.from_numpy(mask) / (1 - p)
    agree(y, z)
    c = normal(40, 50, seed=1)
    y.backward(tensor(c).data)
    z.backward(torch.from_numpy(c))
    agree(ours.grad, theirs.grad)


def test_dropout_in_evaluation_is_pytorchs():
    check(nn.Dropout(0.4).eval(), torch.nn.Dropout(0.4).eval(), normal(5, 3))


class Sum(torch.nn.Module):
    """A residual block in PyTorch, written out."""

    def __init__(self, branch, shortcut=None, activation=None):
        super().__init__()
        self.branch, self.shortcut, self.activation = branch, shortcut, activation

    def forward(self, x):
        y = self.branch(x) + (x if self.shortcut is None else self.shortcut(x))
        return y if self.activation is None else self.activation(y)


class Side(torch.nn.Module):
    """Branches side by side in PyTorch, written out."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = torch.nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def bottleneck(lib):
    return lib.Sequential(lib.Conv2d(3, 4, 3, 2, 1, bias=False), lib.BatchNorm2d(4), lib.ReLU(), lib.Conv2d(4, 6, 1))


def test_residual_blocks_are_pytorchs():
    x = normal(2, 3, 5, 7)
    check_layer(nn.Residual(nn.Conv2d(3, 3, 3, padding=1)), Sum(torch.nn.Conv2d(3, 3, 3, padding=1)), x)
    ours = nn.Residual(bottleneck(nn), nn.Conv2d(3, 6, 1, stride=2), "relu")
    check_layer(ours, Sum(bottleneck(torch.nn), torch.nn.Conv2d(3, 6, 1, stride=2), torch.nn.ReLU()), x)


def test_concatenated_branches_are_pytorchs():
    def branches(lib):
        return (
            lib.Conv2d(3, 1, 1),
            lib.Sequential(lib.Conv2d(3, 2, 3, padding=1), lib.Tanh()),
            lib.MaxPool2d(3, stride=1, padding=1),
        )

    check_layer(nn.Concat(*branches(nn)), Side(*branches(torch.nn)), normal(2, 3, 5, 4))


def test_a_residual_block_may_hold_branches_and_be_flattened():
    def parts(lib):
        return lib.Conv2d(2, 1, 3, padding=1), lib.Conv2d(2, 3, 5, padding=2)

    ours = nn.Sequential(nn.Residual(nn.Concat(*parts(nn)), nn.Conv2d(2, 4, 1)), nn.Flatten(), nn.Linear(4 * 15, 3))
    theirs = torch.nn.Sequential(
        Sum(Side(*parts(torch.nn)), torch.nn.Conv2d(2, 4, 1)), torch.nn.Flatten(), torch.nn.Linear(4 * 15, 3)
    )
    check_layer(ours, theirs, normal(2, 2, 3, 5))


@pytest.mark.parametrize("start", [0, 1, 2])
def test_flatten_is_pytorchs(start):
    check(nn.Flatten(start), torch.nn.Flatten(start), normal(2, 3, 1, 5))


def test_scale_is_a_product_and_a_sum():
    layer = nn.Scale(0.5, bias=0.1).to("float64")
    theirs = torch.nn.ParameterList([torch.zeros(1), torch.zeros(1)])
    pairs = twins(layer, theirs)
    check(layer, lambda x: x * theirs[0] + theirs[1], normal(3, 4), pairs=pairs)


# ---------------------------------------------------------------------------------------------------------- activations

PYTORCHS = {
    "CReLU": [({}, lambda x: torch.cat([F.relu(x), F.relu(-x)], dim=1))],
    "ELU": [({}, F.elu), ({"alpha": 0.7}, lambda x: F.elu(x, 0.7))],
    "Erf": [({}, torch.erf)],
    "GELU": [({}, F.gelu)],
    "HardTanh": [({}, F.hardtanh)],
    "Identity": [({}, torch.nn.Identity())],
    "LeakyReLU": [({}, F.leaky_relu), ({"negative_slope": 0.2}, lambda x: F.leaky_relu(x, 0.2))],
    "ReLU": [({}, F.relu)],
    "SELU": [({}, F.selu)],
    "SiLU": [({}, F.silu)],
    "Sigmoid": [({}, torch.sigmoid)],
    "Softplus": [({}, F.softplus)],
    "Softsign": [({}, F.softsign)],
    "Tanh": [({}, torch.tanh)],
}
# An activation that is not in the list is compared with the layer of its name: adding one takes no line here.
PYTORCHS |= {
    name: [({}, getattr(torch.nn, name)())] for name in ACTIVATIONS if name not in PYTORCHS and hasattr(torch.nn, name)
}


def test_every_activation_has_its_partner_here():
    assert PYTORCHS.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5, 1)])
def test_activations_are_pytorchs(name, shape):
    for options, theirs in PYTORCHS[name]:
        check(getattr(nn, name)(**options), theirs, normal(*shape, scale=2.0))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS.keys() - {"CReLU", "Softplus"}))
def test_activations_are_pytorchs_far_out(name):
    """Steep, flat and overflowing places: ±1e-8, ±6, ±30, ±1000. (Softplus: see its own test.)"""
    for size in (1e-8, 6.0, 30.0, 1000.0):  # one size at a time: the tolerance is relative to the largest result
        for x in (np.array([[size]]), np.array([[-size]])):
            check(getattr(nn, name)(), PYTORCHS[name][0][1], x)


@pytest.mark.parametrize("name", ["ELU", "LeakyReLU", "ReLU", "SELU", "Softsign"])
def test_derivatives_at_the_kink_are_pytorchs(name):
    """Both take the slope of the left side at 0 (relu: 0)."""
    x, q = tensor(np.zeros((1, 3)), requires_grad=True), torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    getattr(nn, name)()(x).sum().backward()
    PYTORCHS[name][0][1](q).sum().backward()
    agree(x.grad, q.grad)


def test_softplus_is_exact_where_pytorch_cuts_it():
    """PyTorch returns x itself above 20; ours keeps e^-x, which is 2e-9 there. With the cut moved away they agree."""
    x = np.array([[-1000.0, -30.0, 19.0, 21.0, 25.0, 700.0]])
    check(nn.Softplus(), lambda x: F.softplus(x, threshold=1e9), np.array([[-30.0, 19.0, 21.0, 25.0]]))
    ours, theirs = fetch(nn.Softplus()(tensor(x))), F.softplus(torch.from_numpy(x)).numpy()
    above = x[0] > 20
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    np.testing.assert_allclose((ours - theirs)[0, above], np.log1p(np.exp(-x[0, above])), atol=1e-14)


def gradients(ours, theirs, *arrays):
    """First derivatives of the sum, in both libraries."""
    xs, qs = [tensor(a, requires_grad=True) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]
    ours(*xs).sum().backward()
    theirs(*qs).sum().backward()
    return [fetch(x.grad).tolist() for x in xs], [q.grad.tolist() for q in qs]


def test_hard_tanh_passes_the_gradient_at_its_corners_and_pytorchs_does_not():
    """A convention at two points: ours is that of clip, in both libraries."""
    x = np.array([-1.0, 0.0, 1.0])
    assert gradients(ops.hard_tanh, F.hardtanh, x) == ([[1.0, 1.0, 1.0]], [[0.0, 1.0, 0.0]])
    assert gradients(lambda x: ops.clip(x, low=-1.0, high=1.0), lambda x: x.clamp(-1, 1), x) == ([[1, 1, 1]],) * 2


def test_a_tie_of_maximum_goes_to_the_first_and_pytorch_halves_it():
    """Both are subgradients; ours keeps "one winner" everywhere, as max-pooling does."""
    a = np.array([1.0, 2.0])
    assert gradients(ops.maximum, torch.maximum, a, a) == ([[1, 1], [0, 0]], [[0.5, 0.5], [0.5, 0.5]])
    assert gradients(ops.minimum, torch.minimum, a, a) == ([[1, 1], [0, 0]], [[0.5, 0.5], [0.5, 0.5]])
    tie = np.array([[3.0, 1.0, 3.0]])
    ours, theirs = gradients(lambda x: ops.max(x, axis=1), lambda x: x.amax(dim=1), tie)
    assert (ours, theirs) == ([[[1, 0, 0]]], [[[0.5, 0, 0.5]]])
    assert ours == gradients(lambda x: ops.max(x, axis=1), lambda x: x.max(dim=1).values, tie)[1]


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_softmax_and_its_relatives_are_pytorchs(name, axis):
    for scale in (1.0, 300.0):
        x = normal(4, 3, 5, scale=scale)
        check(lambda x: getattr(ops, name)(x, axis=axis), lambda x: getattr(torch, name)(x, dim=axis), x)


def test_crelu_may_join_along_another_axis():
    check(lambda x: ops.crelu(x, axis=-1), lambda x: torch.cat([F.relu(x), F.relu(-x)], dim=-1), normal(2, 3, 4))


# --------------------------------------------------------------------------------------------------------------- losses

labels = np.array([2, 0, 4, 4, 1, 3, 2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_cross_entropy_is_pytorchs(smoothing, scale):
    check(
        lambda x: ops.cross_entropy(x, tensor(labels), label_smoothing=smoothing),
        lambda x: F.cross_entropy(x, torch.from_numpy(labels), label_smoothing=smoothing),
        normal(7, 5, scale=scale),
    )


def test_nll_is_pytorchs():
    targets = torch.from_numpy(labels)
    check(lambda x: ops.nll(x, tensor(labels)), lambda x: F.nll_loss(x, targets), normal(7, 5))
    check(
        lambda x: ops.nll(ops.log_softmax(x), tensor(labels)),
        lambda x: F.nll_loss(F.log_softmax(x, 1), targets),
        normal(7, 5),
    )


@pytest.mark.parametrize("shape", [(7, 5), (3, 1, 2, 5), (1,)])
def test_mse_is_pytorchs(shape):
    check(ops.mse, F.mse_loss, normal(*shape), normal(*shape, seed=1))


@pytest.mark.parametrize("scale", [1.0, 10.0, 1000.0])
def test_binary_cross_entropy_is_pytorchs_with_logits(scale):
    """Soft targets too, and a gradient for the targets."""
    targets = np.random.default_rng(1).random((7, 5)).round(1)  # 0 and 1 occur
    check(ops.binary_cross_entropy, F.binary_cross_entropy_with_logits, normal(7, 5, scale=scale), targets)


def test_losses_may_be_weighed_and_summed():
    """A gradient without axes goes through every rule on the way."""
    targets = torch.from_numpy(labels)
    check(
        lambda x: ops.cross_entropy(x, tensor(labels)) + 0.3 * (x * x).sum() + ops.softmax(x).max() * ops.mse(x, 2 * x),
        lambda x: F.cross_entropy(x, targets) + 0.3 * (x * x).sum() + x.softmax(-1).max() * F.mse_loss(x, 2 * x),
        normal(7, 5),
    )
