"""Residual initializers: the size of the signal block by block, the rules of each, and where each does not apply."""

import math

import numpy as np
import pytest
from conftest import DEVICE, batch, fetch, same, tensor, weights

from minidl import grad, init, models, nn, no_grad, ops

BLOCKS, WIDTH = 20, 256
IMAGE = (3, 8, 8)


def resnet(name="resnet20", dtype="float32", seed=0, **options):
    shape = (3, 8, 8) if name != "resnet50" else (3, 16, 16)
    model = models.build(name, in_shape=shape, num_classes=10, seed=seed, **options)
    return model.to(dtype).to(DEVICE)


class Stream(nn.Module):
    """Blocks one after the other; ``squares`` holds the mean square of the input and of every block's output."""

    def __init__(self, make, factor=1.0, n=WIDTH):
        self.blocks = [make(n) for _ in range(BLOCKS)]
        self.factor = factor

    def forward(self, x):
        self.squares = [float((fetch(x).astype(np.float64) ** 2).mean())]
        for block in self.blocks:
            x = block(x) * self.factor
            self.squares.append(float((fetch(x).astype(np.float64) ** 2).mean()))
        return x


def plain(n, end=None):
    return nn.Residual(nn.Sequential(*two_layers(n), *([] if end is None else [end])))


def two_layers(n):
    return nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, n)


def normalized(n):
    return nn.Residual(
        nn.Sequential(nn.BatchNorm1d(n), nn.ReLU(), nn.Linear(n, n), nn.BatchNorm1d(n), nn.ReLU(), nn.Linear(n, n))
    )


def squares(model, prepare=None, seeds=range(4), n=WIDTH):
    """Mean square at every block, as the geometric mean over seeds: one draw's own luck is lognormal."""
    logs = []
    for seed in seeds:
        init.apply(model, "he_normal", seed=seed)
        model.to(DEVICE)
        if prepare is not None:
            prepare(model)
        with no_grad():
            model.train()(batch((256, n), seed=seed))
        logs.append(np.log(model.squares))
    return np.exp(np.mean(logs, axis=0))


# ----------------------------------------------------------------------------- the numbers of 20 blocks of two


def test_a_plain_residual_block_of_two_he_layers_doubles_the_second_moment():
    found = squares(Stream(plain))
    rate = (found[-1] / found[0]) ** (1 / BLOCKS)
    assert rate == pytest.approx(2, rel=0.03)
    assert found[2] == pytest.approx(4, rel=0.1)


def test_dividing_every_sum_by_root_2_keeps_it():
    found = squares(Stream(plain, factor=1 / math.sqrt(2)))
    assert (found[-1] / found[0]) ** (1 / BLOCKS) == pytest.approx(1, rel=0.03)


def test_batch_normalization_in_the_branch_lets_it_grow_by_1_a_block():
    found = squares(Stream(normalized))
    for block in (1, 2, 5, 10, 20):
        assert found[block] == pytest.approx(block + 1, rel=0.06)


def test_branches_divided_by_root_n_let_it_grow_to_e():
    found = squares(Stream(plain), init.scaled_residual)
    theory = [(1 + 1 / BLOCKS) ** block for block in range(BLOCKS + 1)]
    np.testing.assert_allclose(found, theory, rtol=0.06)


def test_skipinit_at_the_depth_is_a_branch_divided_by_root_n():
    found = squares(Stream(lambda n: plain(n, nn.Scale())), lambda m: init.skipinit(m, "depth"))
    np.testing.assert_allclose(found, [(1 + 1 / BLOCKS) ** block for block in range(BLOCKS + 1)], rtol=0.06)


CURES = {
    "fixup": (lambda n: plain(n, nn.Scale(bias=0.0)), init.fixup),
    "skipinit": (lambda n: plain(n, nn.Scale()), init.skipinit),
    "rezero": (lambda n: plain(n, nn.Scale()), init.rezero),
    "zero_gamma": (lambda n: plain(n, nn.BatchNorm1d(n)), init.zero_gamma),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CURES)
def test_blocks_are_the_identity_bit_for_bit(name, dtype):
    make, cure = CURES[name]
    model = Stream(make, n=32).to(dtype).to(DEVICE)
    cure(model)
    x = batch((64, 32), dtype)
    y = model.train()(x)
    assert fetch(y).dtype == dtype
    assert fetch(y).tobytes() == fetch(x).tobytes()


