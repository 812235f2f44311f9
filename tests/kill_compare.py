"""Kill a comparison many times, resume it each time: it loses nothing. Run: python tests/kill_compare.py --kills 20

The command runs in a process of its own and is ended with SIGKILL at moments drawn from a seed: half of them in the
middle of writing a file (after half of its text, or just before it is renamed), the others after a random time. Then
the same folder is resumed. Every cell that was finished must keep its file, byte for byte and not written again; at
the end all weights must have the hashes of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GRID = ["--data", "digits", "--network", "mlp", "--depth", "3", "--width", "32", "--schemes", "He", "zeros", "N(0, 1)"]
GRID += ["--activations", "tanh", "relu", "--optimizers", "momentum:0.01", "--seeds", "3", "--epochs", "3"]

# What the child runs: it patches the writing of files so that the process dies in the middle of the n-th one.
CHILD = """
import os, signal, sys
from minidl import cli
from minidl.experiment import store
left, half = int(sys.argv[1]), sys.argv[2] == "half"
real_open, real_replace = open, os.replace

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Torn:
    def __init__(self, file): self.file = file
    def __getattr__(self, name): return getattr(self.file, name)
    def __enter__(self): return self
    def __exit__(self, *_): self.file.close()
    def write(self, text):
        self.file.write(text[: len(text) // 2]); self.file.flush(); die()

def counted_open(path, mode="r", **options):
    global left
    file = real_open(path, mode, **options)
    if "w" in mode and left:
        left -= 1
        if not left and half: return Torn(file)
        if not left: os.replace = lambda *_: die()
    return file

store.open = counted_open
sys.exit(cli.main(sys.argv[3:]))
"""


def command(arguments: list[str], write: int = 0, how: str = "half") -> subprocess.Popen[bytes]:
    """The comparison in a process of its own; it kills itself within its ``write``-th write, if that is not 0."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", CHILD, str(write), how, "compare", *arguments, "--backend", "numpy", "-q"]
    return subprocess.Popen(program, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def finished(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Name -> time of writing and content of every cell file."""
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.glob("cells/*.json"))}


def hashes(folder: Path) -> dict[str, str]:
    """Cell -> hash of its final weights."""
    return {p.stem: json.loads(p.read_bytes())["result"]["weights_sha256"] for p in folder.glob("cells/*.json")}


def undisturbed(place: Path, grid: list[str]) -> tuple[dict[str, str], float]:
    """The hashes of a run that ends by itself, and how long it took."""
    start = time.perf_counter()
    assert command([*grid, "--out", str(place / "undisturbed")]).wait() == 0
    return hashes(place / "undisturbed" / "compare-001"), time.perf_counter() - start


def series(kills: int, seed: int = 0, grid: list[str] | None = None, jobs: int = 1) -> dict[str, int]:
    """Kill so many times, resume each time; start a new folder when one is complete.

    Returns:
        How many kills there were, how many of them in the middle of a write, how many folders were completed, and how
        many finished cells were looked at again.
    """
    draw, grid = random.Random(seed), GRID if grid is None else grid
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        expected, seconds = undisturbed(place, grid)
        counts = {"kills": 0, "within a write": 0, "complete": 0, "cells seen again": 0}
        while counts["kills"] < kills or counts["complete"] == 0:
            folder = place / f"run{counts['complete']}" / "compare-001"
            before = finished(folder) if folder.exists() else {}
            begun = (folder / "grid.json").exists()
            if not begun and folder.exists():  # it died before it had written down what was asked for
                shutil.rmtree(folder)
            arguments = ["--resume", str(folder)] if begun else [*grid, "--out", str(folder.parent)]
            stop = counts["kills"] < kills
            within = stop and draw.random() < 0.5
            write = draw.randint(1, 6) if within else 0
            process = command([*arguments, "--jobs", str(jobs)], write, draw.choice(["half", "rename"]))
            if stop and not within:
                time.sleep(draw.uniform(0.2, 0.6 * seconds))
                process.send_signal(signal.SIGKILL)
            code = process.wait()
            after = finished(folder)
            for cell, was in before.items():
                assert after.get(cell) == was, f"kill {counts['kills']}: the finished cell {cell} was lost or run again"
            counts["cells seen again"] += len(before)
            if code == -signal.SIGKILL:
                counts["kills"] += 1
                counts["within a write"] += within
                continue
            assert code == 0, f"the command ended with {code}"
            assert hashes(folder) == expected, "the weights are not those of a run that nobody disturbed"
            assert not list(folder.rglob("*.part")), "something half-written was left behind"
            counts["complete"] += 1
            if not begun and not stop:
                break
        return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time; a kill then ends the parent")
    options = parser.parse_args()
    print(series(options.kills, options.seed, jobs=options.jobs))
