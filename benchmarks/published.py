"""The networks in their published forms, forward and backward on eight images of 224x224: seconds and peak memory.

    python benchmarks/published.py [NAME ...]

With batch normalization, He weights, 1000 classes; on photographs of ImageNet where some are found, else on noise. Each
network has a process of its own. Ends with 1 if one of them needs more than 8 GB or has a gradient that is not finite.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from minidl.data.registry import entry
from minidl.text import table

NETWORKS = ("lenet5", "alexnet", "vgg11", "vgg16", "googlenet", "resnet18", "resnet50")
MOST = 8000  # MB

ONE = """
import json, sys, time
import numpy as np
from minidl import Tensor, data, models, ops
from benchmarks.memory import peak
name, photographs = sys.argv[1], sys.argv[2] == "yes"
if photographs:
    x, y = data.load("imagenet").train[:8]
else:
    x, y = np.random.default_rng(0).standard_normal((8, 3, 224, 224), dtype="float32"), np.arange(8)
model = models.build(name, init="he_normal", norm=True, in_shape=(3, 224, 224), num_classes=1000)
start = time.perf_counter()
outputs = model(Tensor(x))
objective = getattr(model, "training_loss", lambda logits, y, loss: loss(logits, y))
loss = objective(outputs, y, ops.cross_entropy)
loss.backward()
seconds = time.perf_counter() - start
finite = all(bool(np.isfinite(p.grad).all()) for p in model.parameters())
parameters = sum(p.size for p in model.parameters())
print(json.dumps({"network": name, "parameters": parameters, "s": seconds, "peak MB": peak(), "finite": finite}))
"""


def main() -> int:
    """One line a network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(NETWORKS)}")
    asked = parser.parse_args()
    photographs = entry("imagenet").files.find() is not None
    found = []
    for name in asked.names or NETWORKS:
        command = [sys.executable, "-c", ONE, name, "yes" if photographs else "no"]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(answer.stdout))
    shown = [
        {**f, "parameters": f"{f['parameters']:,}", "s": f"{f['s']:.1f}", "peak MB": f"{f['peak MB']:.0f}"}
        for f in found
    ]
    print(f"eight {'photographs' if photographs else 'images of noise'}, forward and backward\n\n{table(shown)}")
    return int(any(f["peak MB"] > MOST or not f["finite"] for f in found))


if __name__ == "__main__":
    sys.exit(main())
