"""Layers: what each computes, its parameters and state, its modes, its printing, its messages."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor

from minidl import Tensor, init, nn, no_grad, ops
from minidl.nn import activation
from minidl.nn.activation import LAYERS


def images(*shape: int, seed: int = 0, dtype: str = "float32") -> Tensor:
    return tensor(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def placed(module: nn.Module, seed: int = 0) -> Any:
    """On the device under test, with repeatable weights."""
    module.to(DEVICE)
    init.apply(module, seed=seed)
    return module


class Block(nn.Module):
    """The student's layer of the design page."""

    def __init__(self, width: int) -> None:
        self.linear = nn.Linear(width, width, init="he_normal")
        self.scale = nn.Parameter(np.zeros(1, "float32"))

    def forward(self, x: Any) -> Any:
        return x + self.scale * self.linear(x).tanh()


# ------------------------------------------------------------------------- every layer: an input, the shape it gives

Made = tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]

LAYER: dict[str, Made] = {
    "Linear": (lambda: nn.Linear(5, 3), (2, 5), (2, 3)),
    "Linear on three axes": (lambda: nn.Linear(5, 3), (2, 4, 5), (2, 4, 3)),
    "Linear without bias": (lambda: nn.Linear(5, 3, bias=False), (2, 5), (2, 3)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3), (2, 2, 5, 6), (2, 3, 3, 4)),
    "Conv2d, strides": (
        lambda: nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=1, groups=2),
        (2, 2, 5, 6),
        (2, 4, 3, 7),
    ),
    "Conv2d, dilation": (lambda: nn.Conv2d(2, 3, 2, dilation=2, bias=False), (2, 2, 5, 6), (2, 3, 3, 4)),
    "Conv2d, circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 2, 5, 6), (2, 3, 5, 6)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3), (2, 2, 3, 4), (2, 3, 5, 6)),
    "ConvTranspose2d, strides": (
        lambda: nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2),
        (2, 4, 3, 4),
        (2, 2, 6, 8),
    ),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), (2, 3, 4, 6), (2, 3, 2, 3)),
    "MaxPool2d, overlapping": (lambda: nn.MaxPool2d(3, stride=2, padding=1), (2, 3, 5, 5), (2, 3, 3, 3)),
    "AvgPool2d": (lambda: nn.AvgPool2d((2, 3), stride=1), (2, 3, 4, 6), (2, 3, 3, 4)),
    "GlobalAvgPool2d": (nn.GlobalAvgPool2d, (2, 3, 4, 5), (2, 3)),
    "Flatten": (nn.Flatten, (2, 3, 4, 5), (2, 60)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (4, 3), (4, 3)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (4, 3, 2, 2), (4, 3, 2, 2)),
    "BatchNorm2d without affine": (lambda: nn.BatchNorm2d(3, affine=False), (4, 3, 2, 2), (4, 3, 2, 2)),
    "Dropout": (lambda: nn.Dropout(0.3), (4, 5), (4, 5)),
    "Scale": (lambda: nn.Scale(0.5, bias=0.1), (4, 5), (4, 5)),
    "Sequential": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), (2, 5), (2, 3)),
    "Concat": (lambda: nn.Concat(nn.Conv2d(2, 3, 1), nn.Conv2d(2, 4, 3, padding=1)), (2, 2, 4, 4), (2, 7, 4, 4)),
    "Residual": (lambda: nn.Residual(nn.Linear(5, 5), activation="relu"), (2, 5), (2, 5)),
    "Residual with shortcut": (lambda: nn.Residual(nn.Linear(5, 3), nn.Linear(5, 3, bias=False)), (2, 5), (2, 3)),
    "WeightNorm of Linear": (lambda: nn.WeightNorm(nn.Linear(5, 3)), (2, 5), (2, 3)),
    "WeightNorm of Conv2d": (lambda: nn.WeightNorm(nn.Conv2d(2, 3, 3)), (2, 2, 5, 6), (2, 3, 3, 4)),
    "WeightNorm of ConvTranspose2d": (
        lambda: nn.WeightNorm(nn.ConvTranspose2d(2, 3, 3, stride=2)),
        (2, 2, 3, 4),
        (2, 3, 7, 9),
    ),
    "the student's Block": (lambda: Block(5), (2, 5), (2, 5)),
    **{name: (layer, (2, 4), (2, 8) if name == "CReLU" else (2, 4)) for name, layer in LAYERS.items()},
}

