"""Experiments: cells, grids, the store that loses nothing, the runner, presets, tables, figures, the command."""

import errno
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import kill_compare
import numpy as np
import pytest
from conftest import DEVICE
from test_data_photos import photo

from minidl import cli, data, init, lab, models, nn, optim, train
from minidl.data import DataError
from minidl.experiment import PRESETS, Cell, CellFailed, Grid, Store, commands, measure, networks, runner, summary
from minidl.experiment import store as store_module
from minidl.experiment.draw import figures, layout
from minidl.experiment.grid import LABELS, LOSSES, initializer, label, spec
from minidl.experiment.scoreboard import claimed_accuracies, majority, scoreboard
from minidl.experiment.trial import _loaded, loaded

ROOT = Path(__file__).resolve().parent.parent
host = pytest.mark.host("settings, files and words; what is measured is measured elsewhere in this file")
SMALL = {"depth": 2, "width": 12, "epochs": 2, "train_images": 200}
TINY = Grid(activation=("relu",), scheme=("He", "zeros"), seed=(0, 1), **SMALL)


def small_cell(**settings):
    return Cell(**SMALL, **settings)


# ------------------------------------------------------------------------------------------------ cells and grids


@host
def test_a_grid_is_the_product_of_its_axes_with_seeds_outermost():
    cells = Grid(activation=("tanh", "relu"), scheme=("He", "zeros"), seed=(3, 5)).cells()
    assert [(c.seed, c.activation, c.scheme) for c in cells] == [
        (s, a, w) for s in (3, 5) for a in ("tanh", "relu") for w in ("he_normal", "zeros")
    ]
    assert len({cell.key for cell in cells}) == len(cells) == 8


@host
def test_a_cells_name_depends_on_every_setting():
    other = {
        "dataset": "mnist",
        "network": "lenet5",
        "norm": True,
        "activation": "tanh",
        "loss": "mse",
        "optimizer": "adam:0.01",
        "scheme": "zeros",
        "seed": 1,
        "epochs": 3,
        "batch_size": 32,
        "train_images": 100,
        "steps": 7,
        "depth": 5,
        "width": 7,
    }
    assert set(other) == set(Cell().settings())
    keys = {Cell().key, *(Cell(**{name: value}).key for name, value in other.items())}
    assert len(keys) == len(other) + 1


@host
def test_the_name_of_a_cell_is_the_same_on_every_machine_and_in_every_version():
    """A folder of last year is resumed: these names must never change."""
    assert Cell().key == "44136fa355b3678a"  # SHA-256 of "{}"
    assert Cell(seed=1).key == Cell(seed=1, epochs=10).key


@host
@pytest.mark.parametrize("scheme", [*LABELS, *init.names(), "normal(std=0.3)"])
def test_a_scheme_may_be_a_label_a_name_or_a_call_and_has_one_spelling(scheme):
    written = spec(scheme)
    assert spec(written) == written and spec(label(written)) == written
    assert str(initializer(written)) in (written, f"{written}(activation='relu')")


@host
def test_the_articles_schemes_get_the_activation_of_the_network():
    assert initializer("as_written_kaiming", "tanh").params["activation"] == "tanh"
    assert initializer("as_written_kaiming(activation='relu')", "tanh").params["activation"] == "relu"


@host
def test_a_scheme_of_the_article_is_left_out_for_activations_that_it_does_not_know():
    grid = Grid(activation=("gelu", "tanh"), scheme=("He", "article: Kaiming"))
    pairs = [(c.activation, c.scheme) for c in grid.cells()]
    assert ("gelu", "as_written_kaiming") not in pairs and len(pairs) == 3
    with pytest.raises(ValueError, match="unknown activation of the article 'gelu'"):
        Grid(activation=("gelu",), scheme=("article: Kaiming",)).cells()