@pytest.mark.parametrize("name", ["fixup", "skipinit", "rezero", "zero_gamma"])
@pytest.mark.parametrize("network", ["resnet20", "resnet50"])
def test_resnet_blocks_that_keep_the_shape_are_the_identity_bit_for_bit(name, network):
    kind = {"norm": True} if name == "zero_gamma" else {"norm": False, "scale": True}
    model = resnet(network, **kind)
    getattr(init, name)(model)
    seen = []

    def look(block, inputs, output):
        seen.append(fetch(inputs[0]).tobytes() == fetch(output).tobytes())

    for _, block in model.named_modules():
        if isinstance(block, nn.Residual) and block.shortcut is None:
            block.register_forward_hook(look)
    shape = IMAGE if network == "resnet20" else (3, 16, 16)
    with no_grad():
        model.train()(batch((4, *shape)))
    assert seen == [True] * {"resnet20": 7, "resnet50": 12}[network]


def test_zero_ends_and_identity_hadamard_elsewhere_make_blocks_the_identity_and_they_begin_to_learn():
    """ZerO as its paper has it in residual networks; the pattern is that of the docstring."""
    model, seen = resnet(norm=False), []
    init.apply(model, {"*.branch.conv2.weight": "zeros", "*": "identity_hadamard"}, seed=0)

    def look(block, inputs, output):
        seen.append(fetch(inputs[0]).tobytes() == fetch(output).tobytes())

    blocks = [m for _, m in model.named_modules() if isinstance(m, nn.Residual) and m.shortcut is None]
    handles = [block.register_forward_hook(look) for block in blocks]
    x, y = batch((16, *IMAGE)), tensor(np.arange(16) % 10)
    slopes = grad(ops.cross_entropy(model(x), y), [block.branch.conv2.weight for block in blocks])
    assert seen == [True] * 7
    for handle in handles:
        handle.remove()
    assert all(np.abs(fetch(g)).max() > 0 for g in slopes)


# ------------------------------------------------------------------------------------------------------- Fixup


@pytest.mark.parametrize(("network", "layers"), [("resnet20", 2), ("resnet50", 3)])
def test_fixup_scales_the_inner_layers_by_the_number_of_branches_to_minus_1_over_2m_minus_2(network, layers):
    model = resnet(network, norm=False, scale=True)
    report = init.fixup(model, seed=3)
    modules = dict(model.named_modules())
    branches = {"resnet20": 9, "resnet50": 16}[network]
    factor = {2: 1 / math.sqrt(branches), 3: branches**-0.25}[layers]
    drawn = resnet(network, norm=False, scale=True, init="he_normal", seed=3)
    for path, module in drawn.named_modules():
        if not hasattr(module, "fans"):
            continue
        got, he = fetch(modules[path].weight), fetch(module.weight)
        if path == "output" or path.endswith(f"branch.conv{layers}"):
            assert not got.any() and not fetch(modules[path].bias).any(), path
        elif ".branch." in path:
            np.testing.assert_allclose(got, factor * he, rtol=1e-6, err_msg=path)
            fan_in = module.fans[0]
            assert got.std() == pytest.approx(factor * math.sqrt(2 / fan_in), rel=0.15)
        else:
            assert np.array_equal(got, he), path
    assert len(report.records) == sum(hasattr(m, "fans") for m in modules.values())
    assert "classifier" in str(report) and f"× {factor:.3g}" in str(report)


def test_fixup_sets_the_learned_numbers_and_takes_another_scheme_and_comes_out_the_same_twice():
    model = Stream(lambda n: plain(n, nn.Scale(scale=1.0, bias=0.0)), n=16).to(DEVICE)
    for _, m in model.named_modules():
        if isinstance(m, nn.Scale):
            m.scale.data, m.bias.data = m.scale.data * 5, m.bias.data + 2
    init.fixup(model, init.he_normal(mode="fan_out"), seed=1)
    first = weights(model)
    assert {float(v[0]) for path, v in first.items() if path.endswith("scale")} == {1.0}
    assert {float(v[0]) for path, v in first.items() if path.endswith("4.bias") and v.size == 1} == {0.0}
    init.fixup(model, init.he_normal(mode="fan_out"), seed=1)
    assert same(first, model)