every_layer = pytest.mark.parametrize("name", LAYER)


@pytest.mark.host("finds members, holds no array of its own")
def test_the_walk_covers_every_layer_there_is():
    walked = {type(make()).__name__ for make, _, _ in LAYER.values()}
    public = {
        name for name in dir(nn) if isinstance(getattr(nn, name), type) and issubclass(getattr(nn, name), nn.Module)
    }
    assert public - walked == {"Module", "Activation", "Weighted"}  # base classes


@every_layer
def test_a_layer_gives_the_stated_shape(name):
    make, shape, out = LAYER[name]
    assert placed(make())(images(*shape)).shape == out


@every_layer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_layer_keeps_its_precision_in_output_gradients_and_state(name, dtype):
    make, shape, _ = LAYER[name]
    layer = placed(make()).to(dtype)
    x = images(*shape, dtype=dtype)
    x.requires_grad = True
    for mode in (True, False):
        layer.train(mode)
        layer.zero_grad()
        x.grad = None
        y = layer(x)
        (y * y).sum().backward()
        grads = [p.grad for p in layer.parameters()]
        assert y.dtype == x.grad.dtype == dtype
        assert all(g is not None and g.dtype == dtype for g in grads)
        assert all(array.dtype == dtype for array in layer.state_dict().values())


@every_layer
def test_a_layer_computes_the_same_on_raw_arrays(name):
    make, shape, _ = LAYER[name]
    layer = placed(make()).eval()
    x = images(*shape)
    assert np.array_equal(fetch(layer(x)), fetch(layer(x.data)))


@every_layer
def test_the_state_of_a_layer_survives_a_round_trip(name):
    make, shape, _ = LAYER[name]
    first, second, x = placed(make()), placed(make(), seed=1), images(*shape)
    first(x)  # moves the running averages
    second.load_state_dict(first.state_dict())
    assert np.array_equal(fetch(first.eval()(x)), fetch(second.eval()(x)))


@pytest.mark.host("prints")
@every_layer
def test_a_layer_prints_in_ascii_and_short(name):
    text = repr(placed(LAYER[name][0]()))
    assert text.isascii() and "object at" not in text and max(map(len, text.splitlines())) <= 100


@every_layer
def test_a_copy_of_a_layer_computes_the_same_and_is_independent(name):
    make, shape, _ = LAYER[name]
    layer, x = placed(make()).eval(), images(*shape)
    twin = copy.deepcopy(layer)
    before = fetch(layer(x))
    assert np.array_equal(before, fetch(twin(x)))
    for p in twin.parameters():
        p.data = p.data * 2 + 1
    assert np.array_equal(before, fetch(layer(x)))


# ---------------------------------------------------------------------------------------------------- what is found


@pytest.mark.host("finds members, holds no array of its own")
def test_parameters_are_found_under_their_dotted_attribute_paths():
    class Net(nn.Module):
        def __init__(self) -> None:
            self.stem = nn.Conv2d(1, 2, 3)
            self.layers = [nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2, bias=False), act=nn.Tanh())]
            self.heads = {"a": nn.Linear(2, 1), "b": (nn.Parameter(np.ones(1)), nn.Parameter(np.ones(2)))}
            self.width = 2
            self.label = "net"

    assert [path for path, _ in Net().named_parameters()] == [
        "heads.b.0",
        "heads.b.1",
        "stem.weight",
        "stem.bias",
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.0.weight",
        "heads.a.weight",
        "heads.a.bias",
    ]
    assert [path for path, _ in Net().named_modules()] == [
        "",
        "stem",
        "layers.0",
        "layers.1",
        "layers.1.0",
        "layers.1.act",
        "heads.a",
    ]


@pytest.mark.host("finds members, holds no array of its own")
def test_a_shared_layer_is_found_once():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    assert [path for path, _ in model.named_parameters()] == ["0.weight", "0.bias"]
    assert [path for path, _ in model.named_modules()] == ["", "0", "1"]
    assert len(model) == 3 and model[0] is model[2]


def test_a_shared_parameter_is_in_the_state_once_and_loads_for_both():
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return placed(model)

    first, second = tied(), tied()
    first[0].weight.data = first[0].weight.data * 2
    second.load_state_dict(first.state_dict())
    assert "1.weight" not in first.state_dict()
    assert np.array_equal(fetch(second[1].weight), fetch(first[0].weight))


