"""The probe: what one network does to the signal on the way up and to the gradient on the way down, layer by layer.

One forward and one backward pass over a batch, with a look at every layer in between. Only reductions are kept, as 0-d
arrays on the device, and read once, at the end. The network is left exactly as it was.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from minidl import ops
from minidl.backend import Array, array_module, device_of, to_device, to_host
from minidl.lab import closer
from minidl.lab.untouched import each_output, is_channels_last, left_as_it_was, placed, rows_of, weight_of
from minidl.nn import Module
from minidl.optim import Optimizer
from minidl.tensor import Tensor
from minidl.text import table

__all__ = ["Report", "change_per_layer", "loss_of", "probe"]

#: Outputs of an activation beyond which its slope is nearly gone, by class name: (low, high).
#: tanh: Karpathy's 0.97; sigmoid: 0.05 from either end.
SATURATED = {"Tanh": (-0.97, 0.97), "Sigmoid": (0.05, 0.95), "Erf": (-0.97, 0.97), "HardTanh": (-1.0, 1.0)}

#: What a record holds, in this order.
KEYS = (
    *("layer", "kind", "shape"),
    *("mean", "rms", "std", "batch_std", "second_moment", "nonfinite", "dead", "always_on", "saturated", "twins"),
    *("delta_rms", "weight_mean", "weight_std", "weight_grad_rms", "update_ratio"),
)


@dataclass
class Report:
    """What ``probe`` measured: print it for a table, ``plot()`` it, or read ``records``.

    Args:
        records: one flat dict per layer in the order of execution. Of its output: ``mean``, ``rms``, ``std`` (over all
            elements), ``batch_std`` (how much it differs between inputs: rms over units of the std over the batch),
            ``second_moment`` (rms²), ``nonfinite`` (share of elements that are NaN or infinite), ``dead`` (share of
            units that are 0 on the whole batch; ReLU only), ``always_on`` (share of units that are above 0 on all of
            it; ReLU only), ``saturated`` (share of elements at the flat ends; tanh, sigmoid, erf, hard tanh). Of the
            gradient of the loss at its output: ``delta_rms``. Of its weight, if it has one: ``weight_mean``,
            ``weight_std``, ``weight_grad_rms``, and with an optimizer ``update_ratio`` (rms
            of one update over rms of the weight). ``twins``: share of units that are copies of another, up to rounding,
            on the whole batch. What does not apply is None.
        loss: of the batch.
    """

    records: list[dict[str, Any]]
    loss: float
    title: str = ""  #: of the figure
    settings: dict[str, Any] = field(default_factory=dict)  #: how the network was made, where that is known
    histograms: list[dict[str, Any]] | None = None  #: on request: {layer, low, high, density}, one per bin
    correlation: list[dict[str, Any]] | None = None  #: on request: {layer, cosine, near}, one per layer
    jacobian: list[dict[str, Any]] | None = None  #: on request: {layer, index, value}, one per singular value
    costs: dict[str, float] = field(default_factory=dict)  #: what was measured -> seconds that it took
    prediction: Any = None  #: a ``lab.predict`` of the same model, for the figure

    COLUMNS = ("layer", "rms", "std", "batch_std", "dead", "saturated", "delta_rms", "weight_std", "weight_grad_rms")

    def __str__(self) -> str:
        shown = [c for c in self.COLUMNS if any(r[c] is not None for r in self.records)]
        changes = ", ".join(f"{name} ×{factor:.3g}" for name, factor in self.changes().items())
        return f"{table(self.records, shown)}\nper layer: {changes}\nloss {self.loss:.4g}"

    def ladder(self, key: str) -> list[float]:
        """The values of ``key`` at the hidden layers with weights (before the activation), from first to last."""
        return [r[key] for r in self.records if r["weight_std"] is not None][:-1]

    def changes(self) -> dict[str, float]:
        """Factor per layer of ``rms``, of ``signal`` (``batch_std``, upwards) and of ``gradient`` (downwards)."""
        return {
            "rms": change_per_layer(self.ladder("rms")),
            "signal": change_per_layer(self.ladder("batch_std")),
            "gradient": change_per_layer(self.ladder("delta_rms")[::-1]),
        }

    def figure(self) -> Any:
        """``plot`` in a Figure of its own, for saving."""
        return self._ladder().figure()

    def plot(self, ax: Any = None) -> Any:
        """The signal ladder, see ``lab.SignalLadder``, with theory where ``prediction`` is known; returns the Axes."""
        return self._ladder().plot(ax)

    def _ladder(self) -> Any:
        from minidl.lab.figures.ladder import SignalLadder

        return SignalLadder.from_report(self, self.prediction)


def probe(
    model: Module,
    x: Any,
    y: Any,
    *,
    loss: Callable[[Any, Any], Any] = ops.cross_entropy,
    optimizer: Optimizer | None = None,
    histograms: bool = False,
    correlation: bool = False,
    jacobian: bool = False,
) -> Report:
    """Measure every layer on one batch, forward and backward.

    Weights, gradients, running averages, dropout masks and mode are left as they were.

    Args:
        model: any tree of modules; measured are those without modules inside, in the order in which they run.
        x: inputs (N, ...), float32, an array or a Tensor; moved to the model's device.
        y: labels, as the loss wants them.
        loss: ``loss(model(x), y)``, or what the model's own ``training_loss(outputs, y, loss)`` makes of it.
        optimizer: if given, the size of one update is measured too, on copies.
        histograms: also how every layer's output is distributed, see ``lab.closer``.
        correlation: also how alike the outputs of different inputs are, and of an input and one nearby.
        jacobian: also the singular values of the derivative of every weighted layer's output by the first input.

    Returns:
        The report. ``costs`` says how many seconds each part took: "probe" for all that is always measured, and one for
        each of the three that was asked for.

    Raises:
        ValueError: no inputs, or a NaN or infinity among them or the labels: it would make every number below it
            meaningless; a Jacobian of too many entries; the correlation of fewer than two inputs.
        TypeError: inputs that are no floating-point numbers; no Module, no Optimizer, or a loss that is no Tensor.
    """
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer is one made for this model, such as optim.SGD(model.parameters(), lr=0.1); "
            f"got a {type(optimizer).__name__}"
        )
    asked = {"histograms": histograms, "correlation": correlation, "jacobian": jacobian}
    costs: dict[str, float] = {}
    found = {name: _timed(costs, name, getattr(closer, name), model, x) for name, wanted in asked.items() if wanted}
    records, value = _timed(costs, "probe", _records, model, x, y, loss, optimizer)
    return Report(records, value, costs=costs, **found)


def _timed(costs: dict[str, float], name: str, measure: Callable[..., Any], *args: Any) -> Any:
    began = time.perf_counter()
    found = measure(*args)
    costs[name] = time.perf_counter() - began
    return found


def _records(
    model: Module, x: Any, y: Any, loss: Callable[[Any, Any], Any], optimizer: Optimizer | None
) -> tuple[list[dict[str, Any]], float]:
    """One record per layer, and the loss."""
    inputs = placed(model, x)
    inputs.requires_grad = True  # so that layers whose weights are frozen have a gradient too
    labels = to_device(Tensor(y).data, device_of(inputs.data))
    if labels.dtype.kind == "f" and not array_module(labels).isfinite(labels).all():
        raise ValueError("there are NaN or infinite values among the labels; clean the data first")
    raw: list[dict[str, Any]] = []
    with left_as_it_was(model):
        each_output(model, partial(_look, raw))
        value = loss_of(model, model(inputs), labels, loss)
        value.backward()
        records = [_read(record | _of_gradient(record["weight"], optimizer)) for record in raw]
    return records, float(to_host(value.data))


def loss_of(model: Module, outputs: Any, labels: Array, loss: Callable[[Any, Any], Any]) -> Tensor:
    """What training makes small; networks with auxiliary classifiers say so themselves."""
    own = getattr(model, "training_loss", None)
    value = loss(outputs, labels) if own is None else own(outputs, labels, loss)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"the loss of the output is a {type(value).__name__}, not a Tensor; compute with Tensors all the way "
            "(.numpy(), .data and .item() end what can be differentiated)"
        )
    return value


def change_per_layer(values: list[float]) -> float:
    """The factor per layer: the root of last over first. Where the values reach exactly 0, the factor until there.

    0 if they start at 0; inf if one of them is not finite: the signal has left the range of float32.
    """
    if not all(math.isfinite(v) for v in values):
        return math.inf
    alive = list(itertools.takewhile(lambda v: v > 0, values))
    if len(alive) < 2:
        return 0.0 if len(alive) < len(values) else 1.0
    return float((alive[-1] / alive[0]) ** (1 / (len(alive) - 1)))


def _look(raw: list[dict[str, Any]], path: str, module: Module, output: Tensor) -> None:
    """Measure a layer's output now, and its gradient when that comes by."""
    kind = type(module).__name__
    record: dict[str, Any] = {"layer": path, "kind": kind, "shape": output.shape[1:]}
    moments = _moments(output.data, alike=bool(raw) and raw[-1]["output"]["alike"])
    record |= {"output": moments, "delta": None, "weight": None, "weight_moments": None}
    record["shares"] = _shares(output.data, kind, finite="largest" not in moments)
    weight = weight_of(module)
    if weight is not None:
        record |= {"weight": weight, "weight_moments": _moments(weight.data)}
    raw.append(record)
    if output.requires_grad:
        output.register_hook(lambda g: record.update(delta=_size(g)))


