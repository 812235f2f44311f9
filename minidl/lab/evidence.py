"""What a diagnosis looks at: numbers and small host arrays about one network on one batch, gathered in one probe.

A rule sees an ``Evidence`` and nothing else: no module, no tensor. So the same rules can judge a network of another
library, if somebody fills an ``Evidence`` from its hooks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.backend import Array, array_module, to_host
from minidl.init.fans import conv_fans, conv_transpose_fans, dense_fans
from minidl.init.registry import title
from minidl.lab import closer
from minidl.lab.law import Law, read_law
from minidl.lab.measure import Report, probe
from minidl.lab.trial import Trial
from minidl.lab.untouched import path_of, placed, weight_of
from minidl.nn import Module
from minidl.ops.nonlinear import ACTIVATIONS
from minidl.tensor import Tensor

__all__ = [
    *("Block", "Evidence", "Geometry", "Watch", "Weight", "gather"),
    *("affordable", "described", "mark_followers", "matrix_of", "moments", "shares_of"),
]

UNITS = 256  # of one layer that are compared with each other; more would cost their square
PRODUCTS = 1e9  # multiplications that a Jacobian may cost: about a second
NORMS = ("BatchNorm1d", "BatchNorm2d")

Values = NDArray[Any]
Signal = Mapping[str, float]


@dataclass(frozen=True)
class Geometry:
    """What the sizes of a layer say of its fans, whatever it declares."""

    fan_in: float
    fan_out: float
    receptive_field: int = 1
    groups: int = 1


@dataclass
class Weight:
    """One layer with a weight, in the order of execution.

    Args:
        layer: its path.
        record: what the probe measured of it, see ``lab.Report``.
        values: the weight as a matrix (units, inputs), of the first ``UNITS`` units.
        gradient: ``∂L/∂W`` of the same units; None if there was none.
        bias: of all units, or None.
        size, mean, std: of the whole weight.
        fans: (fan_in, fan_out) as declared, or None.
        geometry: what its sizes say of the fans; None for a layer of an unknown kind.
        scheme: by what it was drawn, in words; None if it declares nothing.
        law: the distribution that the scheme's formula stands for; None if it is no plain law.
        touched: whether biases that were declared zero are not: it has been trained, or set by hand. None where
            nothing of the kind was declared.
        into: mean, rms, std and batch_std of what enters it.
        activation: record of the activation that follows, or None.
        normalized: whether a normalization follows before the next weight.
        block: path of the residual block it is in, or "".
        frozen: whether it is kept out of the training.
        parameter: path of the weight among the model's parameters.
    """

    layer: str
    record: Mapping[str, Any]
    values: Values
    gradient: Values | None
    bias: Values | None
    size: int
    mean: float
    std: float
    fans: tuple[float, float] | None = None
    geometry: Geometry | None = None
    scheme: str | None = None
    law: Law | None = None
    touched: bool | None = None
    into: Signal = field(default_factory=dict)
    activation: Mapping[str, Any] | None = None
    normalized: bool = False
    block: str = ""
    frozen: bool = False
    parameter: str = ""

    @property
    def inputs(self) -> float:
        """How many terms the sum of one unit has."""
        return self.geometry.fan_in if self.geometry else float(self.values.shape[1])


@dataclass
class Block:
    """A residual block.

    Args:
        layer: its path.
        before, after: second moments of what enters and what leaves it.
        delta: rms of the gradient at its output, times √places of an image; None without.
    """

    layer: str
    before: float
    after: float
    delta: float | None = None


@dataclass
class Evidence:
    """All that the rules look at.

    Args:
        report: what ``lab.probe`` returned.
        inputs: mean, std, rms, batch_std of the batch, and ``examples``.
        weights: layers with weights, in the order of execution; the last is the output layer.
        blocks: residual blocks, in the order of execution.
        shares: share of each class among the labels; None where they are no class numbers.
        prediction: what ``lab.predict`` returned, or None.
        unpredicted: why there is no prediction.
        updated: whether an optimizer was given.
        history: records of a training, or None.
        trial: what came of a short training of a copy, or None.
        untried: why there was no trial.
        unseen: paths of matrices that are no layer's ``weight``, or whose layer did not run: no rule looks at them.
    """

    report: Report
    inputs: Signal
    weights: list[Weight]
    blocks: list[Block] = field(default_factory=list)
    shares: Sequence[float] | None = None
    prediction: Any = None
    unpredicted: str = ""
    updated: bool = False
    history: Sequence[Mapping[str, Any]] | None = None
    trial: Trial | None = None
    untried: str = "no trial was made"
    unseen: Sequence[str] = ()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The probe's records, one a leaf layer."""
        return self.report.records

    @property
    def hidden(self) -> list[Weight]:
        """The weights but for the output layer's."""
        return self.weights[:-1]

    @property
    def depth(self) -> int:
        """Layers with weights."""
        return len(self.weights)

    @property
    def trained(self) -> bool:
        """Whether the weights are no longer as they were drawn, as far as that shows."""
        marks = [w.touched for w in self.weights if w.touched is not None]
        return any(marks) or (bool(self.history) and not marks)

    @property
    def classes(self) -> int | None:
        """Scores of the output, where the labels are class numbers."""
        return None if self.shares is None else len(self.shares)

    @property
    def activation(self) -> str | None:
        """Name of the activation of most hidden layers ("relu"); None if none was seen."""
        kinds = [str(w.activation["kind"]) for w in self.weights if w.activation]
        return ACTIVATIONS[max(set(kinds), key=kinds.count)].__name__ if kinds else None

    @property
    def wakes(self) -> bool:
        """Whether what is exactly 0 will not stay so: the layer that silences the rest has itself a gradient.

        As one layer of zeros has under a smooth activation. A dead ReLU layer, zeros in all layers and a signal too
        small for float32 have none; and a normalization divides zeros by √ε, so that the first step is a jump.
        """
        silent = [i for i, w in enumerate(self.weights) if w.into["batch_std"] == 0]
        if not silent or silent[0] == 0:
            return False
        last = self.weights[silent[0] - 1]
        return bool(last.record["weight_grad_rms"]) and (not last.normalized or bool(self.blocks))

    @property
    def normalized(self) -> bool:
        """Whether most hidden layers are normalized."""
        return 2 * sum(w.normalized for w in self.hidden) > len(self.hidden)


