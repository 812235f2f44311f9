"""The engine: what a tensor promises, the walk back, hooks, memory, depth, threads."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor

from minidl import Tensor, grad, hvp, nn, no_grad, ops, optim
from minidl.backend import array_module
from minidl.tensor import OPS, Op


def leaf(values: Any, dtype: str = "float64") -> Tensor:
    return tensor(np.asarray(values, dtype), requires_grad=True)


def equal(x: Any, expected: Any) -> bool:
    return bool(np.array_equal(fetch(x), expected))


def mlp(seed: int = 0) -> nn.Module:
    from minidl import init

    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).to(DEVICE)
    init.apply(model, seed=seed)
    return model


def batch(seed: int = 0, n: int = 16) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return tensor(rng.normal(size=(n, 4)).astype("float32")), tensor(rng.integers(3, size=n))


# ------------------------------------------------------------------------------------------------ what a tensor holds


@pytest.mark.host("what a list becomes")
def test_lists_and_numbers_become_float32_and_whole_numbers_int64():
    assert Tensor([1.0, 2.0]).dtype == Tensor(0.5).dtype == np.float32
    assert Tensor([1, 2]).dtype == Tensor(3).dtype == np.int64
    assert Tensor([True, False]).dtype == np.bool_


@pytest.mark.host("what a host array becomes")
def test_an_array_is_kept_as_it_is():
    array = np.arange(3.0)
    assert Tensor(array).data is array


@pytest.mark.host("what a list becomes")
@pytest.mark.parametrize("data", [["a", "b"], "text", None, [1, None], {"a": 1}, [1j]])
def test_what_is_no_array_of_numbers_is_refused(data):
    with pytest.raises((TypeError, ValueError)):
        Tensor(data)


@pytest.mark.host("what a list becomes")
def test_integers_have_no_gradient():
    with pytest.raises(TypeError, match="only floating-point tensors have gradients; this one is int64"):
        Tensor([1, 2], requires_grad=True)


def test_data_that_requires_a_gradient_cannot_become_integers():
    x = leaf([1.0, 2.0])
    with pytest.raises(TypeError, match="floating-point numbers; got int64"):
        x.data = tensor(np.array([1, 2])).data


def test_data_can_be_replaced_by_the_same_shape_in_another_dtype_and_no_other_shape():
    x = leaf([1.0, 2.0], "float32")
    x.data = tensor(np.array([3.0, 4.0])).data
    assert x.dtype == np.float64
    with pytest.raises(ValueError, match=r"shape \(3,\) does not fit a tensor of shape \(2,\)"):
        x.data = tensor(np.ones(3)).data


def test_shape_size_ndim_length_and_transpose():
    x = tensor(np.ones((2, 3)))
    assert (x.shape, x.size, x.ndim, len(x), x.T.shape) == ((2, 3), 6, 2, 2, (3, 2))


def test_iteration_gives_the_rows():
    assert [fetch(row).tolist() for row in tensor(np.array([[1, 2], [3, 4]]))] == [[1, 2], [3, 4]]


def test_a_tensor_of_one_value_is_a_number():
    assert (
        float(tensor(np.array([2.5]))) == 2.5 and int(tensor(np.array(3))) == 3 and tensor(np.array(1.5)).item() == 1.5
    )


def test_the_truth_of_several_values_is_ambiguous():
    with pytest.raises(ValueError, match="ambiguous"):
        bool(tensor(np.ones(2)))
    assert tensor(np.array(1.0))


def test_only_whole_numbers_can_be_an_index():
    assert [10, 20, 30][tensor(np.array(1))] == 20
    with pytest.raises(TypeError, match="only an integer tensor"):
        [10, 20][tensor(np.array(1.0))]


def test_repr_shows_values_dtype_and_whether_a_gradient_is_wanted():
    assert repr(Tensor([1.0, 2.0])) == "Tensor([1., 2.], dtype=float32)"
    assert "requires_grad=True" in repr(leaf([1.0]))


def test_a_long_tensor_prints_short():
    assert len(repr(tensor(np.zeros(100_000)))) < 100


def test_numpy_gives_an_ordinary_c_ordered_array():
    array = tensor(np.ones((3, 2))).T.numpy()
    assert type(array) is np.ndarray and array.flags.c_contiguous


def test_detach_shares_the_values_and_cuts_the_history():
    y = leaf([1.0, 2.0]) * 2
    assert not y.detach().requires_grad and y.detach().data is y.data


def test_to_another_dtype_is_differentiable():
    x = leaf([1.0, 2.0], "float32")
    (x.to("float64") ** 2).sum().backward()
    assert equal(x.grad, [2, 4]) and x.grad.dtype == np.float32


# ------------------------------------------------------------------------------------------------------ walking back


def test_backward_fills_the_gradient_of_every_leaf():
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    (a * b + a).sum().backward()
    assert equal(a.grad, [4, 5]) and equal(b.grad, [1, 2])


def test_a_leaf_used_in_two_places_gets_both_gradients():
    x = leaf([3.0])
    y = x * x
    (y * x + y).sum().backward()
    assert equal(x.grad, [3 * 9 + 2 * 3])


def test_a_second_loss_adds_to_the_gradient():
    x = leaf([1.0, 2.0])
    (x * 3).sum().backward()
    (x * x).sum().backward()
    assert equal(x.grad, [5, 7])


def test_the_gradient_of_a_tensor_without_axes_is_an_array_too():
    x = leaf(2.0)
    for _ in range(2):
        (x * x).backward()
        assert type(x.grad) is type(x.data) and x.grad.shape == ()
    assert equal(x.grad, 8)


def test_backward_from_a_leaf_itself():
    x = leaf(2.0)
    x.backward()
    assert equal(x.grad, 1)


def test_backward_from_several_values_asks_for_a_gradient():
    y = leaf([1.0, 2.0]) * 2
    with pytest.raises(RuntimeError, match=r"shape \(2,\) needs a gradient of that shape; or .sum\(\) it"):
        y.backward()


def test_backward_takes_a_gradient_as_array_or_tensor():
    for given in (tensor(np.array([1.0, 10.0])), tensor(np.array([1.0, 10.0])).data):
        x = leaf([1.0, 2.0])
        (x * x).backward(given)
        assert equal(x.grad, [2, 40]) and not isinstance(x.grad, Tensor)


def test_the_callers_gradient_is_not_kept_as_a_leafs_gradient():
    x, given = leaf([1.0, 2.0]), tensor(np.ones(2)).data
    (x + 0).backward(given)
    x.grad *= 5
    assert equal(given, [1, 1])


def test_a_gradient_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\) for a tensor of shape \(2,\)"):
        (leaf([1.0, 2.0]) * 2).backward(tensor(np.ones(3)).data)
    with pytest.raises(TypeError, match=r'float64 for a float32 tensor; use gradient.astype\("float32"\)'):
        (leaf([1.0, 2.0], "float32") * 2).backward(tensor(np.ones(2)).data)


def test_nothing_to_differentiate_is_an_error():
    with pytest.raises(RuntimeError, match="no tensor that this one depends on has requires_grad=True"):
        tensor(np.array(1.0)).backward()


def test_a_second_backward_says_what_to_do():
    x = leaf([1.0])
    y = (x * x).sum()
    y.backward()
    with pytest.raises(
        RuntimeError, match=r"freed by an earlier backward\(\). Compute the result again.*create_graph=True"
    ):
        y.backward()


def test_a_second_loss_through_a_freed_part_is_an_error():
    x = leaf([1.0])
    shared = x.tanh()
    (shared * 2).sum().backward()
    with pytest.raises(RuntimeError, match="the graph behind tanh was freed"):
        (shared * 3).sum().backward()


def test_two_leaves_never_share_one_gradient_array():
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    (a + b).sum().backward()
    a.grad *= 100
    assert equal(b.grad, [1, 1])


def test_a_gradient_is_an_array_of_its_own_and_no_view():
    x = leaf(np.ones((2, 3)))
    x.sum().backward()  # the gradient of a sum is one number, repeated
    x.grad[0, 0] = 7
    assert equal(x.grad, [[7, 1, 1], [1, 1, 1]])


def test_a_constant_gets_no_gradient():
    x, constant = leaf([1.0]), tensor(np.array([2.0]))
    (x * constant).sum().backward()
    assert constant.grad is None


def test_the_input_gradient_of_the_first_layer_is_never_computed():
    calls = []

    def rule(g, _y, _x, _w):
        calls.append("x")
        return g

    product: Op = Op(lambda x, w: x * w, True, False)
    product.derivative(rule, lambda g, _y, x, _w: g * x)
    product(tensor(np.ones(2)), leaf([1.0, 2.0])).sum().backward()
    assert calls == []


def test_requires_grad_can_be_set_on_leaves_only():
    x = leaf([1.0])
    x.requires_grad = False
    assert not (x * 2).requires_grad
    with pytest.raises(RuntimeError, match="on leaves only; use .detach"):
        (leaf([1.0]) * 2).requires_grad = False


def test_a_rule_that_returns_nothing_is_an_error():
    broken: Op = Op(lambda x: x * 2, True, False)
    broken.derivative(lambda g, _y, _x: None)
    with pytest.raises(RuntimeError, match="returned None for a wanted gradient"):
        broken(leaf([1.0])).sum().backward()


@pytest.mark.host("reads the register of operations")
def test_a_wrong_number_of_rules_is_refused_when_they_are_given():
    with pytest.raises(TypeError, match="takes 2 arrays but was given 1 derivative rules"):
        Op(lambda a, b: a * b, True, False).derivative(lambda g, _y, _a, _b: g)


# ----------------------------------------------------------------------------------------------------- grad and hvp


def test_grad_leaves_the_grad_attribute_alone():
    x = leaf([1.0, 2.0])
    assert equal(grad((x * x).sum(), x), [2, 4]) and x.grad is None


def test_grad_of_a_list_gives_a_list():
    a, b = leaf([1.0]), leaf([2.0])
    found = grad((a * b * b).sum(), [a, b])
    assert [fetch(g).tolist() for g in found] == [[4], [4]]


def test_grad_with_respect_to_an_intermediate_result():
    x = leaf([1.0, 2.0])
    y = x * x
    g_y, g_x = grad((y * y).sum(), [y, x])
    assert equal(g_y, [2, 8]) and equal(g_x, [4, 32])


def test_a_missing_dependence_is_an_error_and_not_a_zero():
    a, b = leaf([1.0]), leaf([2.0, 3.0])
    with pytest.raises(RuntimeError, match=r"does not depend on tensor 1 of xs \(shape \(2,\)\)"):
        grad((a * 2).sum(), [a, b])


def test_three_derivatives_of_a_power():
    x = leaf(2.0)
    first = grad(x**4, x, create_graph=True)
    second = grad(first, x, create_graph=True)
    third = grad(second, x)
    assert [fetch(d).item() for d in (first, second, third)] == [4 * 8, 12 * 4, 24 * 2]


def test_three_derivatives_of_tanh():
    x = leaf(0.5)
    t = np.tanh(0.5)
    second = grad(grad(x.tanh(), x, create_graph=True), x, create_graph=True)
    assert np.isclose(fetch(second), -2 * t * (1 - t**2))
    assert np.isclose(fetch(grad(second, x)), (1 - t**2) * (6 * t**2 - 2))


def test_create_graph_keeps_the_graph_for_another_walk():
    x = leaf([3.0])
    y = (x * x).sum()
    grad(y, x, create_graph=True)
    y.backward()
    assert equal(x.grad, [6])


def test_a_gradient_penalty_trains_by_backward():
    """d/dw of |∂(w x)²/∂x|² = d/dw (2 w² x)² = 16 w³ x²."""
    w, x = leaf([2.0]), leaf([3.0])
    g = grad(((w * x) ** 2).sum(), x, create_graph=True)
    (g * g).sum().backward()
    assert equal(w.grad, [16 * 8 * 9])


def test_data_replaced_between_forward_and_a_recorded_walk_is_an_error():
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    x.data = x.data * 2
    with pytest.raises(RuntimeError, match="a leaf's data was replaced"):
        grad(y, x, create_graph=True)


def test_hvp_of_a_quadratic_form_is_its_matrix_times_the_vector():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 4))
    a, v = a + a.T, rng.normal(size=4)
    x = leaf(rng.normal(size=4))
    (product,) = hvp(lambda: (x * (tensor(a) @ x)).sum() / 2, [x], [tensor(v).data])
    assert np.allclose(fetch(product), a @ v, rtol=1e-13)


def test_hvp_of_logsumexp_is_the_covariance_of_its_softmax():
    x, v = leaf([0.1, -0.7, 1.3]), np.array([1.0, 2.0, -1.0])
    p = np.exp(fetch(x)) / np.exp(fetch(x)).sum()
    (product,) = hvp(lambda: x.logsumexp(), [x], [tensor(v).data])
    assert np.allclose(fetch(product), p * v - p * (p @ v), rtol=1e-12)


def test_hvp_agrees_with_a_dense_hessian_by_differences():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).to("float64").to(DEVICE)
    x, y = batch()
    x = x.to("float64")
    params = model.parameters()
    sizes = [p.size for p in params]

    def loss() -> Tensor:
        return ops.cross_entropy(model(x), y)

    def gradient_at(flat: np.ndarray) -> np.ndarray:
        for p, part in zip(params, np.split(flat, np.cumsum(sizes)[:-1]), strict=True):
            p.data = tensor(part.reshape(p.shape)).data
        return np.concatenate([fetch(g).ravel() for g in grad(loss(), params)])

    at = np.concatenate([fetch(p).ravel() for p in params])
    step = 1e-5 * np.eye(len(at))
    hessian = np.stack([(gradient_at(at + e) - gradient_at(at - e)) / 2e-5 for e in step])
    gradient_at(at)
    v = np.random.default_rng(1).normal(size=len(at))
    parts = [part.reshape(p.shape) for p, part in zip(params, np.split(v, np.cumsum(sizes)[:-1]), strict=True)]
    product = hvp(loss, params, [tensor(part).data for part in parts])
    flat = np.concatenate([fetch(part).ravel() for part in product])
    assert np.linalg.norm(flat - hessian @ v) <= 1e-7 * np.linalg.norm(flat)


def test_hvp_of_a_linear_function_is_zero():
    a, b = leaf([1.0, 2.0]), leaf([3.0])
    products = hvp(lambda: a.sum() + (b * b).sum(), [a, b], [tensor(np.ones(2)).data, tensor(np.ones(1)).data])
    assert equal(products[0], [0, 0]) and equal(products[1], [2])
    assert equal(hvp(lambda: a.sum(), [a], [tensor(np.ones(2)).data])[0], [0, 0])


# ------------------------------------------------------------------------------------------------------------ hooks


def test_a_hook_on_a_leaf_sees_the_full_gradient_once():
    x, seen = leaf([3.0]), []
    x.register_hook(lambda g: seen.append(fetch(g).tolist()))
    (x * x + x * 2).sum().backward()
    assert seen == [[8]]


def test_a_hook_on_a_result_sees_the_full_gradient_once():
    x, seen = leaf([3.0]), []
    y = x * 2
    y.register_hook(lambda g: seen.append(fetch(g).tolist()))
    (y * y + y * 5 + x).sum().backward()
    assert seen == [[2 * 6 + 5]] and equal(x.grad, [17 * 2 + 1])


def test_what_a_hook_returns_replaces_the_gradient():
    x = leaf([3.0])
    y = x * 2
    y.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    y.sum().backward()
    assert equal(x.grad, [21])


def test_hooks_run_in_the_order_of_their_registration():
    x = leaf([1.0])
    x.register_hook(lambda g: g + 1)
    x.register_hook(lambda g: g * 10)
    (x * 1).sum().backward()
    assert equal(x.grad, [20])


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_a_removed_hook_runs_no_more_and_the_others_do(removed):
    x, seen = leaf([1.0]), []
    handles = [x.register_hook(lambda g, i=i: seen.append(i)) for i in range(3)]
    handles[removed].remove()
    handles[removed].remove()
    (x * 1).sum().backward()
    assert seen == [i for i in range(3) if i != removed]


def test_hooks_of_several_results_run_from_the_loss_backwards():
    x, seen = leaf([1.0]), []
    a = x * 2
    b = a.tanh()
    for name, t in (("x", x), ("b", b), ("a", a)):
        t.register_hook(lambda g, name=name: seen.append(name))
    b.sum().backward()
    assert seen == ["b", "a", "x"]


def test_a_hook_in_a_recorded_walk_gets_a_tensor_and_counts_in_the_second_derivative():
    x = leaf([3.0])
    y = x * x
    y.register_hook(lambda g: g * 2)
    first = grad(y.sum(), x, create_graph=True)
    assert equal(first, [12]) and equal(grad(first.sum(), x), [4])


def test_a_hook_that_changes_the_shape_is_an_error():
    x = leaf([1.0, 2.0])
    x.register_hook(lambda g: g.sum(keepdims=True))
    with pytest.raises(ValueError, match=r"changed a gradient's shape from \(2,\) to \(1,\)"):
        (x * x).sum().backward()


def test_a_hook_where_no_gradient_flows_is_an_error():
    with pytest.raises(RuntimeError, match="a hook on it would never run"):
        tensor(np.ones(2)).register_hook(print)


# ---------------------------------------------------------------------------------------------------------- no_grad


def test_no_grad_records_nothing():
    x = leaf([1.0])
    with no_grad():
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


def test_no_grad_nests():
    x = leaf([1.0])
    with no_grad():
        with no_grad():
            pass
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


def test_no_grad_ends_with_an_exception():
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert (leaf([1.0]) * 2).requires_grad


def test_no_grad_is_a_decorator():
    @no_grad()
    def predict(x: Tensor) -> Tensor:
        return x * 2

    x = leaf([1.0])
    assert not predict(x).requires_grad and not predict(x).requires_grad and (x * 2).requires_grad


def in_threads(*functions: Callable[[], Any]) -> list[Any]:
    """The results of functions that ran at the same time; an exception in one is raised here."""
    results: list[Any] = [None] * len(functions)

    def run(i: int) -> None:
        try:
            results[i] = functions[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    for r in results:
        if isinstance(r, BaseException):
            raise r
    return results


def test_no_grad_in_one_thread_leaves_another_alone():
    x, barrier = leaf([1.0]), threading.Barrier(2, timeout=30)

    def silent() -> bool:
        with no_grad():
            barrier.wait()  # both are inside now
            recorded = (x * 2).requires_grad
            barrier.wait()
        return recorded

    def recording() -> bool:
        barrier.wait()
        recorded = (x * 2).requires_grad
        barrier.wait()
        return recorded

    assert in_threads(silent, recording) == [False, True]


def trained(seed: int, steps: int = 60) -> list[np.ndarray]:
    model = mlp(seed)
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    for step in range(steps):
        x, y = batch(100 * seed + step)
        optimizer.zero_grad()
        ops.cross_entropy(model(x), y).backward()
        optimizer.step()
    return [fetch(p) for p in model.parameters()]


def test_two_threads_train_two_models_as_if_each_were_alone():
    together = in_threads(lambda: trained(1), lambda: trained(2))
    for seed, weights in zip((1, 2), together, strict=True):
        for a, b in zip(weights, trained(seed), strict=True):
            assert np.array_equal(a, b)


# --------------------------------------------------------------------------------------------------- memory and depth


def test_the_graph_is_freed_during_the_walk_back():
    h, arrays, alive = leaf(np.ones(3)), [], []
    for _ in range(5):
        h = h.tanh()
        arrays.append(weakref.ref(h.data))
        h.register_hook(lambda g: alive.append(sum(ref() is not None for ref in arrays)))
    loss = h.sum()
    del h
    loss.backward()
    assert alive == [5, 4, 3, 2, 1]
    assert all(ref() is None for ref in arrays)


def test_an_array_that_no_rule_needs_is_not_kept():
    probe: Op = Op(lambda a, b, c: a + b + c, True, False)
    probe.derivative(lambda g, _y, a, _b, _c: g * a, lambda g, _y, _a, b, _c: g * b, lambda g, _y, _a, _b, c: g * c)
    a, b, c = leaf([1.0]) * 2, leaf([1.0]) * 2, tensor(np.ones(1))
    refs = [weakref.ref(t.data) for t in (a, b, c)]
    y = probe(a, b.detach(), c)
    b = c = a = None
    assert [ref() is not None for ref in refs] == [True, False, False]
    y.sum().backward()


def test_joined_arrays_are_not_kept():
    for join in (ops.concat, ops.stack):
        x = leaf(np.ones(3)) * 2
        ref = weakref.ref(x.data)
        y = join([x, x])
        del x
        assert ref() is None
        y.sum().backward()


def test_a_result_that_no_rule_needs_is_not_kept():
    x = leaf(np.ones(3))
    y = x * 2
    ref = weakref.ref(y.data)
    loss = y.sum()
    del y
    assert ref() is None and loss.requires_grad


def test_a_hook_that_holds_its_own_tensor_is_no_leak():
    gc.collect()
    gc.disable()
    try:
        x = leaf(np.ones(3))
        y = x.tanh()
        ref = weakref.ref(y)
        y.register_hook(lambda g, y=y: g * y.data)
        loss = y.sum()
        loss.backward()
        del y, loss
        assert ref() is None
    finally:
        gc.enable()


def resident_bytes() -> int:
    """Memory of this process; where the system does not say, what Python has allocated."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return tracemalloc.get_traced_memory()[0]


