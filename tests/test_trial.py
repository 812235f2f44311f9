"""The trial of a diagnosis: the losses of a copy that learns, when it is made, and what gives way to it."""

import importlib.util
import itertools
import math
import random
from pathlib import Path

import numpy as np
import pytest
from conftest import DEVICE, fetch

from minidl import data, init, lab, models, nn, ops, optim
from minidl.backend import device_of, to_device
from minidl.lab import trial
from minidl.lab.explain import Finding, _traced, judge
from minidl.lab.rules import all_rules
from minidl.lab.rules.fixes import other_scale
from minidl.tensor import Tensor

PAGE = Path(__file__).resolve().parent.parent / "docs" / "diagnosis" / "pairs.py"
LN10 = math.log(10)
on_numbers = pytest.mark.host("pure functions of numbers")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", seed=0).train[:300]


def on_device(x, y):
    return Tensor(to_device(x, DEVICE)), to_device(y, DEVICE)


def mlp(depth=2, activation="relu", scheme=None, width=40):
    return models.mlp([64, *[width] * depth, 10], activation, scheme, seed=0).to(DEVICE)


def everything():
    """Batch norm, dropout, and a layer that draws random numbers of its own."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Dropout(0.4), Noisy(), nn.Linear(30, 10)
    )
    init.apply(model, seed=3)
    return model.to(DEVICE)


class Noisy(nn.Module):
    """Draws from a generator of its own and from NumPy's, and counts in a list."""

    def __init__(self):
        self.own, self.seen = np.random.default_rng(5), []

    def forward(self, x):
        self.seen.append(len(x))
        return x * float(1 + 0.01 * (self.own.random() + np.random.random()))


def finding(found, rule):
    return next(f for f in found.findings if f.rule == rule)


def reason(found, rule="T1"):
    return {s["rule"]: s["why"] for s in found.skipped}[rule]


# --------------------------------------------------------------------------------------------------- losses(): training


def by_hand(model, x, y, rate, steps, sizes):
    """Training as it is written in a text-book: ``v = 0.9 v + g``, ``p -= rate v``, slice after slice."""
    ends = list(itertools.accumulate(sizes, initial=0))
    velocity, found = [0.0 for _ in model.parameters()], []
    for i in range(steps):
        start, end = ends[i % len(sizes)], ends[i % len(sizes) + 1]
        for p in model.parameters():
            p.grad = None
        value = ops.cross_entropy(model(Tensor(x.data[start:end])), y[start:end])
        value.backward()
        found.append(value.item())
        for k, p in enumerate(model.parameters()):
            velocity[k] = 0.9 * velocity[k] + p.grad
            p.data = p.data - rate * velocity[k]
    return found


def take(generator, count):
    found = list(itertools.islice(generator, count))
    generator.close()
    return found


@pytest.mark.parametrize(
    ("count", "sizes"), [(20, [20]), (100, [100]), (128, [64, 64]), (200, [66, 66, 66]), (300, [64, 64, 64, 64])]
)
@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_the_losses_are_those_of_a_training_written_out_by_hand(rate, count, sizes, digits):
    x, y = on_device(digits[0][:count], digits[1][:count])
    truth = by_hand(mlp(), x, y, rate, 9, sizes)
    assert take(trial.losses(mlp(), x, y, ops.cross_entropy, rate), 9) == pytest.approx(truth, rel=1e-4)


def test_the_losses_of_one_layer_are_those_of_numpy_alone(digits):
    x, y = digits[0][:128].reshape(128, -1).astype(float), digits[1][:128]
    model = nn.Linear(64, 10).to("float64").to(DEVICE)
    w, b = fetch(model.weight).copy(), fetch(model.bias).copy()
    losses = take(trial.losses(model, *on_device(x, y), ops.cross_entropy, 0.1), 8)
    vw = vb = 0
    for i, loss in enumerate(losses):
        rows = slice(64 * (i % 2), 64 * (i % 2) + 64)
        scores = x[rows] @ w.T + b
        p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        assert loss == pytest.approx(-np.log(p[np.arange(64), y[rows]]).mean(), rel=1e-10)
        delta = (p - np.eye(10)[y[rows]]) / 64
        vw, vb = 0.9 * vw + delta.T @ x[rows], 0.9 * vb + delta.sum(axis=0)
        w, b = w - 0.1 * vw, b - 0.1 * vb


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_and_dropout_run_in_the_mode_that_the_model_is_in(training, digits):
    x, y = on_device(digits[0][:64], digits[1][:64])
    np.random.seed(7)
    truth = by_hand(everything().train(training), x, y, 0.1, 6, [64])
    np.random.seed(7)
    assert take(trial.losses(everything().train(training), x, y, ops.cross_entropy, 0.1), 6) == pytest.approx(
        truth, rel=1e-4
    )


