"""Initializers that look at a batch of data: layer by layer, the weights are scaled until what comes out fits.

A formula promises a variance for wide layers and Gaussian data; a batch shows what these weights make of these data.
All take a model with its weights drawn (``init.apply``) and change only their size, and biases where they say so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl import ops
from minidl.backend import Array, array_module, device_of, to_device, to_host
from minidl.init.apply import stream
from minidl.init.model_level import (
    Layers,
    ModelReport,
    as_in_training,
    layers_to_set,
    placed,
    rescale,
    rms,
    size_of,
    undone_on_error,
    visit_layers,
)
from minidl.tensor import Tensor, grad
from minidl.text import unknown

__all__ = ["first_batch_norm", "krahenbuhl", "lsuv", "weight_norm_data"]


# --------------------------------------------------------------------------------------------------- one number a layer


def lsuv(
    model: Any, x: Any, *, std: str = "total", target: float = 1.0, tol: float = 0.01, max_iter: int = 10
) -> ModelReport:
    """Layer-sequential unit variance: every weighted layer's output on ``x`` gets standard deviation ``target``.

    ``W ← W · target/std(Wh + b)``, from the first layer to the last, each seeing what the ones before now give. With
    zero biases the output is linear in W: one iteration is exact, for this batch.

    The paper starts from orthogonal weights, ``init.apply(model, "orthogonal", seed=…)``; here the weights are the ones
    you drew. Gradients are not looked at, and neither is the correlation between inputs: ``std="total"`` is satisfied
    by a layer that answers every input with the same vector. ``std="batch"`` is not, but makes noise loud where the
    signal is nearly dead.

    Args:
        model: layers with weights; under weight normalization the gain is scaled.
        x: a batch (N, ...), large and standardized; dropout is off, batch normalization takes the batch's statistics.
        std: "total", over all elements of the output; "batch", the rms over units of the deviation over the batch.
        target: the standard deviation wanted.
        tol: layers within ``target (1 ± tol)`` stay as they are. The authors' own programs take 0.01 or 0.1.
        max_iter: rescalings per layer; biases that are not zero need several.

    Returns:
        A report with one record per layer: standard deviation before and after, the factor, the iterations.

    Raises:
        ValueError: a layer gives one value only (its weights are zero, or all signal is lost before it) or values that
            are not finite. No parameter has been changed then.

    Source: Mishkin & Matas 2015, "All you need is a good init", algorithm 1; ``std="batch"`` is ours.
    """
    if std not in ("total", "batch"):
        raise unknown("standard deviation", std, ("total", "batch"))
    if not 0 < target < math.inf:
        raise ValueError(f"lsuv: target must be a positive number; got {target}")
    records: list[dict[str, Any]] = []

    def scale(path: str, module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        before = after = _deviation(path, output.data, std)
        factor, rounds = 1.0, 0
        while abs(after - target) > tol * target and rounds < max_iter:
            rescale(module, target / after)
            factor, rounds = factor * target / after, rounds + 1
            output = module.forward(*inputs)
            after = _deviation(path, output.data, std)
        record = {"layer": path, "shape": module.weight.shape, "std_before": before, "std": after}
        records.append(record | {"factor": factor, "iterations": rounds})
        return output

    layers = layers_to_set("lsuv", model)
    with undone_on_error(model):
        visit_layers("lsuv", model, placed("lsuv", model, x), layers, scale)
    far = [r["layer"] for r in records if abs(r["std"] - target) > tol * target]
    notes = [f"not within {tol:g} after {max_iter} iterations, for the biases spread too far: {', '.join(far)}"]
    return ModelReport(f"lsuv: {std} standard deviation {target:g} in every layer", records, notes=notes if far else [])


def _deviation(path: str, h: Array, std: str) -> float:
    """The standard deviation of an output, in float64; what rounding alone explains is an error."""
    xp, wide = array_module(h), h.astype("float64")
    variance = wide.var(axis=0).mean() if std == "batch" else wide.var()
    value = math.sqrt(float(to_host(variance)))
    largest = float(to_host(xp.abs(wide).max()))
    if not math.isfinite(largest):
        raise ValueError(f"lsuv: {path} gives values that are not finite; start from smaller weights")
    if value <= float(xp.finfo(h.dtype).eps) * largest:
        same = "for every input" if std == "batch" else "everywhere"
        raise ValueError(
            f"lsuv: {path} gives the same value {same} ({std} std {value:.3g}, largest value {largest:.3g}), so no "
            "factor helps: its weights are all zero, or the signal is lost before it. Draw other weights first, "
            'such as init.apply(model, "orthogonal")'
        )
    return value


# ---------------------------------------------------------------------------------------------------- one number a unit


def first_batch_norm(model: Any, x: Any) -> ModelReport:
    """Batch normalization of one batch, kept in the weights: on ``x`` every unit has mean 0 and deviation 1.

    ``W_u ← W_u/σ_u``, ``b_u ← (b_u - μ_u)/σ_u`` with the mean and deviation of unit (channel) u over batch and places.
    Afterwards the network is an ordinary one: nothing normalizes it, and training may lead it anywhere.

    Args:
        model: layers with weights. A layer without bias keeps its mean.
        x: a batch (N, ...); the smaller it is, the more the units follow its chance.

    Returns:
        A report with one record per layer: smallest and largest deviation of a unit before, largest mean before.

    Raises:
        ValueError: units that give one value on the whole batch. No parameter has been changed then.

    Source: Kingma & Dhariwal 2018, "Glow", section 3.1 (their actnorm layer); also the first step of Krähenbühl et al.
    """
    return _normalize("first_batch_norm", model, x, layers_to_set("first_batch_norm", model))


def weight_norm_data(model: Any, x: Any) -> ModelReport:
    """Data-dependent initialization of weight normalization: ``g ← 1/σ[t]``, ``b ← -μ[t]/σ[t]``, ``t = v·h/‖v‖``.

    So every unit of a ``nn.WeightNorm`` layer has mean 0 and deviation 1 on ``x``. The directions v stay as they are
    (the paper draws them from N(0, 0.05²)).

    Args:
        model: one with ``nn.WeightNorm`` layers; other weighted layers are left alone, and the report lists them.
        x: a batch (N, ...).

    Returns:
        A report with one record per layer, as of ``first_batch_norm``.

    Raises:
        ValueError: no layer has weight normalization, or units give one value on the whole batch.

    Source: Salimans & Kingma 2016, "Weight Normalization", section 3.
    """
    everything = layers_to_set("weight_norm_data", model)
    layers = [(path, module) for path, module in everything if hasattr(module, "gain")]
    if not layers:
        raise ValueError(
            "weight_norm_data: no layer has weight normalization; wrap some, nn.WeightNorm(nn.Linear(…)), or take "
            "init.first_batch_norm, which does the same to plain weights"
        )
    report = _normalize("weight_norm_data", model, x, layers)
    others = [path for path, module in everything if not hasattr(module, "gain")]
    report.notes += [f"left alone, for they have no weight normalization: {', '.join(others)}"] if others else []
    return report


def _normalize(method: str, model: Any, x: Any, layers: Layers) -> ModelReport:
    """Every unit of ``layers`` to mean 0 and deviation 1 on ``x``, in the order of execution."""
    records: list[dict[str, Any]] = []

    def normalize(path: str, module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        mean, deviation = _of_units(method, path, module, output.data)
        _scale_units(method, path, module, 1 / deviation)
        if module.bias is not None:
            bias = module.bias.data
            module.bias.data = ((bias.astype("float64") - mean) / deviation).astype(bias.dtype)
        low, high, far = (float(to_host(v)) for v in (deviation.min(), deviation.max(), abs(mean).max()))
        record = {"layer": path, "shape": module.weight.shape, "std_min": low, "std_max": high}
        records.append(record | {"mean_max": far})
        return module.forward(*inputs)

    with undone_on_error(model):
        visit_layers(method, model, placed(method, model, x), layers, normalize)
    no_bias = [path for path, module in layers if module.bias is None]
    notes = [f"no bias, so the means stay: {', '.join(no_bias)}"] if no_bias else []
    return ModelReport(f"{method}: mean 0 and deviation 1 in every unit (table: before)", records, notes=notes)


def _of_units(method: str, path: str, module: Any, h: Array) -> tuple[Array, Array]:
    """Mean and deviation of every unit, over batch and places, in float64."""
    xp, wide = array_module(h), h.astype("float64")
    unit = h.ndim - 1 if module.weight.ndim == 2 else 1  # a dense layer's units lie on the last axis
    axes = tuple(axis for axis in range(h.ndim) if axis != unit)
    mean, deviation, largest = wide.mean(axis=axes), wide.std(axis=axes), xp.abs(wide).max(axis=axes)
    if not bool(to_host(xp.isfinite(largest).all())):
        raise ValueError(f"{method}: {path} gives values that are not finite; start from smaller weights")
    dead = int(to_host((deviation <= float(xp.finfo(h.dtype).eps) * largest).sum()))
    if dead:
        raise ValueError(
            f"{method}: {dead} of {h.shape[unit]} units of {path} give one value on the whole batch, so no factor "
            "brings them to deviation 1: their weights are zero, or the signal is lost before them. Draw other "
            'weights first, such as init.apply(model, "orthogonal"), or take a larger batch'
        )
    return mean, deviation


def _scale_units(method: str, path: str, module: Any, factors: Array) -> None:
    """Multiply the weights (or gains) of every output unit by a number of its own."""
    weight = size_of(module)
    shape, factors = weight.shape, factors.astype(weight.dtype)
    if hasattr(module, "gain") and weight.size != factors.size:
        raise ValueError(
            f"{method}: {path} has {weight.size} gains for {factors.size} units (a transposed convolution in groups), "
            "so its units cannot be normalized one by one"
        )
    if hasattr(module, "gain"):
        weight.data = weight.data * factors.reshape(shape)
    elif hasattr(module, "output_padding"):  # a transposed convolution: (in, out/groups, kh, kw)
        groups = module.groups
        parts = weight.data.reshape(groups, shape[0] // groups, *shape[1:])
        weight.data = (parts * factors.reshape(groups, 1, shape[1], 1, 1)).reshape(shape)
    else:
        weight.data = weight.data * factors.reshape(-1, *(1,) * (len(shape) - 1))


# ------------------------------------------------------------------------------------------------- equal learning rates


def krahenbuhl(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    between: bool = True,
    damping: float = 0.5,
    tol: float = 0.05,
    max_iter: int = 20,
    seed: int = 0,
) -> ModelReport:
    """Normalize within the layers, then between them: every layer shall change at the same relative rate.

    Within: mean 0 and deviation 1 for every unit, ``first_batch_norm``. Between: the relative gradient
    ``C_k = ‖∂ℓ/∂W_k‖/‖W_k‖`` of every layer is brought to their geometric mean C. Making layer k's output r_k times as
    large, and undoing it in the next layer (``W_k ← W_k r_k/r_{k-1}``, ``b_k ← b_k r_k``), divides C_k by r_k² and
    multiplies C_{k+1} by it; so ``ln r_k = ½ Σ_{j≤k} ln(C_j/C)``. Through ReLU and pooling the network computes the
    same as before, and undamped one step is exact; through other activations it takes several.

    Args:
        model: for ``between`` a chain of layers without normalization (mlp, lenet5, alexnet, vgg).
        x: a batch (N, ...).
        y: labels, for the gradient of the cross-entropy. None: of a random linear function of the outputs,
            ``ℓ = Σ η·z/N`` with η ~ N(0, 1) for every output of every example, as in the paper.
        between: False stops after the first part, which works on every model.
        damping: share of ``ln r_k`` taken in one step.
        tol: ends when all ``|ln(C_k/C)|`` are at most this.
        max_iter: steps at most.
        seed: of η.

    Returns:
        A report with one record per layer: relative gradient before and after the second part, and the factor on W.

    Raises:
        ValueError: ``between`` on a model that is no chain or normalizes; dead units, or a layer whose gradient is 0.
            No parameter has been changed then.

    Source: Krähenbühl, Doersch, Donahue & Darrell 2015, "Data-dependent Initializations of Convolutional Neural
    Networks", algorithms 1 and 2; their update looks at one layer at a time, and ends where this one does.
    """
    layers = layers_to_set("krahenbuhl", model)
    if between:
        _check_chain(model, layers)
    with undone_on_error(model):
        report = _normalize("krahenbuhl", model, x, layers)
        if not between:
            return report
        inputs = placed("krahenbuhl", model, x)
        loss = _loss(inputs, y, stream(seed, "krahenbuhl"))
        weights = [rms(module.weight.data) for _, module in layers]
        rates = first = _relative_gradients(model, layers, inputs, loss)
        rounds = 0
        while _unevenness(rates) > tol and rounds < max_iter:
            _shift_scales(layers, damping * 0.5 * np.cumsum(np.log(rates) - np.log(rates).mean()))
            rates, rounds = _relative_gradients(model, layers, inputs, loss), rounds + 1
    records = [
        {"layer": path, "shape": m.weight.shape, "rate_before": a, "rate": b, "factor": rms(m.weight.data) / w}
        for (path, m), a, b, w in zip(layers, first, rates, weights, strict=True)
    ]
    far = f"not even after {max_iter} steps: the largest |ln(C_k/C)| is {_unevenness(rates):.3g}"
    return ModelReport(
        "krahenbuhl: units at mean 0 and deviation 1, then equal relative gradients",
        records,
        gradient_steps=rounds,
        backward_passes=rounds + 1,
        notes=report.notes + ([far] if _unevenness(rates) > tol else []),
    )


def _check_chain(model: Any, layers: Layers) -> None:
    """Only in a chain is there one next layer to undo a factor in, and normalization would swallow the factor."""
    advice = "; pass between=False for the normalization within the layers alone"
    for path, module in model.named_modules():
        name = f"{path or 'the model'} ({type(module).__name__})"
        if any(True for _ in module.named_children()) and not hasattr(module, "__iter__"):
            raise ValueError(f"krahenbuhl: {name} is no plain sequence, so a layer has no one next layer{advice}")
        if hasattr(module, "running_mean"):
            raise ValueError(f"krahenbuhl: {name} normalizes, so the scales of layers do not reach the next{advice}")
    for path, module in layers:
        if hasattr(module, "gain"):
            raise ValueError(f"krahenbuhl: {path} has weight normalization, so its weight has no size{advice}")


def _loss(inputs: Tensor, y: Any, rng: np.random.Generator) -> Callable[[Tensor], Tensor]:
    """Of the outputs: the cross-entropy, or a linear function with random coefficients, the same at every call.

    Every example has coefficients of its own: so the mixed terms vanish on average, and the square of the gradient of
    the sum stands for the sum of the squares of the gradients.
    """
    device = device_of(inputs.data)
    if y is not None:
        labels = to_device(Tensor(y).data, device)
        return lambda z: ops.cross_entropy(z, labels)
    seeds = rng.integers(2**63)

    def linear(z: Tensor) -> Tensor:
        eta = np.random.default_rng(seeds).standard_normal(z.shape).astype(z.dtype)
        return (z * to_device(eta, device)).sum() * (1 / z.shape[0])

    return linear


def _relative_gradients(model: Any, layers: Layers, x: Tensor, loss: Callable[[Tensor], Tensor]) -> NDArray[np.float64]:
    """``‖∂ℓ/∂W‖/‖W‖`` of every layer."""
    with as_in_training(model):
        grads = grad(loss(model(x)), [module.weight for _, module in layers])
    rates = [rms(g.data) / rms(module.weight.data) for g, (_, module) in zip(grads, layers, strict=True)]
    for rate, (path, _) in zip(rates, layers, strict=True):
        if not 0 < rate < math.inf:
            raise ValueError(f"krahenbuhl: the relative gradient of {path} is {rate:g}; no factor makes it the others'")
    return np.array(rates)


def _unevenness(rates: NDArray[np.float64]) -> float:
    logs = np.log(rates)
    return float(np.abs(logs - logs.mean()).max())


def _shift_scales(layers: Layers, log_r: NDArray[np.float64]) -> None:
    """Layer k's output times r_k, undone in the next layer; nothing can undo that of the last, so it stays."""
    r = [*np.exp(log_r[:-1]).tolist(), 1.0]
    for k, (_, module) in enumerate(layers):
        rescale(module, r[k] / (r[k - 1] if k else 1.0))
        if module.bias is not None:
            module.bias.data = module.bias.data * r[k]
