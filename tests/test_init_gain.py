"""Gains and fans, against published numbers, a simulated layer and counted connections."""

import itertools
import math

import numpy as np
import pytest

from minidl import init

# forward 1/√E φ², backward 1/√E φ'². Printed to the digits below; SELU's backward gain is from its closed form.
TABLE = {
    ("linear", None): (1.0, 1.0),
    ("relu", None): (1.41421, 1.41421),
    ("leaky_relu", 0.01): (1.41414, 1.41414),
    ("leaky_relu", 0.2): (1.38675, 1.38675),
    ("tanh", None): (1.5925, 1.4674),
    ("erf", None): (1.4672, 1.3252),
    ("sigmoid", None): (1.8462, 4.7226),
    ("hard_tanh", None): (1.3920, 1.2103),
    ("softsign", None): (2.3375, 2.0958),
    ("selu", None): (1.0, 0.96603),
    ("elu", None): (1.2452, 1.2234),
    ("gelu", None): (1.5335, 1.4811),
    ("silu", None): (1.6765, 1.6233),
    ("softplus", None): (1.0419, 1.8462),
}


@pytest.mark.parametrize(("activation", "slope"), TABLE)
def test_gains_match_the_published_table(activation, slope):
    params = {} if slope is None else {"negative_slope": slope}
    forward, backward = TABLE[activation, slope]
    assert init.gain(activation, **params) == pytest.approx(forward, abs=6e-5)
    assert init.gain(activation, "backward", **params) == pytest.approx(backward, abs=6e-5)


@pytest.mark.parametrize("activation", [np.tanh, np.sin, lambda x: np.maximum(x, -0.3), lambda x: x / (1 + x**2)])
def test_the_gain_of_any_function_keeps_the_second_moment_of_a_sampled_signal(activation):
    """Gate of 5 standard errors: one false alarm in 1.7 million, fixed seed."""
    squares = (init.gain(activation) * activation(np.random.default_rng(0).standard_normal(200_000))) ** 2
    assert abs(squares.mean() - 1) < 5 * squares.std() / math.sqrt(squares.size)


def test_the_gain_uses_the_second_moment_and_not_the_variance():
    popular_recipe = 1 / math.sqrt(0.5 - 1 / (2 * math.pi))  # 1/std(relu(ξ)) = 1.7129
    assert init.gain("relu") == pytest.approx(math.sqrt(2))
    assert abs(init.gain("relu") - popular_recipe) > 0.29


def test_a_misspelled_activation_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        init.gain("rellu")
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        init.gain("rellu", "torch")


def test_a_misspelled_criterion_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'backward'"):
        init.gain("relu", "backwards")


def test_an_activation_that_lets_nothing_through_has_no_gain():
    with pytest.raises(ValueError, match="has no forward gain"):
        init.gain(lambda x: 0 * x)
    with pytest.raises(ValueError, match="has no backward gain"):
        init.gain(lambda x: 1 + 0 * x, "backward")


def test_the_torch_criterion_says_what_its_table_lacks():
    with pytest.raises(ValueError, match="no gain for 'elu'"):
        init.gain("elu", "torch")
    with pytest.raises(ValueError, match="table of names, got the function 'tanh'"):
        init.gain(np.tanh, "torch")
    with pytest.raises(TypeError, match="accepts: no parameters"):
        init.gain("relu", "torch", negative_slope=0.1)
    with pytest.raises(TypeError, match="accepts: negative_slope"):
        init.gain("leaky_relu", "torch", a=0.1)


@pytest.mark.oracle
def test_the_torch_criterion_is_pytorchs_table():
    torch_init = pytest.importorskip("torch").nn.init
    for name in [
        "linear",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose2d",
        "sigmoid",
        "tanh",
        "relu",
        "leaky_relu",
        "selu",
    ]:
        assert init.gain(name, "torch") == pytest.approx(torch_init.calculate_gain(name), rel=1e-12), name
    for slope in (0.0, 0.2, math.sqrt(5)):
        expected = torch_init.calculate_gain("leaky_relu", slope)
        assert init.gain("leaky_relu", "torch", negative_slope=slope) == pytest.approx(expected, rel=1e-12)


def counted_fans(in_channels, out_channels, kernel, stride, groups, transposed):
    """The mean number of terms per output value and per input value, by walking over every product of the layer.

    On a circular grid no border disturbs the count.
    """
    height, width = 4 * stride[0], 4 * stride[1]
    small = list(itertools.product(range(4), range(4)))
    channel_pairs = sum(
        c // (in_channels // groups) == o // (out_channels // groups)
        for c in range(in_channels)
        for o in range(out_channels)
    )
    big_hits, small_hits = np.zeros((height, width)), np.zeros((4, 4))
    for (y, x), i, j in itertools.product(small, range(kernel[0]), range(kernel[1])):
        big_hits[(y * stride[0] + i) % height, (x * stride[1] + j) % width] += 1
        small_hits[y, x] += 1
    inputs, outputs = (small_hits, big_hits) if transposed else (big_hits, small_hits)
    return channel_pairs / out_channels * outputs.mean(), channel_pairs / in_channels * inputs.mean()


def test_dense_fans_are_the_two_widths():
    assert init.dense_fans(7, 3) == counted_fans(7, 3, (1, 1), (1, 1), 1, transposed=False)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5, 2)])
def test_conv_fans_are_the_counted_connections(groups, kernel):
    assert init.conv_fans(4, 12, kernel, groups) == counted_fans(4, 12, kernel, (1, 1), groups, transposed=False)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, (2, 3)])
@pytest.mark.parametrize("kernel", [(3, 3), (4, 2)])
def test_transposed_conv_fans_are_the_counted_connections(groups, stride, kernel):
    steps = (stride, stride) if isinstance(stride, int) else stride
    counted = counted_fans(4, 6, kernel, steps, groups, transposed=True)
    assert init.conv_transpose_fans(4, 6, kernel, stride, groups) == pytest.approx(counted, rel=1e-12)


def test_a_depthwise_convolution_has_equal_fans():
    assert init.conv_fans(4, 4, 3, groups=4) == (9, 9)


def test_whole_fans_are_integers_and_others_are_not_rounded():
    assert [type(fan) for fan in init.conv_transpose_fans(8, 3, 4, stride=2)] == [int, int]
    assert init.conv_transpose_fans(8, 3, 3, stride=2) == (18, 27)
    assert init.conv_transpose_fans(3, 8, 3, stride=2)[0] == 6.75


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="groups=3 must divide in_channels=4 and out_channels=6"):
        init.conv_fans(4, 6, 3, groups=3)
    with pytest.raises(ValueError, match="groups=0"):
        init.conv_transpose_fans(4, 6, 3, groups=0)


@pytest.mark.oracle
def test_fans_agree_with_pytorch_where_the_shape_tells_them_and_differ_where_it_does_not():
    torch = pytest.importorskip("torch")
    fans = torch.nn.init._calculate_fan_in_and_fan_out
    assert fans(torch.nn.Linear(7, 3).weight) == init.dense_fans(7, 3)
    assert fans(torch.nn.Conv2d(5, 6, (3, 2)).weight) == init.conv_fans(5, 6, (3, 2))
    assert fans(torch.nn.Conv2d(4, 4, 3, groups=4).weight) == (9, 36)  # counted: (9, 9)
    assert fans(torch.nn.ConvTranspose2d(4, 6, 3, stride=2).weight) == (54, 36)  # counted: (9, 54)
    assert init.conv_transpose_fans(4, 6, 3, stride=2) == (9, 54)