def test_a_trained_model_learns_on_from_where_it_is(digits):
    x, y = on_device(digits[0][:64], digits[1][:64])
    model = mlp()
    by_hand(model, x, y, 0.1, 30, [64])
    assert next(trial.losses(model, x, y, ops.cross_entropy, 0.1)) < 0.5


def test_frozen_weights_stay_and_the_others_learn(digits):
    x, y = on_device(digits[0][:64], digits[1][:64])
    model = mlp()
    model.linear1.weight.requires_grad = False
    inside = trial.losses(model, x, y, ops.cross_entropy, 0.1)
    before = {name: fetch(p).copy() for name, p in model.named_parameters()}
    next(inside), next(inside)
    changed = {name for name, p in model.named_parameters() if (fetch(p) != before[name]).any()}
    inside.close()
    assert changed == before.keys() - {"linear1.weight"}


# ------------------------------------------------------------------------------------------------- what it leaves alone


def state(model):
    """All that a trial might change, with the identity of what must be the same object."""
    modules = dict(model.named_modules())
    return {
        "weights": [(id(p), id(p.data), fetch(p).tobytes(), p.requires_grad) for p in model.parameters()],
        "gradients": [(id(p.grad), None if p.grad is None else fetch(p.grad).tobytes()) for p in model.parameters()],
        "buffers": [(name, id(b), fetch(b).tobytes()) for name, b in model.named_buffers()],
        "modes": [m.training for m in modules.values()],
        "hooks": [dict(vars(m).get("_forward_hooks", {})) for m in modules.values()],
        "attributes": {path: sorted(vars(m).keys() - {"_forward_hooks"}) for path, m in modules.items()},
        "masks": [(m.seed, m.number, id(m._generator)) for m in modules.values() if isinstance(m, nn.Dropout)],
        "next mask": [str(m._generator.bit_generator.state) for m in modules.values() if has_host_generator(m)],
        "own": [
            (id(m.own), str(m.own.bit_generator.state), list(m.seen)) for m in modules.values() if hasattr(m, "own")
        ],
        "numpy": str(np.random.get_state()),
    }


def has_host_generator(module):
    return isinstance(getattr(module, "_generator", None), np.random.Generator)


def used(digits):
    """A model in the middle of its life: masks drawn, averages run, gradients there, in evaluation, with a hook."""
    model = everything()
    x, y = on_device(digits[0][:100], digits[1][:100])
    ops.cross_entropy(model(x), y).backward()
    model[1].register_forward_hook(lambda *_: None)
    model[1].bias.requires_grad = False
    return model.eval(), x, y


def difference(before, after):
    return {key for key in before if before[key] != after[key]}


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_a_trial_that_is_ended_early_leaves_the_model_as_it_was(steps, digits):
    model, x, y = used(digits)
    before = state(model)
    take(trial.losses(model, x, y, ops.cross_entropy, 0.1), steps)
    assert difference(before, state(model)) == set()


@pytest.mark.parametrize("model", [mlp(1, width=600), nn.Linear(64, 600, bias=False).to(DEVICE)])
def test_weights_so_large_that_they_are_updated_in_place_stay_as_they_were(model, digits):
    x, y = on_device(digits[0][:64].reshape(64, -1), digits[1][:64])
    before = state(model)
    take(trial.losses(model, x, y, ops.cross_entropy, 0.1), 3)
    assert difference(before, state(model)) == set()


def test_a_trial_whose_loss_raises_at_the_third_step_leaves_the_model_as_it_was(digits):
    model, x, y = used(digits)
    before, calls = state(model), itertools.count(1)

    def breaks(output, labels):
        if next(calls) == 3:
            raise KeyError("third")
        return ops.cross_entropy(output, labels)

    with pytest.raises(KeyError, match="third"):
        take(trial.losses(model, x, y, breaks, 0.1), 5)
    assert next(calls) == 4
    assert difference(before, state(model)) == set()


