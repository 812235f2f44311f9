"""The table of slips: one wrong initializer for each, at odd fans, is recognised by the spread of its weights."""

import math

import numpy as np
import pytest

from minidl.init.ratios import TOLERANCE, explain_ratio, suspects

N, M, KERNEL, GROUPS = 9 * 40, 9 * 28, 9, 4  # fans of a 3×3 convolution with 160 → 112 channels in four groups
GAIN = math.sqrt(2)
COUNT = 400_000  # weights: the standard error of a standard deviation is 0.11 %


def he():
    return math.sqrt(2 / N)


def glorot():
    return math.sqrt(2 / (N + M))


def normal(std):
    return np.random.default_rng(7).normal(0.0, std, COUNT)


def uniform(limit):
    return np.random.default_rng(7).uniform(-limit, limit, COUNT)


def truncated(std):
    z = np.random.default_rng(7).normal(size=2 * COUNT)
    return std * z[np.abs(z) <= 2][:COUNT]


#: name of the slip -> (expected std, weights of a student who made it); each written out by hand
MUTANTS = {
    "limit as std": (he(), normal(math.sqrt(6 / N))),
    "std as limit": (he(), uniform(math.sqrt(2 / N))),
    "uncorrected truncation": (he(), truncated(math.sqrt(2 / N))),
    "variance as std": (he(), normal(2 / N)),
    "std as variance": (he(), normal((2 / N) ** 0.25)),
    "fan_out for fan_in": (he(), normal(math.sqrt(2 / M))),
    "fan_in for fan_out": (math.sqrt(2 / M), normal(math.sqrt(2 / N))),
    "one fan for the mean": (glorot(), normal(math.sqrt(2 / N))),
    "mean fan for fan_in": (he(), normal(math.sqrt(2 / (N + M)))),
    "kernel forgotten": (he(), normal(math.sqrt(2 / 40))),
    "groups forgotten": (he(), normal(math.sqrt(2 / (4 * N)))),
    "groups twice": (he(), normal(math.sqrt(2 / (N / 4)))),
    "gain forgotten": (he(), normal(math.sqrt(1 / N))),
    "gain twice": (he(), normal(2 * math.sqrt(1 / N))),
}


def explained(weights, expected):
    return explain_ratio(
        weights.std() / expected,
        fan_in=N,
        fan_out=M,
        receptive_field=KERNEL,
        groups=GROUPS,
        gain=GAIN,
        std=expected,
    )


@pytest.mark.parametrize("name", MUTANTS)
def test_a_student_who_makes_a_slip_is_told_which(name):
    expected, weights = MUTANTS[name]
    found = [suspect.name for suspect in explained(weights, expected)]
    assert name in found
    # some slips cannot be told apart by the spread alone: √4 = 2 groups, √2 twice; but never more than a few are named
    assert len(found) <= 2


def test_every_slip_of_the_table_has_its_mutant():
    table = suspects(fan_in=N, fan_out=M, receptive_field=KERNEL, groups=GROUPS, gain=GAIN)
    assert {s.name for s in table} == set(MUTANTS)


@pytest.mark.parametrize("law", [normal(he()), uniform(math.sqrt(6 / N)), truncated(he() / 0.87962566103423978)])
def test_a_right_spread_has_no_suspects(law):
    assert explained(law, he()) == []


def test_square_layers_hide_a_swap_of_the_fans_and_the_table_leaves_it_out():
    names = {s.name for s in suspects(fan_in=100, fan_out=100)}
    assert not names & {"fan_out for fan_in", "fan_in for fan_out", "kernel forgotten", "groups forgotten"}


def test_a_dense_layer_of_256_inputs_and_128_outputs_with_its_fans_swapped():
    (suspect,) = explain_ratio(1.41, fan_in=256, fan_out=128, gain=1.0)
    assert suspect.name == "fan_out for fan_in"
    assert suspect.ratio == pytest.approx(math.sqrt(2))
    assert "fan_out" in suspect.hint


def test_the_nearest_suspect_comes_first():
    found = explain_ratio(1.735, fan_in=300, fan_out=100.5, gain=1.0)  # √3 = 1.7321, √(300/100.5) = 1.7277
    assert [s.name for s in found] == ["limit as std", "fan_out for fan_in"]


@pytest.mark.parametrize("ratio", [1.0, 1 + TOLERANCE / 2, 1 - TOLERANCE / 2, 0.0, math.inf, math.nan, 1.2345])
def test_a_ratio_that_no_slip_gives_has_no_suspects(ratio):
    assert explain_ratio(ratio, fan_in=100, fan_out=37) == []


@pytest.mark.parametrize("wrong", [{"fan_in": 0}, {"fan_out": -1}, {"groups": 0}, {"gain": math.nan}, {"std": 0.0}])
def test_numbers_that_no_layer_has_are_refused(wrong):
    with pytest.raises(ValueError, match="positive number"):
        explain_ratio(1.5, **{"fan_in": 10, "fan_out": 20, **wrong})