@host
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "mnits"}, "unknown data set 'mnits'; did you mean 'mnist'"),
        ({"network": "lenet"}, "unknown network 'lenet'; did you mean 'lenet5'"),
        ({"network": "plain3"}, "at least 7 layers"),
        ({"activation": "rleu"}, "did you mean 'relu'"),
        ({"loss": "cross_entrpy"}, "unknown loss 'cross_entrpy'; did you mean 'cross_entropy'"),
        ({"optimizer": "adma:0.1"}, "unknown optimizer 'adma'; did you mean 'adam'"),
        ({"optimizer": "adam"}, "write name:learning rate"),
        ({"optimizer": "adam:fast"}, "write name:learning rate"),
        ({"optimizer": "adam:-1"}, "with a positive rate"),
        ({"scheme": "he_norml"}, "unknown scheme 'he_norml'; did you mean 'he_normal'"),
        ({"scheme": "normal(sd=1)"}, "scheme 'normal' has no parameter 'sd'"),
        ({"scheme": "normal(std=os.name)"}, "is not readable"),
        ({"scheme": "normal(1.0)"}, "is not readable"),
        ({"scheme": "sparse(std='a')"}, "scheme sparse with these parameters: '<='"),
        (
            {"scheme": "shared_draw(among='layers', seed=0.5)"},
            "scheme shared_draw with these parameters draws no weights",
        ),
        ({"scheme": "prior_bias(p=(0.2, 0.8))"}, "draws no weights: prior_bias: 2 classes have a bias of shape"),
        ({"seed": -1}, "seed is a whole number, at least 0; got -1"),
        ({"epochs": -1}, "epochs is a whole number, at least 0; got -1"),
        ({"batch_size": 0}, "batch_size is a whole number, at least 1; got 0"),
        ({"depth": 0}, "depth is the number of hidden layers, at least 1; got 0"),
    ],
)
def test_a_wrong_setting_is_refused_when_the_cell_is_made(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Cell(**settings)


@host
def test_the_squared_loss_compares_with_one_hot_labels():
    scores, labels = np.array([[0.5, 2, -1], [0, 0, 1]], np.float32), np.array([1, 2])
    expected = (0.5**2 + 1**2 + 1**2 + 0 + 0 + 0) / 6
    assert float(LOSSES["mse"](scores, labels)) == pytest.approx(expected)


@pytest.mark.parametrize("layers", [7, 22, 30])
def test_a_plain_network_has_as_many_layers_as_it_says_all_but_three_of_them_convolutions(layers):
    model = networks.plain(layers, in_shape=(1, 28, 28)).to(DEVICE)
    kinds = [type(m) for _, m in model.named_modules()]
    assert kinds.count(nn.Conv2d) == layers - 3 and kinds.count(nn.Linear) == 3
    x = np.random.default_rng(0).standard_normal((8, 1, 28, 28), np.float32)
    report = lab.probe(model, x, np.arange(8) % 10)
    assert len(report.ladder("rms")) == layers - 1 and report.records[-1]["shape"] == (10,)


@host
def test_the_layers_of_a_plain_network_declare_the_scheme_that_drew_them():
    model = networks.plain(7, "tanh", in_shape=(1, 16, 16))
    layers = [m for _, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [str(m.initializers["weight"]) for m in layers] == ["glorot_normal"] * 7
    drawn = {name: array.copy() for name, array in model.state_dict().items()}
    init.apply(model, seed=0)  # by what each layer declares
    assert all(np.array_equal(drawn[name], array) for name, array in model.state_dict().items())


@host
def test_the_weights_of_a_plain_network_are_drawn_once(monkeypatch):
    real, drawn = init.Initializer.__call__, []

    def noted(self, *args, **options):
        drawn.append(self.name)
        return real(self, *args, **options)

    monkeypatch.setattr(init.Initializer, "__call__", noted)
    networks.plain(7, init="orthogonal", in_shape=(1, 16, 16))
    assert [name for name in drawn if name not in ("zeros", "ones")] == ["orthogonal"] * 7


@host
def test_a_weight_of_a_plain_network_depends_on_its_name_and_the_seed_alone():
    weights = networks.plain(22, in_shape=(1, 28, 28), seed=3).state_dict()
    for name, fan_in, fan_out in (("conv1.weight", 9, 144), ("conv2.weight", 144, 144), ("output.weight", 128, 10)):
        rng = init.stream(3, name)
        expected = init.he_normal()(weights[name].shape, fan_in=fan_in, fan_out=fan_out, rng=rng)
        np.testing.assert_array_equal(weights[name], expected)


@pytest.mark.parametrize(("name", "shape"), [("plain7", (1, 16, 16)), ("plain22", (3, 32, 32))])
@pytest.mark.parametrize("norm", [False, True])
def test_a_plain_network_with_crelu_has_twice_the_channels_after_each_layer(name, shape, norm):
    model = networks.build(name, shape, 10, [], activation="crelu", norm=norm).to(DEVICE)
    x = np.random.default_rng(0).standard_normal((4, *shape), np.float32)
    report = lab.probe(model, x, np.arange(4))
    assert report.records[-1]["shape"] == (10,) and math.isfinite(report.loss)
    convs = [m for _, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert convs[1].weight.shape[1] == 2 * convs[0].weight.shape[0]


def test_in_a_plain_network_xavier_loses_the_signal_that_he_keeps():
    """Without biases ReLU networks are homogeneous: each layer takes √(fan_in/(fan_in + fan_out)), mostly √½."""
    x = np.random.default_rng(0).standard_normal((32, 3, 32, 32), np.float32)
    model = networks.plain(30, init="he_normal")
    he, xavier = (
        lab.probe(net.to(DEVICE), x, np.arange(32) % 10).ladder("rms")
        for net in (model, networks.plain(30, init="glorot_normal"))
    )
    fans = [m.fans for _, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)][:-1]
    expected = math.prod(math.sqrt(into / (into + out)) for into, out in fans)
    assert sum(into == out for into, out in fans) >= 24
    assert xavier[-1] / he[-1] == pytest.approx(expected, rel=1e-3) and expected < 2**-14
    assert 0.1 < he[-1] / he[0] < 10


# ------------------------------------------------------------------------------------------------------- one cell


def test_a_cell_gives_the_same_result_again_and_another_seed_another_one():
    first, again = (measure(small_cell(), DEVICE)["result"] for _ in range(2))
    assert first == again
    assert measure(small_cell(seed=1), DEVICE)["result"]["weights_sha256"] != first["weights_sha256"]


def test_the_numbers_of_a_cell_are_those_of_the_same_training_by_hand():
    cell = small_cell(optimizer="adam:0.01", activation="tanh", scheme="Glorot")
    result = measure(cell, DEVICE)["result"]
    split = loaded(cell)[0]
    assert len(split.train) == 200 and split.train.counts().min() == 20
    model = models.mlp([64, 12, 12, 10], "tanh", "glorot_normal", seed=0).to(DEVICE)
    history = train.fit(
        model, split, optimizer=optim.Adam(model.parameters(), lr=0.01), epochs=2, batch_size=64, quiet=True
    )
    assert [h["test_accuracy"] for h in result["history"][1:]] == [h["test_accuracy"] for h in history]
    assert result["train_loss"] == pytest.approx(train.evaluate(model, split.train)["loss"])
    assert (result["test_loss"], result["steps"]) == (history[-1]["test_loss"], 8)
    assert result["images"] == {"train": 200, "of": 1200, "test": 597}


def test_the_ladder_is_that_of_the_untrained_network_on_the_first_batch():
    cell = small_cell()
    result = measure(cell, DEVICE)["result"]
    split = loaded(cell)[0]
    x, y = next(iter(data.DataLoader(split.train, 64, shuffle=True, seed=0, device=DEVICE)))
    report = lab.probe(models.mlp([64, 12, 12, 10], seed=0).to(DEVICE), x, y)
    assert [r["rms"] for r in result["ladder"]] == [r["rms"] for r in report.records]
    assert result["first_epoch"][0]["loss"] == pytest.approx(report.loss, rel=1e-5)


def test_steps_end_the_training_within_an_epoch():
    result = measure(small_cell(steps=6), DEVICE)["result"]
    assert result["steps"] == 6
    assert [(h["epoch"], h["step"]) for h in result["history"]] == [(0, 0), (1, 4), (2, 6)]
    assert result["test_accuracy"] == result["history"][-1]["test_accuracy"]


def test_a_cell_that_diverges_says_at_which_step_and_layer():
    result = measure(Cell(depth=60, width=30, epochs=1, scheme="normal(std=3.0)"), DEVICE)["result"]
    assert result["diverged_at_step"] == 1 and result["diverged_layer"].startswith(("linear", "relu", "output"))
    assert result["verdict"] == "explodes" and len(result["history"]) == 1


def test_zeros_are_called_symmetric_and_learn_the_class_frequencies_alone():
    result = measure(Cell(depth=2, width=12, epochs=30, optimizer="adam:0.01", scheme="zeros"), DEVICE)["result"]
    assert result["verdict"] == "symmetric"
    low, high, loss = majority(result["class_counts"]["train"], result["class_counts"]["test"])
    assert low <= result["test_accuracy"] <= high
    assert result["test_loss"] == pytest.approx(loss, abs=0.02)


@pytest.mark.parametrize("name", ["lenet5", "googlenet", "resnet20"])
def test_networks_for_images_train_as_cells_auxiliary_classifiers_included(name, monkeypatch):
    split = data.from_arrays(*images(40), test=images(20), normalize=True)
    monkeypatch.setattr("minidl.experiment.trial._loaded", lambda dataset, seed: split)
    cell = Cell(dataset="cifar10", network=name, epochs=1, batch_size=20, optimizer="adam:0.001", norm=name != "lenet5")
    result = measure(cell, DEVICE)["result"]
    assert result["steps"] == 2 and len(result["ladder"]) > 5 and math.isfinite(result["test_loss"])


def images(count):
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), np.arange(count) % 10


# ------------------------------------------------------------------------------------------------- photographs


def ilsvrc(place, per_class, classes=2, held=1):
    """A folder in the shape of ILSVRC 2012."""
    for number, wnid in enumerate(("n01440764", "n01443537", "n01484850")[:classes]):
        for i in range(per_class):
            photo(place / "imagenet" / "train" / wnid / f"{wnid}_{i}.JPEG", size=(120, 100), seed=10 * number + i)
        for i in range(held):
            photo(place / "imagenet" / "val" / wnid / f"v_{i}.JPEG", size=(120, 100), seed=90 + number)
    return place


def test_a_folder_in_the_shape_of_ilsvrc_finishes_a_training_cell(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_DATA", str(ilsvrc(tmp_path, per_class=6)))
    _loaded.cache_clear()
    cell = Cell(dataset="imagenet", network="lenet5", epochs=1, batch_size=4)
    result = measure(cell, DEVICE)["result"]
    assert result["steps"] == 3 and result["images"] == {"train": 12, "of": 12, "test": 2}
    assert result["verdict"] in ("trains", "slow", "vanishes", "explodes", "dead")


def test_with_one_photograph_of_a_class_a_network_is_probed_and_not_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_DATA", str(ilsvrc(tmp_path, per_class=1)))
    _loaded.cache_clear()
    result = measure(Cell(dataset="imagenet", network="lenet5", epochs=1, batch_size=2), DEVICE)["result"]
    assert result["verdict"] == "not trained" and "history" not in result
    assert next(r["layer"] for r in result["ladder"] if r["weight_std"] is not None) == "conv1"


# ------------------------------------------------------------------------------------------------------- the store


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path, TINY.cells(), command="minidl compare", title="Two schemes", device=DEVICE)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished experiment: two schemes, two seeds, two optimizers."""
    grid = TINY.with_(optimizer=("momentum:0.01", "adam:0.001"))
    place = tmp_path_factory.mktemp("done")
    store = Store.create(place, grid.cells(), command="minidl compare", title="Two schemes", device=DEVICE)
    runner.run(store, quiet=True)
    return store


def test_a_finished_cell_is_never_run_again(store, monkeypatch):
    runner.run(store, quiet=True)
    monkeypatch.setattr(runner, "measure", lambda *_: pytest.fail("ran again"))
    runner.run(Store.open(store.folder), quiet=True)


def test_a_run_that_is_interrupted_goes_on_with_the_cells_that_are_missing(store, monkeypatch):
    real, ran = runner.measure, []

    def interrupted(cell, *args):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(cell)
        return real(cell, *args)

    monkeypatch.setattr(runner, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.run(store, quiet=True)
    assert len(Store.open(store.folder).records()) == 2
    monkeypatch.setattr(runner, "measure", lambda cell, *args: ran.append(cell) or real(cell, *args))
    runner.run(Store.open(store.folder), quiet=True)
    assert ran == store.cells


@pytest.mark.host("damages files")
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"test_accuracy": 0.', '"test_accuracy": 0.9', 1),
        lambda text: '{"checksum": 1}',
    ],
)
def test_a_damaged_file_is_reported_and_its_cell_runs_again(damage, done, tmp_path, monkeypatch, capsys):
    store = Store.create(tmp_path, done.cells, device="cpu")
    for cell, record in zip(done.cells, done.records(), strict=True):
        store.write(cell, {"result": record["result"], "how": record["how"]})
    path = store.path(done.cells[1])
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    ran = []
    monkeypatch.setattr(runner, "measure", lambda cell, *_: ran.append(cell) or done.records()[1])
    runner.run(store)
    assert ran == [done.cells[1]]
    assert f"{path} is damaged" in capsys.readouterr().err
    assert store.missing() == ([], [])


@host
@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_what_a_killed_process_left_half_written_is_removed(store):
    """The process dies in the middle of a table, of a cell and of a checkpoint."""
    checkpoint, cell = store.checkpoint(store.cells[0]), store.path(store.cells[0])
    code = f"""
import os
from pathlib import Path
from minidl.experiment import store
from minidl.train import archive
def dies(path, write):
    if os.fork() == 0:
        os.replace = lambda *_: os._exit(9)
        write(path)
    os.wait()
dies(Path({str(store.folder / "table.md")!r}), lambda path: store.write_atomically(path, "half"))
dies(Path({str(cell)!r}), lambda path: store.write_atomically(path, "half"))
dies(Path({str(checkpoint)!r}), lambda path: archive.write(path, {{"plain": 1}}))
"""
    checkpoint.parent.mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), check=True)
    assert len(list(store.folder.rglob("*.[0-9]*.*"))) == 3
    with store.alone():
        assert [p.name for p in sorted(store.folder.rglob("*")) if p.is_file()] == [".lock", "grid.json"]


@host
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_cell_that_cannot_be_written_leaves_nothing_half_written(function, store, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match=r"grid\.json could not be written \(No space left.*the file that was there is"):
        store_module.write_atomically(store.folder / "grid.json", "{}")
    assert [p.name for p in store.folder.iterdir()] == ["grid.json"]


@host
def test_an_error_of_the_data_inside_the_folders_lock_is_no_other_process(store):
    with pytest.raises(DataError, match=r"the file /data/\.lock-step is damaged"), store.alone():
        raise DataError("the file /data/.lock-step is damaged")


@host
def test_two_processes_cannot_work_in_one_folder(store):
    code = "import sys; from pathlib import Path; from minidl.experiment import Store\n"
    code += f"with Store.open(Path({str(store.folder)!r})).alone(): print('in', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=-1, stdout=-1, env=environment())
    try:
        assert child.stdout.readline().strip() == b"in"
        with pytest.raises(ValueError, match="another process is working in"), store.alone():
            pass
    finally:
        child.stdin.close()
        child.wait()
        child.stdout.close()
    with store.alone():
        pass


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@host
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no grid.json"),
        ("{", "cannot be used"),
        ('{"schema": "minidl.grid/9"}', "its schema is 'minidl.grid/9'"),
        ('{"schema": "minidl.grid/1", "cells": [{"colour": 1}]}', "colour"),
    ],
)
def test_a_folder_that_is_no_store_is_refused_with_a_reason(content, message, tmp_path):
    if content is not None:
        (tmp_path / "grid.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        Store.open(tmp_path)


@pytest.mark.host("the command line")
def test_several_jobs_give_the_results_of_one(done, tmp_path):
    store = Store.create(tmp_path, done.cells, device="cpu")
    runner.run(store, jobs=2, quiet=True)
    one = Store.create(tmp_path / "one", done.cells, device="cpu")
    (tmp_path / "one" / "cells").mkdir(parents=True, exist_ok=True)
    runner.run(one, quiet=True)
    assert [r["result"] for r in store.records()] == [r["result"] for r in one.records()]


@pytest.mark.host("the command line")
def test_a_worker_that_dies_is_reported_with_its_cell(tmp_path):
    store = Store.create(tmp_path, [Cell(dataset="imagenet", network="lenet5", epochs=1)], device="nowhere")
    with pytest.raises(CellFailed, match=r"the process of the cell \[imagenet lenet5 .*\] ended with exit code 1"):
        runner.run(store, jobs=2, quiet=True)


@host
@pytest.mark.parametrize("without_tqdm", [False, True])
def test_on_a_terminal_each_result_has_a_line_of_its_own(without_tqdm, store, done, monkeypatch, capsys):
    """What a carriage return overwrites is the bar, and no result."""
    if without_tqdm:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    measured = {key: done.records()[0][key] for key in ("result", "how")}
    monkeypatch.setattr(runner, "measure", lambda *_: measured)
    runner.run(store)
    lines = [line.split("\r")[-1] for line in capsys.readouterr().err.split("\n")]
    assert [line[:3] for line in lines if "test accuracy" in line] == ["1/4", "2/4", "3/4", "4/4"]


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.host("the command line")
def test_two_kills_lose_no_finished_cell_and_change_no_weight():
    """The series of twenty and more: python tests/kill_compare.py."""
    grid = ["--data", "digits", "--network", "mlp", "--depth", "1", "--width", "4", "--activations", "relu"]
    grid += ["--schemes", "He", "zeros", "--seeds", "2", "--epochs", "2", "--train-images", "200"]
    counts = kill_compare.series(2, seed=3, grid=grid)
    assert counts["kills"] == 2 and counts["within a write"] >= 1 and counts["complete"] == 1


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.host("the command line")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_leaves_a_folder_and_says_how_to_go_on(jobs, tmp_path):
    command = [sys.executable, "-m", "minidl", "compare", "--network", "mlp", "--seeds", "50", "--jobs", jobs]
    command += ["--backend", "numpy", "--out", str(tmp_path)]
    listening = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background ignores it
    how = {"cwd": ROOT, "env": environment(), "stderr": subprocess.PIPE, "start_new_session": True}
    child = subprocess.Popen(command, preexec_fn=listening, **how)
    try:
        cells = tmp_path / "compare-001" / "cells"
        deadline = time.monotonic() + 60
        while not (cells.is_dir() and list(cells.glob("*.json"))) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGINT)
        said = child.communicate(timeout=40)[1].decode()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 130
    last = said.strip().splitlines()[-2:]
    assert f"go on with: minidl compare --resume {tmp_path / 'compare-001'}" in last[0] and last[1] == "interrupted"


# ----------------------------------------------------------------------------------------------- tables and figures


def record(scheme="he_normal", seed=0, **result):
    """A stored cell made by hand."""
    found = {"verdict": "trains", "diverged_at_step": None, "images": {"train": 5000, "of": 20000, "test": 9979}}
    cell = Cell(dataset="cifar10", network="lenet5", scheme=scheme, seed=seed, epochs=2).settings()
    numbers = {"test_accuracy": 0.5, "test_loss": 1.5, "train_accuracy": 0.6, "train_loss": 1.2}
    return {"cell": cell, "result": found | numbers | result, "how": {"seconds": 1.0, "date": "2026-01-01T00:00:00"}}


@host
def test_a_group_has_mean_and_sample_standard_deviation_over_seeds():
    records = [record(seed=s, test_accuracy=a) for s, a in enumerate((0.1, 0.2, 0.4))]
    (group,) = summary.groups(records)
    assert group.mean("test_accuracy") == pytest.approx(0.7 / 3)
    assert group.sd("test_accuracy") == pytest.approx(np.std([0.1, 0.2, 0.4], ddof=1))
    (row,) = summary.rows(records)
    assert row["test accuracy"] == "23.33 ± 15.28 %" and row["diverged"] == "0 of 3"


@host
def test_a_loss_that_is_not_finite_is_no_number_and_a_diverged_cell_is_counted():
    records = [record(seed=0), record(seed=1, test_loss=None, diverged_at_step=4, verdict="explodes")]
    (row,) = summary.rows(records)
    assert row["test loss"] == "not finite"
    assert (row["diverged"], row["verdict"]) == ("1 of 2", "trains 1, explodes 1")


@host
def test_the_caption_says_how_many_of_the_published_images_were_used():
    said = summary.caption([record(seed=s) for s in (0, 1, 2)])
    assert said.startswith("5 000 of 50 000 CIFAR-10 training images, 9 979 of 10 000 test images; lenet5;")
    assert "2 epochs; batch 64; seeds 0, 1, 2." in said


@host
def test_no_panel_has_more_lines_than_there_are_styles():
    schemes = [f"normal(std={n}.0)" for n in range(1, 13)]
    records = [record(s) for s in schemes]
    for r in list(records):
        records.append({**r, "cell": {**r["cell"], "optimizer": "adam:0.001"}})
    plan = layout(records)
    assert (plan.panels, plan.lines) == (("scheme",), ("optimizer",))
    few = [r for r in records if r["cell"]["scheme"] in schemes[:8]]
    assert layout(few).lines == ("scheme",)


@pytest.mark.host("looks at what the fixture computed")
def test_the_figures_show_every_group_and_every_seed(done):
    drawn = figures(done.records(), "Two schemes")
    assert set(drawn) == {"accuracy.png", "curves.png", "ladders.png"}
    (ax,) = drawn["accuracy.png"].axes
    dots = [line for line in ax.lines if line.get_marker() in "os" and len(line.get_xdata()) == 1]
    assert len(dots) == 4
    singles = [line for line in ax.lines if line.get_marker() == "|"]
    assert sorted(len(line.get_xdata()) for line in singles) == [2, 2, 2, 2]
    axes = drawn["curves.png"].axes
    assert len(axes) == 3 * 2 and all(len(ax.lines) == 2 for ax in axes)
    (he,) = [r for r in done.records()[:1]]
    assert drawn["curves.png"].axes[0].lines[0].get_ydata()[0] == pytest.approx(
        100 * np.mean([r["result"]["history"][0]["test_accuracy"] for r in done.records() if same(r, he)])
    )


def same(record, other):
    return {**record["cell"], "seed": 0} == {**other["cell"], "seed": 0}


@pytest.mark.host("looks at what the fixture computed")
def test_a_huge_loss_is_written_with_three_digits():
    assert summary.plus_minus(1.531e27, 2.49e26) == "1.53e+27 ± 2.5e+26"
    assert summary.plus_minus(322.2, 138.4) == "322 ± 138"
    assert summary.plus_minus(2.3010, 0.0) == "2.301 ± 0.000"


def test_an_experiment_that_only_probes_has_ladders_and_no_curves(done):
    kept = ("ladder", "images", "initial_loss", "rms", "signal", "gradient")
    probed = [{**r, "result": {k: r["result"][k] for k in kept} | {"verdict": "not trained"}} for r in done.records()]
    assert set(figures(probed, "Ladders")) == {"ladders.png"}
    assert "probed and not trained" in summary.caption(probed)
    assert float(summary.rows(probed)[0]["signal ×/layer"]) > 0 and "test accuracy" not in summary.rows(probed)[0]


# ------------------------------------------------------------------------------------------------- the scoreboard


@host
def test_zeros_on_mnist_are_predicted_from_the_class_counts_alone():
    """1 135 of the 10 000 test images are ones, the largest class of the training part."""
    of_training = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    of_test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    low, high, loss = majority(of_training, of_test)
    assert low == high == 0.1135
    assert loss == pytest.approx(2.3010, abs=5e-5)


@host
def test_where_classes_are_nearly_equal_any_of_them_may_win():
    low, high, _ = majority([100, 98, 90], [30, 35, 35])
    assert (low, high) == (0.30, 0.35)


def mnist(scheme, accuracy, **result):
    history = [{"epoch": e, "test_accuracy": a} for e, a in enumerate((0.1, 0.9, accuracy))]
    ladder = [{"weight_std": s, "rms": r} for s, r in ((0.28, 1.0), (0.1, 40.0), (0.1, 1600.0))]
    counts = {"train": [5923, 6742], "test": [980, 1135]}
    found = record(scheme, test_accuracy=accuracy, history=history, ladder=ladder, class_counts=counts, **result)
    found["cell"] |= {"dataset": "mnist", "optimizer": "adam:0.001"}
    return found


@host
def test_the_scoreboard_sets_claims_beside_what_was_measured():
    share = 1135 / 2115
    board = {row["claim"]: row for row in scoreboard([mnist("zeros", share), mnist("glorot_uniform", 0.985)])}
    assert board["zeros: test accuracy"]["claimed"] == "50 %"
    assert board["zeros: test accuracy"]["verdict"] == "wrong; theory is exact"
    assert board["Xavier: where it ends"]["measured"] == "98.50 %"
    assert board["Xavier: where it ends"]["verdict"] == "holds, and is far too low"
    off = {row["claim"]: row for row in scoreboard([mnist("zeros", 0.5)])}
    assert off["zeros: test accuracy"]["verdict"] == "wrong; theory is missed"


@host
def test_the_sweep_says_whether_any_sigma_gives_the_claimed_accuracy():
    sweep = [mnist("normal(std=1.0)", 0.93), mnist("normal", 0.98)]
    assert scoreboard(sweep)[2]["verdict"] == "no σ gives it"
    assert scoreboard([*sweep, mnist("normal(std=0.001)", 0.63)])[3]["verdict"] == "a σ gives it"


@host
def test_only_cells_of_the_articles_kind_are_on_its_scoreboard():
    other = mnist("zeros", 0.5)
    other["cell"]["activation"] = "tanh"
    assert scoreboard([other, record("zeros")]) == []


@host
def test_another_learning_rate_of_adam_is_not_on_the_scoreboard():
    fast = mnist("he_normal", 0.11)
    fast["cell"]["optimizer"] = "adam:0.1"
    board = scoreboard([mnist("he_normal", 0.985), fast])
    assert next(row["measured"] for row in board if row["claim"] == "He: test accuracy") == "98.50 %"
    assert scoreboard([fast]) == [] and claimed_accuracies([fast]) == {}


@host
def test_experiments_of_other_lengths_have_rows_of_their_own_on_the_scoreboard():
    """Neither the last one nor a mean of them stands for all."""
    short, few = mnist("he_normal", 0.9), mnist("he_normal", 0.8)
    short["cell"]["epochs"], few["cell"]["train_images"] = 1, 5000
    rows = [
        r for r in scoreboard([mnist("he_normal", 0.985), short, few]) if r["claim"].startswith("He: test accuracy")
    ]
    assert {(row["claim"], row["measured"]) for row in rows} == {
        ("He: test accuracy (epochs 2, train images all)", "98.50 %"),
        ("He: test accuracy (epochs 1, train images all)", "90.00 %"),
        ("He: test accuracy (epochs 2, train images 5000)", "80.00 %"),
    }


# ------------------------------------------------------------------------------------------------------- presets


@host
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_grid_of_known_names_and_its_reduced_size_is_not_too_small(name):
    chosen = PRESETS[name]
    for grid in (chosen.grid, chosen.grid.with_(**chosen.reduced)):
        cells = grid.cells()
        assert len(cells) == len({cell.key for cell in cells}) > 10
        assert len(grid.seed) >= 3 and grid.epochs >= 2
        assert grid.train_images is None or grid.train_images >= 5000


@host
def test_the_article_preset_is_the_articles_setting():
    cells = PRESETS["article"].grid.cells()
    assert {(c.dataset, c.network, c.activation, c.loss, c.batch_size, c.epochs, c.norm) for c in cells} == {
        ("mnist", "lenet5", "relu", "cross_entropy", 64, 5, False)
    }
    assert {c.optimizer for c in cells} == {"adam:0.001", "momentum:0.01"}
    assert sum(c.scheme.startswith("as_written_") for c in cells) == 4 * 2 * 3
    assert len({c.scheme for c in cells if c.scheme.startswith("normal")}) == 5


# ------------------------------------------------------------------------------------------------------ the command


def minidl(*arguments):
    return cli.main(["compare", *map(str, arguments), "--backend", "numpy"])


ASKED = ["--network", "mlp", "--depth", 2, "--width", 12, "--activations", "relu", "--schemes", "He", "zeros"]
ASKED += ["--epochs", 1, "--train-images", 200, "--seeds", 2]


@pytest.mark.host("the command line")
def test_the_command_writes_tables_figures_and_a_page_and_resume_only_reports_anew(tmp_path, capsys, monkeypatch):
    assert minidl(*ASKED, "--out", tmp_path) == 0
    folder = tmp_path / "compare-001"
    written = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
    expected = {"grid.json", "cells", "table.md", "results.json", "results.md", "accuracy.png", "curves.png"}
    assert expected | {"ladders.png"} <= written
    page = (folder / "results.md").read_text(encoding="utf-8")
    assert "minidl compare --network mlp" in page and "seeds 0, 1" in page and "](curves.png)" in page
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["schema"] == "minidl.experiment/1" and len(results["records"]) == 4
    first = capsys.readouterr()
    assert "±" in first.out and "4/4" in first.err
    (folder / "table.md").unlink()
    monkeypatch.setattr(runner, "measure", lambda *_: pytest.fail("ran again"))
    assert minidl("--resume", folder) == 0
    assert (folder / "table.md").is_file() and capsys.readouterr().err == ""


@pytest.mark.host("the command line")
def test_json_prints_one_document(tmp_path, capsys):
    assert minidl(*ASKED, "--out", tmp_path, "--json") == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["schema"] == "minidl.experiment/1" and captured.err == ""
    assert len(document["records"]) == 4 and document["folder"].endswith("compare-001")


@pytest.mark.host("the command line")
def test_arguments_override_the_values_of_a_preset(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(commands, "run_cells", lambda store, *_, **__: asked.update(cells=store.cells))
    monkeypatch.setattr(commands.report, "write", lambda store: {"command": "", "scoreboard": [], "caption": ""})
    arguments = ["--preset", "losses", "--data", "digits", "--network", "mlp", "--reduced", "--epochs", "4"]
    assert minidl(*arguments, "--seed", 5, "--seeds", 2, "--optimizers", "sgd:0.1", "--out", tmp_path) == 0
    cells = asked["cells"]
    assert {c.loss for c in cells} == {"cross_entropy", "mse"} and {c.seed for c in cells} == {5, 6}
    assert {(c.dataset, c.epochs, c.train_images, c.optimizer) for c in cells} == {("digits", 4, 10_000, "sgd:0.1")}


@pytest.mark.host("the command line")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "artcle"], "unknown preset 'artcle'; did you mean 'article'"),
        (["--network", "lenet"], "did you mean 'lenet5'"),
        (["--losses", "mes"], "did you mean 'mse'"),
        (["--optimizers", "adam"], "write name:learning rate"),
        (["--optimizers", "adam:1", "--lr", "0.1"], "--lr is that of momentum"),
        (["--seeds", "0"], "at least 1; got 0"),
        (["--jobs", "0"], "at least 1; got 0"),
        (["--reduced"], "name one with --preset"),
        (["--network", "mlp", "--data", "digits", "mnits"], "did you mean 'mnist'"),
        (["--resume", "nowhere"], "has no grid.json"),
        (["--resume", "nowhere", "--epochs", "3", "--no-norm"], "leave --norm, --epochs out"),
        (["--resume", "nowhere", "--seed", "5"], "leave --seed out"),
        (["--resume", "nowhere", "--seed", "0"], "leave --seed out"),
        (["--network", "resnet20", "--depth", "5"], "of the mlp; leave them out, or add it to resnet20"),
        (["--preset", "depth", "--width", "9"], "of the mlp; leave them out, or add it to plain22, plain30"),
        (["--network", "lenet5"], "lenet5 with sigmoid cannot be built for the images of digits: "),
        (["--network", "mlp", "plain22"], "plain22 reads images (C, H, W) of at least 16×16"),
        (["--network", "resnet20", "--activations", "relu", "crelu"], "resnet20 with crelu cannot be built"),
        (["--network", "lenet5", "--data", "spirals"], "cannot be built for the images of spirals: "),
    ],
)
def test_a_wrong_argument_ends_with_its_code_and_leaves_no_folder(arguments, message, tmp_path, capsys):
    assert minidl(*arguments, "--out", tmp_path / "out") == 4
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err
    assert not (tmp_path / "out").exists()
