"""Every operation against central differences, NumPy, and closed forms: one walk over ``OPS``, then what is special."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor
from draw import Draw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minidl import Tensor, grad, ops
from minidl.backend import array_module
from minidl.tensor import OPS, Op

FIRST_ORDER, SECOND_ORDER, SAME = 1e-6, 1e-5, 1e-12  # relative errors allowed
STEP = 1e-3  # of the four-point differences; kinks lie at least 0.03 away

walk = settings(
    max_examples=20, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

Example = Callable[[Draw], tuple[tuple[Any, ...], dict[str, Any]]]


# ------------------------------------------------------------------------------------- the check that the walk applies


def check(
    function: Callable[..., Any], args: tuple[Any, ...], static: dict[str, Any], rng: np.random.Generator
) -> None:
    """Everything a differentiable function promises at one input. Raises AssertionError that says what is wrong."""
    Check(function, args, static, rng).everything()


class Check:
    """One function at one input.

    The result is projected on a random array ``r``, which makes it a number F; its gradients are compared with
    differences of F along random directions, relative to the length of the gradient.
    """

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], static: dict[str, Any], rng: np.random.Generator
    ) -> None:
        self.function, self.args, self.rng = function, args, rng
        self.static = {name: on_device(value) for name, value in static.items()}
        self.wanted = [i for i, a in enumerate(args) if is_float(a) and has_rule(function, i)]
        self.r = rng.uniform(0.5, 1.5, fetch(self.raw(args)).shape) * rng.choice([-1, 1])
        self.directions = [
            [rng.uniform(0.5, 1.5, args[i].shape) * rng.choice([-1, 1], args[i].shape) for i in self.wanted]
            for _ in range(2)
        ]

    def everything(self) -> None:
        assert self.wanted, "no argument is differentiable"
        self.arrays_and_tensors_give_the_same()
        gradients = self.gradients(self.args)
        self.first_order(gradients)
        self.tensor_mode_agrees(gradients)
        self.each_argument_alone(gradients)
        self.second_order()
        self.float32_stays_float32()

    # ---- ways to compute

    def raw(self, args: tuple[Any, ...]) -> Any:
        return self.function(*(on_device(a) for a in args), **self.static)

    def value(self, args: tuple[Any, ...]) -> float:
        return float((fetch(self.raw(args)) * self.r).sum())

    def leaves(self, args: tuple[Any, ...], wanted: list[int]) -> list[Any]:
        return [tensor(a, requires_grad=i in wanted) if is_array(a) else a for i, a in enumerate(args)]

    def gradients(self, args: tuple[Any, ...], wanted: list[int] | None = None) -> list[np.ndarray]:
        """By ``backward()``, which runs the rules on arrays."""
        wanted = self.wanted if wanted is None else wanted
        xs = self.leaves(args, wanted)
        y = self.function(*xs, **self.static)
        y.backward(tensor(self.r.astype(fetch(y).dtype)).data)
        for i in wanted:
            assert xs[i].grad is not None, f"argument {i} got no gradient"
            assert xs[i].grad.shape == xs[i].shape, f"gradient of argument {i} has shape {xs[i].grad.shape}"
        return [fetch(xs[i].grad) for i in wanted]

    def recorded(self, dtype: str = "float64") -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """By ``grad(create_graph=True)``, which runs the rules on Tensors; the projection is a leaf too."""
        xs = self.leaves(tuple(a.astype(dtype) if is_float(a) else a for a in self.args), self.wanted)
        wanted = [xs[i] for i in self.wanted]
        y = self.function(*xs, **self.static)
        r = tensor(self.r.astype(fetch(y).dtype), requires_grad=True)
        return wanted, r, grad((y * r).sum(), wanted, create_graph=True)

    # ---- what is promised

    def arrays_and_tensors_give_the_same(self) -> None:
        y = self.function(*self.leaves(self.args, self.wanted), **self.static)
        assert isinstance(y, Tensor) and not isinstance(self.raw(self.args), Tensor)
        assert np.array_equal(fetch(y), fetch(self.raw(self.args))), "arrays and Tensors give different results"

    def first_order(self, gradients: list[np.ndarray]) -> None:
        for direction in self.directions:
            for k, i in enumerate(self.wanted):
                along = slope(lambda t, i=i, v=direction[k]: self.value(moved(self.args, i, t * v)))
                near(along, (gradients[k] * direction[k]).sum(), gradients[k], FIRST_ORDER, f"gradient of argument {i}")

    def tensor_mode_agrees(self, gradients: list[np.ndarray]) -> None:
        for i, g, recorded in zip(self.wanted, gradients, self.recorded()[2], strict=True):
            error = np.linalg.norm(g - fetch(recorded)) / max(np.linalg.norm(g), 1e-30)
            assert error <= SAME, f"argument {i}: the rule gives other values on Tensors than on arrays ({error:.1e})"

    def each_argument_alone(self, gradients: list[np.ndarray]) -> None:
        for i, g in zip(self.wanted, gradients, strict=True):
            alone = self.gradients(self.args, [i])[0]
            assert np.allclose(alone, g, rtol=SAME, atol=1e-14), f"argument {i} alone gets another gradient"

    def second_order(self) -> None:
        """The gradient of <v, gradient>, with respect to every argument and to the projection."""
        v = self.directions[0]
        leaves, r, gradients = self.recorded()
        terms = [(g * tensor(vi)).sum() for g, vi in zip(gradients, v, strict=True)]
        sum(terms[1:], terms[0]).backward()
        seconds = [np.zeros(x.shape) if x.grad is None else fetch(x.grad) for x in leaves]

        def projected_gradient(args: tuple[Any, ...]) -> float:
            return float(sum((g * vi).sum() for g, vi in zip(self.gradients(args), v, strict=True)))

        for k, i in enumerate(self.wanted):
            u = self.directions[1][k]
            along = slope(lambda t, i=i, u=u: projected_gradient(moved(self.args, i, t * u)))
            scale = max(np.linalg.norm(seconds[k]), *(1e-3 * np.linalg.norm(fetch(g)) for g in gradients))
            near(along, (seconds[k] * u).sum(), scale, SECOND_ORDER, f"second derivative of argument {i}")

        def along_v(t: float) -> float:
            args = self.args
            for i, vi in zip(self.wanted, v, strict=True):
                args = moved(args, i, t * vi)
            return self.value(args)

        assert r.grad is not None, "the gradient does not depend on what arrives"
        near(
            slope(along_v), (fetch(r.grad) * self.r).sum(), gradients_length(gradients), SECOND_ORDER, "linearity in g"
        )

    def float32_stays_float32(self) -> None:
        small = tuple(a.astype("float32") if is_float(a) else a for a in self.args)
        y = self.raw(small)
        if self.static.get("dtype") is None:  # astype is asked for another type
            assert fetch(y).dtype == np.float32, f"float32 in, {fetch(y).dtype} out"
        for i, g in zip(self.wanted, self.gradients(small), strict=True):
            assert g.dtype == np.float32, f"float32 argument {i} got a {g.dtype} gradient"
        leaves, _, gradients = self.recorded("float32")
        assert all(g.dtype == np.float32 for g in gradients), "a recorded gradient is not float32"
        sum((g * g).sum() for g in gradients).backward()
        assert all(x.grad is None or x.grad.dtype == np.float32 for x in leaves), "a second derivative is not float32"


def is_array(a: Any) -> bool:
    return isinstance(a, np.ndarray)


def is_float(a: Any) -> bool:
    return is_array(a) and a.dtype.kind == "f"


def has_rule(function: Any, i: int) -> bool:
    if not isinstance(function, Op) or function.joint_rule is not None:
        return True
    return i < len(function.rules) and function.rules[i] is not None


def on_device(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(on_device(v) for v in value)
    return tensor(value).data if is_array(value) else value


def moved(args: tuple[Any, ...], i: int, by: np.ndarray) -> tuple[Any, ...]:
    return (*args[:i], np.asarray(args[i] + by), *args[i + 1 :])


def slope(f: Callable[[float], float]) -> float:
    """f'(0) by four points: the error is of order STEP⁴."""
    return (8 * (f(STEP) - f(-STEP)) - (f(2 * STEP) - f(-2 * STEP))) / (12 * STEP)


