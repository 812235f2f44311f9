"""Checkpoints: a run that was killed ends with the bits of one that was not; files that are complete or not there."""

import errno
import importlib.util
import json
import math
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor
from test_train import STEPS, Bomb, as_on_a_gpu, assert_same_state, small_model, small_split, without_seconds

from minidl import backend, data, files, init, nn, ops, optim, train
from minidl.train import archive, loop
from minidl.train.archive import CheckpointError

HAS_SAFETENSORS = importlib.util.find_spec("safetensors") is not None
ENDINGS = [
    "npz",
    pytest.param("safetensors", marks=pytest.mark.skipif(not HAS_SAFETENSORS, reason="needs safetensors")),
]


class Killed(BaseException):
    """As sudden as a signal: nothing in the loop catches it."""


def killer(step):
    """Ends the run right after that step's update."""

    def kill(run):
        if run.step == step:
            raise Killed

    return SimpleNamespace(on_step=kill)


def noisy(x, rng):
    """An augmentation."""
    return x + rng.normal(size=x.shape).astype(np.float32) / 10


def everything(seed=0):
    """Batch norm, dropout, and a Scale, which shows its value when it is printed."""
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Scale(1.0), nn.Dropout(0.3), nn.Linear(8, 3)
    )
    init.apply(model, seed=seed)
    return model.to(DEVICE)


OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.05),
    "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "Nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda p: optim.Adam(p, lr=0.01),
    "AdamW": lambda p: optim.AdamW([{"params": p[:2], "lr": 0.02}, {"params": p[2:]}], lr=0.01),
}


def command(callbacks=(), optimizer="Adam", make=everything, epochs=3, **options):
    """What a user would run again: everything made anew. Returns history, weights, optimizer."""
    model = make()
    chosen = OPTIMIZERS[optimizer](model.parameters())
    settings = {"schedule": optim.cosine(17, end=0.1), "clip": 1.0, "early_stopping": 2, "transform": noisy, "seed": 4}
    settings |= {"batch_size": 8, "quiet": True} | options
    history = train.fit(model, small_split(val=9), optimizer=chosen, epochs=epochs, callbacks=callbacks, **settings)
    return history, model.state_dict(), chosen


def assert_same_end(one, two):
    (history, weights, optimizer), (history2, weights2, optimizer2) = one, two
    assert without_seconds(history) == without_seconds(history2)
    assert_same_state(weights, weights2)
    for a, b in zip(optimizer.state_dict()["state"], optimizer2.state_dict()["state"], strict=True):
        assert_same_state(a, b)


@pytest.fixture(autouse=True)
def _flag_read_every_second_step(monkeypatch):
    """On a GPU runs are saved where the flag is read; an epoch here has five steps."""
    monkeypatch.setattr(loop, "EVERY_ON_GPU", 2)


# ------------------------------------------------------------------------------------------------------------ resume


@pytest.mark.parametrize("every", [1, 2, 4, None])
@pytest.mark.parametrize("at", [1, 2, 4, 5, 6, 8, 10, 13, 15])
def test_a_run_killed_at_any_step_ends_with_the_bits_of_one_that_was_not(at, every, tmp_path):
    with pytest.raises(Killed):
        command([train.Checkpoint(tmp_path / "run.npz", every), killer(at)])
    assert_same_end(command([train.Checkpoint(tmp_path / "run.npz", every)]), command())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_optimizer_goes_on_from_both_kinds_of_file(optimizer, ending, tmp_path):
    path = tmp_path / f"run.{ending}"
    with pytest.raises(Killed):
        command([train.Checkpoint(path, 2), killer(8)], optimizer)
    assert_same_end(command([train.Checkpoint(path, 2)], optimizer), command(optimizer=optimizer))


