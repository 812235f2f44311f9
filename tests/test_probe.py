"""The probe: every statistic against a direct computation in float64, that it changes nothing, and known theory."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor

from minidl import init, lab, models, nn, ops, optim, train
from minidl.lab import change_per_layer
from minidl.tensor import no_grad

ROUNDING = 2e-5  # relative: a few layers in float32 against float64


def batch(shape=(16, 6), classes=3, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=shape)).astype(np.float32), rng.integers(classes, size=shape[0])


def record_of(report, layer):
    found = [r for r in report.records if r["layer"] == layer]
    assert len(found) == 1, f"{layer}: {len(found)} records"
    return found[0]


def parameters(model):
    return {path: fetch(p).astype(np.float64) for path, p in model.named_parameters()}


def assert_close(found, expected, layer):
    """The expected values among the found ones; None stands for what does not apply."""
    for key, value in expected.items():
        if value is None:
            assert found[key] is None, f"{layer}: {key}"
        else:
            assert found[key] == pytest.approx(value, rel=ROUNDING, abs=1e-7), f"{layer}: {key}"


# --------------------------------------------------------------------------- the truth: plain NumPy, float64, by hand


def rms(h):
    return math.sqrt((h**2).mean())


def output_statistics(h):
    """Of an output (N, ...): what the report calls by these names."""
    return {
        "mean": h.mean(),
        "rms": rms(h),
        "std": h.std(),
        "batch_std": math.sqrt(h.var(axis=0).mean()),
        "second_moment": (h**2).mean(),
        "nonfinite": 0.0,
    }


def softmax_delta(logits, y):
    """Gradient of the mean cross-entropy with respect to the logits."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p / len(y)


def conv_same(x, w, b):
    """3×3 convolution with padding 1, as loops over the kernel."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    h, width = x.shape[2:]
    out = np.zeros((len(x), len(w), h, width)) + b[:, None, None]
    for i in range(3):
        for j in range(3):
            out += np.einsum("nchw,oc->nohw", padded[:, :, i : i + h, j : j + width], w[:, :, i, j])
    return out


def conv_same_back(x, w, delta):
    """Gradients of ``conv_same`` with respect to input and kernel."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    to_input, to_kernel = np.zeros_like(padded), np.zeros_like(w)
    h, width = x.shape[2:]
    for i in range(3):
        for j in range(3):
            window = (slice(None), slice(None), slice(i, i + h), slice(j, j + width))
            to_kernel[:, :, i, j] = np.einsum("nohw,nchw->oc", delta, padded[window])
            to_input[window] += np.einsum("nohw,oc->nchw", delta, w[:, :, i, j])
    return to_input[:, :, 1:-1, 1:-1], to_kernel


ACTIVATIONS = {
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2, lambda h: np.abs(h) >= 0.97),
    "sigmoid": (
        lambda a: 1 / (1 + np.exp(-a)),
        lambda a: np.exp(-a) / (1 + np.exp(-a)) ** 2,
        lambda h: (h <= 0.05) | (h >= 0.95),
    ),
    "relu": (lambda a: np.maximum(a, 0), lambda a: (a > 0).astype(float), None),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("std", [0.3, 2.0])
def test_every_statistic_of_an_mlp_is_that_of_a_direct_computation(activation, std):
    x, y = batch()
    model = models.mlp([6, 9, 8, 3], activation, init=init.normal(std=std), seed=3)
    for p in (model.linear1.bias, model.linear2.bias):  # not zero, so that the mean of a layer is not
        p.data = np.linspace(-1, 1, p.size, dtype=np.float32)
    report = lab.probe(model.to(DEVICE), x, y)
    w, (f, slope, flat) = parameters(model), ACTIVATIONS[activation]
    a1 = x.astype(float) @ w["linear1.weight"].T + w["linear1.bias"]
    h1 = f(a1)
    a2 = h1 @ w["linear2.weight"].T + w["linear2.bias"]
    h2 = f(a2)
    logits = h2 @ w["output.weight"].T + w["output.bias"]
    d_out = softmax_delta(logits, y)
    d_h2 = d_out @ w["output.weight"]
    d_a2 = d_h2 * slope(a2)
    d_h1 = d_a2 @ w["linear2.weight"]
    d_a1 = d_h1 * slope(a1)
    layers = [
        ("linear1", a1, d_a1, x),
        (f"{activation}1", h1, d_h1, None),
        ("linear2", a2, d_a2, h1),
        (f"{activation}2", h2, d_h2, None),
        ("output", logits, d_out, h2),
    ]
    assert [r["layer"] for r in report.records] == ["flatten", *(layer[0] for layer in layers)]
    for name, h, delta, below in layers:
        found, expected = record_of(report, name), output_statistics(h) | {"delta_rms": rms(delta)}
        expected["twins"] = (h[:, 1:] == h[:, :-1]).all(axis=0).mean()  # two silent units are twins as well
        expected["dead"] = (h == 0).all(axis=0).mean() if name.startswith("relu") else None
        expected["always_on"] = (h > 0).all(axis=0).mean() if name.startswith("relu") else None
        expected["saturated"] = flat(h).mean() if flat and name.startswith(activation) else None
        if below is not None:
            expected["weight_std"] = w[f"{name}.weight"].std()
            expected["weight_mean"] = w[f"{name}.weight"].mean()
            expected["weight_grad_rms"] = rms(delta.T @ below)
        assert_close(found, expected, name)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert report.loss == pytest.approx(-np.log(p[np.arange(len(y)), y]).mean(), rel=ROUNDING)