# ------------------------------------------------------------------------------------------- statistics of one array
#
# Few passes, all in the array's own precision: a product of it with ones, and one with itself; what these leave, one
# number per unit or per input, goes on in float64. On the host they are tried on the array as it is: a sum of squares
# far from both ends of float32 has lost nothing, nor has a variance that is a good part of it. Next they are tried on
# the distance from the first input. Otherwise, and always on a device, where a look at a number makes everything wait,
# the array is also divided by a power of two near its largest element: that is exact, and no square overflows. Results
# are 0-d arrays; ``_read`` does the remaining arithmetic in Python, once the device is done.

LEAST, MOST = 1e-24, 1e24  # mean squares of float32 that are believed at once
SPREAD = 1 / 32  # of the mean square: the least variance that is; the subtraction has cost it five bits at most
SMALLEST = -126  # exponent of the least power of two that is divided by: its inverse is a float32 too
FEW = 8  # inputs that tell nearly all pairs of units apart


def _on_host(x: Array) -> bool:
    return type(x) is np.ndarray or isinstance(x, np.generic)


def _scaled(rows: Array) -> tuple[Array, dict[str, Array]]:
    """``rows / 2ᵏ``, with k (0 where the largest element is 0, infinite or NaN) and the largest element."""
    xp = array_module(rows)
    largest = xp.maximum(rows.max(), -rows.min())  # NaN, if there is one
    usual = xp.isfinite(largest) & (largest > 0)
    k = xp.maximum(xp.frexp(xp.where(usual, largest, xp.ones_like(largest)))[1] - 1, SMALLEST)
    return rows * xp.ldexp(xp.ones_like(largest), -k), {"exponent": k, "largest": largest}


