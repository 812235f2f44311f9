"""Every name and keyword argument that minidl uses of an array module exists in CuPy.

Two lists are compared with CuPy: what stands in the source (``xp.pad(x, widths, constant_values=...)``), and what the
strict library saw while every operation, layer and optimizer ran on it, array methods included.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strict
from draw import Draw
from test_optim import KINDS

from minidl import Tensor, backend, nn, ops, optim
from minidl.nn.activation import LAYERS
from minidl.tensor import OPS

PACKAGE = Path(ops.__file__).parents[1]

needs_cupy = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None,
    reason="CuPy is not installed; it imports without a GPU: pip install cupy-cuda12x",
)


@pytest.fixture
def registered(monkeypatch):
    """The strict library is "gpu" here, whatever the other tests run on."""
    monkeypatch.setattr(backend, "_BY_TYPE", {np.ndarray: backend.NUMPY, strict.StrictArray: strict.LIBRARY})


# ------------------------------------------------------------------------------------------- what stands in the source


def in_source(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(dotted name, keywords) of every use of an array module in a source text."""
    tree = ast.parse(text)
    modules = {"xp"} | {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _is_module(node.value, set())
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        path = _path(node, modules)
        if path and id(node) not in inner:
            call = calls.get(id(node))
            yield path, tuple(sorted(k.arg for k in call.keywords if k.arg)) if call else ()


def _is_module(node: ast.AST, modules: set[str]) -> bool:
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "array_module"
    return is_call or (isinstance(node, ast.Name) and node.id in modules)


def _path(node: ast.AST, modules: set[str]) -> str:
    """``xp.random.default_rng`` -> "cupy.random.default_rng"; "" for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join(["cupy", *names[::-1]]) if names and _is_module(node, modules) else ""


def used_in_source() -> set[tuple[str, tuple[str, ...]]]:
    return {use for file in PACKAGE.rglob("*.py") for use in in_source(file.read_text(encoding="utf-8"))}


# ----------------------------------------------------------------------------------- what the strict library has seen


def used_while_running() -> set[tuple[str, tuple[str, ...]]]:
    """Every operation with its rule on its examples, then layers and optimizers."""
    before = set(strict.calls)
    strict.calls.clear()
    try:
        for operation in OPS.values():
            for seed, example in enumerate(operation.examples * 3):
                run_operation(operation, *example(Draw(np.random.default_rng(seed))))
        for layers in nets():
            train(layers)
        return set(strict.calls)
    finally:
        strict.calls.update(before)


def on_device(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(on_device(v) for v in value)
    return strict.from_host(value) if isinstance(value, np.ndarray) else value


def run_operation(operation: Any, args: tuple[Any, ...], static: dict[str, Any]) -> None:
    arrays = [on_device(a) for a in args]
    tensors = [Tensor(a, requires_grad=a.dtype.kind == "f") if hasattr(a, "dtype") else a for a in arrays]
    y = operation(*tensors, **{name: on_device(value) for name, value in static.items()})
    if y.requires_grad:
        y.backward(backend.array_module(y.data).ones_like(y.data))


def nets() -> Iterator[list[nn.Module]]:
    yield [nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3)]
    yield [
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"),
        nn.BatchNorm2d(4),
        nn.MaxPool2d(3, 2, 1),
        nn.Flatten(),
    ]
    yield [nn.ConvTranspose2d(1, 2, 2, stride=2), nn.AvgPool2d(2), nn.Scale(1.0, 0.0), nn.GlobalAvgPool2d()]
    yield [
        nn.Concat(nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 3, padding=1)),
        nn.WeightNorm(nn.Conv2d(4, 2, 3)),
        nn.Flatten(),
    ]
    for name in LAYERS:
        yield [nn.Conv2d(1, 2, 3), LAYERS[name](), nn.Flatten()]


def train(layers: list[nn.Module]) -> None:
    model = nn.Sequential(*layers).to("gpu")
    x = Tensor(np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype("float32")).to("gpu")
    y = Tensor(np.array([0, 1, 1, 0])).to("gpu")
    settings = {optim.SGD: {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}}
    for make in [functools.partial(kind, lr=0.1, **settings.get(kind, {})) for kind in KINDS]:
        optimizer = make(model.parameters())
        for _ in range(2):
            ops.cross_entropy(model(x), y).backward()
            optim.clip_grad_norm(model.parameters(), 1.0)
            optim.clip_grad_value(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
        optimizer.load_state_dict(optimizer.state_dict())
    model.load_state_dict(model.state_dict())
    model.eval()(x)


# ------------------------------------------------------------------------------------------------------ the comparison


def lacking(name: str, keywords: tuple[str, ...]) -> str:
    """What the strict library's list of CuPy's names lacks of a use, in words; empty if nothing."""
    owner, _, attribute = name.rpartition(".")
    outer, _, inner = owner.rpartition(".")
    if str(strict.NAMES.get(outer, {}).get(inner)).startswith("ufunc"):  # add.at is a method of every ufunc
        owner = "ufunc"
    kind = strict.NAMES.get(owner, {}).get(attribute)
    if kind is None:
        return f"CuPy has no {name}"
    known = known_keywords(owner, attribute, kind)
    return "" if known is None or set(keywords) <= known else f"CuPy's {name} lacks {sorted(set(keywords) - known)}"


def known_keywords(owner: str, attribute: str, kind: str) -> set[str] | None:
    from strict.names import UFUNC_KEYWORDS, signature

    if kind.startswith("ufunc"):
        return set(UFUNC_KEYWORDS)
    listed = signature(owner, attribute)
    return None if listed is None else {p.name for p in listed.parameters.values() if p.kind is not p.VAR_POSITIONAL}


def test_every_use_in_the_source_exists_in_cupy():
    used = used_in_source()
    assert len(used) > 30 and ("cupy.pad", ("constant_values",)) in used  # the search does find something
    assert not [fault for use in sorted(used) if (fault := lacking(*use))]


def test_every_call_seen_while_running_exists_in_cupy(registered):
    used = used_while_running()
    assert {"ndarray.sum", "cupy.einsum", "Generator.random", "ufunc.at"} <= {name for name, _ in used}
    assert not [fault for use in sorted(used) if (fault := lacking(*use))]


def test_every_function_named_in_the_source_is_modelled_by_the_strict_library():
    for name, _ in used_in_source():
        thing: Any = strict.xp
        for part in name.split(".")[1:]:
            thing = getattr(thing, part)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("xp = array_module(x)\nxp.scatter_add(a, i, b)", "CuPy has no cupy.scatter_add"),
        ("array_module(x).sum(x, where=m)", "CuPy's cupy.sum lacks ['where']"),
        ("lib = array_module(x)\nlib.exp(x, where=m)", "CuPy's cupy.exp lacks ['where']"),
        ("xp.random.default_rng(3).normal(2)", ""),  # a method of the result: seen by the strict library, not here
        ("xp.random.default_generator", "CuPy has no cupy.random.default_generator"),
        ("xp.sum(x, axis=0, keepdims=True)", ""),
    ],
)
def test_planted_a_name_or_keyword_that_cupy_lacks_is_found(source, fault):
    assert [f for use in in_source(source) if (f := lacking(*use))] == ([fault] if fault else [])


@needs_cupy
def test_the_list_of_names_is_that_of_the_installed_cupy():
    import cupy
    from strict.make_cupy_names import names

    if cupy.__version__.split(".")[:2] != strict.VERSION.split(".")[:2]:
        pytest.skip(f"CuPy {cupy.__version__} is installed, the list is of {strict.VERSION}")
    assert names() == strict.NAMES


@needs_cupy
def test_the_installed_cupy_has_every_name_and_keyword_in_use(registered):
    import cupy
    from strict.make_cupy_names import parameters

    owners = {"ndarray": cupy.ndarray, "Generator": cupy.random.Generator, "ufunc": cupy.ufunc}
    for name, keywords in sorted(used_in_source() | used_while_running()):
        first, *rest = name.split(".")
        thing: Any = owners.get(first, cupy)
        for part in rest:
            assert hasattr(thing, part), f"CuPy {cupy.__version__} has no {name}"
            thing = getattr(thing, part)
        if isinstance(thing, cupy.ufunc) or not callable(thing) or inspect.isclass(thing) or not keywords:
            continue
        text = parameters(thing, rest[-1]) or ""
        for keyword in keywords:
            named = f"{keyword}=" in text or f" {keyword}" in text or "**" in text
            assert named, f"CuPy {cupy.__version__}: {name}{text} has no {keyword}"
