"""Optimizers, learning-rate schedules, rates per layer and gradient clipping."""

from minidl.optim.layerwise import LayerRates, layerwise_lr
from minidl.optim.optimizer import SGD, Adam, AdamW, Optimizer
from minidl.optim.schedule import Schedule, clip_grad_norm, clip_grad_value, constant, cosine, step, warmup

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "LayerRates",
    "Optimizer",
    "Schedule",
    "clip_grad_norm",
    "clip_grad_value",
    "constant",
    "cosine",
    "layerwise_lr",
    "step",
    "warmup",
]