class Watch:
    """Hooks for one forward and backward pass: what enters layers, what blocks add, gradients of weights."""

    def __init__(self, model: Module) -> None:
        self.model = model
        self.order: list[str] = []  # of execution
        self.into: dict[str, Signal] = {}
        self.blocks: list[Block] = []
        self.gradients: dict[str, Values] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on the model inside the context, none after it."""
        with ExitStack() as stack:
            for path, module in self.model.named_modules():
                if weight_of(module) is not None:
                    stack.callback(module.register_forward_hook(self._before(path)).remove)
                    if weight_of(module).requires_grad:
                        stack.callback(weight_of(module).register_hook(self._keep(path)).remove)
                elif hasattr(module, "branch") and hasattr(module, "shortcut"):
                    stack.callback(module.register_forward_hook(self._around(path)).remove)
            yield

    def _before(self, path: str) -> Callable[..., None]:
        def look(_: Module, inputs: Any, __: Any) -> None:
            if path not in self.into:  # a shared layer, or a second pass: the first counts
                self.order.append(path)
                self.into[path] = moments(_array(inputs[0]))

        return look

    def _around(self, path: str) -> Callable[..., None]:
        def look(_: Module, inputs: Any, output: Any) -> None:
            if path not in {block.layer for block in self.blocks}:
                before, after = (moments(_array(x))["rms"] ** 2 for x in (inputs[0], output))
                block = Block(path, before, after)
                self.blocks.append(block)
                if output.requires_grad:
                    places = math.prod(output.shape[2:])
                    output.register_hook(lambda g: setattr(block, "delta", moments(g)["rms"] * math.sqrt(places)))

        return look

    def _keep(self, path: str) -> Callable[[Array], None]:
        def look(g: Array) -> None:
            self.gradients.setdefault(path, matrix_of(g))

        return look


def gather(
    model: Module,
    x: Any,
    y: Any,
    *,
    loss: Callable[[Any, Any], Any],
    optimizer: Any = None,
    history: Sequence[Mapping[str, Any]] | None = None,
) -> Evidence:
    """Probe a network of minidl once, and collect what the rules look at. Leaves the network as it was.

    Raises:
        ValueError, TypeError: as ``lab.probe``; also if no layer with a weight ran.
    """
    placed(model, x)  # refuses what is no model and no inputs, before anything is hooked
    watch = Watch(model)
    with watch.watching():
        report = probe(model, x, y, loss=loss, optimizer=optimizer)
    modules, records = dict(model.named_modules()), {r["layer"]: r for r in reversed(report.records)}
    order = [(path, records[name]) for path in watch.order if (name := path_of(path, modules[path])) in records]
    if not order:
        raise ValueError(
            f"{type(model).__name__} has no layer with a weight that runs: there is nothing to diagnose. "
            "A layer is a module without modules inside; its matrix is called weight"
        )
    weights = [described(path, modules[path], watch, record) for path, record in order]
    mark_followers(weights, report)
    with suppress(RuntimeError, ValueError):  # these need another number of inputs, which a forward may not take
        report.correlation = closer.correlation(model, x)
    with suppress(RuntimeError, ValueError):  # also of a graph that is cut, see B5
        report.jacobian = closer.jacobian(model, x) if affordable(weights) else None
    prediction, why = _predicted(model, x, y)
    return Evidence(
        report,
        {**moments(Tensor(x).data), "examples": len(x)},
        weights,
        watch.blocks,
        shares_of(y, weights[-1].record["shape"]),
        prediction,
        why,
        updated=optimizer is not None,
        history=history,
        unseen=_unseen(model, [w.parameter for w in weights]),
    )


def _unseen(model: Module, judged: Sequence[str]) -> list[str]:
    """Matrices of the model that are none of these."""
    return [name for name, p in model.named_parameters() if p.ndim >= 2 and name not in judged]


def moments(h: Array) -> Signal:
    """mean, rms, std and batch_std of an array (N, ...), in float64."""
    xp = array_module(h)
    h = h.astype("float64")
    mean, square = h.mean(), (h * h).mean()
    apart = h - h[:1]  # differences first: the spread of nearly equal numbers loses no digits
    spread = (apart * apart).mean(axis=0) - apart.mean(axis=0) ** 2
    found = {
        "mean": mean,
        "rms": xp.sqrt(square),
        "std": xp.sqrt(xp.maximum(square - mean * mean, 0)),
        "batch_std": xp.sqrt(xp.maximum(spread, 0).mean()),
    }
    return {key: float(to_host(value)) for key, value in found.items()}


def _array(x: Any) -> Array:
    return x.data if isinstance(x, Tensor) else x


def matrix_of(w: Array) -> Values:
    """A weight, or its gradient, as a matrix (units, inputs), of the first units."""
    matrix = w[:UNITS].reshape(min(UNITS, w.shape[0]), -1)
    return to_host(matrix).astype(np.float64)


def described(path: str, module: Any, watch: Watch, record: Mapping[str, Any]) -> Weight:
    """What the rules see of one layer with a weight."""
    whole = weight_of(module).data.astype("float64")
    mean, std = float(to_host(whole.mean())), float(to_host(whole.std()))
    geometry, scheme = _geometry(module), _scheme(module)
    bias = getattr(module, "bias", None)
    biases = None if bias is None else to_host(bias.data).astype(np.float64).ravel()
    declared = getattr(module, "initializers", {}).get("bias")
    return Weight(
        record["layer"],
        record,
        matrix_of(whole),
        watch.gradients.get(path),
        biases,
        int(whole.size),
        mean,
        std,
        fans=getattr(module, "fans", None),
        geometry=geometry,
        scheme=None if scheme is None else title(scheme),
        law=_law(module, scheme, tuple(whole.shape)),
        touched=None if biases is None or getattr(declared, "name", "") != "zeros" else bool(np.any(biases)),
        into=watch.into[path],
        block=next((b.layer for b in watch.blocks if path.startswith(f"{b.layer}.")), ""),
        frozen=not weight_of(module).requires_grad,
        parameter=f"{path}.weight".lstrip("."),
    )


def _scheme(module: Any) -> Any:
    """By what the weight was drawn: by ``init.apply``, or as its layer was made."""
    drawn = getattr(module.weight, "drawn_by", None)
    return drawn or getattr(module, "initializers", {}).get("weight")


def _law(module: Any, scheme: Any, shape: tuple[int, ...]) -> Law | None:
    """What the formula of the scheme says, with the fans that the layer declares."""
    if not hasattr(scheme, "law") or getattr(module, "fans", None) is None:
        return None
    values = {**scheme.params, "fan_in": module.fans[0], "fan_out": module.fans[1], "a": 0.0}
    values["a"] = scheme.params.get("negative_slope", 0.0)
    return read_law(scheme.law, values, shape)


def _geometry(module: Any) -> Geometry | None:
    """The fans that the sizes of a layer give: of a dense layer, a convolution, or a transposed one."""
    inside = getattr(module, "_apply_weight", None)  # of weight normalization: the method of the layer it wraps
    module = getattr(inside, "__self__", module)
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return Geometry(*dense_fans(module.in_features, module.out_features))
    if not all(hasattr(module, name) for name in ("in_channels", "out_channels", "kernel_size", "groups")):
        return None
    sizes = (module.in_channels, module.out_channels, module.kernel_size)
    if "Transpose" in type(module).__name__:
        fans = conv_transpose_fans(*sizes, module.stride, module.groups)
    else:
        fans = conv_fans(*sizes, module.groups)
    return Geometry(*fans, math.prod(module.kernel_size), module.groups)


def mark_followers(weights: list[Weight], report: Report) -> None:
    """Tell each weight which activation follows it, and whether a normalization does."""
    by_name = {w.layer: w for w in weights}
    current: Weight | None = None
    for record in report.records:
        if record["layer"] in by_name:
            current = by_name[record["layer"]]
        elif current is not None and record["kind"] in NORMS:
            current.normalized = True
        elif current is not None and record["kind"] in ACTIVATIONS and current.activation is None:
            current.activation = record


def shares_of(y: Any, shape: tuple[int, ...]) -> list[float] | None:
    """The share of each class among the labels; None if they are no class numbers, or the output gives no scores."""
    labels = to_host(Tensor(y).data)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(shape) != 1 or shape[0] < 2:
        return None
    return [float(share) for share in np.bincount(labels, minlength=shape[0])[: shape[0]] / len(labels)]


def affordable(weights: list[Weight]) -> bool:
    """Whether the Jacobian of every layer is quickly made: dense layers of moderate width."""
    if len(weights) < 2 or any(len(w.record["shape"]) > 1 for w in weights):
        return False
    cost, below = 0.0, 0.0
    for w in weights:
        below += w.size
        cost += 3 * w.record["shape"][0] * below
    return cost <= PRODUCTS


def _predicted(model: Module, x: Any, y: Any) -> tuple[Any, str]:
    """The theory of this network, or why there is none."""
    try:
        from minidl.lab.theory import predict

        return predict(model, x, y), ""
    except (ImportError, ValueError, TypeError, ArithmeticError) as error:
        return None, str(error)