def test_a_run_killed_again_and_again_arrives_all_the_same(tmp_path):
    """Each life does four steps and loses up to two of them."""
    lives, end = 0, None
    while end is None:
        counted = []
        count = SimpleNamespace(on_step=lambda run, counted=counted: counted.append(run.step))
        limit = SimpleNamespace(on_checked=lambda run, counted=counted: kill_after(counted, 4))
        try:
            end = command([train.Checkpoint(tmp_path / "run.npz", 2), count, limit])
        except Killed:
            lives += 1
    assert 3 <= lives <= 7
    assert_same_end(end, command())


def kill_after(counted, steps):
    if len(counted) == steps:
        raise Killed


def conv_net():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(48, 3),
    )
    init.apply(model, seed=0)
    return model.to(DEVICE)


def test_a_convolutional_network_with_crops_and_flips_goes_on_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 3
    x = (rng.normal(size=(40, 1, 8, 8)) + y[:, None, None, None]).astype(np.float32)
    split = data.from_arrays(x, y, test=8)
    augment = data.transforms.chain(data.transforms.random_crop(8, padding=1), data.transforms.random_flip())

    def run(*callbacks):
        model = conv_net()
        optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        settings = {"epochs": 2, "batch_size": 8, "transform": augment, "quiet": True}
        return train.fit(model, split, optimizer=optimizer, callbacks=callbacks, **settings), model.state_dict()

    with pytest.raises(Killed):
        run(train.Checkpoint(tmp_path / "run.npz", 1), killer(7))
    (history, weights), (reference, expected) = run(train.Checkpoint(tmp_path / "run.npz", 1)), run()
    assert without_seconds(history) == without_seconds(reference)
    assert_same_state(weights, expected)


def test_dropout_that_was_seeded_by_nobody_goes_on_with_its_own_masks(tmp_path):
    """A model made without init.apply differs in every process, its masks too; the file has those of the first."""
    first, again = everything(), everything()
    again[4].after_init(np.random.default_rng(99))
    states = {}
    keep = SimpleNamespace(on_step=lambda run: states.update({run.step: run.model.state_dict()}))
    command([train.Checkpoint(tmp_path / "run.npz", 2), keep], make=lambda: first)
    with pytest.raises(Killed):
        command([train.Checkpoint(tmp_path / "half.npz", 2), killer(9)])
    _, weights, _ = command([train.Checkpoint(tmp_path / "half.npz", 2)], make=lambda: again)
    assert_same_state(weights, first.state_dict())
    assert (again[4].seed, again[4].number) == (first[4].seed, first[4].number)  # also for streams begun later


def test_weights_in_an_unusual_order_in_memory_keep_it(tmp_path):
    """Products sum in another order then, and the bits differ."""

    def turned():
        model = nn.Sequential(nn.Linear(6, 300), nn.Tanh(), nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 3))
        init.apply(model, seed=0)
        model = model.to(DEVICE)
        model[2].weight.data = model[2].weight.data.T.copy().T
        return model

    with pytest.raises(Killed):
        command([train.Checkpoint(tmp_path / "run.npz", 2), killer(7)], make=turned)
    model = turned()
    model[2].weight.data = model[2].weight.data.T.copy().T.copy()  # the process that goes on has it otherwise
    assert model[2].weight.data.flags.c_contiguous
    orders = []
    look = SimpleNamespace(on_step=lambda run: orders.append(model[2].weight.data.flags.c_contiguous))
    _, weights, _ = command([train.Checkpoint(tmp_path / "run.npz", 2), look], make=lambda: model)
    assert not any(orders)
    assert_same_state(weights, command(make=turned)[1])


def test_seconds_count_what_was_spent_on_an_epoch_before_the_kill_too(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock[0])

    def work(run):
        clock[0] += 10

    with pytest.raises(Killed):
        command([train.Checkpoint(tmp_path / "run.npz", 1), SimpleNamespace(on_step=work), killer(9)])
    clock[0] = 1000.0  # the hours in which nothing ran do not count
    history, _, _ = command([train.Checkpoint(tmp_path / "run.npz", 1), SimpleNamespace(on_step=work)])
    assert [record["seconds"] for record in history] == [50, 50, 50]