def gradients_length(gradients: list[Tensor]) -> float:
    return math.sqrt(sum(float((fetch(g) ** 2).sum()) for g in gradients))


def near(numeric: float, exact: float, scale: Any, allowed: float, what: str) -> None:
    error = abs(numeric - exact) / max(float(np.linalg.norm(scale)), 1e-3)
    assert error <= allowed, f"{what}: differences say {numeric:.10g}, the rule {exact:.10g} (relative {error:.1e})"


def missing(operation: Op) -> str:
    """What a registered operation lacks, in words; empty if nothing."""
    if not operation.differentiable:
        return ""
    if operation.joint_rule is None and not any(operation.rules):
        return f"{operation.name} has no derivative rule; give it one, or declare it differentiable=False"
    if not operation.examples:
        return f"{operation.name} has no example to check its rule with"
    return ""


# -------------------------------------------------------------------------------------------------- the walk over OPS


@pytest.mark.host("reads the register of operations")
@pytest.mark.parametrize("name", sorted(OPS))
def test_every_operation_has_a_rule_and_an_example(name):
    assert not missing(OPS[name])


def _examples() -> Iterator[Any]:
    for name, operation in sorted(OPS.items()):
        for k, example in enumerate(operation.examples):
            yield pytest.param(operation, example, id=f"{name}-{k}")


@pytest.mark.parametrize(("operation", "example"), list(_examples()))
@walk
@given(data=st.data())
def test_derivatives_of_every_operation(operation, example, data):
    draw = Draw.of(data)
    args, static = example(draw)
    if "device" in static:  # a copy to where everything else is; tests/test_strict.py copies to and fro
        static = {**static, "device": DEVICE}
    check(operation, args, static, draw.rng)


@pytest.mark.parametrize("name", sorted(name for name, operation in OPS.items() if not operation.differentiable))
def test_an_operation_that_is_not_differentiable_gives_a_result_without_history(name):
    operation = OPS[name]
    args = [tensor(np.array([0.5, -1.0]), requires_grad=True) for _ in range(operation.arity)]
    assert not operation(*args).requires_grad


