"""Who is who: the cosine between the weights of any two units of a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.backend import to_host
from minidl.lab.figures.base import SMALL, Display, heading

__all__ = ["IdentityMatrix"]


@dataclass(frozen=True, eq=False)
class IdentityMatrix(Display):
    """``cos(w_i, w_j)``: the identity where every unit has a direction of its own, 1 everywhere where all are copies.

    Independent units with n inputs have ``E|cos| = √(2/(πn))``. A unit whose weights are all zero points nowhere:
    hatched.

    Args:
        cosines: (units, units), nan where a unit has no direction.
        expected: mean |cos| of two independent units.
        title: of the figure.
    """

    SIZE = (4.6, 4.4)
    cosines: NDArray[np.float64]
    expected: float
    title: str = ""

    @classmethod
    def from_weight(cls, weight: Any, title: str = "", units: int = 256) -> IdentityMatrix:
        """Of a weight (units, ...), an array, tensor or parameter on any device; of its first ``units`` units.

        Raises:
            ValueError: fewer than two axes.
        """
        array = weight.data if hasattr(weight, "requires_grad") else weight
        if len(array.shape) < 2:
            raise ValueError(f"a weight needs at least two axes, units and inputs; got shape {tuple(array.shape)}")
        host = to_host(array[:units])
        rows = host.reshape(len(host), -1).astype(np.float64)
        rows /= np.maximum(np.abs(rows).max(axis=1, keepdims=True, initial=0.0), np.finfo(np.float64).tiny)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        unit = np.divide(rows, length, out=np.full_like(rows, np.nan), where=length > 0)
        return cls(unit @ unit.T, math.sqrt(2 / (math.pi * max(rows.shape[1], 1))), title)

    @property
    def records(self) -> list[dict[str, Any]]:
        """One per pair of units."""
        count = len(self.cosines)
        return [{"unit": i, "other": j, "cosine": float(self.cosines[i, j])} for i in range(count) for j in range(i)]

    @property
    def mean(self) -> float:
        """Mean |cos| over all pairs of units that have a direction; nan without any."""
        found = self.cosines[np.tril_indices(len(self.cosines), -1)]
        found = np.abs(found[np.isfinite(found)])
        return float(found.mean()) if found.size else math.nan

    def image(self, ax: Any) -> Any:
        """The matrix alone, without title and colour bar, for a page of many; returns the image, for one common bar."""
        image = ax.imshow(self.cosines, vmin=-1, vmax=1, cmap="cividis", interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.patch.set(facecolor="white", hatch="///", edgecolor="#BBBBBB")  # shows where the image has a gap
        if not np.isfinite(self.cosines).any():
            how = {"ha": "center", "va": "center", "transform": ax.transAxes}
            ax.text(0.5, 0.5, "all zero:\nno direction", bbox={"facecolor": "white", "edgecolor": "none"}, **how)
        return image

    def _draw(self, ax: Any) -> None:
        bar = ax.inset_axes((1.03, 0.0, 0.045, 1.0))
        ax.figure.colorbar(self.image(ax), cax=bar, ticks=[-1, 0, 1])
        ink = ax.xaxis.label.get_color()
        bar.tick_params(labelsize=SMALL, labelcolor=ink, color=ink)
        ax.set(xlabel="unit", ylabel="unit")
        if math.isfinite(self.mean):
            ax.set_xlabel(f"unit; mean |cos| {self.mean:.3f},\nof independent units {self.expected:.3f}")
        heading(ax, self.title)