# --------------------------------------------------------------------------------------------------- a run that is over


def steps_of(callbacks, **options):
    """The steps a command makes, and what it returns."""
    steps = []
    count = SimpleNamespace(on_step=lambda run: steps.append(run.step))
    return steps, command([*callbacks, count], **options)


def test_a_run_that_is_over_returns_its_history_at_once(tmp_path):
    first = command([train.Checkpoint(tmp_path / "run.npz")])
    steps, again = steps_of([train.Checkpoint(tmp_path / "run.npz")])
    assert not steps and again[0] == first[0]
    assert_same_end(again, first)


def test_a_run_that_is_over_is_written_whatever_every_says(tmp_path):
    command([train.Checkpoint(tmp_path / "run.npz", every=1000)])
    assert not steps_of([train.Checkpoint(tmp_path / "run.npz", every=1000)])[0]


def test_with_more_epochs_a_run_that_is_over_goes_on(tmp_path):
    command([train.Checkpoint(tmp_path / "run.npz")], epochs=2, early_stopping=None)
    steps, longer = steps_of([train.Checkpoint(tmp_path / "run.npz")], epochs=4, early_stopping=None)
    assert steps == list(range(2 * STEPS + 1, 4 * STEPS + 1))
    assert_same_end(longer, command(epochs=4, early_stopping=None))


def test_fewer_epochs_than_there_were_are_refused(tmp_path):
    command([train.Checkpoint(tmp_path / "run.npz")], epochs=3)
    with pytest.raises(CheckpointError, match="is in epoch 3; epochs=2 is less"):
        command([train.Checkpoint(tmp_path / "run.npz")], epochs=2)


def worse_and_worse(monkeypatch, best):
    """Validation losses that are smallest in epoch ``best``."""
    real = loop.evaluate

    def evaluate(model, dataset, loss, prefix=""):
        found = real(model, dataset, loss, prefix=prefix)
        if prefix == "val":
            evaluate.epoch += 1
            found["val_loss"] = float(abs(evaluate.epoch - best))
        return found

    evaluate.epoch = 0
    monkeypatch.setattr(loop, "evaluate", evaluate)
    return evaluate


@pytest.mark.parametrize("at", [4, 9, 12, 14, 19])
def test_early_stopping_remembers_its_best_weights_and_how_long_it_has_waited(at, tmp_path, monkeypatch):
    """Best in epoch 2 and a patience of 2: epoch 4 is the last."""
    worse_and_worse(monkeypatch, best=2)
    reference = command(epochs=9)
    assert len(reference[0]) == 4
    evaluate = worse_and_worse(monkeypatch, best=2)
    with pytest.raises(Killed):
        command([train.Checkpoint(tmp_path / "run.npz", 2), killer(at)], epochs=9)
    saved = train.load(tmp_path / "run.npz")
    evaluate.epoch = len(saved["history"])
    assert_same_end(command([train.Checkpoint(tmp_path / "run.npz", 2)], epochs=9), reference)


def test_a_run_that_stopped_early_stays_over_and_its_file_gives_the_best_weights(tmp_path, monkeypatch):
    worse_and_worse(monkeypatch, best=1)
    _, best, _ = command([train.Checkpoint(tmp_path / "run.npz")], epochs=9)
    steps, again = steps_of([train.Checkpoint(tmp_path / "run.npz")], epochs=20)
    assert not steps
    assert_same_state(again[1], best)
    model = everything(seed=5)
    info = train.load(tmp_path / "run.npz", model=model)
    assert info["over"] and info["epoch"] == 3 and len(info["history"]) == 3
    assert_same_state(model.state_dict(), best)


def test_a_run_that_was_asked_to_stop_within_an_epoch_finishes_it(tmp_path):
    def stop(run):
        run.stop = True

    with pytest.raises(Killed):
        command([SimpleNamespace(on_step=stop), train.Checkpoint(tmp_path / "run.npz", 1), killer(4)])
    history, _, _ = command([train.Checkpoint(tmp_path / "run.npz", 1)])
    assert [record["step"] for record in history] == [STEPS]


