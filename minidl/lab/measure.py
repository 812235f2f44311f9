"""The probe: what one network does to the signal on the way up and to the gradient on the way down, layer by layer.

One forward and one backward pass over a batch, with a look at every layer in between. Only reductions are kept, as 0-d
arrays on the device, and read once, at the end. The network is left exactly as it was.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from minidl import ops
from minidl.backend import Array, array_module, device_of, to_device, to_host
from minidl.nn import Module
from minidl.optim import Optimizer
from minidl.tensor import Tensor
from minidl.text import table

__all__ = ["Report", "change_per_layer", "probe"]

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
        from minidl.lab.draw import new_figure, on_paper

        with on_paper():
            fig = new_figure(7.5, 4.5)
            self.plot(fig.subplots())
        return fig

    def plot(self, ax: Any = None) -> Any:
        """The signal ladder, see ``lab.plot_ladder``; returns the Axes."""
        from minidl.lab.draw import plot_ladder

        return plot_ladder(self, ax=ax)


def probe(
    model: Module,
    x: Any,
    y: Any,
    *,
    loss: Callable[[Any, Any], Any] = ops.cross_entropy,
    optimizer: Optimizer | None = None,
) -> Report:
    """Measure every layer on one batch, forward and backward.

    Weights, gradients, running averages, dropout masks and mode are left as they were.

    Args:
        model: any tree of modules; measured are those without modules inside, in the order in which they run.
        x: inputs (N, ...), float32, an array or a Tensor; moved to the model's device.
        y: labels, as the loss wants them.
        loss: ``loss(model(x), y)``, or what the model's own ``training_loss(outputs, y, loss)`` makes of it.
        optimizer: if given, the size of one update is measured too, on copies.

    Raises:
        ValueError: no inputs, or a NaN or infinity among them: it would make every number below it meaningless.
        TypeError: inputs that are no floating-point numbers.
    """
    inputs, labels = _placed(model, x, y)
    records: list[dict[str, Any]] = []
    with _left_as_it_was(model):
        handles = [m.register_forward_hook(_watcher(path, records)) for path, m in _leaves(model)]
        try:
            outputs = model(inputs)
            own = getattr(model, "training_loss", None)  # of networks with auxiliary classifiers
            value = loss(outputs, labels) if own is None else own(outputs, labels, loss)
            model.zero_grad()
            value.backward()
        finally:
            for handle in handles:
                handle.remove()
        for record in records:
            record |= _of_weight(record.pop("module"), optimizer)
    return Report([_read(record) for record in records], float(to_host(value.data)))


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


def _placed(model: Module, x: Any, y: Any) -> tuple[Tensor, Array]:
    """Inputs and labels on the model's device; a NaN is refused here."""
    device = device_of(model.parameters()[0].data)
    inputs = Tensor(to_device(Tensor(x).data, device))
    if inputs.dtype.kind != "f":
        raise TypeError(f'the inputs are {inputs.dtype}; pass x.astype("float32"), images standardized')
    if not inputs.size:
        raise ValueError(f"no inputs: got shape {inputs.shape}")
    inputs.requires_grad = True  # so that layers whose weights are frozen have a gradient too
    bad = int(to_host((~array_module(inputs.data).isfinite(inputs.data)).sum()))
    if bad:
        raise ValueError(f"{bad} of {inputs.size} input values are NaN or infinite; clean the data first")
    return inputs, to_device(Tensor(y).data, device)


def _leaves(model: Module) -> Iterator[tuple[str, Module]]:
    return ((path, m) for path, m in model.named_modules() if not any(True for _ in m.named_children()))


def _watcher(path: str, records: list[dict[str, Any]]) -> Callable[[Module, Any, Any], None]:
    """A forward hook that measures the output now, and its gradient when that comes by."""

    def look(module: Module, _inputs: Any, output: Any) -> None:
        record: dict[str, Any] = {"layer": path or type(module).__name__, "kind": type(module).__name__}
        record |= {"shape": tuple(output.shape[1:]), "module": module, "delta_rms": None}
        record |= _of_output(output.data, record["kind"])
        records.append(record)

        def look_back(g: Array) -> None:
            record["delta_rms"] = _rms(g)

        if output.requires_grad:
            output.register_hook(look_back)

    return look


