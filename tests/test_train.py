"""Training: the loop against plain NumPy, its history, early stopping, and a tripwire that names step and layer."""

import csv
import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor

from minidl import data, init, models, nn, ops, optim, train
from minidl.train import finite, loop

STEPS = 5  # batches in an epoch of the small split


def small_split(val=0, seed=0, n=40):
    """Three well separated clouds in six dimensions: 40 for training in 5 batches of 8, 15 for the test."""
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(3, 6))
    y = np.arange(n + val + 15) % 3
    x = (centres[y] + rng.normal(size=(len(y), 6))).astype(np.float32)
    parts = [data.Dataset(x[a:b], y[a:b], classes="abc") for a, b in ((0, n), (n, n + val), (n + val, len(y)))]
    return data.Split("clouds", *parts, mean=np.zeros(6), std=np.ones(6))


def small_model(seed=0, activation="tanh", norm=False):
    return models.mlp([6, 8, 8, 3], activation, norm=norm, seed=seed).to(DEVICE)


def with_everything(seed=0):
    """Batch norm and dropout: what a run changes besides weights."""
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    init.apply(model, seed=seed)
    return model.to(DEVICE)


def sgd(model, lr=0.05, momentum=0.9):
    return optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def fit(model, split=None, optimizer=None, epochs=3, **options):
    options = {"batch_size": 8, "quiet": True} | options
    return train.fit(
        model,
        small_split() if split is None else split,
        optimizer=optimizer or sgd(model),
        epochs=epochs,
        **options,
    )


def assert_same_state(one, two):
    assert one.keys() == two.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], two[path], err_msg=path)


def without_seconds(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


# ------------------------------------------------------------------------------------------------- history


def test_the_history_has_one_record_per_epoch_with_the_keys_of_the_parts_that_exist():
    history = fit(small_model(), small_split(val=9), epochs=2)
    assert [r["epoch"] for r in history] == [1, 2] and [r["step"] for r in history] == [5, 10]
    keys = "epoch step lr train_loss train_accuracy val_loss val_accuracy test_loss test_accuracy seconds"
    assert [list(r) for r in history] == [keys.split()] * 2
    assert not [k for k in fit(small_model(), epochs=1)[0] if k.startswith("val")]


def test_the_history_holds_plain_numbers():
    for record in fit(small_model(), epochs=1):
        assert {type(v) for v in record.values()} == {int, float}


def test_training_means_are_those_of_the_batches_while_the_weights_changed():
    seen = []
    watcher = SimpleNamespace(on_step=lambda run: seen.append(run.loss.item()))
    history = fit(small_model(), epochs=1, callbacks=[watcher])
    assert history[0]["train_loss"] == pytest.approx(np.mean(seen), rel=1e-6)


def test_unequal_batches_count_by_their_examples():
    """40 examples in batches of 16, 16, 8."""
    losses, sizes = [], []

    def loss(logits, y):
        value = ops.cross_entropy(logits, y)
        losses.append(value.item())
        sizes.append(len(y))
        return value

    history = fit(small_model(), epochs=1, batch_size=16, loss=loss)
    expected = np.average(losses[:3], weights=sizes[:3])
    assert sizes[:3] == [16, 16, 8] and history[0]["train_loss"] == pytest.approx(expected, rel=1e-6)


def test_the_last_record_is_what_evaluate_says_of_the_trained_model():
    model, split = small_model(), small_split(val=9)
    last = fit(model, split)[-1]
    for part in ("val", "test"):
        assert train.evaluate(model, getattr(split, part), prefix=part).items() <= last.items()


def test_a_saved_csv_holds_every_record(tmp_path):
    history = fit(small_model(), epochs=2)
    history.save(tmp_path / "run.csv")
    with open(tmp_path / "run.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in rows] == history


@pytest.mark.host("a file format")
def test_saved_json_lines_are_strict_and_write_nan_as_null(tmp_path):
    train.History([{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": math.nan}]).save(tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": None}]


@pytest.mark.host("a file format")
def test_an_unknown_ending_is_refused_and_empties_no_file(tmp_path):
    (tmp_path / "weights.npz").write_text("precious")
    with pytest.raises(ValueError, match=r"as \.csv or \.jsonl; got 'weights\.npz'"):
        train.History().save(tmp_path / "weights.npz")
    assert (tmp_path / "weights.npz").read_text() == "precious"


GROWN = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "accuracy": 0.25, "loss": 0.125}]


@pytest.mark.host("a file format")
def test_a_key_that_a_later_record_brings_has_a_column_and_is_empty_before(tmp_path):
    train.History(GROWN).save(tmp_path / "run.csv")
    assert (tmp_path / "run.csv").read_text(encoding="utf-8").split() == [
        "epoch,loss,accuracy",
        "1,0.5,",
        "2,0.125,0.25",
    ]
    assert "acc." in str(train.History(GROWN)).splitlines()[0]


@pytest.mark.host("a file format")
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_history_that_cannot_be_written_leaves_the_old_file_and_nothing_else(ending, tmp_path):
    class Unprintable:
        def __str__(self):
            raise RuntimeError("no text")

        __repr__ = __str__

    path = tmp_path / f"run.{ending}"
    path.write_text("precious")
    with pytest.raises((RuntimeError, TypeError)):
        train.History([{"epoch": 1}, {"epoch": Unprintable()}]).save(path)
    assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path]