def test_ten_thousand_steps_keep_memory_flat_without_the_cycle_collector():
    model, (x, y) = mlp(), batch()
    optimizer = optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        loss = ops.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    gc.collect()
    gc.disable()
    if not Path("/proc/self/statm").exists():
        tracemalloc.start()
    try:
        for _ in range(1000):
            step()
        before = resident_bytes()
        for _ in range(10_000):
            step()
        grown = resident_bytes() - before
        garbage = gc.collect()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert grown < 1_000_000, f"{grown / 1e6:.1f} MB grown in 10 000 steps"  # 100 bytes a step
    assert garbage < 100


def test_a_recorded_second_derivative_leaves_no_cycle():
    x = leaf([1.0, 2.0])
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            hvp(lambda: (x.tanh() * x).sum(), [x], [x.data])
        assert gc.collect() == 0
    finally:
        gc.enable()


DEEP = """
import sys, threading
from minidl import Tensor, grad

def chain(n):
    x = Tensor([0.5], requires_grad=True)
    y = x
    for _ in range(n):
        y = y * 1.0
    return x, y.sum()

def main():
    n = int(sys.argv[1])
    x, y = chain(n)
    y.backward()
    assert x.grad.tolist() == [1.0]
    del y
    x, y = chain(n)
    del x, y                                   # deleted without a walk back
    x, y = chain(n)
    g = grad(y, x, create_graph=True)          # twice as deep
    del y
    assert g.tolist() == [1.0] if hasattr(g, "tolist") else g.numpy().tolist() == [1.0]
    del x, g
    print("done")

threading.stack_size(512 * 1024)               # as small as a thread of macOS
t = threading.Thread(target=main)
t.start()
t.join()
"""


