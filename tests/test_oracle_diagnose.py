"""``lab.diagnose_torch``: the same numbers as ``lab.diagnose`` on the same weights, faults found, nothing changed."""

import copy
import dataclasses
import itertools
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from oracle import torch
from test_oracle_models import resnet, small_stem

from minidl import lab, models, nn, ops
from minidl.lab.torch_fixes import in_torch
from minidl.tensor import Tensor

F, t = torch.nn.functional, torch.nn
pytestmark = pytest.mark.oracle

PAGE = Path(__file__).resolve().parent.parent / "docs" / "torch.md"
NUMBERS = (
    *("mean", "rms", "std", "batch_std", "second_moment", "nonfinite", "dead", "always_on", "saturated", "twins"),
    *("delta_rms", "weight_mean", "weight_std", "weight_grad_rms", "update_ratio"),
)
COMMON = ("Linear", "Conv2d", "BatchNorm2d", "ReLU", "Tanh", "MaxPool2d")


def batch(shape, count=64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, *shape)), rng.integers(0, 10, count)


def learnable(shape):
    """A batch whose classes differ: in the mean of each channel."""
    x, y = batch(shape)
    means = np.random.default_rng(1).normal(size=(10, shape[0]))[y]
    return (x + means.reshape(len(x), shape[0], *[1] * (len(shape) - 1))) / 2**0.5, y


def in_a_row(*sizes, activation=t.ReLU):
    layers = [t.Flatten()]
    for a, b in itertools.pairwise(sizes):
        layers += [t.Linear(a, b), activation()]
    return t.Sequential(*layers[:-1])


def convolutions():
    return t.Sequential(
        *(t.Conv2d(3, 8, 3, padding=1, bias=False), t.BatchNorm2d(8), t.ReLU(), t.MaxPool2d(2)),
        *(t.Conv2d(8, 16, 3, padding=1, bias=False), t.BatchNorm2d(16), t.ReLU()),
        *(t.AdaptiveAvgPool2d(1), t.Flatten(), t.Linear(16, 10)),
    )


def our_convolutions():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.GlobalAvgPool2d(), nn.Linear(16, 10)),
    )


def stack(depth=12):
    """A plain stack of convolutions with batch norm at both ends, biases in between."""
    inner = [layer for _ in range(depth) for layer in (t.Conv2d(8, 8, 3, padding=1), t.ReLU())]
    head = [t.AdaptiveAvgPool2d(1), t.Flatten(), t.Linear(8, 10)]
    return he(t.Sequential(t.Conv2d(3, 8, 3, padding=1), t.BatchNorm2d(8), t.ReLU(), *inner, *head))


def he(network):
    for m in network.modules():
        if isinstance(m, t.Linear | t.Conv2d):
            t.init.kaiming_normal_(m.weight, nonlinearity="relu")
            t.init.zeros_(m.bias)
    return network


class Dense(t.Module):
    """A residual block of dense layers."""

    def __init__(self, width):
        super().__init__()
        self.first, self.second = t.Linear(width, width), t.Linear(width, width)

    def forward(self, x):
        return x + self.second(F.relu(self.first(x)))


def residual(blocks=12, width=32):
    network = t.Sequential(t.Linear(64, width), *[Dense(width) for _ in range(blocks)], t.ReLU(), t.Linear(width, 10))
    he(network)
    for m in network.modules():
        if isinstance(m, Dense):
            t.init.zeros_(m.second.weight)
    return network


PAIRS = {
    "mlp": (lambda: models.mlp([64, 50, 40, 10]), lambda: in_a_row(64, 50, 40, 10), (64,)),
    "tanh": (lambda: models.mlp([64, 50, 40, 10], "tanh"), lambda: in_a_row(64, 50, 40, 10, activation=t.Tanh), (64,)),
    "conv": (our_convolutions, convolutions, (3, 8, 8)),
    "resnet": (
        lambda: models.resnet20(in_shape=(3, 8, 8), num_classes=10),
        lambda: resnet([3, 3, 3], 16, False, small_stem()),
        (3, 8, 8),
    ),
}