# -------------------------------------------------------------------------------- the walk catches what it should catch


def planted(function: Callable[..., Any], *rules: Any, example: Example | None = None) -> Op:
    """An operation outside the registry."""
    operation: Op = Op(function, True, False)
    if rules:
        operation.derivative(*rules)
    operation.examples = [] if example is None else [example]
    return operation


def tanh_forward(x: Any) -> Any:
    return array_module(x).tanh(x)


def half_square(x: Any) -> Any:
    return x * x / 2


def multiply(a: Any, b: Any) -> Any:
    return a * b


def square_matmul(a: Any, b: Any) -> Any:
    return a @ b


def _vector(draw: Draw) -> Any:
    return (draw.array((5,)),), {}


def _two(draw: Draw) -> Any:
    return (draw.array((3, 3)), draw.array((3, 3))), {}


def _wide(draw: Draw) -> Any:
    return (draw.array((2, 3)), draw.array((3,))), {}


def _faintly_wrong(g: Any, y: Any, _x: Any) -> Any:
    return g * (1 - y * y) * tensor(np.array([1.0, 1.0, 1.0, 1.0, 1.0001])).data


def _other_on_tensors(g: Any, y: Any, _x: Any) -> Any:
    return g * (1 - y * y) * (1 + 1e-9 * isinstance(g, Tensor))


def _blind_to_second_order(g: Any, y: Any, _x: Any) -> Any:
    return g * (1 - (y.detach() ** 2 if isinstance(y, Tensor) else y * y))


