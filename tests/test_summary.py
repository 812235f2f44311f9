"""lab.summary: every layer of every network, with shapes, parameters, fans and spread; and nothing left changed."""

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor

from minidl import init, lab, models, nn, ops, train


def small_net(seed=0):
    model = nn.Sequential(
        conv=nn.Conv2d(3, 4, 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(4),
        act=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(0.5),
        output=nn.Linear(64, 10, init="glorot_normal"),
    )
    init.apply(model, seed=seed)
    return model.to(DEVICE)


def test_a_line_holds_shape_parameters_fans_scheme_and_the_measured_spread():
    model = small_net()
    records = {r["layer"]: r for r in lab.summary(model, (3, 8, 8)).records}
    assert list(records) == ["conv", "norm", "act", "pool", "flatten", "dropout", "output"]
    conv, norm, output = records["conv"], records["norm"], records["output"]
    assert (conv["kind"], conv["shape"], conv["parameters"]) == ("Conv2d", (4, 8, 8), 3 * 4 * 9)
    assert (conv["fan_in"], conv["fan_out"], conv["scheme"]) == (27, 36, "he_normal")
    assert conv["std"] == pytest.approx(np.std(fetch(model.conv.weight), dtype=np.float64), rel=1e-12)
    assert (norm["parameters"], norm["fan_in"], norm["scheme"], norm["std"]) == (8, None, None, None)
    assert (records["pool"]["shape"], records["pool"]["parameters"]) == ((4, 4, 4), 0)
    assert (output["shape"], output["parameters"], output["scheme"]) == ((10,), 650, "glorot_normal")


def test_the_total_is_that_of_all_parameters_and_prints_in_groups():
    found = lab.summary(models.lenet5().to(DEVICE), (1, 32, 32))
    assert found.parameters == sum(r["parameters"] for r in found.records) == 61706
    assert str(found).endswith("input 1×32×32: 61 706 parameters")
    assert str(lab.summary(small_net(), (3, 8, 8))).endswith("766 parameters, and 8 in running averages")


SMALL = {"lenet5": (1, 28, 28), "mlp": (1, 28, 28)}


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("name", models.names())
def test_every_network_with_every_activation_is_summarised(name, activation):
    shape = SMALL.get(name, (3, 32, 32))
    model = models.build(name, activation=activation, in_shape=shape, num_classes=10).to(DEVICE)
    found = lab.summary(model, shape)
    assert sum(r["parameters"] for r in found.records) == found.parameters == sum(p.size for p in model.parameters())
    assert found.records[-1]["calls"] == 0 or found.records[-1]["shape"] == (10,)
    assert {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "ReLU"}[activation] in {r["kind"] for r in found.records}
    with_fans = [r for r in found.records if r["fan_in"] is not None]
    assert with_fans and all(r["std"] > 0 and r["scheme"] for r in with_fans)
    assert max(map(len, str(found).splitlines())) <= 100


def test_every_layer_shows_what_it_is_predicted_to_do_to_the_second_moment():
    model = small_net()
    ratios = {r["layer"]: r["variance_ratio"] for r in lab.summary(model, (3, 8, 8)).records}
    kernel = fetch(model.conv.weight).astype(np.float64)
    inside = (1 - 2 / (3 * 8)) ** 2  # of nine taps, those on the border of the image meet zeros
    assert ratios["conv"] == pytest.approx(27 * inside * (kernel**2).mean(), rel=1e-9)
    assert ratios["conv"] * ratios["norm"] == pytest.approx(1, abs=1e-4)  # as in training: variance 1
    assert ratios["act"] == pytest.approx(0.5, rel=1e-9)
    assert ratios["pool"] == pytest.approx(3.088, abs=2e-3)  # neighbours that know nothing of each other
    assert (ratios["flatten"], ratios["dropout"]) == (1, 2)


def test_a_network_that_cannot_be_followed_has_no_column_of_ratios():
    class Own(nn.Module):
        def __init__(self):
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.first(x).tanh())

    found = lab.summary(Own().to(DEVICE), 4)
    assert [r["variance_ratio"] for r in found.records] == [None, None] and "ratio" not in str(found)
    assert "ratio" in str(lab.summary(nn.Sequential(nn.Linear(4, 2)).to(DEVICE), 4))