@pytest.mark.host("runs in a Python of its own")
@pytest.mark.parametrize("depth", [10_000, 100_000])
def test_a_deep_graph_goes_forward_back_and_away(depth):
    done = subprocess.run(
        [sys.executable, "-c", DEEP, str(depth)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0 and done.stdout.strip() == "done", done.stderr[-500:]


def test_a_copied_model_is_independent_and_computes_the_same():
    model, (x, y) = mlp(), batch()
    ops.cross_entropy(model(x), y).backward()
    twin = copy.deepcopy(model)
    assert np.array_equal(fetch(model(x)), fetch(twin(x)))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert type(q) is nn.Parameter and q.requires_grad and np.array_equal(fetch(p.grad), fetch(q.grad))
        q.data += 1
        q.grad += 1
        assert not np.allclose(fetch(p), fetch(q)) and not np.allclose(fetch(p.grad), fetch(q.grad))


def test_a_shared_parameter_stays_shared_in_a_copy():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight
    twin = copy.deepcopy(nn.Sequential(a, b).to(DEVICE))
    assert twin[0].weight is twin[1].weight and twin[0].weight is not a.weight


def test_only_leaves_can_be_copied():
    with pytest.raises(RuntimeError, match="only leaves can be copied; .detach"):
        copy.deepcopy(leaf([1.0]) * 2)


# -------------------------------------------------------------------------------------- precision and NumPy's functions


def test_float64_that_meets_float32_is_an_error_that_says_what_to_do():
    with pytest.raises(TypeError, match=r'float32 meets float64 .*\.astype\("float32"\)'):
        tensor(np.ones(2, "float32")) * tensor(np.ones(2))
    with pytest.raises(TypeError, match=r'\.astype\("float32"\)'):
        nn.Linear(2, 2).to(DEVICE)(tensor(np.ones((1, 2))))


def test_whole_numbers_that_would_widen_float32_are_an_error_that_says_what_to_do():
    with pytest.raises(TypeError, match=r'multiply: float32 meets whole numbers.*\.astype\("float32"\)'):
        tensor(np.ones(2, "float32")) * tensor(np.array([1, 2]))


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: np.sqrt(2) * x,
        lambda x: x * np.float64(2),
        lambda x: x + 0.5,
        lambda x: 1 / x,
        lambda x: x**2,
        lambda x: x**0.5,
        lambda x: 2**x,
        lambda x: 2.5**x,
        lambda x: x * (x > 1),
        lambda x: ops.where(x > 1, x, 0.5),
        lambda x: ops.maximum(0.5, x),
        lambda x: x / x.size,
        lambda x: -abs(x),
    ],
)
def test_numbers_and_masks_leave_float32_as_it_is(compute):
    for values in (2.0, [1.0, 2.0]):
        x = leaf(values, "float32")
        y = compute(x)
        assert y.dtype == np.float32
        y.sum().backward()
        assert x.grad.dtype == np.float32
        first = grad(compute(x).sum(), x, create_graph=True)
        assert first.dtype == np.float32


