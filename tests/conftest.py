"""What all tests share: tensors on the device under test, and ways back to the host.

``MINIDL_TEST_BACKEND`` chooses the array library: numpy (the default), strict (a stand-in for CuPy that needs no GPU,
see ``tests/strict``), or cupy. A test that by its nature stays on the host says so:
``@pytest.mark.host("file formats")``, or ``pytestmark = pytest.mark.host("...")`` for a whole file.
"""

from __future__ import annotations

import os
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


# ------------------------------------------------------------------- which tests ran on the strict library, which not


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note whether the test used arrays of the strict library, and else why it stays on the host."""
    before = strict.total.made
    try:
        return (yield)
    finally:
        if BACKEND == "strict":
            mark = item.get_closest_marker("host")
            why = mark.args[0] if mark else "made no array of the strict library, and says no reason"
            item.user_properties.append(("host", "" if strict.total.made > before else why))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The share of tests that ran on the strict library, by file, and the others with their reasons."""
    if BACKEND != "strict":
        return
    files: dict[str, list[str]] = {}
    for report in terminalreporter.getreports("passed"):
        if report.when == "call":
            files.setdefault(report.nodeid.partition("::")[0], []).append(dict(report.user_properties).get("host", ""))
    everything = [why for reasons in files.values() for why in reasons]
    on = everything.count("")
    terminalreporter.section(f"strict library, in place of CuPy {strict.VERSION}")
    for name, reasons in sorted(files.items()):
        terminalreporter.line(f"{name}: {reasons.count('')} of {len(reasons)} passed tests ran on it")
        for why in sorted(set(reasons) - {""}):
            terminalreporter.line(f"    {reasons.count(why)} on the host: {why}")
    share = f" ({100 * on / len(everything):.1f} %)" if everything else ""
    terminalreporter.line(f"in all: {on} of {len(everything)} passed tests ran on the strict library{share}")
