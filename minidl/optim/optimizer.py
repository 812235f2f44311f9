"""Optimizers: each changes parameters in place, by a rule of one line per quantity.

An optimizer takes tensors, or groups ``[{"params": tensors, "lr": 0.1}, {"params": others}]``; what a group leaves out
comes from the arguments. A parameter without a gradient is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from minidl.backend import Array, array_module, device_of, to_device, to_host
from minidl.optim.flat import Run, flattened
from minidl.tensor import Tensor

__all__ = ["SGD", "Adam", "AdamW", "Optimizer"]


class Optimizer:
    """Base class: groups, state, and the loop over parameters; a subclass writes ``update``.

    ``elementwise = True`` in a subclass says that its rule treats every number alike, whatever tensor it belongs to:
    then small parameters are updated together, as one long vector (see ``flat.py``).

    Args:
        params: tensors, or groups (dicts with "params" and settings of their own).
        defaults: settings for what a group does not set, among them "lr".

    Raises:
        ValueError: no parameters, one listed twice, or a learning rate that is not positive.
        TypeError: something else than leaf tensors that require gradients.
    """

    elementwise = False

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        items = list(params)
        groups = items if items and isinstance(items[0], dict) else [{"params": items}]
        self.groups: list[dict[str, Any]] = [self._group(group, defaults) for group in groups]
        self.state: list[dict[str, Any]] = [{} for _ in self.members()]
        self._flat: list[Run] = []
        self._flat_of: Any = None  # the memory that the runs share
        self.lr_factor = 1.0  #: what a schedule multiplies every learning rate by
        self._check()

    @staticmethod
    def _group(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
        unknown = group.keys() - defaults.keys() - {"params"}
        if unknown:
            raise ValueError(f"a group sets {sorted(unknown)}; this optimizer knows {sorted(defaults)}")
        params = group["params"]
        return {**defaults, **group, "params": [params] if isinstance(params, Tensor) else list(params)}

    def members(self) -> list[tuple[dict[str, Any], Tensor]]:
        """Every parameter with its group."""
        return [(group, p) for group in self.groups for p in group["params"]]

    def _check(self) -> None:
        parameters = [p for _, p in self.members()]
        if not parameters:
            raise ValueError(f"{type(self).__name__} was given no parameters; pass model.parameters()")
        for p in parameters:
            if not isinstance(p, Tensor) or not p.requires_grad:
                raise TypeError(f"an optimizer changes tensors that require gradients; got {type(p).__name__}")
            if not p.is_leaf:
                raise TypeError(f"an optimizer changes leaves; a tensor of shape {p.shape} is an operation's result")
        if len({id(p) for p in parameters}) < len(parameters):
            raise ValueError("a parameter is listed twice; it would be changed twice in one step")
        for group in self.groups:
            if not group["lr"] > 0:
                raise ValueError(f"the learning rate must be positive; got lr={group['lr']}")

    def parameters(self) -> list[Tensor]:
        """The parameters of all groups."""
        return [p for _, p in self.members()]

    def step(self) -> None:
        """Change every parameter that has a gradient."""
        if self.elementwise:
            if not self._flat_is_current():
                self._flat = flattened(self.members(), self.state)
                self._flat_of = self.state
            for run in self._flat:
                self.update(run.p, run.gathered(), run.state, run.group, run.group["lr"] * self.lr_factor)
                run.hand_back()
            return
        for (group, p), state in zip(self.members(), self.state, strict=True):
            if p.grad is not None:
                self.update(p, p.grad, state, group, group["lr"] * self.lr_factor)

    def update(self, p: Tensor, g: Array, state: dict[str, Any], group: dict[str, Any], lr: float) -> None:
        """Change one parameter by its gradient ``g``; ``state`` is this parameter's own memory, empty at first."""
        raise NotImplementedError

    def _flat_is_current(self) -> bool:
        """Whether the runs still are what they were made of: the same memory, gradients for the same parameters."""
        if self._flat_of is not self.state:
            return False
        count = sum(p.grad is not None for group in self.groups for p in group["params"])
        return count == sum(len(run.params) for run in self._flat) and all(run.holds() for run in self._flat)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for _, p in self.members():
            p.grad = None

    def snapshot(self) -> Any:
        """The memory as it is now, copied on its own device; ``restore`` goes back to it."""
        return _copied(self.state), self.lr_factor

    def restore(self, snapshot: Any) -> None:
        """Go back to a ``snapshot``."""
        state, self.lr_factor = snapshot
        self.state = _copied(state)  # steps change the memory in place, and the snapshot may serve again

    def state_dict(self) -> dict[str, Any]:
        """Settings and memory as plain numbers and NumPy arrays; ``load_state_dict`` continues exactly from there."""
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.groups]
        state = [{k: to_host(v).copy() if hasattr(v, "shape") else v for k, v in s.items()} for s in self.state]
        return {"groups": groups, "state": state, "lr_factor": self.lr_factor}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` gave.

        Raises:
            ValueError: the numbers of groups or parameters differ, a shape does, or another kind of optimizer saved it.
        """
        if len(saved["groups"]) != len(self.groups) or len(saved["state"]) != len(self.state):
            raise ValueError(
                f"saved state has {len(saved['groups'])} groups and {len(saved['state'])} parameters; "
                f"this optimizer has {len(self.groups)} and {len(self.state)}"
            )
        for group, settings in zip(self.groups, saved["groups"], strict=True):
            if settings.keys() != group.keys() - {"params"}:
                raise ValueError(f"saved settings {sorted(settings)} are not those of {type(self).__name__}")
        states = []
        for (_, p), entries in zip(self.members(), saved["state"], strict=True):
            for name, value in entries.items():
                if hasattr(value, "shape") and tuple(value.shape) != p.shape:
                    raise ValueError(f"saved {name} has shape {tuple(value.shape)}, its parameter {p.shape}")
            device = device_of(p.data)
            states.append({k: to_device(v.copy(), device) if hasattr(v, "shape") else v for k, v in entries.items()})
        for group, settings in zip(self.groups, saved["groups"], strict=True):
            group.update(settings)
        self.state, self.lr_factor = states, saved["lr_factor"]


def _copied(state: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v.copy() if hasattr(v, "shape") else v for k, v in entries.items()} for entries in state]


class SGD(Optimizer):
    """Gradient descent, with momentum if asked: ``v ← momentum·v + g``, ``p ← p - lr·v``.

    Args:
        params: tensors or groups.
        lr: learning rate.
        momentum: share of the old velocity that stays; 0 is plain gradient descent.
        nesterov: step along ``g + momentum·v``, the gradient looked up one step ahead.
        weight_decay: λ, adds ``λ·p`` to the gradient.

    Source: as in Sutskever et al. 2013, in PyTorch's form (the rate outside the velocity).
    """

    elementwise = True

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        if nesterov and momentum == 0:
            raise ValueError("nesterov=True needs a momentum, usually 0.9")
        super().__init__(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    def update(self, p: Tensor, g: Array, state: dict[str, Any], group: dict[str, Any], lr: float) -> None:
        """One step of one parameter."""
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p.data
        if group["momentum"]:
            if "velocity" in state:
                state["velocity"] *= group["momentum"]
                state["velocity"] += g
            else:
                state["velocity"] = g.copy()
            g = g + group["momentum"] * state["velocity"] if group["nesterov"] else state["velocity"]
        p.data -= lr * g


class Adam(Optimizer):
    """Steps of nearly equal size for every weight: the gradient's running mean over the root of its running square.

    ``m ← β₁m + (1-β₁)g``, ``v ← β₂v + (1-β₂)g²``, ``p ← p - lr · m̂ / (√v̂ + eps)`` with ``m̂ = m/(1-β₁ᵗ)`` and
    ``v̂ = v/(1-β₂ᵗ)``, which undo the start at zero.

    Args:
        params: tensors or groups.
        lr: learning rate; the first step changes every weight by just this much.
        betas: (β₁, β₂).
        eps: a gradient far below it makes no step.
        weight_decay: λ, adds ``λ·p`` to the gradient.

    Source: Kingma & Ba 2015, "Adam: A Method for Stochastic Optimization".
    """

    elementwise = True
    decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must lie in [0, 1); got {betas}")
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, p: Tensor, g: Array, state: dict[str, Any], group: dict[str, Any], lr: float) -> None:
        """One step of one parameter."""
        xp, (beta1, beta2) = array_module(g), group["betas"]
        if group["weight_decay"] and self.decoupled:
            p.data -= lr * group["weight_decay"] * p.data
        elif group["weight_decay"]:
            g = g + group["weight_decay"] * p.data
        if not state:
            state.update(t=0, m=xp.zeros_like(g), v=xp.zeros_like(g))
        state["t"] += 1
        m, v = state["m"], state["v"]
        m *= beta1
        work = xp.multiply(g, 1 - beta1, out=xp.empty_like(g))
        m += work
        v *= beta2
        xp.multiply(g, g, out=work)
        work *= 1 - beta2
        v += work
        # work becomes the step: lr · m̂ / (√v̂ + eps), with both corrections drawn into numbers
        correction = math.sqrt(1 - beta2 ** state["t"])
        xp.sqrt(v, out=work)
        work += group["eps"] * correction
        xp.divide(m, work, out=work)
        work *= lr * correction / (1 - beta1 ** state["t"])
        p.data -= work


class AdamW(Adam):
    """Adam whose weight decay shrinks the weights directly, ``p ← p - lr·λ·p``, apart from the gradient's scaling.

    Source: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization".
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