# what is wrong: the operation, the words of the check that finds it
WRONG: dict[str, tuple[Op, str]] = {
    "the factor 1/2 is missing": (
        planted(half_square, lambda g, _y, x: 2 * g * x, example=_vector),
        "gradient of argument 0",
    ),
    "the sign is wrong": (
        planted(tanh_forward, lambda g, y, _x: -g * (1 - y * y), example=_vector),
        "gradient of argument 0",
    ),
    "a product is transposed": (
        planted(square_matmul, lambda g, _y, _a, b: g @ b, lambda g, _y, a, _b: a.T @ g, example=_two),
        "gradient of argument 0",
    ),
    "the wrong argument is used": (
        planted(multiply, lambda g, _y, a, _b: g * a, lambda g, _y, a, _b: g * a, example=_two),
        "gradient of argument 0",
    ),
    "the arriving gradient is forgotten": (
        planted(tanh_forward, lambda g, y, _x: 1 - y * y, example=_vector),
        "gradient of argument 0",
    ),
    "broadcasting is undone by a mean": (
        planted(multiply, lambda g, _y, _a, b: g * b, lambda g, _y, a, _b: (g * a).mean(axis=0), example=_wide),
        "gradient of argument 1",
    ),
    "an array is used that was not kept": (
        planted(multiply, lambda g, _y, _a, _b: g * _b, lambda g, _y, _a, _b: g * _a, example=_two),
        "NoneType",
    ),
    "one element in five is off by 1e-4": (
        planted(tanh_forward, _faintly_wrong, example=_vector),
        "gradient of argument 0",
    ),
    "on Tensors the rule computes something else": (
        planted(tanh_forward, _other_on_tensors, example=_vector),
        "other values on Tensors",
    ),
    "the second derivative is lost": (
        planted(tanh_forward, _blind_to_second_order, example=_vector),
        "second derivative of argument 0",
    ),
    "the rule widens to float64": (
        planted(half_square, lambda g, _y, x: g * x * ((x == x) * 1.0), example=_vector),
        "returned float64 for a float32 argument",
    ),
    "the result widens to float64": (
        planted(lambda x: x.astype("float64") * 2, lambda g, _y, _x: g * 2, example=_vector),
        "float32 in, float64 out",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_the_check_refuses_a_wrong_rule(fault):
    operation, words = WRONG[fault]
    draw = Draw(np.random.default_rng(0))
    with pytest.raises((AssertionError, TypeError), match=words):
        check(operation, *operation.examples[0](draw), draw.rng)


def test_the_check_accepts_the_right_rule():
    right = planted(tanh_forward, lambda g, y, _x: g * (1 - y * y), example=_vector)
    draw = Draw(np.random.default_rng(0))
    check(right, *right.examples[0](draw), draw.rng)


@pytest.mark.host("reads the register of operations")
def test_an_operation_without_a_rule_fails_the_suite():
    assert "no derivative rule" in missing(planted(tanh_forward, example=_vector))


@pytest.mark.host("reads the register of operations")
def test_an_operation_without_an_example_fails_the_suite():
    assert "no example" in missing(planted(tanh_forward, lambda g, y, _x: g * (1 - y * y)))


def test_an_operation_without_a_rule_refuses_to_record():
    with pytest.raises(RuntimeError, match="tanh_forward has no derivative for argument 0.*derivative"):
        planted(tanh_forward)(tensor(np.ones(2), requires_grad=True))


# --------------------------------------------------------------------------- functions composed of several operations


def _dropped(x: Any) -> Any:
    array = x.data if isinstance(x, Tensor) else x
    return ops.dropout(x, 0.4, array_module(array).random.default_rng(7))


def _transposed_example(draw: Draw) -> Any:
    groups = draw.choice([1, 2])
    how = {"stride": draw.choice([2, (3, 2)]), "padding": draw.choice([0, 1]), "output_padding": draw.choice([0, 1])}
    args = draw.array((2, 2 * groups, 3, 2)), draw.array((2 * groups, 2, 2, 3)), draw.array((2 * groups,))
    return args, {"groups": groups, "dilation": draw.choice([1, 2]), **how}


COMPOSED: dict[str, tuple[Callable[..., Any], Example]] = {
    "batch_norm of vectors": (
        ops.batch_norm,
        lambda draw: ((draw.array((4, 3)), draw.array((3,)), draw.array((3,))), {}),
    ),
    "batch_norm of images": (
        ops.batch_norm,
        lambda draw: ((draw.array((2, 3, 2, 2)), draw.array((3,)), draw.array((3,))), {"eps": 1e-2}),
    ),
    "binary_cross_entropy": (
        ops.binary_cross_entropy,
        lambda draw: ((draw.array((3, 2)), draw.array((3, 2), low=0.0, high=1.0)), {}),
    ),
    "circular_pad": (
        lambda x: ops.circular_pad(x, ((0, 0), (1, 2), (2, 0))),
        lambda draw: ((draw.array((2, 3, 4)),), {}),
    ),
    "conv_transpose2d": (ops.conv_transpose2d, _transposed_example),
    "crelu": (ops.crelu, lambda draw: ((draw.array((2, 3), avoid=(0.0,)),), {})),
    "dropout": (_dropped, lambda draw: ((draw.array((4, 5)),), {})),
    "einsum": (
        lambda a, b: ops.einsum("bij, bjk -> bki", a, b),
        lambda draw: ((draw.array((2, 3, 4)), draw.array((2, 4, 2))), {}),
    ),
    "einsum that sums an index of one argument": (
        lambda a, b: ops.einsum("ij,k->k", a, b),
        lambda draw: ((draw.array((2, 3)), draw.array((4,))), {}),
    ),
    "flatten": (ops.flatten, lambda draw: ((draw.array((2, 3, 2)),), {})),
    "global_avg_pool2d": (ops.global_avg_pool2d, lambda draw: ((draw.array((2, 3, 2, 4)),), {})),
    "mse": (ops.mse, lambda draw: ((draw.array((3, 2)), draw.array((3, 2))), {})),
}


@pytest.mark.parametrize("name", COMPOSED)
@walk
@given(data=st.data())
def test_derivatives_of_composed_functions(name, data):
    function, example = COMPOSED[name]
    draw = Draw.of(data)
    check(function, *example(draw), draw.rng)


# ------------------------------------------------------------------- values: NumPy, the standard library, plain loops


ELEMENTWISE: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "erf": math.erf,
    "exp": math.exp,
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "hard_tanh": lambda x: -1.0 if x < -1 else 1.0 if x > 1 else x,
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "negative": lambda x: -x,
    "relu": lambda x: x if x > 0 else 0.0,
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "sign": lambda x: (x > 0) - (x < 0),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "softsign": lambda x: x / (1 + abs(x)),
    "tanh": math.tanh,
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_functions_agree_with_the_standard_library(name):
    x = np.linspace(-6, 6, 97)
    expected = [ELEMENTWISE[name](v) for v in x.tolist()]
    assert np.allclose(fetch(getattr(ops, name)(tensor(x))), expected, rtol=1e-13, atol=1e-14)


def test_erf_keeps_its_digits_near_zero_and_far_out():
    x = np.array([1e-300, 1e-8, 0.468, 0.469, 3.9, 5.9, 27.0, -27.0])
    assert np.allclose(fetch(ops.erf(tensor(x))), [math.erf(v) for v in x], rtol=4e-15, atol=0)


def test_gelu_rises_back_to_zero_on_the_far_left():
    assert np.array_equal(fetch(ops.gelu(tensor(np.array([-1e4, 1e4])))), [0.0, 1e4])


@walk
@given(data=st.data())
@pytest.mark.parametrize("name", "add subtract multiply divide maximum minimum power less greater_equal equal".split())
def test_two_arrays_broadcast_as_in_numpy(name, data):
    a, b = Draw.of(data).broadcastable(2, low=0.5, high=2.0)
    ours = fetch(getattr(ops, name)(tensor(a), tensor(b)))
    expected = getattr(np, name)(a, b)
    assert ours.shape == expected.shape and np.array_equal(ours, expected)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x, y: x + y,
        lambda x, y: x - y,
        lambda x, y: x * y,
        lambda x, y: x / y,
        lambda x, y: x**y,
        lambda x, y: 2 + 3 * x - 1 / y,
        lambda x, y: 2**x - abs(-y),
        lambda x, y: (x < y) * 1.0,
        lambda x, y: (x >= y) * 1.0,
        lambda x, y: (x != y) * 1.0,
        lambda x, y: x @ y.T,
    ],
)
def test_operators_mean_what_they_mean_in_numpy(compute):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.5, 2, (3, 4)), rng.uniform(0.5, 2, (3, 4))
    assert np.allclose(fetch(compute(tensor(a), tensor(b))), compute(a, b), rtol=1e-15)