def pair(name, dtype, mode=True):
    """Both networks with the same weights; of the batch norms a running average that has seen data."""
    make, make_twin, shape = PAIRS[name]
    ours, theirs = make().to(dtype), make_twin().to(getattr(torch, dtype))
    x, y = batch(shape)
    with torch.no_grad():
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            q.copy_(torch.from_numpy(p.data))
    x = x.astype(dtype)
    ours(Tensor(x)), theirs(torch.from_numpy(x))
    return ours.train(mode), theirs.train(mode), x, y


def common(report):
    return [r for r in report.records if r["kind"] in COMMON]


def same(a, b, scale=0.0, tolerance=1e-5):
    if a is None or b is None:
        return a is None and b is None
    return abs(a - b) <= tolerance * max(abs(a), scale)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_records_are_those_of_lab_diagnose_on_the_same_weights(name, training, dtype):
    ours, theirs, x, y = pair(name, dtype, training)
    mine, found = common(lab.diagnose(ours, x, y).report), common(lab.diagnose_torch(theirs, x, y).report)
    assert [r["kind"] for r in found] == [r["kind"] for r in mine]
    for a, b in zip(mine, found, strict=True):
        assert a["shape"] == b["shape"]
        wrong = {key: (a[key], b[key]) for key in NUMBERS if not same(a[key], b[key], scale=a["rms"])}
        assert not wrong, (a["layer"], b["layer"])


@pytest.mark.parametrize("name", PAIRS)
def test_findings_blocks_and_theory_are_those_of_lab_diagnose(name):
    ours, theirs, x, y = pair(name, "float64")
    a, b = lab.diagnose(ours, x, y), lab.diagnose_torch(theirs, x, y)
    mine = {f.rule: f for f in a.findings if f.rule != "W1"}  # PyTorch does not say by what a weight was drawn
    found = {f.rule: f for f in b.findings}
    assert found.keys() == mine.keys()
    for rule, f in mine.items():
        assert found[rule].level == f.level
        assert same(f.measured, found[rule].measured, tolerance=1e-4), rule
        assert same(f.expected, found[rule].expected, tolerance=1e-4), rule
    for one, other in zip(a.evidence.blocks, b.evidence.blocks, strict=True):
        assert same(one.before, other.before) and same(one.after, other.after) and same(one.delta, other.delta)
    for key in ("depth", "chi", "beta", "initial_loss", "sigma_w", "sigma_b", "xi", "q_star"):
        assert same(getattr(a.prediction, key), getattr(b.prediction, key)), key
    assert a.prediction.activation == b.prediction.activation
    for one, other in zip(common(a.prediction), common(b.prediction), strict=True):
        for key in ("rms", "rms_low", "batch_std", "correlation", "dead", "saturated", "delta_rms", "chi"):
            assert same(one[key], other[key]), (key, one["layer"])


@pytest.mark.parametrize("count", [64, 200])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "size"), [("mlp", 1.0), ("tanh", 1.0), ("conv", 1.0), ("mlp", 0.02), ("tanh", 20.0)])
def test_the_trial_is_that_of_lab_diagnose_on_the_same_weights(name, size, training, count):
    """Weights of another size do not learn at the first rate, or at none."""
    ours, theirs, *_ = pair(name, "float64", training)
    x, y = batch(PAIRS[name][2], count)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        p.data, q.data = p.data * size, q.data * size
    a, b = lab.diagnose(ours, x, y, trial=12).evidence.trial, lab.diagnose_torch(theirs, x, y, trial=12).evidence.trial
    assert a.entropy == pytest.approx(b.entropy, rel=1e-12)
    assert [(r["rate"], r["steps"]) for r in a.records] == [(r["rate"], r["steps"]) for r in b.records]
    assert [r["lowest"] for r in a.records] == pytest.approx([r["lowest"] for r in b.records], rel=1e-3)
    assert a.learned == b.learned and (size == 1.0 or len(a.records) > 1)


def test_updates_are_those_of_the_optimizer():
    _, theirs, x, y = pair("mlp", "float64")
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        optimizer.step()
    found = lab.diagnose_torch(theirs, x, y, optimizer=optimizer)
    before = theirs[3].weight.detach().clone()
    optimizer.zero_grad()
    F.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y)).backward()
    optimizer.step()
    ratio = (theirs[3].weight - before).square().mean().sqrt() / before.square().mean().sqrt()
    record = next(r for r in found.report.records if r["layer"] == "3")
    assert record["update_ratio"] == pytest.approx(ratio.item(), rel=1e-6)
    assert "U1" in {f.rule for f in found.findings}


