"""PyTorch as an independent truth: the same function of the same numbers in both libraries, compared.

A test file that imports from here is skipped where PyTorch is not installed. PyTorch always computes on the host.
"""

import numpy as np
import pytest
from conftest import DEVICE, fetch, tensor

from minidl import grad

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # small arrays: more threads only wait for each other


def agree(ours, theirs, tolerance=1e-10, what="result"):
    """Equal shapes, and every element equal to ``tolerance`` times the largest (counted as at least 0.001).

    Where PyTorch has NaN, as in the second derivative of its Mish at 1000, ours has to be finite.
    """
    mine, truth = fetch(ours), theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    assert mine.shape == truth.shape, f"{what}: shape {mine.shape}, PyTorch {truth.shape}"
    assert mine.dtype == truth.dtype, f"{what}: {mine.dtype}, PyTorch {truth.dtype}"
    assert np.isfinite(mine[np.isnan(truth)]).all(), f"{what}: NaN or infinity, as in PyTorch"
    truth = np.where(np.isnan(truth), mine, truth)
    scale = max(np.abs(truth).max(initial=0.0), 1e-3)
    error = np.abs(mine - truth).max(initial=0.0) / scale
    assert error <= tolerance, f"{what}: off by {error:.2g} of the largest element, more than {tolerance:g}"


def twins(model, theirs, seed=0, pairs=None):
    """Both models in float64 with the same random parameters (biases too); the pairs of parameters."""
    model.to("float64").to(DEVICE)
    theirs.double()
    pairs = list(zip(model.parameters(), theirs.parameters(), strict=True)) if pairs is None else pairs
    rng = np.random.default_rng(seed)
    for p, q in pairs:
        assert p.shape == tuple(q.shape)
        fan = max(p.size // p.shape[0], 1)  # so that signals keep their size through several layers
        values = rng.normal(size=p.shape) * (1 / fan) ** 0.5 + (0.5 if p.ndim == 1 else 0.0)
        p.data = tensor(values).data
        with torch.no_grad():
            q.copy_(torch.from_numpy(values))
    return pairs


def check(ours, theirs, *arrays, pairs=(), tolerance=1e-10, second=True):
    """Forward, ``backward`` on arrays, ``grad`` on Tensors and second derivatives of ``ours`` are those of ``theirs``.

    ``arrays`` become the inputs, all differentiated; ``pairs`` are parameters (ours, theirs). The second derivative is
    that of a random combination of all gradients of ``Σ c y²``: the square gives even a linear layer one.
    """
    xs, qs = [tensor(a, requires_grad=True) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]
    leaves, twin_leaves = [*xs, *(p for p, _ in pairs)], [*qs, *(q for _, q in pairs)]
    rng = np.random.default_rng(len(leaves))
    y, z = ours(*xs), theirs(*qs)
    agree(y, z, tolerance, "forward")
    c = np.asarray(rng.normal(size=y.shape))
    _clear(leaves, twin_leaves)
    y.backward(tensor(c).data)
    z.backward(torch.from_numpy(c))
    for i, (p, q) in enumerate(zip(leaves, twin_leaves, strict=True)):
        agree(p.grad, q.grad, tolerance, f"gradient of leaf {i}")

    if second:
        _check_second(ours, theirs, (xs, qs), (leaves, twin_leaves), rng, tolerance)
    _clear(leaves, twin_leaves)


def _check_second(ours, theirs, inputs, both, rng, tolerance):
    (xs, qs), (leaves, twin_leaves) = inputs, both
    y, z = ours(*xs), theirs(*qs)
    c = np.asarray(rng.normal(size=y.shape))
    grads = grad((y * y * tensor(c)).sum(), leaves, create_graph=True)
    truths = torch.autograd.grad((z * z * torch.from_numpy(c)).sum(), twin_leaves, create_graph=True)
    directions = [np.asarray(rng.normal(size=g.shape)) for g in grads]
    for i, (g, h) in enumerate(zip(grads, truths, strict=True)):
        agree(g, h, tolerance, f"gradient of leaf {i} with a graph")
    _clear(leaves, twin_leaves)
    sum((g * tensor(d)).sum() for g, d in zip(grads, directions, strict=True)).backward()
    sum((h * torch.from_numpy(d)).sum() for h, d in zip(truths, directions, strict=True)).backward()
    for i, (p, q) in enumerate(zip(leaves, twin_leaves, strict=True)):
        agree(p.grad, q.grad, tolerance, f"second derivative at leaf {i}")


def check_layer(layer, theirs, x, seed=0, pairs=None):
    """``check`` of a layer: the same random parameters in both, all of them and the input differentiated."""
    check(layer, theirs, x, pairs=twins(layer, theirs, seed, pairs))


def _clear(*groups):
    for leaf in (leaf for leaves in groups for leaf in leaves):
        leaf.grad = None
