"""What this machine can do at best, and what the pieces of a step cost: the ceilings behind docs/speed.md.

python benchmarks/machine.py            # with OPENBLAS_NUM_THREADS=1 or 2 for one or two cores
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from minidl import Tensor, nn, ops, optim, threads

LAYERS = (((32, 16, 32, 32), (16, 16, 3, 3)), ((32, 32, 16, 16), (32, 32, 3, 3)), ((32, 64, 16, 16), (64, 64, 3, 3)))


def best(work: Callable[[], object], times: int = 40) -> float:
    """The shortest of several runs, in seconds."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def products(n: int = 1024) -> float:
    """GFLOP/s of a square float32 product."""
    a, out = np.ones((n, n), "float32"), np.empty((n, n), "float32")
    return 2 * n**3 / best(lambda: np.matmul(a, a, out=out)) / 1e9


def memory(n: int = 1 << 24) -> float:
    """GB/s that an addition of two large arrays reads and writes."""
    a, out = np.ones(n, "float32"), np.empty(n, "float32")
    return 12 * n / best(lambda: np.add(a, a, out=out)) / 1e9


def handing_over() -> float:
    """Microseconds that ``threads.share`` takes to do nothing in two threads."""
    threads.use(2)
    cost = best(lambda: threads.share(lambda start, stop: None, 2), 400)
    threads.use(None)
    return 1e6 * cost


def convolution(image: tuple[int, ...], kernel: tuple[int, ...]) -> float:
    """GFLOP/s of a 3x3 convolution, counted as a direct one."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype("float32") for shape in (image, kernel))
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    flops = 2 * image[0] * image[2] * image[3] * np.prod(kernel)
    return float(flops / best(lambda: ops.conv2d(x, w, padding=1)) / 1e9)


def page_faults() -> float | None:
    """Pages that the system hands out in a training step of a small convolutional net; None where nobody counts."""
    try:
        import resource
    except ImportError:
        return None
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(c, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()) for c in (3, 16, 16, 16)),
        nn.GlobalAvgPool2d(),
        nn.Linear(16, 10),
    )
    x, y = Tensor(rng.standard_normal((32, 3, 32, 32)).astype("float32")), np.arange(32) % 10
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        ops.cross_entropy(model(x), y).backward()
        optimizer.step()

    for _ in range(5):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20


def main() -> None:
    """Print everything."""
    print(f"threads of the matrix library: {threads.blas_threads()}")
    print(f"product 1024: {products():.0f} GFLOP/s")
    print(f"addition of large arrays: {memory():.0f} GB/s")
    print(f"handing work to a second thread: {handing_over():.0f} us")
    for image, kernel in LAYERS:
        print(f"conv2d {image} * {kernel}, counted as direct: {convolution(image, kernel):.0f} GFLOP/s")
    faults = page_faults()
    print(
        f"page faults in a step, four convolutions of 16 channels: {'unknown' if faults is None else f'{faults:.0f}'}"
    )


if __name__ == "__main__":
    main()
