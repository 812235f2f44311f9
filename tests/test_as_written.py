"""What the article wrote, to the letter: wrong just as theory says, and with a warning."""

import itertools
import math

import numpy as np
import pytest

from minidl import init

pytestmark = pytest.mark.host("weights are drawn on the host, then copied")

AS_WRITTEN = [name for name in init.names() if name.startswith("as_written_")]
# The half-normal law cut at 2 σ', in units of σ': mean and standard deviation
HALF_MEAN, HALF_STD = 0.72279, 0.50131


def drawn(scheme, shape=(400, 256), seed=0):
    rng = np.random.default_rng(seed)
    return scheme(shape, fan_in=shape[1], fan_out=shape[0], rng=rng, dtype=np.float64)


def test_there_are_five_of_them():
    assert len(AS_WRITTEN) == 5


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_the_docstring_warns_first_and_names_a_scheme_to_take_instead(name):
    first = getattr(init, name).__doc__.splitlines()[0]
    assert first.startswith("As written in the article; do not use: ")
    corrected = first.split("take ``")[1].split("``")[0]
    assert corrected in init.names() and not corrected.startswith("as_written_")


def test_read_as_a_standard_deviation_the_gaussian_is_he():
    for mode in ("fan_in", "fan_out"):
        np.testing.assert_array_equal(drawn(init.as_written_gaussian(mode, "std")), drawn(init.he_normal(mode)))


def test_he_is_he_if_the_root_is_a_standard_deviation_and_else_its_std_is_the_fourth_root():
    np.testing.assert_array_equal(drawn(init.as_written_he()), drawn(init.he_normal()))
    values = drawn(init.as_written_he("variance"), (10, 256))
    np.testing.assert_allclose(values, (2 / 256) ** -0.25 * drawn(init.he_normal(), (10, 256)), rtol=1e-12)


def test_read_as_a_variance_a_relu_layer_multiplies_the_second_moment_by_the_root_of_half_its_width():
    n, rng = 256, np.random.default_rng(1)
    x = rng.standard_normal((2000, n))
    growth = []
    for seed in range(4):
        z = x @ drawn(init.as_written_gaussian("fan_in", "variance"), (n, n), seed).T
        x = np.maximum(z, 0) / np.sqrt((z**2).mean())  # of pre-activations with second moment 1
        growth.append((z**2).mean() / 1.0)
    assert np.mean(growth[1:]) == pytest.approx(math.sqrt(n / 2), rel=0.06)  # 11.3


def test_xavier_of_relu_is_he_and_that_of_tanh_is_glorot():
    np.testing.assert_array_equal(drawn(init.as_written_xavier("relu")), drawn(init.he_normal()))
    for activation in ("tanh", "sigmoid"):
        np.testing.assert_array_equal(drawn(init.as_written_xavier(activation)), drawn(init.glorot_normal()))


@pytest.mark.parametrize(("activation", "sign"), [("relu", 1), ("sigmoid", -1), ("tanh", -1)])
def test_kaiming_has_one_sign_and_the_moments_of_a_half_normal_law_cut_at_two(activation, sign):
    values = sign * drawn(init.as_written_kaiming(activation)) / math.sqrt(2 / 256)
    assert values.min() >= 0 and values.max() <= 2
    error = HALF_STD / math.sqrt(values.size)
    assert abs(values.mean() - HALF_MEAN) < 5 * error
    assert abs(values.std() - HALF_STD) < 5 * error
    assert abs((values**2).mean() - 0.87962566**2) < 5 * error


def test_kaiming_of_relu_blows_the_signal_up_sixteenfold_per_layer():
    n, rng = 256, np.random.default_rng(2)
    x = np.maximum(rng.standard_normal((100, n)), 0)
    rms = []
    for seed in range(6):
        x = np.maximum(x @ drawn(init.as_written_kaiming(), (n, n), seed).T, 0)
        rms.append(np.sqrt((x**2).mean()))
    factors = np.divide(rms[2:], rms[1:-1])
    assert factors == pytest.approx(HALF_MEAN * math.sqrt(2 * n), rel=0.02)  # 16.35


def test_kaiming_saturates_tanh_from_layer_2_and_makes_sigmoid_swing():
    """From layer 3 on all units of tanh are at ±1, with alternating signs; those of sigmoid swing between ½ and 0."""
    n, rng = 256, np.random.default_rng(4)
    start = rng.standard_normal((200, n))
    x, found = start, []
    for seed in range(6):
        x = np.tanh(x @ drawn(init.as_written_kaiming("tanh"), (n, n), seed).T)
        found.append(x)
    assert all(abs(h).mean() > 0.99 for h in found[2:])
    assert all((np.sign(h) == -np.sign(below)).mean() > 0.99 for below, h in itertools.pairwise(found[2:]))
    x, found = start, []
    for seed in range(4):
        x = 1 / (1 + np.exp(-(x @ drawn(init.as_written_kaiming("sigmoid"), (n, n), seed).T)))
        found.append(x.mean())
    assert found[2:] == pytest.approx([0.47, 0.007], abs=0.005)


def test_the_width_of_kaiming_may_be_chosen_and_then_no_fans_are_needed():
    values = init.as_written_kaiming(std=0.1)((300, 300), fan_in=None, fan_out=None, rng=np.random.default_rng(0))
    assert values.mean() == pytest.approx(0.1 * HALF_MEAN, rel=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: init.as_written_xavier("rleu"), "unknown activation of the article 'rleu'; did you mean 'relu'"),
        (lambda: init.as_written_kaiming("gelu"), "unknown activation of the article 'gelu'"),
        (lambda: init.as_written_kaiming(std=-1.0), "finite and >= 0, got -1"),
        (lambda: init.as_written_gaussian("fan_inn"), "did you mean 'fan_in'"),
        (lambda: init.as_written_he("varience"), "did you mean 'variance'"),
        (lambda: init.as_written_gaussian(second_argument="sd"), "unknown second argument of N 'sd'"),
        (lambda: init.as_written_xavier_global(0, 10), "at least one input and output, got n=0, m=10"),
    ],
)
def test_what_the_article_does_not_know_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
