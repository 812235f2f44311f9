"""What all tests share: tensors on the device under test, and ways back to the host.

``MINIDL_TEST_BACKEND`` chooses the array library: numpy (the default), strict (a stand-in for CuPy that needs no GPU,
see ``tests/strict``), or cupy. A test that by its nature stays on the host says so:
``@pytest.mark.host("file formats")``, or ``pytestmark = pytest.mark.host("...")`` for a whole file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import strict

from minidl.backend import register, to_device, to_host
from minidl.tensor import Tensor

BACKEND = os.environ.get("MINIDL_TEST_BACKEND") or "numpy"
if BACKEND not in ("numpy", "strict", "cupy"):
    raise pytest.UsageError(f"MINIDL_TEST_BACKEND={BACKEND}: choose numpy, strict or cupy")
if BACKEND == "strict":
    register(strict.LIBRARY)
DEVICE = "cpu" if BACKEND == "numpy" else "gpu"


def tensor(array: Any, requires_grad: bool = False) -> Tensor:
    """A tensor on the device under test; a NumPy array keeps its dtype."""
    return Tensor(to_device(Tensor(array).data, DEVICE), requires_grad=requires_grad)


def fetch(x: Any) -> np.ndarray:
    """Tensor or array -> NumPy array on the host."""
    return to_host(x.data if isinstance(x, Tensor) else x)


def batch(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Tensor:
    """Inputs from N(0, 1) on the device under test."""
    return tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def weights(model: Any) -> dict[str, np.ndarray]:
    """Copies of all parameters by path."""
    return {path: fetch(p.data).copy() for path, p in model.named_parameters()}


def same(before: dict[str, np.ndarray], model: Any) -> bool:
    """Whether the parameters are those that ``weights`` copied, bit for bit."""
    return all(np.array_equal(before[path], fetch(p.data)) for path, p in model.named_parameters())


# ------------------------------------------------------------------- which tests ran on the strict library, which not

#: Whole files that stay on the host, whatever the library under test: (beginning of the name, reason).
HOST_FILES = [
    ("test_cli", "the command line"),
    ("test_cupy_names", "reads the source and the installed CuPy"),
    ("test_data", "data are read and checked on the host; the loader moves the batches"),
    ("test_doctor", "asks about this machine"),
    ("test_house", "reads source files"),
    ("test_init", "weights are drawn on the host, then copied: the same bits on every library"),
    ("test_meanfield", "pure functions of numbers"),
    ("test_oracle", "compares with PyTorch on the host"),
    ("test_strict", "tests the strict library itself"),
    ("test_text", "text for people"),
    ("test_wheel", "files of the wheel"),
]

#: Files that begin like those, and run on the library all the same.
DEVICE_FILES = {
    "test_data_loader.py",
    "test_init_apply.py",
    "test_init_data_driven.py",
    "test_init_learned.py",
    "test_init_residual.py",
}

#: What the share is asked of: kind of test -> beginnings of file names.
KINDS = {
    "operations": ("test_ops", "test_engine"),
    "layers": ("test_nn", "test_models"),
    "initializers": ("test_init", "test_same_bits"),
    "optimizers": ("test_optim",),
    "loader": ("test_data_loader",),
    "probe": ("test_probe",),
    "training": ("test_train", "test_compare", "test_claims"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "host(reason): stays on the host by its nature, see tests/conftest.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of the files that stay on the host; one that uses the device all the same still counts as such.

    On another library than NumPy, leave out those that say of themselves that they run in a process of their own: it
    knows nothing of that library, and they have run without it.
    """
    for item in items:
        if item.path.name in DEVICE_FILES:
            continue
        for beginning, reason in HOST_FILES:
            if item.path.name.startswith(beginning) and item.get_closest_marker("host") is None:
                item.add_marker(pytest.mark.host(reason))
    if BACKEND != "numpy":
        apart = {item for item in items if (mark := item.get_closest_marker("host")) and "process" in mark.args[0]}
        config.hook.pytest_deselected(items=list(apart))
        items[:] = [item for item in items if item not in apart]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Write down, for the summary, whether the test used the strict library, and if not why."""
    report = yield
    if BACKEND == "strict" and call.when == "call":
        mark = item.get_closest_marker("host")
        used = "" if item.stash.get(_MADE, 0) else (mark.args[0] if mark else "made no array, and gives no reason")
        report.user_properties.append(("strict", (mark is not None, used)))  # type: ignore[attr-defined]
    return report


_MADE = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Count the arrays of the strict library that a test makes."""
    before = strict.total.made
    try:
        return (yield)
    finally:
        item.stash[_MADE] = strict.total.made - before


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """After a strict run: the share of tests that ran and passed on the library, and the others with their reasons."""
    if BACKEND != "strict":
        return
    passed = [r for r in terminalreporter.getreports("passed") if r.when == "call"]
    failed = [r.nodeid for r in terminalreporter.getreports("failed") + terminalreporter.getreports("error")]
    skipped = [r.nodeid for r in terminalreporter.getreports("skipped")]
    notes = [(r.nodeid, *dict(r.user_properties)["strict"]) for r in passed]
    on = [name for name, marked, used in notes if not used and "test_strict" not in name]
    idle = [name for name, marked, used in notes if used and not marked]
    terminalreporter.section(f"strict library, in place of CuPy {strict.VERSION}")
    for file, n in _grouped(on, "::").items():
        terminalreporter.line(f"{file}: {n} tests ran on it and passed")
    for reason in sorted({used for _, marked, used in notes if marked and used}):
        files = _grouped([name for name, _, used in notes if used == reason], "::")
        terminalreporter.line(f"on the host, {reason}: " + ", ".join(f"{n} in {file}" for file, n in files.items()))
    for what, names in (("made no array of it", idle), ("FAILED on it", failed), ("skipped", skipped)):
        for test, n in _grouped(names, "[").items():
            terminalreporter.line(f"{what}: {test} ({n})")
    staying = [name for name, marked, used in notes if used and marked]
    for kind, files in KINDS.items():
        ran, asked, stay = (sum(_file(n).startswith(files) for n in part) for part in (on, on + idle + failed, staying))
        if asked or stay:
            terminalreporter.line(f"{kind}: {ran} of {asked} ran on it and passed; {stay} more stay on the host")
    counted = len(on) + len(idle) + len(failed)
    share = f" ({100 * len(on) / counted:.1f} %)" if counted else ""
    terminalreporter.line(
        f"{len(on)} of {counted} tests that do not stay on the host by nature ran on it and passed{share}"
    )


def _file(name: str) -> str:
    """The file's name in "tests/test_nn.py::test_one"."""
    return name.partition("::")[0].rpartition("/")[2]


def _grouped(names: list[str], separator: str) -> dict[str, int]:
    """How many names begin with what stands before ``separator``, in alphabetical order."""
    return dict(sorted(Counter(name.partition(separator)[0] for name in names).items()))