def test_a_students_block_trains():
    block = placed(Block(4))
    x = images(8, 4)
    assert np.array_equal(fetch(block(x)), fetch(x))  # the scale starts at 0
    (block(x) ** 2).sum().backward()
    assert [path for path, _ in block.named_parameters()] == ["scale", "linear.weight", "linear.bias"]
    assert fetch(block.scale.grad).shape == (1,) and np.all(fetch(block.linear.weight.grad) == 0)


@pytest.mark.host("finds members, holds no array of its own")
def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match=r"Empty has no forward\(self, x\)"):
        type("Empty", (nn.Module,), {})()(1)


@pytest.mark.host("what a list becomes")
def test_a_parameter_is_a_leaf_that_wants_a_gradient():
    assert nn.Parameter([1.0, 2.0]).requires_grad
    with pytest.raises(TypeError, match="only floating-point tensors have gradients"):
        nn.Parameter([1, 2])


# ------------------------------------------------------------------------------------------------------------ state


def test_the_state_is_a_copy():
    layer = placed(nn.Linear(2, 2))
    state = layer.state_dict()
    state["weight"][:] = 7
    assert not np.any(fetch(layer.weight) == 7)
    layer.load_state_dict(state)
    state["weight"][:] = 8
    assert np.all(fetch(layer.weight) == 7)


def test_buffers_are_state_and_no_parameters():
    layer = placed(nn.BatchNorm1d(2))
    assert set(layer.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    assert [path for path, _ in layer.named_parameters()] == ["weight", "bias"]


def test_a_buffer_of_ones_own_moves_and_is_saved():
    class Counter(nn.Module):
        def __init__(self) -> None:
            self.register_buffer("seen", np.zeros(1, "float32"))

    model = nn.Sequential(Counter()).to(DEVICE).to("float64")
    assert list(model.state_dict()) == ["0.seen"] and model[0].seen.dtype == np.float64


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda state: state.pop("1.bias"), r"missing \['1.bias'\], unknown \[\]"),
        (lambda state: state.update(extra=np.ones(1)), r"missing \[\], unknown \['extra'\]"),
        (lambda state: state.update({"1.bias": np.ones(5)}), r"1.bias: state has shape \(5,\), the model \(2,\)"),
        (lambda state: state.update({"1.bias": np.array(["a", "b"])}), "could not convert"),
        (lambda state: state.update({"1.bias": [1.0]}), r"1.bias: state has shape \(1,\), the model \(2,\)"),
    ],
    ids=["missing", "unknown", "shape", "words", "list"],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(spoil, words):
    model = placed(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)))
    before = model.state_dict()
    state = {path: array + 1 for path, array in before.items()}
    spoil(state)
    with pytest.raises(ValueError, match=words):
        model.load_state_dict(state)
    assert all(np.array_equal(array, before[path]) for path, array in model.state_dict().items())


def test_loading_keeps_dtype():
    layer = placed(nn.Linear(2, 2))
    layer.load_state_dict({"weight": np.ones((2, 2)), "bias": np.ones(2)})
    assert layer.weight.dtype == np.float32


def test_to_float64_takes_gradients_and_buffers_along():
    model = placed(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    model(images(4, 3)).sum().backward()
    assert model.to("float64") is model
    assert all(p.dtype == p.grad.dtype == np.float64 for p in model.parameters())
    assert all(array.dtype == np.float64 for _, array in model.named_buffers())


def test_zero_grad_forgets_the_gradients():
    model = placed(nn.Linear(3, 3))
    model(images(4, 3)).sum().backward()
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.host("finds members, holds no array of its own")
def test_train_and_eval_reach_every_module_and_return_the_model():
    model = nn.Sequential(nn.Residual(nn.Sequential(nn.Dropout(), nn.Linear(2, 2))))
    assert model.eval() is model and not any(m.training for _, m in model.named_modules())
    assert model.train() is model and all(m.training for _, m in model.named_modules())


# ------------------------------------------------------------------------------------------------------------ hooks


def test_a_forward_hook_sees_module_inputs_and_output():
    layer, seen = placed(nn.Linear(2, 2)), []
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append((module, inputs, output)))
    x = images(1, 2)
    y = layer(x)
    assert seen[0][0] is layer and seen[0][1][0] is x and seen[0][2] is y
    handle.remove()
    layer(x)
    assert len(seen) == 1