class Counting(nn.Module):
    """A student's layer that counts its runs in an array, and draws from Python's generator."""

    def __init__(self):
        self.flatten, self.linear, self.runs = nn.Flatten(), nn.Linear(64, 10), np.zeros(1)
        init.apply(self, seed=0)

    def forward(self, x):
        self.runs[0] += 1
        return self.linear(self.flatten(x)) * (1 + random.random() / 100)


def test_what_a_students_layer_keeps_and_pythons_generator_are_left_as_they_were(digits):
    model = Counting().to(DEVICE)
    random.seed(3)
    lab.diagnose(model, digits[0][:64], digits[1][:64], trial=8)
    assert model.runs[0] == 0
    assert random.random() == random.Random(3).random()


class TwoHeads(nn.Module):
    """Gives two outputs in training, as a network with an auxiliary classifier does."""

    def __init__(self):
        self.flatten, self.main, self.extra = nn.Flatten(), nn.Linear(64, 10), nn.Linear(64, 10)
        init.apply(self, seed=0)

    def forward(self, x):
        x = self.flatten(x)
        return self.main(x), self.extra(x)

    def training_loss(self, outputs, y, loss):
        return loss(outputs[0], y) + 3 * loss(outputs[1], y)


def test_the_loss_of_a_trial_is_that_of_the_scores_alone_while_auxiliary_classifiers_learn_too(digits):
    _, x, y = used(digits)
    model = TwoHeads().to(DEVICE)
    extra = {name: p for name, p in model.named_parameters() if name.startswith("extra")}
    before = {name: fetch(p).copy() for name, p in extra.items()}
    inside = trial.losses(model, x, y, ops.cross_entropy, 0.01)
    rows = trial.slices(len(x))[0]
    main = ops.cross_entropy(model(Tensor(x.data[rows]))[0], y[rows]).item()
    assert next(inside) == pytest.approx(main, rel=1e-6)
    assert all((fetch(p) != before[name]).any() for name, p in extra.items())
    inside.close()


def test_a_diagnosis_leaves_the_model_as_it_was_also_if_a_step_of_the_trial_raises(digits):
    model, x, y = used(digits)
    before, calls, last = state(model), itertools.count(1), math.inf

    def breaks(output, labels):
        if next(calls) == last:
            raise RuntimeError("no luck")
        return ops.cross_entropy(output, labels)

    lab.diagnose(model, x, y, loss=breaks, trial=0)
    without = next(calls) - 1
    lab.diagnose(model, x, y, loss=breaks, trial=2)
    assert next(calls) - 2 - without == without + 1 + 3 * 2  # a look at the loss; two steps at each rate
    calls, last = itertools.count(1), without + 1 + 3
    found = lab.diagnose(model, x, y, loss=breaks)
    assert "no luck" in reason(found)
    assert difference(before, state(model)) == set()


# ------------------------------------------------------------------------------------------------- attempt(): the rates


SIXTY = np.arange(60) % 10


def attempted(curves, labels=SIXTY, **options):
    """The trial of losses that are given for each rate, the rates asked for, and those that were closed."""
    asked, closed, kept = [], [], []

    def losses(rate):
        try:
            yield from curves[rate]
        finally:
            closed.append(rate)

    def started(rate):
        asked.append(rate)
        kept.append(losses(rate))  # so that it is closed by whoever asked for it, not for want of a name
        return kept[-1]

    classes = labels.max() + 1
    tried, why = trial.attempt(started, math.log, labels, classes, **{"steps": trial.STEPS, **options})
    assert closed == asked
    return tried, why, asked


def constant(value):
    return itertools.repeat(value)


@on_numbers
def test_the_first_rate_that_learns_ends_the_trial():
    tried, why, asked = attempted({0.01: [2.3, 2.2, 1.9, 1.0], 0.1: constant(0.0), 0.001: constant(0.0)})
    assert (asked, why) == ([0.01], "")
    assert tried.records == [{"rate": 0.01, "steps": 3, "lowest": 1.9}]
    assert tried.learned and tried.best["rate"] == 0.01


