"""``lab.watch``: looks during a training that change no bit of it, go on after an interruption, and are drawn."""

import math

import numpy as np
import pytest
from conftest import DEVICE

from minidl import data, init, lab, nn, ops, optim, train


def split(count=60):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(count, 1, 6, 6)).astype(np.float32)
    return data.from_arrays(x, rng.integers(3, size=count), test=12)


def network(seed=0):
    """Batch norm and dropout: what a careless look would disturb."""
    model = nn.Sequential(
        conv=nn.Conv2d(1, 3, 3),
        norm=nn.BatchNorm2d(3),
        relu=nn.ReLU(),
        drop=nn.Dropout(0.4),
        flat=nn.Flatten(),
        out=nn.Linear(3 * 4 * 4, 3),
    )
    init.apply(model, seed=seed)
    return model.to(DEVICE)


def trained(model, callbacks=(), epochs=2, parameters=None, **options):
    """Six steps an epoch; the weights, averages and history afterwards."""
    optimizer = optim.Adam(model.parameters() if parameters is None else parameters, lr=0.01)
    history = train.fit(
        model, split(), optimizer=optimizer, epochs=epochs, batch_size=8, callbacks=callbacks, quiet=True, **options
    )
    rows = [{k: v for k, v in record.items() if k != "seconds"} for record in history]
    return model.state_dict(), rows


def assert_same(one, two):
    assert one[1] == two[1]
    for path, array in one[0].items():
        np.testing.assert_array_equal(array, two[0][path], err_msg=path)


@pytest.mark.parametrize("every", [1, 5])
def test_a_training_that_is_watched_ends_with_the_same_bits(every):
    model = network()
    assert_same(trained(model, [lab.watch(model, every)]), trained(network()))


def test_it_looks_before_the_first_step_and_every_few_after():
    model = network()
    watching = lab.watch(model, every=5)
    trained(model, [watching])
    layers = ["conv", "norm", "relu", "drop", "flat", "out"]
    assert [(r["step"], r["layer"]) for r in watching.records] == [(s, name) for s in (0, 5, 10) for name in layers]
    assert sorted({h["step"] for h in watching.histograms}) == [0, 5, 10]
    assert len({tuple(r) for r in watching.records}) == 1


def test_the_first_look_is_that_of_the_probe_on_the_first_batch():
    model = network()
    watching = lab.watch(model, every=100)
    trained(model, [watching], epochs=1)
    x, y = split().train[:8]
    fresh = network()
    report = lab.probe(fresh, x, y, optimizer=optim.Adam(fresh.parameters(), lr=0.01))
    assert watching.records == [{"step": 0, "loss": report.loss, **record} for record in report.records]


def test_all_looks_are_at_the_batch_that_was_given():
    """In training mode and with the same masks: a network that does not change looks the same every time."""
    model = network()
    x, y = split().test[:10]
    watching = lab.watch(model, 2, x, y, histograms=False)
    trained(model, [watching], epochs=1, parameters=[model.out.bias])
    rms = {step: [r["rms"] for r in watching.records if r["step"] == step] for step in (0, 2, 4)}
    assert rms[0][:-1] == rms[2][:-1] == rms[4][:-1] and rms[0][-1] != rms[2][-1]
    assert rms[0] == [r["rms"] for r in lab.probe(network(), x, y).records] and watching.histograms == []


def test_the_loss_that_is_watched_is_the_one_that_was_given():
    model = network()
    watching = lab.watch(model, 100, loss=lambda out, y: 2 * ops.cross_entropy(out, y))
    plain = lab.watch(network(), 100)
    trained(model, [watching], epochs=1)
    trained(plain.model, [plain], epochs=1)
    assert watching.records[0]["loss"] == pytest.approx(2 * plain.records[0]["loss"])


@pytest.mark.parametrize("first", [True, False])
def test_a_run_that_goes_on_from_a_checkpoint_has_all_its_looks(tmp_path, first):
    def callbacks(model):
        watching, checkpoint = lab.watch(model, every=2), train.Checkpoint(tmp_path / "run.npz", every=1)
        return watching, [watching, checkpoint] if first else [checkpoint, watching]

    class Stop(Exception):
        pass

    class StopsAt:
        def on_checked(self, run):
            if run.step == (7 if DEVICE == "cpu" else 6):  # a GPU's state is checked at the end of an epoch
                raise Stop

    model = network()
    _, both = callbacks(model)
    with pytest.raises(Stop):
        trained(model, [*both, StopsAt()])
    model = network(seed=9)
    watching, both = callbacks(model)
    resumed = trained(model, both)
    whole = network()
    alone = lab.watch(whole, every=2)
    assert_same(resumed, trained(whole, [alone]))
    assert watching.records == alone.records and watching.histograms == alone.histograms


def test_values_that_are_not_finite_survive_a_checkpoint():
    watching, other = lab.watch(network()), lab.watch(network())
    records = [{"step": 0, "loss": math.inf, "layer": "a", "shape": (2,), "rms": math.nan, "dead": None}]
    bins = [{"step": 0, "layer": "a", "low": math.nan, "high": math.nan, "density": 0.0}]
    watching._looks = {0: (records, bins)}
    other.load_state_dict(watching.state_dict())
    assert str(other.records) == str(records) and str(other.histograms) == str(bins)


def test_a_new_training_begins_anew():
    model = network()
    watching = lab.watch(model, every=5)
    trained(model, [watching])
    trained(model, [watching], epochs=1)
    assert sorted({r["step"] for r in watching.records}) == [0, 5]


@pytest.mark.parametrize("every", [0, -1])
def test_an_interval_below_one_is_refused(every):
    with pytest.raises(ValueError, match=f"at least 1; got {every}"):
        lab.watch(network(), every)


def test_inputs_without_labels_are_refused():
    with pytest.raises(ValueError, match="both x and y"):
        lab.watch(network(), 1, np.ones((4, 1, 6, 6), np.float32))


@pytest.mark.host("a figure")
def test_the_looks_are_drawn():
    model = network().to("cpu")
    watching = lab.watch(model, every=3)
    with pytest.raises(ValueError, match="nothing was trained yet"):
        watching.plot()
    trained(model, [watching])
    assert watching.plot().get_xlabel() == "step"
    bare = lab.watch(model, histograms=False)
    with pytest.raises(ValueError, match="histograms=False"):
        bare.plot()