def _of_output(h: Array, kind: str) -> dict[str, Any]:
    """Statistics of a layer's output (N, C, ...). All sums run on the scaled output in float64: no square overflows."""
    xp = array_module(h)
    unit, size = _scaled(h)
    mean, square = unit.mean(dtype="float64"), (unit * unit).mean(dtype="float64")
    apart = unit - unit[:1]  # the spread of nearly equal numbers is computed from their differences: no digits are lost
    spread = (apart * apart).mean(axis=0, dtype="float64") - apart.mean(axis=0, dtype="float64") ** 2
    found = {
        "mean": mean * size,
        "rms": xp.sqrt(square) * size,
        "std": xp.sqrt(xp.maximum(square - mean * mean, 0)) * size,
        "batch_std": _above_rounding(xp.sqrt(xp.maximum(spread, 0).mean()), h) * size,
        "nonfinite": (~xp.isfinite(h)).mean(dtype="float64"),
        "dead": None,
        "always_on": None,
        "saturated": None,
        "twins": _twins(unit) if h.ndim == 2 and h.shape[1] > 1 else None,
    }
    if kind in ("ReLU", "CReLU"):
        axes = (0, *range(2, h.ndim))
        found["dead"] = (h == 0).all(axis=axes).mean(dtype="float64")
        found["always_on"] = (h > 0).all(axis=axes).mean(dtype="float64")
    if kind in SATURATED:
        low, high = SATURATED[kind]
        found["saturated"] = ((h <= low) | (h >= high)).mean(dtype="float64")
    return found


def _above_rounding(spread: Array, h: Array) -> Array:
    """0 in place of a spread that is mere rounding of the largest element: such inputs can no longer be told apart."""
    return spread * (spread > float(array_module(h).finfo(h.dtype).eps))


def _scaled(h: Array) -> tuple[Array, Array]:
    """``h / 2ᵏ`` and ``2ᵏ``, the power of two just below ``max|h|``: dividing by it is exact. All zeros stay zeros."""
    xp = array_module(h)
    largest = xp.abs(h).max().astype("float64")
    size = xp.exp2(xp.floor(xp.log2(xp.where(largest > 0, largest, xp.ones_like(largest)))))
    return h / size.astype(h.dtype), size


def _rms(g: Array) -> Array:
    unit, size = _scaled(g)
    return array_module(g).sqrt((unit * unit).mean(dtype="float64")) * size


def _twins(unit: Array) -> Array:
    """Share of units (columns) that agree with the unit before them on every input: what symmetry makes of a layer.

    Up to rounding: some processors add the products of the last few columns of a matrix in another order.
    """
    xp = array_module(unit)
    rounding = 16 * float(xp.finfo(unit.dtype).eps)  # the largest element is between 1 and 2
    return (xp.abs(unit[:, 1:] - unit[:, :-1]) <= rounding).all(axis=0).mean(dtype="float64")


def _of_weight(module: Module, optimizer: Optimizer | None) -> dict[str, Any]:
    """Statistics of a layer's weight and its gradient."""
    found: dict[str, Any] = dict.fromkeys(("weight_mean", "weight_std", "weight_grad_rms", "update_ratio"))
    weight = getattr(module, "weight", None)
    if weight is None or not hasattr(module, "fans"):
        return found
    found["weight_mean"] = weight.data.mean(dtype="float64")
    found["weight_std"] = weight.data.astype("float64").std()  # std(dtype=) squares in float32 on a GPU
    if weight.grad is not None:
        found["weight_grad_rms"] = _rms(weight.grad)
        if optimizer is not None:
            found["update_ratio"] = _update_ratio(weight, optimizer)
    return found


def _update_ratio(weight: Tensor, optimizer: Optimizer) -> Array | None:
    """rms of the update that the optimizer would make, over rms of the weight; made on copies."""
    g: Array = weight.grad
    for (group, p), state in zip(optimizer.members(), optimizer.state, strict=True):
        if p is weight:
            twin = Tensor(weight.data.copy(), requires_grad=True)
            optimizer.update(twin, g.copy(), copy.deepcopy(state), group, group["lr"] * optimizer.lr_factor)
            return _rms(twin.data - weight.data) / _rms(weight.data)
    return None


def _read(record: dict[str, Any]) -> dict[str, Any]:
    """0-d arrays as Python numbers, in the order of ``KEYS``."""
    found = {k: float(to_host(v)) if hasattr(v, "dtype") else v for k, v in record.items()}
    found["second_moment"] = found["rms"] * found["rms"]  # of Python's floats: inf where it overflows
    return {key: found[key] for key in KEYS}


@contextmanager
def _left_as_it_was(model: Module) -> Iterator[None]:
    """Put gradients, buffers and masks back afterwards; in between, buffers are copies and masks begin anew."""
    grads = [(p, p.grad) for p in model.parameters()]
    insides: list[tuple[Any, dict[str, Any]]] = [(m, _state_of(m)) for _, m in model.named_modules()]
    try:
        for module, state in insides:
            vars(module).update({name: x.copy() for name, x in state.items() if hasattr(x, "shape")})
            if hasattr(module, "restart"):
                module.restart(module.number)
        yield
    finally:
        for p, g in grads:
            p.grad = g
        for module, state in insides:
            vars(module).update(state)


def _state_of(module: Module) -> dict[str, Any]:
    """What a forward pass may change in a module: buffers, and the generator of masks with its device."""
    names = [*vars(module).get("_buffer_names", ()), *(("_generator", "_device") if hasattr(module, "restart") else ())]
    return {name: getattr(module, name) for name in names}