def test_what_a_forward_hook_returns_replaces_the_output():
    layer = nn.Sequential(nn.Identity(), nn.ReLU())
    layer[0].register_forward_hook(lambda module, inputs, output: -output)
    layer[0].register_forward_hook(lambda module, inputs, output: output * 2)
    assert np.array_equal(fetch(layer(tensor(np.array([1.0, -3.0])))), [0, 6])


# ------------------------------------------------------------------------------------------------ containers, branches


def test_sequential_applies_one_after_the_other():
    model = placed(nn.Sequential(nn.Linear(3, 4), act=nn.Tanh()))
    x = images(2, 3)
    assert np.array_equal(fetch(model(x)), np.tanh(fetch(model[0](x))))
    assert [path for path, _ in model.named_children()] == ["0", "act"]


@pytest.mark.host("finds members, holds no array of its own")
@pytest.mark.parametrize("container", [nn.Sequential, nn.Concat])
def test_a_container_holds_modules_only(container):
    with pytest.raises(TypeError, match=f"{container.__name__} holds modules; 1 is a function"):
        container(nn.Tanh(), lambda x: x)


def test_concat_joins_its_branches_along_the_channels():
    model = placed(nn.Concat(nn.Conv2d(2, 1, 1), pooled=nn.AvgPool2d(1)))
    x = images(2, 2, 3, 3)
    y = fetch(model(x))
    assert np.array_equal(y[:, 1:], fetch(x)) and np.array_equal(
        y[:, :1], fetch(model.named_children().__next__()[1](x))
    )


def test_a_residual_adds_its_branch_to_the_input_then_activates():
    model = placed(nn.Residual(nn.Linear(3, 3), activation="relu"))
    x = images(2, 3)
    assert np.allclose(fetch(model(x)), np.maximum(fetch(x) + fetch(model.branch(x)), 0))


def test_a_residual_whose_branch_changes_the_shape_says_what_to_do():
    with pytest.raises(ValueError, match=r"branch gives \(2, 1\), the shortcut \(2, 3\); pass a shortcut"):
        placed(nn.Residual(nn.Linear(3, 1)))(images(2, 3))


def test_scale_is_a_learnable_line():
    scale = placed(nn.Scale(0.5, bias=0.25))
    y = scale(tensor(np.array([2.0, 4.0], "float32")))
    y.sum().backward()
    assert np.array_equal(fetch(y), [1.25, 2.25])
    assert np.array_equal(fetch(scale.scale.grad), [6]) and np.array_equal(fetch(scale.bias.grad), [2])


def test_init_apply_sets_scale_back_to_its_start():
    scale = nn.Scale(0.5).to(DEVICE)
    scale.scale.data = scale.scale.data * 8
    init.apply(scale)
    assert fetch(scale.scale) == 0.5


# -------------------------------------------------------------------------------------------------- batch normalization


def test_batch_norm_normalizes_by_the_batch_in_training():
    x = images(64, 3, 4, 4) * 5 + 2
    y = fetch(placed(nn.BatchNorm2d(3))(x))
    assert np.allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-5) and np.allclose(y.std(axis=(0, 2, 3)), 1, atol=1e-4)


def test_the_running_averages_are_exponential_with_the_unbiased_variance():
    layer = placed(nn.BatchNorm1d(3, momentum=0.25)).to("float64")
    mean, var = np.zeros(3), np.ones(3)
    for seed in range(3):
        x = images(5, 3, seed=seed, dtype="float64")
        layer(x)
        mean = 0.75 * mean + 0.25 * fetch(x).mean(axis=0)
        var = 0.75 * var + 0.25 * fetch(x).var(axis=0, ddof=1)
    assert np.allclose(fetch(layer.running_mean), mean, rtol=1e-13)
    assert np.allclose(fetch(layer.running_var), var, rtol=1e-13)


def test_batch_norm_in_evaluation_uses_the_running_averages_and_leaves_them():
    layer = placed(nn.BatchNorm1d(2, eps=0.0)).eval()
    layer.load_state_dict(
        {k: np.array(v) for k, v in dict(weight=[2, 1], bias=[0, 5], running_mean=[1, 2], running_var=[4, 9]).items()}
    )
    y = layer(tensor(np.array([[3, 5], [1, 2]], "float32")))
    assert np.allclose(fetch(y), [[2, 6], [0, 5]])
    assert np.array_equal(fetch(layer.running_mean), [1, 2])


