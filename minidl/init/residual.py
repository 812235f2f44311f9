"""Initializers for residual networks: every block starts as the identity, or near it.

A plain residual block adds a branch as large as its input: the second moment doubles per block, 2²⁰ after twenty. The
cures: end each branch in zero, or make it small. They set values in branches that are built for it, and refuse others.
"""

from __future__ import annotations

import math
from typing import Any

from minidl.backend import array_module, to_host
from minidl.init.apply import Spec, apply
from minidl.init.model_level import ModelReport, effective_weight, is_weighted, rescale, rms, size_of, weighted_layers

__all__ = ["fixup", "rezero", "scaled_residual", "skipinit", "zero_gamma"]


class _Block:
    """A residual block: where it is, and what its branch holds in the order of its layers."""

    def __init__(self, path: str, module: Any) -> None:
        self.path, self.module = path or "the model", module
        everything = list(module.branch.named_modules(f"{path}.branch".lstrip(".")))
        self.weighted = [(path, m) for path, m in everything if is_weighted(m)]
        self.norms = [(path, m) for path, m in everything if hasattr(m, "running_mean")]
        self.scales = [(path, m) for path, m in everything if hasattr(getattr(m, "scale", None), "data")]
        self.order = [path for path, m in everything]

    @property
    def norm_comes_last(self) -> bool:
        """Whether a normalization follows the last weighted layer."""
        return bool(self.norms) and self.order.index(self.norms[-1][0]) > self.order.index(self.weighted[-1][0])


def _blocks(method: str, model: Any) -> list[_Block]:
    """The residual blocks of a model: modules with a branch and a shortcut.

    Raises:
        ValueError: there are none, or a branch holds no weights.
    """
    found = [(p, m) for p, m in model.named_modules() if hasattr(m, "branch") and hasattr(m, "shortcut")]
    if not found:
        raise ValueError(
            f"{method} does not apply: this model has no residual blocks (nn.Residual). For a plain network take "
            "a scheme by activation, or init.lsuv"
        )
    blocks = [_Block(path, module) for path, module in found]
    for block in blocks:
        if not block.weighted:
            raise ValueError(f"{method} does not apply: the branch of {block.path} holds no layer with a weight")
    return blocks


def _scales(method: str, blocks: list[_Block]) -> list[tuple[str, Any]]:
    """The ``nn.Scale`` at the end of every branch.

    Raises:
        ValueError: a branch has none after its last weighted layer.
    """
    for block in blocks:
        last = block.order.index(block.weighted[-1][0])
        if not block.scales or block.order.index(block.scales[-1][0]) < last:
            raise ValueError(
                f"{method} does not apply: the branch of {block.path} does not end in a learned number (nn.Scale), and "
                "an initializer inserts no layers. models.resnet20(norm=False, scale=True) has them"
            )
    return [block.scales[-1] for block in blocks]


def fixup(model: Any, scheme: Spec = "he_normal", seed: int = 0) -> ModelReport:
    """Fixup: residual networks without normalization start as the identity, and one step changes them by O(lr).

    1. All weights by ``scheme``, as ``init.apply(model, scheme, seed)`` draws them.
    2. The classifier and the last layer of every branch are 0.
    3. The other layers of a branch are multiplied by ``L^(-1/(2m-2))``: L branches, m weighted layers in each (m = 2:
       ``1/√L``; m = 3: ``L^(-¼)``). Mind the minus sign, which copies of the rule have lost.
    4. The learned number at the end of a branch is 1, its bias 0.

    Args:
        model: residual blocks without normalization whose branches end in ``nn.Scale``:
            ``models.resnet20(norm=False, scale=True)``. The paper also has a scalar bias before every layer; this sets
            those that are there.
        scheme: the standard method for all weights; the authors' own program takes He's with mode="fan_out".
        seed: of the weights.

    Returns:
        A report with one record per weighted layer: what it got, and its rms.

    Raises:
        ValueError: no residual blocks, a branch with normalization or without ``nn.Scale``. Nothing has been changed.

    Source: Zhang, Dauphin & Ma 2019, "Fixup Initialization: Residual Learning Without Normalization", section 3.
    """
    blocks = _blocks("fixup", model)
    for block in blocks:
        if block.norms:
            raise ValueError(
                f"fixup is for networks without normalization, and {block.norms[0][0]} normalizes; take "
                "init.zero_gamma, or build the model with norm=False, scale=True"
            )
    _scales("fixup", blocks)
    ends = [block.weighted[-1] for block in blocks]
    classifier = _classifier(model, blocks)
    got = {path: "0, last of its branch" for path, _ in ends} | {path: "0, classifier" for path, _ in classifier}
    apply(model, scheme, seed)
    for block in blocks:
        m = len(block.weighted)
        for path, module in block.weighted[:-1]:
            factor = len(blocks) ** (-1 / (2 * m - 2))
            rescale(module, factor)
            got[path] = f"{scheme} × {factor:.3g}"
        for _, module in block.scales:
            _set(module.scale, 1.0)
            _set(getattr(module, "bias", None), 0.0)
    for _, module in ends + classifier:
        _set(size_of(module), 0.0)
        _set(getattr(module, "bias", None), 0.0)
    records = [
        {"layer": path, "shape": m.weight.shape, "got": got.get(path, str(scheme)), "rms": rms(effective_weight(m))}
        for path, m in weighted_layers(model)
    ]
    return ModelReport(f"fixup: {len(blocks)} branches", records)


