"""Learning rates per layer: each rule against what it promises, measured on the steps an optimizer makes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor

from minidl import init, nn, ops, optim
from minidl.tensor import grad


def mlp(sizes=(12, 30, 20, 4), activation=nn.ReLU, scheme="he_normal", seed=0):
    layers = []
    for n, m in itertools.pairwise(sizes):
        layers += [nn.Linear(n, m), activation()]
    model = nn.Sequential(*layers[:-1])
    init.apply(model, scheme, seed=seed)
    return model.to(DEVICE)


def batch(features=12, classes=4, size=64, seed=0):
    rng = np.random.default_rng(seed)
    return tensor(rng.standard_normal((size, features)).astype("float32")), tensor(rng.integers(classes, size=size))


def step(model, optimizer, x, y):
    loss = ops.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


def rates(groups, model):
    """The rate of every parameter by its path."""
    by_id = {id(p): group["lr"] for group in groups for p in group["params"]}
    return {path: by_id[id(p)] for path, p in model.named_parameters()}


def rms(x):
    return float(np.sqrt((fetch(x).astype("float64") ** 2).mean()))


def test_update_ratio_makes_the_first_step_change_every_layer_by_the_same_share():
    model, (x, y) = mlp(scheme="normal"), batch()
    before = {path: fetch(p).copy() for path, p in model.named_parameters()}
    groups = optim.layerwise_lr(model, "update_ratio", (x, y), lr=0.01)
    step(model, optim.SGD(groups, lr=1.0), x, y)
    for path, p in model.named_parameters():
        if path.endswith("weight"):
            assert rms(fetch(p) - before[path]) / rms(before[path]) == pytest.approx(0.01, rel=1e-3), path


def test_a_bias_has_the_rate_of_its_weight():
    model = mlp()
    for rule in ("update_ratio", "sqrt_fan_in", "geometric"):
        found = rates(optim.layerwise_lr(model, rule, batch()), model)
        for path in found:
            assert found[path] == found[path.replace("bias", "weight")], (rule, path)


def test_every_parameter_is_in_one_group_and_the_report_names_it():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)).to(DEVICE)
    for rule in ("update_ratio", "sqrt_fan_in", "geometric", "mup"):
        x = tensor(np.random.default_rng(0).standard_normal((6, 2, 5, 5)).astype("float32"))
        groups = optim.layerwise_lr(model, rule, (x, tensor(np.arange(6) % 3)))
        assert sorted(id(p) for g in groups for p in g["params"]) == sorted(map(id, model.parameters()))
        assert [r["parameter"] for r in groups.records] == [path for path, _ in model.named_parameters()]
        assert {r["parameter"]: r["lr"] for r in groups.records} == rates(groups, model)
        assert "4.weight" in str(groups)
        optim.Adam(groups)


def test_measuring_leaves_gradients_running_averages_and_masks_as_they_were():
    def made():
        model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
        init.apply(model, seed=1)
        return model.to(DEVICE)

    model, untouched, (x, y) = made(), made(), batch()
    for twin in (model, untouched):
        twin(x)  # both have drawn a mask before
    before = {name: value.copy() for name, value in model.state_dict().items()}
    optim.layerwise_lr(model, "update_ratio", (x, y))
    after = model.state_dict()
    assert all((before[name] == after[name]).all() for name in before)
    assert all(p.grad is None for p in model.parameters())
    np.testing.assert_array_equal(fetch(model(x)), fetch(untouched(x)))


def test_layers_of_a_branch_that_ends_in_zeros_get_the_geometric_mean_of_the_others():
    branch = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8, init="zeros"))
    model = nn.Sequential(nn.Linear(12, 8), nn.Residual(branch), nn.Linear(8, 4)).to(DEVICE)
    found = rates(optim.layerwise_lr(model, "update_ratio", batch()), model)
    typical = math.sqrt(found["0.weight"] * found["2.weight"])
    assert found["1.branch.2.weight"] == pytest.approx(typical)  # no weight to take a share of
    assert found["1.branch.0.weight"] == pytest.approx(typical)  # no gradient, for none comes back through zeros


def test_a_network_of_its_own_loss_is_measured_by_it():
    class Doubled(nn.Sequential):
        def training_loss(self, outputs, y, loss):
            return loss(outputs, y) * 2.0

    plain = mlp()
    own = Doubled(*plain)
    single, double = (rates(optim.layerwise_lr(m, "update_ratio", batch()), m) for m in (plain, own))
    assert double["0.weight"] == pytest.approx(single["0.weight"] / 2, rel=1e-5)


def test_sqrt_fan_in_is_in_proportion_to_it_and_has_the_geometric_mean_asked_for():
    model = mlp((16, 400, 100, 4))
    found = rates(optim.layerwise_lr(model, "sqrt_fan_in", lr=0.02), model)
    first, second, third = (found[f"{i}.weight"] for i in (0, 2, 4))
    assert second / first == pytest.approx(5)  # √(400/16)
    assert third / first == pytest.approx(2.5)
    assert (first * second * third) ** (1 / 3) == pytest.approx(0.02)


def test_geometric_falls_by_the_factor_from_the_top_down():
    model = mlp()
    found = rates(optim.layerwise_lr(model, "geometric", lr=0.1, factor=0.5), model)
    assert [found[f"{i}.weight"] for i in (0, 2, 4)] == pytest.approx([0.025, 0.05, 0.1])
    assert rates(optim.layerwise_lr(model, "geometric", lr=1.0), model)["2.weight"] == pytest.approx(1 / 2.6)


def test_a_normalization_goes_with_the_weights_before_it_and_is_no_step_of_its_own_in_geometric():
    layers = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)]
    model = nn.Sequential(*layers)
    found = rates(optim.layerwise_lr(model, "geometric", lr=1.0, factor=0.5), model)
    expected = {"0": 0.25, "1": 0.25, "3": 0.5, "4": 0.5, "5": 1.0}
    assert {path.split(".")[0]: rate for path, rate in found.items()} == expected


MUP = {
    "adam": {
        "0.weight": 1.0,
        "0.bias": 1.0,
        "2.weight": 32 / 128,
        "2.bias": 1.0,
        "4.weight": 32 / 128,
        "4.bias": 1.0,
    },
    "sgd": {
        "0.weight": 128 / 32,
        "0.bias": 128 / 32,
        "2.weight": 1.0,
        "2.bias": 128 / 32,
        "4.weight": 32 / 128,
        "4.bias": 1.0,
    },
}


@pytest.mark.parametrize("optimizer", MUP)
def test_mup_has_the_rates_of_its_table(optimizer):
    model = mlp((12, 128, 128, 4))
    found = rates(optim.layerwise_lr(model, "mup", lr=1.0, base_width=32, optimizer=optimizer), model)
    assert found == MUP[optimizer]


def changes(width, mup, optimizer):
    """How much 3 steps change the pre-activations of the hidden layer and the logits: the coordinate check."""
    model = mlp((12, width, width, 4), nn.Tanh, "lecun_normal")
    settings = {"lr": 0.01, "base_width": 64} if optimizer == "adam" else {"lr": 0.2, "base_width": 64}
    if mup:
        init.apply(model, {"0.*": init.mup("input"), "4.*": init.mup("output", base_width=64), "*": init.mup()})
        groups = optim.layerwise_lr(model, "mup", optimizer=optimizer, **settings)
    else:
        groups = [{"params": model.parameters(), "lr": settings["lr"]}]
    x, y = batch()
    found = []
    stepper = (optim.Adam if optimizer == "adam" else optim.SGD)(groups, lr=1.0)
    layers = list(model)

    def measured():
        hidden = layers[2](layers[1](layers[0](x)))
        return fetch(hidden).copy(), fetch(layers[4](layers[3](hidden))).copy()

    before = measured()
    for _ in range(3):
        step(model, stepper, x, y)
    found = [rms(after - start) for after, start in zip(measured(), before, strict=True)]
    return np.array(found)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_with_mups_weights_and_rates_a_wider_network_learns_with_the_same_rate(optimizer):
    """From width 64 to 1024 the changes stay within a factor of 1.6; with one rate for all they grow by more than 3."""
    ratio = changes(1024, True, optimizer) / changes(64, True, optimizer)
    assert (ratio < 1.6).all() and (ratio > 1 / 1.6).all(), ratio
    plain = changes(1024, False, optimizer) / changes(64, False, optimizer)
    assert plain.max() > 3, plain


def clusters(n, seed):
    """Ten Gaussian clusters in 64 dimensions."""
    centres = np.random.default_rng(0).standard_normal((10, 64))
    rng = np.random.default_rng(seed)
    y = rng.integers(10, size=n)
    return (centres[y] + rng.standard_normal((n, 64))).astype("float32"), y


def accuracy_of_a_deep_sigmoid_net(make_groups, steps=150):
    model = mlp((64, *[64] * 5, 10), nn.Sigmoid, "glorot_normal")
    x, y = clusters(64 * steps, seed=1)
    optimizer = optim.SGD(make_groups(model, (tensor(x[:256]), tensor(y[:256]))), lr=1.0, momentum=0.9)
    for i in range(0, len(x), 64):
        step(model, optimizer, tensor(x[i : i + 64]), tensor(y[i : i + 64]))
    x, y = clusters(500, seed=2)
    return float((fetch(model(tensor(x))).argmax(1) == y).mean())


def test_rates_by_layer_train_a_deep_sigmoid_net_that_no_common_rate_does():
    """The article's advice of different rates for different layers, where it holds: gradients fall 4-fold per layer."""
    common = [
        accuracy_of_a_deep_sigmoid_net(lambda m, b, lr=lr: [{"params": m.parameters(), "lr": lr}])
        for lr in (0.01, 0.1, 1.0)
    ]
    by_layer = accuracy_of_a_deep_sigmoid_net(lambda m, b: optim.layerwise_lr(m, "update_ratio", b, lr=1e-3))
    assert by_layer > 0.6 > 0.3 > max(common), (by_layer, common)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_gradient_that_is_not_finite_is_named():
    model = mlp()
    x, y = batch()
    with pytest.raises(ValueError, match="a gradient is not finite"):
        optim.layerwise_lr(model, "update_ratio", (tensor(fetch(x) * np.float32(np.inf)), y))


