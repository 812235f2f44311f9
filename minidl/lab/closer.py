"""A closer look, on request: how outputs are distributed, how alike the outputs of different inputs are, and the
singular values of the Jacobian.

Each runs the network anew and says what that takes; the network is left exactly as it was. Records are flat.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl import nn
from minidl.backend import Array, array_module, device_of, to_device, to_host
from minidl.lab.untouched import each_output, leaves, left_as_it_was, path_of, placed, rows_of, weight_of
from minidl.tensor import Tensor, grad, no_grad

__all__ = ["alike", "check_size", "correlation", "disturbed", "histograms", "jacobian", "singular_values"]

Values = NDArray[np.float64]


# -------------------------------------------------------------------------------------------------------- histograms

BINS = 60
SAMPLE = 4096  # elements of which the quantiles are taken


def histograms(model: nn.Module, x: Any, bins: int = BINS) -> list[dict[str, Any]]:
    """The distribution of every layer's output, over units, places and inputs: one record per bin.

    The bins of a layer are equally wide and reach from its smallest to its largest output, but no further beyond its 1
    and 99 % quantiles than these are apart: one outlier does not push all others into one bin. ``density`` is relative
    to all outputs, so what it adds up to (times the width) falls short of 1 by the share that lies outside or is not
    finite. A layer without any finite output has one bin from NaN to NaN, of density 0.

    Costs a forward pass, and on the host about ten passes over every output.

    Args:
        model: any tree of modules, measured in the mode it is in.
        x: inputs (N, ...).
        bins: how many for each layer.

    Returns:
        {layer, low, high, density}, the layers in order of execution.
    """
    inputs = placed(model, x)
    found: list[dict[str, Any]] = []

    def look(path: str, _module: nn.Module, output: Tensor) -> None:
        edges, density = _histogram(to_host(rows_of(output.data)).ravel(), bins)
        pairs = zip(edges[:-1].tolist(), edges[1:].tolist(), density.tolist(), strict=True)
        found.extend({"layer": path, "low": low, "high": high, "density": d} for low, high, d in pairs)

    _run(model, inputs, look)
    return found


def _run(model: nn.Module, inputs: Tensor, look: Callable[[str, nn.Module, Tensor], None]) -> None:
    with left_as_it_was(model), no_grad():
        each_output(model, look)
        model(inputs)


def _histogram(output: NDArray[Any], bins: int) -> tuple[Values, Values]:
    """Edges and density of one output, flat."""
    values = output.astype(np.float64)  # whatever float32 holds can be subtracted and scaled there
    finite = values if np.isfinite(values.sum()) else values[np.isfinite(values)]
    if not finite.size:
        return np.array([math.nan, math.nan]), np.zeros(1)
    low, high = _range(finite)
    inside = finite[(finite >= low) & (finite <= high)]
    place = (inside - low) * (bins / (high - low))
    count = np.bincount(np.minimum(place, bins - 0.5).astype(np.int64), minlength=bins)
    edges = np.linspace(low, high, bins + 1)
    return edges, count / (values.size * (high - low) / bins)


def _range(values: Values) -> tuple[float, float]:
    """From where to where the bins of a layer reach."""
    smallest, largest = float(values.min()), float(values.max())
    step = len(values) // SAMPLE | 1  # odd: it does not keep to a few units of a layer whose width is a power of two
    low, high = (float(q) for q in np.quantile(values[::step], (0.01, 0.99)))
    if high > low:
        reach = high - low
        return max(smallest, low - reach), min(largest, high + reach)
    if largest > smallest:
        return smallest, largest
    half = abs(smallest) / 2 or 0.5  # all the same: a bin around it
    return smallest - half, largest + half


# ------------------------------------------------------------------------------------------------------- correlation

NEARBY = 1e-3  # length of the disturbance, relative to the input
STREAM = 1905  # of the generator: the inputs themselves may well be the first numbers of seed 0


def correlation(model: nn.Module, x: Any, seed: int = 0) -> list[dict[str, Any]]:
    """How alike the outputs of different inputs are, layer by layer: ``cos(h(x), h(x')) = h·h' / (‖h‖ ‖h'‖)``.

    ``cosine`` is the mean over all pairs of inputs, from the sum of the unit vectors u: the mean of 1 - u·u' over
    pairs is ``Σ‖u - ū‖² / (N - 1)``, so no table of pairs is made and no digits are lost near 1. ``near`` is the mean
    over inputs of the cosine between x and x + ε, with ε a random direction of a thousandth of its length: 1 - near
    grows from layer to layer where small differences do (chaos), and shrinks where they are forgotten (order).

    Costs a forward pass over twice the batch (with batch normalization, normalized together; without the masks of
    dropout, which would part x and x + ε more than ε does), and a few passes over every output. Inputs whose output is
    0 or not finite have no direction and are left out; with fewer than two others both are None.

    Args:
        model: any tree of modules, measured in the mode it is in.
        x: inputs (N, ...), at least two.
        seed: of the disturbance.

    Returns:
        {layer, cosine, near}, the layers in order of execution.

    Raises:
        ValueError: fewer than two inputs.
    """
    inputs = placed(model, x)
    found: list[dict[str, Any]] = []
    if len(inputs) < 2:
        raise ValueError(f"the correlation of inputs needs at least two; got shape {inputs.shape}")
    both = array_module(inputs.data).concatenate([inputs.data, disturbed(inputs.data, seed)])

    def look(path: str, _module: nn.Module, output: Tensor) -> None:
        found.append({"layer": path, **alike(rows_of(output.data))})

    with left_as_it_was(model):
        for _, module in model.named_modules():
            if isinstance(module, nn.Dropout):
                module.training = False
        _run(model, Tensor(both), look)
    return found


def disturbed(x: Array, seed: int) -> Array:
    """Each input plus a random vector of ``NEARBY`` of its length."""
    rows = to_host(x).astype(np.float64).reshape(len(x), -1)
    noise = np.random.default_rng((seed, STREAM)).standard_normal(rows.shape)
    length = np.linalg.norm(rows, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    return to_device((rows + NEARBY * length * noise).astype(x.dtype).reshape(x.shape), device_of(x))


def alike(rows: Array) -> dict[str, float | None]:
    """The two cosines of outputs (2N, D), whose second half belongs to the disturbed inputs."""
    xp, half = array_module(rows), len(rows) // 2
    with np.errstate(all="ignore"):
        unit = rows / xp.abs(rows).max(axis=1)[:, None]  # then no square overflows
        unit = unit / xp.sqrt(xp.einsum("nd,nd->n", unit, unit))[:, None]
    alive = to_host(xp.isfinite(unit).all(axis=1))
    chosen = np.flatnonzero(alive[:half] & alive[half:])
    if len(chosen) < 2:
        return {"cosine": None, "near": None}
    if len(chosen) < half:
        unit = xp.concatenate([unit[:half][chosen.tolist()], unit[half:][chosen.tolist()]])
    one, other = unit[: len(chosen)], unit[len(chosen) :]
    apart = one - (one.mean(axis=0, dtype="float64")).astype(one.dtype)
    moved = one - other
    return {
        "cosine": 1 - _square_sum(apart) / (len(chosen) - 1),
        "near": 1 - _square_sum(moved) / (2 * len(chosen)),
    }


def _square_sum(rows: Array) -> float:
    return float(to_host(array_module(rows).einsum("nd,nd->n", rows, rows).sum(dtype="float64")))


# ---------------------------------------------------------------------------------------------------------- Jacobian

ENTRIES = 2**22  # of the largest Jacobian that is made
CHUNK = 256  # copies of the input that go through the network at a time


def jacobian(model: nn.Module, x: Any, which: int = 0) -> list[dict[str, Any]]:
    """The singular values of ``∂h/∂x`` for the output h of every weighted layer, at one input x.

    They say by how much a small step away from x is stretched on its way to that layer, in which ever direction. The
    derivatives are exact: row i comes from the walk back from unit i. All is done in float64, so that values down to
    1e-15 of the largest have a meaning (in the model's own precision, and down to 1e-7, where a layer holds float32
    constants of its own). Dropout passes everything on; batch normalization uses fixed statistics: those of the batch
    ``x`` if the model is in training mode, else its running averages.

    Costs, for every weighted layer, one forward and backward pass up to it over as many copies of the input as it has
    outputs, and a singular value decomposition: a second or two for 50 layers of 256 units.

    Args:
        model: any tree of modules.
        x: inputs (N, ...).
        which: the input to take.

    Returns:
        {layer, index, value}: for each layer, in order of execution, its min(outputs, inputs) singular values, largest
        first. NaN where the Jacobian is not finite.

    Raises:
        ValueError: a layer whose Jacobian would have more than 2²² (4 million) entries.
    """
    inputs = placed(model, x)
    found: list[dict[str, Any]] = []
    one = inputs.data[which : which + 1] if which >= 0 else inputs.data[which:][:1]
    with left_as_it_was(model):
        _settle(model, inputs)
        calls = _weighted_calls(model, Tensor(one))
        check_size(calls, one.size)
        for p in model.parameters():
            p.requires_grad = False
        try:
            with left_as_it_was(model):
                model.to("float64")
                spectra = _spectra(model, one.astype("float64"), calls)
        except TypeError:  # float32 constants
            spectra = _spectra(model, one, calls)
    for (path, _), values in zip(calls, spectra, strict=True):
        found += [{"layer": path, "index": i, "value": value} for i, value in enumerate(values)]
    return found


def _settle(model: nn.Module, inputs: Tensor) -> None:
    """Evaluation mode; batch normalizations that were in training mode keep the statistics of this batch."""
    normalizing = [m for _, m in model.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.training]
    if normalizing:
        for module in normalizing:
            module.momentum = 1.0
        with no_grad():
            model(inputs)
    model.eval()


class _Enough(Exception):
    """Ends a forward pass at the layer that was asked for."""


def _hook_weighted(model: nn.Module, look: Callable[[str, Tensor], None]) -> list[Any]:
    """Call ``look(path, output)`` whenever a layer with weights has run."""

    def hook_of(path: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, _inputs, output: look(path_of(path, module), output)

    weighted = [(path, m) for path, m in leaves(model) if weight_of(m) is not None]
    return [module.register_forward_hook(hook_of(path)) for path, module in weighted]


def _weighted_calls(model: nn.Module, one: Tensor) -> list[tuple[str, int]]:
    """Path and number of outputs of every call of a weighted layer, in order."""
    calls: list[tuple[str, int]] = []
    handles = _hook_weighted(model, lambda path, output: calls.append((path, output.size)))
    with no_grad():
        model(one)
    for handle in handles:
        handle.remove()
    return calls


def check_size(calls: list[tuple[str, int]], size: int) -> None:
    """Raises ValueError if a layer's Jacobian, outputs × inputs, would have too many entries."""
    for path, outputs in calls:
        if outputs * size > ENTRIES:
            raise ValueError(
                f"the Jacobian of layer {path!r} has {outputs} × {size} = {outputs * size:,} entries, more than "
                f"{ENTRIES:,}; take smaller images or a narrower network"
            )


def _spectra(model: nn.Module, one: Array, calls: list[tuple[str, int]]) -> list[list[float]]:
    """The singular values for each call."""
    return [_spectrum(model, one, number, size) for number, (_, size) in enumerate(calls)]


def _spectrum(model: nn.Module, one: Array, number: int, size: int) -> list[float]:
    """Of the call ``number``, which has ``size`` outputs; the passes end there."""
    seen: list[Tensor] = []

    def look(_path: str, output: Tensor) -> None:
        seen.append(output)
        if len(seen) > number:
            raise _Enough

    handles = _hook_weighted(model, look)
    try:
        rows = [_rows(model, one, seen, start, min(start + CHUNK, size)) for start in range(0, size, CHUNK)]
    finally:
        for handle in handles:
            handle.remove()
    return singular_values(np.concatenate(rows))


def _rows(model: nn.Module, one: Array, seen: list[Tensor], start: int, stop: int) -> NDArray[Any]:
    """Rows start … stop of a Jacobian: copy i of the input is led back from unit start + i."""
    xp = array_module(one)
    copies = Tensor(one.repeat(stop - start, axis=0), requires_grad=True)
    seen.clear()
    with suppress(_Enough):
        model(copies)
    output = seen[-1]
    seen.clear()
    output = output.reshape((stop - start, -1))
    chosen = xp.eye(stop - start, output.shape[1], k=start, dtype=one.dtype)
    rows: NDArray[Any] = to_host(grad((output * chosen).sum(), copies).data)
    return rows.reshape(stop - start, -1)


def singular_values(matrix: NDArray[Any]) -> list[float]:
    """From largest to smallest; NaN where the matrix is not finite."""
    if not np.isfinite(matrix).all():
        return [math.nan] * min(matrix.shape)
    values: list[float] = np.linalg.svd(matrix, compute_uv=False).tolist()
    return values