@pytest.mark.host("text for people")
def test_a_history_prints_as_a_table():
    assert str(train.History()) == "no epoch finished"
    assert "train_loss" in str(train.History([{"epoch": 1, "train_loss": 0.5}]))


@pytest.mark.host("text for people")
def test_no_heading_of_a_history_is_cut_short():
    assert "…" not in str(fit(small_model(), small_split(val=9), epochs=1))


# ------------------------------------------------------------------------- the loop, against a plain loop in float64


def softmax_regression(split, lr, momentum, epochs, factor, clip, seed):
    """Dense layer, softmax, cross-entropy, momentum, schedule and clipping by hand. Returns W, b, mean losses."""
    w, b = np.zeros((3, 6)), np.zeros(3)
    velocity, step, means = [np.zeros_like(w), np.zeros_like(b)], 0, []
    batches = data.DataLoader(split.train, 8, shuffle=True, seed=seed)
    for _ in range(epochs):
        losses = []
        for x, y in batches:
            x = x.astype(np.float64)
            scores = np.exp(x @ w.T + b)
            p = scores / scores.sum(axis=1, keepdims=True)
            losses.append(-np.log(p[np.arange(len(y)), y]).mean())
            delta = (p - np.eye(3)[y]) / len(y)
            grads = [delta.T @ x, delta.sum(axis=0)]
            length = math.sqrt(sum((g**2).sum() for g in grads))
            for v, g, target in zip(velocity, grads, (w, b), strict=True):
                v *= momentum
                v += g * min(1.0, clip / length)
                target -= lr * factor(step) * v
            step += 1
        means.append(np.mean(losses))
    return w, b, means