def skipinit(model: Any, alpha: float | str = 0.0) -> ModelReport:
    """SkipInit: the learned number at the end of every branch starts at ``alpha``: ``x + α f(x)``.

    With α = 0 the network is as deep as its shortcuts; ``1/√L`` or less keeps the second moment within a factor e.

    Args:
        model: residual blocks whose branches end in ``nn.Scale``.
        alpha: a number, or "depth" for ``1/√L`` with L branches.

    Returns:
        A report with one record per block: the number before and after.

    Raises:
        ValueError: a branch without ``nn.Scale``; or α = 0 where the last weights are 0 too, which would never learn.

    Source: De & Smith 2020, "Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep
    Networks".
    """
    return _set_scales("skipinit", model, alpha)


def rezero(model: Any) -> ModelReport:
    """ReZero: the learned number at the end of every branch starts at 0; ``skipinit(model, alpha=0)`` by its own name.

    Args:
        model: residual blocks whose branches end in ``nn.Scale``.

    Returns:
        A report with one record per block.

    Raises:
        ValueError: a branch without ``nn.Scale``, or whose last weights are 0 too.

    Source: Bachlechner et al. 2020, "ReZero is All You Need: Fast Convergence at Large Depth".
    """
    return _set_scales("rezero", model, 0.0)


def _set_scales(method: str, model: Any, alpha: float | str) -> ModelReport:
    blocks = _blocks(method, model)
    scales = _scales(method, blocks)
    if isinstance(alpha, str) and alpha != "depth":
        raise ValueError(f'{method}: alpha is a number or "depth"; got {alpha!r}')
    value = 1 / math.sqrt(len(blocks)) if isinstance(alpha, str) else float(alpha)
    if not math.isfinite(value):
        raise ValueError(f"{method}: alpha must be finite; got {alpha}")
    for block in blocks:
        if value == 0 and rms(size_of(block.weighted[-1][1]).data) == 0:
            raise ValueError(
                f"{method}: {block.weighted[-1][0]} is all zeros (after Fixup?). With the number behind it 0 too, "
                "neither would ever get a gradient; draw the weights anew first, init.apply(model, …)"
            )
    records = []
    for block, (path, module) in zip(blocks, scales, strict=True):
        before = float(to_host(module.scale.data).reshape(-1)[0])
        _set(module.scale, value)
        records.append({"block": block.path, "scale": path, "before": before, "after": value})
    return ModelReport(f"{method}: every branch times {value:.4g}", records)


def zero_gamma(model: Any) -> ModelReport:
    """The last normalization of every branch starts with γ = 0: the branch is its β, usually 0, and the block is x.

    Args:
        model: residual blocks with normalization after the last weighted layer (``models.resnet20()``).

    Returns:
        A report with one record per block.

    Raises:
        ValueError: a branch without normalization, or with a weighted layer after it (order "pre"): behind a ReLU that
            gets only zeros, γ would never learn.

    Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 5.1.
    """
    blocks = _blocks("zero_gamma", model)
    for block in blocks:
        if not block.norm_comes_last or block.norms[-1][1].weight is None:
            why = "has no normalization" if not block.norms else "does not end in one that has a learned γ"
            raise ValueError(
                f"zero_gamma does not apply: the branch of {block.path} {why}. It needs order='post' and norm=True; "
                "for branches that end in nn.Scale take init.rezero"
            )
    records = []
    for block in blocks:
        path, module = block.norms[-1]
        records.append({"block": block.path, "norm": path, "gamma_before": rms(module.weight.data), "gamma": 0.0})
        _set(module.weight, 0.0)
    return ModelReport("zero_gamma: every branch ends in γ = 0", records)


def scaled_residual(model: Any) -> ModelReport:
    """The last weights of every branch times ``1/√N``, N branches: the second moment grows by ``(1 + 1/N)^N`` < e.

    It multiplies what is there: a second call multiplies again.

    Args:
        model: residual blocks without normalization behind the last weighted layer.

    Returns:
        A report with one record per block: rms of the weight before and after.

    Raises:
        ValueError: a normalization follows, which would undo the factor; no residual blocks; weights that are zero.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
    """
    blocks = _blocks("scaled_residual", model)
    for block in blocks:
        path, module = block.weighted[-1]
        if block.norm_comes_last:
            raise ValueError(
                f"scaled_residual does not apply: {block.norms[-1][0]} follows {path} and undoes any factor; take "
                "init.zero_gamma"
            )
        if rms(size_of(module).data) == 0:
            raise ValueError(f"scaled_residual: {path} is all zeros, and stays so whatever it is multiplied by")
    factor = 1 / math.sqrt(len(blocks))
    records = []
    for block in blocks:
        path, module = block.weighted[-1]
        record = {"layer": path, "shape": module.weight.shape, "rms_before": rms(size_of(module).data)}
        rescale(module, factor)
        records.append(record | {"rms": rms(size_of(module).data)})
    return ModelReport(f"scaled_residual: last weights of {len(blocks)} branches times {factor:.4g}", records)


def _classifier(model: Any, blocks: list[_Block]) -> list[tuple[str, Any]]:
    """The last weighted layer, if it comes after all blocks."""
    inside = {id(m) for block in blocks for _, m in block.module.named_modules()}
    modules = [m for _, m in model.named_modules()]
    behind = modules[modules.index(blocks[-1].module) :]
    return [(p, m) for p, m in weighted_layers(model) if m in behind and id(m) not in inside][-1:]


def _set(parameter: Any, value: float) -> None:
    """Fill a parameter with one number, if it is there."""
    if parameter is not None:
        parameter.data = array_module(parameter.data).full_like(parameter.data, value)