def test_fixup_without_a_classifier_takes_none():
    for model in (Stream(lambda n: plain(n, nn.Scale()), n=16), plain(16, nn.Scale())):
        assert "classifier" not in str(init.fixup(model.to(DEVICE)))
    stem = nn.Sequential(nn.Linear(16, 16), plain(16, nn.Scale())).to(DEVICE)
    init.fixup(stem)
    assert fetch(stem[0].weight).any()


@pytest.mark.parametrize("name", ["fixup", "skipinit", "rezero", "zero_gamma"])
def test_after_the_first_steps_every_branch_has_begun_to_learn(name):
    """Nothing stays at zero for ever: after two steps of gradient descent the branch's end has moved."""
    kind = {"norm": True} if name == "zero_gamma" else {"norm": False, "scale": True}
    model = resnet(**kind)
    getattr(init, name)(model)
    x, y = batch((16, *IMAGE)), tensor(np.arange(16) % 10)
    before, end = weights(model), {"fixup": "conv2.weight", "zero_gamma": "norm2.weight"}.get(name, "scale.scale")
    model.train()
    for _ in range(2):  # in Fixup's first step only the classifier gets a gradient
        for p, g in zip(model.parameters(), grad(ops.cross_entropy(model(x), y), model.parameters()), strict=True):
            p.data = p.data - 0.05 * g.data
    moved = [path for path, p in model.named_parameters() if not np.array_equal(before[path], fetch(p))]
    assert sum(path.endswith(end) and ".branch." in path for path in moved) == 9


# --------------------------------------------------------------------------------------------- the other rules


@pytest.mark.parametrize(("alpha", "value"), [(0.0, 0.0), (0.25, 0.25), ("depth", 1 / 3)])
def test_skipinit_sets_the_learned_numbers_and_nothing_else(alpha, value):
    model = resnet(norm=False, scale=True)
    before = weights(model)
    report = init.skipinit(model, alpha)
    for path, after in weights(model).items():
        if path.endswith("scale.scale"):
            assert after[0] == np.float32(value)
        else:
            assert np.array_equal(after, before[path])
    assert [r["after"] for r in report.records] == [value] * 9 and report.records[0]["before"] == 1


def test_rezero_is_skipinit_at_zero():
    one, other = resnet(norm=False, scale=True), resnet(norm=False, scale=True)
    init.rezero(one)
    init.skipinit(other)
    assert same(weights(one), other)


def test_zero_gamma_zeroes_the_last_norm_of_each_branch_and_nothing_else():
    model = resnet("resnet50")
    before = weights(model)
    report = init.zero_gamma(model)
    changed = [path for path, after in weights(model).items() if not np.array_equal(after, before[path])]
    assert changed == [r["norm"] + ".weight" for r in report.records]
    assert len(changed) == 16 and all(path.endswith("branch.norm3.weight") for path in changed)
    assert all(not fetch(dict(model.named_parameters())[path]).any() for path in changed)


@pytest.mark.parametrize("order", ["post", "pre"])
def test_scaled_residual_divides_the_last_weights_of_each_branch_by_root_n(order):
    model = resnet(norm=order == "pre", order=order)
    before = weights(model)
    report = init.scaled_residual(model)
    for path, after in weights(model).items():
        factor = 1 / 3 if path.endswith("branch.conv2.weight") else 1
        np.testing.assert_allclose(after, factor * before[path], rtol=1e-6, err_msg=path)
    assert len(report.records) == 9
    assert report.records[0]["rms"] == pytest.approx(report.records[0]["rms_before"] / 3, rel=1e-6)


def test_scaled_residual_scales_the_gain_under_weight_normalization():
    model = nn.Residual(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.WeightNorm(nn.Linear(4, 4))))
    model = nn.Sequential(*[model, nn.Residual(nn.Linear(4, 4)), nn.Residual(nn.Linear(4, 4))]).to(DEVICE)
    model.add = nn.Residual(nn.Linear(4, 4)).to(DEVICE)
    before = fetch(model[0].branch[2].gain).copy()
    init.scaled_residual(model)
    np.testing.assert_allclose(fetch(model[0].branch[2].gain), before / 2)


