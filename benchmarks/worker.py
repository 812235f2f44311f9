"""One framework on one workload, in a process of its own: waits for lines of JSON on stdin, answers each with one.

First line: what to do. It is done once, checked steps are taken and their results written to a file. Then
``{"run": n}`` answers the seconds of each of n steps, ``{"memory": true}`` the peaks.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time

import numpy as np

from . import memory
from .workloads import restored

CHECKED_STEPS = 3


def main():
    """Work until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints must not get between the answers

    def answer(**content):
        print(json.dumps(content), file=answers, flush=True)

    order = json.loads(sys.stdin.readline())
    try:
        framework = importlib.import_module(f".workloads_{order['framework']}", __package__)
    except ImportError as error:
        answer(missing=f"not installed: {error}")
        sys.stdin.read()  # ends with the process that asked, which is about to stop this one
        return
    imported, import_peak = memory.resident(), memory.peak()
    getattr(framework, "use_threads", lambda number: None)(order["threads"])
    workload = prepared(framework, order)
    memory.forget_peak()
    answer(version=framework.VERSION)
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            answer(seconds=timed(workload, request["run"]))
        else:
            peak = memory.peak()
            answer(peak_mb=max(peak, import_peak), above_import_mb=peak - imported)


def prepared(framework, order):
    """The workload after its first steps, whose results are in the file now."""
    description = restored(order["workload"])
    with np.load(order["arrays"]) as file:
        arrays = dict(file)
    workload = getattr(framework, type(description).__name__)(description, arrays)
    losses = [workload.step() for _ in range(CHECKED_STEPS)]
    losses = {"losses": np.array([float(loss) for loss in losses])} if losses[0] is not None else {}
    np.savez(order["results"], **workload.results(), **losses)
    gc.collect()
    return workload


def timed(workload, steps):
    """Seconds of each step; one before them, not counted, makes the caches warm again."""
    workload.step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        workload.step()
        seconds.append(time.perf_counter() - start)
    return seconds
