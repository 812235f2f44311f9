"""Small parameters side by side in one vector: an update is a handful of long operations, not many short ones.

The parameters and their memory become views of the vectors: nobody else notices. Large parameters gain nothing and stay
as they are.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from minidl.backend import Array, array_module, library_of
from minidl.tensor import Tensor

__all__ = ["Run", "flattened"]

LARGE = 2**15  # elements; from here on the work of an update outweighs the calls


class Run:
    """Parameters that are updated as one.

    Args:
        group: their settings.
        params: the parameters, with gradients.
        states: the memory of each; the arrays in it become views of ``state``'s.
    """

    def __init__(self, group: dict[str, Any], params: list[Tensor], states: list[dict[str, Any]]) -> None:
        self.group, self.params, self.states = group, params, states
        self.alone = len(params) == 1
        if self.alone:
            self.p, self.state = params[0], states[0]
            return
        xp, dtype = array_module(params[0].data), params[0].dtype
        ends = [0]
        for p in params:
            ends.append(ends[-1] + p.size)
        self.slices = [slice(start, end) for start, end in pairwise(ends)]
        self.p = Tensor(xp.concatenate([p.data.ravel() for p in params]))
        self.views = self._views(self.p.data)
        for p, view in zip(params, self.views, strict=True):
            p.data = view
        self.grad = xp.empty(ends[-1], dtype)
        self.grad_views = self._views(self.grad)
        self.state = {k: v if not hasattr(v, "shape") else _joined(xp, k, states) for k, v in states[0].items()}
        self._share()

    def _views(self, flat: Array) -> list[Array]:
        return [flat[s].reshape(p.shape) for s, p in zip(self.slices, self.params, strict=True)]

    def _share(self) -> None:
        """Give every parameter its part of the memory."""
        for name, value in self.state.items():
            parts = self._views(value) if hasattr(value, "shape") else [value] * len(self.params)
            for state, part in zip(self.states, parts, strict=True):
                state[name] = part

    def holds(self) -> bool:
        """Whether all parameters still have gradients and live here; an array put in place of a view is taken in."""
        if any(p.grad is None for p in self.params):
            return False
        if self.alone:
            return True
        for p, view in zip(self.params, self.views, strict=True):
            if p.data is not view:
                if p.dtype != view.dtype or library_of(p.data) is not library_of(view):
                    return False
                view[...] = p.data
                p.data = view
        return True

    def gathered(self) -> Array:
        """The gradients, as one vector."""
        if self.alone:
            return self.p.grad
        for view, p in zip(self.grad_views, self.params, strict=True):
            view[...] = p.grad
        return self.grad

    def hand_back(self) -> None:
        """After an update: let each parameter's memory show what the common one has become."""
        if self.alone:
            return
        if self.state.keys() != self.states[0].keys():
            self._share()
            return
        for name, value in self.state.items():
            if not hasattr(value, "shape"):
                for state in self.states:
                    state[name] = value


def _joined(xp: Any, name: str, states: list[dict[str, Any]]) -> Array:
    return xp.concatenate([state[name].ravel() for state in states])


def flattened(members: list[tuple[dict[str, Any], Tensor]], states: list[dict[str, Any]]) -> list[Run]:
    """Runs of all parameters with a gradient: those alike in settings, kind of array and age of memory together."""
    runs: dict[Any, tuple[dict[str, Any], list[Tensor], list[dict[str, Any]]]] = {}
    for i, ((group, p), state) in enumerate(zip(members, states, strict=True)):
        if p.grad is None:
            continue
        age = tuple((k, None if hasattr(v, "shape") else v) for k, v in state.items())
        key: Any = i if p.size >= LARGE else (id(group), str(p.dtype), library_of(p.data).name, age)
        _, params, memories = runs.setdefault(key, (group, [], []))
        params.append(p)
        memories.append(state)
    return [Run(*run) for run in runs.values()]
