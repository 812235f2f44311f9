"""The five architectures: published counts, small forms, what each argument changes, the catalogue of names."""

import inspect

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor

from minidl import init, lab, models, nn, ops
from minidl.ops.nonlinear import ACTIVATIONS

FIVE = ["lenet5", "alexnet", "vgg11", "googlenet", "resnet18"]
ALL = [name for name in models.names() if name != "mlp"]
EVERY_ACTIVATION = sorted(function.__name__ for function in ACTIVATIONS.values())
SMALLEST = {"lenet5": 12, "alexnet": 15, "vgg11": 16, "googlenet": 17, "resnet18": 8, "resnet50": 8, "resnet20": 8}


def small(name, shape=(3, 32, 32), **options):
    """The small form of a network, drawn on the host and copied to the device under test."""
    return models.build(name, in_shape=shape, num_classes=options.pop("num_classes", 10), **options).to(DEVICE)


def images(count=2, shape=(3, 32, 32)):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def all_outputs(outputs):
    """The outputs of a network that may have several in training, the main one first."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def logits(outputs):
    return all_outputs(outputs)[0]


def layers(model, kind):
    return [path for path, module in model.named_modules() if isinstance(module, kind)]


def number_of_parameters(name, **options):
    return sum(p.size for p in models.build(name, init="zeros", **options).parameters())  # zeros cost nothing


# ------------------------------------------------------------------------------------------------------- published form


@pytest.mark.host("numbers of parameters")
@pytest.mark.parametrize(
    ("name", "options", "published"),
    [
        ("lenet5", {}, 61_706),
        ("lenet5", {"in_shape": (1, 28, 28)}, 61_706),
        ("alexnet", {}, 61_100_840),
        ("vgg11", {}, 132_863_336),
        ("vgg13", {}, 133_047_848),
        ("vgg16", {}, 138_357_544),
        ("vgg16", {"norm": True}, 138_365_992),
        ("vgg19", {}, 143_667_240),
        ("googlenet", {"aux": False}, 6_998_552),
        ("googlenet", {}, 13_378_280),
        ("resnet18", {}, 11_689_512),
        ("resnet34", {}, 21_797_672),
        ("resnet50", {}, 25_557_032),
        ("resnet20", {}, 272_474),
        ("resnet32", {}, 466_906),
        ("resnet56", {}, 855_770),
    ],
)
def test_the_published_form_has_the_published_number_of_parameters(name, options, published):
    assert number_of_parameters(name, **options) == published


@pytest.mark.host("sizes of layers")
@pytest.mark.parametrize(("name", "kernels"), [("alexnet", (11, 5)), ("googlenet", (7, 3)), ("resnet18", (7, 3))])
def test_the_published_form_begins_at_a_side_of_96(name, kernels):
    for side, kernel in zip((96, 95), kernels, strict=True):
        model = models.build(name, init="zeros", in_shape=(3, side, 120), num_classes=10)
        first = next(module for _, module in model.named_modules() if isinstance(module, nn.Conv2d))
        assert first.kernel_size == (kernel, kernel), f"{side} pixels"


@pytest.mark.parametrize(("name", "depth"), [("vgg11", 11), ("vgg13", 13), ("vgg16", 16), ("vgg19", 19)])
def test_a_vgg_has_as_many_layers_with_weights_as_its_name_says(name, depth):
    assert len(layers(small(name), nn.Weighted)) == depth


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet20", "resnet32", "resnet56"])
@pytest.mark.parametrize("order", ["post", "pre"])
def test_a_resnet_has_as_many_layers_with_weights_as_its_name_says_not_counting_shortcuts(name, order):
    weighted = layers(small(name, order=order, init="zeros"), nn.Weighted)
    assert sum("shortcut" not in path for path in weighted) == int(name.removeprefix("resnet"))


# --------------------------------------------------------------------------------------------- building, whatever asked


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_each_network_prints_runs_forward_and_backward_and_its_state_fits_another(name, activation):
    model = small(name, activation=activation, seed=1)
    assert f": {type(nn.activation(activation)).__name__}()" in str(model)
    sum(y.sum() for y in all_outputs(model(tensor(images())))).backward()
    for path, p in model.named_parameters():
        assert p.grad is not None and np.isfinite(fetch(p.grad)).all(), path
    other = small(name, activation=activation, seed=2)
    before = fetch(other.eval()(tensor(images())))
    other.load_state_dict(model.state_dict())
    expected = fetch(model.eval()(tensor(images())))
    assert not np.array_equal(before, expected)
    np.testing.assert_array_equal(fetch(other(tensor(images()))), expected)


@pytest.mark.parametrize("name", FIVE)
def test_every_activation_is_taken(name):
    for activation in EVERY_ACTIVATION:
        if (name, activation) != ("resnet18", "crelu"):  # refused, see below
            model = small(name, (3, 20, 20), activation=activation)
            assert logits(model(tensor(images(2, (3, 20, 20))))).shape == (2, 10), activation


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 30, 47)])
def test_the_small_form_takes_any_channels_sides_and_classes(name, shape):
    model = small(name, shape, num_classes=7)
    y = logits(model(tensor(images(2, shape))))
    assert y.shape == (2, 7) and y.dtype == np.float32


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_image_runs_and_a_smaller_one_is_refused_with_its_size(name):
    side = SMALLEST[name]
    assert logits(small(name, (3, side, 40))(tensor(images(2, (3, side, 40))))).shape == (2, 10)
    with pytest.raises(ValueError, match=f"images of {side - 1}×40 are too small.*smallest are {side}×{side}"):
        small(name, (3, side - 1, 40))


@pytest.mark.parametrize("name", FIVE)
def test_the_seed_alone_decides_weights_and_dropout_whatever_was_built_before(name):
    first = small(name, seed=3)
    before, output = first.state_dict(), fetch(logits(first(tensor(images()))))
    small("resnet20", seed=8)
    np.random.seed(1)
    second = small(name, seed=3)
    assert all(np.array_equal(before[path], value) for path, value in second.state_dict().items())
    np.testing.assert_array_equal(fetch(logits(second(tensor(images())))), output)
    other = small(name, seed=4).state_dict()
    assert not any(np.array_equal(before[path], other[path]) for path in before if path.endswith("conv1.weight"))


@pytest.mark.parametrize("name", FIVE)
def test_no_two_layers_share_a_draw_and_every_weight_has_the_variance_of_its_scheme(name):
    """He: 2/fan_in. The gate is 6 standard errors of a variance."""
    model = small(name)
    firsts = []
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Weighted):
            w = fetch(layer.weight).astype(np.float64)
            assert w.var() == pytest.approx(2 / layer.fans[0], rel=6 * (2 / w.size) ** 0.5), path
            firsts.append(w.flat[0] * layer.fans[0] ** 0.5)
    assert len(set(np.round(firsts, 4))) == len(firsts)


@pytest.mark.parametrize("name", FIVE)
def test_every_layer_declares_the_scheme_it_was_drawn_by(name):
    model = small(name, init="orthogonal")
    before = model.state_dict()
    assert str(model).count("init=orthogonal") == len(layers(model, nn.Weighted))
    init.apply(model, seed=0)  # each layer's own scheme: the same draw
    assert all(np.array_equal(before[path], value) for path, value in model.state_dict().items())


def test_rules_set_single_layers():
    model = small("vgg11", init={"conv1_1.weight": "zeros", "linear*": "orthogonal", "*": "he_normal"})
    assert not fetch(model.conv1_1.weight).any() and fetch(model.conv2_1.weight).any()
    w = fetch(model.linear7.weight)
    np.testing.assert_allclose(w @ w.T, np.eye(len(w)), atol=1e-5)


# ------------------------------------------------------------------------------------------------ what arguments change


@pytest.mark.parametrize("name", ALL)
def test_normalization_follows_every_convolution_or_none(name):
    with_it, without = (small(name, norm=norm, init="zeros") for norm in (True, False))
    assert len(layers(with_it, nn.BatchNorm2d)) == len(layers(with_it, nn.Conv2d))
    assert not layers(without, nn.BatchNorm2d)


def test_a_residual_network_has_convolution_biases_only_without_normalization():
    with_it, without = (small("resnet20", norm=norm).state_dict() for norm in (True, False))
    assert not any("conv" in path and path.endswith("bias") for path in with_it)
    assert all(path.replace("weight", "bias") in without for path in without)


def blocks_in_and_out(model, x):
    """Input and output of every residual block that keeps the shape."""
    seen = []

    def look(block, inputs, output):
        if block.shortcut is None:
            seen.append((fetch(inputs[0]), fetch(output)))

    for path, module in model.named_modules():
        if path.startswith("block") and isinstance(module, nn.Residual):
            module.register_forward_hook(look)
    model(x)
    return seen


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet50"])
@pytest.mark.parametrize(("order", "expected"), [("pre", lambda x: x), ("post", np.tanh)])
def test_a_block_whose_branch_gives_zero_passes_its_input_on_and_only_post_activates_it(name, order, expected):
    last = "conv3" if name == "resnet50" else "conv2"
    rules = {f"*.branch.{last}.weight": "zeros", "*": "glorot_normal"}
    model = small(name, activation="tanh", order=order, norm=False, init=rules)
    seen = blocks_in_and_out(model, tensor(images()))
    assert len(seen) >= 4
    for x, y in seen:
        np.testing.assert_allclose(y, expected(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_scale_ends_every_branch_and_at_zero_leaves_the_input(order):
    model = small("resnet20", order=order, norm=False, scale=True)
    scales = layers(model, nn.Scale)
    assert len(scales) == 9 and all(path.endswith("branch.scale") for path in scales)
    for path, p in model.named_parameters():
        if path.endswith("scale.scale"):
            assert fetch(p) == 1
            p.data = p.data * 0
    for x, y in blocks_in_and_out(model, tensor(images())):
        np.testing.assert_array_equal(y, x if order == "pre" else np.maximum(x, 0))
    assert not layers(small("resnet20"), nn.Scale)


@pytest.mark.parametrize(("pool", "expected"), [("max", 3.0), ("avg", 1.5)])
def test_lenet_pools_by_the_largest_or_by_the_mean(pool, expected):
    model = small("lenet5", (1, 32, 32), pool=pool)
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    assert fetch(model.pool1(tensor(x))).item() == expected == fetch(model.pool2(tensor(x))).item()


# ------------------------------------------------------------------------------------------------ auxiliary classifiers


def test_googlenet_gives_three_outputs_in_training_and_one_in_evaluation():
    model = small("googlenet")
    outputs = model(tensor(images()))
    assert [y.shape for y in outputs] == [(2, 10)] * 3
    assert model.eval()(tensor(images())).shape == (2, 10)
    assert small("googlenet", aux=False)(tensor(images())).shape == (2, 10)


def test_googlenet_counts_the_loss_of_each_auxiliary_classifier_three_tenths():
    model, y = small("googlenet"), tensor(np.array([1, 2]))
    outputs = model(tensor(images()))
    one, two, three = (fetch(ops.cross_entropy(output, y)).item() for output in outputs)
    total = fetch(model.training_loss(outputs, y, ops.cross_entropy)).item()
    assert total == pytest.approx(one + 0.3 * (two + three), rel=1e-6)
    assert len({one, two, three}) == 3
    alone = fetch(model.training_loss(outputs[0], y, ops.cross_entropy)).item()
    assert alone == one


def test_the_probe_measures_every_layer_of_a_network_with_several_outputs():
    model, y = small("googlenet"), np.array([1, 2])
    report = lab.probe(model, images(), y)
    measured = {record["layer"] for record in report.records}
    assert {"lower.conv1", "upper.output", "aux1.output", "aux2.output"} <= measured
    assert all(record["delta_rms"] > 0 for record in report.records)
    assert report.loss > lab.probe(small("googlenet", aux=False), images(), y).loss


def test_auxiliary_classifiers_do_not_change_the_weights_of_the_others():
    with_them, without = (small("googlenet", aux=aux).state_dict() for aux in (True, False))
    assert without.keys() < with_them.keys()
    assert all(np.array_equal(with_them[path], value) for path, value in without.items())


# ------------------------------------------------------------------------------------------------------------ catalogue


def test_build_makes_what_the_function_of_that_name_makes():
    by_name = models.build("resnet20", activation="tanh", order="pre", seed=2).to(DEVICE)
    by_function = models.resnet20("tanh", order="pre", seed=2).to(DEVICE)
    assert str(by_name) == str(by_function)
    x = tensor(images())
    np.testing.assert_array_equal(fetch(by_name(x)), fetch(by_function(x)))


@pytest.mark.host("names are looked up")
def test_every_name_of_the_catalogue_is_a_function_of_models():
    assert {"lenet5", "alexnet", "vgg16", "googlenet", "resnet50", "resnet56", "mlp"} <= set(models.names())
    for name in models.names():
        assert callable(getattr(models, name))
        assert {"activation", "init"} <= set(inspect.signature(getattr(models, name)).parameters)


def test_build_makes_a_perceptron_for_images_too():
    model = models.build("mlp", in_shape=(3, 4, 5), num_classes=7, hidden=(11,), activation="tanh").to(DEVICE)
    assert [p.shape for p in model.parameters()] == [(11, 60), (11,), (7, 11), (7,)]
    assert model(tensor(images(2, (3, 4, 5)))).shape == (2, 7)


@pytest.mark.host("errors before anything is drawn")
@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("lenet", {}, ValueError, "unknown network 'lenet'; did you mean 'lenet5'"),
        ("ResNet18", {}, ValueError, "did you mean 'resnet18'"),
        ("alexnet", {"nrom": True}, TypeError, "alexnet takes no argument 'nrom'; it takes: activation, init, norm"),
        ("resnet18", {"name": "resnet34"}, TypeError, "takes no argument 'name'"),
        ("vgg16", {"pool": "avg"}, TypeError, "vgg16 takes no argument 'pool'"),
        ("lenet5", {"pool": "mean"}, ValueError, "pool must be 'max' or 'avg'; got 'mean'"),
        ("resnet20", {"order": "bn-relu"}, ValueError, "order must be 'post' or 'pre'; got 'bn-relu'"),
        ("resnet18", {"activation": "CReLU"}, ValueError, "crelu doubles the channels"),
        ("vgg11", {"activation": "rleu"}, ValueError, "unknown activation 'rleu'; did you mean 'relu'"),
        ("vgg11", {"in_shape": (3, 32, 32), "init": "he_norml"}, ValueError, "did you mean 'he_normal'"),
        ("lenet5", {"in_shape": (28, 28)}, ValueError, r"in_shape is \(channels, height, width\); got \(28, 28\)"),
        ("lenet5", {"num_classes": 0}, ValueError, "at least 1; got 0"),
    ],
)
def test_wrong_arguments_are_refused_with_what_to_do(name, arguments, error, message):
    with pytest.raises(error, match=message):
        models.build(name, **arguments)


@pytest.mark.host("names are looked up")
@pytest.mark.parametrize("family", [models.vgg11.__globals__["vgg"], models.resnet18.__globals__["resnet"]])
def test_a_family_refuses_a_member_it_does_not_have(family):
    with pytest.raises(ValueError, match="known: "):
        family("vgg12")