def test_init_apply_forgets_the_running_averages():
    layer = placed(nn.BatchNorm1d(3))
    layer(images(8, 3))
    init.apply(layer)
    assert np.array_equal(fetch(layer.running_mean), np.zeros(3)) and np.array_equal(
        fetch(layer.running_var), np.ones(3)
    )


def test_batch_norm_keeps_no_graph_alive_in_its_averages():
    layer = placed(nn.BatchNorm1d(3))
    layer(images(8, 3))
    assert not isinstance(layer.running_mean, Tensor)


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.BatchNorm1d, (4, 3, 2, 2)), (nn.BatchNorm2d, (4, 3)), (nn.BatchNorm1d, (4, 2))]
)
def test_batch_norm_of_a_wrong_shape_says_what_it_got(layer, shape):
    with pytest.raises(ValueError, match=rf"{layer.__name__}\(3\): got shape \({shape[0]}, {shape[1]}"):
        placed(layer(3))(images(*shape))


def test_batch_norm_of_a_single_value_per_channel_is_refused_in_training_only():
    layer = placed(nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="several values per channel"):
        layer(images(1, 3))
    assert layer.eval()(images(1, 3)).shape == (1, 3)


# ---------------------------------------------------------------------------------------------------------- dropout


def test_dropout_drops_the_stated_share_and_keeps_the_mean():
    """100 000 elements: a share or a mean beyond 5 standard deviations has probability 6e-7 each."""
    p, n = 0.3, 100_000
    y = fetch(placed(nn.Dropout(p))(tensor(np.ones(n, "float32"))))
    assert abs((y == 0).mean() - p) < 5 * math.sqrt(p * (1 - p) / n)
    assert abs(y.mean() - 1) < 5 * math.sqrt(p / (1 - p) / n)
    assert np.allclose(y[y != 0], 1 / (1 - p))


def test_dropout_draws_another_mask_every_time():
    layer, x = placed(nn.Dropout()), tensor(np.ones(100, "float32"))
    assert not np.array_equal(fetch(layer(x)), fetch(layer(x)))


def test_dropout_is_absent_in_evaluation_and_at_zero():
    x = images(4, 4)
    assert nn.Dropout().eval()(x) is x and nn.Dropout(0.0)(x) is x


def test_two_dropouts_of_a_model_draw_different_masks():
    model, x = placed(nn.Sequential(nn.Dropout(), nn.Dropout())), tensor(np.ones(100, "float32"))
    assert not np.array_equal(fetch(model[0](x)), fetch(model[1](x)))


def test_the_same_seed_gives_the_same_masks_again():
    layer, x = nn.Dropout(), tensor(np.ones(100, "float32"))
    masks = []
    for seed in (3, 3, 4):
        init.apply(layer, seed=seed)
        masks.append([fetch(layer(x)) for _ in range(3)])
    assert np.array_equal(masks[0], masks[1]) and not np.array_equal(masks[0], masks[2])


def test_layers_built_alone_never_share_a_draw():
    x = tensor(np.ones(100, "float32"))
    assert not np.array_equal(fetch(nn.Dropout()(x)), fetch(nn.Dropout()(x)))
    assert not np.array_equal(fetch(nn.Linear(4, 4).weight), fetch(nn.Linear(4, 4).weight))


@pytest.mark.host("refused before there is an array")
@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5])
def test_a_dropout_probability_out_of_range_is_refused(p):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        nn.Dropout(p)


# ------------------------------------------------------------------------------------------------------- weight norm

NORMED = [
    (lambda: nn.Linear(5, 3), (2, 5), 0),
    (lambda: nn.Conv2d(2, 4, 3, groups=2), (2, 2, 5, 5), 0),
    (lambda: nn.ConvTranspose2d(2, 3, 3), (2, 2, 4, 4), 1),
]