@on_numbers
def test_all_rates_are_tried_where_none_learns_for_a_hundred_steps_each():
    tried, _, asked = attempted({0.01: constant(2.3), 0.1: constant(2.2), 0.001: constant(2.25)})
    assert asked == [0.01, 0.1, 0.001]
    assert tried.records == [
        {"rate": r, "steps": 100, "lowest": low} for r, low in zip(asked, (2.3, 2.2, 2.25), strict=True)
    ]
    assert not tried.learned and tried.best["rate"] == 0.1


@on_numbers
def test_the_last_rate_may_be_the_one_that_learns():
    tried, _, asked = attempted({0.01: constant(9.0), 0.1: constant(99.0), 0.001: [3.0, 1.5]})
    assert asked == [0.01, 0.1, 0.001] and tried.learned
    assert tried.best == {"rate": 0.001, "steps": 2, "lowest": 1.5}


@on_numbers
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_a_rate_and_is_not_learning(bad):
    tried, _, asked = attempted({0.01: [2.5, bad, 0.1], 0.1: [bad, 0.1], 0.001: constant(2.3)})
    assert asked == [0.01, 0.1, 0.001] and not tried.learned
    assert [(r["steps"], r["lowest"]) for r in tried.records] == [(2, 2.5), (1, math.inf), (100, 2.3)]


@on_numbers
def test_what_counts_is_the_mean_over_one_pass():
    curve = [1.5, 3.0, 1.5, 3.0, 1.5, 1.1, 0.5]  # two slices, of which one is easy
    tried, *_ = attempted({0.01: curve}, np.arange(130) % 10)
    assert tried.records == [{"rate": 0.01, "steps": 6, "lowest": pytest.approx(1.3)}]


@on_numbers
def test_fewer_steps_than_a_whole_pass_are_no_trial():
    curves = {rate: constant(0.0) for rate in trial.RATES}
    tried, why, *_ = attempted(curves, np.arange(260) % 10, steps=3)
    assert tried is None and "3 steps makes no pass through the 4 slices" in why
    assert attempted(curves, np.arange(260) % 10, steps=4)[0].learned


@on_numbers
@pytest.mark.parametrize(
    ("lowest", "learned"), [(0.84, True), (0.849, True), (0.851, False), (0.9, False), (1.1, False)]
)
def test_a_loss_below_085_of_the_entropy_has_begun_to_fall(lowest, learned):
    labels = np.array([0, 0, 1, 2] * 20)  # entropy 1.5 ln 2
    curves = {rate: constant(lowest * 1.5 * math.log(2)) for rate in trial.RATES}
    assert attempted(curves, labels)[0].learned == learned


@on_numbers
@pytest.mark.parametrize(
    ("shares", "entropy"),
    [
        ([1.0], 0.0),
        ([0.5, 0.5], math.log(2)),
        ([0.1] * 10, LN10),
        ([0.25, 0.75, 0.0], 2 * math.log(2) - 0.75 * math.log(3)),
    ],
)
def test_the_entropy_of_labels_is_that_of_the_closed_form(shares, entropy):
    assert trial.entropy_of(shares) == pytest.approx(entropy, abs=1e-15)


@on_numbers
@pytest.mark.parametrize("examples", [1, 2, 63, 64, 65, 127, 128, 129, 200, 255, 256, 257, 1000])
def test_slices_are_equal_parts_from_the_start_and_hold_256_inputs_at_most(examples):
    rows = [list(range(examples))[part] for part in trial.slices(examples)]
    assert len({len(r) for r in rows}) == 1
    joined = list(itertools.chain(*rows))
    assert joined == list(range(len(joined)))
    assert min(examples, 256) - len(rows) < len(joined) <= 256
    assert examples < 128 or 64 <= len(rows[0]) < 128


@on_numbers
def test_the_trial_in_words_names_the_rate_that_learned_or_all_that_did_not():
    learned, *_ = attempted({0.01: constant(2.3), 0.1: [1.9]})
    assert str(learned) == "the loss falls to 1.9 in 1 step at rate 0.1"
    stuck, *_ = attempted({rate: constant(2.3) for rate in trial.RATES}, steps=7)
    assert str(stuck) == "the loss is 2.3 at best, in up to 7 steps at the rates 0.01, 0.1, 0.001"
    lost, *_ = attempted({rate: constant(math.nan) for rate in trial.RATES})
    assert str(lost) == "the loss does not stay finite at the rates 0.01, 0.1, 0.001"


