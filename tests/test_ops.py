"""Every operation against central differences, NumPy, and closed forms: one walk over ``OPS``, then what is special."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import fetch, tensor
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


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_operation_has_a_rule_and_an_example(name):
    assert not missing(OPS[name])


def _examples() -> Iterator[Any]:
    for name, operation in sorted(OPS.items()):
        for k, example in enumerate(operation.examples):
            yield pytest.param(operation, example, id=f"{name}-{k}")


@pytest.mark.parametrize(("operation", "example"), _examples())
@walk
@given(data=st.data())
def test_derivatives_of_every_operation(operation, example, data):
    draw = Draw.of(data)
    check(operation, *example(draw), draw.rng)


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


WRONG = {
    "the factor 1/2 is missing": planted(half_square, lambda g, _y, x: 2 * g * x, example=_vector),
    "the sign is wrong": planted(tanh_forward, lambda g, y, _x: -g * (1 - y * y), example=_vector),
    "a product is transposed": planted(
        square_matmul, lambda g, _y, _a, b: g @ b, lambda g, _y, a, _b: a.T @ g, example=_two
    ),
    "the wrong argument is used": planted(
        multiply, lambda g, _y, a, _b: g * a, lambda g, _y, a, _b: g * a, example=_two
    ),
    "the arriving gradient is forgotten": planted(tanh_forward, lambda g, y, _x: 1 - y * y, example=_vector),
    "broadcasting is undone by a mean": planted(
        multiply,
        lambda g, _y, _a, b: g * b,
        lambda g, _y, a, _b: (g * a).mean(axis=0),
        example=_wide,
    ),
    "an array is used that was not kept": planted(
        multiply, lambda g, _y, _a, _b: g * _b, lambda g, _y, _a, _b: g * _a, example=_two
    ),
    "one element in five is off by 1e-4": planted(
        tanh_forward,
        lambda g, y, x: g * (1 - y * y) * tensor(np.array([1.0, 1.0, 1.0, 1.0, 1.0001])).data,
        example=_vector,
    ),
    "the second derivative is lost": planted(
        tanh_forward,
        lambda g, y, _x: g * (1 - (y * y if not isinstance(y, Tensor) else y.detach() ** 2)),
        example=_vector,
    ),
    "the rule widens to float64": planted(half_square, lambda g, _y, x: g * x * ((x == x) * 1.0), example=_vector),
}


@pytest.mark.parametrize("fault", WRONG)
def test_the_check_refuses_a_wrong_rule(fault):
    operation = WRONG[fault]
    draw = Draw(np.random.default_rng(0))
    with pytest.raises((AssertionError, TypeError)):
        check(operation, *operation.examples[0](draw), draw.rng)


def test_the_check_accepts_the_right_rule():
    right = planted(tanh_forward, lambda g, y, _x: g * (1 - y * y), example=_vector)
    draw = Draw(np.random.default_rng(0))
    check(right, *right.examples[0](draw), draw.rng)


def test_an_operation_without_a_rule_fails_the_suite():
    assert "no derivative rule" in missing(planted(tanh_forward, example=_vector))


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
        lambda a, b: ops.einsum("ij,k", a, b) if False else ops.einsum("ij,k->k", a, b),
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