def test_every_statistic_of_a_convolutional_net_is_that_of_a_direct_computation():
    x, y = batch((5, 2, 4, 6))
    model = nn.Sequential(
        conv1=nn.Conv2d(2, 4, 3, padding=1),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(4, 3, 3, padding=1),
        relu2=nn.ReLU(),
        pool=nn.AvgPool2d(2),
        flat=nn.Flatten(),
        out=nn.Linear(18, 3),
    )
    init.apply(model, seed=1)
    model.conv1.bias.data = np.array([0.2, -0.1, 0.3, -100], np.float32)  # the last channel is dead
    report = lab.probe(model.to(DEVICE), x, y)
    w = parameters(model)
    a1 = conv_same(x.astype(float), w["conv1.weight"], w["conv1.bias"])
    h1 = np.maximum(a1, 0)
    a2 = conv_same(h1, w["conv2.weight"], w["conv2.bias"])
    h2 = np.maximum(a2, 0)
    pooled = h2.reshape(5, 3, 2, 2, 3, 2).mean(axis=(3, 5))
    flat = pooled.reshape(5, -1)
    logits = flat @ w["out.weight"].T + w["out.bias"]
    d_out = softmax_delta(logits, y)
    d_flat = d_out @ w["out.weight"]
    d_pool = d_flat.reshape(pooled.shape)
    d_h2 = np.repeat(np.repeat(d_pool, 2, axis=2), 2, axis=3) / 4
    d_a2 = d_h2 * (a2 > 0)
    d_h1, g2 = conv_same_back(h1, w["conv2.weight"], d_a2)
    d_a1 = d_h1 * (a1 > 0)
    _, g1 = conv_same_back(x.astype(float), w["conv1.weight"], d_a1)
    layers = [
        ("conv1", a1, d_a1, g1),
        ("relu1", h1, d_h1, None),
        ("conv2", a2, d_a2, g2),
        ("relu2", h2, d_h2, None),
        ("pool", pooled, d_pool, None),
        ("flat", flat, d_flat, None),
        ("out", logits, d_out, d_out.T @ flat),
    ]
    assert [r["layer"] for r in report.records] == [layer[0] for layer in layers]
    for name, h, delta, g in layers:
        found, expected = record_of(report, name), output_statistics(h) | {"delta_rms": rms(delta)}
        expected |= {"weight_grad_rms": None if g is None else rms(g)}
        expected |= {"weight_std": None if g is None else w[f"{name}.weight"].std()}
        expected |= {"weight_mean": None if g is None else w[f"{name}.weight"].mean()}
        assert_close(found, expected, name)
        assert found["shape"] == h.shape[1:]
    assert record_of(report, "relu1")["dead"] == 0.25
    assert record_of(report, "relu1")["always_on"] == 0
    assert record_of(report, "relu2")["dead"] == (h2 == 0).all(axis=(0, 2, 3)).mean()


def test_records_come_in_the_order_of_execution_and_not_of_construction():
    class Backwards(nn.Module):
        def __init__(self):
            self.last, self.act, self.first = nn.Linear(5, 3), nn.Tanh(), nn.Linear(6, 5)

        def forward(self, x):
            return self.last(self.act(self.first(x)))

    report = lab.probe(Backwards().to(DEVICE), *batch())
    assert [r["layer"] for r in report.records] == ["first", "act", "last"]


def test_a_layer_that_is_used_twice_has_two_records():
    class Twice(nn.Module):
        def __init__(self):
            self.inner, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.out(self.inner(self.inner(x)))

    report = lab.probe(Twice().to(DEVICE), *batch())
    assert [r["layer"] for r in report.records] == ["inner", "inner", "out"]
    assert report.records[0]["rms"] != report.records[1]["rms"]


def test_a_single_layer_is_called_by_its_kind():
    report = lab.probe(nn.Linear(6, 3).to(DEVICE), *batch())
    assert [r["layer"] for r in report.records] == ["Linear"]


# ---------------------------------------------------------------------------------------------- branches


def test_the_gradient_where_a_residual_block_begins_is_that_of_both_ways():
    """y = a + B a + b: the gradient at a is δ + Bᵀδ, and at the branch it is δ."""
    x, y = batch()
    model = nn.Sequential(stem=nn.Linear(6, 3), block=nn.Residual(nn.Linear(3, 3))).to(DEVICE)
    report, w = lab.probe(model, x, y), parameters(model)
    a = x.astype(float) @ w["stem.weight"].T + w["stem.bias"]
    b = a @ w["block.branch.weight"].T + w["block.branch.bias"]
    delta = softmax_delta(a + b, y)
    assert [r["layer"] for r in report.records] == ["stem", "block.branch"]
    assert record_of(report, "block.branch")["rms"] == pytest.approx(rms(b), rel=ROUNDING)
    assert record_of(report, "block.branch")["delta_rms"] == pytest.approx(rms(delta), rel=ROUNDING)
    both = rms(delta + delta @ w["block.branch.weight"])
    assert record_of(report, "stem")["delta_rms"] == pytest.approx(both, rel=ROUNDING)


def test_each_branch_of_a_concatenation_gets_its_share_of_the_gradient():
    x, y = batch()
    model = nn.Sequential(two=nn.Concat(a=nn.Linear(6, 4), b=nn.Linear(6, 5)), out=nn.Linear(9, 3)).to(DEVICE)
    report, w = lab.probe(model, x, y), parameters(model)
    a, b = (x.astype(float) @ w[f"two.{k}.weight"].T + w[f"two.{k}.bias"] for k in "ab")
    logits = np.hstack([a, b]) @ w["out.weight"].T + w["out.bias"]
    below = softmax_delta(logits, y) @ w["out.weight"]
    assert [r["layer"] for r in report.records] == ["two.a", "two.b", "out"]
    for name, h, delta in (("two.a", a, below[:, :4]), ("two.b", b, below[:, 4:])):
        assert record_of(report, name)["rms"] == pytest.approx(rms(h), rel=ROUNDING)
        assert record_of(report, name)["delta_rms"] == pytest.approx(rms(delta), rel=ROUNDING)