# ------------------------------------------------------------------------------------------------------ planted faults


def dead(network):
    with torch.no_grad():
        for m in network.modules():
            if isinstance(m, t.Conv2d) and m.bias is not None and m.in_channels == 8:
                m.bias.fill_(-5.0)


def huge(network):
    with torch.no_grad():
        for m in network.modules():
            if isinstance(m, t.Conv2d):
                m.weight.mul_(10)


def silent(network):
    t.init.zeros_(network[3].weight)
    t.init.zeros_(network[3].bias)


def unscaled(network):
    with torch.no_grad():
        for m in network.modules():
            if isinstance(m, Dense):
                t.init.kaiming_normal_(m.second.weight).mul_(1.5)


FAULTS = {
    "mlp, a layer of zeros": (lambda: he(in_a_row(64, 50, 50, 50, 10)), silent, (64,), {"S1", "B5", "F2"}, "3"),
    "conv, weights ×10": (stack, huge, (3, 8, 8), {"F1"}, None),
    "conv, dead biases": (stack, dead, (3, 8, 8), {"F2", "A4", "B5", "F3", "F1"}, None),
    "residual, unscaled branches": (residual, unscaled, (64,), {"R1", "B1"}, None),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_the_printed_line_of_pytorch_mends_it(name):
    make, fault, shape, rules, layer = FAULTS[name]
    torch.manual_seed(0)
    network, (x, y) = make(), learnable(shape)
    healthy = lab.diagnose_torch(network, x, y)
    assert not healthy.failed, str(healthy)
    fault(network)
    found = lab.diagnose_torch(network, x, y)
    assert found.failed
    assert found.primary.rule in rules
    assert layer is None or found.primary.layer == layer
    scope = {"model": network, "torch": torch, "nn": t, "x": torch.from_numpy(x)}
    exec(found.primary.fix, scope)
    assert not lab.diagnose_torch(network, x, y).failed, str(found)


class Normalized(t.Module):
    def __init__(self, width):
        super().__init__()
        self.branch = t.Sequential(t.Linear(width, width), t.BatchNorm1d(width), t.ReLU(), t.Linear(width, width))
        self.norm, self.project = t.BatchNorm1d(width), t.Linear(width, width)

    def forward(self, x):
        return self.norm(self.branch(x)) + self.project(x)


class Convolutional(t.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = t.Conv2d(3, 8, 3), t.Conv2d(8, 8, 3, bias=False)
        self.head = t.Linear(8 * 16, 10)

    def forward(self, x):
        return self.head(F.relu(self.b(F.relu(self.a(x)))).flatten(1))


def translated(network, shape, fix):
    """The network after a fix of minidl, as it is written for PyTorch."""
    x, y = batch(shape)
    finding = dataclasses.replace(lab.diagnose_torch(network, x, y).findings[0], fix=fix, effect="")
    diagnosis = dataclasses.replace(lab.diagnose_torch(network, x, y), findings=[finding])
    line = in_torch(diagnosis, network).findings[0].fix
    assert line
    exec(line, {"model": network, "torch": torch, "nn": t, "x": torch.from_numpy(x).float()})
    return network, x, y


def test_lsuv_for_pytorch_gives_every_layer_variance_one_and_leaves_no_hook():
    network, x, y = translated(Convolutional(), (3, 8, 8), "init.lsuv(model, x)")
    weighted = [r for r in lab.diagnose_torch(network, x, y).report.records if r["weight_std"] is not None]
    assert [r["std"] for r in weighted] == pytest.approx([1, 1, 1], rel=1e-3)
    assert not network.a._forward_hooks


def test_zero_gamma_for_pytorch_sets_the_last_normalization_of_each_branch():
    network, *_ = translated(t.Sequential(*[Normalized(16) for _ in range(2)]), (16,), "init.zero_gamma(model)")
    assert all(not block.norm.weight.any() and block.branch[1].weight.all() for block in network)


@pytest.mark.parametrize(
    ("scheme", "variance"),
    [
        ("init.he_normal()", 2 / 400),
        ("init.he_normal(negative_slope=0.5)", 1.6 / 400),
        ("init.lecun_normal()", 1 / 400),
        ("init.variance_scaling(scale=1.5)", 1.5 / 400),
        ("init.glorot_normal(gain=1.2)", 1.44 * 2 / 700),
        ("init.orthogonal(gain=1.3)", 1.69 / 400),
    ],
)
def test_a_scheme_for_pytorch_has_the_variance_of_its_formula_and_zero_biases(scheme, variance):
    network, *_ = translated(in_a_row(400, 300, 10), (400,), f"init.apply(model, {scheme}, seed=0)")
    assert network[1].weight.var().item() == pytest.approx(variance, rel=0.03)
    assert not network[1].bias.any()


def test_a_shrunk_branch_for_pytorch_is_not_the_projection():
    network = t.Sequential(*[Normalized(16) for _ in range(4)])
    before = [(b.branch[3].weight.clone(), b.project.weight.clone()) for b in network]
    translated(network, (16,), "init.scaled_residual(model)")
    for block, (last, projection) in zip(network, before, strict=True):
        assert torch.allclose(block.branch[3].weight, last / 2) and torch.equal(block.project.weight, projection)


def test_inputs_that_are_not_standardized_are_found():
    x, y = batch((64,))
    found = lab.diagnose_torch(residual(), 1000 + 200 * x, y)
    assert found.primary.rule == "D1"
    scope = {"x": torch.from_numpy(1000 + 200 * x)}
    exec(found.primary.fix, scope)
    assert not lab.diagnose_torch(residual(), scope["x"], y).failed


def test_a_rate_that_is_too_high_is_found_and_the_fix_lowers_it():
    network, (x, y) = he(in_a_row(64, 50, 50, 10)), batch((64,))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e3)
    found = lab.diagnose_torch(network, x, y, optimizer=optimizer)
    assert found.primary.rule == "U1"
    exec(found.primary.fix, {"optimizer": optimizer})
    assert not lab.diagnose_torch(network, x, y, optimizer=optimizer).failed


def test_the_report_and_the_figure_are_those_of_a_diagnosis(tmp_path):
    network, (x, y) = he(in_a_row(64, 50, 50, 50, 10)), batch((64,))
    silent(network)
    found = lab.diagnose_torch(network, x, y)
    assert "FINDING" in str(found) and "nn.init" in str(found)
    found.figure().savefig(tmp_path / "ladder.png")
    assert found.records and found.prediction is not None


# ----------------------------------------------------------------------------------------------- what it leaves alone


class Everything(t.Module):
    """Batch norm, dropout, noise of its own, functions, an in-place ReLU, a layer used twice, a frozen one."""

    def __init__(self, fails=False):
        super().__init__()
        self.first, self.norm = t.Linear(64, 40), t.BatchNorm1d(40)
        self.shared, self.drop, self.relu = t.Linear(40, 40), t.Dropout(0.3), t.ReLU(inplace=True)
        self.frozen, self.last = t.Linear(40, 40).requires_grad_(False), t.Linear(40, 10)
        self.fails, self.steps = fails, 0
        self.norm.eval()

    def forward(self, x):
        self.steps += 1
        noise = float(np.random.rand()) + random.random() + float(torch.rand(()))
        h = self.relu(self.norm(self.first(x) + 0 * noise))
        h = F.relu(self.shared(self.drop(h)))
        h = self.relu(self.shared(h))
        h = F.relu_(self.frozen(h))
        if self.fails:
            raise RuntimeError("half-way")
        return self.last(h)


def state(network):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in network.modules()]
    return {
        "parameters": [(id(p), p.detach().numpy().tobytes(), p.requires_grad) for p in network.parameters()],
        "gradients": [None if p.grad is None else (id(p.grad), p.grad.numpy().tobytes()) for p in network.parameters()],
        "graph hooks": [len(p._backward_hooks or ()) for p in network.parameters()],
        "buffers": [(name, id(b), b.numpy().tobytes()) for name, b in network.named_buffers()],
        "modes": [m.training for m in network.modules()],
        "in place": [getattr(m, "inplace", None) for m in network.modules()],
        "hooks": hooks,
        "attributes": {name: sorted(vars(m)) for name, m in network.named_modules()},
        "steps": getattr(network, "steps", 0),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": np.random.get_state()[1].tobytes(),
        "python": random.getstate(),
        "threads": torch.get_num_threads(),
        "grad mode": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("graded", [False, True])
def test_nothing_of_the_network_or_of_the_generators_changes_also_if_it_fails(fails, graded):
    network, (x, y) = Everything(), batch((64,))
    network.first.register_forward_hook(lambda *_: None)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    if graded:
        F.cross_entropy(network(torch.from_numpy(x).float()), torch.from_numpy(y)).backward()
        optimizer.step()
    network.fails = fails
    before, rates = state(network), copy.deepcopy(optimizer.state_dict())
    if fails:
        with pytest.raises(RuntimeError, match="half-way"):
            lab.diagnose_torch(network, x, y, optimizer=optimizer)
    else:
        lab.diagnose_torch(network, x, y, optimizer=optimizer)
    after = state(network)
    assert {key for key in before if before[key] != after[key]} == set()
    assert str(optimizer.state_dict()) == str(rates)


@pytest.mark.parametrize("breaks", [False, True])
def test_the_trial_changes_nothing_either_also_if_its_third_step_fails(breaks):
    network, (x, y) = Everything(), batch((64,))
    F.cross_entropy(network(torch.from_numpy(x).float()), torch.from_numpy(y)).backward()
    before, calls = state(network), itertools.count(1)

    def loss(output, labels):
        if next(calls) == 5 and breaks:  # one pass to measure, one look at the loss
            raise RuntimeError("no luck")
        return F.cross_entropy(output, labels)

    found = lab.diagnose_torch(network, x, y, loss=loss, trial=4)
    after = state(network)
    assert {key for key in before if before[key] != after[key]} == set()
    why = {s["rule"]: s["why"] for s in found.skipped}.get("T1", "")
    assert next(calls) == (6 if breaks else 3 + 3 * 4) and ("no luck" in why) == breaks


def test_without_a_trial_its_rule_is_not_judged():
    network, (x, y) = he(in_a_row(64, 50, 50, 10)), batch((64,))
    found = lab.diagnose_torch(network, x, y, trial=0)
    assert found.evidence.trial is None and {"rule": "T1", "why": "no trial was asked for"} in found.skipped
    with pytest.raises(ValueError, match="trial is how many steps .* got -1"):
        lab.diagnose_torch(network, x, y, trial=-1)


@pytest.mark.parametrize(
    ("loss", "tried"),
    [
        (None, True),
        (lambda out, y: F.nll_loss(F.log_softmax(out, 1), y), True),
        (lambda out, y: F.cross_entropy(out, y, weight=torch.arange(1.0, 11.0)), True),
        (lambda out, y: F.mse_loss(out, F.one_hot(y, 10).float()), False),
        (lambda out, y: F.cross_entropy(out, y, reduction="sum") / 1000, False),
    ],
)
def test_a_trial_is_made_where_the_loss_is_a_cross_entropy_and_excuses_no_network_of_zeros(loss, tried):
    network, (x, y) = in_a_row(64, 50, 10), batch((64,))
    for p in network.parameters():
        t.init.zeros_(p)
    found = lab.diagnose_torch(network, x, y, loss=loss, trial=30)
    assert (found.evidence.trial is not None) == tried
    assert found.failed and found.primary.rule == "S1"


def test_labels_in_order_of_their_class_excuse_no_network_of_zeros():
    network, (x, y) = in_a_row(64, 50, 10), batch((64,), 1200)
    for p in network.parameters():
        t.init.zeros_(p)
    found = lab.diagnose_torch(network, x, np.sort(y), trial=30)
    assert not found.evidence.trial.learned and found.failed


def test_the_inputs_stay_as_they_are():
    x, y = batch((64,))
    x = torch.from_numpy(x).float().requires_grad_()
    kept = x.detach().clone()
    lab.diagnose_torch(t.Sequential(t.ReLU(inplace=True), t.Linear(64, 10)), x, y)
    assert torch.equal(x, kept) and x.grad is None and x.requires_grad


def test_it_works_where_gradients_are_switched_off():
    network, (x, y) = he(in_a_row(64, 50, 10)), batch((64,))
    usual = lab.diagnose_torch(network, x, y).records
    with torch.no_grad():
        assert lab.diagnose_torch(network, x, y).records == usual
    with torch.inference_mode():
        assert lab.diagnose_torch(network, torch.from_numpy(x), y).records == usual


# --------------------------------------------------------------------------------------------- ways to write a network


class Functional(t.Module):
    def __init__(self, how):
        super().__init__()
        self.a, self.b, self.c = t.Conv2d(3, 8, 3, padding=1), t.Linear(8 * 16, 40), t.Linear(40, 10)
        self.how = how

    def forward(self, x):
        h = F.max_pool2d(self.how(self.a(x)), 2)
        return self.c(self.how(self.b(h.view(len(h), -1))))


def written_as_modules(network):
    parts = [network.a, t.ReLU(), t.MaxPool2d(2), t.Flatten(), network.b, t.ReLU(), network.c]
    return t.Sequential(*parts)


@pytest.mark.parametrize(
    "how",
    [F.relu, torch.relu, torch.Tensor.relu, torch.relu_, lambda h: F.relu(h, inplace=True), lambda h: F.relu_(h)],
)
def test_functions_are_seen_like_modules_in_place_or_not(how):
    torch.manual_seed(0)
    network, (x, y) = Functional(how), batch((3, 8, 8))
    a, b = lab.diagnose_torch(network, x, y), lab.diagnose_torch(written_as_modules(network), x, y)
    drop = ("layer",)
    for one, other in zip(a.report.records, b.report.records, strict=True):
        assert {k: v for k, v in one.items() if k not in drop} == {k: v for k, v in other.items() if k not in drop}
    assert a.prediction is not None and a.prediction.chi == b.prediction.chi
    assert [f.level for f in a.findings] == [f.level for f in b.findings]


class Snake(t.Module):
    def __init__(self):
        super().__init__()
        self.a = t.Linear(20, 10)

    def forward(self, x):
        h = self.a(x)
        return h + torch.sin(h)


def test_a_sum_with_something_unknown_is_told_of_the_network_that_has_it():
    found = lab.diagnose_torch(Snake(), *batch((20,)))
    assert "the model is a Snake that computes by itself" in found.evidence.unpredicted


def test_a_function_that_is_not_known_leaves_no_theory_rather_than_a_wrong_one():
    network, (x, y) = Functional(lambda h: h.clamp_(min=0)), batch((3, 8, 8))
    found = lab.diagnose_torch(network, x, y)
    assert found.prediction is None
    assert "computes by itself" in found.evidence.unpredicted
    assert found.evidence.activation is None


def test_hooks_of_the_user_that_look_leave_the_theory_and_those_that_change_something_do_not():
    network, (x, y) = he(in_a_row(64, 50, 50, 10)), batch((64,))
    handle = network[1].register_forward_hook(lambda *_: None)
    assert lab.diagnose_torch(network, x, y).prediction is not None
    for change in (lambda _m, _x, output: 10 * output, lambda _m, _x, output: output.mul_(10)):
        handle.remove()
        handle = network[1].register_forward_hook(change)
        found = lab.diagnose_torch(network, x, y)
        assert found.prediction is None and found.evidence.weights[1].into["rms"] > 3


def test_in_place_modules_give_the_numbers_of_others():
    network, (x, y) = he(in_a_row(64, 50, 50, 10)), batch((64,))
    usual = lab.diagnose_torch(network, x, y).report.records
    for m in network.modules():
        if isinstance(m, t.ReLU):
            m.inplace = True
    assert lab.diagnose_torch(network, x, y).report.records == usual


def test_a_layer_used_twice_is_one_weight_and_two_records():
    found = lab.diagnose_torch(Everything(), *batch((64,)))
    assert [r["layer"] for r in found.report.records].count("shared") == 2
    assert [w.layer for w in found.evidence.weights] == ["first", "shared", "frozen", "last"]


def test_a_frozen_layer_has_no_gradient_and_passes_it_on():
    found = lab.diagnose_torch(Everything(), *batch((64,)))
    by_name = {w.layer: w for w in found.evidence.weights}
    assert by_name["frozen"].gradient is None and by_name["frozen"].record["weight_grad_rms"] is None
    assert by_name["frozen"].record["delta_rms"] > 0 and by_name["first"].record["weight_grad_rms"] > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_float32(dtype):
    network, (x, y) = he(in_a_row(64, 50, 50, 10)), batch((64,))
    half = copy.deepcopy(network).to(dtype)
    same_numbers = copy.deepcopy(half).float()
    x = torch.from_numpy(x).to(dtype)
    optimizers = [torch.optim.Adam(net.parameters()) for net in (half, same_numbers)]
    a = lab.diagnose_torch(half, x, y, optimizer=optimizers[0])
    b = lab.diagnose_torch(same_numbers, x, y, optimizer=optimizers[1])
    assert a.report.records == b.report.records
    assert next(half.parameters()).dtype == dtype


@pytest.mark.parametrize(
    "normalized", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.spectral_norm]
)
def test_parametrized_weights_are_seen_with_the_gradient_of_what_is_used(normalized):
    network, (x, y) = t.Sequential(t.Linear(64, 50), t.ReLU(), normalized(t.Linear(50, 10))), batch((64,))
    network.eval()  # spectral norm goes on with its iteration in training
    found = lab.diagnose_torch(network, x, y)
    assert [w.layer for w in found.evidence.weights] == ["0", "2"]
    assert not found.evidence.unseen
    plain = t.Sequential(network[0], t.ReLU(), t.Linear(50, 10)).eval()
    with torch.no_grad():
        plain[2].weight.copy_(network[2].weight), plain[2].bias.copy_(network[2].bias)
    usual = lab.diagnose_torch(plain, x, y)
    np.testing.assert_allclose(found.evidence.weights[1].gradient, usual.evidence.weights[1].gradient, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_networks_that_keep_results_of_a_run_can_be_measured():
    network, (x, y) = (
        t.Sequential(torch.nn.utils.weight_norm(t.Linear(64, 50)), t.ReLU(), t.Linear(50, 10)),
        batch((64,)),
    )
    network.last, network.outputs = network(torch.from_numpy(x).float()), [network(torch.from_numpy(x).float())]
    kept = network.last.detach().clone()
    assert len(lab.diagnose_torch(network, x, y).evidence.weights) == 2
    assert torch.equal(network.last, kept) and network.last.grad_fn is not None


def test_lazy_layers_get_their_sizes_on_the_copy_alone():
    network = t.Sequential(t.LazyLinear(50), t.ReLU(), t.LazyLinear(10))
    assert len(lab.diagnose_torch(network, *batch((64,))).evidence.weights) == 2
    assert network[0].has_uninitialized_params()


def test_layers_that_minidl_does_not_have_are_measured_without_theory():
    network = t.Sequential(t.Conv1d(4, 8, 3, groups=2), t.ReLU(), t.Flatten(), t.Linear(8 * 6, 10))
    found = lab.diagnose_torch(network, *batch((4, 8)))
    assert [w.inputs for w in found.evidence.weights] == [6, 48]
    assert "Conv1d" in found.evidence.unpredicted


def test_a_layer_with_a_forward_of_its_own_is_not_taken_for_the_one_that_it_inherits_from():
    class Loud(t.Linear):
        def forward(self, x):
            return 10 * super().forward(x)

    found = lab.diagnose_torch(t.Sequential(Loud(64, 50), t.ReLU(), t.Linear(50, 10)), *batch((64,)))
    assert found.prediction is None and "Loud" in found.evidence.unpredicted
    assert [w.layer for w in found.evidence.weights] == ["0", "2"]


def test_a_block_is_found_by_the_sum_it_ends_in_and_once():
    network = t.Sequential(
        t.Linear(64, 32), t.Sequential(Dense(32), t.ReLU()), t.Sequential(Dense(32)), t.Linear(32, 10)
    )
    assert [b.layer for b in lab.diagnose_torch(network, *batch((64,))).evidence.blocks] == ["1.0", "2.0"]


def test_a_transformer_block_is_measured():
    layer = t.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    network = t.Sequential(t.Linear(8, 32), layer, t.Flatten(), t.Linear(32 * 5, 10))
    found = lab.diagnose_torch(network, *batch((5, 8)))
    assert [b.layer for b in found.evidence.blocks] == ["1"]
    assert found.evidence.unseen == ["1.self_attn.in_proj_weight", "1.self_attn.out_proj.weight"]  # functions use them


def test_other_losses_and_networks_with_several_outputs():
    class Two(t.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.side = t.Linear(64, 30), t.Linear(30, 1), t.Linear(30, 2)

        def forward(self, x):
            h = torch.tanh(self.body(x))
            return self.head(h), self.side(h)

    x, y = batch((64,))
    with pytest.raises(ValueError, match="returns a tuple"):
        lab.diagnose_torch(Two(), x, y)
    found = lab.diagnose_torch(Two(), x, y.astype(float), loss=lambda out, y: F.mse_loss(out[0][:, 0], y))
    assert len(found.evidence.weights) == 3
    assert "L1" in {s["rule"] for s in found.skipped}


def test_labels_to_be_ignored_count_as_none():
    x, y = batch((64,))
    y[:8] = -100
    assert sum(lab.diagnose_torch(he(in_a_row(64, 50, 10)), x, y).evidence.shares) == pytest.approx(1)


# --------------------------------------------------------------------------------------------------------- what it says


@pytest.mark.skipif(not PAGE.is_file(), reason="the docs are not part of an installation")
def test_the_page_shows_what_its_code_prints_and_its_fix_mends(capsys):
    """But for the digits of numbers near rounding."""
    code, report = re.findall(r"```(?:python)?\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[:2]
    scope = {}
    exec(code, scope)
    printed = capsys.readouterr().out
    kept = [line for line in printed.splitlines() if re.match(r"\d+ layers|FINDING|  fix|  effect|  ok", line)]
    assert len(kept) == 5 and [line for line in kept if line not in report.splitlines()] == []
    exec(scope["found"].primary.fix, scope)
    assert not lab.diagnose_torch(scope["model"], scope["x"], scope["y"]).failed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: models.mlp([64, 10]), "call lab.diagnose"),
        (lambda: F.relu, "the function relu"),
        (lambda: Everything, "the class Everything: make one"),
        (lambda: torch.zeros(3), "a Tensor"),
        (lambda: torch.jit.script(t.Linear(64, 10)), "torch.jit"),
    ],
)
def test_what_is_no_module_of_pytorch_is_named(wrong, message):
    with pytest.raises(TypeError, match=message):
        lab.diagnose_torch(wrong(), *batch((64,)))