def test_an_array_beside_a_tensor_takes_part_in_the_graph():
    x, a = leaf([1.0, 2.0]), tensor(np.array([3.0, 4.0])).data
    for y in (a * x, x * a):
        assert isinstance(y, Tensor)
        assert equal(grad(y.sum(), x), [3, 4])
    assert equal(grad((a - x).sum(), x), [-1, -1]) and equal(grad((a @ x), x), [3, 4])
    assert equal(a > x, [True, True])


@pytest.mark.skipif(DEVICE != "cpu", reason="NumPy's functions take NumPy's arrays")
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("np.tanh", np.tanh),
        ("np.mean", np.mean),
        ("np.sum", np.sum),
        ("np.concatenate", lambda x: np.concatenate([x, x])),
        ("np.asarray", np.asarray),
        ("np.asarray", lambda x: np.array([x, x])),
    ],
)
def test_numpys_functions_refuse_a_tensor_and_say_what_to_do(name, call):
    with pytest.raises(TypeError, match=rf"{name} was given a minidl Tensor.*minidl.ops.*x.numpy\(\)"):
        call(leaf([1.0, 2.0]))


def test_an_array_is_never_changed_in_place_by_a_tensor():
    a = tensor(np.ones(2)).data
    with pytest.raises(TypeError):
        a += leaf([1.0, 2.0])