class Splits(nn.Module):
    """A layer of two outputs, and one that makes whole numbers."""

    def forward(self, x):
        return x[:, :2], x[:, 2:], x.argmax(axis=1)


def test_a_layer_with_several_outputs_has_a_record_for_each_that_holds_real_numbers():
    class Model(nn.Module):
        def __init__(self):
            self.splits, self.out = Splits(), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.splits(x)[1])

    x, y = batch()
    report = lab.probe(Model().to(DEVICE), x, y)
    assert [(r["layer"], r["shape"]) for r in report.records] == [("splits", (2,)), ("splits", (4,)), ("out", (3,))]
    assert report.records[1]["rms"] == pytest.approx(rms(x[:, 2:].astype(float)), rel=ROUNDING)
    assert report.records[0]["delta_rms"] is None  # nothing depends on it


def test_a_weight_that_is_normalized_is_measured_as_it_is():
    model = nn.Sequential(inner=nn.WeightNorm(nn.Linear(6, 5)), out=nn.Linear(5, 3)).to(DEVICE)
    found = record_of(lab.probe(model, *batch()), "inner")
    assert found["weight_std"] == pytest.approx(fetch(model.inner.weight).astype(float).std(), rel=ROUNDING)
    assert found["weight_grad_rms"] > 0


def test_a_network_without_parameters_is_measured_too():
    x, y = batch((16, 3))
    report = lab.probe(nn.Sequential(tanh=nn.Tanh()), tensor(x), tensor(y))
    assert record_of(report, "tanh")["rms"] == pytest.approx(rms(np.tanh(x.astype(float))), rel=ROUNDING)


def test_frozen_layers_have_gradients_at_their_outputs_and_none_of_their_own():
    model = models.mlp([6, 5, 5, 3], seed=1).to(DEVICE)
    before = lab.probe(model, *batch())
    model.linear1.weight.requires_grad = model.linear1.bias.requires_grad = False
    after = lab.probe(model, *batch())
    assert [r["delta_rms"] for r in after.records] == [r["delta_rms"] for r in before.records]
    assert record_of(after, "linear1")["weight_grad_rms"] is None
    assert str(after)


# ------------------------------------------------------------------------------------------ nothing is changed


def everything(seed=0):
    """Convolution, batch norm and dropout: all that a forward pass may change."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.4), nn.Flatten(), nn.Linear(3 * 4 * 4, 3)
    )
    init.apply(model, seed=seed)
    return model.to(DEVICE)


IMAGES = ((12, 1, 6, 6), 3)


def steps(model, optimizer, count, first=0):
    """Some training steps; the losses."""
    losses = []
    for i in range(first, first + count):
        x, y = batch(*IMAGES, seed=i)
        loss = ops.cross_entropy(model(tensor(x)), tensor(y).data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("trained_before", [0, 3])
@pytest.mark.parametrize("training", [True, False])
def test_probing_changes_no_bit_of_what_follows(trained_before, training):
    """Twins: one is probed in between. Weights, averages, dropout masks, gradients and Adam's memory stay the same."""
    twins = []
    for probed in (False, True):
        model = everything()
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        losses = steps(model, optimizer, trained_before)
        model.train(training)
        if probed:
            state, grads = model.state_dict(), [p.grad for p in model.parameters()]
            modes = [m.training for _, m in model.named_modules()]
            lab.probe(model, *batch(*IMAGES, seed=99), optimizer=optimizer)
            assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
            assert [m.training for _, m in model.named_modules()] == modes
            assert not any(vars(m).get("_forward_hooks") for _, m in model.named_modules())
            for path, array in model.state_dict().items():
                np.testing.assert_array_equal(array, state[path], err_msg=path)
        losses += steps(model.train(), optimizer, 3, first=50)
        twins.append((losses, model.state_dict(), optimizer.state_dict()["state"]))
    (losses, state, memory), (losses_p, state_p, memory_p) = twins
    assert losses == losses_p
    for path, array in state.items():
        np.testing.assert_array_equal(array, state_p[path], err_msg=path)
    for one, two in zip(memory, memory_p, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])


def test_a_buffer_that_is_changed_in_place_is_put_back_too():
    class Counts(nn.Module):
        def __init__(self):
            self.linear = nn.Linear(6, 3)
            self.register_buffer("calls", np.zeros(1, np.float32))

        def forward(self, x):
            self.calls += 1
            return self.linear(x)

    model = Counts().to(DEVICE)
    lab.probe(model, *batch())
    assert fetch(model.calls).tolist() == [0]


def test_the_global_random_state_is_left_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    lab.probe(everything(), *batch(*IMAGES))
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_the_same_probe_twice_gives_the_same_numbers_with_dropout_too():
    model = everything().train()
    one, two = (lab.probe(model, *batch(*IMAGES)).records for _ in range(2))
    assert one == two


def test_a_probe_that_fails_leaves_everything_as_it_was():
    model = everything()
    state = model.state_dict()
    with pytest.raises(ZeroDivisionError):
        lab.probe(model, *batch(*IMAGES), loss=lambda logits, y: 1 / 0)
    assert not any(vars(m).get("_forward_hooks") for _, m in model.named_modules())
    assert all(p.grad is None for p in model.parameters())
    for path, array in model.state_dict().items():
        np.testing.assert_array_equal(array, state[path], err_msg=path)


