"""Initializers that use gradients: the "automatic" half of the field, from training itself to tuning scales alone.

``warm_start`` is training whose end is called a beginning. ``gradinit`` and ``metainit`` keep the drawn weights and
learn one number per tensor, its scale, such that the first steps of a later training work well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minidl import ops
from minidl.backend import Array, array_module, device_of, to_device, to_host
from minidl.init.apply import stream
from minidl.init.model_level import ModelReport, as_in_training, rms, undone_on_error
from minidl.tensor import Tensor, grad, hvp
from minidl.text import unknown

__all__ = ["gradinit", "metainit", "warm_start"]

Loss: TypeAlias = Callable[[Any, Any], Tensor]
Slopes: TypeAlias = NDArray[np.float64]

#: warm_start compares the mean loss of so many steps with that of as many before.
WINDOW = 10


# ------------------------------------------------------------------------------------------------------------- training


def warm_start(
    model: Any,
    batches: Iterable[Any],
    *,
    optimizer: Callable[[Any], Any],
    steps: int = 50,
    tol: float | None = None,
    loss: Loss = ops.cross_entropy,
) -> ModelReport:
    """Train for a few steps and call the result an initialization: the literal "automatic solving".

    It can rescue weights that a plain optimizer cannot move (Adam's steps do not shrink with the gradient), and brings
    nothing beyond training for as many steps more: compare at equal totals, ``report.gradient_steps``.

    The network is in training mode: running averages follow, dropout drops. The optimizer and its memory are thrown
    away, so the training that follows starts with fresh moments.

    Args:
        model: its weights are where the warm start begins.
        batches: pairs (x, y): a loader or a list, gone through again when it ends.
        optimizer: makes an optimizer of the parameters: ``lambda p: optim.Adam(p, lr=1e-3)`` or ``optim.SGD(p, lr=…)``.
        steps: how many at most.
        tol: end sooner, when the mean loss of the last 10 steps is less than ``tol`` below that of the 10 before.
        loss: ``loss(model(x), y)``, or what the model's own ``training_loss`` makes of it.

    Returns:
        A report with one record per parameter (how far it moved, relative to where it was) and the loss of every step.

    Raises:
        ValueError: the loss is not finite; no batches. The weights are then what they were.
    """
    if steps < 1:
        raise ValueError(f"warm_start: steps must be at least 1; got {steps}")
    parameters = list(model.named_parameters())
    tensors = [parameter for _, parameter in parameters]
    before = [parameter.data for parameter in tensors]
    modes = [(module, module.training) for _, module in model.named_modules()]
    source = _endless("warm_start", batches, model)
    history: list[dict[str, Any]] = []
    try:
        with undone_on_error(model):
            for parameter in tensors:
                parameter.data = parameter.data.copy()  # optimizers change arrays in place
            learner = optimizer(tensors)
            for module, _ in modes:
                module.training = True
            while len(history) < steps and not _settled([record["loss"] for record in history], tol):
                value = _value(model, loss, *next(source))
                history.append({"step": len(history) + 1, "loss": _finite("warm_start", len(history), "loss", value)})
                learner.zero_grad()
                value.backward()
                learner.step()
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in tensors:
            parameter.grad = None
    records = []
    for (path, parameter), old in zip(parameters, before, strict=True):
        parameter.data = parameter.data.copy()  # it may be a part of the optimizer's long vector
        moved, size = rms(parameter.data - old), rms(old)
        record = {"parameter": path, "shape": parameter.shape, "rms_before": size, "rms": rms(parameter.data)}
        records.append(record | {"moved": moved / size if size else None})
    still = [path for (path, p), old in zip(parameters, before, strict=True) if not rms(p.data - old)]
    notes = [f"never moved, for no gradient reached them: {', '.join(still)}"] if still else []
    count = len(history)
    return ModelReport(f"warm_start: {count} steps of {type(learner).__name__}", records, history, count, count, notes)


def _settled(losses: list[float], tol: float | None) -> bool:
    if tol is None or len(losses) < 2 * WINDOW:
        return False
    return float(np.mean(losses[-2 * WINDOW : -WINDOW]) - np.mean(losses[-WINDOW:])) < tol


# ------------------------------------------------------------------------------------------------------------- GradInit


def gradinit(
    model: Any,
    batches: Iterable[Any],
    *,
    steps: int = 150,
    lr: float = 0.02,
    algorithm: str = "sgd",
    eta: float = 0.1,
    gamma: float = 1.0,
    min_scale: float = 0.01,
    clip: float = 1.0,
    loss: Loss = ops.cross_entropy,
) -> ModelReport:
    """GradInit: learn one scale α_i per tensor so that the *first step* of training brings the loss down most.

    ``min over α of L₂(θ - η d)`` with ``θ_i = α_i θ⁰_i``, under ``‖g‖ ≤ γ``: g is the gradient of the loss L₁ at θ, and
    d the direction of the step, ``g/‖g‖`` (Euclidean norm) for "sgd", ``sign g`` (sum of magnitudes as norm) for
    "adam". In each step, if ‖g‖ > γ, α goes down the slope of ‖g‖, else that of L₂:

        ``∂‖g‖/∂α_i = ⟨H d, θ⁰_i⟩``,   ``∂L₂/∂α_i = ⟨∇L₂(θ - η d), θ⁰_i⟩``

    with the Hessian H of L₁ and d held fixed in the second. L₂ is the loss on a batch of which the first half is that
    of L₁. α moves by Adam, with a first moment for each of the two slopes and a common second moment.

    It finds the scales; it cannot turn directions, and weights that are well scaled gain nothing.

    Args:
        model: its tensors with values other than zero get scales: weights, biases that are not zero, γ of norms.
        batches: pairs (x, y): a loader or a list, gone through again when it ends.
        steps: changes of α; the authors take one epoch.
        lr: of Adam on α.
        algorithm: "sgd" or "adam", the one that shall train the network afterwards.
        eta: η, length of the step that is looked ahead.
        gamma: γ.
        min_scale: no α falls below it.
        clip: slopes are cut to ±clip before Adam sees them.
        loss: ``loss(model(x), y)``, or what the model's own ``training_loss`` makes of it.

    Returns:
        A report with one record per tensor (its scale) and one per step (which slope was followed, the loss, ‖g‖).
        Dropout is off meanwhile; running averages are left as they were.

    Raises:
        ValueError: a loss or gradient that is not finite, or a gradient that is exactly zero. The weights are then what
            they were.

    Source: Zhu et al. 2021, "GradInit: Learning to Initialize Neural Networks for Stable and Efficient Training",
    algorithm 1; details (norms, moments, which tensors) as in the authors' program.
    """
    if algorithm not in ("sgd", "adam"):
        raise unknown("algorithm", algorithm, ("sgd", "adam"))
    named = [(path, p) for path, p in model.named_parameters() if rms(p.data) > 0]
    if not named:
        raise ValueError("gradinit has nothing to scale: every parameter is zero; draw weights first, init.apply")
    tensors = [p for _, p in named]
    base = [p.data for p in tensors]
    learner, source = _Adam(len(named), lr, clip), _endless("gradinit", batches, model)
    alpha, history, passes = np.ones(len(named)), [], 0
    with undone_on_error(model), as_in_training(model):
        x, y = next(source)
        for step in range(steps):
            new_x, new_y = next(source)
            value = _value(model, loss, x, y)
            record = {"step": step + 1, "loss": _finite("gradinit", step, "loss", value)}
            grads = [g.data for g in grad(value, tensors)]
            size, direction = _step_direction(grads, algorithm)
            if not 0 < size < math.inf:
                raise ValueError(
                    f"gradinit: step {step + 1}: the norm of the gradient is {size:g}. Zero: the signal is lost in "
                    "float32; infinite: the weights are too large. Other weights, or model.to('float64'), help"
                )
            if size > gamma:
                follows, passes = "norm", passes + 3
                slopes = _norm_slopes(partial(_value, model, loss, x, y), tensors, base, direction)
            else:
                follows, passes = "loss", passes + 2
                mixed = _half_new(x, new_x), _half_new(y, new_y)
                slopes = _look_ahead_slopes(partial(_value, model, loss, *mixed), tensors, base, direction, eta)
            history.append(record | {"grad_norm": size, "follows": follows})
            if not np.isfinite(slopes).all():
                raise ValueError(
                    f"gradinit: step {step + 1}: a slope of the {follows} is not finite; weights too large"
                )
            alpha = np.maximum(alpha - learner.step(slopes, follows), min_scale)
            for p, b, a in zip(tensors, base, alpha.tolist(), strict=True):
                p.data = b * a
            x, y = new_x, new_y
    records = [
        {"parameter": path, "shape": p.shape, "scale": a, "rms_before": rms(b), "rms": rms(p.data)}
        for (path, p), b, a in zip(named, base, alpha.tolist(), strict=True)
    ]
    title = f"gradinit for {algorithm}: one scale per tensor, {steps} steps"
    return ModelReport(title, records, history, steps, passes)


def _step_direction(grads: Sequence[Array], algorithm: str) -> tuple[float, list[Array]]:
    """The norm of the gradient, and the step of length 1 (Euclidean, or per element) along it."""
    xp = array_module(grads[0])
    if algorithm == "adam":
        return sum(float(to_host(xp.abs(g).sum(dtype="float64"))) for g in grads), [xp.sign(g) for g in grads]
    norm = math.sqrt(sum(float(to_host((g.astype("float64") ** 2).sum())) for g in grads))
    return norm, [g * (1 / norm) for g in grads] if norm else list(grads)


def _norm_slopes(
    value: Callable[[], Tensor], tensors: Sequence[Any], base: Sequence[Array], direction: Sequence[Array]
) -> Slopes:
    """``∂‖g‖/∂α_i = ⟨H d, θ⁰_i⟩``: exact, by one Hessian-vector product."""
    return _along(hvp(value, tensors, direction), base)


def _look_ahead_slopes(
    value: Callable[[], Tensor], tensors: Sequence[Any], base: Sequence[Array], direction: Sequence[Array], eta: float
) -> Slopes:
    """``∂L(θ - η d)/∂α_i = ⟨∇L(θ - η d), θ⁰_i⟩`` with d held fixed: one gradient at the shifted point."""
    here = [p.data for p in tensors]
    for p, d in zip(tensors, direction, strict=True):
        p.data = p.data - eta * d
    grads = [g.data for g in grad(value(), list(tensors))]
    for p, data in zip(tensors, here, strict=True):
        p.data = data
    return _along(grads, base)


def _along(grads: Sequence[Array], base: Sequence[Array]) -> Slopes:
    """``⟨g_i, θ⁰_i⟩`` for every tensor, in float64."""
    products = ((g.astype("float64") * b.astype("float64")).sum() for g, b in zip(grads, base, strict=True))
    return np.array([float(to_host(product)) for product in products])


class _Adam:
    """Adam on a vector of scales, with one first moment for each kind of slope and a common second moment."""

    def __init__(self, size: int, lr: float, clip: float) -> None:
        self.lr, self.clip = lr, clip
        self.m: dict[str, tuple[int, Slopes]] = {}
        self.t, self.v = 0, np.zeros(size)

    def step(self, slopes: Slopes, kind: str) -> Slopes:
        """What to subtract from the scales."""
        beta1, beta2 = 0.9, 0.999
        g = np.clip(slopes, -self.clip, self.clip)
        count, m = self.m.get(kind, (0, np.zeros_like(g)))
        self.m[kind] = count, m = count + 1, beta1 * m + (1 - beta1) * g
        self.t, self.v = self.t + 1, beta2 * self.v + (1 - beta2) * g * g
        return self.lr * (m / (1 - beta1**count)) / (np.sqrt(self.v / (1 - beta2**self.t)) + 1e-8)


def _half_new(old: Any, new: Any) -> Any:
    """A batch as long as ``old``: its first half, and then from ``new``."""
    half = len(old) // 2
    return array_module(old).concatenate([old[:half], new[: len(old) - half]])


# ------------------------------------------------------------------------------------------------------------- MetaInit


def metainit(
    model: Any,
    in_shape: Sequence[int],
    *,
    batch: int = 64,
    steps: int = 100,
    lr: float = 0.1,
    momentum: float = 0.9,
    eps: float = 1e-5,
    floor: float = 0.01,
    seed: int = 0,
    loss: Loss = ops.cross_entropy,
) -> ModelReport:
    """MetaInit: learn the norms of the weights so that a gradient step changes the gradient as little as possible.

    It minimizes the gradient quotient, ``GQ = mean |(g - Hg)/(g + ε sign g) - 1|``, about the mean of ``|Hg/g|``: g is
    the gradient and H the Hessian on random inputs and labels, so no data are needed. Only the norm of every weight
    moves, by sign descent with momentum: ``‖W‖ ← ‖W‖ + v``, ``v ← momentum v - lr sign(∂GQ/∂‖W‖)``.

    **Where it leads if nobody stops it**: GQ is smallest where curvature is, so shrinking all weights lowers it for
    ever, until the network computes nothing. Hence few ``steps``, and the end before a step after which the outputs
    differ between inputs by less than ``floor`` (and less than at the start). It is at its best where weights are too
    large: ten ReLU layers with three times He's train again. Where they are far too small g is faint, and it arrives
    only sometimes.

    Args:
        model: its tensors with two or more axes are scaled.
        in_shape: shape of one input, (C, H, W) or (features,); inputs are N(0, 1), labels uniform.
        batch: examples per step, drawn anew each time.
        steps: changes of the norms at most.
        lr: change of a norm in one step, without momentum; norms are of the order of ``√(2 · units)``.
        momentum: share of the last change that goes on.
        eps: ε.
        floor: least deviation of the outputs over the batch.
        seed: of inputs and labels.
        loss: ``loss(model(x), y)``, or what the model's own ``training_loss`` makes of it.

    Returns:
        A report with one record per weight (norm before and after) and one per step: GQ, loss, ‖g‖ and the deviation of
        the outputs over the batch. Dropout is off meanwhile; running averages are left as they were.

    Raises:
        ValueError: GQ is not finite, a weight is all zeros. The weights are then what they were.

    Source: Dauphin & Schoenholz 2019, "MetaInit: Initializing learning by learning to initialize", eq. 2, algorithm 1.
    """
    named = [(path, p) for path, p in model.named_parameters() if p.ndim > 1]
    if not named:
        raise ValueError("metainit has nothing to scale: this model has no weights (tensors with two or more axes)")
    zeros = [path for path, p in named if rms(p.data) == 0]
    if zeros:
        raise ValueError(f"metainit: {', '.join(zeros)} is all zeros, and a norm of 0 has no direction; draw it first")
    tensors, weights = [p for _, p in model.named_parameters()], [p for _, p in named]
    rng, first = stream(seed, "metainit"), weights[0].data
    norms = before = np.array([rms(p.data) * math.sqrt(p.size) for p in weights])
    velocity, history, notes, least = np.zeros(len(weights)), [], [], floor
    with undone_on_error(model), as_in_training(model):
        for step in range(steps):
            x = rng.standard_normal((batch, *in_shape)).astype(first.dtype)
            outputs = model(Tensor(to_device(x, device_of(first))))
            logits = outputs[0] if isinstance(outputs, tuple) else outputs
            y = to_device(rng.integers(logits.shape[1], size=batch), device_of(first))
            spread = float(to_host(logits.data.astype("float64").std(axis=0).mean()))
            least = min(least, spread) if step == 0 else least
            if spread < least:
                notes.append(f"stopped after {step} steps: the outputs differ by {spread:.3g} only, see floor=")
                norms = norms - velocity
                _set_norms(weights, norms)
                break
            value = _value_of(model, loss, outputs, y)
            quotient, size = _gradient_quotient(value, tensors, eps)
            record = {"step": step + 1, "gq": _finite("metainit", step, "gradient quotient", quotient)}
            history.append(record | {"loss": float(value), "grad_norm": size, "output_std": spread})
            slopes = _along([g.data for g in grad(quotient, weights)], [p.data for p in weights])  # times the norm
            velocity = momentum * velocity - lr * np.sign(slopes)
            velocity = np.maximum(velocity, -0.5 * norms)  # a norm stays positive
            norms = norms + velocity
            _set_norms(weights, norms)
    records = [
        {"parameter": path, "shape": p.shape, "norm_before": b, "norm": n, "scale": n / b}
        for (path, p), b, n in zip(named, before.tolist(), norms.tolist(), strict=True)
    ]
    count = len(history)
    return ModelReport(f"metainit: the norms of {len(named)} weights", records, history, count, 3 * count, notes)


def _gradient_quotient(value: Tensor, tensors: Sequence[Any], eps: float) -> tuple[Tensor, float]:
    """GQ as a tensor that can be differentiated (a third time), and the norm of the gradient.

    H g is the gradient of ``½ ‖g‖²``. The mean is over all elements of all tensors.
    """
    grads = grad(value, list(tensors), create_graph=True)
    squares = [(g * g).sum() for g in grads]
    half = sum(squares[1:], squares[0]) * 0.5
    curved = grad(half, list(tensors), create_graph=True)
    parts = []
    for g, hg in zip(grads, curved, strict=True):
        xp = array_module(g.data)
        sign = xp.where(g.data < 0, -xp.ones_like(g.data), xp.ones_like(g.data))  # of 0 it is 1: nothing divides by 0
        parts.append(abs((g - hg) / (g + eps * sign) - 1.0).sum())
    return sum(parts[1:], parts[0]) * (1 / sum(g.size for g in grads)), math.sqrt(2 * float(half))


def _set_norms(weights: Sequence[Any], norms: Slopes) -> None:
    for p, norm in zip(weights, norms.tolist(), strict=True):
        p.data = p.data * (norm / (rms(p.data) * math.sqrt(p.size)))


# ----------------------------------------------------------------------------------------------------- losses, batches


def _value(model: Any, loss: Loss, x: Any, y: Any) -> Tensor:
    """The loss of a batch."""
    return _value_of(model, loss, model(Tensor(x)), y)


def _value_of(model: Any, loss: Loss, outputs: Any, y: Any) -> Tensor:
    own = getattr(model, "training_loss", None)  # of networks with auxiliary classifiers
    value: Tensor = loss(outputs, y) if own is None else own(outputs, y, loss)
    return value


def _finite(method: str, step: int, what: str, value: Tensor) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(
            f"{method}: step {step + 1}: the {what} is {number}; start from smaller weights or smaller steps"
        )
    return number


def _endless(method: str, batches: Iterable[Any], model: Any) -> Iterator[tuple[Any, Any]]:
    """The batches on the model's device, over and over.

    Raises:
        ValueError: there are none (any more): a generator can be gone through only once.
    """
    device = device_of(next(p for _, p in model.named_parameters()).data)
    count = 0
    while True:
        before = count
        for x, y in batches:
            count += 1
            yield to_device(Tensor(x).data, device), to_device(Tensor(y).data, device)
        if count == before:
            raise ValueError(
                f"{method}: the batches ended after {count}, and cannot be gone through again; pass a loader or a list "
                "of pairs (x, y)"
            )
