"""The experiments on the article's advice: what is trained, what is chosen, what is said."""

import numpy as np
import pytest

from minidl import init, models
from minidl.experiment import advice
from minidl.experiment.advice import Task, chosen, plain, warmed

TASK = Task("digits", train_images=100, val_images=50, steps=6, width=8, batch_size=20, seeds=(0, 1))


def model(scheme="he_normal"):
    return models.mlp([64, 8, 10], "relu", scheme, seed=0)


def batches():
    return advice._batches(TASK, advice._parts(TASK, 0)[0], 0)


def test_a_warm_start_is_part_of_the_total():
    """The losses of both parts are as many as the steps, and the rest goes on with the batch where the first ended."""
    from minidl import optim

    losses = warmed(lambda p: optim.SGD(p, lr=0.01), 4, "sgd:0.01")(model(), batches(), 6)
    assert len(losses) == 6
    assert losses == pytest.approx(plain("sgd:0.01")(model(), batches(), 6))  # the same optimizer: the same training


def test_a_training_that_diverges_ends_early():
    with np.errstate(all="ignore"):
        losses = plain("sgd:1e30")(model(), batches(), 6)
    assert len(losses) < 6 and not np.isfinite(losses[-1])


def test_the_rate_is_chosen_on_val_and_reported_on_test():
    records = [
        {"method": "m", "lr": 0.1, "val_accuracy": 0.9, "test_accuracy": 0.5},
        {"method": "m", "lr": 0.1, "val_accuracy": 0.7, "test_accuracy": 0.7},
        {"method": "m", "lr": 1.0, "val_accuracy": 0.7, "test_accuracy": 1.0},
        {"method": "m", "lr": 1.0, "val_accuracy": 0.8, "test_accuracy": 1.0},
    ]
    (row,) = chosen(records, ("method",))
    assert row["rate"] == "0.1"
    assert row["test accuracy"].startswith("60.00 ± 14.14")


def test_train_val_and_test_images_are_apart_and_as_many_as_asked_for():
    part, val, test = advice._parts(TASK, 0)
    assert (len(part), len(val)) == (100, 50)
    images = [{x.tobytes() for x in p.x} for p in (part, val, test)]
    assert not images[0] & images[1] and not images[0] & images[2]


def test_correlated_weights_have_the_variance_of_he_and_the_correlation_that_was_asked_for():
    looks = [advice._look(Task("digits", train_images=100, val_images=50, width=200), rho, 3) for rho in (0.0, 0.9)]
    assert [look["std"] for look in looks] == pytest.approx([np.sqrt(2)] * 2, rel=0.05)
    assert looks[0]["coherence"] == pytest.approx(np.sqrt(2 / (np.pi * 200)), rel=0.05)
    assert looks[1]["coherence"] == pytest.approx(0.9, abs=0.03)


SMALL = {
    "warm-start": {"depths": (2,), "steps": 3, "rates": (0.1,), "adam_rates": (0.01,)},
    "layer-rates": {"depth": 2, "rates": (0.1,)},
    "rate-windows": {"depth": 2, "rates": (0.01, 0.1)},
    "correlation": {"rhos": (0.0, 0.9), "depths": {2: "momentum", 1: "adam"}},
}


@pytest.mark.parametrize("name", advice.EXPERIMENTS)
def test_an_experiment_has_records_a_page_and_a_figure(name):
    found = advice.EXPERIMENTS[name](TASK, **SMALL[name])
    assert {record["seed"] for record in found.records} == {0, 1}
    assert all(0 <= record["test_accuracy"] <= 1 and len(record["losses"]) == 6 for record in found.records)
    page = found.page("Made with a test.", "figure.png")
    assert f"# {found.title}\n" in page and "Made with a test." in page and "2 seeds" in page
    for row in found.table:
        assert all(cell in page for cell in row.values())
    assert found.figure().axes


def test_the_methods_of_a_warm_start_share_their_first_batches():
    """Momentum alone and plain descent see the same images in the same order, so their first losses are equal."""
    found = advice.warm_start(TASK, **SMALL["warm-start"])
    firsts = {(r["base"], r["seed"]): set() for r in found.records}
    for record in found.records:
        firsts[record["base"], record["seed"]].add(round(record["losses"][0], 6))
    assert all(len(values) == 1 for values in firsts.values())


def test_the_losses_of_a_training_that_diverged_are_drawn_at_the_steps_they_belong_to():
    found = advice.warm_start(TASK, **SMALL["warm-start"] | {"rates": (1e30,)})
    lines = [line for ax in found.figure().axes for line in ax.lines if line.get_label() == "momentum"]
    assert lines and all(0 < len(line.get_xdata()) < TASK.steps for line in lines)
    for line in lines:
        np.testing.assert_allclose(line.get_xdata(), np.arange(len(line.get_xdata())) + 0.5)  # a point is one step here


def test_schemes_of_the_experiments_exist():
    assert {"correlated_normal", "normal", "glorot_normal", "he_normal"} <= set(init.names())
