"""docs/diagnosis: the generator of networks, labels from training, and the published rates of ``lab.diagnose``."""

import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from minidl import lab

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "diagnosis"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the docs are not part of an installation")

#: Networks of the tuning set that take a fraction of a second, and what training shows.
TINY = {48: "trains", 79: "trains", 111: "trains", 16: "fails", 73: "fails", 135: "fails"}

#: Tuning networks that a rule once judged wrongly, and the rule: a layer of zeros under a smooth activation, a closed
#: branch, copies in one layer of many, saturation in one layer, data of std 0.004 before a normalization; below zeros
#: before a normalization and weights of one sign in four layers, which do fail.
SETTLED = {81: "F2", 207: "B5", 88: "B1", 561: "W3", 104: "A1", 956: "D1"}
FAILING = {57: "F2", 498: "W2"}


def load(name):
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="module")
def networks():
    return load("networks")


@pytest.fixture(scope="module")
def calibrate(networks):
    return load("calibrate")


def stored(name):
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------------------------------------------- the generator


@pytest.mark.parametrize("number", [0, 17, 1000, 2549])
def test_a_number_gives_the_same_network_every_time(networks, number):
    states = [networks.build(networks.recipe(number))[0].state_dict() for _ in range(2)]
    assert states[0].keys() == states[1].keys()
    assert all(np.array_equal(states[0][path], states[1][path], equal_nan=True) for path in states[0])


def test_every_stored_label_and_diagnosis_is_of_the_recipe_the_generator_gives_today(networks, calibrate):
    for name in ("labels.jsonl", "diagnoses.jsonl"):
        for record in stored(name):
            assert record["recipe"] == calibrate.checksum(networks.recipe(record["number"])), record["number"]


def test_each_hundred_numbers_holds_every_family_as_often_as_it_has_places(networks):
    for first in (0, 100, 1000, 2400):
        drawn = Counter(networks.recipe(number)["family"] for number in range(first, first + 100))
        assert drawn == Counter(networks.SLOTS)