def _mean_square(rows: Array) -> Array:
    """Row by row in the array's precision, over the rows in float64."""
    return (rows[:, None, :] @ rows[:, :, None]).sum(dtype="float64") / rows.size


@np.errstate(all="ignore")
def _size(x: Array) -> dict[str, Any]:
    """What the rms of an array takes."""
    rows = rows_of(x)
    if _on_host(x) and LEAST < (square := _mean_square(rows)) < MOST:
        return {"square": square}
    unit, scale = _scaled(rows)
    return {"square": _mean_square(unit), **scale}


@np.errstate(all="ignore")
def _moments(h: Array, alike: bool = False) -> dict[str, Any]:
    """What mean, rms, std and batch_std of an output (N, …) take.

    ``alike``: that the inputs gave nearly the same in the layer before; then they mostly do here, and 0 is not tried.
    """
    rows, found = rows_of(h), {"rounding": float(array_module(h).finfo(h.dtype).eps)}
    for origin in (None, rows[:1])[alike:] if _on_host(h) else ():
        sums = _sums(rows, origin)
        if LEAST < sums["square"] < MOST and sums["within"] > SPREAD * sums["square"]:
            whole = sums["within"] + sums["across"] + sums["mean"] ** 2
            return found | sums | {"alike": bool(sums["within"] <= SPREAD * whole)}
    unit, scale = _scaled(rows)
    return found | _sums(unit, unit[:1]) | scale | {"alike": False}