@pytest.mark.parametrize(
    ("momentum", "factor", "clip"),
    [(0.0, None, None), (0.9, None, None), (0.9, optim.cosine(10), None), (0.5, optim.warmup(4), 0.2)],
    ids=["plain", "momentum", "cosine", "warm-up and clipping"],
)
def test_training_follows_a_plain_loop_in_float64(momentum, factor, clip):
    """All else equal; the two differ by float32 rounding, about 1e-6, while a forgotten factor changes 1e-2."""
    split = small_split()
    model = models.mlp([6, 3], init="zeros").to(DEVICE)
    options = {"epochs": 3, "schedule": factor, "clip": clip, "seed": 4}
    history = fit(model, split, sgd(model, 0.1, momentum), **options)
    w, b, means = softmax_regression(split, 0.1, momentum, 3, factor or optim.constant(), clip or math.inf, seed=4)
    np.testing.assert_allclose(fetch(model.output.weight), w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fetch(model.output.bias), b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([r["train_loss"] for r in history], means, rtol=1e-4)


def test_the_learning_rate_of_each_epochs_last_step_is_recorded():
    history = fit(small_model(), epochs=4, schedule=optim.step(every=STEPS, factor=0.5))
    assert [r["lr"] for r in history] == pytest.approx([0.05, 0.025, 0.0125, 0.00625])


def test_without_a_schedule_an_earlier_factor_is_forgotten():
    model = small_model()
    optimizer = sgd(model)
    optimizer.lr_factor = 0.0
    assert fit(model, optimizer=optimizer, epochs=1)[0]["lr"] == 0.05


def test_clipping_bounds_the_joint_length_of_every_update():
    """Plain gradient descent at rate 1: the update is the gradient."""
    model = small_model()
    lengths, before = [], [fetch(p).copy() for p in model.parameters()]

    def measure(run):
        now = [fetch(p).copy() for p in model.parameters()]
        lengths.append(math.sqrt(sum(((a - b).astype(float) ** 2).sum() for a, b in zip(now, before, strict=True))))
        before[:] = now

    fit(model, optimizer=sgd(model, 1.0, 0.0), epochs=1, clip=0.01, callbacks=[SimpleNamespace(on_step=measure)])
    assert len(lengths) == STEPS and lengths == pytest.approx([0.01] * STEPS, rel=1e-3)


@pytest.mark.parametrize("make", [small_model, with_everything])
def test_the_same_seeds_give_the_same_bits_twice(make):
    def once():
        model = make(seed=1)
        return without_seconds(fit(model, small_split(val=9), seed=2)), model.state_dict()

    (history, state), (again, state_again) = once(), once()
    assert history == again
    assert_same_state(state, state_again)


def test_the_seed_orders_the_batches():
    one, two = (fit(small_model(), seed=seed, epochs=1)[0]["train_loss"] for seed in (0, 1))
    assert one != two


def test_training_reads_no_global_random_state():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    fit(with_everything(), epochs=1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


# -------------------------------------------------------------------------------------------------- callbacks


HOOKS = ("on_start", "on_step", "on_epoch", "on_end")


@pytest.mark.parametrize("chosen", [*((h,) for h in HOOKS), HOOKS])
def test_a_callback_has_any_of_the_four_hooks(chosen):
    calls = []
    callback = SimpleNamespace(**{h: (lambda run, h=h: calls.append((h, run.epoch, run.step))) for h in chosen})
    fit(small_model(), epochs=2, callbacks=[callback])
    expected = [("on_start", 0, 0)]
    for epoch in (1, 2):
        expected += [("on_step", epoch, STEPS * (epoch - 1) + i) for i in range(1, STEPS + 1)]
        expected += [("on_epoch", epoch, STEPS * epoch)]
    expected += [("on_end", 2, 10)]
    assert calls == [call for call in expected if call[0] in chosen]


def test_callbacks_may_come_from_a_generator():
    calls = []
    fit(small_model(), epochs=2, callbacks=(SimpleNamespace(on_epoch=calls.append) for _ in range(2)))
    assert len(calls) == 4


def test_a_callback_finds_the_finished_record_in_the_history():
    seen = []
    fit(small_model(), epochs=2, callbacks=[SimpleNamespace(on_epoch=lambda run: seen.append(len(run.history)))])
    assert seen == [1, 2]


def test_a_callback_that_sets_stop_ends_the_run_after_the_epoch():
    ended = []

    def stop_at_step_7(run):
        run.stop = run.stop or run.step == 7

    callback = SimpleNamespace(on_step=stop_at_step_7, on_end=lambda run: ended.append(run.step))
    history = fit(small_model(), epochs=9, callbacks=[callback])
    assert [r["epoch"] for r in history] == [1, 2] and ended == [10]


def test_gradients_are_there_when_a_callback_looks_after_a_step():
    missing = []
    look = SimpleNamespace(on_step=lambda run: missing.extend(p for p in run.model.parameters() if p.grad is None))
    fit(small_model(), epochs=1, callbacks=[look])
    assert not missing


# ---------------------------------------------------------------------------------------------- early stopping


def scripted(monkeypatch, losses):
    """Let the validation losses be these; what evaluate says of the other parts is left alone."""
    values, real = iter(losses), loop.evaluate

    def evaluate(model, dataset, loss, prefix=""):
        found = real(model, dataset, loss, prefix=prefix)
        return found | ({"val_loss": next(values)} if prefix == "val" else {})

    monkeypatch.setattr(loop, "evaluate", evaluate)


@pytest.mark.parametrize(
    ("losses", "patience", "epochs", "best"),
    [
        ([5, 4, 3, 2, 1, 0.5], 1, 6, 6),
        ([5, 4, 6, 3, 2, 1], 1, 3, 2),
        ([5, 4, 6, 3, 4, 4, 1], 2, 6, 4),
        ([5, 5, 5, 5, 5, 5], 3, 4, 1),
        ([5, math.nan, math.nan, 1, 1, 1], 2, 3, 1),
    ],
)
def test_early_stopping_waits_for_its_patience_and_returns_to_the_best_weights(
    losses, patience, epochs, best, monkeypatch
):
    scripted(monkeypatch, losses)
    model, states = with_everything(), []
    keep = SimpleNamespace(on_epoch=lambda run: states.append(model.state_dict()))
    history = fit(model, small_split(val=9), epochs=6, early_stopping=patience, callbacks=[keep])
    assert len(history) == epochs
    assert_same_state(model.state_dict(), states[best - 1])


def test_early_stopping_without_validation_data_says_what_to_load():
    with pytest.raises(ValueError, match=r"looks at split\.val, which is empty.*val=0\.1"):
        fit(small_model(), early_stopping=3)


def test_the_end_is_told_after_the_best_weights_are_back(monkeypatch):
    scripted(monkeypatch, [1, 2])
    model, states = small_model(), []
    keep = SimpleNamespace(
        on_epoch=lambda run: states.append(model.state_dict()), on_end=lambda run: states.append(model.state_dict())
    )
    fit(model, small_split(val=9), epochs=5, early_stopping=1, callbacks=[keep])
    assert len(states) == 3
    assert_same_state(states[-1], states[0])


# ---------------------------------------------------------------------------------------------------- evaluate


def test_evaluate_counts_and_averages_exactly():
    model, part = small_model(), small_split().test
    logits = fetch(model(tensor(part.x))).astype(np.float64)
    found = train.evaluate(model, part)
    assert found["accuracy"] == (logits.argmax(axis=1) == part.y).mean()
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert found["loss"] == pytest.approx(-log_p[np.arange(len(part)), part.y].mean(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 15, 512])
def test_the_batch_size_of_an_evaluation_changes_nothing(batch_size):
    model, part = small_model(), small_split().test
    found, whole = train.evaluate(model, part, batch_size=batch_size), train.evaluate(model, part)
    assert found["accuracy"] == whole["accuracy"] and found["loss"] == pytest.approx(whole["loss"], rel=1e-5)


def test_evaluate_runs_in_evaluation_mode_and_leaves_every_modes_and_state_as_it_was():
    model = with_everything()
    fit(model, epochs=1)
    model.train()
    list(model)[1].training = False  # a frozen batch norm stays frozen
    before, modes = model.state_dict(), [m.training for _, m in model.named_modules()]
    one, two = (train.evaluate(model, small_split().test) for _ in range(2))
    assert one == two  # no dropout
    assert [m.training for _, m in model.named_modules()] == modes
    assert_same_state(model.state_dict(), before)


def test_evaluate_records_no_graph_and_leaves_gradients_alone():
    model = small_model()
    seen = []
    train.evaluate(model, small_split().test, lambda logits, y: seen.append(logits) or ops.cross_entropy(logits, y))
    assert not seen[0].requires_grad and all(p.grad is None for p in model.parameters())


def test_an_evaluation_that_fails_leaves_the_mode_as_it_was():
    model = small_model().train()
    with pytest.raises(ZeroDivisionError):
        train.evaluate(model, small_split().test, lambda logits, y: 1 / 0)
    assert all(m.training for _, m in model.named_modules())


# ----------------------------------------------------------------------------------------------------- bad input


def test_an_optimizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="knows none of this model's parameters"):
        fit(small_model(), optimizer=sgd(small_model()))


@pytest.mark.host("refused before there is an array")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": (1, 2)}, r"split is a tuple; .*data.from_arrays\(x, y\) makes one"),
        ({"optimizer": optim.SGD}, r"optimizer is <class .*SGD'>; make one, such as optim.SGD\(model.parameters"),
        (
            {"callbacks": [SimpleNamespace(on_epoch_end=print)]},
            "on_start, on_step, on_checked, on_epoch, on_end; got",
        ),
        ({"callbacks": [SimpleNamespace]}, "a callback is an object with any of"),
    ],
)
def test_what_is_no_split_optimizer_or_callback_is_refused(options, message):
    with pytest.raises(TypeError, match=message):
        fit(small_model(), **options)