INDICES: list[Any] = [
    0,
    -1,
    slice(1, 3),
    slice(None, None, -1),
    (slice(None), 2),
    (Ellipsis, 0),
    (None, slice(None), None, 1),
    (1, slice(None, None, 2), -1),
    np.array([2, 0, 2]),
    (np.array([0, 2]), np.array([1, 1])),
    (slice(None), np.array([[0, 1], [3, 3]])),
    [0, 0, 1],
    np.array([True, False, True]),
    (slice(None), np.array([True, False, True, False]), 0),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_and_its_gradient_agree_with_numpy(index):
    a = np.random.default_rng(1).normal(size=(3, 4, 2))
    x = tensor(a, requires_grad=True)
    y = x[on_device(index)]
    assert np.array_equal(fetch(y), a[index])
    r = np.random.default_rng(2).normal(size=y.shape)
    y.backward(tensor(r).data)
    expected = np.zeros_like(a)
    np.add.at(expected, index, r)
    assert np.allclose(fetch(x.grad), expected)


def test_a_tensor_can_be_an_index():
    x = tensor(np.arange(5.0))
    assert np.array_equal(fetch(x[x > 2]), [3.0, 4.0])
    assert np.array_equal(fetch(x[tensor(np.array([3, 3]))]), [3.0, 3.0])


REDUCTIONS = "sum mean var max min logsumexp".split()


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (1,)])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_agree_with_numpy(name, axis, keepdims):
    a = np.random.default_rng(3).normal(size=(3, 2, 4))
    ours = fetch(getattr(ops, name)(tensor(a), axis=axis, keepdims=keepdims))
    expected = (
        np.log(np.exp(a).sum(axis=axis, keepdims=keepdims))
        if name == "logsumexp"
        else getattr(np, name)(a, axis=axis, keepdims=keepdims)
    )
    assert ours.shape == np.shape(expected) and np.allclose(ours, expected, rtol=1e-13)


def test_var_divides_by_n_less_ddof():
    a = np.random.default_rng(3).normal(size=(5, 3))
    assert np.allclose(fetch(ops.var(tensor(a), axis=0, ddof=1)), a.var(axis=0, ddof=1))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_argmax_all_and_any_agree_with_numpy(axis):
    a = np.random.default_rng(4).normal(size=(3, 4))
    assert np.array_equal(fetch(tensor(a).argmax(axis)), a.argmax(axis))
    assert np.array_equal(fetch(tensor(a).argmin(axis)), a.argmin(axis))
    assert np.array_equal(fetch((tensor(a) > -1).all(axis=axis)), (a > -1).all(axis=axis))
    assert np.array_equal(fetch((tensor(a) > 1).any(axis=axis)), (a > 1).any(axis=axis))


def test_joining_and_padding_agree_with_numpy():
    a, b = np.ones((2, 3)), np.zeros((2, 3))
    assert np.array_equal(fetch(ops.concat([tensor(a), tensor(b)], axis=1)), np.concatenate([a, b], axis=1))
    assert np.array_equal(fetch(ops.stack(tensor(a), tensor(b), axis=1)), np.stack([a, b], axis=1))
    padded = np.pad(a, ((1, 0), (0, 2)), constant_values=7)
    assert np.array_equal(fetch(ops.pad(tensor(a), widths=((1, 0), (0, 2)), value=7.0)), padded)
    wrapped = np.pad(np.arange(6.0).reshape(2, 3), ((2, 1), (0, 3)), mode="wrap")
    assert np.array_equal(fetch(ops.circular_pad(tensor(np.arange(6.0).reshape(2, 3)), ((2, 1), (0, 3)))), wrapped)


@pytest.mark.parametrize("subscripts", ["ij,jk->ik", "ij,jk", "bi,bo,i->o", "ij->", "ij->ji", "ij", "i,j->ij"])
def test_einsum_agrees_with_numpy(subscripts):
    rng, sizes = np.random.default_rng(5), {"i": 2, "j": 3, "k": 4, "b": 5, "o": 2}
    xs = [rng.normal(size=[sizes[c] for c in term]) for term in subscripts.partition("->")[0].split(",")]
    assert np.allclose(fetch(ops.einsum(subscripts, *map(tensor, xs))), np.einsum(subscripts, *xs))


@pytest.mark.parametrize("subscripts", ["...i,i->...", "ii->i", "ij->ii"])
def test_einsum_refuses_what_it_has_no_derivative_for(subscripts):
    with pytest.raises(ValueError, match="no ellipsis, and no index twice"):
        ops.einsum(subscripts, tensor(np.ones((2, 2))))