@pytest.mark.parametrize(("make", "shape", "axis"), NORMED)
def test_weight_norm_computes_what_the_bare_layer_did(make, shape, axis):
    layer, x = placed(make()), images(*shape)
    assert np.allclose(fetch(nn.WeightNorm(layer)(x)), fetch(layer(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("make", "shape", "axis"), NORMED)
def test_weight_norm_after_init_computes_what_the_bare_layer_does(make, shape, axis):
    bare, normed, x = placed(make(), seed=5), placed(nn.WeightNorm(make()), seed=5), images(*shape)
    assert np.array_equal(fetch(bare.weight), fetch(normed.weight))
    assert np.allclose(fetch(bare(x)), fetch(normed(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("make", "shape", "axis"), NORMED)
def test_weight_norm_does_not_depend_on_the_length_of_v_and_scales_with_the_gain(make, shape, axis):
    normed, x = placed(nn.WeightNorm(make())), images(*shape)
    before = fetch(normed(x))
    normed.weight.data = normed.weight.data * 3
    assert np.allclose(fetch(normed(x)), before, rtol=1e-5, atol=1e-6)
    normed.gain.data = normed.gain.data * 2
    assert np.allclose(fetch(normed(x)), 2 * before, rtol=1e-5, atol=1e-6)  # the bias is zero
    assert normed.gain.size == normed.weight.shape[axis]


@pytest.mark.host("refused before there is an array")
def test_weight_norm_wraps_weighted_layers_only():
    with pytest.raises(TypeError, match="wraps a Linear, Conv2d or ConvTranspose2d; got Tanh"):
        nn.WeightNorm(nn.Tanh())


# ------------------------------------------------------------------------------------- what layers declare for init


@pytest.mark.host("layers are drawn on the host")
def test_layers_declare_their_fans_and_initializers():
    assert nn.Linear(5, 3).fans == (5, 3)
    assert nn.Conv2d(4, 6, (3, 2), groups=2).fans == (2 * 6, 3 * 6)
    assert set(nn.Linear(5, 3).initializers) == {"weight", "bias"}
    assert set(nn.Linear(5, 3, bias=False).initializers) == {"weight"}


def test_the_default_weights_are_he_normal_and_the_bias_zero():
    """90 000 weights: a relative error of the deviation beyond 5/√(2n) has probability 6e-7."""
    layer = placed(nn.Linear(300, 300))
    assert abs(fetch(layer.weight).std() / math.sqrt(2 / 300) - 1) < 5 / math.sqrt(2 * 90_000)
    assert np.all(fetch(layer.bias) == 0)


@pytest.mark.host("layers are drawn on the host")
def test_a_layer_takes_a_scheme_by_name_or_as_initializer():
    layer = nn.Linear(3, 2, init="ones", bias_init=init.constant(0.5))
    assert np.all(fetch(layer.weight) == 1) and np.all(fetch(layer.bias) == 0.5)


# ------------------------------------------------------------------------------------------------ activations, printing


def test_an_activation_layer_is_its_operation():
    x = images(3, 4)
    for name, layer in LAYERS.items():
        assert np.array_equal(fetch(layer()(x)), fetch(layer.function(x))), name
    assert np.allclose(fetch(nn.LeakyReLU(negative_slope=0.3)(tensor(np.array([-1.0])))), [-0.3])


@pytest.mark.host("looks up a name")
@pytest.mark.parametrize("name", ["tanh", "Tanh"])
def test_an_activation_is_found_by_the_name_of_operation_or_layer(name):
    assert isinstance(activation(name), nn.Tanh)


@pytest.mark.host("looks up a name")
def test_a_module_passes_as_the_activation_it_is():
    module = nn.ReLU()
    assert activation(module) is module


@pytest.mark.host("refused before there is an array")
def test_an_unknown_activation_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown activation 'rellu'; did you mean 'relu'"):
        activation("rellu")


@pytest.mark.host("refused before there is an array")
def test_an_unknown_option_of_an_activation_is_refused():
    with pytest.raises(TypeError, match=r"LeakyReLU takes \['negative_slope'\]; got 'slope'"):
        nn.LeakyReLU(slope=0.1)


@pytest.mark.host("finds members, holds no array of its own")
def test_an_unknown_layer_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Liner'"):
        nn.Liner  # noqa: B018


def test_printing_a_model_shows_the_tree():
    block = nn.Residual(nn.Sequential(nn.LeakyReLU(negative_slope=0.1)))
    model = placed(nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.MaxPool2d(2), block))
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Conv2d(1 -> 6, 5x5, padding=2, init=he_normal)\n"
        "  (1): MaxPool2d(2, stride=2, padding=0)\n"
        "  (2): Residual(\n"
        "    (branch): Sequential(\n"
        "      (0): LeakyReLU(negative_slope=0.1)\n"
        "    )\n"
        "  )\n"
        ")"
    )


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "shape", "words"),
    [
        (
            lambda: nn.Conv2d(3, 16, 5),
            (64, 1, 28, 28),
            r"Conv2d\(3 → 16, 5×5\): input has 1 channel, expected 3. Got shape \(64, 1, 28, 28\); "
            r"pass in_channels=1, or check the channel axis \(N, C, H, W\)",
        ),
        (lambda: nn.Conv2d(3, 16, 5), (3, 28, 28), r"input has 3 axes, expected 4, \(N, C, H, W\).*\(3, 28, 28\)"),
        (lambda: nn.ConvTranspose2d(2, 1, 3), (1, 3, 4, 4), "input has 3 channels, expected 2"),
        (
            lambda: nn.Linear(784, 10),
            (2, 100),
            r"Linear\(784 → 10\): the input's last axis has length 100, expected 784",
        ),
        (lambda: nn.Linear(784, 10), (2, 1, 28, 28), r"Flatten images first \(nn.Flatten\(\)\)"),
        (lambda: nn.Conv2d(1, 1, 5), (1, 1, 3, 3), "a kernel that spans 5 does not fit into 3"),
    ],
    ids=["channels", "axes", "transposed", "last axis", "not flat", "too small"],
)
def test_an_input_that_does_not_fit_says_what_was_expected_and_what_to_do(make, shape, words):
    with pytest.raises(ValueError, match=words):
        placed(make())(images(*shape))


