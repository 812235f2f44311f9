"""Initializers that look at data, and AutoInit, which calculates instead: measured on real networks, on any backend."""

import math

import numpy as np
import pytest
from conftest import DEVICE, batch, fetch, same, tensor, weights

from minidl import grad, init, meanfield, models, nn, no_grad, ops
from minidl.meanfield.law import Law

IMAGES = {"lenet5": (1, 28, 28), "vgg11": (3, 16, 16), "resnet20": (3, 8, 8), "googlenet": (3, 17, 17)}
NETWORKS = [
    ("mlp", {"hidden": (40, 30)}),
    ("mlp", {"hidden": (40, 30), "norm": True, "activation": "tanh"}),
    ("lenet5", {}),
    ("lenet5", {"activation": "sigmoid", "pool": "avg"}),
    ("vgg11", {}),
    ("resnet20", {"norm": False, "scale": True}),
    ("resnet20", {"norm": True}),
    ("googlenet", {}),
]
IDS = [f"{name} {options}" for name, options in NETWORKS]


def built(name, options=None, dtype="float32", scheme="he_normal"):
    shape = IMAGES.get(name, (1, 6, 6))
    model = models.build(name, in_shape=shape, num_classes=10, init=scheme, seed=1, **(options or {}))
    return model.to(dtype).to(DEVICE), batch((24, *shape), dtype)


def outputs(model, x):
    """The output of every weighted layer in training mode without dropout, measured from outside."""
    found = {}

    def hook(path):
        def look(module, inputs, output):
            found.setdefault(path, fetch(output).astype(np.float64))

        return look

    weighted = [(path, m) for path, m in model.named_modules() if hasattr(m, "fans")]
    handles = [m.register_forward_hook(hook(path)) for path, m in weighted]
    dropouts = [m for _, m in model.named_modules() if isinstance(m, nn.Dropout)]
    rates = [m.p for m in dropouts]
    for m in dropouts:
        m.p = 0
    with no_grad():
        model.train()(x)
    for m, p in zip(dropouts, rates, strict=True):
        m.p = p
    for handle in handles:
        handle.remove()
    return found


def batch_std(h):
    return math.sqrt(h.var(axis=0).mean())


def deep(n=30, depth=4, activation="relu", scheme="he_normal", bias="zeros"):
    layers = []
    for i in range(depth):
        layers += [nn.Linear(n, n, init=scheme, bias_init=bias), nn.activation(activation)][: 2 if i < depth - 1 else 1]
    model = nn.Sequential(*layers)
    init.apply(model, seed=0)
    return model.to(DEVICE)


# ------------------------------------------------------------------------------------------------------ LSUV


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=IDS)
@pytest.mark.parametrize("std", ["total", "batch"])
def test_lsuv_needs_one_iteration_a_layer_on_a_fixed_batch_and_is_exact(name, options, std):
    model, x = built(name, options, scheme="glorot_uniform")
    report = init.lsuv(model, x, std=std)
    measured = outputs(model, x)
    assert set(measured) == {record["layer"] for record in report.records}
    assert max(record["iterations"] for record in report.records) == 1
    deviation = np.std if std == "total" else batch_std
    for layer, h in measured.items():
        assert deviation(h) == pytest.approx(1, abs=0.011), layer  # those within the tolerance stay as they are
    touched = [record["layer"] for record in report.records if record["iterations"]]
    assert len(touched) > 1
    for layer in touched:
        assert deviation(measured[layer]) == pytest.approx(1, abs=1e-4), layer


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lsuv_reports_what_it_did_and_keeps_the_precision(dtype):
    model, x = built("mlp", {"hidden": (40, 30)}, dtype)
    before = weights(model)
    report = init.lsuv(model, x, target=2.0)
    for record in report.records:
        path = record["layer"] + ".weight"
        after = fetch(dict(model.named_parameters())[path])
        assert after.dtype == dtype
        np.testing.assert_allclose(after, before[path] * record["factor"], rtol=1e-6)
        assert record["std"] == pytest.approx(2, rel=1e-5)
    assert report.gradient_steps == report.backward_passes == 0
    assert "linear1" in str(report)