def test_sizes_lie_in_the_published_ranges_and_the_layers_are_as_many_as_the_recipe_says(networks):
    for number in range(100):
        net = networks.recipe(number)
        assert 3 <= net["depth"] <= 30 and min(net["widths"]) >= 32 and max(net["widths"]) <= 512
        model, (x, y) = networks.build(net)
        layers = [m for path, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv2d")]
        assert len(layers) == net["depth"] == len(net["widths"]) + 1
        assert [m.weight.shape[0] for m in layers] == [*net["widths"], 10]
        assert len(x) == len(y) == 1200


@pytest.mark.parametrize("family, check", [("zeros", lambda w: not w.any()), ("constant", lambda w: np.ptp(w) == 0)])
def test_a_sick_family_is_sick(networks, family, check):
    number = next(n for n in range(100) if networks.recipe(n)["family"] == family)
    model, _ = networks.build(networks.recipe(number))
    first = next(m for _, m in model.named_modules() if hasattr(m, "weight") and m.weight.ndim > 1)
    assert check(first.weight.numpy())


# ------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("number", TINY)
def test_training_gives_the_stored_label_again(calibrate, number):
    again = calibrate.label(number)
    (known,) = [record for record in stored("labels.jsonl") if record["number"] == number]
    assert again["label"] == known["label"] == TINY[number]
    assert again["lowest"].keys() == known["lowest"].keys()


def test_a_rate_at_which_the_loss_is_not_finite_counts_as_failed(calibrate, monkeypatch):
    losses = {0.01: float("inf"), 0.1: float("inf"), 0.001: float("inf")}
    monkeypatch.setattr(calibrate, "lowest_loss", lambda net, rate: losses[rate])
    assert calibrate.label(0)["label"] == "fails"
    losses[0.001] = 1.1
    assert calibrate.label(0)["label"] == "trains"


@pytest.mark.parametrize("lowest, verdict", [(1.149, "trains"), (1.15, "between"), (2.0, "between"), (2.001, "fails")])
def test_the_best_rate_decides_the_label(calibrate, monkeypatch, lowest, verdict):
    monkeypatch.setattr(calibrate, "lowest_loss", lambda net, rate: lowest if rate == 0.1 else 2.2)
    assert calibrate.label(0)["label"] == verdict


def test_a_killed_run_goes_on_and_leaves_out_the_line_that_was_cut(calibrate, networks, tmp_path):
    file = tmp_path / "records.jsonl"
    whole = {"number": 3, "recipe": calibrate.checksum(networks.recipe(3))}
    stale = {"number": 5, "recipe": "00000000"}
    file.write_text(json.dumps(whole) + "\n" + json.dumps(stale) + "\n" + '{"number": 4, "rec')
    asked = []

    def work(number):
        asked.append(number)
        return {"number": number, "recipe": calibrate.checksum(networks.recipe(number))}

    calibrate.run(work, [5, 4, 3], file, jobs=1)
    assert asked == [5, 4]
    assert [json.loads(line)["number"] for line in file.read_text().splitlines()] == [3, 4, 5]


# ---------------------------------------------------------------------------------------------------------- diagnoses


@pytest.mark.parametrize("number", TINY)
def test_a_tiny_network_is_diagnosed_from_end_to_end(calibrate, number):
    found = calibrate.diagnose(number)
    (known,) = [record for record in stored("diagnoses.jsonl") if record["number"] == number]
    assert {**found, "seconds": 0} == {**known, "seconds": 0}, "run: python docs/diagnosis/calibrate.py"
    assert found["failed"] == ("fail" in found["levels"].values()) == (TINY[number] == "fails")


@pytest.mark.parametrize("number, rule", [*SETTLED.items(), *FAILING.items()])
def test_a_network_that_a_rule_was_mended_by_is_still_judged_rightly(networks, number, rule):
    model, (x, y) = networks.build(networks.recipe(number))
    found = lab.diagnose(model, x[:256], y[:256])
    levels = {finding.rule: finding.level for finding in found.findings}
    assert (levels.get(rule) == "fail") == (number in FAILING)
    assert found.failed == (number in FAILING), levels


# ------------------------------------------------------------------------------------------------------ published rates


@pytest.mark.parametrize(
    "count, total, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(calibrate, count, total, low, high):
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    assert calibrate.wilson(count, total) == pytest.approx((low, high), abs=6e-5)


def counted(calibrate, name):
    """(train, fail, false alarms, found) of a set, from the stored lines alone."""
    labels = {r["number"]: r["label"] for r in stored("labels.jsonl") if r["number"] in calibrate.SETS[name]}
    said = {r["number"]: "fail" in r["levels"].values() for r in stored("diagnoses.jsonl")}
    assert set(labels) == set(calibrate.SETS[name]) and set(labels) <= set(said)
    train = [n for n, verdict in labels.items() if verdict == "trains"]
    fail = [n for n, verdict in labels.items() if verdict == "fails"]
    return len(train), len(fail), sum(said[n] for n in train), sum(said[n] for n in fail)


@pytest.mark.parametrize(
    "name", ["tuning", "second tuning", "third tuning", "fourth tuning", "fifth tuning", "held-out"]
)
def test_the_published_rates_are_those_of_the_stored_records(calibrate, name):
    train, fail, alarms, found = counted(calibrate, name)
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    row = re.findall(rf"^\| {name} \|.*$", text, re.M)[0]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:4] == [str(train), str(fail)]
    assert cells[5].startswith(f"{alarms} of {train}:") and cells[6].startswith(f"{found} of {fail}:")


def test_at_most_two_in_a_hundred_healthy_networks_that_set_no_threshold_are_blamed_and_95_sick_ones_found(calibrate):
    train, fail, alarms, found = counted(calibrate, "held-out")
    assert train >= 200 and fail >= 100
    assert alarms <= 0.02 * train
    assert found >= 0.95 * fail


def test_no_family_makes_up_more_than_a_fifth_of_the_networks_that_fail(calibrate, networks):
    for name, numbers in calibrate.SETS.items():
        failing = [r["number"] for r in stored("labels.jsonl") if r["label"] == "fails" and r["number"] in numbers]
        families = Counter(networks.recipe(number)["family"] for number in failing)
        assert max(families.values()) <= len(failing) / 5, (name, families)
