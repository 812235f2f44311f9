"""Where the time of a training step goes: every operation, forward and back, measured inside whole steps.

    OMP_NUM_THREADS=2 python -m benchmarks.account "W5 resnet8"

Kernels measured alone look faster than in a step, where other kernels have emptied the caches. So a clock is put around
each operation's function and rules, and whole steps run. *rest* is what lies between them: the tape, modules, hooks.
GFLOP/s count a multiplication and an addition of the plain definition as two; *of product* is their share of what one
large matrix product reaches here, with the threads that the environment gives (the last line).
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict

import numpy as np

from minidl.tensor import OPS
from minidl.text import table

from . import workloads_minidl
from .machine import products
from .workloads import WORKLOADS


class Clock:
    """Seconds, calls and floating-point operations by name; a call inside another belongs to the outer one."""

    def __init__(self) -> None:
        self.seconds, self.calls, self.flops = defaultdict(float), defaultdict(int), defaultdict(float)
        self.inside = False

    def around(self, name, function, flops=lambda result, *args: 0.0):
        """``function``, timed."""

        def timed(*args, **static):
            if self.inside:
                return function(*args, **static)
            self.inside, start = True, time.perf_counter()
            try:
                result = function(*args, **static)
            finally:
                self.seconds[name] += time.perf_counter() - start
                self.inside = False
            self.calls[name] += 1
            self.flops[name] += flops(result, *args)
            return result

        return timed

    def watch(self, operation) -> None:
        """Put the clock around an operation and its rules."""
        name = operation.name
        operation.function = self.around(name, operation.function, counted(name))
        if operation.joint_rule is not None:
            operation.joint_rule = self.around(f"{name}, back", operation.joint_rule, counted_back(name))
        elif name != "conv2d":  # its rules are operations themselves
            operation.rules = tuple(rule and self.around(f"{name}, back", rule) for rule in operation.rules)


def counted(name):
    """How many floating-point operations a product's forward is."""
    if name == "conv2d_weight_grad":
        return lambda result, x, g, *rest: 2.0 * result.size * g.size / g.shape[1]
    if name == "conv2d_input_grad":
        return lambda result, g, w, *rest: 2.0 * g.size * math.prod(w.shape[1:])
    if name in ("conv2d", "linear"):
        return lambda result, x, w, *rest: 2.0 * result.size * math.prod(w.shape[1:])
    return lambda result, *args: 0.0


def counted_back(name):
    """The same of a joint rule: one product for every gradient that is a matrix."""
    if name != "linear":
        return lambda grads, *args: 0.0
    return lambda grads, g, y, x, w, *rest: sum(2.0 * g.size * w.shape[1] for grad in grads[:2] if grad is not None)


def account(work, seconds: float) -> list[dict[str, object]]:
    """One record per operation, the longest first."""
    step = getattr(workloads_minidl, type(work).__name__)(work, work.arrays(np.random.default_rng(0)))
    clock = Clock()
    for operation in OPS.values():
        clock.watch(operation)
    if hasattr(step, "optimizer"):
        step.optimizer.step = clock.around("optimizer", step.optimizer.step)
    for _ in range(5):
        step.step()
    for counts in (clock.seconds, clock.calls, clock.flops):
        counts.clear()
    start, steps, total = time.perf_counter(), 0, 0.0
    while total < seconds:
        step.step()
        steps, total = steps + 1, time.perf_counter() - start
    clock.seconds["rest"] = total - sum(clock.seconds.values())
    ceiling = products()
    records = []
    for name, spent in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        rate = clock.flops[name] / spent / 1e9
        record = {"kernel": name, "calls": clock.calls[name] // steps or "", "ms": f"{1e3 * spent / steps:.3f}"}
        speed = (f"{rate:.0f}", f"{rate / ceiling:.0%}") if rate else ("", "")
        records.append(
            record | dict(zip(("share", "GFLOP/s", "of product"), (f"{spent / total:.0%}", *speed), strict=True))
        )
    whole = {"kernel": "step", "calls": "", "ms": f"{1e3 * total / steps:.3f}"}
    return [*records, whole | {"share": "", "GFLOP/s": f"{ceiling:.0f}", "of product": "is 100%"}]


def main() -> None:
    """Print the table of one workload."""
    parser = argparse.ArgumentParser(description="Where the time of a training step goes.")
    parser.add_argument("workload", help='for example "W5 resnet8"')
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to run steps (default: %(default)s)")
    args = parser.parse_args()
    work = next((w for w in WORKLOADS if args.workload in w.name), None)
    if work is None:
        parser.error(f"no workload {args.workload!r}; there are {', '.join(w.name for w in WORKLOADS)}")
    print(f"{work.name}\n{table(account(work, args.seconds))}\n")


if __name__ == "__main__":
    main()
