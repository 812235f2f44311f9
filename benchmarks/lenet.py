"""Train LeNet-5, built from ``nn`` here, for a few epochs and report: the GPU's check of the whole engine.

    python benchmarks/lenet.py --backend cupy --epochs 5

On MNIST where its files are found ($MINIDL_DATA or the cache), else on the digits enlarged to 28x28; it says which.
"""

from __future__ import annotations

import argparse
import platform
import time

import numpy as np

import minidl
from minidl import data, files, init, nn, optim, train
from minidl.backend import device_for, to_device


def lenet5() -> nn.Sequential:
    """LeNet-5 with max-pooling and ReLU, for 28x28 images; 61 706 parameters."""
    return nn.Sequential(
        conv1=nn.Conv2d(1, 6, 5, padding=2),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 16, 5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        linear1=nn.Linear(400, 120),
        relu3=nn.ReLU(),
        linear2=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        output=nn.Linear(84, 10),
    )


def split_of_28() -> data.Split:
    """MNIST if its files are here, without downloading; else the digits, enlarged."""
    if (files.data_cache() / "mnist").is_dir():
        return data.load("mnist")
    small = data.load("digits", normalize=False)
    return data.from_arrays(*enlarged(small.train), test=enlarged(small.test))


def enlarged(part: data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """8x8 images as 28x28: every pixel three times each way, in a frame of two."""
    x, y = part[:]
    return np.pad(x.repeat(3, axis=2).repeat(3, axis=3), ((0, 0), (0, 0), (2, 2), (2, 2))), y


def main() -> None:
    """Train and print a report in Markdown."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--backend", default="auto", choices=("numpy", "cupy", "auto"))
    arguments.add_argument("--epochs", type=int, default=5)
    arguments.add_argument("--seed", type=int, default=0)
    asked = arguments.parse_args()
    device = device_for(asked.backend)
    split = split_of_28()
    model = lenet5()
    init.apply(model, seed=asked.seed)
    model.to(device)
    start = time.perf_counter()
    history = train.fit(
        model,
        split,
        optimizer=optim.Adam(model.parameters(), lr=1e-3),
        epochs=asked.epochs,
        seed=asked.seed,
    )
    print(f"LeNet-5 on {'MNIST' if split.name == 'mnist' else 'the digits, enlarged to 28x28'}: {split}\n")
    print(
        f"- minidl {minidl.__version__}, Python {platform.python_version()}, NumPy {np.__version__}, {hardware(device)}"
    )
    print(
        f"- {asked.epochs} epochs, batch 64, Adam 1e-3, seed {asked.seed}: {time.perf_counter() - start:.1f} s in all\n"
    )
    print("```")
    print(history)
    print("```")


def hardware(device: str) -> str:
    """What computed."""
    if device == "cpu":
        return f"on the CPU ({platform.machine()})"
    library = type(to_device(np.zeros(1, "float32"), device)).__module__.partition(".")[0]
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    return f"on {name} through {library} {cupy.__version__}, CUDA runtime {cupy.cuda.runtime.runtimeGetVersion()}"


if __name__ == "__main__":
    main()