def plain_conv(x: np.ndarray, w: np.ndarray, stride: Any, padding: Any, dilation: Any, groups: int) -> np.ndarray:
    """The sum of the definition, one output at a time."""
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    o, c, kh, kw = w.shape
    dh, dw = dilation
    rows = range(0, x.shape[2] - dh * (kh - 1), stride[0])
    cols = range(0, x.shape[3] - dw * (kw - 1), stride[1])
    y = np.zeros((len(x), o, len(rows), len(cols)))
    for k in range(o):
        own = slice(k // (o // groups) * c, (k // (o // groups) + 1) * c)
        for p, top in enumerate(rows):
            for q, left in enumerate(cols):
                patch = x[:, own, top : top + dh * (kh - 1) + 1 : dh, left : left + dw * (kw - 1) + 1 : dw]
                y[:, k, p, q] = (patch * w[k]).sum(axis=(1, 2, 3))
    return y


CONVOLUTIONS = [
    ((1, 1), (0, 0), (1, 1), 1),
    ((2, 1), (1, 2), (1, 1), 1),
    ((1, 2), (0, 1), (2, 1), 2),
    ((3, 3), (2, 2), (1, 2), 4),
]


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_conv2d_is_the_sum_of_its_definition(stride, padding, dilation, groups):
    rng = np.random.default_rng(6)
    x, w, b = rng.normal(size=(2, 4, 6, 7)), rng.normal(size=(4, 4 // groups, 3, 2)), rng.normal(size=4)
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    ours = fetch(ops.conv2d(tensor(x), tensor(w), tensor(b), **how))
    assert np.allclose(ours, plain_conv(x, w, **how) + b[:, None, None], rtol=1e-12)


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_conv_transpose2d_is_the_adjoint_of_conv2d(stride, padding, dilation, groups):
    """<conv(x), y> = <x, transposed(y)> for every x and y."""
    rng = np.random.default_rng(7)
    x, w = rng.normal(size=(2, 4, 7, 7)), rng.normal(size=(4, 4 // groups, 3, 2))
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    forward = plain_conv(x, w, **how)
    y = rng.normal(size=forward.shape)
    lost = [
        (n + 2 * p - d * (k - 1) - 1) % s
        for n, p, d, k, s in zip((7, 7), padding, dilation, (3, 2), stride, strict=True)
    ]
    back = fetch(ops.conv_transpose2d(tensor(y), tensor(w), output_padding=tuple(lost), **how))
    assert back.shape == x.shape
    assert np.isclose((forward * y).sum(), (x * back).sum(), rtol=1e-12)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, None, 0), ((3, 2), (2, 1), (1, 0)), (3, 2, 1)])
def test_pooling_is_the_largest_and_the_mean_of_every_window(kernel, stride, padding):
    x = np.random.default_rng(8).normal(size=(2, 3, 6, 7))
    (kh, kw), (ph, pw) = np.broadcast_to(kernel, 2), np.broadcast_to(padding, 2)
    sh, sw = np.broadcast_to(kernel if stride is None else stride, 2)
    how = {"kernel_size": kernel, "stride": stride, "padding": padding}
    for function, value, reduce in [(ops.max_pool2d, -np.inf, np.max), (ops.avg_pool2d, 0.0, np.mean)]:
        framed = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=value)
        windows = np.lib.stride_tricks.sliding_window_view(framed, (kh, kw), axis=(2, 3))[:, :, ::sh, ::sw]
        assert np.allclose(fetch(function(tensor(x), **how)), reduce(windows, axis=(4, 5)), rtol=1e-14)


def test_batch_norm_gives_every_channel_mean_beta_and_deviation_gamma():
    x = np.random.default_rng(9).normal(3, 5, size=(8, 3, 4, 4))
    y = fetch(ops.batch_norm(tensor(x), tensor(np.array([1.0, 2.0, 0.5])), tensor(np.array([0.0, -1.0, 7.0])), eps=0))
    assert np.allclose(y.mean(axis=(0, 2, 3)), [0, -1, 7])
    assert np.allclose(y.std(axis=(0, 2, 3)), [1, 2, 0.5])


def test_softmax_is_the_exponentials_over_their_sum():
    x = np.random.default_rng(10).normal(size=(3, 4))
    for axis in (0, 1, -1):
        expected = np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)
        assert np.allclose(fetch(ops.softmax(tensor(x), axis=axis)), expected, rtol=1e-14)
        assert np.allclose(fetch(ops.log_softmax(tensor(x), axis=axis)), np.log(expected), rtol=1e-13)


def test_cross_entropy_is_the_mean_of_minus_log_probability():
    x, labels = np.random.default_rng(11).normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(5), labels]).mean()
    assert np.isclose(fetch(ops.cross_entropy(tensor(x), tensor(labels))), expected, rtol=1e-14)
    assert np.isclose(fetch(ops.nll(tensor(np.log(p)), tensor(labels))), expected, rtol=1e-14)


def test_label_smoothing_spreads_its_share_over_all_classes():
    x, labels = np.random.default_rng(12).normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    log_p = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    target = np.full((5, 3), 0.3 / 3)
    target[np.arange(5), labels] += 0.7
    smoothed = ops.cross_entropy(tensor(x), tensor(labels), label_smoothing=0.3)
    assert np.isclose(fetch(smoothed), -(target * log_p).sum(axis=1).mean(), rtol=1e-14)


def test_mse_and_binary_cross_entropy_are_their_formulas():
    x, t = np.random.default_rng(13).normal(size=(4, 2)), np.random.default_rng(14).uniform(size=(4, 2))
    p = 1 / (1 + np.exp(-x))
    assert np.isclose(fetch(ops.mse(tensor(x), tensor(t))), ((x - t) ** 2).mean())
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    assert np.isclose(fetch(ops.binary_cross_entropy(tensor(x), tensor(t))), expected)