def test_a_network_of_zeros_has_nothing_to_go_by():
    model = mlp(scheme="zeros")
    with pytest.raises(ValueError, match="every layer has weights or gradients that are zero"):
        optim.layerwise_lr(model, "update_ratio", batch())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: optim.layerwise_lr(m, "ratio"), "unknown rule for learning rates 'ratio'"),
        (lambda m: optim.layerwise_lr(m, "mupp"), "did you mean 'mup'"),
        (lambda m: optim.layerwise_lr(m, "mup", optimizer="adamw"), "did you mean 'adam'"),
        (lambda m: optim.layerwise_lr(m, "update_ratio"), r"pass batch=\(x, y\)"),
        (lambda m: optim.layerwise_lr(m, "geometric", lr=0), "lr must be a positive number, got 0"),
        (lambda m: optim.layerwise_lr(m, "geometric", factor=-1), "factor must be a positive number, got -1"),
        (lambda m: optim.layerwise_lr(m, "mup", base_width=math.inf), "base_width must be a positive number, got inf"),
        (lambda m: optim.layerwise_lr(nn.BatchNorm1d(3), "mup"), "no layer of this model has a weight with fans"),
    ],
)
def test_what_cannot_be_done_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(mlp())


def test_the_walk_back_of_the_rule_is_that_of_the_loss():
    model, (x, y) = mlp(), batch()
    groups = optim.layerwise_lr(model, "update_ratio", (x, y), lr=1.0)
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    for p, g in zip(weights, grad(ops.cross_entropy(model(x), y), weights), strict=True):
        expected = rms(p) / rms(g)
        assert next(group["lr"] for group in groups if group["params"][0] is p) == pytest.approx(expected, rel=1e-6)
