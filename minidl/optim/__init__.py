"""Optimizers, learning-rate schedules and gradient clipping."""

from minidl.optim.optimizer import SGD, Adam, AdamW, Optimizer
from minidl.optim.schedule import Schedule, clip_grad_norm, clip_grad_value, constant, cosine, step, warmup

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "Schedule",
    "clip_grad_norm",
    "clip_grad_value",
    "constant",
    "cosine",
    "step",
    "warmup",
]
