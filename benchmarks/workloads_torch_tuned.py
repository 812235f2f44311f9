"""The workloads in PyTorch eager tuned by hand: arrays of images with the channels last, fused optimizers."""

from __future__ import annotations

import torch

from . import workloads_torch as idiomatic

VERSION, use_threads = idiomatic.VERSION, idiomatic.use_threads


def channels_last(x):
    """A model, or an array of four axes, with the channels last in memory; anything else as it is."""
    images = isinstance(x, torch.nn.Module) or x.ndim == 4
    return x.to(memory_format=torch.channels_last) if images else x


class Train(idiomatic.Train):
    """Training steps on the batches in turn."""

    def placed(self, x):
        """With the channels last."""
        return channels_last(x)

    def optimizer_of(self, name, rate):
        """With the fused update."""
        return super().optimizer_of(name, rate, fused=True)


class Conv(idiomatic.Conv):
    """``conv2d`` and the gradients of all its arguments."""

    def placed(self, x):
        """With the channels last."""
        return channels_last(x)