def test_dropout_keeps_the_mean_and_the_stated_share():
    """100 000 elements, p = 0.3: a share beyond 5 standard deviations has probability 6e-7."""
    x = tensor(np.ones(100_000))
    y = fetch(ops.dropout(x, 0.3, array_module(x.data).random.default_rng(0)))
    assert set(np.unique(y)) == {0.0, 1 / 0.7}
    assert abs((y == 0).mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 1e5)


# --------------------------------------------------------------------------------------------- extremes and ties


@pytest.fixture
def _no_warnings():
    """Overflow, division by zero and invalid values are errors; numbers may fade to zero."""
    with np.errstate(over="raise", divide="raise", invalid="raise", under="ignore"):
        yield


def value_and_gradient(function: Callable[[Tensor], Tensor], values: Any) -> tuple[np.ndarray, np.ndarray]:
    x = tensor(np.asarray(values), requires_grad=True)
    y = function(x)
    y.sum().backward()
    return fetch(y), fetch(x.grad)


dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


@dtypes
@pytest.mark.usefixtures("_no_warnings")
def test_sigmoid_is_stable_far_out(dtype):
    y, g = value_and_gradient(ops.sigmoid, np.array([-1000, 1000, 0], dtype))
    assert np.array_equal(y, [0, 1, 0.5]) and np.array_equal(g, [0, 0, 0.25])


@dtypes
@pytest.mark.usefixtures("_no_warnings")
@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("softplus", 0, 1e4),
        ("silu", 0, 1e4),
        ("gelu", 0, 1e4),
        ("elu", -1, 1e4),
        ("tanh", -1, 1),
        ("softsign", -1, 1),
        ("erf", -1, 1),
        ("selu", -1.0507009873554805 * 1.6732632423543772, 1.0507009873554805 * 1e4),
    ],
)
def test_activations_are_stable_far_out(name, left, right, dtype):
    y, g = value_and_gradient(getattr(ops, name), np.array([-1e4, 1e4], dtype))
    assert np.allclose(y, [left, right], rtol=1e-3) and np.all(np.isfinite(g))


@dtypes
@pytest.mark.usefixtures("_no_warnings")
@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_logsumexp_is_stable_far_out(shift, dtype):
    y, g = value_and_gradient(ops.logsumexp, np.array([shift, shift], dtype))
    assert np.isclose(y, shift + math.log(2), rtol=1e-7) and np.allclose(g, 0.5, rtol=1e-3)


@pytest.mark.usefixtures("_no_warnings")
def test_logsumexp_passes_over_minus_infinity():
    y, g = value_and_gradient(ops.logsumexp, [-np.inf, 2.0, -np.inf])
    assert y == 2.0 and np.array_equal(g, [0, 1, 0])


@dtypes
@pytest.mark.usefixtures("_no_warnings")
def test_softmax_and_log_softmax_are_stable_far_out(dtype):
    y, g = value_and_gradient(ops.softmax, np.array([[1e4, 0, -1e4]], dtype))
    assert np.array_equal(y, [[1, 0, 0]]) and np.array_equal(g, [[0, 0, 0]])
    y, g = value_and_gradient(ops.log_softmax, np.array([[1e4, 0, -1e4]], dtype))
    assert np.array_equal(y, [[0, -1e4, -2e4]]) and np.array_equal(g, [[-2, 1, 1]])


@dtypes
@pytest.mark.usefixtures("_no_warnings")
def test_cross_entropy_is_stable_far_out(dtype):
    labels = tensor(np.array([1, 0]))
    y, g = value_and_gradient(lambda x: ops.cross_entropy(x, labels), np.array([[1e4, 0, -1e4], [1e4, 0, -1e4]], dtype))
    assert y == 5e3 and np.array_equal(g, [[0.5, -0.5, 0], [0, 0, 0]])


@dtypes
@pytest.mark.usefixtures("_no_warnings")
def test_binary_cross_entropy_is_stable_far_out(dtype):
    targets = tensor(np.array([1, 0, 1, 0], dtype))
    y, g = value_and_gradient(lambda x: ops.binary_cross_entropy(x, targets), np.array([1e4, -1e4, -1e4, 1e4], dtype))
    assert y == 5e3 and np.array_equal(g, [0, 0, -0.25, 0.25])


def test_max_pool_sends_the_gradient_of_a_tie_to_the_first_maximum():
    x = tensor(np.ones((1, 1, 2, 4)), requires_grad=True)
    ops.max_pool2d(x, kernel_size=2).sum().backward()
    assert np.array_equal(fetch(x.grad)[0, 0], [[1, 0, 1, 0], [0, 0, 0, 0]])


def test_maximum_and_minimum_send_the_gradient_of_a_tie_to_the_first():
    for function in (ops.maximum, ops.minimum):
        a, b = tensor(np.ones(2), requires_grad=True), tensor(np.ones(2), requires_grad=True)
        function(a, b).sum().backward()
        assert np.array_equal(fetch(a.grad), [1, 1]) and np.array_equal(fetch(b.grad), [0, 0])


