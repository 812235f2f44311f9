"""What minidl claims of itself: accuracy on real digits, zeros that never learn, a test part that decides nothing."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor

from minidl import data, init, models, nn, ops, optim, train

ROOT = Path(__file__).resolve().parent.parent
BATCHES = 19  # of 64 among the 1 200 training digits


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


# -------------------------------------------------------------------------------------- accuracy on real digits


def perceptron(seed):
    """One hidden layer of 256 units, ReLU, He."""
    return models.mlp([64, 256, 10], seed=seed)


def convolutional(seed):
    """Two 3×3 convolutions, a pooling, dropout, a dense layer: 9 930 weights and biases."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(32 * 4 * 4, 10),
    )
    init.apply(model, seed=seed)
    return model


def accuracies(digits, make, lr, epochs):
    found = []
    for seed in range(3):
        model = make(seed).to(DEVICE)
        optimizer = optim.Adam(model.parameters(), lr=lr)
        schedule = optim.cosine(epochs * BATCHES)
        history = train.fit(model, digits, optimizer=optimizer, epochs=epochs, schedule=schedule, seed=seed, quiet=True)
        found.append(history[-1]["test_accuracy"])
    return found


def test_a_perceptron_reads_97_percent_of_the_test_digits(digits):
    """Seeds 0 to 11: mean 98.38 %, standard deviation 0.25, smallest 97.99. The mean of three: 9 errors above 97."""
    assert np.mean(accuracies(digits, perceptron, lr=3e-3, epochs=30)) >= 0.97


def test_a_small_convolutional_net_reads_98_percent_of_the_test_digits(digits):
    """Seeds 0 to 9: mean 99.48 %, standard deviation 0.18, smallest 99.16. The mean of three: 14 errors above 98."""
    assert convolutional(0).to(DEVICE)(tensor(digits.train[:2][0])).shape == (2, 10)
    assert sum(p.size for p in convolutional(0).parameters()) == 9930
    assert np.mean(accuracies(digits, convolutional, lr=5e-3, epochs=20)) >= 0.98


# ------------------------------------------------------------------------------------------- all weights zero


OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: optim.Adam(p, lr=0.01),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_zero_weights_never_learn_and_give_every_image_one_class(digits, activation, optimizer):
    """The gradient of every weight is exactly 0 at every step, so that only the output bias moves."""
    model = models.mlp([64, 30, 20, 10], activation, init="zeros").to(DEVICE)
    seen = []

    def check(run):
        for path, p in model.named_parameters():
            if path != "output.bias":
                assert not fetch(p.grad).any(), f"step {run.step}: {path} has a gradient"
                assert not fetch(p).any(), f"step {run.step}: {path} has moved"
        assert fetch(model.output.bias.grad).any() and fetch(model.output.bias).any()
        seen.append(run.step)

    history = train.fit(
        model,
        digits,
        optimizer=OPTIMIZERS[optimizer](model.parameters()),
        epochs=3,
        callbacks=[SimpleNamespace(on_step=check)],
        quiet=True,
    )
    assert seen == list(range(1, 3 * BATCHES + 1))
    answers = fetch(model(tensor(digits.test.x))).argmax(axis=1)
    assert len(set(answers.tolist())) == 1
    assert history[-1]["test_accuracy"] == (digits.test.y == answers[0]).mean()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_output_bias_of_zero_weights_ends_at_the_frequencies_of_the_classes(activation):
    """Three classes, 6 : 3 : 1, whole batches: softmax(bias) tends to these frequencies, the loss to their entropy."""
    y = np.repeat([0, 1, 2], [60, 30, 10])
    x = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    part = data.Dataset(x, y)
    split = data.Split("uneven", part, part, part, np.zeros(5), np.ones(5))
    model = models.mlp([5, 8, 8, 3], activation, init="zeros").to(DEVICE)
    optimizer = optim.SGD(model.parameters(), lr=2.0)
    history = train.fit(model, split, optimizer=optimizer, epochs=150, batch_size=100, quiet=True)
    p = np.exp(fetch(model.output.bias).astype(float))
    np.testing.assert_allclose(p / p.sum(), [0.6, 0.3, 0.1], atol=1e-4)
    entropy = -sum(f * np.log(f) for f in (0.6, 0.3, 0.1))
    assert history[-1]["val_loss"] == pytest.approx(entropy, abs=1e-5) and history[-1]["val_accuracy"] == 0.6


def test_zero_weights_with_sigmoid_learn_as_a_network_of_width_one(digits):
    """sigmoid(0) = 1/2 is no dead end; but all units of a layer get one gradient and stay copies of each other."""
    model = models.mlp([64, 24, 16, 10], "sigmoid", init="zeros").to(DEVICE)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    history = train.fit(model, digits, optimizer=optimizer, epochs=5, quiet=True)
    assert history[-1]["train_loss"] < 2.2 < np.log(10)
    for layer in (model.linear1, model.linear2):
        w = fetch(layer.weight)
        assert np.abs(w).max() > 0.05
        np.testing.assert_allclose(w, np.broadcast_to(w[:1], w.shape), atol=1e-4)
    w = fetch(model.output.weight)
    np.testing.assert_allclose(w, np.broadcast_to(w[:, :1], w.shape), atol=1e-4)
    assert np.linalg.matrix_rank(fetch(model.linear1.weight), tol=1e-3) == 1


# ---------------------------------------------------------------------------------- the test part decides nothing


