"""Ready-made networks: names, shapes, the usual scheme of an activation, weights that depend on the seed alone."""

import math

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor, weights

from minidl import init, models, nn
from minidl.ops.nonlinear import ACTIVATIONS

NAMES = sorted(function.__name__ for function in ACTIVATIONS.values())


def mlp(*args, **options):
    """Drawn on the host, then copied to the device under test."""
    return models.mlp(*args, **options).to(DEVICE)


def names(model):
    return [name for name, _ in model.named_children()]


def test_layers_are_named_by_kind_and_number():
    model = mlp([64, 30, 20, 10], activation="tanh")
    assert names(model) == ["flatten", "linear1", "tanh1", "linear2", "tanh2", "output"]


def test_normalization_stands_between_a_dense_layer_and_its_activation():
    model = mlp([64, 30, 10], norm=True)
    assert names(model) == ["flatten", "linear1", "norm1", "relu1", "output"]
    assert isinstance(model.norm1, nn.BatchNorm1d)


def test_sizes_become_weights_of_outputs_times_inputs_and_one_bias_per_unit():
    model = mlp([64, 30, 20, 10])
    shapes = {path: p.shape for path, p in model.named_parameters()}
    assert shapes == {
        "linear1.weight": (30, 64),
        "linear1.bias": (30,),
        "linear2.weight": (20, 30),
        "linear2.bias": (20,),
        "output.weight": (10, 20),
        "output.bias": (10,),
    }


def test_two_sizes_are_a_single_dense_layer():
    model = mlp([4, 3])
    assert names(model) == ["flatten", "output"]


def test_an_mlp_computes_its_dense_layers_one_after_the_other():
    model = mlp([4, 3, 2], activation="tanh", seed=1)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    w = weights(model)
    hidden = np.tanh(x @ w["linear1.weight"].T + w["linear1.bias"])
    expected = hidden @ w["output.weight"].T + w["output.bias"]
    np.testing.assert_allclose(fetch(model(tensor(x))), expected, rtol=1e-5, atol=1e-6)


def test_images_are_flattened_in_the_order_of_their_elements():
    model = mlp([2 * 3 * 4, 5, 2], seed=1)
    x = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4) / 48
    np.testing.assert_array_equal(fetch(model(tensor(x))), fetch(model(tensor(x.reshape(2, -1)))))


@pytest.mark.parametrize("activation", NAMES)
def test_every_activation_runs_forward_and_backward(activation):
    model = mlp([6, 8, 8, 3], activation=activation)
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    y = model(tensor(x))
    assert y.shape == (4, 3)
    y.sum().backward()
    assert all(np.isfinite(fetch(p.grad)).all() for p in model.parameters())


def test_crelu_doubles_what_the_next_layer_sees():
    model = mlp([6, 8, 8, 3], activation="crelu")
    assert [model.linear1.weight.shape, model.linear2.weight.shape, model.output.weight.shape] == [
        (8, 6),
        (8, 16),
        (3, 16),
    ]


@pytest.mark.parametrize(
    ("activation", "variance"),
    [
        ("relu", 2 / 300),
        ("leaky_relu", 2 / 300),
        ("gelu", 2 / 300),
        ("selu", 1 / 300),
        ("tanh", 2 / (300 + 500)),
        ("sigmoid", 2 / (300 + 500)),
    ],
)
def test_the_default_scheme_fits_the_activation(activation, variance):
    """He: 2/fan_in, LeCun: 1/fan_in, Glorot: 2/(fan_in + fan_out); the gate is 5 standard errors of a variance."""
    w = fetch(mlp([64, 300, 500, 10], activation=activation).linear2.weight).astype(np.float64)
    assert w.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / w.size))


def test_a_scheme_can_be_a_name_an_initializer_or_rules():
    by_name = mlp([64, 30, 10], "tanh", init="orthogonal")
    by_initializer = mlp([64, 30, 10], "tanh", init=init.orthogonal())
    by_rules = mlp([64, 30, 10], "tanh", init={"output.weight": "zeros", "*": "orthogonal"})
    np.testing.assert_array_equal(fetch(by_name.linear1.weight), fetch(by_initializer.linear1.weight))
    np.testing.assert_array_equal(fetch(by_name.linear1.weight), fetch(by_rules.linear1.weight))
    assert not fetch(by_rules.output.weight).any() and fetch(by_name.output.weight).any()


def test_the_seed_alone_decides_the_weights_whatever_was_built_before():
    first = weights(mlp([64, 30, 10], norm=True, seed=3))
    nn.Linear(7, 7)
    mlp([5, 5], seed=8)
    np.random.seed(1)
    second = weights(mlp([64, 30, 10], norm=True, seed=3))
    assert first.keys() == second.keys()
    for path, w in first.items():
        np.testing.assert_array_equal(w, second[path], err_msg=path)


def test_another_seed_gives_other_weights():
    one, two = (fetch(mlp([64, 30, 10], seed=seed).linear1.weight) for seed in (0, 1))
    assert not (one == two).any()


def test_no_two_layers_share_a_draw():
    model = mlp([20, 20, 20, 20])
    assert not (fetch(model.linear1.weight) == fetch(model.linear2.weight)).any()


@pytest.mark.host("a name is looked up")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "rleu"}, "unknown activation 'rleu'; did you mean 'relu'"),
        ({"init": "he_norml"}, "unknown scheme 'he_norml'; did you mean 'he_normal'"),
        ({"sizes": [64]}, r"number of inputs and of outputs; got sizes=\[64\]"),
        ({"sizes": [64, 0, 10]}, "at least 1; got 0"),
    ],
)
def test_bad_arguments_are_refused_with_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        mlp(**{"sizes": [64, 30, 10], **arguments})


@pytest.mark.parametrize("activation", ["ReLU", "Tanh"])
def test_an_activation_may_be_given_by_its_class_name(activation):
    """The class's name means the same network: same layers, same scheme, same weights."""
    by_class, by_name = (mlp([64, 30, 10], a) for a in (activation, activation.lower()))
    assert names(by_class) == names(by_name)
    assert models.scheme_for(activation) == models.scheme_for(activation.lower())
    np.testing.assert_array_equal(fetch(by_class.linear1.weight), fetch(by_name.linear1.weight))


@pytest.mark.parametrize(("scheme", "shown"), [("orthogonal", "orthogonal"), (None, "glorot_normal")])
def test_a_printed_model_names_the_scheme_its_weights_have(scheme, shown):
    model = mlp([4, 3, 2], activation="tanh", init=scheme)
    assert str(model).count(f"init={shown}") == 2
    before = model.state_dict()
    init.apply(model, seed=0)  # each layer's own scheme: the same draw
    assert all((before[path] == value).all() for path, value in model.state_dict().items())