def test_lsuv_on_the_total_deviation_is_satisfied_by_a_net_that_answers_every_input_alike():
    model = models.mlp([30, *[100] * 10, 10], activation="sigmoid", init="glorot_normal", seed=0).to(DEVICE)
    x = batch((64, 30))
    init.lsuv(model, x, std="total")
    last = outputs(model, x)["linear10"]
    assert np.std(last) == pytest.approx(1, abs=0.02)
    assert batch_std(last) < 0.02  # science: the inputs can hardly be told apart
    init.lsuv(model, x, std="batch", max_iter=1)
    assert batch_std(outputs(model, x)["linear10"]) == pytest.approx(1, abs=0.02)


def test_lsuv_takes_several_iterations_where_biases_spread():
    model = deep(bias=init.normal(std=0.5))
    report = init.lsuv(model, batch((64, 30)), max_iter=20)
    assert max(record["iterations"] for record in report.records) > 1
    for h in outputs(model, batch((64, 30))).values():
        assert np.std(h) == pytest.approx(1, abs=0.011)
    assert report.notes == []


def test_lsuv_says_where_the_biases_alone_spread_too_far():
    report = init.lsuv(deep(bias=init.normal(std=3.0)), batch((64, 30)))
    assert "0" in report.notes[0] and "biases" in str(report)


def test_lsuv_scales_the_gain_under_weight_normalization():
    model = nn.Sequential(nn.WeightNorm(nn.Linear(20, 30)), nn.Tanh(), nn.WeightNorm(nn.Linear(30, 5)))
    init.apply(model, seed=0)
    model.to(DEVICE)
    v, x = fetch(model[0].weight).copy(), batch((50, 20))
    init.lsuv(model, x)
    assert np.array_equal(fetch(model[0].weight), v)
    for h in outputs(model, x).values():
        assert np.std(h) == pytest.approx(1, abs=0.011)


def test_a_dead_layer_stops_lsuv_and_nothing_has_changed():
    model = deep()
    model[4].weight.data = model[4].weight.data * 0
    before = weights(model)
    with pytest.raises(ValueError, match=r"lsuv: 4 gives the same value everywhere .*all zero"):
        init.lsuv(model, batch((40, 30)))
    assert same(before, model)


def test_lsuv_on_the_batch_deviation_refuses_to_make_rounding_loud():
    model = deep(activation="sigmoid", depth=30, scheme=init.normal(std=0.01))
    before = weights(model)
    with pytest.raises(ValueError, match="the same value for every input"):
        init.lsuv(model, batch((40, 30)), std="batch", max_iter=0)
    assert same(before, model)


