"""A2, initialization schemes: what is asked of each function, on shapes, fans and seeds drawn for each student."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from minidl.course import judge
from minidl.course.assignment import Assignment, Check, Draw, Task
from minidl.course.isolate import Call
from minidl.course.judge import Layer
from minidl.init.fans import conv_fans, conv_transpose_fans
from minidl.init.sample import truncated_std
from minidl.meanfield import gaussian_moments

__all__ = ["A2"]

LAWS: dict[str, tuple[float, float | None]] = {  # excess kurtosis, largest value in units of the std
    "normal": (0.0, None),
    "uniform": (-1.2, math.sqrt(3)),
    "truncated normal": (-0.634, 2 / truncated_std(2.0)),
}
KERNELS = ((3, 5), (5, 3), (3, 7), (7, 3))
DRAWS = 40  # of small orthogonal matrices


def tasks(draw: Draw) -> list[Task]:
    """The eight functions of the assignment."""
    return [
        _fans("A2.1", draw("conv_fans")),
        _glorot("A2.2", "glorot_normal", draw("glorot_normal"), "normal"),
        _glorot("A2.3", "glorot_uniform", draw("glorot_uniform"), "uniform"),
        _he("A2.4", "he_normal", draw("he_normal"), "normal"),
        _he("A2.5", "he_uniform", draw("he_uniform"), "uniform"),
        _truncated("A2.6", draw("truncated_normal")),
        _orthogonal("A2.7", draw("orthogonal")),
        _gain("A2.8", draw("activation_gain")),
    ]


A2 = Assignment("A2", "a2.py", tasks)


# -- fans ----------------------------------------------------------------------------------------------------------


def _fans(number: str, rng: np.random.Generator) -> Task:
    transposed = [{"transposed": True, "stride": _one(rng, 3, 5)} for _ in range(2)]
    cases = {
        "plain": [_conv(rng), _conv(rng)],
        "groups": [_conv(rng, groups=_one(rng, 2, 4))],
        "transposed": [_conv(rng, **transposed[0])],
        "all at once": [_conv(rng, groups=_one(rng, 2, 4), **transposed[1]), _conv(rng, groups=2, **transposed[0])],
    }
    calls: dict[str, Call] = {}
    checks = []
    for name, convolutions in cases.items():
        keys = tuple(f"{name} {i}" for i in range(len(convolutions)))
        calls |= {key: Call("conv_fans", given, shape=(2,)) for key, given in zip(keys, convolutions, strict=True)}
        layers, slips = zip(*map(_true_fans, convolutions), strict=True)
        checks.append(Check(name, len(keys), keys, partial(judge.fans, layers, slips)))
    return Task(number, "conv_fans", calls, tuple(checks))


def _one(rng: np.random.Generator, *choices: int) -> int:
    return int(rng.choice(choices))


def _conv(rng: np.random.Generator, groups: int = 1, **more: Any) -> dict[str, Any]:
    """The arguments of a convolution whose channels differ by no factor that the kernel or the groups have."""
    channels = rng.choice([11, 13, 17, 19, 23, 29], 2, replace=False) * groups
    into, out_of = map(int, channels)
    return {"in_channels": into, "out_channels": out_of, "kernel_size": list(_kernel(rng)), "groups": groups} | more


def _kernel(rng: np.random.Generator) -> tuple[int, int]:
    return KERNELS[rng.integers(len(KERNELS))]


def _true_fans(given: Mapping[str, Any]) -> tuple[Layer, dict[str, float]]:
    """The layer, and by how much a slip that only this task knows makes a fan too large."""
    kernel, groups = tuple(given["kernel_size"]), given["groups"]
    taps, rows = math.prod(kernel), kernel[0]
    channels = given["in_channels"], given["out_channels"]
    slips = {"the kernel's two lengths differ: kh·kw, not one of them squared": rows**2 / taps}
    slips |= {"the kernel has two lengths: kh·kw, not one of them": rows / taps}
    if given.get("transposed"):
        step = given["stride"]
        slips |= {"the stamps lie a stride apart: one output value gets kh·kw/stride² of them": float(step**2)}
        slips |= {"the stride acts along both axes: divide by its square": float(step)}
        return Layer((), *conv_transpose_fans(*channels, kernel, step, groups), taps, groups), slips
    return Layer((), *conv_fans(*channels, kernel, groups), taps, groups), slips


# -- schemes -------------------------------------------------------------------------------------------------------


def _layers(rng: np.random.Generator) -> dict[str, Layer]:
    """One that narrows, one that widens, one grouped convolution: odd shapes, each of ``SMALLEST`` values at least."""
    few, many = int(rng.integers(201, 260)), int(rng.integers(420, 520))
    small, large = int(rng.integers(201, 260)), int(rng.integers(420, 520))
    groups, kernel = _one(rng, 2, 3), _kernel(rng)
    taps, into, out_of = math.prod(kernel), int(rng.integers(31, 41)), int(rng.integers(65, 81))
    return {
        "narrows": Layer((few, many), many, few),
        "widens": Layer((large, small), small, large),
        "convolution": Layer((out_of * groups, into, *kernel), into * taps, out_of * taps, taps, groups),
    }


def _call(function: str, shape: Sequence[int], seed: int, **more: Any) -> Call:
    """A call that asks for weights of this shape."""
    return Call(function, {"shape": list(shape), "rng": {"seed": seed}} | more, tuple(shape), global_seed=1)


def _repeats(first: Call, seed: int) -> dict[str, Call]:
    """The first call again with another global state, and with another generator."""
    other = first.arguments | {"rng": {"seed": seed + 1_000}}
    return {"again": replace(first, global_seed=2), "other": replace(first, arguments=other)}


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**40))


def _fans_of(layer: Layer) -> dict[str, float]:
    return {"fan_in": layer.fan_in, "fan_out": layer.fan_out}


def _drawing(
    number: str, function: str, law: str, seed: int, layers: Mapping[str, Layer], stds: list[float], asked: list[Any]
) -> Task:
    """Form, generator, spread and law of a function that draws weights, asked so for each layer: 5 points."""
    rows = enumerate(zip(layers.items(), asked, strict=True))
    calls = {key: _call(function, layer.shape, seed + i, **more) for i, ((key, layer), more) in rows}
    calls |= _repeats(calls["narrows"], seed)
    slips = {"the correction goes the wrong way: divide by 0.8796": truncated_std(2.0) ** 2}
    checks = (
        Check("form", 1, tuple(layers), judge.form),
        Check("generator", 1, ("narrows", "again", "other"), judge.generator),
        Check("spread", 2, tuple(layers), partial(judge.spread, list(layers.values()), stds, slips)),
        Check("law", 1, ("narrows",), partial(judge.law, law, *LAWS[law])),
    )
    return Task(number, function, calls, checks)


def _scheme(
    number: str, function: str, law: str, std: Callable[[Layer], float], layers: Mapping[str, Layer], seed: int
) -> Task:
    each = list(layers.values())
    return _drawing(number, function, law, seed, layers, [std(layer) for layer in each], [_fans_of(x) for x in each])


def _glorot(number: str, function: str, rng: np.random.Generator, law: str) -> Task:
    return _scheme(number, function, law, _glorot_std, _layers(rng), _seed(rng))


def _truncated(number: str, rng: np.random.Generator) -> Task:
    layers, seed = _layers(rng), _seed(rng)
    stds = [_between(rng, *bounds) for bounds in ((0.02, 0.05), (0.3, 0.6), (1.5, 3.0))]
    asked = [{"std": std} for std in stds]
    return _drawing(number, "truncated_normal", "truncated normal", seed, layers, stds, asked)


def _glorot_std(layer: Layer) -> float:
    return math.sqrt(2 / (layer.fan_in + layer.fan_out))


def _he_std(layer: Layer, a: float = 0.0, mode: str = "fan_in") -> float:
    return math.sqrt(2 / ((1 + a**2) * (layer.fan_in if mode == "fan_in" else layer.fan_out)))


def _he(number: str, function: str, rng: np.random.Generator, law: str) -> Task:
    """A scheme, and its slope and its mode: 7 points."""
    layers = _layers(rng)
    task = _scheme(number, function, law, _he_std, layers, _seed(rng))
    layer, seed, a = layers["widens"], _seed(rng), _between(rng, 0.45, 0.8)
    slips = {
        "the slope a is not used": math.sqrt(1 + a**2),
        "1 + a instead of 1 + a²": math.sqrt((1 + a**2) / (1 + a)),
        "the factor 1 + a² belongs below the line": 1 + a**2,
    }
    calls, checks = dict(task.calls), list(task.checks)
    for name, given, own in (("slope", {"a": a}, slips), ("mode", {"mode": "fan_out"}, {})):
        calls[name] = _call(function, layer.shape, seed, **_fans_of(layer), **given)
        judged = partial(judge.variant, layer, _he_std(layer, **given), own, _he_std(layer))
        checks.append(Check(name, 1, ("widens", name), judged))
    return replace(task, calls=calls, checks=tuple(checks))


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)), 3)


# -- orthogonal ----------------------------------------------------------------------------------------------------


def _orthogonal(number: str, rng: np.random.Generator) -> Task:
    gain, seed = _between(rng, 1.3, 2.5), _seed(rng)
    few, many = int(rng.integers(21, 40)), int(rng.integers(51, 80))
    shapes = {"narrows": (few, many), "widens": (many, few), "convolution": (few, 7, *_kernel(rng))}
    calls = {key: _call("orthogonal", shape, seed + i, gain=gain) for i, (key, shape) in enumerate(shapes.items())}
    calls |= _repeats(calls["narrows"], seed)
    small = {f"draw {i}": _call("orthogonal", (5, 3), seed + 2_000 + i) for i in range(DRAWS)}
    checks = (
        Check("form", 1, tuple(shapes), judge.form),
        Check("generator", 1, ("narrows", "again", "other"), judge.generator),
        Check("matrices", 2, ("narrows", "widens"), judge.orthonormal),
        Check("convolution", 1, ("convolution",), judge.orthonormal),
        Check("gain", 1, tuple(shapes), partial(judge.scale, gain)),
        Check("signs", 1, tuple(small), judge.haar),
    )
    return Task(number, "orthogonal", calls | small, checks)


# -- the gain of an activation that nobody has seen ----------------------------------------------------------------


def _gain(number: str, rng: np.random.Generator) -> Task:
    """Four activations drawn for the student, each at a q of its own: 8 points."""
    calls, checks = {}, []
    for name in ("first activation", "second activation", "third activation", "fourth activation"):
        phi, q, gain, slips = _drawn_gain(rng)
        calls[name] = Call("activation_gain", {"phi": {"phi": phi}, "q": q}, ())
        checks.append(Check(name, 2, (name,), partial(judge.number, gain, slips)))
    return Task(number, "activation_gain", calls, tuple(checks))


def _drawn_gain(rng: np.random.Generator) -> tuple[str, float, float, dict[str, float]]:
    """Activation, q, gain and what the usual slips give: drawn again until no two of these are within 3 %."""
    while True:
        phi, q = _activation(rng), _between(rng, *((0.2, 0.6), (1.8, 4.0))[rng.integers(2)])
        gain, slips = _true_gain(phi, q)
        if all(large > 1.03 * small for small, large in pairwise(sorted([gain, *slips.values()]))):
            return phi, q, gain, slips


def _activation(rng: np.random.Generator) -> str:
    """A function of z with a bend, a kink and a ripple, as Python text."""
    a, b, c, d, e, f = (_between(rng, *r) for r in ((0.5, 1.5), (0.6, 2), (0.3, 0.9), (-1, 1), (0.2, 0.6), (2, 4)))
    return f"{a} * np.tanh({b} * z) + {c} * np.abs(z - {d}) + {e} * np.sin({f} * z)"


def _true_gain(text: str, q: float) -> tuple[float, dict[str, float]]:
    """``√(q / E φ(√q ξ)²)``, and what the usual slips give."""
    phi = eval(f"lambda z: {text}", {"np": np})  # a text of our own
    at_q, at_one, at_square = (gaussian_moments(phi, each) for each in (q, 1.0, q**2))
    right = math.sqrt(q / at_q.square)
    return right, {
        "this is the gain for q = 1: z is √q ξ, and the gain has to keep q": math.sqrt(1 / at_one.square),
        "the gain has to keep q, not 1: q is missing under the root": math.sqrt(1 / at_q.square),
        "z has the variance q: φ(√q ξ), not φ(ξ)": math.sqrt(q / at_one.square),
        "√q is the standard deviation of z: φ(√q ξ), not φ(q ξ)": math.sqrt(q / at_square.square),
        "the next layer sees the second moment E φ², not the variance of φ": math.sqrt(q / at_q.variance),
        "the gain multiplies the weights, its square the second moment: take the root": right**2,
        "this is one over the gain": 1 / right,
        "this keeps the gradient (E φ'²), the question was for the signal (E φ²)": math.sqrt(1 / at_q.slope_square),
    }