# ------------------------------------------------------------------------------------------ how operations are called


def test_static_parameters_may_follow_positionally():
    x = tensor(np.arange(6.0).reshape(2, 3))
    assert equal(x.sum(0), [3, 5, 7]) and x.sum(0, True).shape == (1, 3)
    assert x.reshape(3, 2).shape == x.reshape((3, 2)).shape == (3, 2) and x.reshape(-1).shape == (6,)
    assert x.transpose(1, 0).shape == (3, 2) and equal(x.clip(1, 4), np.arange(6.0).reshape(2, 3).clip(1, 4))


def test_an_array_given_by_name_goes_to_its_place():
    x, w, b = tensor(np.ones((2, 3))), leaf(np.ones((4, 3))), leaf(np.zeros(4))
    y = ops.linear(x, w=w, b=b)
    y.sum().backward()
    assert type(y.data) is type(x.data) and equal(b.grad, [2] * 4)
    image, kernel, bias = tensor(np.ones((1, 1, 2, 2))), leaf(np.ones((1, 1, 1, 1))), leaf(np.zeros(1))
    ops.conv2d(image, kernel, b=bias, padding=1).sum().backward()
    assert equal(bias.grad, [16])


def test_lists_beside_a_tensor_are_arrays():
    assert equal(ops.add(tensor(np.ones(2, "float32")), [1.0, 2.0]), [2, 3])