def _of_one_shape(shape, *, fan_in, fan_out, rng, dtype=None):
    return np.zeros((1, 1), "float32")


def test_an_initializer_of_ones_own_that_returns_float64_makes_a_float32_layer():
    layer = nn.Linear(3, 2, init=lambda shape, *, fan_in, fan_out, rng, dtype=None: rng.standard_normal(shape))
    layer.to(DEVICE)
    assert layer.weight.dtype == "float32"


@pytest.mark.host("refused before there is an array")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Linear(0, 3), "Linear: in_features must be a whole number of at least 1; got 0"),
        (lambda: nn.Linear(3, 2.5), "out_features must be a whole number"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "3 and 4 channels do not both divide into 2 groups"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="reflect"), "padding_mode must be 'zeros' or 'circular'"),
        (lambda: nn.Conv2d(1, 2, 0), "Conv2d: kernel_size must be a whole number of at least 1, or two of them; got 0"),
        (lambda: nn.Conv2d(1, 2, 3, stride=0), "Conv2d: stride must be .* at least 1"),
        (lambda: nn.Conv2d(1, 2, 3, padding=(0, -1)), r"Conv2d: padding must be .* at least 0.*got \(0, -1\)"),
        (lambda: nn.Conv2d(1, 2, 3, padding="same"), "Conv2d: padding must be .*; got 'same'"),
        (lambda: nn.ConvTranspose2d(1, 2, 3, dilation=0.5), "ConvTranspose2d: dilation must be .*; got 0.5"),
        (lambda: nn.Linear(3, 2, init=_of_one_shape), r"_of_one_shape returned shape \(1, 1\), expected \(2, 3\)"),
        (lambda: nn.Linear(3, 3, init="he_norml"), "unknown scheme 'he_norml'; did you mean 'he_normal'"),
        (lambda: nn.Residual(nn.Tanh(), activation="tanhh"), "unknown activation 'tanhh'; did you mean 'tanh'"),
    ],
)
def test_a_layer_that_cannot_be_is_refused_when_it_is_made(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# ------------------------------------------------------------------------------------------------------- all together


def test_a_small_convolutional_net_learns_a_batch_by_heart():
    model = placed(
        nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Residual(nn.Conv2d(4, 4, 3, padding=1), activation="relu"),
            nn.GlobalAvgPool2d(),
            nn.Linear(4, 3),
        )
    )
    x, y = images(6, 1, 6, 6), tensor(np.array([0, 1, 2, 0, 1, 2]))
    first = None
    for _ in range(150):
        loss = ops.cross_entropy(model(x), y)
        first = loss.item() if first is None else first
        model.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.data = p.data - 0.2 * p.grad
    with no_grad():
        assert loss.item() < 0.1 * first