@pytest.mark.parametrize("method", ["lsuv", "first_batch_norm", "krahenbuhl"])
def test_modes_running_averages_masks_and_hooks_are_left_as_they_were(method):
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8)).to(DEVICE)
    model.train()
    x = batch((32, 8))
    model(x)
    model[3].eval()
    average, masks = fetch(model[1].running_mean).copy(), model[3]._generator
    getattr(init, method)(model, x, **({"between": False} if method == "krahenbuhl" else {}))
    assert [m.training for _, m in model.named_modules()] == [True, True, True, True, False, True]
    assert np.array_equal(fetch(model[1].running_mean), average)
    assert model[3]._generator is masks
    assert not any(m.__dict__.get("_forward_hooks") for _, m in model.named_modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("method", ["lsuv", "first_batch_norm", "weight_norm_data", "krahenbuhl"])
def test_inputs_and_models_that_cannot_be_measured_are_refused(method):
    run = getattr(init, method)
    model = nn.Sequential(nn.WeightNorm(nn.Linear(3, 2))).to(DEVICE)
    options = {"between": False} if method == "krahenbuhl" else {}
    with pytest.raises(ValueError, match="two inputs"):
        run(model, batch((1, 3)), **options)
    with pytest.raises(ValueError, match="1 of 6 input values are NaN"):
        run(model, tensor(np.array([[1, 2, 3], [4, 5, np.nan]], "float32")), **options)
    with pytest.raises(TypeError, match="int64"):
        run(model, tensor(np.ones((4, 3), "int64")), **options)
    with pytest.raises(ValueError, match="nothing to set"):
        run(nn.Sequential(nn.BatchNorm1d(3)), batch((4, 3)), **options)


def test_lsuv_names_unknown_options():
    with pytest.raises(ValueError, match="did you mean 'total'"):
        init.lsuv(deep(), batch((4, 30)), std="totl")
    with pytest.raises(ValueError, match="target"):
        init.lsuv(deep(), batch((4, 30)), target=0)


class Idle(nn.Module):
    def __init__(self):
        self.used, self.idle = nn.Linear(30, 3), nn.Linear(30, 3)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize("method", ["lsuv", "autoinit"])
def test_a_layer_that_does_not_run_is_named_and_nothing_is_changed(method):
    model = Idle().to(DEVICE)
    before = weights(model)
    with pytest.raises(ValueError, match=f"{method}: idle did not run"):
        getattr(init, method)(model, (30,) if method == "autoinit" else batch((4, 30)))
    assert same(before, model)


def test_a_layer_that_is_used_twice_is_scaled_where_it_runs_first():
    class Twice(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(30, 30, init=init.normal(std=1.0))

        def forward(self, x):
            return self.layer(self.layer(x))

    model = Twice().to(DEVICE)
    report = init.lsuv(model, batch((50, 30)))
    assert len(report.records) == 1
    assert np.std(outputs(model, batch((50, 30)))["layer"]) == pytest.approx(1, abs=1e-4)


# ------------------------------------------------------------------------------------ one number for each unit

LAYERS = {
    "dense": (lambda: nn.Linear(6, 10), (40, 6)),
    "dense with places": (lambda: nn.Linear(6, 10), (20, 7, 6)),
    "conv": (lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1), (10, 3, 7, 7)),
    "grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2), (10, 4, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 8, 3, stride=2), (10, 3, 5, 5)),
    "grouped transposed": (lambda: nn.ConvTranspose2d(4, 8, 3, groups=2), (10, 4, 5, 5)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", LAYERS)
def test_first_batch_norm_is_batch_normalization_of_that_batch(kind, dtype):
    make, shape = LAYERS[kind]
    layer, x = make().to(dtype).to(DEVICE), batch(shape, dtype)
    layer.bias.data = layer.bias.data + 0.7
    h = fetch(layer(x)).astype(np.float64)
    unit = h.ndim - 1 if kind.startswith("dense") else 1
    axes = tuple(i for i in range(h.ndim) if i != unit)
    expected = (h - h.mean(axes, keepdims=True)) / h.std(axes, keepdims=True)
    init.first_batch_norm(layer, x)
    got = fetch(layer(x))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, atol=2e-5 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=IDS)
def test_first_batch_norm_gives_every_unit_mean_0_and_deviation_1_in_every_network(name, options):
    model, x = built(name, options)
    report = init.first_batch_norm(model, x)
    without_bias = {path for path, m in model.named_modules() if hasattr(m, "fans") and m.bias is None}
    measured = outputs(model, x)
    assert set(measured) == {record["layer"] for record in report.records}
    for layer, h in measured.items():
        axes = (0, *range(2, h.ndim))
        np.testing.assert_allclose(h.std(axes), 1, atol=1e-3, err_msg=layer)
        if layer not in without_bias:
            np.testing.assert_allclose(h.mean(axes), 0, atol=1e-3, err_msg=layer)
    assert bool(without_bias) == ("no bias" in str(report))


def test_units_that_are_dead_stop_first_batch_norm_and_nothing_has_changed():
    model = deep()
    w = fetch(model[2].weight).copy()
    w[[3, 7]] = 0
    model[2].weight.data = tensor(w).data
    before = weights(model)
    with pytest.raises(ValueError, match="2 of 30 units of 2 give one value"):
        init.first_batch_norm(model, batch((40, 30)))
    assert same(before, model)


def test_weight_norm_data_follows_the_papers_formula():
    layer, x = nn.WeightNorm(nn.Linear(6, 4)).to(DEVICE), batch((50, 6))
    v = fetch(layer.weight).copy()
    t = fetch(x) @ (v / np.linalg.norm(v, axis=1, keepdims=True)).T
    init.weight_norm_data(layer, x)
    np.testing.assert_allclose(fetch(layer.gain)[:, 0], 1 / t.std(0), rtol=1e-4)
    np.testing.assert_allclose(fetch(layer.bias), -t.mean(0) / t.std(0), atol=1e-5)
    assert np.array_equal(fetch(layer.weight), v)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weight_norm_data_normalizes_a_convolutional_net_and_lists_what_it_left_alone(dtype):
    model = nn.Sequential(
        nn.WeightNorm(nn.Conv2d(1, 6, 3)),
        nn.ReLU(),
        nn.WeightNorm(nn.ConvTranspose2d(6, 5, 3)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 8 * 8, 3),
    )
    model.to(dtype).to(DEVICE)
    head, x = fetch(model[5].weight).copy(), batch((30, 1, 8, 8), dtype)
    report = init.weight_norm_data(model, x)
    for layer, h in list(outputs(model, x).items())[:2]:
        np.testing.assert_allclose(h.std((0, 2, 3)), 1, atol=1e-4, err_msg=layer)
        np.testing.assert_allclose(h.mean((0, 2, 3)), 0, atol=1e-4, err_msg=layer)
    assert np.array_equal(fetch(model[5].weight), head)
    assert "left alone" in report.notes[0] and "5" in report.notes[0]
    assert [record["layer"] for record in report.records] == ["0", "2"]


def test_weight_norm_data_says_where_it_does_not_apply():
    model = deep()
    before = weights(model)
    with pytest.raises(ValueError, match="no layer has weight normalization.*first_batch_norm"):
        init.weight_norm_data(model, batch((8, 30)))
    grouped = nn.WeightNorm(nn.ConvTranspose2d(4, 8, 3, groups=2)).to(DEVICE)
    with pytest.raises(ValueError, match="4 gains for 8 units"):
        init.weight_norm_data(grouped, batch((8, 4, 5, 5)))
    assert same(before, model)


# -------------------------------------------------------------------------------------------------- Krähenbühl


def rates(model, x, y):
    """‖∂L/∂W‖/‖W‖ of every layer, by ``grad`` from outside."""
    params = [m.weight for _, m in model.named_modules() if hasattr(m, "fans")]
    grads = grad(ops.cross_entropy(model(x), y), params)
    return [np.linalg.norm(fetch(g)) / np.linalg.norm(fetch(p)) for g, p in zip(grads, params, strict=True)]


def test_krahenbuhl_equalizes_the_relative_gradients_and_keeps_the_function_of_a_relu_net():
    twin, model, x = deep(depth=5), deep(depth=5), batch((60, 30))
    y = tensor(np.arange(60) % 30)
    init.first_batch_norm(twin, x)
    uneven = rates(twin, x, y)
    assert max(uneven) / min(uneven) > 2
    report = init.krahenbuhl(model, x, y, damping=1.0, tol=1e-3)
    even = rates(model, x, y)
    np.testing.assert_allclose(even, np.exp(np.mean(np.log(uneven))), rtol=2e-3)
    np.testing.assert_allclose(fetch(model(x)), fetch(twin(x)), atol=1e-3)
    assert report.gradient_steps == 1  # undamped, one step is exact through ReLU
    assert report.backward_passes == 2
    np.testing.assert_allclose([record["rate"] for record in report.records], even, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "options"),
    [("mlp", {}), ("lenet5", {"activation": "tanh"}), ("vgg11", {})],
    ids=["mlp", "lenet5", "vgg11"],
)
def test_krahenbuhl_without_labels_evens_chains_out(name, options):
    model, x = built(name, options)
    report = init.krahenbuhl(model, x)
    found = [record["rate"] for record in report.records]
    assert max(found) / min(found) < 1.11 and report.notes == []  # tol=0.05 either way
    before = [record["rate_before"] for record in report.records]
    assert max(before) / min(before) > 2


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("resnet20", {"norm": False}, "no plain sequence"),
        ("googlenet", {}, "no plain sequence"),
        ("lenet5", {"norm": True}, "normalizes"),
    ],
)
def test_krahenbuhl_between_layers_is_for_chains_and_says_so(name, options, why):
    model, x = built(name, options)
    before = weights(model)
    with pytest.raises(ValueError, match=f"{why}.*between=False"):
        init.krahenbuhl(model, x)
    assert same(before, model)
    twin, _ = built(name, options)
    init.krahenbuhl(model, x, between=False)
    init.first_batch_norm(twin, x)
    assert same(weights(twin), model)