# ---------------------------------------------------------------------------------------------- where there is no trial


@on_numbers
def test_a_trial_that_has_not_learned_is_given_up_when_its_time_is_over(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(trial.time, "monotonic", lambda: next(clock))  # a second between any two looks at it
    curves = {rate: constant(2.3) for rate in trial.RATES}
    tried, why, asked = attempted(curves, seconds=10)
    assert (
        tried is None and asked == [0.01] and why == "nothing learned in 10 seconds; trial=300 takes the time it takes"
    )
    assert next(clock) < 20
    assert len(attempted(curves)[0].records) == 3
    assert attempted({0.01: [2.3] * 8 + [1.0]}, seconds=10)[0].learned


def test_a_network_of_which_nothing_is_foretold_has_more_steps_to_learn(digits, monkeypatch):
    asked = []
    real = trial.attempt
    monkeypatch.setattr("minidl.lab.explain.attempt", lambda *args, **more: asked.append(more) or real(*args, **more))
    batch = digits[0][:128], digits[1][:128]
    lab.diagnose(mlp(), *batch)
    lab.diagnose(mlp(scheme="zeros"), *batch)
    lab.diagnose(mlp(), *batch, trial=7)
    assert asked == [{"steps": 300, "seconds": 20.0}, {"steps": 100, "seconds": 20.0}, {"steps": 7}]


def test_a_few_steps_that_do_not_learn_say_nothing_and_a_few_that_learn_excuse(digits):
    batch = digits[0][:64], digits[1][:64]
    evidence = lab.diagnose(mlp(), *batch, trial=0).evidence
    evidence.trial = trial.Trial([{"rate": 0.1, "steps": 99, "lowest": 2.3}], LN10, 99)
    assert reason(judge(evidence)) == "a trial of 99 steps that does not learn says nothing"
    evidence.trial = trial.Trial([{"rate": 0.1, "steps": 9, "lowest": 1.5}], LN10, 9)
    assert finding(judge(evidence), "T1").level == "ok"


@pytest.mark.parametrize(("steps", "level"), [(100, "warn"), (299, "warn"), (300, "fail")])
def test_a_trial_that_fails_is_a_finding_by_itself_only_after_300_steps(steps, level, digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).to(DEVICE)
    evidence = lab.diagnose(model, digits[0][:64], digits[1][:64], trial=0).evidence
    evidence.trial = trial.Trial([{"rate": 0.1, "steps": steps, "lowest": 2.3}], LN10, steps)
    assert finding(judge(evidence), "T1").level == level


class Fixed(nn.Module):
    """Takes 128 inputs and no other number."""

    def __init__(self):
        self.only = nn.Linear(64, 10)

    def forward(self, x):
        return self.only(x.reshape((128, 64)))


def squares(output, labels):
    return ops.mse(output, to_device(np.eye(10, dtype="float32")[fetch(labels)], device_of(labels)))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"trial": 0}, "no trial was asked for"),
        (
            {"y": np.zeros((128, 10), "float32"), "loss": ops.mse},
            "no class numbers",
        ),
        ({"y": np.full(128, 3)}, "all labels are of one class"),
        ({"model": Fixed()}, "training on a part of the batch raised ValueError"),
        ({"loss": squares}, "is not ln 10: no cross entropy of scores"),
    ],
)
def test_where_there_is_no_trial_the_reason_is_given(change, why, digits):
    given = {"model": mlp(), "x": digits[0][:128], "y": digits[1][:128], **change}
    given["model"] = given["model"].to(DEVICE)
    found = lab.diagnose(given.pop("model"), given.pop("x"), given.pop("y"), **given)
    assert why in reason(found) and found.evidence.trial is None
    assert "  trial  " not in str(found) and "T1: " in str(found)


@pytest.mark.parametrize("steps", [-1, 2.5, True, "10"])
def test_what_is_no_number_of_steps_is_refused_before_anything_runs(steps, digits):
    model = mlp()
    model.forward = lambda x: pytest.fail("it ran")
    with pytest.raises(
        ValueError, match="trial is how many steps are tried at each rate, 0 for no trial; got"
    ) as error:
        lab.diagnose(model, *digits, trial=steps)
    assert repr(steps) in str(error.value)


