"""How fast do batches come? Run ``python benchmarks/loader.py [--json]`` where minidl is installed.

1. One shuffled epoch of MNIST to normalised float32 at batch 128, beside PyTorch's DataLoader over a TensorDataset of
   the normalised images (where torch is installed; it may live in another environment, ``--torch PYTHON``).
2. ImageNet photographs to normalised float32 with two decoding threads, beside two separate processes that share the
   same work. The resident memory is read while it streams.

Both halves run one after the other in rounds, alternately, and the best rounds are compared: those that other work on
the machine disturbed least. Without the real files in ``$MINIDL_DATA``, images of the same shapes are made up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from minidl import data
from minidl.data.registry import entry

ROUNDS = 25
BATCH = 128
PHOTOS = 168  # photographs in one measurement: those at hand, several times over

TORCH = """
import sys, time
import numpy, torch
from torch.utils.data import DataLoader, TensorDataset
with numpy.load(sys.argv[1]) as file:
    x = (torch.from_numpy(file["x"]).float() / 255 - 0.1307) / 0.3081
    y = torch.from_numpy(file["y"])
loader = DataLoader(TensorDataset(x, y), batch_size=128, shuffle=True)
for line in sys.stdin:
    start = time.perf_counter()
    count = sum(len(images) for images, labels in loader)
    print(time.perf_counter() - start, flush=True)
"""

DECODE = """
import sys, time
from minidl import data
from minidl.data.photos import Photos
import numpy as np
def epoch(folder, files, workers):
    part = Photos(folder, files, np.zeros(len(files), np.int64), ("photo",), augment=True, workers=workers)
    part = part.standardized((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    start = time.perf_counter()
    count = sum(len(x) for x, y in data.DataLoader(part, 28, shuffle=True))
    return count, time.perf_counter() - start
"""


def mnist_arrays():
    """The training images of MNIST, or noise of their shape."""
    if _have("mnist"):
        train = data.load("mnist").train
        return train.raw, train.y, "MNIST"
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (60_000, 1, 28, 28), dtype=np.uint8), np.arange(60_000) % 10, "noise of MNIST's shape"


def _have(name):
    return entry(name).files.find() is not None


def mnist_epochs(torch_python):
    """Seconds of an epoch: ours, and PyTorch's (None without it)."""
    x, y, what = mnist_arrays()
    part = data.Dataset(x, y).standardized([0.1307], [0.3081])
    loader = data.DataLoader(part, BATCH, shuffle=True)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "mnist.npz", x=x, y=y)
        command = [torch_python, "-c", TORCH, str(Path(folder) / "mnist.npz")]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ours, theirs = [], []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            assert sum(len(images) for images, _ in loader) == len(x)
            ours.append(time.perf_counter() - start)
            theirs.append(_asked(peer))
        peer.communicate()
    return {"data": what, "minidl_s": min(ours), "torch_s": None if None in theirs else min(theirs)}


def _asked(peer):
    """One measurement of the other process; None if it is not there."""
    try:
        peer.stdin.write("go\n")
        peer.stdin.flush()
        return float(peer.stdout.readline())
    except (OSError, ValueError):
        return None


def photographs(folder):
    """The folder and the names of real photographs, or of made-up ones of 500 × 375 pixels."""
    if _have("imagenet"):
        train = data.load("imagenet").train
        return train.folder, train.files, "ImageNet photographs"
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(42):
        coarse = Image.fromarray(rng.integers(0, 256, (38, 50, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i}.JPEG", quality=90)
    return folder, sorted(path.name for path in folder.iterdir()), "made-up photographs"


def imagenet_epochs():
    """Images a second of one process with two threads and of two processes, and the memory while it streams."""
    with tempfile.TemporaryDirectory() as made_up:
        folder, files, what = photographs(Path(made_up))
        files = (list(files) * (PHOTOS // len(files) + 1))[:PHOTOS]
        threads, processes = [], []
        one, *two = _decoders(folder, [(files, 2), (files[::2], 1), (files[1::2], 1)])
        for _ in range(ROUNDS):
            threads.append(PHOTOS / _together([one]))
            processes.append(PHOTOS / _together(two))
        memory = [_resident(one.pid)]
        for _ in range(20):
            _together([one])
            memory.append(_resident(one.pid))
        for process in (one, *two):
            process.communicate()
    return {
        "data": what,
        "two_threads_per_s": max(threads),
        "two_processes_per_s": max(processes),
        "resident_mb": memory,
    }


def _decoders(folder, shares):
    """One waiting process for each (files, workers)."""
    loop = "for line in sys.stdin:\n    print(epoch(folder, files, workers)[1], flush=True)\n"
    package = str(Path(data.__file__).resolve().parents[2])
    processes = []
    for files, workers in shares:
        given = f"import sys; sys.path.append({package!r})\nfrom pathlib import Path\n"
        given += f"folder, files, workers = Path({str(folder)!r}), {files!r}, {workers}\n"
        command = [sys.executable, "-c", given + DECODE + loop]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    return processes


def _together(processes):
    """Seconds until all have done one epoch."""
    start = time.perf_counter()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.stdout.readline()
    return time.perf_counter() - start


def _resident(pid):
    """Resident memory of a process in MB; None where /proc is not there."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default=sys.executable, metavar="PYTHON", help="an interpreter that has PyTorch")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    mnist, imagenet = mnist_epochs(args.torch), imagenet_epochs()
    if args.json:
        print(json.dumps({"mnist": mnist, "imagenet": imagenet}, indent=2))
        return
    print(f"{mnist['data']}, one shuffled epoch at batch {BATCH}: minidl {1e3 * mnist['minidl_s']:.1f} ms", end="")
    if mnist["torch_s"]:
        ratio = mnist["minidl_s"] / mnist["torch_s"]
        print(f", PyTorch {1e3 * mnist['torch_s']:.1f} ms, ratio {ratio:.3f} (goal: 0.15 or less)")
    else:
        print(" (no PyTorch here to compare with; see --torch)")
    threads, processes = imagenet["two_threads_per_s"], imagenet["two_processes_per_s"]
    print(f"{imagenet['data']}: two threads {threads:.0f}/s, two processes {processes:.0f}/s", end="")
    print(f", ratio {threads / processes:.2f} (goal: 0.75 or more)")
    if imagenet["resident_mb"][0]:
        print("resident memory while streaming, MB:", " ".join(f"{value:.0f}" for value in imagenet["resident_mb"]))


if __name__ == "__main__":
    main()
