"""The number of threads under NumPy: limited inside, put back outside."""

import subprocess
import sys

import pytest

from minidl import threads

pytestmark = pytest.mark.host("is about NumPy's matrix library")


def in_a_process_with(count, code):
    """OpenBLAS reads its environment once, so each case has a Python of its own."""
    import os

    environment = os.environ | {"OPENBLAS_NUM_THREADS": str(count), "OMP_NUM_THREADS": str(count)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()


needs_openblas = pytest.mark.skipif(threads.blas_threads() is None, reason="NumPy does not stand on OpenBLAS here")


@needs_openblas
def test_the_limit_holds_inside_and_is_gone_outside_also_after_an_error():
    code = """
from minidl.threads import blas_threads, limited
print(blas_threads())
with limited(1):
    print(blas_threads())
    with limited(2):
        print(blas_threads())
try:
    with limited(1):
        raise ValueError
except ValueError:
    print(blas_threads())
"""
    assert in_a_process_with(2, code) == ["2", "1", "1", "2"]


@needs_openblas
def test_a_comparison_leaves_the_number_of_threads_as_it_found_it():
    code = """
from minidl import experiment
from minidl.threads import blas_threads
experiment.compare(["zeros"], ["tanh"], depth=1, width=4, epochs=1, quiet=True)
print(blas_threads())
"""
    assert in_a_process_with(2, code) == ["2"]


def test_without_openblas_nothing_happens(monkeypatch):
    monkeypatch.setattr(threads, "_openblas", lambda: None)
    with threads.limited(1):
        assert threads.blas_threads() is None