# ------------------------------------------------------------------------------------------------------ other runs


def other_net(*layers):
    model = nn.Sequential(*layers)
    init.apply(model, seed=0)
    return model.to(DEVICE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 10}, r"batch_size=8 \(now 10\)"),
        ({"seed": 5}, r"seed=4 \(now 5\)"),
        ({"clip": None}, r"clip=1.0 \(now None\)"),
        ({"early_stopping": 3}, r"early_stopping=2 \(now 3\)"),
        ({"drop_last": True}, r"drop_last=False \(now True\)"),
        ({"transform": None}, r"transform='noisy' \(now None\)"),
        ({"schedule": None}, r"schedule='cosine.* \(now None\)"),
        ({"loss": ops.mse}, r"loss='cross_entropy' \(now 'mse'\)"),
        ({"optimizer": "AdamW"}, r"optimizer='Adam' \(now 'AdamW'\), groups="),
        ({"make": lambda: other_net(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))}, r"it has 0: Linear\(6 -> 8"),
        ({"make": small_model}, r"trains another network: it has .* this one "),
    ],
    ids="batch_size seed clip early_stopping drop_last transform schedule loss optimizer width network".split(),
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(change, message, tmp_path):
    with pytest.raises(Killed):
        command([train.Checkpoint(tmp_path / "run.npz", 1), killer(4)])
    with pytest.raises(CheckpointError, match=message) as caught:
        command([train.Checkpoint(tmp_path / "run.npz", 1)], **change)
    assert "run.npz" in str(caught.value) and "move the file away" in str(caught.value)


def test_another_activation_scheme_or_rate_is_another_run(tmp_path):
    def run(activation="relu", scheme="he_normal", lr=0.1, split=None):
        model = nn.Sequential(nn.Linear(6, 8, init=scheme), nn.activation(activation), nn.Linear(8, 3)).to(DEVICE)
        optimizer = optim.SGD(model.parameters(), lr=lr)
        checkpoint = train.Checkpoint(tmp_path / "run.npz")
        settings = {"epochs": 1, "batch_size": 8, "quiet": True, "callbacks": [checkpoint]}
        return train.fit(model, small_split() if split is None else split, optimizer=optimizer, **settings)

    run()
    with pytest.raises(CheckpointError, match=r"it has 1: ReLU\(\), this one 1: Tanh\(\)"):
        run("tanh")
    with pytest.raises(CheckpointError, match="init=he_normal.*this one.*init=glorot_normal"):
        run(scheme="glorot_normal")
    with pytest.raises(CheckpointError, match="'lr': 0.1.*'lr': 0.2"):
        run(lr=0.2)
    with pytest.raises(CheckpointError, match=r"examples=40 \(now 48\)"):
        run(split=small_split(n=48))
    other = small_split()
    other.train.y[:] = other.train.y[::-1].copy()
    with pytest.raises(CheckpointError, match="labels="):
        run(split=other)


@pytest.mark.parametrize("which", [0, 20, 39], ids=["first", "middle", "last"])
def test_other_images_with_the_same_labels_are_another_run(which, tmp_path):
    def run(split, *callbacks):
        model = small_model()
        callbacks = [train.Checkpoint(tmp_path / "run.npz", 1), *callbacks]
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        train.fit(model, split, optimizer=optimizer, epochs=3, batch_size=8, quiet=True, callbacks=callbacks)

    with pytest.raises(Killed):
        run(small_split(), killer(5))
    other = small_split()
    other.train.raw = other.train.raw.copy()
    other.train.raw[max(which - 4, 0) : which + 4] += 1
    with pytest.raises(CheckpointError, match=r"images=\d+ \(now \d+\)"):
        run(other)
    run(small_split())