def _sums(rows: Array, origin: Array | None) -> dict[str, Array]:
    """Mean, mean variance over the batch, and variance of the units' means.

    With d = h - o, the distance from an origin (None: from 0; the first input: so that the spread of nearly equal
    numbers loses no digits),

        variance of one unit over the batch = Σd²/N - (Σd/N)²,    its mean = o + Σd/N,

    and the variance of all elements is the mean of the one plus the variance of the other.
    """
    apart, count = rows if origin is None else rows - origin, len(rows)
    square = _mean_square(apart)
    centre = (array_module(rows).ones(count, rows.dtype) @ apart).astype("float64") / count
    within = square - centre @ centre / centre.size
    if origin is not None:
        centre += origin[0]
    mean = centre.sum() / centre.size
    centre -= mean
    return {"square": square, "mean": mean, "within": within, "across": centre @ centre / centre.size}


def _shares(h: Array, kind: str, finite: bool) -> dict[str, Any]:
    """The shares of elements and units that are in some state. ``finite``: all elements are known to be."""
    xp = array_module(h)
    found: dict[str, Any] = dict.fromkeys(("dead", "always_on", "saturated", "twins"))
    if kind in ("ReLU", "CReLU"):
        rows = rows_of(h)
        found["dead"] = _share(_by_unit((rows == 0).all(axis=0), h).all(axis=1))
        found["always_on"] = _share(_by_unit((rows > 0).all(axis=0), h).all(axis=1))
    if kind in SATURATED:
        low, high = SATURATED[kind]
        found["saturated"] = _share(h <= low) + _share(h >= high)
    if h.ndim == 2 and h.shape[1] > 1:
        found["twins"] = _twins(h)
    return found | {"nonfinite": 0.0 if finite else 1 - _share(xp.isfinite(h))}


def _share(true: Array) -> Any:
    return array_module(true).count_nonzero(true) / true.size


def _by_unit(row: Array, h: Array) -> Array:
    """A number for each element of a row, see ``rows_of``, as (units, places)."""
    units = h.shape[1] if h.ndim > 1 else 1
    return row.reshape(-1, units).T if is_channels_last(h) else row.reshape(units, -1)


def _twins(h: Array) -> Any:
    """Share of units (columns) that agree with the unit before them on every input: what symmetry makes of a layer.

    Up to rounding: some processors add the products of the last few columns of a matrix in another order.
    """
    if not _on_host(h):
        return _agree(h[:, 1:], h[:, :-1], array_module(h).abs(h).max()).mean()
    few = h[:FEW]
    largest = np.abs(few).max()
    pairs = np.flatnonzero(_agree(few[:, 1:], few[:, :-1], largest))
    agree = _agree(h.take(pairs + 1, axis=1), h.take(pairs, axis=1), largest).sum() if len(pairs) else 0
    return agree / (h.shape[1] - 1)