# ------------------------------------------------------------------------------------------------ losses of other kinds


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, y: ops.cross_entropy(o, y),
        lambda o, y: ops.nll(ops.log_softmax(o), y),
        lambda o, y: ops.cross_entropy(o, y, label_smoothing=0.1),
    ],
)
def test_a_loss_of_the_users_that_is_a_cross_entropy_is_tried(loss, digits):
    found = lab.diagnose(mlp(), digits[0][:128], digits[1][:128], loss=loss)
    assert finding(found, "T1").level == "ok" and found.evidence.trial.learned


@pytest.mark.parametrize("loss", [squares, lambda o, y: 0.1 * ops.cross_entropy(o, y)])
def test_a_loss_that_starts_below_the_entropy_excuses_no_network_of_zeros(loss, digits):
    found = lab.diagnose(mlp(scheme="zeros"), digits[0][:128], digits[1][:128], loss=loss)
    assert found.primary.rule == "S1" and found.failed


@pytest.mark.parametrize("scheme", ["zeros", "glorot_normal"])
def test_labels_in_order_of_their_class_excuse_no_network_that_cannot_tell_inputs_apart(scheme):
    x, y = data.load("digits", seed=0).train[:1200]
    two = np.flatnonzero(y < 2)
    order = two[np.argsort(y[two], kind="stable")]
    model = models.mlp([64, *[100] * 6, 2], "sigmoid", scheme, seed=0).to(DEVICE)
    found = lab.diagnose(model, x[order], y[order])
    assert found.failed and not found.evidence.trial.learned


@on_numbers
@pytest.mark.parametrize(
    ("labels", "in_order"),
    [
        (np.repeat(np.arange(10), 30), True),
        (np.repeat([1, 0], 128), True),
        (np.arange(300) % 10, False),
        (np.random.default_rng(0).integers(0, 10, 256), False),
        ((np.random.default_rng(1).random(400) < 0.05).astype(int), False),
        (np.array([3]), False),
    ],
)
def test_classes_are_mixed_where_they_come_in_order_and_there_alone(labels, in_order):
    order = trial.mixed(labels)
    assert (order is not None) == in_order
    if in_order:
        assert sorted(order) == list(range(len(labels))) and trial.mixed(labels[order]) is None


def test_what_falls_without_end_is_no_cross_entropy_and_excuses_nothing(digits):
    found = lab.diagnose(mlp(scheme="zeros"), digits[0][:128], digits[1][:128], loss=ops.nll)
    assert "no cross entropy of scores" in reason(found) and found.failed


def test_a_loss_that_draws_leaves_the_generators_as_they_were(digits):
    def noisy(output, labels):
        return ops.cross_entropy(output * (1 + 1e-3 * np.random.random()), labels)

    np.random.seed(5)
    lab.diagnose(mlp(), digits[0][:64], digits[1][:64], loss=noisy, trial=4)
    after = np.random.random()
    np.random.seed(5)
    assert after == np.random.random()


# -------------------------------------------------------------------------------------------- what gives way to a trial


