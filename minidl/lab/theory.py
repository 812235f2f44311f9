"""What theory says a network does to signals and gradients before any training, beside what ``probe`` measures.

For wide layers with independent weights everything follows from a few averages over a Gaussian (``minidl.meanfield``).
``predict`` walks through the network with them (``minidl.init.walk``), from the weights' actual second moments and
means and the inputs' second moment and correlations. Nothing is simulated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl import threads
from minidl.backend import to_host
from minidl.init.layer_rules import weight_moments
from minidl.init.model_level import effective_weight
from minidl.init.signal import Back, Call, Signal, trace
from minidl.init.walk import Walk
from minidl.lab.measure import SATURATED
from minidl.lab.untouched import left_as_it_was, path_of, placed
from minidl.meanfield import ACTIVATIONS, dead_fraction, depth_scales, gaussian_mean, initial_loss
from minidl.meanfield.law import Law
from minidl.nn import Module
from minidl.tensor import Tensor
from minidl.text import table

__all__ = ["Prediction", "Recorder", "predict", "signal_of", "variance_ratios"]

Values = NDArray[np.float64]

QUANTILE = 1.6448536269514722  # of the normal law: 5 % lie above
ENOUGH = 256  # inputs for correlations
ALIKE = 0.1  # where the correlations of pairs of inputs spread by more, they are followed in three groups
EQUAL = 1.05  # largest σ over smallest, of layers that count as drawn with one
#: What is approximate about a layer, by its kind.
NOTES = {
    "MaxPool2d": "maximum of a window: any two places as if equally correlated; windows that overlap as if "
    "their gradients were independent",
    "GlobalAvgPool2d": "mean over places: how it differs between images is not predicted",
}
REST = "take lab.probe, which measures"


@dataclass
class Prediction:
    """What ``predict`` calculated: print it for a table, or read ``records``.

    Args:
        records: one flat dict per layer without modules inside, in the order of execution, with the paths of ``probe``.
            Of its output: ``mean``, ``rms``, ``std``, ``batch_std``, ``second_moment``, ``correlation`` (mean cosine of
            two inputs), ``dead``, ``saturated``; ``rms_low`` and ``rms_high``, between which 90 % of all draws of the
            weights lie; ``variance_ratio``, second moment of the output over that of the input; ``delta_rms`` of the
            gradient, relative to that at the network's output. Of weighted layers but the last: ``chi = n E w² E φ'²``,
            what a small difference is multiplied by until the next; of all weighted ones ``sigma_w = √(n E w²)``,
            ``sigma_b`` (rms of the biases) and ``width`` (number of units or channels). What does not apply is None.
        depth: number of layers with weights.
        chi: geometric mean of that of the hidden layers; None without.
        beta: Σ 1/width over the hidden layers; above 1 one draw says little about another.
        initial_loss: cross entropy of logits that know nothing of the labels; None without class labels.
        activation: name of the hidden activation, None if there are several or none.
        sigma_w, sigma_b: √(fan_in E w²) and std of the biases of the hidden layers behind the first; None if they
            differ by more than 5 %.
        xi: depth scale 1/|ln χ| at the fixed point of a network without normalization and skips; else None.
        q_star: that fixed point, of the variance of the pre-activations.
        notes: where the theory is an approximation for this network.
    """

    records: list[dict[str, Any]]
    depth: int = 0
    chi: float | None = None
    beta: float = 0.0
    initial_loss: float | None = None
    activation: str | None = None
    sigma_w: float | None = None
    sigma_b: float | None = None
    xi: float | None = None
    q_star: float | None = None
    notes: list[str] = field(default_factory=list)

    COLUMNS = (
        *("layer", "rms", "rms_low", "rms_high", "batch_std"),
        *("correlation", "dead", "saturated", "delta_rms", "chi"),
    )

    def __str__(self) -> str:
        shown = [c for c in self.COLUMNS if any(r[c] is not None for r in self.records)]
        known = {"χ": self.chi, "ξ": self.xi, "q*": self.q_star, "β": self.beta, "loss": self.initial_loss}
        said = [f"{name} = {value:.4g}" for name, value in known.items() if value is not None]
        return "\n".join([table(self.records, shown), f"{self.depth} weighted layers: {', '.join(said)}", *self.notes])


def predict(model: Module, x: Any, y: Any = None) -> Prediction:
    """Calculate what ``lab.probe(model, x, y)`` would measure, in the limit of wide layers.

    ``q' = n E w² E φ(√q ξ)² + Var b`` on the way up, ``n E w² E φ'(√q ξ)²`` for differences and, with the number of
    outputs for n, for ``E δ²`` on the way down. n, E w², the biases and the inputs' moments are those of ``model`` and
    ``x``; weights with a mean that is not 0 are followed too. Nothing of the model is changed.

    Exact for wide dense and convolutional networks, batch normalization and sums of pre-activations; approximate, and
    noted, for max-pooling and sums of activated signals. Only scale and correlation of weights are seen, not units that
    are copies of each other.

    Args:
        model: made of ``nn`` layers; a module of your own is followed if each module inside gets just what came out of
            another, so that nothing is computed in between.
        x: inputs (N, …), as for ``probe``.
        y: labels; not needed. With labels that are no whole numbers there is no initial loss.

    Raises:
        ValueError: a layer that cannot be followed; it is named.

    Source: Poole et al. 2016, "Exponential expressivity in deep neural networks through transient chaos"; Schoenholz et
    al. 2017, "Deep Information Propagation"; Yang et al. 2019, "A Mean Field Theory of Batch Normalization"; Hanin &
    Rolnick 2018, "How to Start Training: The Effect of Initialization and Architecture".
    """
    inputs = placed(model, x)
    with left_as_it_was(model):
        call = trace(model, inputs[:2].detach())
    walk = Recorder(len(inputs))
    with threads.limited(1):  # sums of some thousand terms: more threads only wait for each other
        outputs = walk.through(call, signal_of(to_host(inputs.data)))
        return walk.prediction(model, outputs if isinstance(outputs, list) else [outputs], call, y)


def variance_ratios(call: Call) -> dict[str, float]:
    """By path of each layer, second moment of its output over that of its input, for inputs of mean 0 and variance 1.

    What layers do in training counts. A network that cannot be followed has none.
    """
    found: dict[str, float] = {}

    class Ratios(Walk):
        def step(self, call: Call, before: Signal, after: Signal, back: Back) -> Signal:
            if before.square:
                found.setdefault(path_of(call.path, call.module), after.square / before.square)
            return super().step(call, before, after, back)

    try:
        with threads.limited(1):
            Ratios("summary", REST, trained=True).through(call, Signal.normal(0.0, 1.0, {}))
    except ValueError:
        return {}
    return found


def signal_of(x: Values) -> Signal:
    """The inputs as a signal: their values, and how far two of them, or two places of one, are apart."""
    x = x.astype(np.float64)
    values = np.sort(x.ravel())[:: max(x.size // 20_000, 1)]
    signal = Signal(
        Law(values, np.full(values.size, 1 / values.size)), mean=float(x.mean()), square=float((x * x).mean())
    )
    if len(x) > 1:
        signal.half = dict(_pairs(x[:ENOUGH], signal.square))
    if x.ndim == 4:
        profile = (x * x).mean(axis=(0, 1))
        signal.profile = profile / profile.mean() if profile.any() else None
        signal.half |= dict(_places(x))
        signal.neighbours = 1 - signal.apart("near1")
    return signal


def _pairs(x: Values, square: float) -> Iterator[tuple[str, float]]:
    """Half the mean square difference of two inputs; in three groups if they are of different kinds."""
    rows = x.reshape(len(x), -1)
    lengths = (rows * rows).mean(axis=1)
    half = 0.5 * (lengths[:, None] + lengths) - rows @ rows.T / rows.shape[1]
    half = np.sort(np.maximum(half[np.triu_indices(len(x), 1)], 0.0))
    groups = np.array_split(half, 3) if half.size > 2 and half.std() > ALIKE * square else [half]
    return ((f"pair{i}", float(group.mean())) for i, group in enumerate(groups))


def _places(x: Values) -> Iterator[tuple[str, float]]:
    """The same for two places of one image, at distances 1, 2, 4, … along an axis and anywhere; and of two images."""
    for distance in (1, 2, 4, 8, 16):
        shifted = [x[..., distance:, :] - x[..., :-distance, :], x[..., distance:] - x[..., :-distance]]
        if all(part.size for part in shifted):
            yield f"near{distance}", 0.5 * float(np.mean([(part**2).mean() for part in shifted]))
    places = float(x.var(axis=(2, 3)).mean())
    yield "places", places
    if len(x) > 1:
        yield "across", max((float(x.var(axis=(0, 2, 3)).mean()) - places / len(x)) * len(x) / (len(x) - 1), 0.0)


class Recorder(Walk):
    """A walk that writes down every layer."""

    def __init__(self, inputs: int) -> None:
        super().__init__("predict", REST, inputs)
        self.seen: list[tuple[dict[str, Any], Signal]] = []
        self.weights: list[dict[str, Any]] = []
        self.functions: list[tuple[str, tuple[Any, ...]]] = []
        self.notes: list[str] = []
        self.behind: dict[int, dict[str, Any]] = {}  # id of a signal -> the weighted layer that it came from

    def step(self, call: Call, before: Signal, after: Signal, back: Back) -> Signal:
        """Note the step, and write the record of its layer."""
        super().step(call, before, after, back)
        record: dict[str, Any] = {"layer": path_of(call.path, call.module), "kind": type(call.module).__name__}
        record |= {"shape": tuple(call.output.shape[1:])} | _moments(after, before, self.batch.inputs)
        record |= {"dead": _dead(call, before, self.batch.inputs), "saturated": _saturated(call, before)}
        record |= {"chi": None, "sigma_w": None, "sigma_b": None, "width": None}
        self.seen.append((record, after))
        self._follow_chi(call, before, after, back, record)
        self._note(call, before)
        return after

    def _follow_chi(self, call: Call, before: Signal, after: Signal, back: Back, record: dict[str, Any]) -> None:
        """Multiply the χ of the last weighted layer by the slopes of what stands between it and the next.

        It counts where an activation follows, or the next weighted layer itself: not at the end of a residual branch.
        """
        module, last = call.module, self.behind.get(id(before))
        if getattr(module, "fans", None) is not None:
            if last is not None:
                last["_counts"] = True
            bias = module.bias
            record["chi"] = module.fans[0] * weight_moments(effective_weight(module))[0]
            record["sigma_w"], record["width"] = math.sqrt(record["chi"]), call.output.shape[1]
            record["sigma_b"] = 0.0 if bias is None else math.sqrt(weight_moments(bias.data)[0])
            record |= {"_first": not self.weights, "_counts": False}
            self.weights.append(record)
            self.behind[id(after)] = record
        elif last is not None:
            self.behind[id(after)] = last
            if hasattr(module, "function"):
                last["_counts"] = True
                self.functions.append((module.function.__name__, tuple(sorted(module.options.items()))))
            if hasattr(module, "function") or call.kind in ("BatchNorm1d", "BatchNorm2d", "Scale"):
                last["chi"] *= float(back(1.0))

    def _note(self, call: Call, before: Signal) -> None:
        note = ""
        if call.kind in NOTES:
            note = NOTES[call.kind]
        elif hasattr(call.module, "function") and not before.gaussian and call.kind != "Identity":
            note = "correlations after sums of activated signals: as if these were Gaussian"
        if note and note not in self.notes:
            self.notes.append(note)

    def prediction(self, model: Any, outputs: list[Signal], call: Call, y: Any) -> Prediction:
        """The gradient on the way back, and what is true of the whole network."""
        ends = call.output if isinstance(call.output, tuple | list) else [call.output]
        parts = _loss_parts(model, len(outputs))
        self.back([(signal, part**2) for signal, part in zip(outputs, parts, strict=True)])
        for record, signal in self.seen:
            record["delta_rms"] = math.sqrt(np.mean(signal.delta))
        last = [id(self.behind.get(id(signal))) for signal in outputs]
        hidden = [r for r in self.weights if id(r) not in last]
        for record in self.weights:
            if id(record) in last or not record["_counts"]:
                record["chi"] = None
        chis = [r["chi"] for r in hidden if r["chi"] is not None]
        found = Prediction(
            [{k: v for k, v in r.items() if not k.startswith("_")} for r, _ in self.seen],
            depth=len(self.weights),
            chi=_geometric_mean(chis) if chis else None,
            beta=sum(1 / r["width"] for r in hidden),
            notes=self.notes,
        )
        losses = [_loss(signal, end, y) for signal, end in zip(outputs, ends, strict=True)]
        known = [part * loss for part, loss in zip(parts, losses, strict=True) if loss is not None]
        found.initial_loss = sum(known) if len(known) == len(parts) else None
        self._phase(model, found, hidden)
        return found

    def _phase(self, model: Any, found: Prediction, hidden: list[dict[str, Any]]) -> None:
        """Where the network lies in the phase diagram of its activation."""
        functions = set(self.functions)
        found.activation = next(iter(functions))[0] if len(functions) == 1 else None
        inner = [r for r in hidden if not r["_first"]] or hidden
        found.sigma_w, found.sigma_b = (_one_value([r[key] for r in inner]) for key in ("sigma_w", "sigma_b"))
        plain = not any(
            type(m).__name__ in ("Residual", "BatchNorm1d", "BatchNorm2d") for _, m in model.named_modules()
        )
        if plain and found.activation in ACTIVATIONS and found.sigma_w is not None and found.sigma_b is not None:
            params = dict(next(iter(functions))[1])
            try:
                scales = depth_scales(found.activation, found.sigma_w, found.sigma_b, **params)
            except ValueError:  # the variance has no fixed point
                return
            found.q_star, found.xi = scales.q_star, scales.xi_c


def _moments(after: Signal, before: Signal, inputs: int) -> dict[str, Any]:
    """The forward half of a record."""
    rms, pair = math.sqrt(after.square), after.half_of("pair")
    luck = after.luck + after.own
    low, high = (math.exp((-luck / 2 + side * QUANTILE * math.sqrt(luck)) / 2) for side in (-1, 1))
    return {
        "mean": after.mean,
        "rms": rms,
        "std": math.sqrt(after.variance),
        "batch_std": None if pair is None else math.sqrt(pair * (1 - 1 / inputs)),
        "second_moment": after.square,
        "correlation": None if pair is None or not after.square else 1 - pair / after.square,
        "rms_low": rms * low,
        "rms_high": rms * high,
        "variance_ratio": after.square / before.square if before.square else None,
        "delta_rms": None,
    }


def _dead(call: Call, before: Signal, inputs: int) -> float | None:
    """Share of ReLU units that are 0 for the whole batch."""
    if call.kind not in ("ReLU", "CReLU"):
        return None
    if not before.variance:
        return float(before.mean <= 0)
    mean = before.mean / math.sqrt(before.variance)
    across, count = "across" if "across" in before.half else "pair", inputs * math.prod(call.output.shape[2:])
    rho = min(max(1 - before.apart(across), 0.0), 1.0)
    share = dead_fraction(rho, count, mean)
    return share if call.kind == "ReLU" else (share + dead_fraction(rho, count, -mean)) / 2


def _saturated(call: Call, before: Signal) -> float | None:
    """Share of outputs at the flat ends."""
    if call.kind not in SATURATED:
        return None
    low, high = SATURATED[call.kind]

    def flat(z: Values) -> Values:
        h = np.asarray(call.module.function(z, **call.module.options))
        return ((h <= low) | (h >= high)).astype(np.float64)

    return (
        gaussian_mean(lambda z: flat(before.mean + z), before.variance) if before.gaussian else before.law.average(flat)
    )


def _loss_parts(model: Any, count: int) -> list[float]:
    """The weight of the loss of each output; networks with several say so themselves."""
    if count == 1 or not hasattr(model, "training_loss"):
        return [1.0] * count
    unit = np.eye(count)
    return [float(model.training_loss(tuple(row), None, lambda output, _: output)) for row in unit]


def _loss(signal: Signal, output: Any, y: Any) -> float | None:
    labelled = y is None or Tensor(y).data.dtype.kind in "iu"
    if len(output.shape) != 2 or not labelled or not math.isfinite(signal.variance):
        return None
    return initial_loss(math.sqrt(signal.variance), output.shape[1])


def _geometric_mean(values: list[float]) -> float:
    return math.exp(sum(math.log(v) for v in values) / len(values)) if all(v > 0 for v in values) else 0.0


def _one_value(values: list[float]) -> float | None:
    """Their mean, if they are one value but for the luck of the draw."""
    if not values or max(values) > EQUAL * min(values):
        return None
    return sum(values) / len(values)