@pytest.mark.host("reads the register of operations")
def test_every_operation_but_the_odd_ones_is_a_method():
    for name in ("tanh", "sum", "softmax", "matmul", "conv2d", "cross_entropy", "reshape"):
        assert callable(getattr(Tensor, name))
    assert not hasattr(Tensor, "scatter_add")


@pytest.mark.host("reads the register of operations")
def test_a_name_can_be_taken_once():
    from minidl.tensor import op

    known = dict(OPS)
    with pytest.raises(ValueError, match="there is an operation 'tanh' already"):

        @op
        def tanh(x: Any) -> Any:
            return array_module(x).tanh(x)

    assert known == OPS


@pytest.mark.host("reads the register of operations")
def test_a_notebook_cell_that_is_run_again_replaces_its_operation():
    from minidl.tensor import op

    def cell(factor: int) -> Op:
        @op
        def scaled_here(x: Any) -> Any:
            return factor * x

        scaled_here.derivative(lambda g, _y, _x: factor * g)
        return scaled_here

    try:
        cell(2)
        again = cell(3)
        assert OPS["scaled_here"] is again
        assert Tensor([1.0]).scaled_here().item() == 3
    finally:
        del OPS["scaled_here"], Tensor.scaled_here


def test_a_rule_that_widens_the_gradient_is_refused_where_it_happens():
    x = tensor(np.ones(3, "float32"), requires_grad=True)
    operation = Op(lambda a: a * 2, True, False)
    operation.derivative(lambda g, _y, _a: g * array_module(g).ones(3))
    with pytest.raises(TypeError, match="returned float64 for a float32 argument; .* Python numbers"):
        operation(x).sum().backward()


@pytest.mark.parametrize("move", [lambda: tensor([1.0]).to("cuda"), lambda: nn.Linear(1, 1).to(DEVICE).to("cuda")])
def test_an_unknown_device_is_told_the_known_ones(move):
    with pytest.raises(ValueError, match="unknown device or dtype 'cuda'; known: cpu, float32, float64, gpu"):
        move()


@pytest.mark.parametrize("loss", [ops.cross_entropy, ops.nll])
def test_float_labels_of_any_precision_are_told_to_be_whole_numbers(loss):
    scores = tensor(np.zeros((2, 3), "float32"), requires_grad=True)
    for dtype in ("float32", "float64"):
        with pytest.raises(TypeError, match=rf'labels are class numbers, so whole numbers; got {dtype}. Use .*"int64"'):
            loss(scores, tensor(np.zeros(2, dtype)).data)
