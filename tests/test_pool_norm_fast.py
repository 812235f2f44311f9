"""The fast forms of pooling, batch normalization, rectifier and sums against plain ones, in any order of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor

from minidl import Tensor, nn, ops, threads
from minidl.ops.norm import plain_batch_norm
from minidl.ops.reduce import channel_rows

ORDERS = ["NCHW", "NHWC", "NHWC backwards", "CHWN", "broadcast"]


def laid_out(x: np.ndarray, order: str) -> np.ndarray:
    """The same image (N, C, H, W) in another order of memory."""
    if order == "NHWC":
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if order == "NHWC backwards":
        return laid_out(x[:, :, :, ::-1], "NHWC")[:, :, :, ::-1]
    if order == "CHWN":
        return np.ascontiguousarray(x.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
    if order == "broadcast":
        return np.broadcast_to(x[:, :, :1, :1], x.shape)
    return x


def is_channels_last(x: Any) -> bool:
    return bool(x.transpose(0, 2, 3, 1).flags.c_contiguous)


def image(shape: tuple[int, ...], seed: int = 0, dtype: str = "float32", ties: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(-2, 3, shape) if ties else rng.normal(size=shape)).astype(dtype)


# ------------------------------------------------------------------------------------------------------------- pooling


def scanned_max_pool(x: np.ndarray, g: np.ndarray, kernel: Any, stride: Any, padding: Any) -> Any:
    """Largest value and gradient, window by window in reading order."""
    (kh, kw), (sh, sw), (ph, pw) = (np.broadcast_to(v, 2) for v in (kernel, stride, padding))
    framed = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=-np.inf)
    back, y = np.zeros_like(framed), np.empty_like(g)
    for n, c, i, j in np.ndindex(*g.shape):
        window = framed[n, c, i * sh : i * sh + kh, j * sw : j * sw + kw]
        row, column = np.unravel_index(window.argmax(), window.shape)  # the first of equal values
        y[n, c, i, j] = window[row, column]
        back[n, c, i * sh + row, j * sw + column] += g[n, c, i, j]
    return y, back[:, :, ph : ph + x.shape[2], pw : pw + x.shape[3]]


POOLS = [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((3, 2), (2, 1), (1, 0)), (2, 3, 0), (1, 1, 0), ((1, 4), (1, 2), (0, 2))]


@pytest.mark.parametrize("channels", [1, 3, 20])
@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
@pytest.mark.parametrize("order", ORDERS)
def test_max_pool_and_its_gradient_are_those_of_a_scan_also_with_ties(order, kernel, stride, padding, channels):
    x = laid_out(image((2, channels, 7, 6), ties=True), order)
    leaf = tensor(x, requires_grad=True)
    y = ops.max_pool2d(leaf, kernel_size=kernel, stride=stride, padding=padding)
    g = laid_out(image(y.shape, 1), order)
    (y * tensor(g)).sum().backward()
    expected, back = scanned_max_pool(x, g, kernel, stride, padding)
    assert np.array_equal(fetch(y), expected)
    assert np.allclose(fetch(leaf.grad), back, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
@pytest.mark.parametrize("order", ORDERS)
def test_mean_pool_and_its_gradient_are_those_of_the_windows(order, kernel, stride, padding):
    x = laid_out(image((2, 3, 7, 6), dtype="float64"), order)
    leaf = tensor(x, requires_grad=True)
    y = ops.avg_pool2d(leaf, kernel_size=kernel, stride=stride, padding=padding)
    (kh, kw), (sh, sw), (ph, pw) = (np.broadcast_to(v, 2) for v in (kernel, stride, padding))
    framed = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    windows = np.lib.stride_tricks.sliding_window_view(framed, (kh, kw), axis=(2, 3))[:, :, ::sh, ::sw]
    assert np.allclose(fetch(y), windows.mean(axis=(4, 5)), rtol=1e-13)
    g, v = image(y.shape, 1, "float64"), image(x.shape, 2, "float64")
    (y * tensor(g)).sum().backward()
    along = fetch(ops.avg_pool2d(tensor(v), kernel_size=kernel, stride=stride, padding=padding))
    assert np.isclose((fetch(leaf.grad) * v).sum(), (g * along).sum(), rtol=1e-12)  # pooling is linear


@pytest.mark.host("the order of memory is NumPy's")
@pytest.mark.parametrize("padding", [0, 1])
def test_pooling_and_its_gradient_stay_channels_last(padding):
    x = Tensor(laid_out(image((2, 6, 8, 8)), "NHWC"), requires_grad=True)
    for pool in (ops.max_pool2d, ops.avg_pool2d):
        y = pool(x, kernel_size=2, padding=padding)
        assert is_channels_last(y.data)
        back = y._node.op.rules[0](y.data, y.data, x.data, **y._node.static)
        assert back.strides[1] == back.itemsize


@pytest.mark.host("threads are for the host")
def test_a_large_batch_in_parts_and_threads_is_pooled_as_one_image_after_the_other():
    x = laid_out(image((37, 16, 32, 32), ties=True), "NHWC")
    how: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1}
    one = [ops.max_pool2d.function(x[i : i + 1], **how) for i in range(len(x))]
    g = image((37, 16, 16, 16), 1)
    back = [ops.window_scatter(g[i : i + 1], place=kept, image=(32, 32), **how) for i, (_, kept) in enumerate(one)]
    threads.use(2)
    try:
        y, kept = ops.max_pool2d.function(x, **how)
        whole = ops.window_scatter(g, place=kept, image=(32, 32), **how)
    finally:
        threads.use(None)
    assert np.array_equal(y, np.concatenate([y for y, _ in one]))
    assert np.array_equal(whole, np.concatenate(back))


# ------------------------------------------------------------------------------------------------- batch normalization


def normalized(function: Any, x: np.ndarray, weight: Any, bias: Any, g: np.ndarray) -> list[np.ndarray]:
    """Result and gradients of x, γ, β."""
    leaves = [tensor(a, requires_grad=True) for a in (x, weight, bias) if a is not None]
    y = function(*leaves)
    (y * tensor(g)).sum().backward()
    return [fetch(y), *(fetch(leaf.grad) for leaf in leaves)]


@pytest.mark.parametrize("order", [*ORDERS, "(N, C)"])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_agrees_with_single_operations_to_rounding(order, affine):
    x, g = image((6, 5, 3, 7), 3, "float64"), image((6, 5, 3, 7), 4, "float64")
    x, g = (x[:, :, 0, 0], g[:, :, 0, 0]) if order == "(N, C)" else (laid_out(x, order), laid_out(g, order))
    weight, bias = (image((5,), 5, "float64"), image((5,), 6, "float64")) if affine else (None, None)
    fast = normalized(lambda *a: ops.batch_norm(*a, eps=1e-3), x, weight, bias, g)
    plain = normalized(lambda *a: plain_batch_norm(*a, eps=1e-3), x, weight, bias, g)
    for a, b in zip(fast, plain, strict=True):
        assert np.allclose(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (4.0, 1.0), (30.0, 1.0), (1e4, 1.0), (3.0, 0.0), (1e-3, 1e-6)])
def test_batch_norm_in_float32_keeps_its_digits_far_from_zero(mean, std):
    x, g = image((32, 8, 16, 16), 7) * np.float32(std) + np.float32(mean), image((32, 8, 16, 16), 8)
    x[:, 0] = 0  # a channel beside it that is dead
    exact = normalized(plain_batch_norm, *(a.astype("float64") for a in (x, np.ones(8), np.zeros(8), g)))
    ones, zeros = np.ones(8, "float32"), np.zeros(8, "float32")
    fast = normalized(ops.batch_norm, laid_out(x, "NHWC"), ones, zeros, laid_out(g, "NHWC"))
    plain = normalized(plain_batch_norm, x, ones, zeros, g)
    for a, b, right in zip(fast, plain, exact, strict=True):
        size = np.abs(right).max()
        assert np.abs(a - right).max() <= 2 * np.abs(b - right).max() + 4e-6 * size


@pytest.mark.parametrize("order", ORDERS)
def test_the_running_averages_are_those_of_mean_and_unbiased_variance(order):
    x = laid_out(image((5, 3, 4, 2), 13) * 2 + 7, order)
    layer = nn.BatchNorm2d(3, momentum=0.3).to(DEVICE)
    layer(tensor(x))
    assert np.allclose(fetch(layer.running_mean), 0.3 * x.mean(axis=(0, 2, 3)), rtol=1e-5)
    assert np.allclose(fetch(layer.running_var), 0.7 + 0.3 * x.var(axis=(0, 2, 3), ddof=1), rtol=1e-5)
    assert layer.running_mean.dtype == layer.running_var.dtype == np.float32


@pytest.mark.host("the order of memory is NumPy's")
def test_batch_norm_and_its_gradient_stay_channels_last():
    x = Tensor(laid_out(image((2, 6, 8, 8)), "NHWC"), requires_grad=True)
    y = ops.batch_norm(x)
    assert is_channels_last(y.data)
    back = y._node.op.joint_rule(y.data, None, x.data, needs=(True,), **y._node.static)
    assert is_channels_last(back[0])


@pytest.mark.host("threads are for the host")
def test_two_threads_normalize_like_one():
    x, g = (laid_out(image((33, 16, 32, 32), seed), "NHWC") for seed in (14, 15))
    found = []
    for count in (1, 2):
        threads.use(count)
        try:
            leaf = Tensor(x, requires_grad=True)
            y = ops.batch_norm(leaf)
            y.backward(g)
            found.append((y.data, leaf.grad))
        finally:
            threads.use(None)
    for a, b in zip(*found, strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------- rectifier, sums, means


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4, 5), (9, 8, 96, 96)])
def test_the_gradient_of_the_rectifier_passes_where_the_result_is_positive(shape, dtype):
    x, g = image(shape, 16, dtype, ties=True), image(shape, 17, dtype)
    leaf = tensor(np.asarray(x), requires_grad=True)
    y = ops.relu(leaf)
    y.backward(tensor(np.asarray(g)).data)
    assert np.array_equal(fetch(y), np.where(x > 0, x, 0))
    assert np.array_equal(fetch(leaf.grad), np.where(x > 0, g, 0))
    assert fetch(leaf.grad).dtype == dtype


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("every", [1, 2])
def test_the_rectifier_follows_any_order_of_memory(order, every):
    """Large enough for the long rows, with numbers left over; ``every`` 2: a view with holes."""
    x, g = (laid_out(image((3, 5, 70, 99), seed, "float32"), order)[:, :, ::every] for seed in (26, 27))
    leaf = tensor(x, requires_grad=True)
    y = ops.relu(leaf)
    y.backward(tensor(g).data)
    assert np.array_equal(fetch(y), np.maximum(x, 0))
    assert np.array_equal(fetch(leaf.grad), np.where(x > 0, g, 0))


def test_a_result_of_minus_zero_stops_the_gradient():
    leaf = tensor(np.array([-0.0, 0.0, 1.0], "float32"), requires_grad=True)
    ops.relu(leaf).sum().backward()
    assert np.array_equal(fetch(leaf.grad), [0, 0, 1])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("axis", [(2, 3), (0, 2, 3), (3, 2, 0), (-1, -2), (1, 2), 1, None])
@pytest.mark.parametrize("keepdims", [True, False])
def test_sum_and_mean_of_images_in_any_order_of_memory(order, axis, keepdims):
    x = laid_out(image((3, 5, 4, 6), 18, "float64"), order)
    for name in ("sum", "mean"):
        leaf = tensor(x, requires_grad=True)
        y = getattr(ops, name)(leaf, axis=axis, keepdims=keepdims)
        expected = getattr(np, name)(x, axis=axis, keepdims=keepdims)
        assert fetch(y).shape == expected.shape
        assert np.allclose(fetch(y), expected, rtol=1e-12)
        y.sum().backward()
        share = 1 if name == "sum" else expected.size / x.size
        assert np.allclose(fetch(leaf.grad), share, rtol=1e-12)


def test_a_sum_over_images_in_float32_does_not_drift():
    x = laid_out(np.full((64, 4, 64, 64), 0.1, "float32"), "NHWC")
    y = fetch(ops.sum(tensor(x), axis=(0, 2, 3)))
    assert np.allclose(y, 64**3 * np.float64(np.float32(0.1)), rtol=2e-6)


@pytest.mark.host("rows are NumPy's")
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (7, 3, 5, 5), (2, 5000, 1, 1), (31, 16, 1, 1), (13, 2), (32, 16, 32, 32)]
)
def test_rows_hold_whole_pixels_and_share_the_memory(shape):
    x = image(shape)
    x = laid_out(x, "NHWC") if len(shape) == 4 else x
    rows = channel_rows(x)
    assert rows.size == x.size
    assert rows.shape[1] % shape[1] == 0
    assert rows.shape[1] <= max(4096, shape[1])
    assert np.shares_memory(rows, x)
    assert np.array_equal(rows.reshape(-1, shape[1])[-1], x.reshape(shape[0], shape[1], -1)[-1, :, -1])