def weight_normed(n):
    first, second = nn.WeightNorm(nn.Linear(n, n)), nn.WeightNorm(nn.Linear(n, n))
    return nn.Residual(nn.Sequential(nn.ReLU(), first, nn.ReLU(), second, nn.Scale()))


def test_fixup_under_weight_normalization_is_that_of_plain_layers():
    normed, plainly = (
        nn.Sequential(*[make(8) for _ in range(4)]) for make in (weight_normed, lambda n: plain(n, nn.Scale()))
    )
    reports = [init.fixup(model.to(DEVICE), seed=1) for model in (normed, plainly)]
    rms = [[record["rms"] for record in report.records] for report in reports]
    np.testing.assert_allclose(*rms, rtol=1e-6)
    x = batch((5, 8))
    np.testing.assert_array_equal(fetch(normed(x)), fetch(x))


def test_under_weight_normalization_a_gain_of_zero_is_a_branch_that_would_never_learn():
    model = nn.Sequential(weight_normed(8)).to(DEVICE)
    init.fixup(model)
    with pytest.raises(ValueError, match="neither would ever get a gradient"):
        init.rezero(model)
    with pytest.raises(ValueError, match="all zeros, and stays so"):
        init.scaled_residual(model)


# -------------------------------------------------------------------------------------- where they do not apply

ALL = ["fixup", "skipinit", "rezero", "zero_gamma", "scaled_residual"]


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("network", ["mlp", "lenet5", "vgg11"])
def test_on_a_network_without_residual_blocks_each_says_so(method, network):
    model = models.build(network, in_shape=(1, 28, 28), num_classes=10, seed=0).to(DEVICE)
    before = weights(model)
    with pytest.raises(ValueError, match=f"{method} does not apply: this model has no residual blocks"):
        getattr(init, method)(model)
    assert same(before, model)


@pytest.mark.parametrize(
    ("method", "options", "why"),
    [
        ("fixup", {"norm": True}, r"fixup is for networks without normalization, and block1_1.branch.norm1"),
        ("fixup", {"norm": False}, r"block1_1 does not end in a learned number \(nn.Scale\)"),
        ("skipinit", {"norm": True}, "does not end in a learned number"),
        ("rezero", {"norm": False}, "does not end in a learned number"),
        ("zero_gamma", {"norm": False}, "has no normalization"),
        ("zero_gamma", {"order": "pre"}, "order='post'"),
        ("scaled_residual", {"norm": True}, "block1_1.branch.norm2 follows block1_1.branch.conv2 and undoes"),
    ],
)
def test_on_a_residual_network_of_another_kind_each_says_what_it_needs_and_changes_nothing(method, options, why):
    model = resnet(**options)
    before = weights(model)
    with pytest.raises(ValueError, match=why):
        getattr(init, method)(model)
    assert same(before, model)


def test_a_branch_that_would_be_zero_twice_is_refused_for_it_would_never_learn():
    model = resnet(norm=False, scale=True)
    init.fixup(model)
    before = weights(model)
    for method in (init.skipinit, init.rezero):
        with pytest.raises(ValueError, match="neither would ever get a gradient"):
            method(model)
    with pytest.raises(ValueError, match="all zeros, and stays so"):
        init.scaled_residual(model)
    assert same(before, model)


def test_a_bad_alpha_a_bad_scheme_and_an_empty_branch_are_named():
    model = resnet(norm=False, scale=True)
    before = weights(model)
    with pytest.raises(ValueError, match='alpha is a number or "depth"'):
        init.skipinit(model, "dept")
    with pytest.raises(ValueError, match="finite"):
        init.skipinit(model, math.nan)
    with pytest.raises(ValueError, match="did you mean 'he_normal'"):
        init.fixup(model, "he_norml")
    with pytest.raises(ValueError, match="holds no layer with a weight"):
        init.rezero(nn.Sequential(nn.Residual(nn.ReLU())))
    with pytest.raises(ValueError, match="the branch of the model holds no layer with a weight"):
        init.rezero(nn.Residual(nn.ReLU()))
    assert same(before, model)


def test_modes_are_left_as_they_were():
    model = resnet(norm=False, scale=True).eval()
    init.fixup(model)
    assert not any(m.training for _, m in model.named_modules())
