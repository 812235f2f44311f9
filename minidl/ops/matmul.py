"""Matrix products: matmul, the affine map of a dense layer, and Einstein summation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import threads
from minidl.backend import Array, array_module
from minidl.ops.shape import broadcast_to, reshape, swap_last_axes
from minidl.tensor import op

__all__ = ["contract", "einsum", "linear", "matmul"]


@op
def matmul(a: Array, b: Array) -> Array:
    """Matrix product ``a @ b``; leading axes are a batch and broadcast, a vector is a row or a column as in NumPy."""
    return a @ b


def _matmul_left(g: Any, _y: Any, a: Any, b: Any) -> Any:
    if b.ndim == 1:
        return g[..., None] * b
    if a.ndim == 1:
        return (b @ g[..., None])[..., 0]
    return g @ swap_last_axes(b)


def _matmul_right(g: Any, _y: Any, a: Any, b: Any) -> Any:
    if a.ndim == 1:
        return g * a if b.ndim == 1 else a[:, None] * g[..., None, :]
    if b.ndim == 1:
        return (swap_last_axes(a) @ g[..., None])[..., 0]
    return swap_last_axes(a) @ g


matmul.derivative(_matmul_left, _matmul_right)
matmul.example(lambda draw: ((draw.array((2, 3)), draw.array((3, 4))), {}))
matmul.example(lambda draw: ((draw.array((2, 1, 3, 2)), draw.array((4, 2, 3))), {}))
matmul.example(lambda draw: ((draw.array((3,)), draw.array(draw.choice([(3,), (3, 2), (2, 3, 2)]))), {}))
matmul.example(lambda draw: ((draw.array(draw.choice([(2, 3), (2, 4, 3)])), draw.array((3,))), {}))


@op
def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """``x wᵀ + b``, the affine map of a dense layer.

    Args:
        x: (..., in).
        w: (out, in).
        b: (out,) or None.

    Returns:
        (..., out).
    """
    if x.ndim == 0 or x.shape[-1] != w.shape[1]:
        raise ValueError(f"linear: input of shape {x.shape} does not fit weights (out, in) = {w.shape}")
    y = _product(x, w.T)
    if b is not None:
        y += b
    return y


def _linear_rule(g: Any, _y: Any, x: Any, w: Any, _b: Any = None, *, needs: Sequence[bool]) -> list[Any]:
    rows, wanted = _rows(g), (*needs, False)  # b may have been left out
    return [
        _product(g, w) if wanted[0] else None,
        _product(rows.T, _rows(x)) if wanted[1] else None,
        rows.sum(axis=0) if wanted[2] else None,
    ][: len(needs)]


linear.joint_derivative(_linear_rule)
linear.example(lambda draw: ((draw.array((2, 3)), draw.array((4, 3)), draw.array((4,))), {}))
linear.example(lambda draw: ((draw.array((2, 5, 3)), draw.array((4, 3))), {}))


SHARED = 8_000_000  # multiplications worth a thread


def _product(a: Any, b: Any) -> Any:
    """``a @ b``. Where minidl's threads are at work, they do it: the matrix library's own would be in their way."""
    if not threads.sharing() or not (type(a) is type(b) is np.ndarray) or a.ndim != 2:
        return a @ b
    y = np.empty((a.shape[0], b.shape[1]), np.result_type(a, b))

    def part(start: int, stop: int) -> None:
        np.matmul(a[start:stop], b, out=y[start:stop])

    with threads.undisturbed():
        threads.share(part, len(a), least=1 + SHARED // max(1, b.size))
    return y


def _rows(x: Any) -> Any:
    return x if x.ndim == 2 else reshape(x, shape=(-1, x.shape[-1]))


def einsum(subscripts: str, *xs: Any) -> Any:
    """Sum of products in index notation: ``einsum("ij,jk->ik", a, b)``.

    Raises:
        ValueError: an ellipsis, or one index twice in one argument (a diagonal): take it by indexing first.
    """
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if "." in subscripts or any(len(set(term)) != len(term) for term in (*terms, output)):
        raise ValueError(f"einsum({subscripts!r}): no ellipsis, and no index twice in one argument")
    if not arrow:  # NumPy's implicit form: the indices that occur once, in alphabetical order
        letters = "".join(terms)
        output = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return contract(*xs, subscripts=f"{inputs}->{output}")


@op(method=False)
def contract(*xs: Array, subscripts: str) -> Array:
    """The operation behind ``einsum``: ``subscripts`` in explicit form, each index at most once per argument."""
    return array_module(xs[0]).einsum(subscripts, *xs)


def _contract_rule(g: Any, _y: Any, *xs: Any, needs: Sequence[bool], subscripts: str) -> list[Any]:
    inputs, _, output = subscripts.partition("->")
    terms = inputs.split(",")
    return [_contract_grad(g, i, xs, terms, output) if need else None for i, need in enumerate(needs)]


def _contract_grad(g: Any, i: int, xs: Sequence[Any], terms: list[str], output: str) -> Any:
    """The gradient of argument i: the same product with ``g`` in its place; an index that only it has is repeated."""
    others = [x for j, x in enumerate(xs) if j != i]
    other_terms = [term for j, term in enumerate(terms) if j != i]
    known = [c for c in terms[i] if c in output or any(c in term for term in other_terms)]
    grad = contract(g, *others, subscripts=",".join([output, *other_terms]) + "->" + "".join(known))
    if len(known) < len(terms[i]):
        grad = reshape(grad, shape=tuple(n if c in known else 1 for c, n in zip(terms[i], xs[i].shape, strict=True)))
        grad = broadcast_to(grad, shape=xs[i].shape)
    return grad


contract.joint_derivative(_contract_rule)
contract.example(
    lambda draw: ((draw.array((2, 3)), draw.array((3, 4))), {"subscripts": draw.choice(["ij,jk->ik", "ij,jk->ki"])})
)
contract.example(
    lambda draw: ((draw.array((2, 3)), draw.array((2, 4)), draw.array((3,))), {"subscripts": "bi,bo,i->o"})
)
contract.example(lambda draw: ((draw.array((2, 3)),), {"subscripts": draw.choice(["ij->j", "ij->ji", "ij->"])}))
