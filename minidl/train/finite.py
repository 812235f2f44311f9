"""The tripwire of training: notice the first value that is not finite, and say at which step and layer it arose.

On the host every step is checked before its update. On a GPU, reading a value makes the program wait for the device;
so there the check is a flag that stays on the device and is read every ``EVERY_ON_GPU`` steps and at the end of an
epoch. At each clean reading the state of the run is kept (on the device), and after a hit the steps since then are
repeated, each one checked; callbacks see the repeated steps again. Without a hit the results are the same bits as with
a check at every step, but for dropout: its masks start a new stream whenever the state is kept.

A run can be written to disk where its values have just been checked (``checked``): after every step on the host, and
where the state is kept on a GPU.
"""

from __future__ import annotations

import copy
from typing import Any

from minidl.backend import Array, array_module, to_host
from minidl.lab.measure import loss_of
from minidl.lab.untouched import path_of
from minidl.nn import Module
from minidl.tensor import Tensor
from minidl.train.history import Diverged
from minidl.train.run import Loss, Run

__all__ = ["EVERY_ON_GPU", "Tripwire", "first_bad_layer"]

EVERY_ON_GPU = 50


class Tripwire:
    """Watches a run that calls it before each forward pass, between backward and update, and after the update.

    Args:
        run: the ``Run`` it watches.
        loss: the loss function, to repeat a step.
        every: steps between two readings of the flag.

    Attributes:
        checked: whether the state after the latest update is known to be finite, and can be gone on from exactly.
    """

    def __init__(self, run: Run, loss: Loss, every: int) -> None:
        self.run, self.loss, self.every = run, loss, every
        self.checked = False
        self._flag: Array | None = None
        self._saved: dict[str, Any] | None = None
        modules = [m for _, m in run.model.named_modules()]
        self._buffers = [(m, name) for m in modules for name in vars(m).get("_buffer_names", ())]
        self._averages: list[Array] = []

    def before_epoch(self) -> None:
        """A place to come back to."""
        if self.every > 1:
            self._save()

    def before_forward(self) -> None:
        """Keep the running averages: the forward pass of a bad step spoils them before anything can be checked."""
        if self.every == 1:
            self._averages = self._copied()

    def before_update(self, loss: Tensor, x: Tensor, y: Array) -> None:
        """Check this step's loss and gradients; on the host at once.

        Raises:
            Diverged: every step is read, and this one is not finite.
        """
        finite = _all_finite(loss, self.run.optimizer.parameters())
        if self.every > 1:
            self._flag = finite if self._flag is None else self._flag & finite
        elif not bool(finite):
            self._raise(x, y)

    def after_update(self) -> bool:
        """Read the flag if it is time. False: the run was taken back to its last clean state; enter the loader anew."""
        self.checked = self.every == 1 and self._saved is None
        if self._flag is None or (self.run.step % self.every and self.run.step % len(self.run.loader)):
            return True
        clean, self._flag = bool(to_host(self._flag)), None
        if clean:
            self._save()
            self.checked = True
        else:
            self._restore()
            self.every = 1
        return clean

    def _save(self) -> None:
        run = self.run
        self._saved = {
            "arrays": [p.data.copy() for p in run.model.parameters()],
            "buffers": self._copied(),
            "optimizer": run.optimizer.snapshot(),
            "loader": run.loader.state_dict(),
            "masks": [(m, _fresh_stream(m)) for _, m in run.model.named_modules() if hasattr(m, "restart")],
            "run": (run.step, copy.copy(run.totals)),
        }

    def _restore(self) -> None:
        run, saved = self.run, self._saved
        assert saved is not None
        for p, array in zip(run.model.parameters(), saved["arrays"], strict=True):
            p.data = array
        self._put_back(saved["buffers"])
        for module, number in saved["masks"]:
            module.restart(number)
        run.optimizer.restore(saved["optimizer"])
        run.loader.load_state_dict(saved["loader"])
        run.step, run.totals = saved["run"]

    def _copied(self) -> list[Array]:
        return [getattr(m, name).copy() for m, name in self._buffers]

    def _put_back(self, arrays: list[Array]) -> None:
        for (module, name), array in zip(self._buffers, arrays, strict=True):
            setattr(module, name, array)

    def _raise(self, x: Tensor, y: Array) -> None:
        step, bad = self.run.step + 1, int(to_host((~array_module(x.data).isfinite(x.data)).sum()))
        if bad:
            layer, what = "", f"{bad} of {x.size} input values are NaN or infinite"
            advice = "Clean the data first."
        else:
            layer, what = first_bad_layer(self.run.model, x, y, self.loss)
            advice = (
                "Usual causes: a learning rate or an initialization that is too large, or input that is not "
                "standardized."
            )
        self._put_back(self._averages)
        raise Diverged(
            f"training step {step}: {what}. The weights are those from before this step. {advice}",
            step,
            layer,
            self.run.history,
        )


def _fresh_stream(module: Any) -> int:
    """Begin the next stream of masks, unless nothing has been drawn from this one; its number."""
    return int(module.number if module._generator is None else module.restart())


def _all_finite(loss: Tensor, parameters: list[Tensor]) -> Array:
    """Whether loss and gradients are finite, as a 0-d array on their device: any NaN or infinity survives a sum."""
    total = loss.data
    for p in parameters:
        if p.grad is not None:
            total = total + p.grad.sum()
    return array_module(total).isfinite(total)


def first_bad_layer(model: Module, x: Any, y: Any, loss: Loss) -> tuple[str, str]:
    """Run one batch again and look at every layer: the first output, else the first gradient, that is not finite.

    The model's gradients are those of this batch afterwards. Dropout draws new masks.

    Returns:
        Path of the layer ("" if no layer is to blame), and what happened as half a sentence.
    """
    outputs: list[str] = []
    gradients: list[str] = []
    names = {id(m): path_of(path, m) for path, m in model.named_modules()}

    def after_forward(module: Module, _inputs: Any, output: Any) -> None:
        path = names[id(module)]
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if not _finite(tensor.data):
                outputs.append(path)
            if tensor.requires_grad:
                tensor.register_hook(lambda g: None if _finite(g) else gradients.append(path))

    handles = [m.register_forward_hook(after_forward) for _, m in model.named_modules()]  # inner ones come first
    try:
        value = loss_of(model, model(x), y, loss)
        model.zero_grad()
        value.backward()
    finally:
        for handle in handles:
            handle.remove()
    if outputs:
        return outputs[0], f"the output of layer {outputs[0]!r} is not finite"
    if not _finite(value.data):
        return "", "the loss is not finite, though every layer's output is"
    if gradients:
        return gradients[0], f"the gradient at the output of layer {gradients[0]!r} is not finite"
    for path, p in model.named_parameters():
        if p.grad is not None and not _finite(p.grad):
            return path.rpartition(".")[0], f"the gradient of {path!r} is not finite"
    return "", "the gradients are so large that their sum is not finite"


def _finite(array: Array) -> bool:
    return bool(to_host(array_module(array).isfinite(array).all()))
