"""One cell of the article's experiment, from files to test accuracy, beside PyTorch eager in turn.

    python benchmarks/cell.py --rounds 3 --epochs 5 --threads 2

LeNet-5 (max-pooling, ReLU, He) on MNIST: reading the files, batches of 64 in a new order every epoch, Adam 1e-3, test
accuracy after every epoch. minidl is used as ``minidl compare`` uses it (``data.load``, ``train.fit``), PyTorch as its
tutorials show it (``TensorDataset``, ``DataLoader``, a loop). Each cell has a fresh process, and only one runs at a
time; its clock starts after the imports. Needs MNIST (``minidl data get mnist``) and the rivals' environment.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from minidl import data
from minidl.text import table

ROOT = Path(__file__).resolve().parent.parent

MINIDL = """
import json, sys, time
from minidl import data, models, optim, train
start = time.perf_counter()
split = data.load("mnist")
model = models.lenet5("relu", "he_normal", seed=int(sys.argv[2]), in_shape=(1, 28, 28))
history = train.fit(model, split, optimizer=optim.Adam(model.parameters(), lr=1e-3), epochs=int(sys.argv[1]),
                    seed=int(sys.argv[2]), quiet=True)
print(json.dumps({"seconds": time.perf_counter() - start, "accuracy": history[-1]["test_accuracy"]}))
"""

TORCH = """
import json, sys, time
import numpy, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
start = time.perf_counter()
epochs, seed, file = int(sys.argv[1]), int(sys.argv[2]), numpy.load(sys.argv[3])
torch.set_num_threads(int(sys.argv[4]))
torch.manual_seed(seed)
def part(name, shuffle, batch_size):
    x = (torch.from_numpy(file[name + "_x"]).float() / 255 - 0.1307) / 0.3081
    return DataLoader(TensorDataset(x, torch.from_numpy(file[name + "_y"])), batch_size=batch_size, shuffle=shuffle)
train, test = part("train", True, 64), part("test", False, 512)
model = nn.Sequential(
    nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
)
for layer in model:
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(epochs):
    total = right = 0
    for x, y in train:
        optimizer.zero_grad()
        logits = model(x)
        loss = nn.functional.cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
        right += (logits.argmax(1) == y).sum().item()
    with torch.no_grad():
        hits = sum((model(x).argmax(1) == y).sum().item() for x, y in test)
print(json.dumps({"seconds": time.perf_counter() - start, "accuracy": hits / len(test.dataset)}))
"""


def cell(command: list[str], threads: int) -> dict[str, float]:
    """Seconds and test accuracy that a process reports."""
    settings = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], str(threads))
    answer = subprocess.run(
        command, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
    ).stdout
    found: dict[str, float] = json.loads(answer)
    return found


def main() -> None:
    """Run both in turn; one line a cell, then the median ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rivals-python", default=str(ROOT / ".venv-rivals/bin/python"))
    asked = parser.parse_args()
    split = data.load("mnist")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mnist.npz"
        arrays = {f"{name}_{key}": value for name in ("train", "test") for key, value in arrays_of(split, name).items()}
        np.savez(file, **arrays)
        records = []
        for seed in range(asked.rounds):
            arguments = [str(asked.epochs), str(seed)]
            ours = cell([sys.executable, "-c", MINIDL, *arguments], asked.threads)
            theirs = cell([asked.rivals_python, "-c", TORCH, *arguments, str(file), str(asked.threads)], asked.threads)
            ratio = ours["seconds"] / theirs["seconds"]
            records.append(
                {
                    "seed": seed,
                    "minidl s": f"{ours['seconds']:.1f}",
                    "PyTorch s": f"{theirs['seconds']:.1f}",
                    "ratio": ratio,
                    "minidl accuracy": f"{ours['accuracy']:.2%}",
                    "PyTorch accuracy": f"{theirs['accuracy']:.2%}",
                }
            )
            print(table([{**records[-1], "ratio": f"{ratio:.2f}"}]), flush=True)
    print(f"median ratio {statistics.median(r['ratio'] for r in records):.2f}, {asked.threads} threads")


def arrays_of(split: data.Split, name: str) -> dict[str, np.ndarray]:
    """The images as bytes and the labels of one part."""
    part = getattr(split, name)
    return {"x": part.raw, "y": part.y}


if __name__ == "__main__":
    main()