@pytest.mark.parametrize("at", [4, 8])
def test_the_same_schedule_with_other_numbers_is_another_run(at, tmp_path):
    with pytest.raises(Killed):
        command([train.Checkpoint(tmp_path / "run.npz", 1), killer(at)], schedule=optim.cosine(100))
    expected = 0.5 * (1 + math.cos(math.pi / 100))
    with pytest.raises(CheckpointError, match=rf"schedule gives the factor {expected} at step 1, this one's 0\.95048"):
        command([train.Checkpoint(tmp_path / "run.npz", 1)], schedule=optim.cosine(7))
    again = command([train.Checkpoint(tmp_path / "run.npz", 1)], schedule=optim.cosine(100))
    assert_same_end(again, command(schedule=optim.cosine(100)))


def test_a_schedule_that_changes_in_a_later_epoch_alone_is_another_run(tmp_path):
    with pytest.raises(Killed):
        command([train.Checkpoint(tmp_path / "run.npz", 1), killer(4)], schedule=optim.step(every=2 * STEPS + 1))
    with pytest.raises(CheckpointError, match="at step 12, this one's"):
        command([train.Checkpoint(tmp_path / "run.npz", 1)], schedule=optim.step(every=2 * STEPS + 3))


def test_with_a_schedule_that_knows_its_run_alone_it_can_be_made_longer_and_shorter(tmp_path):
    def table(epochs):
        return (0.5 ** np.arange(epochs * STEPS)).__getitem__  # there is no factor beyond the last step

    def run(epochs, *callbacks):
        callbacks = [train.Checkpoint(tmp_path / "run.npz", 1), *callbacks]
        return command(callbacks, schedule=table(epochs), epochs=epochs, early_stopping=None)

    with pytest.raises(Killed):
        run(3, killer(4))
    run(2)
    assert [record["epoch"] for record in run(4)[0]] == [1, 2, 3, 4]


def test_a_refused_checkpoint_changes_nothing(tmp_path):
    command([train.Checkpoint(tmp_path / "run.npz")])
    model = everything(seed=3)
    before, content = model.state_dict(), (tmp_path / "run.npz").read_bytes()
    with pytest.raises(CheckpointError):
        command([train.Checkpoint(tmp_path / "run.npz")], make=lambda: model, seed=9)
    assert_same_state(model.state_dict(), before)
    assert (tmp_path / "run.npz").read_bytes() == content


# ------------------------------------------------------------------------------------- what a run meets on its way


@pytest.mark.parametrize("every", [1, 3, 50])
def test_a_run_that_diverges_leaves_no_bad_value_in_its_file_and_diverges_again(every, tmp_path, monkeypatch):
    """Also where the flag is read seldom: what lies between two readings is not known to be good, and not written."""
    as_on_a_gpu(monkeypatch, every)

    def run():
        model = nn.Sequential(nn.Linear(6, 8), Bomb(9), nn.Linear(8, 3)).to(DEVICE)
        init.apply(model, seed=0)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        callbacks = [model[1], train.Checkpoint(tmp_path / "run.npz", 1)]
        settings = {"epochs": 3, "batch_size": 8, "quiet": True, "callbacks": callbacks}
        with np.errstate(all="ignore"), pytest.raises(train.Diverged) as caught:
            train.fit(model, small_split(), optimizer=optimizer, **settings)
        return caught.value, model.state_dict()

    error, state = run()
    tree = archive.read(tmp_path / "run.npz")
    assert tree["run"]["step"] == {1: 8, 3: 6, 50: 5}[every]
    assert all(np.isfinite(array).all() for array in tree["weights"].values())
    again, state_again = run()
    assert (error.step, error.layer) == (again.step, again.layer) == (9, "1")
    assert_same_state(state_again, state)


def test_callbacks_with_a_state_go_on_with_it(tmp_path):
    whole = train.Curve()
    command([whole])
    with pytest.raises(Killed):
        command([train.Curve(), train.Checkpoint(tmp_path / "run.npz", 2), killer(8)])
    rest = train.Curve()
    command([rest, train.Checkpoint(tmp_path / "run.npz", 2)])
    assert rest.records == whole.records and len(whole.records) == 3 * STEPS


