"""The signal ladder: what becomes of signal and gradient from layer to layer, beside theory, with a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minidl.lab.draw import ladder_axes, ladder_limits, ladder_line, theory_line
from minidl.lab.figures.base import Display, check_same_layers, heading, label_ends, or_nan, times
from minidl.lab.limits import HARMLESS, STALLS

__all__ = ["SignalLadder"]

#: key of a record -> key of ``Report.changes``, name, line; rms solid, spread dashed, gradient dotted
LINES = {
    "rms": ("rms", "rms of the\npre-activation", ("#000000", "-", "o")),
    "batch_std": ("signal", "its std\nover inputs", ("#0072B2", "--", "s")),
    "delta_rms": ("gradient", "rms of the\ngradient δ", ("#D55E00", ":", "^")),
}
BAND = "#9A9A9A"


@dataclass(frozen=True, eq=False)
class SignalLadder(Display):
    """Rms of the pre-activation, its spread over inputs and the gradient there, at every hidden layer.

    Solid, dashed and dotted: measured. Wide pale lines under them: mean-field theory, for infinite width; the
    gradient's is relative and starts at what was measured in the last hidden layer. Grey: where 90 % of the networks
    of this width lie. The frame says by how much a layer changes what suffers first, and what that means over all
    layers. A cross at the edge: the line leaves float32, or the figure.

    Args:
        layers: paths of the hidden layers with weights, in order.
        measured: "rms", "batch_std", "delta_rms" -> one value per layer.
        theory: the same keys -> the prediction, and "rms_low", "rms_high" -> the band; empty without theory.
        changes: factor per layer of "rms", "signal" and "gradient" (that one downwards).
        title: of the figure.
        says: what the frame says instead of its own verdict.
    """

    layers: Sequence[str]
    measured: Mapping[str, Sequence[float]]
    theory: Mapping[str, Sequence[float]] = field(default_factory=dict)
    changes: Mapping[str, float] = field(default_factory=dict)
    title: str = ""
    says: str = ""

    @classmethod
    def from_report(cls, report: Any, prediction: Any = None, says: str = "") -> SignalLadder:
        """Of a ``lab.probe``, and of a ``lab.predict`` of the same model.

        Args:
            report: what was measured.
            prediction: what theory says, or None.
            says: what the frame says; default: the verdict on the worst of the three factors.

        Raises:
            ValueError: the prediction is of another model.
        """
        hidden = [i for i, r in enumerate(report.records) if r["weight_std"] is not None][:-1]
        measured = {key: [or_nan(report.records[i][key]) for i in hidden] for key in LINES}
        theory = {} if prediction is None else _predicted(report, prediction, hidden, measured)
        layers = [report.records[i]["layer"] for i in hidden]
        return cls(layers, measured, theory, report.changes(), report.title or "Signal and gradient by layer", says)

    @property
    def records(self) -> list[dict[str, Any]]:
        """One per hidden layer: its number and name, what was measured, what theory says."""
        return [
            {"number": i + 1, "layer": layer}
            | {key: values[i] for key, values in self.measured.items()}
            | {key if key in ("rms_low", "rms_high") else f"{key}_theory": v[i] for key, v in self.theory.items()}
            for i, layer in enumerate(self.layers)
        ]

    @property
    def verdict(self) -> str:
        """``×0.707 / layer, L·|ln χ| = 21: stalls``, of the first of rms, spread and gradient that fares worst."""
        depth = len(self.layers)
        lost = {key: self._lost(key) for key in ("rms", "signal", "gradient") if key in self.changes}
        if not lost or not depth:
            return ""
        worst = max(map(_level, lost.values()))
        key = next(key for key, amount in lost.items() if _level(amount) == worst)
        what = {"rms": "", "signal": "std over inputs ", "gradient": "gradient "}[key]
        end = ("fine", "slow", "explodes" if self.changes[key] > 1 else "stalls")[worst]
        if math.isinf(lost[key]):
            return f"{what or 'rms '}{self._gone(key)}: {end}"
        if depth == 1:
            return ""  # of one layer there is no slope
        return f"{what}{times(self.changes[key])} / layer, L·|ln χ| = {lost[key]:.2g}: {end}"

    def _gone(self, key: str) -> str:
        """``exactly 0 from layer 12 on``, in the direction in which that quantity travels."""
        line = next(line for line, (change, _, _) in LINES.items() if change == key)
        layers = list(enumerate(self.measured[line], start=1))
        gone = [i for i, v in (layers[::-1] if key == "gradient" else layers) if not 0 < v < math.inf]
        what = (
            "exactly 0" if self.changes[key] == 0 or not gone or self.measured[line][gone[0] - 1] == 0 else "not finite"
        )
        where = f" from layer {gone[0]} {'down' if key == 'gradient' else 'on'}" if gone else ""
        return f"{what}{where}"

    def _lost(self, key: str) -> float:
        """``L·|ln χ|``, the second moment's change over all layers."""
        factor = self.changes[key]
        if not 0 < factor < math.inf:
            return math.inf
        return 2 * len(self.layers) * abs(math.log(factor))

    def _draw(self, ax: Any) -> None:
        everything = [v for values in (*self.measured.values(), *self.theory.values()) for v in values]
        low, high = ladder_limits(everything)
        if "rms_low" in self.theory:
            self._draw_band(ax, low, high)
        for key, (_, name, style) in LINES.items():
            if key in self.theory:
                theory_line(ax, self.theory[key], style[0], low, high)
            ladder_line(ax, self.measured[key], style, low, high, name.replace("\n", " "))
        ladder_axes(ax, low, high)
        ax.set_xlim(0.5, max(len(self.layers), 1) + 0.5)
        label_ends(ax, [self._end(key, low, high) for key in LINES if self.measured[key]])
        heading(ax, self.title, self.says or self.verdict)

    def _draw_band(self, ax: Any, low: float, high: float) -> None:
        edges = [[min(max(v, low / 2), high * 2) for v in self.theory[key]] for key in ("rms_low", "rms_high")]
        layers = range(1, len(self.layers) + 1)
        ax.fill_between(layers, *edges, color=BAND, alpha=0.3, linewidth=0, zorder=0.5)

    def _end(self, key: str, low: float, high: float) -> tuple[float, str, str]:
        """Where a line ends, and what is written there: its name and its factor per layer."""
        change, name, style = LINES[key]
        last = self.measured[key][-1]
        said = ""
        if change in self.changes and len(self.layers) > 1:
            lost = math.isinf(self._lost(change))
            down = " down" if key == "delta_rms" else ""
            said = f"\n{self._gone(change)}" if lost else f"\n{times(self.changes[change])} / layer{down}"
        return (low if last < low else last), f"{name}{said}", style[0]


def _level(lost: float) -> int:
    return 0 if lost <= HARMLESS else 1 if lost <= STALLS else 2


def _predicted(
    report: Any, prediction: Any, hidden: Sequence[int], measured: Mapping[str, Sequence[float]]
) -> dict[str, list[float]]:
    """The predictions for the hidden layers; the gradient's in the units of the measured one."""
    check_same_layers(report, prediction)
    rows = [prediction.records[i] for i in hidden]
    keys = [key for key in (*LINES, "rms_low", "rms_high") if rows and all(row.get(key) is not None for row in rows)]
    theory = {key: [float(row[key]) for row in rows] for key in keys}
    if "delta_rms" in theory:
        unit = _ratio(measured["delta_rms"], theory["delta_rms"])
        theory["delta_rms"] = [unit * v for v in theory["delta_rms"]]
    return theory


def _ratio(measured: Sequence[float], relative: Sequence[float]) -> float:
    """Measured over predicted in the last layer that has both."""
    both = [m / r for m, r in zip(measured, relative, strict=True) if r > 0 and 0 < m < math.inf]
    return both[-1] if both else math.nan
