"""What a probe costs beside a plain step: the same forward and backward, with and without the looks in between.

    OMP_NUM_THREADS=1 python -m benchmarks.probe
    OMP_NUM_THREADS=2 python -m benchmarks.probe --rounds 40 --out probe.json

A plain step is forward, cross-entropy and backward, without an update. Both run in turn in one process; *ratio* is the
median over the rounds of probe over plain *in the same round*, so what else the machine does falls on both. *peak MB*
counts what Python and NumPy hold at most during the step, model and batch included (``tracemalloc``, in steps that are
not timed).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import tracemalloc
from pathlib import Path

import numpy as np

from minidl import lab, models, ops, optim
from minidl.tensor import Tensor
from minidl.text import table

GOAL, GOAL_MEMORY = 1.4, 1.05  # of the first row

#: label -> (model, shape of the batch, what is asked of the probe)
CASES = {
    "50 × 256, tanh": (lambda: models.mlp([256] * 51 + [10], "tanh", seed=0), (256, 256), {}),
    "50 × 256, ReLU": (lambda: models.mlp([256] * 51 + [10], "relu", seed=0), (256, 256), {}),
    "50 × 256, sigmoid": (lambda: models.mlp([256] * 51 + [10], "sigmoid", seed=0), (256, 256), {}),
    "50 × 256, tanh, with Adam": (lambda: models.mlp([256] * 51 + [10], "tanh", seed=0), (256, 256), {"optimizer": 1}),
    "LeNet-5": (lambda: models.lenet5(seed=0), (256, 1, 32, 32), {}),
    "ResNet-20": (lambda: models.resnet20(seed=0), (32, 3, 32, 32), {}),
}
REQUESTS = ("histograms", "correlation", "jacobian")


def plain(model, x, y):
    """Forward, loss, backward."""
    model.zero_grad()
    ops.cross_entropy(model(Tensor(x)), y).backward()


def seconds(work):
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak(work):
    """MB that Python and NumPy hold at most during a call."""
    tracemalloc.start()
    work()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found / 2**20


def measured(label, rounds):
    """One row of the table."""
    make, shape, options = CASES[label]
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(shape, dtype=np.float32), rng.integers(10, size=shape[0])
    held = {}

    def build():
        held["model"] = make()
        if "optimizer" in options:
            held["optimizer"] = optim.Adam(held["model"].parameters())

    def step():
        plain(held["model"], x, y)
        held["model"].zero_grad()

    def probe():
        lab.probe(held["model"], x, y, optimizer=held.get("optimizer"))

    build()
    for work in (step, probe):
        work()
    times = [(seconds(step), seconds(probe)) for _ in range(rounds)]
    memory = [peak(lambda work=work: (build(), work())) + x.nbytes / 2**20 for work in (step, probe)]
    ratios = sorted(b / a for a, b in times)
    return {
        "network": label,
        "batch": shape[0],
        "plain ms": 1e3 * statistics.median(a for a, _ in times),
        "probe ms": 1e3 * statistics.median(b for _, b in times),
        "ratio": statistics.median(ratios),
        "q1": ratios[len(ratios) // 4],
        "q3": ratios[3 * len(ratios) // 4],
        "peak MB": memory[0],
        "probe MB": memory[1],
        "memory": memory[1] / memory[0],
    }


def on_request(width=64, depth=20):
    """Seconds of what is measured on request, as the report says itself, beside its probe."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((256, width), dtype=np.float32), rng.integers(10, size=256)
    rows = []
    for w, layers in ((width, depth), (256, 50)):
        model = models.mlp([w] * (layers + 1) + [10], "tanh", seed=0)
        x = rng.standard_normal((256, w), dtype=np.float32)
        costs = lab.probe(model, x, y, **dict.fromkeys(REQUESTS, True)).costs
        rows.append({"network": f"{layers} × {w}, tanh", **{key: 1e3 * value for key, value in costs.items()}})
    return rows


def main():
    """The tables; JSON with --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="beginnings of networks' names; default: all")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", help="write the rows as JSON")
    args = parser.parse_args()
    chosen = [c for c in CASES if not args.cases or c.startswith(tuple(args.cases))]
    rows = [measured(label, args.rounds) for label in chosen]
    print(f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}, goal {GOAL}× and {GOAL_MEMORY}× memory\n")
    print(table(rows, list(rows[0])))
    requests = on_request()
    print("\non request, ms\n")
    print(table(requests, list(requests[0])))
    if args.out:
        Path(args.out).write_text(json.dumps({"steps": rows, "on request": requests}, indent=1))


if __name__ == "__main__":
    main()