class Interrupts(nn.Module):
    """Raises on the way up, or on the way down."""

    def __init__(self, where):
        self.linear, self.where = nn.Linear(3 * 4 * 4, 3), where

    def forward(self, x):
        y = self.linear(x)
        if self.where == "up":
            raise KeyboardInterrupt
        if self.where == "down" and y.requires_grad:
            y.register_hook(interrupt)
        return y


def interrupt(_g):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["up", "down"])
def test_a_probe_that_is_interrupted_half_way_leaves_everything_as_it_was(where):
    model = everything()
    setattr(model, "5", Interrupts(where).to(DEVICE))  # in place of the last layer
    for p in model.parameters():
        p.grad = p.data.copy()
    before = [(m, dict(vars(m))) for _, m in model.named_modules()]
    state, grads = model.state_dict(), [p.grad for p in model.parameters()]
    with pytest.raises(KeyboardInterrupt):
        lab.probe(model, *batch(*IMAGES))
    for module, attributes in before:
        assert vars(module).keys() == attributes.keys()
        assert all(vars(module)[name] is value for name, value in attributes.items())
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    for path, array in model.state_dict().items():
        np.testing.assert_array_equal(array, state[path], err_msg=path)


class Noisy(nn.Module):
    """A student's layer: noise from a generator of its own and from NumPy's, and a note of what it saw last."""

    def __init__(self):
        self.linear, self.rng, self.seen = nn.Linear(6, 3), np.random.default_rng(5), None
        self.notes = []

    def forward(self, x):
        noise = self.rng.normal(size=x.shape) + np.random.normal(size=x.shape)
        self.seen = x
        self.notes.append(x)
        return self.linear(x + tensor(noise.astype(np.float32)).data)


def test_what_a_layer_of_the_user_draws_and_notes_is_put_back():
    model = Noisy().to(DEVICE)
    np.random.seed(3)
    expected = model.rng.bit_generator.state, np.random.get_state()[1].tolist(), np.random.get_state()[2]
    lab.probe(model, *batch(), histograms=True, correlation=True)
    lab.summary(model, 6)
    assert (model.rng.bit_generator.state, np.random.get_state()[1].tolist(), np.random.get_state()[2]) == expected
    assert model.seen is None and model.notes == []


def test_hooks_of_the_user_run_and_stay():
    model, calls = models.mlp([6, 5, 3]).to(DEVICE), []
    handle = model.linear1.register_forward_hook(lambda *_: calls.append(1))
    lab.probe(model, *batch())
    assert len(vars(model.linear1)["_forward_hooks"]) == 1
    model(tensor(batch()[0]))
    assert len(calls) == 2
    handle.remove()
    model(tensor(batch()[0]))
    assert len(calls) == 2


def test_the_arrays_of_the_caller_are_left_alone():
    x, y = batch()
    kept = x.copy(), y.copy()
    lab.probe(models.mlp([6, 5, 3]).to(DEVICE), x, y)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(y, kept[1])


# --------------------------------------------------------------------------------------------- extreme sizes