def _agree(a: Array, b: Array, largest: Array) -> Array:
    """Which columns differ by no more than rounding of the layer's largest element."""
    xp = array_module(a)
    return (xp.abs(a - b) <= 64 * float(xp.finfo(a.dtype).eps) * largest).all(axis=0)


def _of_gradient(weight: Tensor | None, optimizer: Optimizer | None) -> dict[str, Any]:
    """The sizes of a weight's gradient and of its next update."""
    if weight is None or weight.grad is None:
        return {"gradient": None, "update": None}
    return {"gradient": _size(weight.grad), "update": None if optimizer is None else _update(weight, optimizer)}


def _update(weight: Tensor, optimizer: Optimizer) -> dict[str, Array] | None:
    """The size of the update that the optimizer would make; made on copies."""
    g: Array = weight.grad
    for (group, p), state in zip(optimizer.members(), optimizer.state, strict=True):
        if p is weight:
            twin = Tensor(weight.data.copy(), requires_grad=True)
            optimizer.update(twin, g.copy(), copy.deepcopy(state), group, group["lr"] * optimizer.lr_factor)
            return _size(twin.data - weight.data)
    return None


# --------------------------------------------------------------------------------------------- arithmetic at the end


def _read(raw: dict[str, Any]) -> dict[str, Any]:
    """A record of Python numbers, in the order of ``KEYS``."""
    weight, update = _finished(raw["weight_moments"]), _rms(raw["update"])
    found = {key: raw[key] for key in ("layer", "kind", "shape")} | _finished(raw["output"])
    found |= {key: None if share is None else _number(share) for key, share in raw["shares"].items()}
    found |= {"delta_rms": _rms(raw["delta"]), "weight_grad_rms": _rms(raw["gradient"])}
    found |= {"weight_mean": weight["mean"], "weight_std": weight["std"]}
    found["update_ratio"] = None if update is None else _ratio(update, weight["rms"])
    return {key: found[key] for key in KEYS}


def _finished(raw: dict[str, Any] | None) -> dict[str, Any]:
    """Mean, rms, std, batch_std, second moment from what ``_moments`` summed."""
    if raw is None:
        return dict.fromkeys(("mean", "rms", "std", "batch_std", "second_moment"))
    mean, within, across = (_number(raw[key]) for key in ("mean", "within", "across"))
    unit, lost = _unit(raw)
    if lost is not None:
        return {**dict.fromkeys(("mean", "std", "batch_std"), math.nan), "rms": lost, "second_moment": lost}
    within = max(within, 0.0)
    rms, spread = math.sqrt(within + across + mean * mean) * unit, math.sqrt(within) * unit
    return {
        "mean": mean * unit,
        "rms": rms,
        "std": math.sqrt(within + across) * unit,
        # inputs no further apart than rounding cannot be told apart; a sum of 256 products is off by half this at most
        "batch_std": spread if spread > 3 * raw["rounding"] * rms else 0.0,
        "second_moment": rms * rms,  # of Python's floats: inf where it overflows
    }


def _rms(raw: dict[str, Any] | None) -> float | None:
    """The rms, from what ``_size`` summed; inf or NaN where an element is."""
    if raw is None:
        return None
    unit, lost = _unit(raw)
    return math.sqrt(_number(raw["square"])) * unit if lost is None else lost


def _unit(raw: dict[str, Any]) -> tuple[float, float | None]:
    """The power of two that the array was divided by, and the largest element if it is infinite or NaN."""
    if "largest" not in raw:
        return 1.0, None
    largest = _number(raw["largest"])
    return 2.0 ** int(_number(raw["exponent"])), None if math.isfinite(largest) else largest


def _number(x: Any) -> float:
    return float(x if isinstance(x, float) else to_host(x))


def _ratio(update: float, weight: float) -> float:
    """inf for a weight of zeros that moves, NaN for one that stays."""
    return update / weight if weight else math.nan if update == 0 else math.inf
