"""The fast convolution on the host computes what the plain one says: any shape, order in memory, number of threads."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import ops, threads
from minidl.ops import conv_numpy

pytestmark = pytest.mark.host("is about NumPy arrays")

RELATIVE = {"float32": 5e-6, "float64": 1e-14}  # of the largest value; measured: 1.7e-6 and 2.4e-15
ORDERS = {"NCHW": (0, 1, 2, 3), "NHWC": (0, 2, 3, 1), "CHWN": (1, 2, 3, 0), "WNCH": (3, 0, 1, 2)}


@pytest.fixture(autouse=True)
def chosen_threads():
    """Every test sets the number of threads it wants."""
    yield
    threads.use(None)


def plain(function, *arrays, **how):
    """The plain version of an operation: the fast one declines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv_numpy, "takes", lambda *_: False)
        return function(*arrays, **how)


def ordered(x, order):
    """The same values, in another order in memory; "gaps" is every second pixel of a larger array."""
    if order == "gaps":
        wide = np.full((*x.shape[:3], 2 * x.shape[3]), np.nan, x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    axes = ORDERS[order]
    return np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))


def close(fast, slow):
    assert fast.shape == slow.shape
    assert fast.dtype == slow.dtype
    np.testing.assert_allclose(fast, slow, rtol=0, atol=RELATIVE[str(slow.dtype)] * np.abs(slow).max())


@st.composite
def cases(draw):
    """(x, w, b, g) and the arguments of a convolution that fits."""
    n, c, o = (draw(st.integers(1, high)) for high in (5, 20, 20))
    kernel = [draw(st.integers(1, 8)) for _ in range(2)]
    padding = tuple(draw(st.integers(0, k)) for k in kernel)  # k: the plain version's
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (2, 1)]))
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    stride = tuple(draw(st.integers(1, 4)) for _ in range(2))
    spans = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    image = [max(1, s) + draw(st.integers(0, 14)) for s in spans]
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    arrays = [
        rng.standard_normal(shape) for shape in ((n, c * groups, *image), (o * groups, c, *kernel), (o * groups,))
    ]
    x, w, b = (array.astype(dtype) for array in arrays)
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    g = rng.standard_normal(plain(ops.conv2d, x, w, **how).shape).astype(dtype)
    orders = st.sampled_from([*ORDERS, "gaps"])
    return ordered(x, draw(orders)), w, draw(st.sampled_from([b, None])), ordered(g, draw(orders)), how


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(cases(), st.integers(1, 3))
def test_all_three_operations_agree_with_the_plain_ones(case, count):
    x, w, b, g, how = case
    arguments = [
        (ops.conv2d, (x, w) if b is None else (x, w, b), how),
        (ops.conv2d_input_grad, (g, w), {"image": x.shape[2:], **how}),
        (ops.conv2d_weight_grad, (x, g), {"kernel": w.shape[2:], **how}),
    ]
    threads.use(count)
    for function, arrays, keywords in arguments:
        close(function(*arrays, **keywords), plain(function, *arrays, **keywords))


NETWORKS = [  # images, weights, stride, padding: layers of LeNet-5, ResNet, VGG and AlexNet
    ((9, 1, 28, 28), (6, 1, 5, 5), 1, 2),
    ((9, 6, 14, 14), (16, 6, 5, 5), 1, 0),
    ((9, 3, 32, 32), (16, 3, 3, 3), 1, 1),
    ((5, 16, 32, 32), (32, 16, 3, 3), 2, 1),
    ((5, 16, 32, 32), (32, 16, 1, 1), 2, 0),
    ((3, 64, 16, 16), (64, 64, 3, 3), 1, 1),
    ((3, 160, 8, 8), (160, 160, 3, 3), 1, 1),
    ((2, 3, 224, 224), (64, 3, 11, 11), 4, 0),
    ((1, 64, 90, 80), (64, 64, 3, 3), 1, 1),
]