class Times(nn.Module):
    """x times a number; a leaf of its own."""

    def __init__(self, factor):
        self.factor = factor

    def forward(self, x):
        return x * self.factor


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_the_statistics_of_a_huge_or_tiny_signal_are_those_of_a_usual_one_rescaled(scale):
    """Squares of 1e30 and 1e-30 lie outside float32."""
    x, y = batch()
    model = nn.Sequential(linear=nn.Linear(6, 5), times=Times(scale), back=Times(1 / scale), out=nn.Linear(5, 3))
    init.apply(model, seed=1)
    report = lab.probe(model.to(DEVICE), x, y)
    usual, scaled = record_of(report, "linear"), record_of(report, "times")
    for key in ("mean", "rms", "std", "batch_std"):
        assert scaled[key] == pytest.approx(usual[key] * scale, rel=1e-5), key
    assert scaled["delta_rms"] == pytest.approx(usual["delta_rms"] / scale, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_huge_and_tiny_weights_and_their_gradients_are_measured(scale):
    x, y = batch()
    model = nn.Sequential(linear=nn.Linear(6, 5), back=Times(1 / scale), out=nn.Linear(5, 3))
    init.apply(model, {"linear.weight": init.normal(std=scale), "*": "he_normal"}, seed=1)
    found = record_of(lab.probe(model.to(DEVICE), x, y), "linear")
    w = fetch(model.linear.weight).astype(float)
    assert found["weight_std"] == pytest.approx(w.std(), rel=1e-5)
    assert 1e-3 < found["weight_grad_rms"] * scale < 1e3


def test_a_layer_of_zeros_has_statistics_of_zero():
    model = models.mlp([6, 5, 5, 3], "tanh", init="zeros").to(DEVICE)
    report = lab.probe(model, *batch())
    found = record_of(report, "linear2")
    assert [found[k] for k in ("mean", "rms", "std", "batch_std", "delta_rms", "weight_std", "weight_grad_rms")] == [
        0
    ] * 7
    assert report.changes() == {"rms": 0, "signal": 0, "gradient": 0}


def test_a_large_common_offset_hides_no_spread():
    """Values near 1000 that differ by 1e-3: E[x²] - mean² in float32 would be noise of the size of the variance."""
    x, y = batch((64, 6))
    model = nn.Sequential(
        tiny=Times(1e-3), linear=nn.Linear(6, 6, init=init.orthogonal(), bias_init=init.constant(value=1000.0))
    ).to(DEVICE)
    found = record_of(lab.probe(model, x, y % 6), "linear")
    with no_grad():
        h = fetch(model(tensor(x))).astype(float)
    assert found["batch_std"] == pytest.approx(math.sqrt(h.var(axis=0).mean()), rel=1e-5)
    assert 0.5e-3 < found["batch_std"] < 2e-3


def test_an_overflow_in_the_network_is_reported_and_not_raised():
    model = models.mlp([6, 8, 8, 8, 8, 3], "relu", init=init.normal(std=1e12)).to(DEVICE)
    with np.errstate(all="ignore"):
        report = lab.probe(model, *batch())
    assert math.isfinite(record_of(report, "linear2")["rms"]) and not math.isfinite(record_of(report, "linear4")["rms"])
    assert report.changes()["rms"] == math.inf and str(report)


class Spoils(nn.Module):
    """Some elements replaced."""

    def __init__(self, *values):
        self.values = values

    def forward(self, x):
        spoilt = fetch(x).copy()
        spoilt.reshape(-1)[: len(self.values)] = self.values
        return x * 0 + tensor(spoilt).data


@pytest.mark.parametrize(
    ("values", "size"), [((math.inf,), math.inf), ((-math.inf,), math.inf), ((math.nan, math.inf), math.nan)]
)
def test_what_is_not_finite_is_counted_and_shows_in_the_size(values, size):
    model = nn.Sequential(spoils=Spoils(*values), out=nn.Linear(6, 3)).to(DEVICE)
    with np.errstate(all="ignore"):
        found = record_of(lab.probe(model, *batch()), "spoils")
    assert found["nonfinite"] == pytest.approx(len(values) / 96)
    assert found["rms"] == pytest.approx(size, nan_ok=True) and found["second_moment"] == pytest.approx(
        size, nan_ok=True
    )


OUTPUTS = {
    "usual": lambda z: z,
    "tiny": lambda z: z * 1e-35,
    "huge": lambda z: z * 1e37,
    "nearly the same for all inputs": lambda z: z[:1] + 1e-5 * z,
    "far from 0": lambda z: 1e3 + 1e-2 * z,
    "one that towers": lambda z: np.where(z == z.max(), 1e25, z),
    "mostly 0": lambda z: np.where(z > 2, z, 0),
    "of every size": lambda z: z * 10.0 ** np.linspace(-30, 30, z.shape[1])[(slice(None), *(None,) * (z.ndim - 2))],
}


@pytest.mark.parametrize("shape", [(64, 40), (5, 6, 7, 8), (1, 30), (3, 1), (4, 5, 6)])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_quick_statistics_are_those_of_float64(kind, shape):
    """Of float32 numbers that lie far apart, close together, or near the ends of what float32 holds."""

    class Gives(nn.Module):
        def forward(self, x):
            return x * 0 + tensor(h).data

    z = np.random.default_rng(sum(shape)).normal(size=shape)
    h = OUTPUTS[kind](z).astype(np.float32)
    x, y = np.ones(shape, np.float32), np.zeros(shape[0], int)
    model = nn.Sequential(gives=Gives(), sum=nn.Flatten())
    found = record_of(lab.probe(model, tensor(x), tensor(y), loss=lambda out, _: (out * 0).sum()), "gives")
    truth = output_statistics(h.astype(float))
    assert found["rms"] == pytest.approx(truth["rms"], rel=1e-5)
    assert found["second_moment"] == pytest.approx(truth["second_moment"], rel=2e-5)
    assert found["std"] == pytest.approx(truth["std"], rel=1e-5, abs=1e-7 * truth["rms"])
    assert found["mean"] == pytest.approx(truth["mean"], abs=2e-6 * truth["rms"])
    if truth["batch_std"] > 1e-6 * truth["rms"]:
        assert found["batch_std"] == pytest.approx(truth["batch_std"], rel=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_input_that_is_not_finite_is_refused_with_a_count(bad):
    x, y = batch()
    x[2, 1] = x[5, 5] = bad
    with pytest.raises(ValueError, match="2 of 96 input values are NaN or infinite; clean the data first"):
        lab.probe(models.mlp([6, 5, 3]).to(DEVICE), x, y)


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_whole_numbers_as_input_are_refused_with_what_to_do(dtype):
    x, y = batch()
    with pytest.raises(TypeError, match=f'the inputs are {dtype}; pass x.astype."float32".'):
        lab.probe(models.mlp([6, 5, 3]).to(DEVICE), x.astype(dtype), y)


def test_an_empty_batch_is_refused():
    x, y = batch()
    with pytest.raises(ValueError, match=r"no inputs: got shape \(0, 6\)"):
        lab.probe(models.mlp([6, 5, 3]).to(DEVICE), x[:0], y[:0])


def test_float64_input_is_refused_with_what_to_do():
    x, y = batch()
    with pytest.raises(TypeError, match="astype"):
        lab.probe(models.mlp([6, 5, 3]).to(DEVICE), x.astype(np.float64), y)


@pytest.mark.parametrize("shape", [(250, 64), (16, 200), (1000, 3)])
@pytest.mark.parametrize("nearness", [1.0, 0.5, 0.3, 0.2, 0.15, 0.1, 0.03, 1e-3])
def test_the_spread_over_inputs_is_found_however_near_to_each_other_they_are(nearness, shape):
    """On the host the variance is taken from 0 where it is a good part of the mean square, else from the first input.

    Worst here: 4e-6 from 0, where the spread is a fifth of the size, and 1e-7 from the first input.
    """
    rng = np.random.default_rng(5)
    h = (np.abs(rng.normal(size=(1, shape[1]))) + nearness * rng.normal(size=shape)).astype(np.float32)
    model = nn.Sequential(same=nn.Identity()).to(DEVICE)
    found = lab.probe(model, tensor(h), np.zeros(shape[0], int), loss=lambda out, _: out.sum()).records[0]
    truth = output_statistics(h.astype(float))
    for key in ("rms", "std", "batch_std"):
        assert found[key] == pytest.approx(truth[key], rel=1e-5), key
    assert found["mean"] == pytest.approx(truth["mean"], abs=1e-6 * truth["rms"])


# ------------------------------------------------------------------------------ dead, saturated, twins, updates


@pytest.mark.parametrize("silent", range(6))
def test_dead_is_the_share_of_units_that_are_zero_on_the_whole_batch(silent):
    model = models.mlp([6, 5, 3], "relu", seed=1)
    model.linear1.bias.data = np.where(np.arange(5) < silent, -1e3, 1e3).astype(np.float32)
    assert record_of(lab.probe(model.to(DEVICE), *batch()), "relu1")["dead"] == pytest.approx(silent / 5)


@pytest.mark.parametrize("speaking", range(6))
def test_always_on_is_the_share_of_units_that_are_above_zero_on_the_whole_batch(speaking):
    model = models.mlp([6, 5, 3], "relu", seed=1)
    model.linear1.bias.data = np.where(np.arange(5) < speaking, 1e3, 0).astype(np.float32)
    assert record_of(lab.probe(model.to(DEVICE), *batch()), "relu1")["always_on"] == pytest.approx(speaking / 5)


@pytest.mark.parametrize("last", [False, True])
def test_a_channel_is_dead_or_on_over_all_its_places(last):
    """In both orders that an image may have in memory."""
    z = np.abs(np.random.default_rng(0).normal(size=(4, 3, 5, 2))).astype(np.float32) + 1
    z[:, 0] = 0
    z[2, 1, 3, 1] = 0
    z = np.ascontiguousarray(z.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if last else z
    model = nn.Sequential(relu=nn.ReLU(), flat=nn.Flatten(), out=nn.Linear(30, 3)).to(DEVICE)
    found = record_of(lab.probe(model, tensor(z), np.arange(4) % 3), "relu")
    assert (found["dead"], found["always_on"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_a_unit_that_speaks_once_is_not_dead():
    x = np.zeros((8, 1), np.float32)
    x[3] = 1
    model = nn.Sequential(linear=nn.Linear(1, 2, init=init.constant(value=1.0)), relu=nn.ReLU()).to(DEVICE)
    assert record_of(lab.probe(model, x, np.zeros(8, int)), "relu")["dead"] == 0


@pytest.mark.parametrize(
    ("layer", "values", "share"),
    [
        (nn.Tanh(), [0, 1, -1, 3, -3, 9, 2, -2.2], 4 / 8),  # |tanh| > 0.97 beyond 2.09
        (nn.Sigmoid(), [0, 1, -1, 3, -3, 9, 2.9, -2.9], 3 / 8),  # outside (0.05, 0.95) beyond 2.944
        (nn.HardTanh(), [0, 1, -1, 3, -3, 0.99, 0.5, -0.5], 4 / 8),
        (nn.Erf(), [0, 1, -1, 3, -3, 1.5, 2, -2], 4 / 8),  # |erf| > 0.97 beyond 1.535
        (nn.ReLU(), [0, 1, -1, 3, -3, 9, 2, -2], None),
    ],
)
def test_saturated_is_the_share_of_elements_at_the_flat_ends(layer, values, share):
    class Through(nn.Module):
        def __init__(self):
            self.layer, self.out = layer, nn.Linear(1, 2)

        def forward(self, x):
            return self.out(self.layer(x))

    x = np.array(values, np.float32)[:, None]
    assert record_of(lab.probe(Through().to(DEVICE), x, np.zeros(8, int)), "layer")["saturated"] == share


@pytest.mark.parametrize(("columns", "share"), [([1, 2, 3, 4], 0), ([1, 1, 2, 3], 1 / 3), ([2, 2, 2, 2], 1)])
def test_twins_is_the_share_of_units_that_repeat_their_neighbour(columns, share):
    model = nn.Sequential(linear=nn.Linear(1, 4), out=nn.Linear(4, 2))
    model.linear.weight.data = np.array(columns, np.float32)[:, None]
    x = np.random.default_rng(0).normal(size=(8, 1)).astype(np.float32)
    found = record_of(lab.probe(model.to(DEVICE), x, np.zeros(8, int)), "linear")["twins"]
    assert found == pytest.approx(share)


def test_units_that_differ_on_the_last_input_alone_are_no_twins():
    x = np.ones((32, 2), np.float32)
    x[-1, 1] = 2
    model = nn.Sequential(linear=nn.Linear(2, 4), out=nn.Linear(4, 2))
    model.linear.weight.data = np.array([[1, 0], [0, 1], [0, 1], [1, 0]], np.float32)
    found = record_of(lab.probe(model.to(DEVICE), x, np.zeros(32, int)), "linear")["twins"]
    assert found == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, lr=0.1),
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: optim.Adam(p, lr=0.01),
        lambda p: optim.AdamW(p, lr=0.01),
    ],
    ids=["SGD", "Nesterov", "Adam", "AdamW"],
)
@pytest.mark.parametrize("steps_before", [0, 4])
def test_the_update_ratio_is_that_of_a_real_step(make, steps_before):
    x, y = batch()
    model = models.mlp([6, 5, 4, 3], "tanh", seed=2).to(DEVICE)
    optimizer = make(model.parameters())
    optimizer.lr_factor = 0.5

    def backward():
        optimizer.zero_grad()
        ops.cross_entropy(model(tensor(x)), tensor(y).data).backward()

    for _ in range(steps_before):
        backward()
        optimizer.step()
    report = lab.probe(model, x, y, optimizer=optimizer)
    before = parameters(model)
    backward()
    optimizer.step()
    after = parameters(model)
    for layer in ("linear1", "linear2", "output"):
        old, new = (w[f"{layer}.weight"] for w in (before, after))
        expected = rms(new - old) / rms(old)
        assert record_of(report, layer)["update_ratio"] == pytest.approx(expected, rel=1e-3), layer
    assert record_of(report, "tanh1")["update_ratio"] is None


def test_a_weight_that_the_optimizer_does_not_know_has_no_update():
    model = models.mlp([6, 5, 3]).to(DEVICE)
    report = lab.probe(model, *batch(), optimizer=optim.SGD(model.output.parameters(), lr=0.1))
    assert record_of(report, "linear1")["update_ratio"] is None and record_of(report, "output")["update_ratio"] > 0


def test_another_loss_is_measured_when_asked_for():
    x, _ = batch()
    model = nn.Linear(6, 2).to(DEVICE)
    target = np.ones((16, 2), np.float32)
    report = lab.probe(model, x, target, loss=ops.mse)
    h = x.astype(float) @ fetch(model.weight).T.astype(float)
    assert report.loss == pytest.approx(((h - 1) ** 2).mean(), rel=ROUNDING)
    assert report.records[0]["delta_rms"] == pytest.approx(rms(2 * (h - 1) / h.size), rel=ROUNDING)


# -------------------------------------------------------------------------------------------------- the report


def test_records_hold_plain_values_only():
    report = lab.probe(everything(), *batch(*IMAGES))
    kinds = {type(v) for r in report.records for v in r.values()}
    assert kinds <= {str, tuple, float, type(None)} and type(report.loss) is float
    assert len({tuple(r) for r in report.records}) == 1  # one set of keys: a flat table


@pytest.mark.host("arithmetic of a list")
@pytest.mark.parametrize(
    ("values", "factor"),
    [
        ([1, 2, 4, 8], 2.0),
        ([8, 1, 1, 1], 0.5),
        ([3], 1.0),
        ([], 1.0),
        ([1, 0.5, 0, 0], 0.5),
        ([0, 0, 0], 0.0),
        ([1, 0, 0], 0.0),
        ([1, math.inf, math.nan], math.inf),
        ([1e-300, 1e300], 1e300 / 1e-300),
    ],
)
def test_change_per_layer_is_the_root_of_last_over_first(values, factor):
    assert change_per_layer(values) == pytest.approx(factor)


def test_a_ladder_holds_the_hidden_layers_with_weights():
    report = lab.probe(models.mlp([6, 5, 4, 3], norm=True).to(DEVICE), *batch())
    assert report.ladder("rms") == [record_of(report, f"linear{i}")["rms"] for i in (1, 2)]


def test_a_report_prints_a_row_per_layer_the_changes_and_the_loss():
    report = lab.probe(models.mlp([6, 5, 4, 3]).to(DEVICE), *batch())
    lines = str(report).splitlines()
    assert len(lines) == 2 + len(report.records) + 2
    assert lines[-2].startswith("per layer: rms ×") and lines[-1] == f"loss {report.loss:.4g}"
    assert max(map(len, lines)) <= 100


# ------------------------------------------------------------------------------------- theory: width 256, x ~ N(0, 1)


def deep(activation, scheme, seed, depth, examples=256, width=256):
    rng = np.random.default_rng(1000 + seed)
    x = rng.normal(size=(examples, width)).astype(np.float32)
    y = rng.integers(10, size=examples)
    model = models.mlp([width, *[width] * depth, 10], activation, scheme, seed=seed).to(DEVICE)
    report = lab.probe(model, x, y)
    return [r for r in report.records if r["kind"].lower() == activation]


def gate(samples, truth, precision):
    """The mean of the samples lies within 5 standard errors of the truth, and the error is small enough to tell.

    False alarms: below 2e-4 for 16 samples or more (Student's t with 15 degrees of freedom).
    """
    error = np.std(samples, ddof=1) / math.sqrt(len(samples))
    assert error < precision, f"standard error {error:.2g}: too coarse to tell"
    assert abs(np.mean(samples) - truth) < 5 * error, f"{np.mean(samples):.5g} ± {error:.2g}, theory {truth:.5g}"


def test_the_first_relu_layer_with_he_has_the_moments_of_half_a_normal():
    """a ~ N(0, 2): mean 1/√π, second moment 1, std √(1 - 1/π)."""
    first = [deep("relu", "he_normal", seed, depth=1)[0] for seed in range(16)]
    gate([r["mean"] for r in first], 1 / math.sqrt(math.pi), 0.003)
    gate([r["rms"] ** 2 for r in first], 1.0, 0.005)
    gate([r["std"] for r in first], math.sqrt(1 - 1 / math.pi), 0.003)


def test_in_a_sigmoid_net_the_spread_over_inputs_dies_while_the_total_looks_healthy():
    """Glorot: per layer the spread shrinks by √χ₁ = 0.2361; the total std stays around 0.115.

    At finite width the log of the ratio is lower by 1/n at most: 0.004, below what is resolved here.
    """
    nets = [deep("sigmoid", "glorot_normal", seed, depth=10) for seed in range(16)]
    ratios = [math.log(net[6]["batch_std"] / net[1]["batch_std"]) / 5 for net in nets]
    gate(ratios, math.log(0.2361), 0.008)
    gate([net[9]["std"] for net in nets], 0.115, 0.002)
    assert all(1e-7 < net[9]["batch_std"] < 2e-6 for net in nets)


def test_a_tanh_net_with_small_weights_shrinks_by_std_times_root_width():
    """N(0, 0.01²) at width 256: × 0.16 per layer. The mean log square per layer is -1/n lower at finite width."""
    nets = [deep("tanh", init.normal(std=0.01), seed, depth=8, examples=8) for seed in range(16)]
    gate([math.log(net[7]["rms"] / net[1]["rms"]) / 6 for net in nets], math.log(0.16) - 0.5 / 256, 0.01)


# The factor on the second moment per layer, n·Var(w) (linear) and half of it (ReLU), science's table for n = 256.
FACTORS = {
    "normal 0.01": (init.normal(std=0.01), 0.0256),
    "normal 0.05": (init.normal(std=0.05), 0.64),
    "uniform 0.05": (init.uniform(low=-0.05, high=0.05), 0.2133),
    "normal 0.1": (init.normal(std=0.1), 2.56),
    "normal 1": (init.normal(std=1.0), 256.0),
    "lecun_normal": ("lecun_normal", 1.0),
    "glorot_normal": ("glorot_normal", 1.0),
    "glorot_normal, gain 5/3": (init.glorot_normal(gain=5 / 3), 2.7778),
    "he_normal": ("he_normal", 2.0),
    "keras_2_0_9": (init.get("he_truncated_normal", correct_truncation=False), 1.5475),
    "torch_default": ("torch_default", 1 / 3),
}


@pytest.mark.parametrize("scheme", FACTORS)
@pytest.mark.parametrize(
    ("activation", "half", "drift", "noise"), [("relu", 2, -0.009829, 0.019819), ("identity", 1, -1 / 256, 2 / 256)]
)
def test_the_mean_slope_of_the_log_second_moment_is_that_of_finite_width(scheme, activation, half, drift, noise):
    """One input: ln M changes by ln(n Var w / 2) - 0.0098 per layer (ReLU), ln(n Var w) - 1/n (linear), on average.

    The variance of one ratio of logs is ``noise``; 10 layers, 16 draws. Gate: 4 standard errors (6e-5 a test). Uniform
    and truncated weights have less excess kurtosis, which changes both numbers by O(1/n²).
    """
    drawn, strength = FACTORS[scheme]
    slopes = []
    for seed in range(16):
        net = deep(activation, {"output*": "zeros", "*": drawn}, seed, depth=11, examples=1)
        slopes.append(2 * math.log(net[10]["rms"] / net[0]["rms"]) / 10)
    error = math.sqrt(noise / (10 * 16))
    assert abs(np.mean(slopes) - math.log(strength / half) - drift) < 4 * error + 1e-4
    assert np.std(slopes) == pytest.approx(math.sqrt(noise / 10), rel=0.7)  # one draw is not the average


@pytest.mark.parametrize(("activation", "gain"), [("identity", 1.0), ("relu", math.sqrt(0.5))])
def test_orthogonal_weights_keep_the_size_of_a_linear_signal_exactly_and_lose_half_of_it_at_each_relu(activation, gain):
    slopes = []
    for seed in range(8):
        net = deep(activation, "orthogonal", seed, depth=11, examples=8)
        slopes.append(math.log(net[10]["rms"] / net[0]["rms"]) / 10)
    if activation == "identity":
        assert np.ptp(slopes) < 1e-6 and abs(np.mean(slopes)) < 1e-6
    else:
        gate(slopes, math.log(gain), 0.01)


@pytest.mark.parametrize(
    ("gain", "std", "saturated"), [(5 / 3, 0.6513, 0.0539), (2.0, 0.7283, 0.151), (3.0, 0.8370, 0.405)]
)
def test_a_chaotic_tanh_net_settles_at_the_fixed_point_of_its_gain(gain, std, saturated):
    """The fixed point corrects itself, so single nets may be gated; width 256 shifts it by a few thousandths."""
    nets = [deep("tanh", init.glorot_normal(gain=gain), seed, depth=12) for seed in range(8)]
    assert np.mean([net[11]["std"] for net in nets]) == pytest.approx(std, rel=0.01)
    assert np.mean([net[11]["saturated"] for net in nets]) == pytest.approx(saturated, rel=0.05)


def test_a_tanh_net_with_glorot_decays_as_the_root_of_depth():
    """std at layers 1, 2, 5, 10: .628 .486 .322 .229 in an infinitely wide net; a few per cent less at width 256."""
    nets = [deep("tanh", "glorot_normal", seed, depth=10) for seed in range(8)]
    for layer, std in ((1, 0.628), (2, 0.486), (5, 0.322), (10, 0.229)):
        assert np.mean([net[layer - 1]["std"] for net in nets]) == pytest.approx(std, rel=0.03), layer


def test_the_dead_units_of_a_healthy_relu_net_are_those_of_theory():
    """He, batch of 256: .0001 .0036 .0305 .125 of the units of layers 2, 3, 5, 10; more at finite width, up to .14."""
    nets = [deep("relu", "he_normal", seed, depth=10) for seed in range(8)]
    for layer, dead, allowed in ((2, 0.0001, 0.0015), (3, 0.0036, 0.004), (5, 0.0305, 0.01), (10, 0.131, 0.02)):
        assert abs(np.mean([net[layer - 1]["dead"] for net in nets]) - dead) < allowed, layer


# --------------------------------------------------------------------------- on the way: the probe as a callback


def test_a_probe_in_the_middle_of_training_changes_nothing_of_it():
    from minidl import data

    split = data.from_arrays(*batch((60, 6), seed=3), test=12)

    def trained(callbacks):
        model = models.mlp([6, 8, 3], norm=True, seed=1).to(DEVICE)
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        train.fit(model, split, optimizer=optimizer, epochs=2, batch_size=8, callbacks=callbacks, quiet=True)
        return model.state_dict()

    look = SimpleNamespace(on_step=lambda run: lab.probe(run.model, *split.train[:16], optimizer=run.optimizer))
    for path, array in trained([look]).items():
        np.testing.assert_array_equal(array, trained([])[path], err_msg=path)