def test_krahenbuhl_takes_back_the_first_part_if_a_gradient_is_zero():
    class Cut(nn.Module):
        def forward(self, x):
            return x * 0.0

    model = nn.Sequential(nn.Linear(4, 4), Cut()).to(DEVICE)
    before = weights(model)
    with pytest.raises(ValueError, match="relative gradient of 0 is 0"):
        init.krahenbuhl(model, batch((8, 4)))
    assert same(before, model)


# ---------------------------------------------------------------------------------------------------- AutoInit


@pytest.mark.host("pure functions of numbers")
@pytest.mark.parametrize("activation", sorted(set(meanfield.ACTIVATIONS)))
def test_the_law_after_an_activation_has_the_moments_of_mean_field_theory(activation):
    law = Law.gaussian(0, 1.7).changed(meanfield.ACTIVATIONS[activation])
    theory = meanfield.gaussian_moments(activation, 1.7)
    assert law.mean == pytest.approx(theory.mean, abs=2e-7)  # a kink costs the 24 001 points step²/12
    assert law.square == pytest.approx(theory.square, abs=2e-7)


@pytest.mark.host("pure functions of numbers")
def test_the_law_of_the_largest_of_four_is_known():
    largest = Law.gaussian(0, 1).largest_of(4)
    assert largest.mean == pytest.approx(1.02937537, abs=1e-5)  # tables of normal order statistics
    assert largest.variance == pytest.approx(0.49171524, abs=1e-4)
    relu = Law.gaussian(0, 1).changed(lambda x: np.maximum(x, 0)).largest_of(4)
    z = np.maximum(np.random.default_rng(0).standard_normal((400_000, 4)), 0).max(1)
    assert relu.mean == pytest.approx(z.mean(), abs=0.004)
    assert relu.square == pytest.approx((z**2).mean(), abs=0.01)