def schemes(model, shape=(1, 28, 28)):
    return {r["layer"]: r["scheme"] for r in lab.summary(model, shape).records if r["fan_in"] is not None}


def test_under_rules_every_layer_shows_and_declares_the_scheme_it_was_drawn_by():
    rules = {"conv*": "zeros", "linear3.bias": "ones", "linear*": "glorot_normal"}
    model = models.lenet5(init=rules, in_shape=(1, 28, 28)).to(DEVICE)
    expected = {
        path: "zeros" if path.startswith("conv") else "glorot_normal" if path.startswith("linear") else "he_normal"
        for path in schemes(model)
    }
    assert schemes(model) == expected and len(set(expected.values())) == 3
    assert [line for line in str(model).splitlines() if "(conv1)" in line and "init=zeros" in line]
    before = model.state_dict()
    init.apply(model, seed=0)  # what the layers declare: the same rules, the same draw
    for path, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[path])


def test_the_scheme_is_the_one_last_applied_and_loading_weights_leaves_it():
    model = models.lenet5(in_shape=(1, 28, 28)).to(DEVICE)
    assert set(schemes(model).values()) == {"he_normal"}
    init.apply(model, "glorot_normal")
    assert set(schemes(model).values()) == {"glorot_normal"}
    model.load_state_dict(models.lenet5(in_shape=(1, 28, 28), init="orthogonal").state_dict())
    assert set(schemes(model).values()) == {"glorot_normal"}
    init.apply(model)
    assert set(schemes(model).values()) == {"he_normal"}


def test_a_weight_shows_its_scheme_in_every_layer_that_holds_it():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first=first, second=second)
    init.apply(model, "orthogonal")
    wrapped = nn.Sequential(first=nn.WeightNorm(first), second=second).to(DEVICE)
    assert schemes(wrapped, 4) == {"first": "orthogonal", "second": "orthogonal"}


def test_layers_that_run_in_training_alone_are_counted_and_not_called():
    model = models.build("googlenet", in_shape=(3, 32, 32), num_classes=10).to(DEVICE)
    found = lab.summary(model, (3, 32, 32))
    silent = [r for r in found.records if r["calls"] == 0]
    assert silent and all(r["layer"].startswith("aux") and r["shape"] is None for r in silent)
    assert str(found).count("(not called)") == len(silent)


def test_a_layer_that_forward_forgets_is_not_said_to_run_in_training():
    class Forgetful(nn.Module):
        def __init__(self):
            self.used, self.forgotten = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.used(x)

    text = str(lab.summary(Forgetful().to(DEVICE), 4))
    assert "(not called)" in text and "training" not in text


def test_a_long_path_keeps_its_end():
    model = nn.Sequential(**{"outer" * 9: nn.Sequential(innermost=nn.Linear(2, 2))}).to(DEVICE)
    assert "…" in str(lab.summary(model, 2)) and "innermost " in str(lab.summary(model, 2))


def test_a_module_that_is_used_twice_has_one_line_and_its_parameters_count_once():
    class Twice(nn.Module):
        def __init__(self):
            self.linear = nn.Linear(4, 4)
            self.act = nn.Tanh()

        def forward(self, x):
            return self.act(self.linear(self.act(self.linear(x))))

    found = lab.summary(Twice().to(DEVICE), (4,))
    assert [(r["layer"], r["calls"], r["parameters"]) for r in found.records] == [("linear", 2, 20), ("act", 2, 0)]
    assert found.parameters == 20


