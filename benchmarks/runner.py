"""Controls the workers: one process for each framework, in turn, and only one of them runs at a time.

On one workload with one number of threads every framework gets a fresh worker. Its results after the first steps are
compared with PyTorch's; only then it takes part in the rounds. In each round every framework runs some steps, and the
next round begins with another one, so that whatever changes on the machine meets all alike.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from .workloads import Draw, describe

HERE = Path(__file__).resolve().parent
REFERENCE = "torch"
FRAMEWORKS = {"minidl": "W slope", "torch": "W slope", "torch_tuned": "W1 W2 W3 W4 W5 W6"}
PEERS = dict.fromkeys(("dezero", "mygrad", "autograd", "jax"), "W1 W2 W3")  # on request; what each is measured on
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
ROUND_SECONDS = 0.05  # aimed at for one framework in one round

# The worker's package is loaded from its folder: it is called _benchmarks in a wheel, and its parent is minidl there,
# which a process that measures another framework must not import. One that measures minidl takes that of this process.
START = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
folder, *minidl = sys.argv[1:]
sys.path[:0] = minidl
spec = spec_from_file_location("benchmarks", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["benchmarks"] = module_from_spec(spec)
from benchmarks.worker import main
main()
"""


class Worker:
    """A framework in a process of its own, stopped whenever it has nothing to do.

    Args:
        framework: its name; ``workloads_<name>.py`` has its side of the workloads.
        python: the interpreter of its environment.
        threads: how many its libraries may use.
    """

    def __init__(self, framework, python, threads):
        self.framework, self.threads = framework, threads
        minidl = [str(Path(find_spec("minidl").origin).parent.parent)] if framework == "minidl" else []
        self.process = subprocess.Popen(
            [python, "-P", "-c", START, str(HERE), *minidl],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | dict.fromkeys(THREADS, str(threads)),
            encoding="utf-8",
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()

    def ask(self, **request):
        """Let the worker run until it has answered."""
        if hasattr(signal, "SIGCONT"):
            self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker of {self.framework} ended with {self.process.wait()}; its error is above")
        self._stop()
        return json.loads(answer)

    def _stop(self):
        """Take the processor away from it: threads of its libraries may still wait in a loop."""
        if hasattr(signal, "SIGSTOP"):
            self.process.send_signal(signal.SIGSTOP)
            os.waitpid(self.process.pid, os.WUNTRACED)


def interleaved(names, rounds) -> Iterator[str]:
    """Every name once in each round, each round beginning with the next one."""
    for first in range(rounds):
        for i in range(len(names)):
            yield names[(first + i) % len(names)]


def takes_part(framework, work):
    """Whether a framework is measured on a workload."""
    return work.name.startswith(tuple((FRAMEWORKS | PEERS)[framework].split()))


def measure(work, pythons, threads, rounds):
    """One record for each framework on one workload.

    Args:
        work: from ``workloads.py``.
        pythons: the interpreter of each framework.
        threads: how many each may use.
        rounds: how many times each is timed.
    """
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        arrays = work.arrays(np.random.default_rng(0))
        np.savez(Path(scratch) / "arrays.npz", **arrays)
        workers, records = {}, []
        for name in filter(lambda name: takes_part(name, work), pythons):
            workers[name] = stack.enter_context(Worker(name, pythons[name], threads))
            records.append({"workload": work.name, "framework": name, "threads": threads})
            records[-1] |= _prepare(workers[name], work, Path(scratch))
        for record in records:
            record |= _check(record["framework"], work, arrays, Path(scratch), records)
        ready = {r["framework"]: workers[r["framework"]] for r in records if not r["note"]}
        times = _timed(ready, rounds)
        for record in records:
            record |= _of_times(record["framework"], times)
            record |= workers[record["framework"]].ask(memory=True) if record["framework"] in ready else {}
            goal = work.goal if record["framework"] == "minidl" and threads == 2 else None
            record |= {"goal": goal, "sweep": getattr(work, "sweep", ""), "size": getattr(work, "size", 0)}
        return records


def _prepare(worker, work, scratch):
    """Let the worker import its framework and take the first steps."""
    files = {"arrays": str(scratch / "arrays.npz"), "results": str(scratch / f"{worker.framework}.npz")}
    try:
        answer = worker.ask(framework=worker.framework, threads=worker.threads, workload=describe(work), **files)
    except RuntimeError as error:  # the others can still be measured
        return {"version": None, "note": str(error)}
    return {"version": answer.get("version"), "note": answer.get("missing", "")}


def _check(name, work, arrays, scratch, records):
    """How far the results are from PyTorch's; where either is missing nothing is checked."""
    failed = {record["framework"] for record in records if record["note"]}
    if name in failed or not (scratch / f"{REFERENCE}.npz").exists():
        return {"error": None}
    with np.load(scratch / f"{name}.npz") as ours, np.load(scratch / f"{REFERENCE}.npz") as theirs:
        error, where = largest_error(dict(ours), dict(theirs), arrays, relative=not isinstance(work, Draw))
    note = "" if error <= work.tolerance else f"differs from PyTorch: {where} by {error:.2g}"
    return {"error": error, "note": note}


def largest_error(ours, theirs, start, relative=True):
    """The largest difference of two sets of named results, and the name of the result.

    Relative errors are √Σ(a - b)² / √Σ(b - start)²: of weights (those named in ``start``) the *update* counts.
    """
    worst = (0.0, "")
    for name, truth in theirs.items():
        if name not in ours or ours[name].shape != truth.shape:
            return math.inf, name
        difference = np.asarray(ours[name], "float64") - truth
        error = np.abs(difference).max(initial=0.0)
        if relative:
            size = np.linalg.norm(np.asarray(truth, "float64") - start.get(name, 0.0))
            error = np.linalg.norm(difference) / max(size, 1e-30)
        error = float(error) if np.isfinite(error) else math.inf
        worst = max(worst, (error, name))
    return worst


def _timed(workers, rounds):
    """Seconds of a step in each round: the median of the steps of that round."""
    steps = {}
    for name, worker in workers.items():
        steps[name] = _steps_for(worker.ask(run=3)["seconds"])
        worker.ask(run=steps[name])  # warm
    times = {name: [] for name in workers}
    for name in interleaved(list(workers), rounds):
        times[name].append(float(np.median(workers[name].ask(run=steps[name])["seconds"])))
    return times


def _steps_for(seconds):
    return max(1, min(1000, round(ROUND_SECONDS / min(seconds))))


def _of_times(name, times):
    """Quartiles of the seconds, and of the ratio to idiomatic PyTorch in the same round."""
    if name not in times:
        return {}
    found = dict(zip(("q1", "median", "q3"), quartiles(times[name]), strict=True)) | {"seconds": times[name]}
    if REFERENCE in times:
        ratios = np.divide(times[name], times[REFERENCE])
        found |= dict(zip(("ratio_q1", "ratio", "ratio_q3"), quartiles(ratios), strict=True))
    return found


def quartiles(values):
    """First quartile, median, third quartile."""
    return [float(q) for q in np.quantile(values, (0.25, 0.5, 0.75))]


def measure_all(works, pythons, threads, rounds, say=lambda line: None):
    """The records of many workloads, one workload after the other, as they come."""
    for work in works:
        for number in threads:
            say(f"{work.name}, threads: {number}")
            yield from measure(work, pythons, number, rounds)


def own_python():
    """The interpreters for measuring minidl alone."""
    return {"minidl": sys.executable}