def test_the_order_of_checkpoint_and_curve_does_not_matter(tmp_path):
    for order in (1, -1):
        path = tmp_path / f"run{order}.npz"
        with pytest.raises(Killed):
            command([*[train.Curve(), train.Checkpoint(path, 2)][::order], killer(8)])
        curve = train.Curve()
        command([curve, train.Checkpoint(path, 2)][::order])
        assert [record["step"] for record in curve.records] == list(range(1, 3 * STEPS + 1))


def test_other_callbacks_than_before_are_refused(tmp_path):
    command([train.Checkpoint(tmp_path / "run.npz"), train.Curve()])
    with pytest.raises(CheckpointError, match=r"callbacks \['Curve'\], this one \[\]"):
        command([train.Checkpoint(tmp_path / "run.npz")])


def test_writing_changes_no_bit_of_a_run(tmp_path):
    assert_same_end(command([train.Checkpoint(tmp_path / "run.npz", 1)]), command())


# ------------------------------------------------------------------------------------------------------------- files

TREE = {
    "weights": {"conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), "file": np.ones(2, np.float32)},
    "odd": {
        "0-d": np.float32(0.1) * np.ones(()),
        "bool": np.array([True, False]),
        "true": np.array(True),
        "int": np.array(2**60),
        "uint8": np.arange(3, dtype=np.uint8),
        "empty": np.zeros((0, 3), np.float32),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "every second": np.arange(10, dtype=np.int64)[::2],
        "backwards": np.arange(4.0)[::-1],
        "channels last": np.moveaxis(np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3), 3, 1),
    },
    "plain": [1, 0.1, None, True, "σ", (0.9, 0.999), {"a": math.inf, 3: -0.0}, 2**100],
}


def same(one, two):
    assert type(one) is type(two) or hasattr(one, "shape")
    if hasattr(one, "shape"):
        assert one.shape == two.shape and one.dtype == two.dtype and np.array_equal(one, two)
    elif isinstance(one, dict):
        assert list(one) == list(two)
        for key in one:
            same(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            same(a, b)
    else:
        assert one == two


@pytest.mark.host("a file format")
@pytest.mark.parametrize("ending", ENDINGS)
def test_numbers_texts_and_arrays_of_every_kind_come_back_as_they_were(ending, tmp_path):
    archive.write(tmp_path / f"tree.{ending}", TREE)
    same(archive.read(tmp_path / f"tree.{ending}"), TREE)


@pytest.mark.host("a file format")
def test_other_programs_find_the_weights_under_their_names(tmp_path):
    archive.write(tmp_path / "a.npz", TREE)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["conv.weight"], TREE["weights"]["conv.weight"])
    if HAS_SAFETENSORS:
        from safetensors.numpy import load_file

        archive.write(tmp_path / "a.safetensors", TREE)
        found = load_file(tmp_path / "a.safetensors")
        np.testing.assert_array_equal(found["conv.weight"], TREE["weights"]["conv.weight"])
        np.testing.assert_array_equal(found["odd/channels last"], TREE["odd"]["channels last"])