@pytest.mark.host("pure functions of numbers")
def test_the_law_of_a_mean_of_many_is_gaussian():
    law = Law.gaussian(0, 1).changed(lambda x: np.maximum(x, 0)).averaged(25)
    assert law.mean == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-7)
    assert law.variance == pytest.approx((0.5 - 1 / (2 * math.pi)) / 25, abs=1e-7)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "selu", "gelu", "crelu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_autoinit_gives_variance_1_without_data(activation, dtype):
    model = models.mlp([300, *[400] * 5, 400], activation=activation, init=init.normal(std=0.3), seed=0)
    model.to(dtype).to(DEVICE)
    init.autoinit(model, (300,))
    for layer, h in outputs(model, batch((300, 300), dtype)).items():
        assert h.var() == pytest.approx(1, abs=0.25), layer  # one draw of width 400, five layers


def test_autoinit_knows_the_mean_and_variance_of_the_inputs():
    model = models.mlp([500, 500], init=init.normal(std=0.3), seed=0).to(DEVICE)
    init.autoinit(model, (500,), mean=2.0, variance=0.25)
    h = outputs(model, tensor(2 + 0.5 * fetch(batch((200, 500)))))["output"]
    assert h.var() == pytest.approx(1, abs=0.15)


WIDE = {
    "zero padding": lambda: nn.Conv2d(60, 400, 3, padding=1),  # of 2×2 images 4 of 9 taps are inside
    "stride and dilation": lambda: nn.Conv2d(60, 400, 3, stride=2, padding=2, dilation=2),
    "circular padding": lambda: nn.Conv2d(60, 400, 3, padding=1, padding_mode="circular"),
    "no padding": lambda: nn.Conv2d(60, 400, 2),
    "groups": lambda: nn.Conv2d(60, 400, 2, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(60, 400, 2, stride=2),
    "weight norm": lambda: nn.WeightNorm(nn.Conv2d(60, 400, 2)),
}


@pytest.mark.parametrize("kind", WIDE)
def test_autoinit_counts_the_terms_of_every_kind_of_convolution(kind):
    layer = WIDE[kind]()
    init.apply(layer, seed=0)
    layer.to(DEVICE)
    x = batch((100, 60, 2, 2))
    init.autoinit(layer, (60, 2, 2))
    h = fetch(layer(x)).astype(np.float64)
    assert (h**2).mean() == pytest.approx(1, abs=0.1)


BETWEEN = {
    "batch norm": lambda: nn.BatchNorm1d(200),
    "batch norm, each unit its own": lambda: nn.BatchNorm1d(200),
    "dropout": lambda: nn.Dropout(0.4),
    "scale": lambda: nn.Scale(0.5, bias=1.5),
    "residual": lambda: nn.Residual(nn.Linear(200, 200), activation="relu"),
    "shortcut": lambda: nn.Residual(nn.Linear(200, 200), nn.Linear(200, 200)),
    "concat": lambda: nn.Concat(nn.Linear(200, 50), nn.Sequential(nn.Linear(200, 150), nn.ReLU(), nn.Scale(3.0))),
    "leaky": lambda: nn.LeakyReLU(negative_slope=0.5),
}


@pytest.mark.parametrize("kind", BETWEEN)
def test_autoinit_follows_the_signal_through(kind):
    model = nn.Sequential(nn.Linear(200, 200), nn.ReLU(), BETWEEN[kind](), nn.Linear(200, 400))
    init.apply(model, seed=0)
    model.to(DEVICE)
    if kind == "batch norm":
        model[2].weight.data, model[2].bias.data = model[2].weight.data * 3, model[2].bias.data + 2
    if kind == "batch norm, each unit its own":
        model[2].weight.data = tensor(np.linspace(0, 1, 200, dtype="float32")).data
        model[2].bias.data = tensor(np.linspace(-3, 3, 200, dtype="float32")).data
    init.autoinit(model, (200,))
    h = fetch(model.train()(batch((400, 200)))).astype(np.float64)
    assert (h**2).mean() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=IDS)