def test_without_pytorch_it_says_what_it_takes(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(TypeError, match="PyTorch is not imported; got a Linear"):
        lab.diagnose_torch(t.Linear(64, 10), *batch((64,)))


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (np.zeros((8, 64), int), {}, TypeError, "behind the embedding"),
        (np.full((8, 64), np.nan), {}, ValueError, "NaN"),
        (np.zeros((0, 64)), {}, ValueError, "no inputs"),
        (np.ones((8, 64)), {"loss": ops.cross_entropy}, TypeError, "of minidl"),
        (np.ones((8, 64)), {"optimizer": "adam"}, TypeError, "torch.optim"),
        (np.ones((8, 64)), {"loss": lambda out, y: out}, ValueError, "one number"),
    ],
)
def test_a_batch_or_option_that_does_not_fit_is_named(x, options, error, message):
    with pytest.raises(error, match=message):
        lab.diagnose_torch(in_a_row(64, 10), x, np.zeros(len(x), int), **options)


def test_a_network_that_cannot_be_copied_says_so():
    network = in_a_row(64, 10)
    network.generator = (i for i in range(3))
    with pytest.raises(ValueError, match=r"cannot be copied.*load_state_dict"):
        lab.diagnose_torch(network, *batch((64,)))


@pytest.mark.parametrize("shape", [(-1, 1), (-1, 1, 1)])
def test_labels_of_more_than_one_axis_are_no_class_numbers_and_break_nothing(shape):
    x, y = learnable((3, 4, 4))
    labels = torch.as_tensor(y.reshape(shape))
    model = in_a_row(48, 20, 10)
    found = lab.diagnose_torch(model, x, labels, loss=lambda output, target: F.cross_entropy(output, target.ravel()))
    assert {"rule": "T1", "why": "the labels are no class numbers"} in found.skipped
    assert not any(f.rule == "L1" for f in found.findings)


def test_labels_in_order_are_mixed_for_the_trial():
    x, y = learnable((3, 4, 4))
    order = np.argsort(y, kind="stable")
    dead = in_a_row(48, *[100] * 6, 10, activation=t.Sigmoid)
    assert lab.diagnose_torch(in_a_row(48, 20, 10), x[order], y[order]).evidence.trial.learned
    assert lab.diagnose_torch(dead, x[order], y[order]).failed