@pytest.mark.parametrize("ending", ENDINGS)
def test_weights_saved_by_another_program_can_be_loaded(ending, tmp_path):
    source, model = small_model(seed=1), small_model(seed=2)
    if ending == "npz":
        np.savez(tmp_path / "w.npz", **source.state_dict())
    else:
        from safetensors.numpy import save_file

        save_file(source.state_dict(), tmp_path / "w.safetensors")
    train.load(tmp_path / f"w.{ending}", model=model)
    assert_same_state(model.state_dict(), source.state_dict())


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_model_and_its_optimizer_can_be_saved_and_loaded(ending, tmp_path):
    def trained(model, optimizer, steps):
        x, y = (tensor(array) for array in small_split().train[:8])
        for _ in range(steps):
            optimizer.zero_grad()
            ops.cross_entropy(model(x), y).backward()
            optimizer.step()

    one, two = small_model(seed=1), small_model(seed=2)
    adam, adam2 = (optim.Adam(m.parameters(), lr=lr) for m, lr in ((one, 0.01), (two, 0.5)))
    trained(one, adam, 3)
    train.save(tmp_path / f"a.{ending}", model=one, optimizer=adam, info={"accuracy": 0.5, "mean": np.ones(3)})
    info = train.load(tmp_path / f"a.{ending}", model=two, optimizer=adam2)
    assert info["accuracy"] == 0.5 and info["mean"].tolist() == [1, 1, 1]
    assert adam2.groups[0]["betas"] == (0.9, 0.999)
    trained(one, adam, 3)
    trained(two, adam2, 3)
    assert_same_state(two.state_dict(), one.state_dict())


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_named_and_refused(ending, kept, tmp_path):
    path = tmp_path / f"run.{ending}"
    command([train.Checkpoint(path)], epochs=1)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(CheckpointError, match=rf"run\.{ending} cannot be read: it is damaged"):
        command([train.Checkpoint(path)], epochs=1)
    with pytest.raises(CheckpointError, match=rf"run\.{ending}"):
        train.load(path)


@pytest.mark.host("a file format")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_of_another_kind_is_named_and_refused(ending, tmp_path):
    (tmp_path / f"notes.{ending}").write_text("shopping list: " + "milk " * 100)
    with pytest.raises(CheckpointError, match=rf"notes\.{ending} cannot be read: it is damaged, or no checkpoint"):
        train.load(tmp_path / f"notes.{ending}")


@pytest.mark.host("a file format")
def test_a_byte_that_was_changed_in_an_npz_is_noticed(tmp_path):
    archive.write(tmp_path / "a.npz", TREE)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    place = bytes(content).index(TREE["weights"]["conv.weight"].tobytes())
    content[place + 20] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.npz cannot be read"):
        archive.read(tmp_path / "a.npz")


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("pickle-was-run",))


@pytest.mark.host("a file format")
def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "evil.npz", weights=np.array([Evil()], dtype=object))
    with pytest.raises(CheckpointError, match=r"evil\.npz"):
        train.load(tmp_path / "evil.npz")
    assert not (tmp_path / "pickle-was-run").exists()


def test_a_file_that_holds_no_run_cannot_be_gone_on_from(tmp_path):
    train.save(tmp_path / "weights.npz", model=everything())
    with pytest.raises(CheckpointError, match=r"weights\.npz holds no training run"):
        command([train.Checkpoint(tmp_path / "weights.npz")])


def test_what_does_not_fit_is_named_with_its_file(tmp_path):
    train.save(tmp_path / "w.npz", model=everything())
    with pytest.raises(CheckpointError, match=r"w\.npz: state does not fit Sequential: missing"):
        train.load(tmp_path / "w.npz", model=small_model())
    model = small_model()
    with pytest.raises(CheckpointError, match=r"w\.npz holds no optimizer"):
        train.load(tmp_path / "w.npz", optimizer=optim.Adam(model.parameters()))


@pytest.mark.host("a file name")
def test_an_unknown_ending_or_interval_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"\.npz or \.safetensors; got 'run\.pt'"):
        train.Checkpoint(tmp_path / "run.pt")
    with pytest.raises(ValueError, match="at least 1; got 0"):
        train.Checkpoint(tmp_path / "run.npz", every=0)
    with pytest.raises(FileNotFoundError):
        train.load(tmp_path / "none.npz")