def test_autoinit_keeps_every_layer_of_the_networks_within_a_factor(name, options):
    model, x = built(name, options, scheme=init.normal(std=1.0))
    report = init.autoinit(model, x.shape[1:])
    measured = outputs(model, x)
    assert set(measured) == {record["layer"] for record in report.records}
    for layer, h in measured.items():
        assert 0.2 < math.sqrt((h**2).mean()) < 4, layer  # from 1e10 or so; neighbouring pixels are not independent


def test_autoinit_sets_biases_to_zero_and_scales_a_shared_layer_once():
    shared = nn.Linear(50, 50, init=init.normal(std=2.0), bias_init="ones")
    model = nn.Sequential(shared, nn.ReLU(), shared).to(DEVICE)
    report = init.autoinit(model, (50,))
    assert not fetch(shared.bias).any()
    assert len(report.records) == 1
    assert np.std(fetch(shared(batch((300, 50))))) == pytest.approx(1, abs=0.15)


def test_autoinit_names_a_layer_it_cannot_follow_and_changes_nothing():
    class Own(nn.Module):
        def forward(self, x):
            return x * x

    model = nn.Sequential(nn.Linear(5, 5), Own(), nn.Linear(5, 5)).to(DEVICE)
    before = weights(model)
    with pytest.raises(ValueError, match=r"autoinit: 1 is a Own, .*init.lsuv"):
        init.autoinit(model, (5,))
    assert same(before, model)


def test_autoinit_refuses_dead_layers_and_changes_nothing():
    model = deep()
    model[4].weight.data = model[4].weight.data * 0
    before = weights(model)
    with pytest.raises(ValueError, match="no factor brings 4 to variance 1, for its weights are all zero"):
        init.autoinit(model, (30,))
    with pytest.raises(ValueError, match="not both 0"):
        init.autoinit(model, (30,), mean=0, variance=0)
    assert same(before, model)