def run_with_early_stopping(split):
    """A run that ends early by the validation part; its weights, decisions and records without the test."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Dropout(0.2), nn.Linear(40, 10)
    )
    init.apply(model, seed=0)
    optimizer = optim.Adam(model.to(DEVICE).parameters(), lr=0.03)
    options = {"epochs": 60, "early_stopping": 3, "schedule": optim.step(40), "clip": 1.0, "quiet": True}
    history = train.fit(model, split, optimizer=optimizer, **options)
    kept = [{k: v for k, v in r.items() if not k.startswith("test") and k != "seconds"} for r in history]
    return model.state_dict(), kept, [r["test_accuracy"] for r in history]


def replaced(split, **parts):
    parts = [parts.get(name, getattr(split, name)) for name in ("train", "val", "test")]
    return data.Split(split.name, *parts, split.mean, split.std)


def relabelled(part):
    return data.Dataset(part.x, (part.y + 1) % 10, part.classes)


def noise(part):
    return data.Dataset(np.random.default_rng(0).normal(size=part.x.shape).astype(np.float32), part.y, part.classes)


@pytest.fixture(scope="module")
def honest():
    split = data.load("digits", val=0.2)
    return split, run_with_early_stopping(split)


@pytest.mark.parametrize("change", [relabelled, noise, lambda part: part.subset(np.arange(5))])
def test_changing_the_test_part_changes_no_weight_and_no_decision(honest, change):
    split, (state, records, accuracies) = honest
    new_state, new_records, new_accuracies = run_with_early_stopping(replaced(split, test=change(split.test)))
    assert len(records) < 60, "early stopping never came into play"
    assert new_records == records and new_accuracies != accuracies
    for path, array in state.items():
        np.testing.assert_array_equal(array, new_state[path], err_msg=path)


def test_changing_the_validation_part_does_change_decisions(honest):
    """So the test above can fail."""
    split, (_, records, _) = honest
    _, new_records, _ = run_with_early_stopping(replaced(split, val=relabelled(split.val)))
    assert len(new_records) != len(records)


# ------------------------------------------------------------------------------------------------- float32 stays


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4),
        lambda p: optim.Adam(p, lr=1e-3, weight_decay=1e-4),
        lambda p: optim.AdamW(p, lr=1e-3),
    ],
    ids=["SGD", "Adam", "AdamW"],
)
def test_float32_stays_float32_through_a_whole_training_run(digits, make):
    """Weights, gradients, buffers, optimizer memory, every layer's output and its gradient, and the loss."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Scale(0.5, 0.0)), activation="leaky_relu"),
        nn.GlobalAvgPool2d(),
        nn.Dropout(0.1),
        nn.WeightNorm(nn.Linear(4, 12)),
        nn.BatchNorm1d(12),
        nn.SELU(),
        nn.Linear(12, 10),
    )
    init.apply(model, seed=0)
    optimizer = make(model.to(DEVICE).parameters())
    wrong, looked = [], []

    def look(where, array):
        looked.append(where)
        if array.dtype != np.float32:
            wrong.append(f"{where}: {array.dtype}")

    def after_forward(module, inputs, output):
        look(f"output of {type(module).__name__}", output.data)
        if output.requires_grad:
            output.register_hook(lambda g: look(f"gradient at {type(module).__name__}", g))

    for _, module in model.named_modules():
        module.register_forward_hook(after_forward)

    def check(run):
        look("loss", run.loss.data)
        for path, p in model.named_parameters():
            look(path, p.data)
            look(f"gradient of {path}", p.grad)
        for path, array in model.named_buffers():
            look(path, array)
        for memory in optimizer.state:
            for name, value in memory.items():
                if hasattr(value, "dtype"):
                    look(f"memory {name}", value)

    small = replaced(digits, train=digits.train.subset(np.arange(200)), test=digits.test.subset(np.arange(50)))
    train.fit(
        model,
        small,
        optimizer=optimizer,
        epochs=2,
        loss=lambda logits, y: ops.cross_entropy(logits, y, label_smoothing=0.1),
        schedule=optim.warmup(3, optim.cosine(5)),
        clip=1.0,
        callbacks=[SimpleNamespace(on_step=check)],
        quiet=True,
    )
    assert not wrong, sorted(set(wrong))
    assert {"loss", "memory m" if "SGD" not in str(type(optimizer)) else "memory velocity"} <= set(looked)
    assert len(set(looked)) > 50


# ---------------------------------------------------------------------------------------------- a light import


@pytest.mark.host("imports in fresh interpreters")
def test_importing_minidl_takes_at_most_1_3_times_as_long_as_importing_numpy(tmp_path):
    """CPU time of interpreters in turn, the quickest of each: other programs on the machine hardly count.

    Both may keep their compiled files, whatever the environment says. Noise only ever adds, so more runs come nearer
    to the truth: at least 7 of each are made, and up to 60.
    """
    settings = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment = os.environ | settings | {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}

    def seconds(name):
        command = [sys.executable, "-c", f"import time, {name}; print(time.process_time())"]
        return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    numpy, ours = [], []
    for i in range(60):
        numpy.append(seconds("numpy"))
        ours.append(seconds("minidl"))
        if i >= 6 and min(ours) <= 1.3 * min(numpy):
            return
    pytest.fail(f"import minidl takes {min(ours):.3f} s, import numpy {min(numpy):.3f} s")