def one_score(loss):
    model = models.mlp([6, 8, 1], "tanh").to(DEVICE)
    return fit(model, epochs=1, loss=lambda scores, y: loss(scores[:, 0], y.astype("float32")))


@pytest.mark.parametrize("loss", [ops.mse, ops.binary_cross_entropy])
def test_with_one_score_there_is_a_loss_and_no_accuracy(loss):
    (record,) = one_score(loss)
    assert "train_loss" in record and "test_loss" in record and not [key for key in record if "accuracy" in key]


def test_a_model_whose_scores_have_one_axis_can_be_trained():
    class Flat(nn.Module):
        def __init__(self):
            self.linear = nn.Linear(6, 1)

        def forward(self, x):
            return self.linear(x)[:, 0]

    def loss(scores, y):
        return ops.binary_cross_entropy(scores, (y > 0).astype("float32"))

    first, *_, last = fit(Flat().to(DEVICE), epochs=4, loss=loss)
    assert last["train_loss"] < first["train_loss"]


def test_a_frozen_part_of_the_model_may_be_left_to_no_optimizer():
    model = small_model()
    frozen = fetch(model.linear1.weight).copy()
    fit(model, optimizer=optim.SGD(model.output.parameters(), lr=0.1), epochs=1)
    np.testing.assert_array_equal(fetch(model.linear1.weight), frozen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "at least 1; got 0"),
        ({"batch_size": 0}, "at least 1, got 0"),
        ({"early_stopping": 0}, "how many epochs it waits, at least 1; got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(small_model(), **options)


def test_training_is_silent_where_stderr_is_no_terminal(capfd):
    fit(small_model(), quiet=False)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_progress_shows_on_a_terminal_unless_quiet(monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(small_model(), epochs=1, quiet=True)
    assert capfd.readouterr().err == ""
    fit(small_model(), epochs=1, quiet=False)
    assert "epoch 1/1" in capfd.readouterr().err


# ---------------------------------------------------------------------------------------------------- tripwire


class Bomb(nn.Module):
    """Passes x on, and at one step of a run spoils the output, or only the gradient.

    It is told the step by the run, so that a step that is repeated goes wrong again.
    """

    def __init__(self, at, kind="output"):
        self.at, self.kind, self.step = at, kind, 0

    def on_start(self, run):
        self.run = run

    def forward(self, x):
        if not self.training or self.run.step + 1 != self.at:
            return x
        if self.kind == "output":
            return x * math.inf
        return x + ((x - x.detach()) ** 2).sqrt()  # sqrt(0): the value is right, its slope is infinite


def armed(at, kind="output", norm=False):
    model = nn.Sequential(
        first=nn.Linear(6, 8),
        norm=nn.BatchNorm1d(8) if norm else nn.Identity(),
        bomb=Bomb(at, kind),
        act=nn.Tanh(),
        second=nn.Linear(8, 3),
    )
    init.apply(model, seed=0)
    return model.to(DEVICE)


def diverging(model, **options):
    """Train until it diverges; the error, and the states after every step."""
    states = {0: model.state_dict()}
    keep = SimpleNamespace(on_step=lambda run: states.update({run.step: model.state_dict()}))
    callbacks = [keep, *(m for _, m in model.named_modules() if hasattr(m, "on_start"))]
    with np.errstate(all="ignore"), pytest.raises(train.Diverged) as caught:
        fit(model, callbacks=callbacks, **options)
    return caught.value, states


def as_on_a_gpu(monkeypatch, every):
    """Let the flag be read every so many steps, as on a GPU."""
    monkeypatch.setattr(loop, "Tripwire", lambda run, loss, **_: finite.Tripwire(run, loss, every))


@pytest.mark.parametrize("every", [1, 4, 50])
@pytest.mark.parametrize("at", [1, 2, 4, 5, 6, 8, 9, 10, 11, 13, 15])
def test_a_bad_value_is_reported_with_its_step_and_layer_whenever_the_flag_is_read(at, every, monkeypatch):
    """Steps just before, at and after a reading of the flag (every 4th) and the end of an epoch (every 5th)."""
    clean = small_split()
    reference = armed(at=None)
    states = {0: reference.state_dict()}
    keep = SimpleNamespace(on_step=lambda run: states.update({run.step: reference.state_dict()}))
    history = fit(reference, clean, callbacks=[reference.bomb, keep])
    as_on_a_gpu(monkeypatch, every)
    model = armed(at)
    error, _ = diverging(model, split=clean)
    assert (error.step, error.layer) == (at, "bomb")
    assert_same_state(model.state_dict(), states[at - 1])
    assert without_seconds(error.history) == without_seconds(history[: (at - 1) // STEPS])


def test_the_message_says_step_layer_and_what_to_do():
    error, _ = diverging(armed(7))
    assert "training step 7: the output of layer 'bomb' is not finite" in str(error)
    assert "from before this step" in str(error) and "learning rate" in str(error)
    assert len(error.history) == 1 and isinstance(error, ArithmeticError)


@pytest.mark.host("a data set lies on the host")
def test_a_nan_in_the_input_is_blamed_on_the_data():
    split = small_split()
    split.train.raw[3, 2] = math.nan
    with pytest.raises(train.Diverged, match="1 of 48 input values are NaN or infinite.*Clean the data") as caught:
        fit(small_model(), split)
    assert caught.value.layer == ""


def test_a_bad_gradient_behind_good_values_is_found_at_the_layer_it_reaches_first():
    """The loss is finite; the first gradient that is not is the one that leaves the bomb, at the output below it."""
    model = armed(6, "gradient", norm=True)
    error, states = diverging(model)
    assert (error.step, error.layer) == (6, "norm")
    assert "the gradient at the output of layer 'norm' is not finite" in str(error)
    assert_same_state(model.state_dict(), states[5])


@pytest.mark.parametrize("every", [1, 4])
def test_running_averages_are_those_from_before_the_bad_step_too(every, monkeypatch):
    as_on_a_gpu(monkeypatch, every)
    model = nn.Sequential(bomb=Bomb(6), norm=nn.BatchNorm1d(6), out=nn.Linear(6, 3)).to(DEVICE)
    error, states = diverging(model)
    assert error.layer == "bomb"
    assert_same_state(model.state_dict(), states[5])


class Overflows(nn.Module):
    """A student's block that goes wrong in its own arithmetic, and not in a layer inside."""

    def __init__(self):
        self.inner = nn.Linear(6, 3)

    def forward(self, x):
        return self.inner(x) * 1e30 * 1e30


@pytest.mark.parametrize("path", ["block", ""])
def test_a_block_that_goes_wrong_outside_its_inner_layers_is_named_itself(path):
    model = Overflows().to(DEVICE) if not path else nn.Sequential(flat=nn.Flatten(), block=Overflows()).to(DEVICE)
    error, _ = diverging(model)
    assert (error.step, error.layer) == (1, path or "Overflows")


def test_weights_that_explode_at_once_are_found_in_the_first_layer_that_overflows():
    """Weights of 1e15 and inputs around 1: 1e15, 1e30, then beyond float32."""
    model = models.mlp([6, 8, 8, 8, 3], "relu", init=init.normal(std=1e15)).to(DEVICE)
    error, states = diverging(model)
    assert (error.step, error.layer) == (1, "linear3")
    assert_same_state(model.state_dict(), states[0])


def test_a_loss_that_is_not_finite_alone_blames_no_layer():
    error, _ = diverging(small_model(), loss=lambda logits, y: (logits - logits).sum().log())
    assert error.layer == "" and "the loss is not finite, though every layer's output is" in str(error)


def test_a_weight_gradient_that_overflows_alone_is_named():
    """Inputs of 1e30, gradients of 1e30: each finite, their products not."""
    model = nn.Sequential(only=nn.Linear(6, 3, init="zeros")).to(DEVICE)
    rng = np.random.default_rng(0)
    part = data.Dataset((1e30 * rng.normal(size=(8, 6))).astype(np.float32), np.arange(8) % 3)
    split = data.Split("large", part, part, part, np.zeros(6), np.ones(6))
    error, _ = diverging(model, split=split, loss=lambda logits, y: (logits * 1e30).sum())
    assert error.layer == "only" and "the gradient of 'only.weight' is not finite" in str(error)


@pytest.mark.parametrize("make", [small_model, lambda: small_model(norm=True)], ids=["plain", "batch norm"])
@pytest.mark.parametrize("every", [2, 4, 50])
def test_reading_the_flag_seldom_changes_no_bit_of_a_healthy_run(every, make, monkeypatch):
    def trained(k):
        as_on_a_gpu(monkeypatch, k)
        model = make()
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        history = fit(model, small_split(val=9), optimizer, schedule=optim.cosine(15), early_stopping=2)
        return without_seconds(history), model.state_dict()

    (history, state), (reference, reference_state) = trained(every), trained(1)
    assert history == reference
    assert_same_state(state, reference_state)


@pytest.mark.parametrize("at", [6, 10, 11, 14])
def test_with_dropout_a_step_that_is_repeated_draws_its_masks_again(at, monkeypatch):
    """The weights before the bad step are those that the same run, without the bomb, had there."""

    def model_with(at):
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), Bomb(at), nn.Linear(8, 3))
        init.apply(model, seed=0)
        return model.to(DEVICE)

    as_on_a_gpu(monkeypatch, 4)
    healthy, states = model_with(None), {}
    keep = SimpleNamespace(on_step=lambda run: states.update({run.step: healthy.state_dict()}))
    fit(healthy, callbacks=[keep, list(healthy)[2]])
    model = model_with(at)
    error, _ = diverging(model)
    assert (error.step, error.layer) == (at, "2")
    assert_same_state(model.state_dict(), states[at - 1])


def test_adams_memory_goes_back_with_the_weights(monkeypatch):
    """A wrong memory would give other weights in the repeated steps before the bad one."""

    def trained(at, every):
        as_on_a_gpu(monkeypatch, every)
        model = armed(at)
        optimizer = optim.Adam(model.parameters(), lr=0.05)
        diverging(model, optimizer=optimizer, schedule=optim.warmup(9))
        return model.state_dict(), optimizer.state_dict()["state"]

    (state, memory), (expected, expected_memory) = trained(8, 50), trained(8, 1)
    assert_same_state(state, expected)
    for one, two in zip(memory, expected_memory, strict=True):
        assert_same_state(one, two)


def test_first_bad_layer_finds_nothing_in_a_healthy_network():
    model = small_model()
    x, y = small_split().train[:8]
    layer, what = train.first_bad_layer(model, tensor(x), tensor(y).data, ops.cross_entropy)
    assert layer == "" and "so large that their sum" in what


def test_first_bad_layer_removes_its_hooks():
    model = small_model()
    x, y = small_split().train[:8]
    train.first_bad_layer(model, tensor(x), tensor(y).data, ops.cross_entropy)
    assert not any(vars(m).get("_forward_hooks") for _, m in model.named_modules())


def test_a_run_leaves_the_parts_of_its_split_unchanged():
    split = small_split(val=9)
    before = [(p.x.copy(), p.y.copy()) for p in (split.train, split.val, split.test)]
    fit(small_model(), split)
    for (x, y), part in zip(before, (split.train, split.val, split.test), strict=True):
        np.testing.assert_array_equal(part.x, x)
        np.testing.assert_array_equal(part.y, y)


def test_models_in_float64_are_refused_with_float32_data():
    with pytest.raises(TypeError, match="float"):
        fit(small_model().to("float64"))


# ------------------------------------------------------------------------------- several outputs, odd batches, curves


class Auxiliary(nn.Module):
    """A network with a second classifier that helps in training alone."""

    def __init__(self):
        self.hidden, self.main, self.helper = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        h = self.hidden(x).tanh()
        return (self.main(h), self.helper(h)) if self.training else self.main(h)

    def training_loss(self, outputs, y, loss):
        logits, helped = outputs
        return loss(logits, y) + 0.3 * loss(helped, y)


def auxiliary():
    model = Auxiliary()
    init.apply(model, seed=0)
    return model.to(DEVICE)


def test_a_models_own_training_loss_is_made_small_and_accuracy_counts_the_first_output():
    """One step of plain gradient descent against the same step by hand."""
    model, twin = auxiliary(), auxiliary()
    x, y = (tensor(array) for array in small_split().train[:])
    logits, helped = twin.train()(x)
    value = ops.cross_entropy(logits, y) + 0.3 * ops.cross_entropy(helped, y)
    value.backward()
    history = fit(model, optimizer=sgd(model, 0.1, 0.0), epochs=1, batch_size=40)
    assert history[0]["train_loss"] == pytest.approx(value.item(), rel=1e-6)
    assert history[0]["train_accuracy"] == (fetch(logits).argmax(axis=1) == fetch(y)).mean()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(fetch(p), fetch(q.data - 0.1 * q.grad), rtol=1e-4, atol=1e-6)


def test_a_bad_value_behind_an_auxiliary_output_is_found_too():
    model = auxiliary()
    model.helper.weight.data = model.helper.weight.data * np.float32(math.inf)
    error, _ = diverging(model)
    assert (error.step, error.layer) == (1, "helper")


def test_a_transform_changes_training_batches_alone():
    seen = []

    def zero(x, rng):
        seen.append(x.shape)
        return np.zeros_like(x)

    model = models.mlp([6, 3], init="zeros").to(DEVICE)
    plain = train.evaluate(model, small_split().test)
    (record,) = fit(model, epochs=1, transform=zero)
    assert seen == [(8, 6)] * STEPS
    np.testing.assert_array_equal(fetch(model.output.weight), 0)  # inputs of zeros: only the bias has learned
    assert record["test_loss"] != plain["loss"]


def test_with_drop_last_a_smaller_last_batch_is_left_out():
    sizes = []
    fit(
        small_model(),
        small_split(n=41),
        epochs=1,
        drop_last=True,
        callbacks=[SimpleNamespace(on_step=lambda run: sizes.append(run.batch.count))],
    )
    assert sizes == [8] * STEPS


def flat_images(n):
    rng = np.random.default_rng(0)
    return data.from_arrays(rng.normal(size=(n, 1, 4, 4)).astype(np.float32), np.arange(n) % 3, test=5)


@pytest.mark.parametrize(
    ("n", "options", "examples"), [(41, {}, "41 examples in batches of 8"), (40, {"batch_size": 1}, "batches of 1")]
)
def test_a_last_batch_of_one_example_and_batch_norm_are_refused_at_the_start(n, options, examples):
    steps = []
    count = SimpleNamespace(on_step=steps.append)
    with pytest.raises(ValueError, match=f"{examples} leave a last batch of 1, and layer 'norm1' .*drop_last=True or"):
        fit(small_model(norm=True), small_split(n=n), callbacks=[count], **options)
    assert not steps


def test_a_last_batch_of_one_example_is_trained_where_its_statistics_exist():
    fit(small_model(), small_split(n=41), epochs=1)  # no batch norm
    fit(small_model(norm=True), small_split(n=41), epochs=1, drop_last=True)
    on_a_map = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GlobalAvgPool2d(), nn.Linear(2, 3)).to(DEVICE)
    fit(on_a_map, flat_images(30), epochs=1)  # 25 for training: 8, 8, 8, 1; the one image has four places
    on_a_point = nn.Sequential(nn.Conv2d(1, 2, 4), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3)).to(DEVICE)
    with pytest.raises(ValueError, match="25 examples in batches of 8 leave a last batch of 1, and layer '1'"):
        fit(on_a_point, flat_images(30), epochs=1)


