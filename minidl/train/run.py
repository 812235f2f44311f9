"""A training run: where it stands, all of it as numbers and arrays, and how it goes on from there.

The state holds everything that the next step depends on: weights, running averages, the optimizer's memory and rate,
the place in the data, the generators of dropout masks, the sums over the running epoch, what early stopping remembers,
and the callbacks' own. What can be computed again is not in it: the order of the batches and the draws of augmentation
belong to (seed, epoch, batch), see ``data.DataLoader``.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from minidl import nn
from minidl.backend import Array, device_of, to_device, to_host
from minidl.data import DataLoader, Part
from minidl.optim import Optimizer, Schedule
from minidl.tensor import Tensor
from minidl.train.archive import CheckpointError
from minidl.train.history import History

__all__ = ["Best", "Loss", "Run", "Totals", "settings_of"]

Loss = Callable[[Any, Any], Any]  #: ``loss(model(x), y)``: a Tensor with one number


@dataclass
class Totals:
    """Sums over batches, kept on the device: reading them after every batch would make a GPU wait."""

    loss: Any = 0.0
    right: Any = None  #: None where there is no accuracy: the targets are no class numbers, or there is one score only
    count: int = 0

    def add(self, loss: Tensor, logits: Tensor, y: Array) -> Totals:
        """Count a batch: its mean loss, and how many examples have the largest score at their label.

        Returns:
            The sums of this batch alone.
        """
        batch = Totals(loss.data, None, len(y))
        if y.ndim == 1 and y.dtype.kind in "iu" and logits.ndim == 2 and logits.shape[1] > 1:
            batch.right = (logits.data.argmax(axis=1) == y).sum()
            self.right = (0 if self.right is None else self.right) + batch.right
        self.count += len(y)
        self.loss = self.loss + loss.data * len(y)
        return batch

    def means(self, prefix: str) -> dict[str, float]:
        """Mean loss, and accuracy where there is one, as Python numbers."""
        start = f"{prefix}_" if prefix else ""
        loss = {f"{start}loss": _number(self.loss) / self.count}
        return loss if self.right is None else loss | {f"{start}accuracy": _number(self.right) / self.count}


def _number(x: Any) -> float:
    return float(to_host(x))


class Best:
    """Early stopping: the smallest validation loss so far, and the weights that gave it."""

    def __init__(self, model: nn.Module, patience: int) -> None:
        self.model, self.patience = model, patience
        self.loss, self.waited = float("inf"), 0
        self.state: Mapping[str, Any] = model.state_dict()

    def should_stop(self, loss: float) -> bool:
        """Take note of an epoch's validation loss; whether the patience is at its end."""
        if loss < self.loss:
            self.loss, self.waited, self.state = loss, 0, self.model.state_dict()
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore(self) -> None:
        """Put the best weights back."""
        self.model.load_state_dict(self.state)