def load_pairs():
    spec = importlib.util.spec_from_file_location("pairs", PAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def planted(rule, **options):
    """The diagnosis of the bug that was planted for a rule."""
    model, x, y, given = load_pairs().PLANTED[rule][1]()
    return lab.diagnose(model.to(DEVICE), x, y, **given, **options)


needs_pages = pytest.mark.skipif(not PAGE.is_file(), reason="the docs are not part of an installation")


@needs_pages
def test_an_optimizer_or_a_history_that_fails_shortens_no_trial():
    model, x, y, _ = load_pairs().PLANTED["T1"][1]()
    model.to(DEVICE)
    alone = lab.diagnose(model, x, y)
    for more in ({"optimizer": optim.SGD(model.parameters(), lr=100.0)}, {"history": [{"train_loss": 2.31}]}):
        found = lab.diagnose(model, x, y, **more)
        assert finding(found, "T1") == finding(alone, "T1") and finding(found, "T1").level == "fail"


@needs_pages
def test_a_forecast_that_fails_in_one_pass_is_a_warning_where_the_trial_learned():
    alone, found = planted("A1", trial=0), planted("A1")
    assert alone.failed and finding(alone, "A1").level == "fail"
    a1 = finding(found, "A1")
    assert found.evidence.trial.learned and a1.level == "warn" and not found.failed
    assert a1.evidence == f"{finding(alone, 'A1').evidence}; yet in a trial {found.evidence.trial}"
    assert (a1.fix, a1.cause, a1.measured) == tuple(
        getattr(finding(alone, "A1"), k) for k in ("fix", "cause", "measured")
    )


@needs_pages
def test_a_forecast_that_the_trial_confirms_stays_a_finding():
    found = planted("S1")
    assert not found.evidence.trial.learned and finding(found, "S1").level == "fail"
    assert "yet in a trial" not in finding(found, "S1").evidence


@needs_pages
@pytest.mark.parametrize("rule", ["W1", "G1", "U1"])
def test_a_fault_stays_a_finding_although_the_network_learns(rule):
    found = planted(rule)
    assert found.evidence.trial.learned and finding(found, "T1").level == "ok"
    assert finding(found, rule).level == "fail" and found.primary.rule == rule
    assert "yet in a trial" not in finding(found, rule).evidence


@needs_pages
def test_what_is_no_fail_is_not_touched_by_a_trial():
    alone, found = planted("A1", trial=0), planted("A1")
    others = [f for f in alone.findings if f.level != "fail"]
    assert others and [f for f in found.findings if f.rule in {o.rule for o in others}] == others


@needs_pages
def test_a_symptom_alone_takes_fix_and_suspect_of_the_earliest_warning():
    found = planted("T1")
    t1 = finding(found, "T1")
    assert found.primary is t1 and [f.rule for f in found.findings if f.level == "fail"] == ["T1"]
    suspect = next(f for f in found.findings if f.level == "warn" and f.rule in t1.explained_by)
    assert t1.evidence.endswith(f"; suspect: {suspect.rule}, {suspect.cause}")
    assert (t1.fix, t1.effect) == (suspect.fix, suspect.effect)


@needs_pages
def test_a_symptom_beside_findings_takes_the_fix_of_the_earliest_of_them():
    found = planted("F1")
    t1 = finding(found, "T1")
    assert found.primary.rule == "F1"
    assert (t1.level, t1.fix) == ("warn", found.primary.fix) and "suspect: F1" in t1.evidence


def test_a_trial_that_fails_where_nothing_else_warns_asks_for_the_data_and_has_no_fix(digits):
    evidence = lab.diagnose(mlp(), digits[0][:64], digits[1][:64], trial=0).evidence
    evidence.trial = trial.Trial([{"rate": 0.1, "steps": 300, "lowest": 2.3}], LN10, 300)
    found = judge(evidence)
    t1 = finding(found, "T1")
    assert found.primary is t1 and not [f for f in found.findings if f.level == "warn"]
    assert t1.evidence.endswith("; no other rule warns: look at data and labels") and not t1.fix and not t1.effect


@needs_pages
def test_a_training_that_failed_where_a_copy_learns_is_told_to_be_at_fault_with_the_rate_that_works():
    found = planted("L2")
    l2 = finding(found, "L2")
    assert found.primary is l2 and found.evidence.trial.learned
    assert "a copy learns in a trial: look at the rate and at the code of the training" in l2.evidence
    assert l2.fix == "optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)"


def made(rule, level, fix="fix", explained_by=()):
    return Finding(
        rule, level, f"cause of {rule}", "", 1.0, None, "", "seen", "", "", explained_by, fix and fix + rule, ""
    )


@on_numbers
@pytest.mark.parametrize(
    ("others", "suspect"),
    [
        ([made("F1", "warn"), made("B1", "fail"), made("B2", "fail")], "B1"),
        ([made("F1", "warn"), made("B1", "warn")], "F1"),
        ([made("F1", "info"), made("B1", "ok"), made("B2", "warn")], "B2"),
        ([made("F1", "fail", fix=""), made("B1", "warn")], "B1"),
        ([made("V1", "fail"), made("B1", "warn")], "B1"),
        ([made("F1", "info")], None),
    ],
)
@pytest.mark.parametrize("symptom", ["T1", "L2"])
def test_the_suspect_is_the_earliest_of_the_highest_level_that_has_a_fix(symptom, others, suspect):
    own = made(symptom, "fail", explained_by=("F1", "B1", "B2"))
    found = _traced(own, [*others, own], None)
    assert found.fix == ("" if suspect is None else f"fix{suspect}")
    assert ("look at data and labels" if suspect is None else f"suspect: {suspect}") in found.evidence


@on_numbers
def test_a_symptom_that_is_none_is_left_alone():
    own = made("T1", "ok", explained_by=("F1",))
    assert _traced(own, [made("F1", "fail"), own], None) is own


@on_numbers
def test_faults_and_symptoms_are_the_rules_that_do_not_foretell():
    assert {r.id: r.kind for r in all_rules() if r.kind != "forecast"} == {
        **dict.fromkeys(("W1", "G1", "U1"), "fault"),
        **dict.fromkeys(("L2", "T1"), "symptom"),
    }


# ----------------------------------------------------------------------------------------------------------- the report


def test_the_report_has_the_line_of_the_trial_and_the_rule_its_numbers(digits):
    found = lab.diagnose(mlp(), digits[0][:128], digits[1][:128])
    record = found.evidence.trial.records[-1]
    lines = [line for line in str(found).splitlines() if line.startswith("  trial")]
    assert lines == [f"  trial      the loss falls to {record['lowest']:.3g} in {record['steps']} steps at rate 0.01"]
    shares = np.bincount(digits[1][:128]) / 128
    t1 = finding(found, "T1")
    assert t1.measured == pytest.approx(-record["lowest"] / (shares * np.log(shares)).sum())
    assert t1.expected == 0.85


def test_a_network_that_learns_passes_and_one_of_zeros_does_not(digits):
    batch = digits[0][:128], digits[1][:128]
    assert finding(lab.diagnose(mlp(), *batch), "T1").level == "ok"
    assert finding(lab.diagnose(mlp(scheme="zeros"), *batch), "T1").level == "warn"  # S1 has found it already
    assert finding(lab.diagnose(mlp(scheme="zeros"), *batch, trial=300), "T1").level == "fail"


@pytest.mark.parametrize("frozen", [("linear1.weight",), ("linear1.weight", "linear2.weight", "linear1.bias"), None])
def test_frozen_weights_do_not_break_it(frozen, digits):
    model = mlp()
    for name, p in model.named_parameters():
        p.requires_grad = frozen is not None and name not in frozen
    found = lab.diagnose(model, digits[0][:128], digits[1][:128])
    if frozen is None:
        assert "training on a part of the batch raised ValueError" in reason(found) and found.primary.rule == "B5"
    else:
        assert found.evidence.trial.learned and not found.failed


def test_a_model_of_one_layer_is_tried(digits):
    rows = np.ascontiguousarray(digits[0][:128].reshape(128, -1))
    found = lab.diagnose(nn.Linear(64, 10).to(DEVICE), rows, digits[1][:128])
    assert found.evidence.trial.learned and not found.failed


# ----------------------------------------------------------------------------------------- what is left to mend: biases


def test_large_biases_are_set_to_zero_where_the_scheme_is_in_place_and_that_mends_it(digits):
    x, y = digits[0][:128], digits[1][:128]
    model = mlp(3, "softplus", init.recommend("softplus", depth=4).scheme, 100)
    assert finding(lab.diagnose(model, x, y), "F1").level == "ok"
    for layer in (model.linear1, model.linear2, model.linear3):
        layer.bias.data = layer.bias.data - np.float32(10)
    f1 = finding(lab.diagnose(model, x, y), "F1")
    zeros = ", ".join(f'"linear{i}.bias": init.zeros()' for i in (1, 2, 3))
    assert (f1.level, f1.fix) == ("fail", f"init.apply(model, {{{zeros}}}, seed=0)")
    exec(f1.fix, {"model": model, "init": init})
    assert finding(lab.diagnose(model, x, y), "F1").level == "ok"


@pytest.mark.parametrize(("bias", "zeroed"), [(-20.0, True), (-0.05, False), (0.0, False)])
def test_a_bias_rules_an_output_where_it_is_most_of_it(bias, zeroed, digits):
    model = mlp(3)
    model.linear2.bias.data = model.linear2.bias.data + np.float32(bias)
    evidence = lab.diagnose(model, digits[0][:64], digits[1][:64], trial=0).evidence
    w = next(w for w in evidence.weights if w.layer == "linear2")
    assert (abs(bias) > 0.7 * w.record["rms"]) == zeroed
    assert (other_scale(evidence).code == 'init.apply(model, {"linear2.bias": init.zeros()}, seed=0)') == zeroed