def layer(images, weights, stride, padding, dtype="float32"):
    """(x, w, g) and the arguments of the operations."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(images).astype(dtype), rng.standard_normal(weights).astype(dtype)
    how = {"stride": stride, "padding": padding}
    g = rng.standard_normal(plain(ops.conv2d, x, w, **how).shape).astype(dtype)
    return x, w, g, how


def three(x, w, g, how):
    """The result and both gradients."""
    y, dx = ops.conv2d(x, w, **how), ops.conv2d_input_grad(g, w, image=x.shape[2:], **how)
    return y, dx, ops.conv2d_weight_grad(x, g, kernel=w.shape[2:], **how)


@pytest.mark.parametrize(("images", "weights", "stride", "padding"), NETWORKS)
def test_layers_of_real_networks_agree_and_do_not_depend_on_the_threads(images, weights, stride, padding):
    arguments = layer(images, weights, stride, padding)
    assert conv_numpy.takes(arguments[0], arguments[1], weights[2:], (padding, padding), (1, 1), 1)
    truth = plain(three, *layer(images, weights, stride, padding, "float64"))
    for count in (1, 2):
        threads.use(count)
        results = three(*arguments)
        for fast, exact in zip(results, truth, strict=True):
            np.testing.assert_allclose(fast, exact, rtol=0, atol=3e-6 * np.abs(exact).max())
        again = three(*arguments)
        assert all((one == two).all() for one, two in zip(results, again, strict=True))  # to the last bit


@pytest.mark.parametrize(("images", "weights", "stride", "padding"), NETWORKS[:7])
def test_images_come_out_as_channels_last_and_weights_as_ordinary_arrays(images, weights, stride, padding):
    y, dx, dw = three(*layer(images, weights, stride, padding))
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert dx.transpose(0, 2, 3, 1).flags.c_contiguous
    assert dw.flags.c_contiguous


def test_what_lies_in_scratch_from_an_earlier_call_is_never_seen():
    """A larger layer full of not-a-number comes first, in each of the orders."""
    arguments = layer((3, 4, 9, 7), (5, 4, 3, 3), 1, 1)
    clean = three(*arguments)
    for images, weights, stride, padding in NETWORKS[:5]:
        x, w, g, how = layer(images, weights, stride, padding)
        three(x * np.nan, w, g * np.nan, how)
        for before, after in zip(clean, three(*arguments), strict=True):
            assert (before == after).all()


def test_a_not_a_number_spoils_its_own_image_only():
    x, w, _, how = layer((6, 4, 9, 7), (5, 4, 3, 3), 1, 1)
    x[2, 1, 4, 4] = np.nan
    bad = np.isnan(ops.conv2d(x, w, **how)).any(axis=(1, 2, 3))
    assert bad.tolist() == [False, False, True, False, False, False]


def test_two_threads_of_a_user_do_not_disturb_each_other():
    layers = [layer(*NETWORKS[i]) for i in (2, 3)]
    threads.use(2)
    alone = [three(*arguments) for arguments in layers]
    wrong = []

    def work(i):
        for _ in range(20):
            results = three(*layers[i])
            wrong.extend(i for fast, right in zip(results, alone[i], strict=True) if not (fast == right).all())

    users = [threading.Thread(target=work, args=(i,)) for i in (0, 1, 0)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert not wrong


@pytest.mark.parametrize(
    ("x", "w", "groups", "dilation", "why"),
    [
        ("float32", "float64", 1, (1, 1), "mixed types"),
        ("float16", "float16", 1, (1, 1), "half precision"),
        ("float32", "float32", 2, (1, 1), "groups"),
        ("float32", "float32", 1, (2, 1), "dilation"),
    ],
)
def test_other_cases_are_left_to_the_plain_version(x, w, groups, dilation, why):
    arrays = np.zeros((2, 4, 9, 9), x), np.zeros((4, 4 // groups, 3, 3), w)
    assert not conv_numpy.takes(*arrays, (3, 3), (1, 1), dilation, groups), why


def test_an_empty_batch_is_an_empty_result():
    assert ops.conv2d(np.zeros((0, 3, 8, 8), "float32"), np.zeros((4, 3, 3, 3), "float32")).shape == (0, 4, 6, 6)


def test_a_kernel_larger_than_the_image_is_an_error():
    with pytest.raises(ValueError, match="does not fit"):
        ops.conv2d(np.zeros((1, 1, 3, 3), "float32"), np.zeros((1, 1, 5, 5), "float32"))


STEPS = [(step, kernel) for step in range(1, 6) for kernel in range(1, 9) if step == 1 or step + kernel - 1 <= 6]


@pytest.mark.parametrize(("step", "kernel"), STEPS)
def test_the_three_matrices_are_a_sliding_product(step, kernel):
    into, kern, out = conv_numpy._transforms(step, kernel, np.dtype("float64"))
    rng = np.random.default_rng(0)
    rows, weights = rng.standard_normal(step + kernel - 1), rng.standard_normal(kernel)
    np.testing.assert_allclose(out @ ((kern @ weights) * (into @ rows)), np.correlate(rows, weights), atol=1e-13)