def test_a_run_that_diverges_has_no_end_to_tell():
    told = []
    model = armed(7)
    with np.errstate(all="ignore"), pytest.raises(train.Diverged):
        fit(model, callbacks=[model.bomb, SimpleNamespace(on_end=told.append)])
    assert not told


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4, 5, 5]), (2, [2, 4, 5, 5]), (50, [5, 5])])
def test_a_run_can_be_saved_where_its_values_are_known_and_when_an_epoch_is_over(every, expected, monkeypatch):
    as_on_a_gpu(monkeypatch, every)
    checked = []
    fit(small_model(), epochs=1, callbacks=[SimpleNamespace(on_checked=lambda run: checked.append(run.step))])
    assert checked == expected


def test_a_curve_holds_loss_and_accuracy_of_every_batch():
    seen, curve = [], train.Curve()

    def loss(logits, y):
        value = ops.cross_entropy(logits, y)
        seen.append((value.item(), (fetch(logits).argmax(axis=1) == fetch(y)).mean()))
        return value

    fit(small_model(), small_split(n=44), epochs=2, callbacks=[curve], loss=loss)
    training = [*seen[:6], *seen[7:13]]  # each epoch: five batches of 8, one of 4, and the test part
    assert [(r["epoch"], r["step"]) for r in curve.records] == [(1 + i // 6, 1 + i) for i in range(12)]
    assert [r["loss"] for r in curve.records] == [value for value, _ in training]
    assert [r["accuracy"] for r in curve.records] == pytest.approx([accuracy for _, accuracy in training])
    assert {type(v) for r in curve.records for v in r.values()} == {int, float}


def test_a_curve_can_keep_every_kth_step_from_the_first():
    curve = train.Curve(every=4)
    fit(small_model(), epochs=2, callbacks=[curve])
    assert [r["step"] for r in curve.records] == [1, 5, 9]
    with pytest.raises(ValueError, match="at least 1; got 0"):
        train.Curve(every=0)


def test_a_curve_of_one_score_has_no_accuracy():
    curve, model = train.Curve(), models.mlp([6, 8, 1], "tanh").to(DEVICE)
    fit(model, epochs=1, loss=lambda s, y: ops.mse(s[:, 0], y.astype("float32")), callbacks=[curve])
    assert [set(r) for r in curve.records] == [{"epoch", "step", "loss"}] * STEPS


def test_a_curve_used_again_starts_anew():
    curve = train.Curve()
    for _ in range(2):
        fit(small_model(), epochs=1, callbacks=[curve])
    assert len(curve.records) == STEPS


@pytest.mark.parametrize("at_once", [1, 3, 512])
def test_a_curve_is_right_however_many_numbers_it_reads_at_once(at_once, monkeypatch):
    monkeypatch.setattr(train.curve, "AT_ONCE", at_once)
    curve, losses = train.Curve(), []
    fit(small_model(), epochs=2, callbacks=[curve, SimpleNamespace(on_step=lambda r: losses.append(r.loss.item()))])
    assert [r["loss"] for r in curve.records] == losses


def test_steps_that_are_repeated_stand_once_in_a_curve(monkeypatch):
    """The flag is read at step 5, the bomb is at 4: steps 1 to 3 are run twice."""
    as_on_a_gpu(monkeypatch, 50)
    model, curve = armed(4), train.Curve()
    with np.errstate(all="ignore"), pytest.raises(train.Diverged):
        fit(model, callbacks=[model.bomb, curve])
    steps = [r["step"] for r in curve.records]
    assert steps == sorted(set(steps)) and steps[:3] == [1, 2, 3]


def test_the_bar_shows_loss_and_accuracy_of_the_epoch_so_far(monkeypatch):
    notes = []

    def progress(items, total, label, start, note):
        for item in items:
            yield item
            notes.append((label, total, start, note()))

    monkeypatch.setattr(loop, "progress", progress)
    losses = []
    watch = SimpleNamespace(on_step=lambda run: losses.append(run.loss.item()))
    (record,) = fit(small_model(), epochs=1, quiet=False, callbacks=[watch])
    assert notes[0][:3] == ("epoch 1/1", STEPS, 0)
    assert [float(n[3].split()[1].strip(",")) for n in notes] == pytest.approx(
        [np.mean(losses[: i + 1]) for i in range(STEPS)], rel=1e-3
    )
    assert notes[-1][3].endswith(f"accuracy {100 * record['train_accuracy']:.1f} %")