def test_a_tensor_that_two_layers_share_is_counted_with_the_first():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).to(DEVICE)
    model[1].weight = model[0].weight
    found = lab.summary(model, 4)
    assert [r["parameters"] for r in found.records] == [16, 0] and found.parameters == 16


def test_a_block_with_parameters_of_its_own_has_a_line_beside_its_layers():
    class Block(nn.Module):
        def __init__(self):
            self.linear = nn.Linear(4, 4)
            self.scale = nn.Parameter(np.zeros(1, "float32"))

        def forward(self, x):
            return x + self.scale * self.linear(x).tanh()

    found = lab.summary(nn.Sequential(block=Block(), out=nn.Linear(4, 2)).to(DEVICE), 4)
    assert [(r["layer"], r["parameters"]) for r in found.records] == [("block.linear", 20), ("block", 1), ("out", 10)]


@pytest.mark.parametrize(
    ("module", "shape", "parameters"),
    [
        (lambda: nn.WeightNorm(nn.Linear(4, 3)), (4,), 12 + 3 + 3),
        (lambda: nn.ConvTranspose2d(2, 3, 2, stride=2), (2, 4, 4), 2 * 3 * 4 + 3),
        (lambda: nn.Concat(nn.Conv2d(2, 3, 1), nn.Identity()), (2, 4, 4), 9),
        (lambda: nn.Residual(nn.Scale(0.5, bias=0.0), activation="relu"), (4,), 2),
        (lambda: nn.BatchNorm1d(4, affine=False), (4,), 0),
    ],
)
def test_every_kind_of_layer_can_be_summarised(module, shape, parameters):
    found = lab.summary(module().to(DEVICE), shape)
    assert found.parameters == sum(r["parameters"] for r in found.records) == parameters
    str(found)


@pytest.mark.host("without arrays a layer is nowhere")
def test_a_layer_without_arrays_can_be_summarised():
    assert [r["shape"] for r in lab.summary(nn.GlobalAvgPool2d(), (2, 4, 4)).records] == [(2,)]


def test_nothing_is_left_changed():
    """Mode, running averages, gradients, masks, hooks: the next training step has the same bits."""

    def step(model, looked):
        x = tensor(np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32))
        y = tensor(np.arange(4)).data
        model.train()
        model(x)  # the masks are in the middle of their stream now
        model.norm.training = False
        if looked:
            lab.summary(model, (3, 8, 8))
            assert [m.training for _, m in model.named_modules()] == [True, True, False, True, True, True, True, True]
            assert all(p.grad is None for p in model.parameters())
            assert not any(vars(m).get("_forward_hooks") for _, m in model.named_modules())
        loss = ops.cross_entropy(model(x), y)
        loss.backward()
        return loss.item(), model.state_dict()

    (loss, state), (expected, reference) = step(small_net(), True), step(small_net(), False)
    assert loss == expected
    for path in state:
        np.testing.assert_array_equal(state[path], reference[path])


def test_a_shape_that_does_not_fit_is_the_layers_error_and_leaves_the_mode():
    model = small_net().train()
    with pytest.raises(ValueError, match="input has 1 channel, expected 3"):
        lab.summary(model, (1, 8, 8))
    assert all(m.training for _, m in model.named_modules())
    assert not any(vars(m).get("_forward_hooks") for _, m in model.named_modules())


# ------------------------------------------------------------------- five architectures × three activations, on disk


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("name", ["lenet5", "alexnet", "vgg11", "googlenet", "resnet20"])
def test_the_five_architectures_build_print_save_and_load(name, activation, tmp_path):
    shape = SMALL.get(name, (3, 32, 32))
    first, second = (
        models.build(name, activation=activation, in_shape=shape, num_classes=10, seed=seed) for seed in (0, 1)
    )
    assert type(first).__name__ in repr(first)
    train.save(tmp_path / "net.npz", model=first)
    train.load(tmp_path / "net.npz", model=second)
    x = tensor(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(fetch(second.to(DEVICE).eval()(x)), fetch(first.to(DEVICE).eval()(x)))