@dataclass
class Run:
    """A training run as its callbacks see it. Set ``stop = True`` to end it after the current epoch."""

    model: nn.Module
    optimizer: Optimizer
    loader: DataLoader
    epochs: int
    epoch: int = 0  #: current epoch, from 1
    step: int = 0  #: updates so far
    loss: Tensor | None = None  #: of the latest batch
    batch: Totals | None = None  #: loss, right answers and size of the latest batch, on its device
    stop: bool = False
    totals: Totals = field(default_factory=Totals)  #: of the current epoch
    history: History = field(default_factory=History)
    best: Best | None = None  #: early stopping, where it was asked for
    callbacks: tuple[Any, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)  #: what fit was asked for: a run that goes on asks the same
    started: float = field(default_factory=time.perf_counter)  #: the clock when this epoch began

    @property
    def done(self) -> int:
        """Updates in the current epoch; 0 between two epochs."""
        return self.step - (self.history[-1]["step"] if self.history else 0)

    @property
    def over(self) -> bool:
        """Whether no epoch is left to train."""
        return self.done == 0 and (self.stop or len(self.history) >= self.epochs)

    def begin_epoch(self) -> None:
        """Start the sums and the clock, unless this epoch was begun by the run that is gone on with."""
        if self.done == 0:
            self.totals, self.started = Totals(), time.perf_counter()

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """All the next step depends on, as a tree of numbers and arrays that ``archive.write`` takes."""
        weights = {path: p.data for path, p in self.model.named_parameters()}
        return {
            "weights": weights | dict(self.model.named_buffers()),
            "orders": {path: order for path, array in weights.items() if (order := _order(array))},
            "masks": {path: _masks(m) for path, m in self.model.named_modules() if hasattr(m, "restart")},
            "optimizer": self.optimizer.state_dict(),
            "loader": self.loader.state_dict(),
            "totals": dict(vars(self.totals)) if self.done else None,
            "history": list(self.history),
            "best": None if self.best is None else {k: getattr(self.best, k) for k in ("loss", "waited", "state")},
            "callbacks": [[type(c).__name__, c.state_dict()] for c in self._remembering()],
            "settings": self.settings,
            "run": {
                "epoch": self.epoch,
                "step": self.step,
                "stop": self.stop,
                "over": self.over,
                "seconds": time.perf_counter() - self.started,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave: all steps from here on are those the saved run would have made.

        Raises:
            CheckpointError: it is the state of another run; nothing has been changed then.
        """
        self._check(state)
        device = device_of(self.model.parameters()[0].data)
        self.model.load_state_dict(state["weights"])
        for path, parameter in self.model.named_parameters():
            parameter.data = _in_order(parameter.data, state["orders"].get(path))
        for path, module in self.model.named_modules():
            if hasattr(module, "restart"):
                _set_masks(module, state["masks"][path])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loader.load_state_dict(state["loader"])
        if state["totals"] is not None:
            self.totals = Totals(**{k: _placed(v, device) for k, v in state["totals"].items()})
        self.history[:] = state["history"]
        if self.best is not None:
            vars(self.best).update(state["best"])
        for callback, (_, saved) in zip(self._remembering(), state["callbacks"], strict=True):
            callback.load_state_dict(saved)
        run = state["run"]
        self.epoch, self.step, self.stop = run["epoch"], run["step"], run["stop"]
        self.started = time.perf_counter() - run["seconds"]

    def _remembering(self) -> list[Any]:
        """The callbacks that have a state of their own."""
        return [c for c in self.callbacks if hasattr(c, "state_dict") and hasattr(c, "load_state_dict")]

    def _check(self, state: Mapping[str, Any]) -> None:
        """Refuse another network, data or settings: what went on would be neither the old run nor a new one."""
        saved, own = state["settings"], self.settings
        for before, now in zip_longest(saved["model"], own["model"], fillvalue="nothing"):
            if before != now:
                raise CheckpointError(f"the saved run trains another network: it has {before}, this one {now}")
        different = [k for k in own if k not in ("model", "factors") and saved.get(k) != own[k]]
        if different:
            pairs = (f"{k}={saved.get(k)!r} (now {own[k]!r})" for k in different)
            raise CheckpointError(f"the saved run was started with {', '.join(pairs)}")
        for step, factor in saved["factors"].items():
            if own["factors"].get(step, factor) != factor:  # steps that only one of the two has, for its epochs, agree
                raise CheckpointError(
                    f"the saved run's schedule gives the factor {factor!r} at step {step}, this one's "
                    f"{own['factors'][step]!r}"
                )
        finished = len(state["history"])
        if self.epochs < max(state["run"]["epoch"], finished):
            raise CheckpointError(f"the saved run is in epoch {state['run']['epoch']}; epochs={self.epochs} is less")
        names, saved_names = ([type(c).__name__ for c in self._remembering()], [n for n, _ in state["callbacks"]])
        if names != saved_names:
            raise CheckpointError(f"the saved run has the callbacks {saved_names}, this one {names}")


# ---- settings


def settings_of(
    run: Run, loss: Loss, schedule: Schedule | None, clip: float | None, early_stopping: int | None
) -> dict[str, Any]:
    """What was asked for, as plain values: a checkpoint of a run that was asked for something else is refused.

    Functions are known by name; of the schedule, which hides numbers, the values too (see ``_factors``).
    """
    groups = [{k: v for k, v in group.items() if k != "params"} for group in run.optimizer.groups]
    return {
        "model": _printed(run.model),
        "optimizer": type(run.optimizer).__name__,
        "groups": groups,
        "examples": len(run.loader.dataset),
        "labels": zlib.crc32(run.loader.dataset.y.tobytes()),  # the same number of others would be other data
        "images": _images(run.loader.dataset),
        "batch_size": run.loader.batch_size,
        "seed": run.loader.seed,
        "drop_last": bool(run.loader.drop_last),
        "transform": _name_of(run.loader.transform),
        "loss": _name_of(loss),
        "schedule": _name_of(schedule),
        "factors": _factors(schedule, len(run.loader), run.epochs),
        "clip": clip,
        "early_stopping": early_stopping,
    }


def _images(part: Part) -> int:
    """A CRC of 33 examples, evenly spread from the first to the last: all, of photographs on a disk, take minutes."""
    return zlib.crc32(part[np.linspace(0, len(part) - 1, min(33, len(part))).astype(int)][0].tobytes())


def _factors(schedule: Schedule | None, steps: int, epochs: int) -> dict[int, float]:
    """What the schedule gives at the first two steps, and at the middle and last of every epoch of ``steps``.

    Of a run with more epochs these are the same steps and more; so ``cosine(100)`` and ``cosine(7)``, which have one
    name, can be told apart, and a run that goes on with more epochs is still the same.
    """
    if schedule is None:
        return {}
    ends = [epoch * steps + step for epoch in range(epochs) for step in (steps // 2, steps - 1)]
    return {step: float(schedule(step)) for step in sorted({0, 1, *ends}) if step < steps * epochs}


def _printed(model: nn.Module) -> list[str]:
    """A network as lines of text, one a module and one a tensor: what two of the same kind have in common.

    What a ``Scale`` says of itself is left out: it shows its value, which training changes.
    """
    modules = [
        f"{path or 'model'}: {type(m).__name__}({'' if isinstance(m, nn.Scale) else m.describe()})"
        for path, m in model.named_modules()
    ]
    tensors = [*((k, p.data) for k, p in model.named_parameters()), *model.named_buffers()]
    return [*modules, *(f"{path}: {array.dtype} {tuple(array.shape)}" for path, array in tensors)]


def _name_of(thing: Any) -> str | None:
    """What a function is called, for people and for comparison: no addresses. None stays None."""
    if thing is None:
        return None
    return str(getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None) or type(thing).__name__)


# ---- pieces


def _order(array: Array) -> list[int] | None:
    """The axes from slowest to fastest in memory, where that is not the usual order: products sum in another order."""
    axes = sorted(range(array.ndim), key=lambda axis: (-array.strides[axis], axis))
    return None if axes == list(range(array.ndim)) or array.flags.c_contiguous else axes


def _in_order(array: Array, axes: list[int] | None) -> Array:
    if axes is None:
        return array if array.flags.c_contiguous else array.copy()
    back = [axes.index(axis) for axis in range(array.ndim)]
    return array.transpose(axes).copy().transpose(back)


def _masks(module: Any) -> dict[str, Any]:
    """Where dropout is in its stream of masks.

    NumPy's generator says so itself. A GPU's cannot; there the state is saved where a new stream has just been begun
    (see ``finite.py``), and its number says it all.
    """
    generator = module._generator
    on_host = generator is not None and isinstance(generator, np.random.Generator)
    return {
        "seed": module.seed,
        "number": module.number,
        "generator": generator.bit_generator.state if on_host else None,
    }


def _set_masks(module: Any, saved: Mapping[str, Any]) -> None:
    module.seed = saved["seed"]
    module.restart(saved["number"])
    if saved["generator"] is not None:
        module._device, module._generator = "cpu", np.random.default_rng()
        module._generator.bit_generator.state = saved["generator"]


def _placed(value: Any, device: str) -> Any:
    """An array of a saved state on the device; a number as it is."""
    return to_device(value, device) if hasattr(value, "shape") else value