def test_max_and_min_send_the_gradient_of_a_tie_to_the_first():
    for function in (ops.max, ops.min):
        x = tensor(np.ones((2, 3)), requires_grad=True)
        function(x, axis=1).sum().backward()
        assert np.array_equal(fetch(x.grad), [[1, 0, 0], [1, 0, 0]])


def test_the_derivatives_at_a_kink_are_the_documented_ones():
    for function, expected in [(ops.relu, 0), (ops.abs, 0), (ops.leaky_relu, 0.01), (ops.hard_tanh, 1)]:
        _, g = value_and_gradient(function, [0.0])
        assert g == expected


def test_the_power_zero_has_derivative_zero_also_at_zero():
    y, g = value_and_gradient(lambda x: x**0, [0.0, 2.0])
    assert np.array_equal(y, [1, 1]) and np.array_equal(g, [0, 0])


# ------------------------------------------------------------------------------------------------------ bad input


def bad(words: str, error: type[Exception], call: Callable[[], Any], marks: Any = ()) -> Any:
    return pytest.param(call, error, words, id=words[:40], marks=marks)


def _t(*shape: int, dtype: str = "float64") -> Tensor:
    return tensor(np.ones(shape, dtype))


HOST_SCORES = Tensor(np.ones((2, 3)))
READ_ON_HOST = "the range of labels is read on the host alone; on a GPU reading would wait"

BAD_INPUT = [
    bad(
        "labels are class numbers, so whole numbers; got float64", TypeError, lambda: ops.cross_entropy(_t(2, 3), _t(2))
    ),
    bad(
        r"labels must lie in 0 … 2 for 3 scores; got 0 … 3",
        ValueError,
        lambda: ops.cross_entropy(HOST_SCORES, Tensor(np.array([0, 3]))),
        marks=pytest.mark.host(READ_ON_HOST),
    ),
    bad(
        r"labels must lie in 0 … 2 for 3 scores; got -1 … 0",
        ValueError,
        lambda: ops.nll(HOST_SCORES, Tensor(np.array([0, -1]))),
        marks=pytest.mark.host(READ_ON_HOST),
    ),
    bad(
        r"scores \(N, K\) and labels \(N,\).*\(2, 3\) and \(3,\)",
        ValueError,
        lambda: ops.cross_entropy(_t(2, 3), tensor(np.array([0, 1, 1]))),
    ),
    bad(
        "label_smoothing must be in",
        ValueError,
        lambda: ops.cross_entropy(_t(1, 3), tensor(np.array([0])), label_smoothing=1.0),
    ),
    bad(r"mse: prediction \(2, 1\) and target \(2,\) differ", ValueError, lambda: ops.mse(_t(2, 1), _t(2))),
    bad("differ in shape", ValueError, lambda: ops.binary_cross_entropy(_t(2, 1), _t(2))),
    bad("has 3 channels, but weights", ValueError, lambda: ops.conv2d(_t(1, 3, 4, 4), _t(2, 2, 2, 2))),
    bad(r"needs x \(N, C, H, W\)", ValueError, lambda: ops.conv2d(_t(3, 4, 4), _t(2, 3, 2, 2))),
    bad("kernel that spans 5 does not fit into 4", ValueError, lambda: ops.conv2d(_t(1, 1, 4, 4), _t(1, 1, 5, 5))),
    bad("does not fit weights", ValueError, lambda: ops.conv_transpose2d(_t(1, 3, 4, 4), _t(2, 2, 2, 2))),
    bad("pooling needs images", ValueError, lambda: ops.max_pool2d(_t(3, 4), kernel_size=2)),
    bad("by more than half", ValueError, lambda: ops.avg_pool2d(_t(1, 1, 4, 4), kernel_size=2, padding=2)),
    bad(r"linear: input of shape \(2, 4\) does not fit weights", ValueError, lambda: ops.linear(_t(2, 4), _t(5, 3))),
    bad("several values per channel", ValueError, lambda: ops.batch_norm(_t(1, 3))),
    bad(r"dropout probability must be in \[0, 1\); got 1", ValueError, lambda: ops.dropout(_t(2), 1, None)),
    bad("exceeds axis 0 of length 2", ValueError, lambda: ops.circular_pad(_t(2, 2), ((3, 0), (0, 0)))),
    bad("cannot come from an argument of shape", ValueError, lambda: ops.sum_to(_t(2, 3), shape=(2,))),
    bad("tanh.*takes 1 arrays|tanh takes", TypeError, lambda: ops.tanh(_t(2), _t(2))),
    bad("unexpected keyword argument 'axes'", TypeError, lambda: ops.sum(_t(2), axes=0)),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD_INPUT)
def test_bad_input_is_refused_with_a_reason(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_cross_entropy_takes_a_class_that_is_ruled_out_by_an_infinite_logit():
    logits = tensor(np.array([[0.0, 1.0, -np.inf], [2.0, -np.inf, 0.0]]), requires_grad=True)
    loss = ops.cross_entropy(logits, tensor(np.array([1, 0])))
    loss.backward()
    expected = (np.log(1 + np.exp(-1.0)) + np.log(1 + np.exp(-2.0))) / 2
    assert fetch(loss) == pytest.approx(expected, rel=1e-12)
    assert np.isfinite(fetch(logits.grad)).all()
    assert fetch(logits.grad)[0, 2] == 0