@pytest.mark.host("a missing package")
def test_without_safetensors_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(archive.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(backend.MissingCapability, match=r'pip install "minidl\[io\]"; or save as .npz'):
        train.Checkpoint(tmp_path / "run.safetensors")


@pytest.mark.host("a file format")
def test_what_no_file_can_hold_is_refused_with_its_place(tmp_path):
    with pytest.raises(TypeError, match="info/model is a Linear"):
        archive.write(tmp_path / "a.npz", {"info": {"model": nn.Linear(1, 1)}})
    with pytest.raises(ValueError, match="two arrays of a checkpoint would be called 'info/a'"):
        archive.write(tmp_path / "a.npz", {"info": {"a": np.ones(1)}, "weights": {"info/a": np.ones(1)}})
    assert not list(tmp_path.iterdir())


def test_the_folder_is_made_if_need_be(tmp_path):
    command([train.Checkpoint(tmp_path / "a" / "b" / "run.npz")], epochs=1)
    assert (tmp_path / "a" / "b" / "run.npz").exists()


# ------------------------------------------------------------------------------------------------------ all or nothing


@pytest.mark.host("a file format")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_where_writing_fails_the_old_file_stays_and_the_message_says_so(function, ending, tmp_path, monkeypatch):
    path = tmp_path / f"a.{ending}"
    archive.write(path, {"plain": 1})
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match=rf"a\.{ending} could not be written \(No space left.*the file that was there is"):
        archive.write(path, {"plain": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.host("a file format")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX systems can")
def test_a_disk_that_is_full_leaves_the_old_file(ending, tmp_path):
    """A process that may write no file longer than 10 kB, as if the disk were full there."""
    path = tmp_path / f"a.{ending}"
    archive.write(path, {"weights": {"w": np.zeros(10, np.float32)}})
    before = path.read_bytes()
    code = f"""
import resource, signal
import numpy as np
from minidl.train import archive
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
try:
    archive.write({str(path)!r}, {{"weights": {{"w": np.ones(100000, np.float32)}}}})
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "could not be written" in done.stdout and "is as it was" in done.stdout
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


ROOT = Path(archive.__file__).parents[2]


@pytest.mark.host("a file format")
@pytest.mark.skipif(os.name != "posix", reason="on Windows nobody asks whether a process lives")
def test_what_killed_processes_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    alive, unlike = f"run.npz.{os.getppid()}.part", "run.npz.mine.part"
    for name in (f"run.npz.{gone.pid}.part", alive, unlike, f"other.npz.{gone.pid}.part"):
        (tmp_path / name).write_bytes(b"half")
    files.clean_up(tmp_path / "run.npz")
    assert {p.name for p in tmp_path.iterdir()} == {alive, unlike, f"other.npz.{gone.pid}.part"}


@pytest.mark.host("a file format")
def test_a_name_with_brackets_is_no_pattern(tmp_path):
    archive.write(tmp_path / "run[1].npz", {"plain": 1})
    assert archive.read(tmp_path / "run[1].npz") == {"plain": 1}


@pytest.mark.host("a file format")
def test_a_file_in_use_is_never_seen_half_written(tmp_path, monkeypatch):
    """Whoever looks while an array is being written finds the old file, whole."""
    path, seen = tmp_path / "a.npz", []
    archive.write(path, {"plain": 1})
    real = np.lib.format.write_array

    def write_array(*args, **options):
        real(*args, **options)
        seen.append(archive.read(path))

    monkeypatch.setattr(np.lib.format, "write_array", write_array)
    archive.write(path, {"plain": 2, "weights": {"w": np.ones(3)}})
    assert seen and all(tree == {"plain": 1} for tree in seen)
    assert archive.read(path)["plain"] == 2


@pytest.mark.host("a file format")
def test_the_json_text_is_readable_as_such(tmp_path):
    archive.write(tmp_path / "a.npz", {"plain": [1, 2]})
    with zipfile.ZipFile(tmp_path / "a.npz") as file, file.open("minidl.npy") as member:
        assert json.loads(str(np.lib.format.read_array(member, allow_pickle=False))) == {"plain": [1, 2]}


def test_a_file_written_on_the_device_holds_its_weights(tmp_path):
    model = everything()
    train.save(tmp_path / "a.npz", model=model)
    np.testing.assert_array_equal(archive.read(tmp_path / "a.npz")["weights"]["0.weight"], fetch(model[0].weight))
